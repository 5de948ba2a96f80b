"""The Fisher model beside Gauss-Newton, and how it draws and weighs its samples."""

import pytest
import torch
from torch import Tensor

from lift_core import Fisher, GaussNewton, Point, build_curvature
from problems import Network
from tests.curvature_cases import start_of, trained


def test_fisher_tends_to_gauss_newton_and_keeps_its_trace() -> None:
    problem = Network(num_train=400)
    point = trained(problem)
    start = start_of(problem, point)
    wanted = build_curvature(GaussNewton(), problem, point, start=start).hessian.to_dense()
    errors = [float((fisher_mean(problem, point, start, draws) - wanted).norm() / wanted.norm()) for draws in (1, 16)]
    assert errors[1] < 0.5 * errors[0] and errors[1] < 0.2
    whole, cut = (
        build_curvature(Fisher(rank=rank), problem, point, start=start).hessian.to_dense() for rank in (400, 20)
    )
    assert float(torch.trace(cut)) == pytest.approx(float(torch.trace(whole)), rel=1e-6)
    top = torch.linalg.eigvalsh(whole)[-20:]
    torch.testing.assert_close(torch.linalg.eigvalsh(cut)[-20:], top, rtol=1e-2, atol=1e-2)


def fisher_mean(problem: Network, point: Point, start: Tensor, draws: int) -> Tensor:
    built = [build_curvature(Fisher(rank=400), problem, point, start=start, seed=seed) for seed in range(draws)]
    return sum(one.hessian.to_dense() for one in built) / draws


def test_fisher_draws_labels_again_where_examples_are_few() -> None:
    problem = Network(num_train=20)
    point = trained(problem)
    start = start_of(problem, point)
    wanted = build_curvature(GaussNewton(), problem, point, start=start).hessian.to_dense()
    errors = [
        float(torch.linalg.matrix_norm(fisher(problem, point, start, samples).to_dense() - wanted))
        for samples in (20, 2_000)
    ]
    assert errors[1] < 0.2 * errors[0]  # a hundred rounds: a tenth of the noise


def test_fisher_weighs_examples_alike_where_the_last_round_ends_early() -> None:
    class Certain(Network):
        def sampled(self, point: Point, batch, generator):
            return batch

    problem = Certain(num_train=20)
    point = trained(problem)
    start = start_of(problem, point)
    once, more = (fisher(problem, point, start, samples).to_dense() for samples in (20, 50))
    torch.testing.assert_close(more, once, rtol=1e-8, atol=1e-10)


def fisher(problem: Network, point: Point, start: Tensor, samples: int):
    return build_curvature(Fisher(samples=samples, rank=610), problem, point, start=start).hessian


def test_fisher_uses_the_examples_it_was_given() -> None:
    problem = Network(num_train=50)
    point = trained(problem)
    batch = problem.sampled(point, problem.batches("train")[0], torch.Generator().manual_seed(0))
    rows, sizes = problem.example_gradients(point, batch, limit=7)
    assert rows.shape == (7, 610) and sizes == [1] * 7
    single = problem.training_gradient(point, [tuple(part[3:4] for part in batch)])
    torch.testing.assert_close(rows[3], single, rtol=1e-10, atol=1e-12)
