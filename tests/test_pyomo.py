"""The Pyomo adapter: the same answers through every solver at hand, statuses, persistence, clear errors."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pyomo.environ as pyo
import pytest
from explicit_lp_cases import CASES, INFEASIBLE, UNBOUNDED, direction_program
from pyomo.contrib.appsi.solvers.highs import Highs
from pyomo.opt import TerminationCondition

from backends import HiGHS, Pyomo
from backends.pyomo import CONDITIONS
from lift_core.lp import LinearProgram, LPStatus, solve_lp, solve_lps

COMMANDS = {"glpk": "glpk-utils", "cbc": "coinor-cbc"}


def _parameter(solver: str):
    absent = not pyo.SolverFactory(solver).available(exception_flag=False)
    return pytest.param(
        solver, marks=pytest.mark.skipif(absent, reason=f"{solver} is absent: apt-get install {COMMANDS.get(solver)}")
    )


SOLVERS = [_parameter(solver) for solver in ("appsi_highs", "highs", "glpk", "cbc")]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_small_programs(solver: str, case) -> None:
    solution = solve_lp(case.lp, Pyomo(solver=solver))
    assert solution.status is LPStatus.OPTIMAL
    assert solution.objective == pytest.approx(case.objective, rel=1e-6, abs=1e-6)
    if case.dual is not None:
        assert solution.y.tolist() == pytest.approx(case.dual, abs=1e-6)


@pytest.mark.parametrize("slack", (0.0, 1e-2, 1.0))
@pytest.mark.parametrize("solver", SOLVERS)
def test_direction_programs_agree_with_highs(solver: str, slack: float) -> None:
    lp = direction_program(25, slack, costs=1e-6, rank=4)
    solution = solve_lp(lp, Pyomo(solver=solver, rtol=1e-5))
    reference = solve_lp(lp, HiGHS(method="simplex"))
    assert solution.status is LPStatus.OPTIMAL
    assert solution.objective == pytest.approx(reference.objective, rel=1e-5)
    assert solution.bound == pytest.approx(reference.objective, rel=1e-5)


@pytest.mark.parametrize("lp", INFEASIBLE.values(), ids=INFEASIBLE)
@pytest.mark.parametrize("solver", SOLVERS)
def test_infeasible_programs_are_statuses(solver: str, lp: LinearProgram) -> None:
    # Pyomo reads "other" where GLPK's own presolve finds a program infeasible.
    expected = {LPStatus.INFEASIBLE, LPStatus.FAILED} if solver == "glpk" else {LPStatus.INFEASIBLE}
    assert solve_lp(lp, Pyomo(solver=solver)).status in expected


@pytest.mark.parametrize("lp", UNBOUNDED.values(), ids=UNBOUNDED)
@pytest.mark.parametrize("solver", SOLVERS)
def test_unbounded_programs_are_statuses(solver: str, lp: LinearProgram) -> None:
    solution = solve_lp(lp, Pyomo(solver=solver))
    assert (solution.status, solution.certified) == (LPStatus.UNBOUNDED, False)


@pytest.mark.parametrize("name", ["empty row above zero", "empty row below zero"])
def test_an_empty_row_that_excludes_zero_is_a_certificate(name: str) -> None:
    assert solve_lp(INFEASIBLE[name], Pyomo()).certified


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_sequence_follows_changes_of_costs_bounds_and_matrix(solver: str) -> None:
    unchanged = {"c": [1.0, 1.0], "A": [[1.0, 2.0], [1.0, 0.0]], "row_lower": [2.0, -1.0], "col_lower": 0.0}
    changes = [
        {},
        {"c": [1.0, 3.0]},
        {"row_lower": [6.0, 1.0]},
        {"row_lower": [6.0, 1.0], "row_upper": [6.0, 9.0]},
        {"row_lower": [6.0, 2.0], "row_upper": [7.0, 2.0]},
        {"col_upper": [1.0, 0.5]},
        {"c": [1e-9, 1e-9]},
        {"A": [[2.0, 1.0], [0.0, 1.0]]},
        {"row_lower": [2.0, 8.0], "col_upper": 1.0},
        {"c": [1.0, 3.0]},
    ]
    programs = [LinearProgram(**(unchanged | change)) for change in changes]
    for program, solution in zip(programs, solve_lps(programs, Pyomo(solver=solver)), strict=True):
        reference = solve_lp(program, HiGHS())
        if reference.status.ok:
            assert solution.status is LPStatus.OPTIMAL
            assert solution.objective == pytest.approx(reference.objective, rel=1e-6)
        else:
            assert solution.status in (LPStatus.INFEASIBLE, LPStatus.FAILED)


def test_a_sequence_passes_its_model_to_highs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    passed = []
    set_instance = Highs.set_instance
    monkeypatch.setattr(Highs, "set_instance", lambda self, model: (passed.append(model), set_instance(self, model)))
    path = [direction_program(15, slack) for slack in (1.0, 0.1, 0.01, 0.0)]
    solutions = list(solve_lps(path, Pyomo()))
    assert [s.objective for s in solutions] == pytest.approx([solve_lp(lp, HiGHS()).objective for lp in path], rel=1e-8)
    assert len(passed) == 1


def test_solver_options_reach_the_solver() -> None:
    lp = direction_program(40, 1e-3)
    limited = Pyomo(options=(("simplex_iteration_limit", 3), ("presolve", "off")))
    assert solve_lp(lp, limited).status is LPStatus.ITERATION_LIMIT


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_time_limit_is_a_status(solver: str) -> None:
    if solver in ("glpk", "cbc"):
        pytest.skip(f"{solver} stops at whole seconds, which is too slow for a test")
    assert solve_lp(direction_program(60, 1e-3), Pyomo(solver=solver, time_limit=1e-6)).status is LPStatus.TIME_LIMIT


def test_the_time_limit_counts_each_program_of_a_sequence_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    limits, run = [], Pyomo._run
    monkeypatch.setattr(
        Pyomo, "_run", lambda self, solver, model, limit: limits.append(limit) or run(self, solver, model, limit)
    )
    path = [direction_program(20, slack) for slack in (0.1, 0.01, 0.0)]
    assert all(solution.status.ok for solution in solve_lps(path, Pyomo(time_limit=60)))
    assert limits[0] == 60 < limits[1] < limits[2]  # the clock of a persistent HiGHS runs on


def test_every_termination_condition_is_mapped() -> None:
    assert set(CONDITIONS) == {condition.name for condition in TerminationCondition}


def test_an_unknown_termination_condition_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    results = SimpleNamespace(
        solver=SimpleNamespace(termination_condition=SimpleNamespace(name="new"), status=SimpleNamespace(name="ok")),
        solution=(),
    )
    monkeypatch.setattr(type(pyo.SolverFactory("appsi_highs")), "solve", lambda *_, **__: results)
    assert Pyomo().solve(CASES["equality"].lp).status is LPStatus.FAILED


@pytest.mark.parametrize(
    ("solver", "message"),
    [("no_such_solver", "no working 'no_such_solver'.*pyomo help --solvers"), ("xpress_direct", "pip install xpress")],
)
def test_a_missing_solver_is_named_with_its_remedy(solver: str, message: str) -> None:
    if pyo.SolverFactory(solver).available(exception_flag=False):
        pytest.skip(f"{solver} is installed here")
    with pytest.raises(ImportError, match=message):
        Pyomo(solver=solver).solve(CASES["equality"].lp)


def test_a_missing_pyomo_is_reported_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyomo.environ", None)
    with pytest.raises(ModuleNotFoundError, match="pip install pyomo"):
        Pyomo().solve(CASES["equality"].lp)


def test_silence(capfd: pytest.CaptureFixture[str]) -> None:
    for lp in (CASES["equality"].lp, INFEASIBLE["rows against columns"], UNBOUNDED["a free variable"]):
        solve_lp(lp, Pyomo())
    assert capfd.readouterr() == ("", "")
