"""The HiGHS adapter: answers, statuses, rays, limits, warm starts, interruption."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import highspy
import numpy as np
import pytest
import torch
from explicit_lp_cases import CASES, INFEASIBLE, UNBOUNDED, direction_program
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import PDLP, DualNewton, HiGHS, InteriorPoint, Pyomo, highs
from backends.highs import STATUSES, new_highs, set_option
from lift_core.direction import assemble_direction_lp
from lift_core.lp import LinearProgram, LPBackend, LPStatus, solve_lp, solve_lps
from lift_core.operators import Dense, LowRankPlusDiagonal

EXACT = ("choose", "simplex", "ipm")
FIRST_ORDER = ("pdlp", "hipdlp")


def test_ipm_names_one_code_whatever_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """HiGHS takes its own "ipm" for HiPO where that is installed."""
    chosen: list[object] = []

    def listen(solver: object, option: str, value: object) -> None:
        chosen.extend([value] if option == "solver" else [])
        set_option(solver, option, value)

    monkeypatch.setattr(highs, "set_option", listen)
    assert solve_lp(next(iter(CASES.values())).lp, HiGHS(method="ipm")).status is LPStatus.OPTIMAL
    assert chosen == ["ipx"]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("method", (*EXACT, *FIRST_ORDER))
def test_small_programs(method: str, case) -> None:
    rtol = 1e-4 if method in FIRST_ORDER else 1e-8
    solution = solve_lp(case.lp, HiGHS(method=method, rtol=rtol, time_limit=5))
    assert solution.status is LPStatus.OPTIMAL
    assert solution.objective == pytest.approx(case.objective, rel=2 * rtol, abs=2 * rtol)
    if case.dual is not None and method in EXACT:
        assert solution.y.tolist() == pytest.approx(case.dual, abs=1e-6)


@pytest.mark.parametrize("lp", INFEASIBLE.values(), ids=INFEASIBLE)
@pytest.mark.parametrize("method", (*EXACT, *FIRST_ORDER))
def test_infeasible_programs_come_with_a_verified_ray(method: str, lp: LinearProgram) -> None:
    solution = solve_lp(lp, HiGHS(method=method, time_limit=5))
    assert (solution.status, solution.certified) == (LPStatus.INFEASIBLE, True)


@pytest.mark.parametrize("lp", UNBOUNDED.values(), ids=UNBOUNDED)
@pytest.mark.parametrize("method", (*EXACT, *FIRST_ORDER))
def test_unbounded_programs_come_with_a_verified_ray(method: str, lp: LinearProgram) -> None:
    solution = solve_lp(lp, HiGHS(method=method, time_limit=5))
    assert (solution.status, solution.certified) == (LPStatus.UNBOUNDED, True)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 8), columns=st.integers(1, 12))
def test_programs_built_backwards_from_an_optimal_pair(seed: int, rows: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    matrix, x, y = rng.normal(size=(rows, columns)), rng.normal(size=columns), rng.normal(size=rows)
    reduced_costs = rng.normal(size=columns)
    lp = LinearProgram(
        c=reduced_costs + matrix.T @ y,
        A=matrix,
        row_lower=matrix @ x - np.where(y > 0, 0.0, 1.0),
        row_upper=matrix @ x + np.where(y > 0, 1.0, 0.0),
        col_lower=x - np.where(reduced_costs > 0, 0.0, 1.0),
        col_upper=x + np.where(reduced_costs > 0, 1.0, 0.0),
    )
    for method in ("simplex", "ipm"):
        solution = solve_lp(lp, HiGHS(method=method, rtol=1e-7))
        assert solution.status is LPStatus.OPTIMAL
        assert solution.objective == pytest.approx(float(lp.c @ torch.tensor(x)), rel=1e-6, abs=1e-6)
        assert solution.bound <= solution.objective + 1e-6


@pytest.mark.parametrize("slack", (0.0, 1e-3, 1.0))
def test_auxiliary_variables_of_factored_operators_stay_inside(slack: float) -> None:
    lp = direction_program(40, slack, rank=4)
    dense = LinearProgram(
        c=lp.c, A=lp.A.to_dense(), row_lower=lp.row_lower, row_upper=lp.row_upper, col_lower=-1.0, col_upper=1.0
    )
    lifted, plain = solve_lp(lp, HiGHS(rtol=1e-8)), solve_lp(dense, HiGHS(rtol=1e-8))
    assert lifted.status is plain.status is LPStatus.OPTIMAL
    assert lifted.x.shape == lp.c.shape and lifted.y.shape == lp.row_lower.shape
    assert lifted.objective == pytest.approx(plain.objective, rel=1e-8)


@pytest.mark.parametrize("method", ("simplex", "ipm"))
@pytest.mark.parametrize("costs", (1e-5, 1e-10))
def test_costs_below_the_solvers_tolerance_are_not_read_as_zero(method: str, costs: float) -> None:
    unit = solve_lp(direction_program(30, 1e-2), HiGHS(method="simplex"))
    tiny = solve_lp(direction_program(30, 1e-2, costs=costs), HiGHS(method=method))
    assert tiny.objective / costs == pytest.approx(unit.objective, rel=1e-6)
    assert tiny.y.numpy() / costs == pytest.approx(unit.y.numpy(), abs=1e-5)


@pytest.mark.parametrize("entry", [1e-9, 1e-10])
def test_small_matrix_entries_decide(entry: float) -> None:
    lp = LinearProgram(c=[1.0, 0.0], A=[[entry, 1.0]], row_lower=1.0, col_lower=0.0, col_upper=[1e11, 0.5])
    assert solve_lp(lp, HiGHS()).objective == pytest.approx(0.5 / entry)


def test_matrix_entries_below_the_default_threshold_are_kept() -> None:
    lp = LinearProgram(c=[1e-10], A=[[1e-10]], row_lower=1e-7)
    assert solve_lp(lp, HiGHS(method="simplex")).x.item() == pytest.approx(1000.0)


def test_a_path_of_slacks_needs_fewer_simplex_iterations_warm_than_cold() -> None:
    path = [direction_program(60, slack) for slack in (1.0, 0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4, 0.0)]
    backend = HiGHS(method="simplex")
    warm = list(solve_lps(path, backend))
    cold = [solve_lp(lp, backend) for lp in path]
    assert all(solution.status.ok for solution in warm)
    assert [s.objective for s in warm] == pytest.approx([s.objective for s in cold], rel=1e-8)
    assert sum(s.iterations for s in warm) < 0.75 * sum(s.iterations for s in cold)


def test_a_sequence_follows_changes_of_costs_bounds_offset_and_matrix() -> None:
    first = CASES["row at its lower bound"].lp
    changes = [
        {},
        {"c": [1.0, 3.0]},
        {"row_lower": 6.0},
        {"col_upper": 1.0, "row_lower": 3.0},
        {"c": [1e-9, 1e-9]},
        {"offset": 5.0},
        {"A": [[2.0, 1.0]]},
        {"A": [[1.0, 2.0], [0.0, 1.0]]},
        {"A": [[1.0]], "c": [4.0]},
    ]
    unchanged = {"c": first.c, "A": first.A, "row_lower": 2.0, "col_lower": 0.0}
    programs = [LinearProgram(**(unchanged | change)) for change in changes]
    for program, solution in zip(programs, solve_lps(programs, HiGHS()), strict=True):
        alone = solve_lp(program, HiGHS())
        assert solution.status is LPStatus.OPTIMAL
        assert solution.objective == pytest.approx(alone.objective, rel=1e-9)


def test_a_sequence_recovers_from_an_infeasible_program() -> None:
    good, bad = CASES["row at its lower bound"].lp, {"row_lower": 9.0, "col_lower": 0.0, "col_upper": 1.0}
    programs = [good, LinearProgram(c=good.c, A=good.A, **bad), good]
    statuses = [solution.status for solution in solve_lps(programs, HiGHS(method="ipm"))]
    assert statuses == [LPStatus.OPTIMAL, LPStatus.INFEASIBLE, LPStatus.OPTIMAL]


@pytest.mark.parametrize("backend", [HiGHS(), Pyomo()], ids=["highs", "pyomo"])
def test_a_relaxation_after_its_integer_program_has_no_integers(backend: LPBackend) -> None:
    data = {"c": [-1.0, -1.0], "A": [[2.0, 2.0]], "row_upper": 3.0, "col_lower": 0.0, "col_upper": 1.0}
    programs = [LinearProgram(**data, integrality=[True, True]), LinearProgram(**data)]
    assert [solution.objective for solution in solve_lps(programs, backend)] == pytest.approx([-1.0, -1.5])


@pytest.mark.parametrize("seed", range(12))
def test_directions_that_no_box_allows_are_infeasible(seed: int) -> None:
    """Programs whose proof HiGHS threw away when it was told to keep entries smaller than there are."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    factor, core = torch.linalg.qr(normal(20, 5))[0], torch.tensor([3.0, 2.0, 1.0, 0.5, 0.2]).double()
    hessian = LowRankPlusDiagonal(diagonal=torch.full((20,), 1e-3).double(), factor=factor, core=core)
    residual, gradient, mixed = normal(20), 1e-2 * normal(20), Dense(1e-3 * normal(20, 1))
    lp = assemble_direction_lp(
        grad_hyper=torch.zeros(1).double(), grad_weights=gradient, hessian=hessian, mixed=mixed, delta=1e-3,
        residual=residual,
    )  # fmt: skip
    for backend in (HiGHS(), Pyomo()):
        assert solve_lp(lp, backend).status is LPStatus.INFEASIBLE


