"""The judge of LP answers: known pairs, lies, certificates, products that are broken."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from backends import HiGHS
from lift_core import (
    BackendAnswer,
    LinearProgram,
    LPBackend,
    LPStart,
    LPStatus,
    MatrixFree,
    solve_lp,
    solve_lps,
)
from lift_core.lp import judge, kkt_residuals, proves_infeasible, proves_unbounded
from lift_core.testing import KnownLP, lp_cases
from lift_core.testing.strategies import closed_form_direction_lps, direction_lps, known_lps

NAN, INF = math.nan, math.inf


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class Scripted(LPBackend):
    """Answers whatever it was told to, and counts how often it is asked."""

    answer: BackendAnswer
    calls: list[LPStart | None]
    name = "scripted"

    def solve(self, lp: LinearProgram, start: LPStart | None = None) -> BackendAnswer:
        self.calls.append(start)
        return self.answer


def scripted(x: Tensor | None, y: Tensor | None, status: LPStatus = LPStatus.OPTIMAL) -> Scripted:
    return Scripted(answer=BackendAnswer(x, y, status, 7), calls=[])


KNOWN = [(case.name, case.known) for case in lp_cases() if case.known is not None]


# -- known optima ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [known for _, known in KNOWN], ids=[name for name, _ in KNOWN])
def test_known_pairs_have_no_residual(known: KnownLP) -> None:
    objective, _, kkt = kkt_residuals(known.lp, known.x, known.y)
    assert kkt.worst < 1e-9
    assert objective == pytest.approx(known.objective)


@given(st.one_of(known_lps(), direction_lps(), closed_form_direction_lps(curvatures=("definite", "indefinite"))))
def test_drawn_pairs_have_no_residual(known: KnownLP) -> None:
    assert kkt_residuals(known.lp, known.x, known.y)[2].worst < 1e-8


@given(direction_lps(max_weights=10, max_hyper=4), st.integers(0, 2**31))
def test_any_dual_point_of_a_boxed_program_bounds_it_from_below(known: KnownLP, seed: int) -> None:
    assert known.lp.is_boxed
    y = torch.randn(known.lp.num_rows, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    _, bound, kkt = kkt_residuals(known.lp, known.x, y)
    assert kkt.dual == 0
    assert bound <= known.objective + 1e-9 * (1 + abs(known.objective))


@given(known_lps(), st.integers(0, 2**31), st.floats(1e-9, 1e-2))
def test_pairs_within_a_tolerance_have_an_objective_within_the_stated_bound(
    known: KnownLP, seed: int, size: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = known.x + size * torch.randn(len(known.x), dtype=torch.float64, generator=generator)
    y = known.y + size * torch.randn(len(known.y), dtype=torch.float64, generator=generator)
    objective, _, kkt = kkt_residuals(known.lp, x, y)
    assert abs(objective - known.objective) <= known.objective_tolerance(kkt.worst) * (1 + 1e-9) + 1e-12


@given(known_lps(), st.integers(0, 2**31), st.floats(1e-9, 1e-2))
def test_the_objective_is_within_gap_and_leak_to_first_order(known: KnownLP, seed: int, size: float) -> None:
    """Violations are exactly worth what the optimal pair pays for them; ours is at most ``off`` away from it."""
    generator = torch.Generator().manual_seed(seed)
    x = known.x + size * torch.randn(len(known.x), dtype=torch.float64, generator=generator)
    y = known.y + size * torch.randn(len(known.y), dtype=torch.float64, generator=generator)
    lp, (objective, _, kkt) = known.lp, kkt_residuals(known.lp, x, y)
    assume(kkt.gap < 0.5)
    dense = lp.A.to_dense()
    off_rows, off_columns = (
        point - point.clamp(lower, upper)
        for point, lower, upper in ((dense @ x, lp.row_lower, lp.row_upper), (x, lp.col_lower, lp.col_upper))
    )
    violated = math.hypot(float(off_rows.norm()), float(off_columns.norm())) + kkt.dual * (1 + float(lp.c.norm()))
    off = (1 + float(dense.norm())) * math.hypot(float((x - known.x).norm()), float((y - known.y).norm()))
    first_order = kkt.objective_error * (1 + 2 * abs(objective)) / (1 - kkt.gap)
    assert abs(objective - known.objective) <= (first_order + off * violated) * (1 + 1e-9) + 1e-9


def test_huge_prices_make_small_residuals_a_large_objective_error() -> None:
    """``min −x  s.t.  1e-4 x <= 1, w <= 1e6``: the second row hides how far the first one is violated."""
    lp = LinearProgram(c=[-1.0, 0.0], A=[[1e-4, 0.0], [0.0, 1.0]], row_lower=-INF, row_upper=[1.0, 1e6], col_lower=0.0)
    solution = solve_lp(lp, scripted(vector(2e4, 0.0), vector(-2e4, 0.0)))
    assert solution.status is LPStatus.OPTIMAL and solution.kkt.worst < 2e-6
    assert solution.objective == -2e4, "the optimum is -1e4"
    assert solution.kkt.objective_error == pytest.approx(0.5, rel=1e-3)
    right = solve_lp(lp, scripted(vector(1e4, 0.0), vector(-1e4, 0.0)))
    assert right.objective == -1e4 and right.kkt.objective_error < 1e-12


@given(known_lps(), st.integers(0, 2**31), st.floats(0.1, 10.0))
def test_residuals_do_not_depend_on_the_order_and_little_on_the_scale(known: KnownLP, seed: int, scale: float) -> None:
    lp = known.lp
    order = torch.randperm(lp.num_columns, generator=torch.Generator().manual_seed(seed))
    moved = LinearProgram(
        c=scale * lp.c[order],
        A=lp.A.to_dense()[:, order],
        row_lower=lp.row_lower,
        row_upper=lp.row_upper,
        col_lower=lp.col_lower[order],
        col_upper=lp.col_upper[order],
    )
    x, y = known.x + 0.1, known.y + 0.1
    kkt, again = kkt_residuals(lp, x, y)[2], kkt_residuals(moved, x[order], scale * y)[2]
    assert again.primal == pytest.approx(kkt.primal, rel=1e-9)
    assert again.dual == pytest.approx(kkt.dual * scale * (1 + float(lp.c.norm())) / (1 + scale * float(lp.c.norm())))


# -- the judge ---------------------------------------------------------------------------------------------------------

LP = LinearProgram(c=[1.0, 1.0], A=[[1.0, 2.0]], row_lower=2.0, col_lower=0.0)
X, Y = vector(0.0, 1.0), vector(0.5)


def test_a_right_answer_is_optimal_whatever_the_solver_calls_it() -> None:
    for claimed in (LPStatus.OPTIMAL, LPStatus.ITERATION_LIMIT, LPStatus.FAILED):
        solution = solve_lp(LP, scripted(X, Y, claimed))
        assert solution.status is LPStatus.OPTIMAL and solution.status.ok
        assert solution.objective == 1.0 and solution.bound == 1.0
        assert (solution.iterations, solution.backend) == (7, "scripted")
        assert solution.seconds >= 0


LIES = {
    "primal infeasible": (vector(0.0, 0.5), Y),
    "outside a column bound": (vector(-2.0, 2.0), Y),
    "not optimal": (vector(2.0, 0.0), Y),
    "dual with the wrong sign": (X, -Y),
    "dual infeasible": (X, vector(3.0)),
    "all zero": (vector(0.0, 0.0), vector(0.0)),
}


@pytest.mark.parametrize("pair", LIES.values(), ids=LIES)
def test_a_false_claim_of_optimality_becomes_inaccurate(pair: tuple[Tensor, Tensor]) -> None:
    solution = solve_lp(LP, scripted(*pair))
    assert solution.status is LPStatus.INACCURATE and not solution.status.ok
    assert solution.kkt.worst > 1e-2


@pytest.mark.parametrize("pair", [(None, None), (X, None), (None, Y), (X * NAN, Y), (X, Y * NAN), (X * INF, Y)])
def test_a_claim_of_optimality_without_a_finite_pair_is_a_numerical_error(pair: tuple[Tensor, Tensor]) -> None:
    solution = solve_lp(LP, scripted(*pair))
    assert solution.status is LPStatus.NUMERICAL_ERROR
    assert solution.kkt.worst == INF and math.isnan(solution.objective) and solution.bound == -INF
    assert solution.x.shape == (2,) and solution.y.shape == (1,)


def test_honest_statuses_pass_through() -> None:
    for status in (LPStatus.ITERATION_LIMIT, LPStatus.TIME_LIMIT, LPStatus.INTERRUPTED, LPStatus.FAILED):
        assert solve_lp(LP, scripted(vector(9.0, 9.0), Y, status)).status is status
        assert solve_lp(LP, scripted(None, None, status)).status is status


def test_the_tolerance_is_the_backend_s() -> None:
    near = vector(0.0, 1 - 1e-4)
    assert solve_lp(LP, replace(scripted(near, Y), rtol=1e-3)).status is LPStatus.OPTIMAL
    assert solve_lp(LP, replace(scripted(near, Y), rtol=1e-6)).status is LPStatus.INACCURATE


@pytest.mark.parametrize(("x", "y", "name"), [(X[:1], Y, "x"), (X, X, "y")])
def test_answers_of_the_wrong_shape_are_named(x: Tensor, y: Tensor, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected shape"):
        solve_lp(LP, scripted(x, y))


def test_answers_of_the_wrong_kind_are_named() -> None:
    answers = [(X.numpy(), Y, LPStatus.OPTIMAL, "x: expected a tensor"), (X, Y, "OPTIMAL", "with an LPStatus")]
    for x, y, status, sentence in answers:
        with pytest.raises(TypeError, match=sentence):
            solve_lp(LP, scripted(x, y, status))


def test_a_start_reaches_the_backend() -> None:
    backend, start = scripted(X, Y), LPStart(X, Y)
    solve_lp(LP, backend, start=start)
    assert backend.calls == [start]


def test_a_sequence_passes_each_optimum_on() -> None:
    backend = scripted(X, Y)
    assert [solution.status for solution in solve_lps([LP, LP], backend)] == [LPStatus.OPTIMAL] * 2
    assert backend.calls[0] is None and backend.calls[1] is not None
    assert not list(solve_lps([], backend))


@dataclass(frozen=True, kw_only=True)
class Silent(Scripted):
    def solve_sequence(self, lps: Iterable[LinearProgram]) -> Iterator[BackendAnswer]:
        yield from ()


def test_a_sequence_that_ends_early_is_an_error() -> None:
    with pytest.raises(ValueError, match="fewer answers than the 2 programs"):
        list(solve_lps([LP, LP], Silent(answer=BackendAnswer(X, Y, LPStatus.OPTIMAL), calls=[])))


# -- certificates ------------------------------------------------------------------------------------------------------

INFEASIBLE = LinearProgram(c=[0.0], A=[[1.0], [1.0]], row_lower=[2.0, -INF], row_upper=[INF, 1.0])
UNBOUNDED = LinearProgram(c=[-1.0, 0.0], A=[[1.0, -1.0]], row_lower=0.0, row_upper=0.0, col_lower=0.0)


@pytest.mark.parametrize(
    ("ray", "proof"),
    [
        (vector(1.0, -1.0), True),
        (vector(1e9, -1e9), True),
        (vector(-1.0, 1.0), False),
        (vector(1.0, -0.5), False),
        (vector(1.0, 0.0), False),
        (vector(0.0, 0.0), False),
        (vector(NAN, -1.0), False),
    ],
)
def test_farkas_rays(ray: Tensor, proof: bool) -> None:
    assert proves_infeasible(INFEASIBLE, ray) is proof
    solution = judge(INFEASIBLE, BackendAnswer(None, ray, LPStatus.INFEASIBLE), scripted(None, None), 0.0)
    assert solution.certified is proof
    assert solution.status is not LPStatus.OPTIMAL


@pytest.mark.parametrize(
    ("ray", "proof"),
    [
        (vector(1.0, 1.0), True),
        (vector(1e9, 1e9), True),
        (vector(-1.0, -1.0), False),
        (vector(1.0, 0.9), False),
        (vector(0.0, 0.0), False),
        (vector(INF, 1.0), False),
    ],
)
def test_recession_rays(ray: Tensor, proof: bool) -> None:
    assert proves_unbounded(UNBOUNDED, ray) is proof
    knows_a_point = scripted(torch.zeros(2, dtype=torch.float64), None)
    solution = judge(UNBOUNDED, BackendAnswer(ray, None, LPStatus.UNBOUNDED), knows_a_point, 0.0)
    assert (solution.status, solution.certified) == (LPStatus.UNBOUNDED, proof)


@pytest.mark.parametrize("point", [None, vector(1.0, 0.0), vector(-1.0, -1.0), vector(NAN, NAN)])
def test_a_ray_without_a_feasible_point_proves_dual_infeasibility_and_no_more(point: Tensor | None) -> None:
    answer = BackendAnswer(vector(1.0, 1.0), None, LPStatus.UNBOUNDED)
    solution = judge(UNBOUNDED, answer, scripted(point, None), 0.0)
    assert (solution.status, solution.certified) == (LPStatus.INFEASIBLE_OR_UNBOUNDED, True)


def test_a_ray_with_a_feasible_point_settles_what_a_solver_could_not_tell() -> None:
    answer = BackendAnswer(vector(1.0, 1.0), None, LPStatus.INFEASIBLE_OR_UNBOUNDED)
    solution = judge(UNBOUNDED, answer, scripted(vector(0.0, 0.0), None), 0.0)
    assert (solution.status, solution.certified) == (LPStatus.UNBOUNDED, True)


def test_an_infeasible_program_with_a_recession_ray_is_not_called_unbounded() -> None:
    """min -x1 with x2 >= 1, x2 <= 0: x1 falls without end, but there is no point to start from."""
    rows = {"row_lower": [1.0, -INF], "row_upper": [INF, 0.0]}
    lp = LinearProgram(c=[-1.0, 0.0], A=[[0.0, 1.0], [0.0, 1.0]], col_lower=0.0, **rows)
    ray = vector(1.0, 0.0)
    assert proves_unbounded(lp, ray)
    solution = judge(lp, BackendAnswer(ray, None, LPStatus.UNBOUNDED), HiGHS(), 0.0)
    assert solution.status is LPStatus.INFEASIBLE_OR_UNBOUNDED


def test_no_ray_proves_a_solvable_program_infeasible_or_unbounded() -> None:
    generator = torch.Generator().manual_seed(0)
    for _, known in KNOWN:
        for _ in range(5):
            x = torch.randn(known.lp.num_columns, dtype=torch.float64, generator=generator)
            y = torch.randn(known.lp.num_rows, dtype=torch.float64, generator=generator)
            assert not proves_infeasible(known.lp, y)
            assert not proves_unbounded(known.lp, x)


# -- what the backend never sees --------------------------------------------------------------------------------

PRODUCTS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], str]] = {
    "NaN": (lambda x: x * NAN, lambda y: y, "A.matvec: .*NaN"),
    "inf in the transpose": (lambda x: x, lambda y: y * INF, "A.rmatvec: .*NaN or inf"),
    "shape": (lambda x: x[:1], lambda y: y, r"A.matvec: .*\(2,\)"),
    "shape of the transpose": (lambda x: x, lambda y: y[:1], r"A.rmatvec: .*\(2,\)"),
    "transpose": (lambda x: x.flip(0) * vector(1.0, 3.0), lambda y: y.flip(0) * vector(1.0, 3.0), "not the transpose"),
}


@pytest.mark.parametrize("products", PRODUCTS.values(), ids=PRODUCTS)
def test_broken_products_never_reach_the_backend(
    products: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], str],
) -> None:
    matvec, rmatvec, message = products
    backend = scripted(X, X)
    lp = LinearProgram(c=[1.0, 1.0], A=MatrixFree((2, 2), matvec, rmatvec), col_lower=0.0)
    with pytest.raises(ValueError, match=message):
        solve_lp(lp, backend)
    assert not backend.calls


@pytest.mark.parametrize(
    "options", [{"rtol": 0.0}, {"rtol": 1.0}, {"rtol": NAN}, {"time_limit": 0.0}, {"time_limit": NAN}]
)
def test_bad_tolerances_are_named(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(options))}: "):
        replace(scripted(X, Y), **options)
