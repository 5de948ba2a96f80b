"""Krylov methods beside dense eigenvalues and solves."""

import pytest
import torch
from torch import Tensor

from lift_core import Dense
from lift_core.krylov import block_lanczos, complement_probes, conjugate_gradient


def symmetric(n: int, seed: int, *, low: float = -1.0, high: float = 10.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    return q @ torch.diag(torch.linspace(low, high, n, dtype=torch.float64)) @ q.T


@pytest.mark.parametrize("block", [1, 4, 7])
def test_lanczos_pairs_match_eigh_and_survive_a_closed_krylov_space(block: int) -> None:
    matrix = symmetric(30, seed=0)
    wanted = torch.linalg.eigvalsh(matrix)
    eigenvector = torch.linalg.eigh(matrix).eigenvectors[:, 3]
    for start in (torch.ones(30).double(), eigenvector, torch.zeros(30).double()):
        space = block_lanczos(Dense(matrix), start, 30, torch.Generator().manual_seed(0), block=block)
        torch.testing.assert_close(space.values, wanted, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(space.vectors.T @ space.vectors, torch.eye(30).double(), rtol=0, atol=1e-10)
        assert float(space.residuals.max()) < 1e-8


@pytest.mark.parametrize("block", [1, 3])
def test_ritz_residuals_are_those_of_the_pairs(block: int) -> None:
    matrix = symmetric(60, seed=4)
    space = block_lanczos(Dense(matrix), torch.ones(60).double(), 13, torch.Generator().manual_seed(0), block=block)
    assert space.vectors.shape == (60, 13)
    residuals = (matrix @ space.vectors - space.vectors * space.values).norm(dim=0)
    torch.testing.assert_close(space.residuals, residuals, rtol=1e-8, atol=1e-10)
    assert float(space.residuals.max()) > 1e-3


def test_complement_probes_estimate_the_mean_of_the_unseen_eigenvalues() -> None:
    matrix = symmetric(200, seed=1, low=1.0, high=2.0)
    values, vectors = torch.linalg.eigh(matrix)
    generator = torch.Generator().manual_seed(0)
    probes = [torch.randn(200, generator=generator, dtype=torch.float64) for _ in range(50)]
    signs, products = complement_probes(Dense(matrix), vectors[:, 150:], probes)
    torch.testing.assert_close(vectors[:, 150:].T @ signs, torch.zeros(50, 50).double(), rtol=0, atol=1e-12)
    assert float((signs * products).sum() / signs.square().sum()) == pytest.approx(float(values[:150].mean()), rel=0.02)
    assert not any(part.any() for part in complement_probes(Dense(matrix), vectors, probes))


def test_conjugate_gradient_solves_and_stops_at_negative_curvature() -> None:
    matrix = symmetric(40, seed=2, low=0.5)
    right = torch.randn(40, generator=torch.Generator().manual_seed(0)).double()
    solution, steps = conjugate_gradient(Dense(matrix), right, 80)
    torch.testing.assert_close(matrix @ solution, right, rtol=1e-6, atol=1e-6)
    assert steps <= 80
    solution, steps = conjugate_gradient(Dense(-matrix), right, 80)
    assert steps == 1
    assert torch.equal(solution, right)
