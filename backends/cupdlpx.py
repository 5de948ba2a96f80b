"""cuPDLPx: restarted Halpern PDHG on NVIDIA and AMD GPUs.

Reference: Lu et al. (2025), cuPDLPx, arXiv 2507.14051; https://github.com/MIT-Lu-Lab/cuPDLPx.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from backends.explicit import import_package
from lift_core.lp import BackendAnswer, ExplicitLP, LinearProgram, LPBackend, LPStart, LPStatus

STATUSES = {
    "OPTIMAL": LPStatus.OPTIMAL,
    "PRIMAL_INFEASIBLE": LPStatus.INFEASIBLE,
    "DUAL_INFEASIBLE": LPStatus.INFEASIBLE_OR_UNBOUNDED,
    "INFEASIBLE_OR_UNBOUNDED": LPStatus.INFEASIBLE_OR_UNBOUNDED,
    "TIME_LIMIT": LPStatus.TIME_LIMIT,
    "ITERATION_LIMIT": LPStatus.ITERATION_LIMIT,
    "FEAS_POLISH_SUCCESS": LPStatus.NUMERICAL_ERROR,
    "UNSPECIFIED": LPStatus.FAILED,
}
"""cuPDLPx's statuses by name; one that is missing here is `LPStatus.FAILED`. A dual infeasible program is unbounded if
it is feasible, which the core finds out."""

_LONGEST = 1e9  # seconds that stand for no limit; the solver's own default is an hour


@dataclass(frozen=True, kw_only=True)
class CuPDLPx(LPBackend):
    """cuPDLPx through its Python package: ``pip install cupdlpx``; needs a GPU and its compiler.

    Attributes:
        presolve: whether it may simplify the program first.
        iteration_limit: None: no limit.
    """

    name: ClassVar[str] = "cupdlpx"
    rtol: float = 1e-4
    presolve: bool = True
    iteration_limit: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iteration_limit is not None and self.iteration_limit < 0:
            raise ValueError(f"iteration_limit: expected None or at least 0, got {self.iteration_limit}")

    def solve(self, lp: LinearProgram, start: LPStart | None = None) -> BackendAnswer:
        """Solve one program; ``start`` is used where presolve is off.

        Raises:
            ModuleNotFoundError: if cupdlpx is not installed.
            RuntimeError: if it finds no GPU.
        """
        package = import_package("cupdlpx")
        program = lp.explicit()
        model = package.Model(**arrays(program))
        for name, value in self.parameters().items():
            model.setParam(name, value)
        if start is not None and not self.presolve and len(program.c) == lp.num_columns:
            model.setWarmStart(primal=start.x.cpu().numpy(), dual=start.y.cpu().numpy())
        model.optimize()
        status = STATUSES.get(status_name(model), LPStatus.FAILED)
        x, y = _first(model.X, lp.num_columns), _first(model.Pi, lp.num_rows)
        if status is LPStatus.INFEASIBLE:
            x = None  # along the diverging iterates lies the ray, if any: the core verifies it
        elif status is LPStatus.INFEASIBLE_OR_UNBOUNDED:
            y = None
        return BackendAnswer(x, y, status, int(model.IterCount or 0))

    def parameters(self) -> dict[str, Any]:
        """cuPDLPx's parameters by the names of its documentation."""
        wanted = {
            "OutputFlag": False,
            "Presolve": self.presolve,
            "OptimalityTol": 0.5 * self.rtol,
            "FeasibilityTol": 0.5 * self.rtol,
            "TimeLimit": self.time_limit if math.isfinite(self.time_limit) else _LONGEST,
        }
        if self.iteration_limit is not None:
            wanted["IterationLimit"] = self.iteration_limit
        return wanted


def arrays(program: ExplicitLP) -> dict[str, Any]:
    """The arguments of ``cupdlpx.Model``: CSR with 32-bit indices and an explicit array for every bound."""
    matrix = program.A.copy()
    matrix.indptr, matrix.indices = matrix.indptr.astype(np.int32), matrix.indices.astype(np.int32)
    return {
        "objective_vector": program.c,
        "constraint_matrix": matrix,
        "constraint_lower_bound": program.row_lower,
        "constraint_upper_bound": program.row_upper,
        "variable_lower_bound": program.col_lower,
        "variable_upper_bound": program.col_upper,
        "objective_constant": program.offset,
    }


def status_name(model: Any) -> str:
    """The status by name: ``StatusName``, which older versions call ``Status``."""
    return str(getattr(model, "StatusName", None) or model.Status)


def _first(vector: Any, size: int) -> torch.Tensor | None:
    return None if vector is None else torch.tensor(np.asarray(vector)[:size], dtype=torch.float64)
