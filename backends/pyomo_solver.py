"""This package's solvers for Pyomo models: importing this module makes Pyomo know ``lift_pdlp`` and ``lift_ipm``.

    import backends.pyomo_solver
    solver = pyomo.environ.SolverFactory("lift_ipm")

A model must be continuous and linear. Values go into its variables; duals and reduced costs into its suffixes ``dual``
and ``rc`` where it has them, with Pyomo's signs: the change of the objective, as the model states it, per unit of a
constraint's right-hand side. Options are those of the backend: ``solver.options["rtol"] = 1e-6``.

Reference: Hart, Watson & Woodruff (2011), Pyomo, Math. Prog. Comp. 3; https://www.pyomo.org.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np
import scipy.sparse as sp

from backends.explicit import import_package
from lift_core.lp import LinearProgram, LPSolution, LPStatus, solve_lp
from lift_core.plugins import load_backend

CONDITIONS = {
    LPStatus.OPTIMAL: "optimal",
    LPStatus.INFEASIBLE: "infeasible",
    LPStatus.UNBOUNDED: "unbounded",
    LPStatus.INFEASIBLE_OR_UNBOUNDED: "infeasibleOrUnbounded",
    LPStatus.ITERATION_LIMIT: "maxIterations",
    LPStatus.TIME_LIMIT: "maxTimeLimit",
    LPStatus.INTERRUPTED: "userInterrupt",
    LPStatus.INACCURATE: "other",
    LPStatus.NUMERICAL_ERROR: "internalSolverError",
    LPStatus.FAILED: "error",
}
"""Pyomo's termination condition for every status."""
IGNORED = ("keepfiles", "logfile", "report_timing", "solnfile", "suffixes", "symbolic_solver_labels", "warmstart")
"""Keywords of Pyomo's solvers about files, labels and starts, which this one does not have."""

_environ = import_package("pyomo.environ")
_opt = import_package("pyomo.opt")


class Form(NamedTuple):
    """A Pyomo model as a linear program, with what leads back to its components.

    Attributes:
        lp: the minimisation.
        sign: -1 for a maximisation, whose objective ``lp`` negates.
        variables: of the columns.
        constraints: of the rows.
    """

    lp: LinearProgram
    sign: float
    variables: list[Any]
    constraints: list[Any]


class LiftSolver:
    """A Pyomo solver that hands linear models to a backend of this package.

    Attributes:
        backend: its ``MODULE:NAME``.
        options: fields of the backend, and ``time_limit``.
    """

    backend: ClassVar[str]

    def __init__(self, **options: Any) -> None:
        self.options: dict[str, Any] = dict(options.pop("options", {}))
        options.pop("name", None)
        self.options |= options

    def available(self, exception_flag: bool = True) -> bool:
        del exception_flag  # it comes with the package
        return True

    def license_is_valid(self) -> bool:
        return True

    def version(self) -> tuple[int, ...]:
        """The version of this package."""
        from importlib.metadata import version

        return tuple(int(part) for part in version("lift-bilevel").split(".") if part.isdigit())

    def solve(
        self,
        model: Any,
        *,
        load_solutions: bool = True,
        timelimit: float | None = None,
        options: Mapping[str, Any] | None = None,
        tee: bool = False,
        **ignored: Any,
    ) -> Any:
        """Solve a model and return Pyomo's ``SolverResults``.

        Args:
            model: a concrete model or block, continuous and linear.
            load_solutions: whether to put values, duals and reduced costs into the model.
            timelimit: in seconds.
            options: fields of the backend, for this solve.
            tee: whether to print how it ended.
            ignored: other keywords that Pyomo's solvers take (`IGNORED`); they mean nothing here.

        Raises:
            TypeError: for a keyword that no Pyomo solver takes.
            ValueError: for integer variables, several objectives, or an option that the backend does not have.
        """
        if unknown := sorted(set(ignored) - set(IGNORED)):
            raise TypeError(
                f"{unknown[0]}: solve takes no such keyword; options of the backend go into options={{...}}"
            )
        chosen = self.options | dict(options or {}) | ({} if timelimit is None else {"time_limit": timelimit})
        backend = load_backend(self.backend, **chosen)
        try:
            form = linear_form(model)
        except import_package("pyomo.common.errors").InfeasibleConstraintException as error:
            if load_solutions:
                _load(model, None, None)
            return _results(model, LPStatus.INFEASIBLE, str(error))
        solution = solve_lp(form.lp, backend)
        if tee:
            print(f"{backend.name}: {solution.status.value}; residuals {solution.kkt}")
        results = _results(model, solution.status, solution.status.value, form, solution, backend.rtol)
        has_point = math.isfinite(solution.objective)
        if has_point:
            _fill(results, form, solution)
        if load_solutions:
            _load(model, form, solution if has_point else None)
        return results

    def __enter__(self) -> LiftSolver:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@_environ.SolverFactory.register("lift_pdlp", doc="First-order linear programming of LiFT (PDLP), CPU or CUDA")