def test_limits_end_as_statuses() -> None:
    lp = direction_program(120, 1e-3)
    assert solve_lp(lp, HiGHS(method="simplex", time_limit=1e-9)).status is LPStatus.TIME_LIMIT
    for method in ("simplex", "ipm"):
        solution = solve_lp(lp, HiGHS(method=method, iteration_limit=2))
        assert (solution.status, solution.iterations) == (LPStatus.ITERATION_LIMIT, 2)


def test_the_time_limit_counts_each_program_of_a_sequence_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []

    def record(native: highspy.Highs, option: str, value: object) -> None:
        if option == "time_limit":
            limits.append((value, native.getRunTime()))
        set_option(native, option, value)

    monkeypatch.setattr(highs, "set_option", record)
    statuses = [
        s.status for s in solve_lps([direction_program(30, slack) for slack in (0.1, 0.0)], HiGHS(time_limit=60))
    ]
    assert statuses == [LPStatus.OPTIMAL, LPStatus.OPTIMAL]
    (first, at_first), (second, at_second) = limits
    assert at_second > at_first == 0.0
    assert (first, second) == (60.0, 60.0 + at_second)


def test_every_native_status_is_mapped() -> None:
    assert set(STATUSES) >= set(highspy.HighsModelStatus.__members__)


