"""cuOpt: NVIDIA's linear-programming solvers on a GPU: first order, barrier and dual simplex, or all three in a race.

Reference: https://docs.nvidia.com/cuopt; the tolerances are those of PDLP, arXiv 2106.04756.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from backends.explicit import import_package
from lift_core.lp import BackendAnswer, ExplicitLP, LinearProgram, LPBackend, LPStart, LPStatus

METHODS = {"concurrent": 0, "pdlp": 1, "dual_simplex": 2, "barrier": 3}
"""The values of cuOpt's parameter ``method``."""

STATUSES = {
    "NoTermination": LPStatus.FAILED,
    "NumericalError": LPStatus.NUMERICAL_ERROR,
    "Optimal": LPStatus.OPTIMAL,
    "PrimalInfeasible": LPStatus.INFEASIBLE,
    "DualInfeasible": LPStatus.INFEASIBLE_OR_UNBOUNDED,
    "UnboundedOrInfeasible": LPStatus.INFEASIBLE_OR_UNBOUNDED,
    "IterationLimit": LPStatus.ITERATION_LIMIT,
    "TimeLimit": LPStatus.TIME_LIMIT,
    "PrimalFeasible": LPStatus.FAILED,
}
"""cuOpt's LPTerminationStatus by name; one that is missing here is `LPStatus.FAILED`."""

_TOLERANCES = ("primal", "dual", "gap")


@dataclass(frozen=True, kw_only=True)
class CuOpt(LPBackend):
    """cuOpt through its Python package: ``pip install cuopt-cu12 --extra-index-url https://pypi.nvidia.com``.

    Attributes:
        method: "concurrent", "pdlp", "dual_simplex" or "barrier".
        crossover: whether to go on to a vertex.
        iteration_limit: of PDLP; None: no limit.
    """

    name: ClassVar[str] = "cuopt"
    rtol: float = 1e-4
    method: str = "concurrent"
    crossover: bool = False
    iteration_limit: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in METHODS:
            raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {self.method!r}")
        if self.iteration_limit is not None and self.iteration_limit < 0:
            raise ValueError(f"iteration_limit: expected None or at least 0, got {self.iteration_limit}")

    def solve(self, lp: LinearProgram, start: LPStart | None = None) -> BackendAnswer:
        """Solve one program; ``start`` is the first iterate of PDLP where A has an explicit form without auxiliaries.

        Raises:
            ModuleNotFoundError: if cuopt is not installed.
            RuntimeError: if cuOpt reports an error of its own.
        """
        package = import_package("cuopt.linear_programming")
        program = lp.explicit()
        model, settings = package.DataModel(), package.SolverSettings()
        for setter, arguments in arrays(program).items():
            getattr(model, setter)(*arguments)
        if start is not None and len(program.c) == lp.num_columns:
            model.set_initial_primal_solution(start.x.cpu().numpy())
            model.set_initial_dual_solution(start.y.cpu().numpy())
        for name, value in self.parameters().items():
            settings.set_parameter(name, value)
        found = package.Solve(model, settings)
        if int(found.get_error_status()) != 0:
            raise RuntimeError(f"cuOpt: {found.get_error_message()}")
        points = found.get_primal_solution(), found.get_dual_solution()
        return answer(lp, found.get_termination_reason(), *points, found.get_lp_stats()["nb_iterations"])

    def parameters(self) -> dict[str, Any]:
        """cuOpt's parameters by the names of its documentation, without the prefix and in lower case."""
        wanted: dict[str, Any] = {"log_to_console": False, "method": METHODS[self.method], "crossover": self.crossover}
        wanted["infeasibility_detection"] = True
        for kind in _TOLERANCES:  # cuOpt wants ‖r‖ ≤ absolute + relative ‖b‖, this package ‖r‖ ≤ rtol (1 + ‖b‖)
            wanted[f"absolute_{kind}_tolerance"] = wanted[f"relative_{kind}_tolerance"] = 0.5 * self.rtol
        if math.isfinite(self.time_limit):
            wanted["time_limit"] = self.time_limit
        if self.iteration_limit is not None:
            wanted["iteration_limit"] = self.iteration_limit
        return wanted


def arrays(program: ExplicitLP) -> dict[str, tuple[Any, ...]]:
    """What each setter of ``cuopt.linear_programming.DataModel`` is to be given."""
    matrix = program.A
    return {
        "set_csr_constraint_matrix": (matrix.data, matrix.indices.astype(np.int32), matrix.indptr.astype(np.int32)),
        "set_objective_coefficients": (program.c,),
        "set_objective_offset": (program.offset,),
        "set_constraint_lower_bounds": (program.row_lower,),
        "set_constraint_upper_bounds": (program.row_upper,),
        "set_variable_lower_bounds": (program.col_lower,),
        "set_variable_upper_bounds": (program.col_upper,),
    }


def answer(lp: LinearProgram, reason: str, primal: Any, dual: Any, iterations: float) -> BackendAnswer:
    """What cuOpt's reason and points say of the program itself, auxiliary variables left out."""
    status = STATUSES.get(reason, LPStatus.FAILED)
    x, y = _first(primal, lp.num_columns), _first(dual, lp.num_rows)
    if status is LPStatus.INFEASIBLE:
        x = None  # along the diverging iterates lies the ray, if any: the core verifies it
    elif status is LPStatus.INFEASIBLE_OR_UNBOUNDED:
        y = None
    return BackendAnswer(x, y, status, int(iterations))


def _first(vector: Any, size: int) -> torch.Tensor | None:
    """The first entries; None where the solver gave nothing."""
    if vector is None or len(vector) < size:
        return None
    return torch.tensor(np.asarray(vector)[:size], dtype=torch.float64)
