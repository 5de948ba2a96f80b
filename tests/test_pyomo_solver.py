"""``SolverFactory("lift_pdlp")`` and ``("lift_ipm")``: values, duals and reduced costs as HiGHS gives them to Pyomo."""

import logging
from collections.abc import Callable
from typing import Any

import pyomo.environ as pyo
import pytest
from pyomo.opt import SolverStatus, TerminationCondition

import backends.pyomo_solver
from backends.pyomo_solver import CONDITIONS, linear_form
from lift_core import LPStatus

SOLVERS = {"lift_ipm": {}, "lift_pdlp": {"rtol": 1e-8}}


@pytest.fixture(params=SOLVERS)
def solver(request: pytest.FixtureRequest) -> Any:
    return pyo.SolverFactory(request.param, options=SOLVERS[request.param])


def suffixed(model: Any) -> Any:
    model.dual = pyo.Suffix(direction=pyo.Suffix.IMPORT)
    model.rc = pyo.Suffix(direction=pyo.Suffix.IMPORT)
    return model


def diet(sense: int = pyo.minimize) -> Any:
    """Rows of every kind, a fixed and an unused variable, an offset; unique optimum either way."""
    model = pyo.ConcreteModel("diet")
    model.x = pyo.Var(["a", "b", "c"], bounds=(0, 10))
    model.free = pyo.Var()
    model.fixed = pyo.Var(initialize=2.0)
    model.fixed.fix()
    model.unused = pyo.Var(bounds=(1, 5))
    x = model.x
    model.cost = pyo.Objective(
        expr=3 * x["a"] + 2.5 * x["b"] - x["c"] + 0.5 * model.free + 4 * model.fixed + 11, sense=sense
    )
    model.least = pyo.Constraint(expr=x["a"] + 2 * x["b"] >= 4)
    model.most = pyo.Constraint(expr=x["c"] + model.fixed <= 9)
    model.same = pyo.Constraint(expr=model.free - x["a"] == 1)
    model.between = pyo.Constraint(expr=pyo.inequality(-3, x["a"] - x["b"], 2))
    model.idle = pyo.Constraint(expr=x["a"] + x["b"] + x["c"] <= 1000)
    return suffixed(model)


def blocks() -> Any:
    """Two periods linked by a stock, in indexed blocks."""
    model = pyo.ConcreteModel("periods")
    model.stock = pyo.Var([0, 1, 2], within=pyo.NonNegativeReals)
    model.stock[0].fix(1.0)

    def period(block: Any, t: int) -> None:
        block.make = pyo.Var(bounds=(0, 4))
        block.balance = pyo.Constraint(expr=model.stock[t] + block.make - (3 + 2 * t) == model.stock[t + 1])

    model.period = pyo.Block([0, 1], rule=period)
    model.cost = pyo.Objective(expr=sum((1 + t) * model.period[t].make + 0.1 * model.stock[t + 1] for t in (0, 1)))
    return suffixed(model)


MODELS: dict[str, Callable[[], Any]] = {
    "minimise": diet,
    "maximise": lambda: diet(pyo.maximize),
    "blocks": blocks,
}


def values(model: Any) -> dict[str, float | None]:
    return {v.name: v.value for v in model.component_data_objects(pyo.Var) if not v.name.startswith("unused")}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_values_duals_and_reduced_costs_are_those_of_highs(solver: Any, make: Callable[[], Any]) -> None:
    ours, theirs = make(), make()
    results = solver.solve(ours)
    pyo.SolverFactory("appsi_highs").solve(theirs)
    assert results.solver.termination_condition == TerminationCondition.optimal
    assert results.solver.status == SolverStatus.ok
    pyo.assert_optimal_termination(results)
    assert pyo.value(ours.cost) == pytest.approx(pyo.value(theirs.cost), rel=1e-6, abs=1e-6)
    assert values(ours) == pytest.approx(values(theirs), abs=1e-5)
    duals, wanted = ({c.name: model.dual[c] for c in model.dual} for model in (ours, theirs))
    assert duals == pytest.approx({name: wanted[name] for name in duals}, abs=1e-5)
    assert any(abs(dual) > 0.1 for dual in duals.values())
    reduced, wanted = ({v.name: model.rc[v] for v in model.rc} for model in (ours, theirs))
    assert reduced == pytest.approx({name: wanted[name] for name in reduced}, abs=1e-5)