def test_an_unknown_native_status_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(highspy.Highs, "getModelStatus", lambda self: SimpleNamespace(name="kNew"))
    answer = HiGHS().solve(UNBOUNDED["a free variable"])
    assert answer.status is LPStatus.FAILED


def test_ctrl_c_stops_the_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(highs, "wait", interrupted)
    monkeypatch.setattr(highs, "_answer", lambda native: ended.append(native.getModelStatus().name))
    with pytest.raises(KeyboardInterrupt):
        HiGHS(method="simplex", presolve="off").solve(direction_program(300, 1e-3))
    assert ended == ["kInterrupt"]


def test_hipo_solves_or_names_the_package_that_is_missing() -> None:
    lp = CASES["equality"].lp
    if new_highs().setOptionValue("solver", "hipo") == highspy.HighsStatus.kOk:
        assert solve_lp(lp, HiGHS(method="hipo")).status is LPStatus.OPTIMAL
    else:
        with pytest.raises(ValueError, match=r'hipo.*pip install "highspy\[extras\]"'):
            solve_lp(lp, HiGHS(method="hipo"))


def test_options_that_this_highs_does_not_know_are_refused() -> None:
    with pytest.raises(ValueError, match=r"does not take solver = 'newer'.*pip install --upgrade highspy"):
        set_option(new_highs(), "solver", "newer")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "barrier"}, "method: expected one of choose, simplex.*got 'barrier'"),
        ({"presolve": "maybe"}, "presolve: expected 'auto', 'on' or 'off', got 'maybe'"),
        ({"threads": -1}, "threads: expected a number from 0 .* got -1"),
        ({"iteration_limit": -1}, "iteration_limit: .* got -1"),
        ({"rtol": 0.0}, "rtol"),
        ({"time_limit": 0.0}, "time_limit"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HiGHS(**options)


def test_programs_that_highs_cannot_take_are_refused() -> None:
    with pytest.raises(ValueError, match="HiGHS refuses this program"):
        solve_lp(LinearProgram(c=[1.0], A=[[1e16]], row_lower=1.0), HiGHS())


@pytest.mark.parametrize("backend", [HiGHS(), InteriorPoint(), PDLP(), DualNewton()], ids=lambda backend: backend.name)
@pytest.mark.parametrize(("lower", "status"), [(1.0, LPStatus.INFEASIBLE), (-1.0, LPStatus.OPTIMAL)])
def test_a_program_without_columns_is_what_its_rows_make_it(backend: LPBackend, lower: float, status: LPStatus) -> None:
    lp = LinearProgram(c=[], A=torch.zeros(2, 0), row_lower=[-1.0, lower], row_upper=[1.0, 2.0])
    solution = solve_lp(lp, backend)
    assert solution.status is status and solution.certified is (status is LPStatus.INFEASIBLE)


@pytest.mark.parametrize("method", ["choose", "simplex", "ipm", "pdlp"])
def test_a_matrix_without_entries_has_a_verified_ray(method: str) -> None:
    solution = solve_lp(LinearProgram(c=[1.0, 1.0], A=[[0.0, 0.0]], row_lower=[1.0]), HiGHS(method=method))
    assert (solution.status, solution.certified, solution.y.tolist()) == (LPStatus.INFEASIBLE, True, [1.0])


@pytest.mark.parametrize("seed", [16, 19, 39])
def test_rows_that_differ_by_rounding_do_not_end_in_an_error(seed: int) -> None:
    """They break the simplex method and presolve, which leave no status."""
    generator, m, n = np.random.default_rng(seed), 5, 11
    A = generator.normal(size=(m, n)) * (generator.random((m, n)) < 0.4)  # noqa: N806
    x, apart = np.abs(generator.normal(size=n)), 10.0 ** generator.uniform(-13, -11)
    A = np.vstack([A, A[0] + apart * generator.normal(size=n)])  # noqa: N806
    b = A @ x
    lower, upper = np.append(b[:m], b[0] - 1), np.append(b[:m], b[0])
    lp = LinearProgram(c=np.abs(generator.normal(size=n)), A=A, row_lower=lower, row_upper=upper, col_lower=0.0)
    assert solve_lp(lp, HiGHS()).status is LPStatus.OPTIMAL


def test_silence(capfd: pytest.CaptureFixture[str]) -> None:
    solve_lp(CASES["equality"].lp, HiGHS())
    assert capfd.readouterr() == ("", "")


def test_a_missing_highspy_is_reported_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highspy", None)
    with pytest.raises(ModuleNotFoundError, match="pip install highspy"):
        HiGHS().solve(CASES["equality"].lp)


def test_importing_the_backends_imports_no_solver_package() -> None:
    check = "import sys, backends; sys.exit(any(m in sys.modules for m in ('highspy', 'pyomo')))"
    assert subprocess.run([sys.executable, "-c", check], check=False, cwd=Path(__file__).parents[1]).returncode == 0
