"""Pyomo: a real Pyomo model for any solver that Pyomo knows.

Reference: Hart, Watson & Woodruff, Pyomo: modeling and solving mathematical programs in Python, Math. Prog. Comp. 3
(2011); https://www.pyomo.org.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from backends.explicit import (
    contradiction,
    cost_scale,
    feasibility_tolerance,
    import_package,
    nonempty_rows,
    same_matrix,
)
from lift_core.lp import BackendAnswer, ExplicitLP, LinearProgram, LPBackend, LPStart, LPStatus

CONDITIONS = {
    "optimal": LPStatus.OPTIMAL,
    "globallyOptimal": LPStatus.OPTIMAL,
    "locallyOptimal": LPStatus.OPTIMAL,
    "infeasible": LPStatus.INFEASIBLE,
    "unbounded": LPStatus.UNBOUNDED,
    "infeasibleOrUnbounded": LPStatus.INFEASIBLE_OR_UNBOUNDED,
    "maxTimeLimit": LPStatus.TIME_LIMIT,
    "maxIterations": LPStatus.ITERATION_LIMIT,
    "maxEvaluations": LPStatus.ITERATION_LIMIT,
    "minStepLength": LPStatus.NUMERICAL_ERROR,
    "userInterrupt": LPStatus.INTERRUPTED,
    "resourceInterrupt": LPStatus.INTERRUPTED,
    "feasible": LPStatus.FAILED,
    "minFunctionValue": LPStatus.FAILED,
    "other": LPStatus.FAILED,
    "unknown": LPStatus.FAILED,
    "noSolution": LPStatus.FAILED,
    "invalidProblem": LPStatus.FAILED,
    "intermediateNonInteger": LPStatus.FAILED,
    "solverFailure": LPStatus.FAILED,
    "internalSolverError": LPStatus.FAILED,
    "error": LPStatus.FAILED,
    "licensingProblems": LPStatus.FAILED,
}
"""Pyomo's termination conditions by name; one that is missing here is `LPStatus.FAILED`."""

INSTALL = {
    "highs": "pip install highspy",
    "glpk": "apt-get install glpk-utils",
    "cbc": "apt-get install coinor-cbc",
    "ipopt": "apt-get install coinor-libipopt-dev, or pip install idaes-pse and idaes get-extensions",
    "scip": "pip install pyscipopt, or apt-get install scip",
    "gurobi": "pip install gurobipy",
    "cplex": "pip install cplex",
    "xpress": "pip install xpress",
    "mosek": "pip install Mosek",
}
"""The command that installs a solver, by a part of its Pyomo name."""

_WITH_POINT = ("ok", "warning", "aborted")  # the solver statuses from which Pyomo loads a point