class LiftPDLP(LiftSolver):
    """``SolverFactory("lift_pdlp")``: `backends.PDLP`."""

    backend = "backends.pdlp:PDLP"


@_environ.SolverFactory.register("lift_ipm", doc="Interior-point linear programming of LiFT, CPU or CUDA")
class LiftInteriorPoint(LiftSolver):
    """``SolverFactory("lift_ipm")``: `backends.InteriorPoint`."""

    backend = "backends.interior_point:InteriorPoint"


def linear_form(model: Any) -> Form:
    """The linear program that a Pyomo model states; fixed variables and unused ones are no columns.

    Raises:
        ValueError: for integer variables or several objectives; Pyomo's own errors for nonlinear expressions, for
            constraints that nothing can meet, and for a variable whose bounds cross.
    """
    compiled = _opt.WriterFactory("compile_standard_form").write(model, mixed_form=True, set_sense=None)
    if len(compiled.objectives) > 1:
        names = ", ".join(objective.name for objective in compiled.objectives)
        raise ValueError(f"model: expected at most one active objective, got {names}")
    discrete = [variable.name for variable in compiled.columns if not variable.is_continuous()]
    if discrete:
        raise ValueError(f"model: expected continuous variables, but {discrete[0]} is not ({len(discrete)} in all)")
    maximise = bool(compiled.objectives) and compiled.objectives[0].sense == _environ.maximize
    sign = -1.0 if maximise else 1.0
    costs = np.zeros(len(compiled.columns))
    if compiled.objectives:
        costs = sign * compiled.c.toarray()[0]
    matrix, lower, upper, constraints = _rows(compiled)
    bounds = [variable.bounds for variable in compiled.columns]
    for variable, (low, high) in zip(compiled.columns, bounds, strict=True):
        if low is not None and high is not None and low > high:
            raise import_package("pyomo.common.errors").InfeasibleConstraintException(
                f"{variable.name}: its lower bound {low:g} is above its upper bound {high:g}"
            )
    lp = LinearProgram(
        c=costs,
        A=matrix,
        row_lower=lower,
        row_upper=upper,
        col_lower=np.array([-np.inf if low is None else low for low, _ in bounds], dtype=np.float64),
        col_upper=np.array([np.inf if high is None else high for _, high in bounds], dtype=np.float64),
        offset=sign * float(compiled.c_offset.sum()),
    )
    return Form(lp, sign, list(compiled.columns), constraints)