def test_bounds_and_sense_of_the_results(solver: Any) -> None:
    for sense in (pyo.minimize, pyo.maximize):
        model = diet(sense)
        problem = solver.solve(model).problem
        assert problem.sense == sense
        best = problem.upper_bound if sense == pyo.minimize else problem.lower_bound
        assert best == pytest.approx(pyo.value(model.cost))


def test_a_dual_is_the_slope_of_the_objective(solver: Any) -> None:
    def value_at(right: float, sense: int) -> tuple[float, float]:
        model = diet(sense)
        model.most.set_value(model.x["c"] + model.fixed <= right)
        solver.solve(model)
        return pyo.value(model.cost), model.dual[model.most]

    for sense in (pyo.minimize, pyo.maximize):
        (low, dual), (high, _) = value_at(9.0, sense), value_at(9.5, sense)
        assert (high - low) / 0.5 == pytest.approx(dual, abs=1e-5)


def test_solutions_are_loaded_later_or_not_at_all(solver: Any) -> None:
    model, reference = diet(), diet()
    results = solver.solve(model, load_solutions=False)
    assert model.x["a"].value is None and not len(model.dual)
    model.solutions.load_from(results)
    solver.solve(reference)
    assert values(model) == pytest.approx(values(reference))
    assert model.dual[model.least] == pytest.approx(reference.dual[reference.least])


def test_a_block_and_a_model_without_suffixes_or_objective() -> None:
    model = pyo.ConcreteModel()
    model.inner = pyo.Block()
    model.inner.x = pyo.Var(bounds=(0, 3))
    model.inner.row = pyo.Constraint(expr=2 * model.inner.x == 3)
    results = pyo.SolverFactory("lift_ipm").solve(model.inner)
    assert results.solver.termination_condition == TerminationCondition.optimal
    assert model.inner.x.value == pytest.approx(1.5)


def infeasible() -> Any:
    model = pyo.ConcreteModel()
    model.x = pyo.Var(bounds=(0, 1))
    model.row = pyo.Constraint(expr=model.x >= 2)
    model.cost = pyo.Objective(expr=model.x)
    return model


def crossed() -> Any:
    model = infeasible()
    model.between = pyo.Var(bounds=(4, 3))
    model.uses = pyo.Constraint(expr=model.between >= 0)
    return model


def trivially_infeasible() -> Any:
    model = infeasible()
    model.x.fix(1.0)
    model.row.set_value(0 * model.x >= 2)
    return model


def unbounded() -> Any:
    model = pyo.ConcreteModel()
    model.x = pyo.Var(within=pyo.NonNegativeReals)
    model.y = pyo.Var(bounds=(0, 1))
    model.row = pyo.Constraint(expr=model.x - model.y >= 0)
    model.cost = pyo.Objective(expr=model.x, sense=pyo.maximize)
    return model


@pytest.mark.parametrize(
    ("make", "condition"),
    [
        (infeasible, TerminationCondition.infeasible),
        (trivially_infeasible, TerminationCondition.infeasible),
        (crossed, TerminationCondition.infeasible),
        (unbounded, TerminationCondition.unbounded),
    ],
)
def test_models_without_an_optimum(solver: Any, make: Callable[[], Any], condition: TerminationCondition) -> None:
    model = make()
    results = solver.solve(model)
    assert results.solver.termination_condition == condition
    assert results.solver.status == SolverStatus.warning
    assert not len(results.solution)


def test_limits_are_conditions_and_load_the_best_point() -> None:
    model = diet()
    results = pyo.SolverFactory("lift_pdlp").solve(model, options={"max_iterations": 1, "check_interval": 1})
    assert results.solver.termination_condition == TerminationCondition.maxIterations
    assert model.x["a"].value is not None
    assert pyo.SolverFactory("lift_ipm").solve(diet(), timelimit=1e-9).solver.termination_condition in (
        TerminationCondition.maxTimeLimit,
        TerminationCondition.optimal,
    )