@dataclass(frozen=True, kw_only=True)
class Pyomo(LPBackend):
    """Any solver that Pyomo can call.

    Attributes:
        solver: its Pyomo name: "appsi_highs", "highs", "glpk", "cbc", "gurobi", ...
        options: the solver's own options as (name, value) pairs, passed on unseen. HiGHS gets tolerances that fit
            ``rtol`` unless they are among them; CBC prints seven digits, which is good for about ``rtol=1e-4``.

    In a sequence of programs with one A the model stays and its parameters change; the "appsi" interfaces then tell the
    solver only what changed. Pyomo passes on no rays, so that infeasible and unbounded verdicts are uncertified. HiGHS
    takes entries of at most 1e-9 for zero when Pyomo calls it; `backends.HiGHS` keeps them.

    >>> from lift_core.lp import LinearProgram, solve_lp
    >>> lp = LinearProgram(c=[1.0, 1.0], A=[[1.0, 2.0]], row_lower=2.0, col_lower=0.0)
    >>> solution = solve_lp(lp, Pyomo())
    >>> solution.objective, solution.y.tolist()
    (1.0, [0.5])
    """

    name: ClassVar[str] = "pyomo"
    takes_integers: ClassVar[bool] = True
    solver: str = "appsi_highs"
    options: tuple[tuple[str, str | float], ...] = ()

    def solve(self, lp: LinearProgram, start: LPStart | None = None) -> BackendAnswer:
        del start  # Pyomo's interfaces take no dual point
        return next(self.solve_sequence([lp]))

    def solve_sequence(self, lps: Iterable[LinearProgram]) -> Iterator[BackendAnswer]:
        """Solve programs one after another; a program with the A of its predecessor changes parameters only."""
        solver, model = self._solver(), None
        for lp in lps:
            program = lp.explicit()
            x, y, status = None, contradiction(program), LPStatus.INFEASIBLE
            if y is None and not lp.num_columns:  # Pyomo has no such models
                x, y, status = torch.zeros(0), torch.zeros(lp.num_rows), LPStatus.OPTIMAL
            elif y is None:
                is_new = model is None or not model.fits(program)
                model = _Model(program) if model is None or is_new else model
                model.set_parameters(program)
                spent = 0.0 if is_new else _counted(solver)
                x, y, status = self._run(solver, model, self.time_limit + spent)
            yield BackendAnswer(_first(x, lp.num_columns), _first(y, lp.num_rows), status)

    def _solver(self) -> Any:
        """Pyomo's solver object with all options set.

        Raises:
            ImportError: if the solver is not installed.
        """
        with _quiet():
            solver = import_package("pyomo.environ").SolverFactory(self.solver)
        if not solver.available(exception_flag=False):
            found = [command for part, command in INSTALL.items() if part in self.solver]
            hint = found[0] if found else "`pyomo help --solvers` lists the names that Pyomo knows"
            raise ImportError(f"solver: Pyomo finds no working {self.solver!r} on this machine; {hint}")
        if "highs" in self.solver:
            solver.options.update(_highs_options(self.rtol))
        solver.options.update(dict(self.options))
        if hasattr(solver, "update_config"):
            _watch_parameters_only(solver.update_config)
        return solver

    def _run(
        self, solver: Any, model: _Model, time_limit: float
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, LPStatus]:
        if self.solver.endswith("_persistent"):  # these do not look for changes themselves
            solver.set_instance(model.pyomo)
        limit: dict[str, float] = {}
        if math.isfinite(time_limit):  # glpsol wants whole seconds
            limit["timelimit"] = math.ceil(time_limit) if self.solver == "glpk" else time_limit
        with _quiet():
            results = solver.solve(model.pyomo, load_solutions=False, **limit)
            status = CONDITIONS.get(results.solver.termination_condition.name, LPStatus.FAILED)
            if not len(results.solution) or results.solver.status.name not in _WITH_POINT:
                return None, None, status
            model.load(results)
        return model.primal(), model.dual(), status


def _counted(solver: Any) -> float:
    """Seconds that HiGHS counts against its limit already: those of all solves of one instance, but for its pdlp."""
    clock = getattr(getattr(solver, "_solver_model", None), "getRunTime", None)
    return 0.0 if clock is None or solver.options.get("solver") == "pdlp" else clock()