def _rows(compiled: Any) -> tuple[sp.csr_array, np.ndarray, np.ndarray, list[Any]]:
    """The rows of a compiled model, the two halves of each range put together."""
    entries, right = list(compiled.rows), np.asarray(compiled.rhs, dtype=np.float64)
    kind = np.array([entry.bound_type for entry in entries], dtype=np.int64)
    same = [later.constraint is earlier.constraint for earlier, later in pairwise(entries)]
    second = np.array([False, *same][: len(entries)], dtype=bool)
    lower, upper = np.where(kind <= 0, right, -np.inf), np.where(kind >= 0, right, np.inf)
    first = np.flatnonzero(second) - 1
    lower[first] = lower[first + 1]  # an upper bound comes first, the lower one of the same constraint next
    matrix = sp.csr_array(compiled.A)[~second]
    return (
        matrix,
        lower[~second],
        upper[~second],
        [e.constraint for e, drop in zip(entries, second, strict=True) if not drop],
    )


def _duals(form: Form, solution: LPSolution) -> tuple[list[float], list[float]]:
    """``(duals, reduced costs)`` with Pyomo's signs."""
    reduced = form.lp.c - form.lp.A.rmatvec(solution.y)
    return (form.sign * solution.y).tolist(), (form.sign * reduced).tolist()


def _load(model: Any, form: Form | None, solution: LPSolution | None) -> None:
    """Values into variables; duals and reduced costs into the suffixes that import them, zeros where the program has no
    such row or column. Without a solution all variables are stale, the suffixes empty, and the log says so."""
    import_package("pyomo.core.staleflag").StaleFlagManager.mark_all_as_stale()
    suffixes = {name: model.component(name) for name in ("dual", "rc")}
    suffixes = {
        name: suffix
        for name, suffix in suffixes.items()
        if suffix is not None and suffix.ctype is _environ.Suffix and suffix.import_enabled()
    }
    for suffix in suffixes.values():
        suffix.clear()
    if form is None or solution is None:
        logging.getLogger("pyomo").warning(f"{model.name}: no solution was found, and none is loaded")
        return
    for variable, value in zip(form.variables, solution.x.tolist(), strict=True):
        variable.set_value(value, skip_validation=True)
    duals, reduced = _duals(form, solution)
    for name, kind, components, values in (
        ("dual", _environ.Constraint, form.constraints, duals),
        ("rc", _environ.Var, form.variables, reduced),
    ):
        if name in suffixes:
            every = model.component_data_objects(kind, active=True)
            suffixes[name].update((one, 0.0) for one in every if name == "dual" or one.fixed)
            suffixes[name].update(zip(components, values, strict=True))


def _results(
    model: Any,
    status: LPStatus,
    message: str,
    form: Form | None = None,
    solution: LPSolution | None = None,
    rtol: float = 0.0,
) -> Any:
    """Pyomo's record; a point that is not feasible to ``rtol`` bounds nothing."""
    results = _opt.SolverResults()
    condition = getattr(_opt.TerminationCondition, CONDITIONS[status])
    results.problem.name = model.name
    results.solver.termination_condition = condition
    results.solver.status = _opt.TerminationCondition.to_solver_status(condition)
    results.solver.message = message
    if form is not None and solution is not None:
        maximise = form.sign < 0
        results.problem.sense = _environ.maximize if maximise else _environ.minimize
        results.problem.number_of_constraints, results.problem.number_of_variables = form.lp.A.shape
        results.solver.wallclock_time = solution.seconds
        feasible = solution.kkt.primal <= rtol
        value = form.sign * (solution.objective if feasible else math.inf)
        bound = form.sign * solution.bound
        if math.isfinite(solution.objective):
            results.problem.upper_bound, results.problem.lower_bound = (bound, value) if maximise else (value, bound)
    return results


def _fill(results: Any, form: Form, solution: LPSolution) -> None:
    """The point by names, for ``model.solutions.load_from(results)``."""
    found = _opt.Solution()
    found._cuid = False  # keys are names
    duals, reduced = _duals(form, solution)
    for variable, value, rc in zip(form.variables, solution.x.tolist(), reduced, strict=True):
        found.variable[variable.name] = {"Value": value, "Rc": rc}
    for constraint, dual in zip(form.constraints, duals, strict=True):
        found.constraint[constraint.name] = {"Dual": dual}
    results.solution.insert(found)
