"""200 random direction LPs, every backend: one answer, certified, and the closed form where it holds."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from backends import PDLP, DualNewton, HiGHS, InteriorPoint, Pyomo
from lift_core import (
    LinearProgram,
    LowRankPlusDiagonal,
    LPBackend,
    LPStatus,
    assemble_direction_lp,
    closed_form,
    solve_lp,
)

NUM_LPS = 200
SPECTRA = ("positive", "indefinite", "singular", "ill-conditioned", "factored")
EXACT = 1e-6
BACKENDS: list[tuple[LPBackend, float]] = [
    (HiGHS(method="simplex", rtol=1e-7), EXACT),
    (HiGHS(method="ipm", rtol=1e-7), EXACT),
    (Pyomo(rtol=1e-7), EXACT),
    (InteriorPoint(rtol=1e-8), EXACT),
    (DualNewton(rtol=1e-8), EXACT),
    (PDLP(rtol=1e-4), 1e-4),
]


@dataclass(frozen=True)
class Case:
    """A direction LP with the closed form of its answer, where there is one."""

    name: str
    lp: LinearProgram
    value: float | None
    adjoint: Tensor | None


def spectrum(kind: str, n: int, generator: torch.Generator) -> Tensor:
    values = 0.5 + 4.5 * torch.rand(n, generator=generator, dtype=torch.float64)
    if kind == "indefinite":
        values[::2] *= -1
    elif kind == "singular":
        values[: n // 3 + 1] = 0.0
    elif kind == "ill-conditioned":
        values = torch.logspace(-8, 0, n, dtype=torch.float64) * torch.where(torch.arange(n) % 4 == 0, -1.0, 1.0)
    return values


def make_case(index: int) -> Case:
    generator = torch.Generator().manual_seed(index)
    kind = SPECTRA[index % len(SPECTRA)]
    n = 200 if index % 20 == 19 else int(torch.randint(1, 80, (), generator=generator))
    p = int(torch.randint(0, 21, (), generator=generator))
    delta = (0.0, 1e-4, 0.05, 1.0)[index // len(SPECTRA) % 4]
    wide = index // 20 % 2 == 0  # a box too wide to bind: the closed form holds where H is well conditioned
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    values = spectrum(kind, n, generator)
    hessian = q @ torch.diag(values) @ q.T
    data = {
        "grad_hyper": torch.randn(p, generator=generator, dtype=torch.float64),
        "grad_weights": torch.randn(n, generator=generator, dtype=torch.float64),
        "mixed": torch.randn(n, p, generator=generator, dtype=torch.float64),
    }
    operator: object = (hessian + hessian.T) / 2
    if kind == "factored":
        k = max(1, n // 5)
        core = values[:k] * torch.where(torch.arange(k) % 2 == 0, 1.0, -1.0)
        operator = LowRankPlusDiagonal(diagonal=torch.full((n,), 0.3), factor=q[:, :k], core=core)
        hessian = operator.to_dense()
    radius = 1e3 if wide else 1.0
    lp = assemble_direction_lp(**data, hessian=operator, delta=delta, weights_radius=radius)
    name = f"{index}: {kind}, n={n}, p={p}, delta={delta}, radius={radius:g}"
    if not wide or kind in ("singular", "ill-conditioned"):
        return Case(name, lp, None, None)
    exact = closed_form(**data, hessian=hessian, delta=delta)
    tangent = torch.linalg.solve(hessian, data["mixed"] @ exact.d_hyper)
    bound = float(tangent.abs().max()) + delta * float(torch.linalg.inv(hessian).abs().sum(1).max())
    return Case(name, lp, exact.value, exact.adjoint) if bound < radius else Case(name, lp, None, None)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_all_backends_agree(part: int) -> None:
    for index in range(part, NUM_LPS, 10):
        case = make_case(index)
        reference = case.value
        for backend, tolerance in BACKENDS:
            solution = solve_lp(case.lp, backend)
            where = f"{case.name}, {backend}"
            assert solution.status is LPStatus.OPTIMAL, f"{where}: {solution.status}, {solution.kkt}"
            assert solution.kkt.worst <= backend.rtol, where
            reference = solution.objective if reference is None else reference
            error = abs(solution.objective - reference) / (1 + abs(reference))
            assert error <= tolerance, f"{where}: {solution.objective} for {reference}"
            assert solution.bound <= reference + tolerance * (1 + abs(reference)), where
            if case.adjoint is not None and tolerance == EXACT:
                gap = float((solution.y - case.adjoint).abs().max() / (1 + case.adjoint.abs().max()))
                assert gap <= 1e-4, f"{where}: the row duals are not the adjoint ({gap:.1e})"


def test_the_closed_form_holds_for_enough_cases_to_mean_something() -> None:
    held = [make_case(index).adjoint is not None for index in range(NUM_LPS)]
    assert sum(held) >= 25
