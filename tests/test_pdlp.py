"""PDLP: both first-order methods against known optima, certificates, starts and limits."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from backends import HiGHS
from backends.mps import read_mps
from backends.pdlp import PDLP, halpern
from lift_core.lp import LinearProgram, LPStart, LPStatus, solve_lp
from lift_core.operators import (
    Dense,
    Diagonal,
    DirectionMatrix,
    LinearOperator,
    LowRankPlusDiagonal,
    MatrixFree,
)
from lift_core.testing import KnownLP, check_backend, known_lp
from lift_core.testing.strategies import closed_form_direction_lps, direction_lps, known_lps
from tests.explicit_lp_cases import CASES, INFEASIBLE, UNBOUNDED

NETLIB = Path(__file__).parent / "data" / "netlib"
ALGORITHMS = ("halpern", "douglas_rachford")
HESSIANS = ("indefinite", "singular", "ill-conditioned", "low rank", "diagonal")


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def product_only(operator: LinearOperator) -> MatrixFree:
    return MatrixFree(operator.shape, operator.matvec, operator.rmatvec)


def with_matrix(lp: LinearProgram, matrix: LinearOperator) -> LinearProgram:
    bounds = (lp.row_lower, lp.row_upper, lp.col_lower, lp.col_upper)
    names = ("row_lower", "row_upper", "col_lower", "col_upper")
    return LinearProgram(c=lp.c, A=matrix, offset=lp.offset, **dict(zip(names, bounds, strict=True)))


def with_slack(lp: LinearProgram, factor: float, *, cost: Tensor | None = None) -> LinearProgram:
    rows = {"row_lower": factor * lp.row_lower, "row_upper": factor * lp.row_upper}
    return LinearProgram(
        c=lp.c if cost is None else cost, A=lp.A, col_lower=lp.col_lower, col_upper=lp.col_upper, **rows
    )


def make_hessian(kind: str, n: int, seed: int) -> LinearOperator:
    values = randn(n, seed=seed)
    if kind == "diagonal":
        return Diagonal(values)
    basis = torch.linalg.qr(randn(n, n, seed=seed + 1))[0]
    if kind == "low rank":
        k = max(1, n // 4)
        core = torch.cat([3 * values[1:k], torch.zeros(1)])  # one strength is zero, some are negative
        return LowRankPlusDiagonal(diagonal=0.01 + values.abs(), factor=basis[:, :k], core=core)
    if kind == "singular":
        values[: n // 3 + 1] = 0
    if kind == "ill-conditioned":
        values = torch.logspace(-8, 0, n, dtype=torch.float64) * values.sign()
    return Dense((basis * values) @ basis.T)


def direction_program(
    kind: str, *, n: int, p: int, rho: float, seed: int, num_rows: int | None = None
) -> LinearProgram:
    hessian, gradient = make_hessian(kind, n, seed), randn(n, seed=seed + 2)
    rows = None if num_rows is None else torch.arange(n)[:num_rows]
    delta = rho * float(hessian.matvec(gradient.sign()).abs().max())
    return LinearProgram(
        c=torch.cat([randn(p, seed=seed + 3) * (seed % 2), gradient]),
        A=DirectionMatrix(Dense(randn(n, p, seed=seed + 4)), hessian, rows),
        row_lower=-delta,
        row_upper=delta,
        col_lower=-1.0,
        col_upper=1.0,
    )


def assert_reaches(lp: LinearProgram, backend: PDLP, objective: float, tolerance: float) -> None:
    solution = solve_lp(lp, backend)
    assert solution.status is LPStatus.OPTIMAL, f"{solution.status}: {solution.kkt}"
    assert abs(solution.objective - objective) <= tolerance, f"{solution.objective} for {objective}"


# -- known answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_contract(algorithm: str) -> None:
    check_backend(PDLP(algorithm=algorithm))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_bound(name: str, algorithm: str) -> None:
    case = CASES[name]
    assert_reaches(case.lp, PDLP(algorithm=algorithm, rtol=1e-7), case.objective, 1e-5)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(known=known_lps())
def test_programs_built_from_their_optimum(known: KnownLP, algorithm: str) -> None:
    backend = PDLP(algorithm=algorithm, rtol=1e-5)
    assert_reaches(known.lp, backend, known.objective, known.objective_tolerance(backend.rtol))


@given(known=direction_lps(), rtol=st.sampled_from([1e-4, 1e-6]))
def test_direction_programs_built_from_their_optimum(known: KnownLP, rtol: float) -> None:
    assert_reaches(known.lp, PDLP(rtol=rtol), known.objective, rtol * (1 + abs(known.objective)))


@given(known=closed_form_direction_lps())
def test_row_duals_approach_the_adjoint(known: KnownLP) -> None:
    solution = solve_lp(known.lp, PDLP(rtol=1e-4))
    assert solution.status.ok
    assert solution.bound <= known.objective + 1e-9 * (1 + abs(known.objective))
    assert abs(solution.bound - known.objective) <= 2e-4 * (1 + abs(known.objective))


@pytest.mark.parametrize("rho", [0.0, 1e-4, 1e-2, 0.3])
@pytest.mark.parametrize("kind", HESSIANS)
def test_direction_programs_agree_with_the_simplex_method(kind: str, rho: float) -> None:
    for seed, (n, p) in enumerate([(1, 0), (7, 2), (30, 20), (60, 5)]):
        lp = direction_program(kind, n=n, p=p, rho=rho, seed=10 * seed)
        reference = solve_lp(lp, HiGHS(method="simplex", rtol=1e-7)).objective
        assert_reaches(lp, PDLP(), reference, 1e-4 * (1 + abs(reference)))


@pytest.mark.parametrize("kind", ["low rank", "diagonal", "indefinite"])
def test_row_subsets(kind: str) -> None:
    lp = direction_program(kind, n=40, p=6, rho=0.01, seed=3, num_rows=11)
    reference = solve_lp(lp, HiGHS(method="simplex", rtol=1e-7)).objective
    assert_reaches(lp, PDLP(), reference, 1e-4 * (1 + abs(reference)))


def test_a_matrix_free_hessian_is_read_out_up_to_the_limit() -> None:
    lp = direction_program("indefinite", n=20, p=3, rho=0.1, seed=5)
    assert isinstance(lp.A, DirectionMatrix)
    free = with_matrix(lp, DirectionMatrix(lp.A.mixed, product_only(lp.A.hessian)))
    first, second = solve_lp(lp, PDLP()), solve_lp(free, PDLP())
    assert second.status.ok
    assert second.objective == pytest.approx(first.objective, rel=1e-6)
    limited = solve_lp(free, PDLP(algorithm="halpern", max_iterations=80))
    assert limited.iterations == 80  # far from done


@pytest.mark.parametrize("num_rows", [None, 30])
@pytest.mark.parametrize("kind", HESSIANS)
def test_products_with_a_hessian_are_enough_for_a_projection(kind: str, num_rows: int | None) -> None:
    lp = direction_program(kind, n=48, p=3, rho=0.1, seed=5, num_rows=num_rows)
    assert isinstance(lp.A, DirectionMatrix)
    free = with_matrix(lp, DirectionMatrix(lp.A.mixed, product_only(lp.A.hessian), lp.A.rows))
    reference = solve_lp(lp, HiGHS(method="simplex", rtol=1e-7)).objective
    assert_reaches(free, PDLP(rtol=1e-3, densify_limit=0, max_iterations=600), reference, 1e-3 * (1 + abs(reference)))


def test_products_alone_agree_with_entries() -> None:
    known = known_lp(randn(12, 16), ["at lower", "inside", "fixed"] * 4, ["inside", "at upper"] * 8, seed=2)
    backend = PDLP(rtol=1e-4)
    solutions = [solve_lp(with_matrix(known.lp, A), backend) for A in (known.lp.A, product_only(known.lp.A))]
    for solution in solutions:
        assert solution.status.ok
        assert solution.objective == pytest.approx(known.objective, abs=known.objective_tolerance(backend.rtol))


# -- certificates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", INFEASIBLE)
def test_infeasible_programs_are_certified(name: str, algorithm: str) -> None:
    solution = solve_lp(INFEASIBLE[name], PDLP(algorithm=algorithm))
    assert (solution.status, solution.certified) == (LPStatus.INFEASIBLE, True)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", UNBOUNDED)
def test_unbounded_programs_are_certified(name: str, algorithm: str) -> None:
    solution = solve_lp(UNBOUNDED[name], PDLP(algorithm=algorithm))
    assert (solution.status, solution.certified) == (LPStatus.UNBOUNDED, True)


def test_no_columns_or_rows() -> None:
    assert solve_lp(LinearProgram(c=[], A=torch.zeros(2, 0), row_lower=-1.0), PDLP()).status.ok
    impossible = LinearProgram(c=[], A=torch.zeros(2, 0), row_lower=[-1.0, 1.0])
    assert solve_lp(impossible, PDLP()).status is LPStatus.INFEASIBLE
    unbounded = LinearProgram(c=[1.0], A=torch.zeros(0, 1))
    assert solve_lp(unbounded, PDLP()).status is LPStatus.UNBOUNDED


# -- starts and limits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_warm_start_helps(algorithm: str) -> None:
    lp = known_lp(randn(30, 40), ["at lower", "inside", "fixed"] * 10, ["inside", "at upper"] * 20, seed=4).lp
    if algorithm == "douglas_rachford":
        lp = direction_program("low rank", n=40, p=4, rho=0.01, seed=9)
    cold = solve_lp(lp, PDLP(algorithm=algorithm, rtol=1e-6))
    warm = solve_lp(lp, PDLP(algorithm=algorithm, rtol=1e-6), start=LPStart(cold.x, cold.y))
    assert cold.status.ok
    assert warm.status.ok
    assert warm.iterations <= cold.iterations / 2


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_start_that_is_not_finite_is_ignored(algorithm: str) -> None:
    lp = direction_program("diagonal", n=6, p=1, rho=0.1, seed=0)
    start = LPStart(torch.full((7,), math.nan).double(), torch.zeros(6).double())
    assert solve_lp(lp, PDLP(algorithm=algorithm), start=start).status.ok


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("max_iterations", [1, 2, 41])
def test_the_iteration_limit_is_kept_and_named(algorithm: str, max_iterations: int) -> None:
    lp = direction_program("indefinite", n=50, p=4, rho=0.01, seed=2)
    solution = solve_lp(lp, PDLP(algorithm=algorithm, rtol=1e-8, max_iterations=max_iterations))
    assert (solution.status, solution.iterations) == (LPStatus.ITERATION_LIMIT, max_iterations)
    assert torch.isfinite(solution.x).all()
    assert torch.isfinite(solution.y).all()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_time_limit_is_named(algorithm: str) -> None:
    lp = direction_program("indefinite", n=50, p=4, rho=0.01, seed=2)
    solution = solve_lp(lp, PDLP(algorithm=algorithm, rtol=1e-12, time_limit=1e-4))
    assert solution.status is LPStatus.TIME_LIMIT
    assert torch.isfinite(solution.x).all()


def test_an_interrupt_passes_through() -> None:
    calls = 0

    def matvec(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > 300:
            raise KeyboardInterrupt
        return 2 * x

    lp = LinearProgram(c=[1.0, -1.0], A=MatrixFree(2, matvec), row_lower=-1.0, row_upper=1.0)
    with pytest.raises(KeyboardInterrupt):
        PDLP(rtol=1e-15).solve(lp)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "simplex"}, "algorithm: expected 'auto', 'halpern' or 'douglas_rachford', got 'simplex'"),
        ({"max_iterations": 0}, "max_iterations: expected an integer of at least 1, got 0"),
        ({"check_interval": 0}, "check_interval: expected an integer of at least 1, got 0"),
        ({"densify_limit": -1}, "densify_limit: expected an integer of at least 0, got -1"),
        ({"rtol": 0.0}, "rtol: expected a number in (0, 1), got 0.0"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        PDLP(**options)


def test_bad_starts_devices_and_sizes() -> None:
    lp = LinearProgram(c=[1.0], A=product_only(Dense([[1.0]])), row_lower=0.0)
    with pytest.raises(ValueError, match=r"start: expected shapes \(1,\) and \(1,\), got \(2,\) and \(1,\)"):
        PDLP().solve(lp, LPStart(torch.zeros(2), torch.zeros(1)))
    with pytest.raises(ValueError, match="device: MatrixFree computes on cpu and cannot be moved to meta"):
        PDLP(device="meta").solve(lp)
    large = LinearProgram(c=0.0, A=MatrixFree(20_000, lambda x: x))
    with pytest.raises(ValueError, match="'douglas_rachford' needs to factor A"):
        PDLP(algorithm="douglas_rachford").solve(large)


@pytest.mark.gpu
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_on_a_gpu(algorithm: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    known = known_lp(randn(30, 40), ["at lower", "inside", "fixed"] * 10, ["inside", "at upper"] * 20, seed=4)
    for lp, objective in [
        (known.lp, known.objective),
        (direction_program("low rank", n=40, p=4, rho=0.1, seed=9), None),
    ]:
        moved = solve_lp(lp, PDLP(algorithm=algorithm, device="cuda", max_iterations=20_000))
        if objective is not None:
            assert moved.status.ok
            assert moved.objective == pytest.approx(objective, rel=1e-3)
        assert moved.x.device == lp.A.device


@pytest.mark.parametrize("name", ["afiro", "blend", "sc50a"])
def test_answers_to_loose_tolerances_are_polished(name: str) -> None:
    lp = read_mps(NETLIB / f"{name}.mps")
    plain, polished = (solve_lp(lp, PDLP(rtol=1e-4, polish=polish)) for polish in (False, True))
    assert plain.status is LPStatus.OPTIMAL and polished.status is LPStatus.OPTIMAL
    assert plain.kkt.worst > 1e-6 > polished.kkt.worst


def test_answers_to_loose_tolerances_wait_for_their_polish(monkeypatch: pytest.MonkeyPatch) -> None:
    lp = read_mps(NETLIB / "blend.mps")
    monkeypatch.setattr(halpern, "FIRST_POLISH", 1_000)
    early, waited = (solve_lp(lp, PDLP(rtol=1e-4, polish=polish)) for polish in (False, True))
    assert early.iterations < 1_000 < waited.iterations and waited.kkt.worst < 1e-6
