"""SciPy's `linprog` as a backend: convert in, convert out, and let the core judge."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from scipy.optimize import linprog

from lift_core import BackendAnswer, LinearProgram, LPBackend, LPStart, LPStatus

_STATUS = {
    0: LPStatus.OPTIMAL,
    2: LPStatus.INFEASIBLE,
    3: LPStatus.UNBOUNDED,
    4: LPStatus.NUMERICAL_ERROR,
}


@dataclass(frozen=True, kw_only=True)
class SciPyLinprog(LPBackend):
    """HiGHS through `scipy.optimize.linprog`, for programs with an explicit form.

    Attributes:
        method: ``"highs"``, ``"highs-ds"`` (dual simplex) or ``"highs-ipm"``.
    """

    name: ClassVar[str] = "scipy_linprog"
    method: str = "highs"

    def solve(self, lp: LinearProgram, start: LPStart | None = None) -> BackendAnswer:
        program = lp.explicit()
        lower, upper = program.row_lower, program.row_upper
        equal = lower == upper
        at_upper, at_lower = np.isfinite(upper) & ~equal, np.isfinite(lower) & ~equal
        options = {"time_limit": self.time_limit} if math.isfinite(self.time_limit) else {}
        result = linprog(
            program.c,
            A_ub=sp.vstack([program.A[at_upper], -program.A[at_lower]]),
            b_ub=np.concatenate([upper[at_upper], -lower[at_lower]]),
            A_eq=program.A[equal],
            b_eq=lower[equal],
            bounds=np.stack([program.col_lower, program.col_upper], axis=1),
            method=self.method,
            options=options,
        )
        if result.x is None:
            return BackendAnswer(None, None, self._status(result), result.nit)
        # a marginal is the objective's derivative by its right-hand side; a lower row went in with its sign changed
        y = np.zeros(len(lower))
        y[equal] = result.eqlin.marginals
        y[at_upper] += result.ineqlin.marginals[: at_upper.sum()]
        y[at_lower] -= result.ineqlin.marginals[at_upper.sum() :]
        x = torch.from_numpy(result.x[: lp.num_columns])
        return BackendAnswer(x, torch.from_numpy(y[: lp.num_rows]), self._status(result), result.nit)

    def _status(self, result: object) -> LPStatus:
        status, message = result.status, result.message.lower()
        if status == 1:  # SciPy has one number for both limits
            return LPStatus.TIME_LIMIT if "time limit" in message else LPStatus.ITERATION_LIMIT
        return _STATUS.get(status, LPStatus.FAILED)