class _Model:
    """A Pyomo model of an explicit program: costs and bounds are mutable parameters, the matrix is fixed.

    Rows that are empty or have no bound are left out, since Pyomo refuses them; their duals are 0.
    """

    def __init__(self, program: ExplicitLP) -> None:
        self.matrix, self.pattern, self.scale = program.A, _pattern(program), 1.0
        row_lower, row_upper, col_lower, col_upper = self.pattern
        self.rows = np.flatnonzero(nonempty_rows(program.A) & (row_lower | row_upper)).tolist()
        environ, columns = import_package("pyomo.environ"), range(program.A.get_shape()[1])
        self.pyomo = model = environ.ConcreteModel()
        model.c = environ.Param(columns, mutable=True, initialize=0.0)
        model.row_lower = environ.Param(self.rows, mutable=True, initialize=0.0)
        model.row_upper = environ.Param(self.rows, mutable=True, initialize=0.0)
        model.col_lower = environ.Param(columns, mutable=True, initialize=0.0)
        model.col_upper = environ.Param(columns, mutable=True, initialize=0.0)
        lower = [model.col_lower[j] if col_lower[j] else None for j in columns]
        upper = [model.col_upper[j] if col_upper[j] else None for j in columns]
        whole = [False] * len(columns) if program.integrality is None else program.integrality.tolist()
        self.has_integers = any(whole)
        kinds = [environ.Integers if whole[j] else environ.Reals for j in columns]
        model.x = environ.Var(columns, domain=lambda _, j: kinds[j], bounds=lambda _, j: (lower[j], upper[j]))
        model.cost = environ.Objective(expr=_linear(list(model.c.values()), list(model.x.values())))
        model.row = environ.Constraint(self.rows, rule=lambda _, i: self._row(i))
        if not any(whole):  # an integer program has no duals, and some interfaces refuse to be asked
            model.dual = environ.Suffix(direction=environ.Suffix.IMPORT)

    def _row(self, i: int) -> tuple[Any, Any, Any]:
        entries, model = slice(*self.matrix.indptr[i : i + 2]), self.pyomo
        columns = [model.x[j] for j in self.matrix.indices[entries].tolist()]
        body = _linear(self.matrix.data[entries].tolist(), columns)
        has_lower, has_upper = self.pattern[0][i], self.pattern[1][i]
        return model.row_lower[i] if has_lower else None, body, model.row_upper[i] if has_upper else None

    def fits(self, program: ExplicitLP) -> bool:
        """Whether new parameter values are all that ``program`` needs."""
        same_bounds = all(map(np.array_equal, _pattern(program), self.pattern))
        continuous = not self.has_integers and program.integrality is None
        return same_matrix(self.matrix, program.A) and same_bounds and continuous

    def set_parameters(self, program: ExplicitLP) -> None:
        """Give the model the costs and bounds of ``program``."""
        model, kept, everywhere = self.pyomo, np.array(self.rows, dtype=np.int64), np.arange(len(program.c))
        self.scale = cost_scale(program.c)
        for parameter, values, keys in (
            (model.c, self.scale * program.c, everywhere),
            (model.row_lower, program.row_lower, kept),
            (model.row_upper, program.row_upper, kept),
            (model.col_lower, program.col_lower, everywhere),
            (model.col_upper, program.col_upper, everywhere),
        ):
            parameter.store_values(dict(zip(keys.tolist(), values[keys].tolist(), strict=True)))

    def load(self, results: Any) -> None:
        if self.pyomo.find_component("dual") is not None:
            self.pyomo.dual.clear()
        self.pyomo.solutions.load_from(results)

    def primal(self) -> torch.Tensor:
        """x; a variable that the solver never saw, since nothing depends on it, is 0 or the bound nearest to 0."""
        unseen = [max(min(0.0, _bound(v.ub, math.inf)), _bound(v.lb, -math.inf)) for v in self.pyomo.x.values()]
        values = [
            other if v.value is None or v.stale else v.value
            for v, other in zip(self.pyomo.x.values(), unseen, strict=True)
        ]
        return torch.tensor(values, dtype=torch.float64)

    def dual(self) -> torch.Tensor | None:
        """y, or None where the solver gave no duals."""
        y = torch.zeros(self.matrix.get_shape()[0], dtype=torch.float64)
        if self.pyomo.find_component("dual") is None:
            return None
        if self.rows and not len(self.pyomo.dual):
            return None
        for i in self.rows:
            y[i] = self.pyomo.dual.get(self.pyomo.row[i], 0.0) / self.scale
        return y


def _linear(coefficients: list[Any], variables: list[Any]) -> Any:
    expressions = import_package("pyomo.core.expr.numeric_expr")
    return expressions.LinearExpression(linear_coefs=coefficients, linear_vars=variables)


def _pattern(program: ExplicitLP) -> list[np.ndarray]:
    """Which bounds are finite."""
    return [np.isfinite(bound) for bound in program[2:6]]


def _first(vector: torch.Tensor | None, size: int) -> torch.Tensor | None:
    return None if vector is None else vector[:size]


def _bound(value: float | None, missing: float) -> float:
    return missing if value is None else value


def _highs_options(rtol: float) -> dict[str, float]:
    tolerance = feasibility_tolerance(rtol)
    return {
        "primal_feasibility_tolerance": tolerance,
        "dual_feasibility_tolerance": tolerance,
        "mip_rel_gap": 0.0,
        "mip_abs_gap": 0.0,
        "mip_feasibility_tolerance": 1e-9,
    }


def _watch_parameters_only(update_config: Any) -> None:
    """Tell an APPSI solver that between two solves only our parameters change."""
    for unchanging in (
        "check_for_new_or_removed_constraints",
        "check_for_new_or_removed_vars",
        "check_for_new_or_removed_params",
        "check_for_new_objective",
        "update_constraints",
        "update_vars",
        "update_named_expressions",
        "update_objective",
    ):
        setattr(update_config, unchanging, False)


@contextmanager
def _quiet() -> Generator[None]:
    """No log lines from Pyomo: what it would say is in the status."""
    logger = logging.getLogger("pyomo")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