def integer() -> Any:
    model = diet()
    model.count = pyo.Var(within=pyo.Integers, bounds=(0, 5))
    model.least.set_value(model.x["a"] + model.count >= 4)
    return model


def two_objectives() -> Any:
    model = diet()
    model.other = pyo.Objective(expr=model.x["a"])
    return model


def nonlinear() -> Any:
    model = diet()
    model.least.set_value(model.x["a"] * model.x["b"] >= 4)
    return model


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (integer, r"model: expected continuous variables, but count is not \(1 in all\)"),
    (two_objectives, "model: expected at most one active objective, got cost, other"),
    (nonlinear, "contains nonlinear terms"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_models_that_are_no_linear_program_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        pyo.SolverFactory("lift_ipm").solve(make())


def test_a_point_that_is_not_feasible_bounds_nothing(solver: Any) -> None:
    """A covering program: what an early stop has is cheaper than the optimum, and no incumbent."""
    model = pyo.ConcreteModel()
    model.I = pyo.RangeSet(30)
    model.x = pyo.Var(model.I, bounds=(0, None))
    model.cost = pyo.Objective(expr=sum((1 + i % 3) * model.x[i] for i in model.I))
    model.cover = pyo.Constraint(model.I, rule=lambda m, i: sum(((i * j) % 5 + (i == j)) * m.x[j] for j in m.I) >= i)
    best = solver.solve(model).problem.upper_bound
    assert best == pytest.approx(201.0, rel=1e-3)
    early = solver.solve(model, options={"max_iterations": 1}).problem
    assert early.lower_bound <= best * (1 + 1e-3) and early.upper_bound >= best * (1 - 1e-3)


def test_without_a_solution_nothing_old_is_left(solver: Any, caplog: pytest.LogCaptureFixture) -> None:
    model = diet(pyo.minimize)
    solver.solve(model)
    assert len(model.dual)
    model.wrong = pyo.Constraint(expr=model.x["c"] + model.x["a"] <= -1)
    results = solver.solve(model)
    assert results.solver.termination_condition == TerminationCondition.infeasible
    assert not len(model.dual) and not len(model.rc) and model.x["c"].stale
    assert "no solution was found" in caplog.text


def test_duals_of_rows_without_variables_and_keywords_of_other_solvers(solver: Any) -> None:
    model = diet(pyo.minimize)
    model.x["c"].fix(1.0)
    model.alone = pyo.Constraint(expr=model.x["c"] <= 5)
    solver.solve(model, keepfiles=False, symbolic_solver_labels=True, warmstart=True)
    assert (model.dual[model.alone], model.rc[model.x["c"]]) == pytest.approx((0.0, 0.0), abs=1e-6)
    with pytest.raises(TypeError, match="colour: solve takes no such keyword"):
        solver.solve(model, colour="red")


def test_unknown_options_are_named() -> None:
    with pytest.raises(ValueError, match="unknown option 'rtoll', did you mean 'rtol'"):
        pyo.SolverFactory("lift_ipm").solve(diet(), options={"rtoll": 1e-6})


def test_what_pyomo_asks_of_a_solver(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), pyo.SolverFactory("lift_pdlp") as solver:
        assert solver.available() and solver.license_is_valid() and solver.version() >= (0,)
        solver.solve(diet(), tee=True)
    assert "pdlp: optimal" in capsys.readouterr().out and not caplog.records


def test_every_status_has_a_condition() -> None:
    assert set(CONDITIONS) == set(LPStatus)
    assert set(CONDITIONS.values()) <= {condition.name for condition in TerminationCondition}


def test_ranges_are_one_row_and_fixed_variables_none() -> None:
    form = linear_form(diet())
    assert form.lp.A.shape == (5, 4)
    between = next(i for i, constraint in enumerate(form.constraints) if constraint.name == "between")
    assert (form.lp.row_lower[between], form.lp.row_upper[between]) == (-3.0, 2.0)
    assert form.lp.offset == 19.0
    assert backends.pyomo_solver.LiftPDLP.backend == "backends.pdlp:PDLP"
