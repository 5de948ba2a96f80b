"""Parts of the interior-point method: where it starts, what it checks, and what it leaves alone."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from backends import HiGHS, chunks
from backends.chunks import elementwise, reduced
from backends.interior_point import InteriorPoint
from backends.interior_point.backend import choose_system
from backends.interior_point.barrier import Barrier
from backends.interior_point.newton import Newton
from backends.interior_point.starting_point import starting_point
from lift_core.lp import LinearProgram, LPStatus, solve_lp
from lift_core.operators import Dense, DirectionMatrix, MatrixFree
from tests.interior_point_cases import TIGHT, direction_program, factored, normal

INF = math.inf


def newton_of(lp: LinearProgram, rtol: float = 1e-8) -> Newton:
    return Newton(lp, choose_system(lp.A), rtol=rtol)


def direction_lp() -> LinearProgram:
    return direction_program(DirectionMatrix(Dense(normal(30, 3)), factored(30, 4)), 0.1)


def count_calls(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[str]:
    """A list that grows with every call of a method."""
    calls, method = [], getattr(owner, name)

    def counted(*args: Any) -> Any:
        calls.append(name)
        return method(*args)

    monkeypatch.setattr(owner, name, counted)
    return calls


def test_corrections_go_unchecked_only_after_an_accurate_predictor(monkeypatch: pytest.MonkeyPatch) -> None:
    lp = direction_lp()
    newton, size = newton_of(lp, rtol=1e-4), lp.num_columns + lp.num_rows
    movable = torch.ones(size).double()
    movable[1] = 0.0
    newton.factorize(10 ** normal(size, seed=1), movable)
    f, g = normal(size, seed=2) * movable, normal(lp.num_rows, seed=3)
    left_over, solve_once = newton._left_over, newton._solve_once
    checks = count_calls(monkeypatch, newton, "_left_over")
    newton.correction(f)
    assert checks, "nothing is known of this factorisation yet"

    newton.solve(f, g)
    checks.clear()
    dw, dy = newton.correction(f)
    assert not checks
    assert dw[1] == 0
    left_f, left_g = left_over(f, torch.zeros_like(g), dw, dy)
    assert float(left_f.norm() + left_g.norm()) <= 1e-5 * float(f.norm())

    def inaccurate(f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        dw, dy = solve_once(f, g)
        return 1.001 * dw, 1.001 * dy

    monkeypatch.setattr(newton, "_solve_once", inaccurate)
    newton.solve(f, g)
    monkeypatch.setattr(newton, "_solve_once", solve_once)
    for _ in range(2):  # the second one as well, though the first left nothing to refine
        checks.clear()
        newton.correction(f)
        assert checks


def test_a_feasible_zero_needs_no_factorisation(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_calls(monkeypatch, Newton, "factorize")
    A, box = normal(4, 6), torch.tensor([INF, *[1.0] * 5]).double()  # noqa: N806

    def program(lower: float, upper: float) -> LinearProgram:
        return LinearProgram(c=normal(6, seed=1), A=A, row_lower=lower, row_upper=upper, col_lower=-box, col_upper=box)

    lp = program(-0.5, 1.0)
    barrier = Barrier(lp, newton_of(lp))
    at = starting_point(barrier)
    assert not calls
    assert not at.w.any()
    assert not at.y.any()
    assert (at.gaps > 0).all()
    assert (at.duals[barrier.has > 0] > 0).all()
    assert (at.gaps[barrier.has == 0] == 1).all()
    assert not at.duals[barrier.has == 0].any()
    off = barrier.residuals(at, *barrier.newton.products(at.w[:6], at.y))
    assert off.dual[0] == lp.c[0], "the cost of a free column is left to the iteration"
    assert not off.rows.any()
    for other in (program(0.5, 1.0), program(0.0, 0.0)):
        calls.clear()
        assert starting_point(Barrier(other, newton_of(other))).y.any()
        assert calls


@pytest.mark.parametrize("free", [[0, 3], range(6)], ids=["some columns", "all columns"])
@pytest.mark.parametrize("bounds", [(-0.5, 1.0), (0.0, 0.0), (-INF, 1.0)], ids=str)
def test_free_columns_where_zero_is_feasible(free: list[int], bounds: tuple[float, float]) -> None:
    A, box, y = normal(4, 6), torch.ones(6).double(), normal(4, seed=2)  # noqa: N806
    box[list(free)] = INF
    y = y.clamp(max=0) if bounds[0] == -INF else y
    c = A.T @ y + torch.where(torch.isinf(box), 0.0, normal(6, seed=3))
    lp = LinearProgram(c=c, A=A, row_lower=bounds[0], row_upper=bounds[1], col_lower=-box, col_upper=box)
    solution, reference = solve_lp(lp, TIGHT), solve_lp(lp, HiGHS())
    assert solution.status is reference.status is LPStatus.OPTIMAL
    assert solution.objective == pytest.approx(reference.objective, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("size", [1e-200, 1e-300])
def test_tiny_costs_and_a_fixed_column(size: float) -> None:
    lp = LinearProgram(
        c=[size, 2 * size, size], A=[[1.0, 1.0, 1.0]], row_lower=2.0, row_upper=3.0,
        col_lower=[0.0, 0.0, 0.1], col_upper=[1.5, 1.5, 0.1],
    )  # fmt: skip
    assert solve_lp(lp, TIGHT).status is LPStatus.OPTIMAL


def test_infinite_gaps_of_the_start_raise_nothing() -> None:
    lp = LinearProgram(c=[0.0], A=[[1e-150]], row_lower=-1e200, row_upper=1e300, col_lower=-1.0, col_upper=1.0)
    assert solve_lp(lp, InteriorPoint()).kkt.worst < INF


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_no_rows_or_no_columns(shape: tuple[int, int]) -> None:
    m, n = shape
    lp = LinearProgram(
        c=torch.ones(n).double(), A=torch.zeros(m, n).double(), row_lower=-1.0, row_upper=1.0, col_lower=-1.0,
        col_upper=1.0,
    )  # fmt: skip
    solution = solve_lp(lp, TIGHT)
    assert solution.status is LPStatus.OPTIMAL
    assert solution.objective == pytest.approx(-n, abs=1e-6)


def test_directions_change_nothing_that_they_were_given() -> None:
    lp = direction_lp()
    barrier = Barrier(lp, newton_of(lp))
    at = starting_point(barrier)
    barrier.factorize(at)
    off, aims = barrier.residuals(at, *barrier.newton.products(at.w[:33], at.y)), barrier.affine_aims(at)
    held = [*at, *off, aims, barrier.has, barrier.movable, barrier.cost, barrier.lower, barrier.upper]
    before = [part.clone() for part in held]
    one = barrier.direction(at, off, aims)
    other = barrier.direction(at, None, barrier.correcting_aims(one, 0.1, second_order=True))
    barrier.direction(at, None, barrier.centred_aims(at, one, 1.0, 1.0, 0.1))
    assert all(torch.equal(now, then) for now, then in zip(held, before, strict=True))
    storages = [part.untyped_storage().data_ptr() for part in (*at, *one, *other)]
    assert len(set(storages)) == len(storages)


def test_pairs_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(chunks.ENTRIES, "cpu", 6)
    pair, vector = normal(2, 8), normal(8, seed=1)
    (product,) = elementwise(lambda p, v: (p * v,), pair, vector)
    (total,) = elementwise(lambda p: (p.sum(0),), pair)
    torch.testing.assert_close(product, pair * vector)
    torch.testing.assert_close(total, pair.sum(0))
    assert [len(reduced(lambda p: p.sum(), pair[:, :length])) for length in (0, 3, 8)] == [0, 1, 3]


def test_answers_are_ordinary_tensors_and_products_may_differentiate() -> None:
    matrix = torch.tensor([[1.0, 2.0], [3.0, -1.0]], dtype=torch.float64)

    def by_autograd(x: torch.Tensor) -> torch.Tensor:  # fails where tensors cannot be differentiated
        return torch.autograd.functional.jvp(lambda v: matrix @ v, torch.zeros_like(x), x)[1]

    def transposed(y: torch.Tensor) -> torch.Tensor:
        return torch.autograd.functional.vjp(lambda v: matrix @ v, torch.zeros_like(y), y)[1]

    for A in (Dense(matrix), MatrixFree((2, 2), by_autograd, transposed)):  # noqa: N806
        lp = LinearProgram(c=[1.0, 1.0], A=A, row_lower=-1.0, row_upper=1.0, col_lower=-2.0, col_upper=2.0)
        solution = solve_lp(lp, InteriorPoint())
        assert solution.status is LPStatus.OPTIMAL and not solution.x.is_inference()
        assert solution.x.requires_grad_().square().sum().requires_grad and not solution.y.is_inference()
