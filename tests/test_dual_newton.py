"""Proximal Newton on the dual: the exact subproblem, what it reads from A, its answers, and when it hands over."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backends import PDLP, DualNewton, HiGHS, InteriorPoint
from backends.dual_newton.feature_sign import NoMinimumError, feature_sign_search
from backends.dual_newton.iteration import DualNewtonIteration
from backends.dual_newton.rows import FactoredRows
from backends.memory import dual_newton_bytes
from lift_core import LinearProgram, LPBackend, LPStart, LPStatus, solve_lp
from lift_core.lp import BackendAnswer
from lift_core.operators import Diagonal, DirectionMatrix, GroupColumns, LowRankPlusDiagonal
from lift_core.testing.families import factored_direction_lp, trained_direction_lp

INF = float("inf")


def by_itself(lp: LinearProgram, *, rtol: float = 1e-8, start: LPStart | None = None) -> BackendAnswer | None:
    """Without another solver to hand over to."""
    iteration = DualNewtonIteration(lp, max_rows=1_000)
    return iteration.solve(start, rtol=rtol, max_iterations=200, deadline=time.monotonic() + 60)


def with_rows(lp: LinearProgram, lower: torch.Tensor, upper: torch.Tensor) -> LinearProgram:
    return LinearProgram(
        c=lp.c, A=lp.A, row_lower=lower, row_upper=upper, col_lower=lp.col_lower, col_upper=lp.col_upper
    )


@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 8))
def test_feature_sign_search_meets_the_optimality_conditions(seed: int, size: int, rank: int) -> None:
    draw = np.random.default_rng(seed)
    factor = draw.normal(size=(size, rank)) * np.exp(draw.normal(size=(size, 1)))
    M = factor @ factor.T + 1e-3 * np.eye(size)  # noqa: N806
    slope, start = 3 * draw.normal(size=size), draw.normal(size=size) * (draw.random(size) < 0.3)
    upper = draw.random(size) * (draw.random(size) < 0.9)
    lower = np.where(draw.random(size) < 0.2, -INF, upper - 0.1 - draw.random(size))
    start = np.where(np.isinf(lower), np.minimum(start, 0.0), start)
    y = feature_sign_search(M, slope, lower, upper, start, most=size)
    reached = slope + M @ (y - start)
    assert (reached >= lower - 1e-7).all() and (reached <= upper + 1e-7).all()
    assert np.abs(reached - lower)[y > 0].max(initial=0) < 1e-7
    assert np.abs(reached - upper)[y < 0].max(initial=0) < 1e-7


def test_feature_sign_search_says_when_there_is_no_minimum() -> None:
    outside, one = np.array([2.0]), np.ones(1)
    with pytest.raises(NoMinimumError, match="curvature"):
        feature_sign_search(np.zeros((1, 1)), outside, -one, one, np.zeros(1), most=1)
    with pytest.raises(NoMinimumError, match="entries"):
        feature_sign_search(np.eye(2), np.array([2.0, 2.0]), -np.ones(2), np.ones(2), np.zeros(2), most=1)


@pytest.mark.parametrize("kept", [None, [0, 3, 4, 11, 17]], ids=["all rows", "some rows"])
@pytest.mark.parametrize("factored", [True, False], ids=["low rank", "diagonal"])
def test_rows_are_those_of_the_dense_matrix(kept: list[int] | None, *, factored: bool) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    n, p = 20, 3
    hessian = LowRankPlusDiagonal(diagonal=draw(n), factor=draw(n, 4), core=draw(4)) if factored else Diagonal(draw(n))
    mixed = GroupColumns(draw(n), torch.arange(n) % p, num_groups=p)
    A = DirectionMatrix(mixed, hessian, None if kept is None else torch.tensor(kept))  # noqa: N806
    dense, radius = A.to_dense(), draw(p + n).abs()
    access, rows, x, y = FactoredRows(A, radius), torch.tensor([0, 2, 4]), draw(p + n), draw(3)
    torch.testing.assert_close(access.activity(x), dense @ x)
    torch.testing.assert_close(access.pull(rows, y), dense[rows].T @ y)
    torch.testing.assert_close(access.squares(rows), (dense[rows] * radius).square().sum(1))
    scores = draw(p + n)
    for level in (-2.0, 0.0, 0.1, 0.2, 1.0, 0.8, -1.0, 9.0):  # windows that differ by little, by much, and are empty
        window = scores > level
        block = (dense[rows] * radius)[:, window]
        torch.testing.assert_close(access.gram(rows, window, 0.3), block @ block.T / 0.3)
    own = (hessian.diagonal.abs() * radius[p:])[A.rows if A.rows is not None else slice(None)]
    torch.testing.assert_close(access.own_reach(), own)


@pytest.mark.parametrize("slack", [1.0, 0.3, 0.03])
@pytest.mark.parametrize("seed", range(3))
def test_it_finds_the_optimum_by_itself(slack: float, seed: int) -> None:
    lp = trained_direction_lp(3_000, rank=8, num_hyper=5, slack=slack, seed=seed)
    answer, reference = by_itself(lp), solve_lp(lp, InteriorPoint(rtol=1e-9))
    assert answer is not None and answer.status is LPStatus.OPTIMAL and answer.x is not None
    assert float(lp.c @ answer.x) == pytest.approx(reference.objective, rel=1e-7, abs=1e-7)


def test_highs_agrees() -> None:
    lp = trained_direction_lp(400, rank=4, num_hyper=3, slack=0.1)
    ours, theirs = by_itself(lp), solve_lp(lp, HiGHS(method="simplex"))
    assert ours is not None and ours.x is not None
    assert float(lp.c @ ours.x) == pytest.approx(theirs.objective, rel=1e-6)


@pytest.mark.parametrize("kind", ["one-sided", "shifted", "some rows"])
def test_rows_need_not_be_symmetric(kind: str) -> None:
    lp = trained_direction_lp(1_000, rank=4, num_hyper=3, slack=0.1)
    delta = lp.row_upper
    if kind == "some rows":
        assert isinstance(lp.A, DirectionMatrix)
        A = DirectionMatrix(lp.A.mixed, lp.A.hessian, torch.arange(0, 1_000, 3))  # noqa: N806
        lp = LinearProgram(
            c=lp.c, A=A, row_lower=-delta[::3], row_upper=delta[::3], col_lower=lp.col_lower, col_upper=lp.col_upper
        )
    else:
        lp = with_rows(lp, -delta * INF, delta) if kind == "one-sided" else with_rows(lp, -0.5 * delta, 1.5 * delta)
    answer, reference = by_itself(lp, rtol=1e-6), solve_lp(lp, InteriorPoint(rtol=1e-9))
    assert answer is not None and answer.x is not None
    assert float(lp.c @ answer.x) == pytest.approx(reference.objective, abs=3e-6)


def test_its_own_answer_is_a_start_that_needs_one_iteration_at_most() -> None:
    lp = trained_direction_lp(3_000, rank=8, num_hyper=5, slack=0.1)
    first = by_itself(lp)
    assert first is not None and first.x is not None and first.y is not None and first.iterations > 0
    again = by_itself(lp, start=LPStart(first.x, first.y))
    assert again is not None and again.iterations <= 1


def test_an_interior_start_is_thinned_out() -> None:
    lp = trained_direction_lp(3_000, rank=8, num_hyper=5, slack=0.1)
    inside = solve_lp(lp, InteriorPoint(rtol=1e-5))
    assert inside.x is not None and inside.y is not None and bool((inside.y != 0).all())
    answer = by_itself(lp, start=LPStart(inside.x, inside.y))
    assert answer is not None and answer.x is not None and answer.y is not None
    assert int((answer.y != 0).sum()) < 100
    assert float(lp.c @ answer.x) == pytest.approx(inside.objective, rel=1e-4)


def test_programs_that_are_not_for_it_are_handed_over() -> None:
    many = factored_direction_lp(2_000, rank=4, num_hyper=3)
    assert by_itself(many) is None
    free = trained_direction_lp(500, rank=4, num_hyper=3, slack=0.1)
    free = LinearProgram(
        c=free.c, A=free.A, row_lower=free.row_lower, row_upper=free.row_upper, col_upper=free.col_upper
    )
    for lp in (many, free):
        ours, theirs = solve_lp(lp, DualNewton(rtol=1e-8)), solve_lp(lp, InteriorPoint(rtol=1e-8))
        assert ours.status is theirs.status
        if ours.status is LPStatus.OPTIMAL:
            assert ours.objective == pytest.approx(theirs.objective, rel=1e-6)


def test_contradicting_rows_are_never_optimal() -> None:
    lp = trained_direction_lp(500, rank=4, num_hyper=3, slack=0.1)
    lower, upper = lp.row_lower.clone(), lp.row_upper.clone()
    lower[7], upper[7] = 1e3, 2e3
    assert solve_lp(with_rows(lp, lower, upper), DualNewton(time_limit=20)).status is not LPStatus.OPTIMAL


@pytest.mark.parametrize("backend", [DualNewton(), InteriorPoint(rtol=1e-6)], ids=lambda backend: backend.name)
def test_starts_that_are_no_points_are_left_out_or_refused(backend: LPBackend) -> None:
    lp = trained_direction_lp(60, rank=4, num_hyper=3, slack=0.1)
    x, y = torch.zeros(63).double(), torch.full((60,), INF).double()
    assert solve_lp(lp, backend, start=LPStart(x, y)).status is LPStatus.OPTIMAL
    with pytest.raises(ValueError, match=r"start: expected shapes \(63,\) and \(60,\), got \(63,\) and \(63,\)"):
        solve_lp(lp, backend, start=LPStart(x, x))


def test_a_start_that_leads_nowhere_is_followed_by_none() -> None:
    made = {"rank": 10, "num_hyper": 4, "diagonal": 1.3454669e-8, "seed": 150635}
    near, lp = (trained_direction_lp(308, slack=slack, **made) for slack in (1e-4, 0.0))
    found = solve_lp(near, InteriorPoint(rtol=1e-8))
    warm = solve_lp(lp, InteriorPoint(rtol=1e-8), start=LPStart(found.x, found.y))
    assert warm.status is LPStatus.OPTIMAL and warm.iterations > 20  # those of the start, which failed, among them


@pytest.mark.parametrize("device", ["nosuch", "cuda:99"])
@pytest.mark.parametrize("backend", [DualNewton, InteriorPoint, PDLP])
def test_devices_that_are_not_there_are_refused(backend: type[LPBackend], device: str) -> None:
    with pytest.raises(ValueError, match="device: "):
        backend(device=device)


@pytest.mark.parametrize("option", ["max_iterations", "max_rows"])
def test_options_must_be_positive(option: str) -> None:
    with pytest.raises(ValueError, match=option):
        DualNewton(**{option: 0})


def test_limits_are_reported_with_a_valid_bound() -> None:
    lp = trained_direction_lp(3_000, rank=8, num_hyper=5, slack=0.03)
    optimum = solve_lp(lp, InteriorPoint(rtol=1e-9)).objective
    for backend, status in (
        (DualNewton(max_iterations=2), LPStatus.ITERATION_LIMIT), (DualNewton(time_limit=1e-9), LPStatus.TIME_LIMIT),
    ):  # fmt: skip
        solution = solve_lp(lp, backend)
        assert solution.status is status
        assert solution.bound <= optimum + 1e-7 * abs(optimum)


def test_memory_is_counted_before_it_starts() -> None:
    lp = trained_direction_lp(500, rank=4, num_hyper=3, slack=0.1)
    needed = dual_newton_bytes(500, 4, 3)
    with pytest.raises(ValueError, match=f"needs about {needed:,} bytes of working memory on cpu, but 1,000 are"):
        solve_lp(lp, DualNewton(memory_limit=1_000))
    assert solve_lp(lp, DualNewton(memory_limit=needed)).status is LPStatus.OPTIMAL
    with pytest.raises(ValueError, match="memory_limit: expected a positive number of bytes, got 0"):
        DualNewton(memory_limit=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_it_computes_on_a_gpu() -> None:
    lp = trained_direction_lp(3_000, rank=8, num_hyper=5, slack=0.1)
    there = solve_lp(lp, DualNewton(device="cuda", rtol=1e-8))
    assert there.objective == pytest.approx(solve_lp(lp, DualNewton(rtol=1e-8)).objective, rel=1e-6)
