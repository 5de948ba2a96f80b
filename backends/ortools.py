"""OR-tools: Google's first-order solver PDLP and its simplex code GLOP, in a process of their own.

highspy from 1.15 on and ortools up to 9.15 cannot share a process, so one that knows neither torch nor this package
(see `backends.ortools_worker`) solves for all `ORTools` backends of this one.

Reference: Applegate et al. (2021), Practical large-scale linear programming using primal-dual hybrid gradient, arXiv
2106.04756; https://developers.google.com/optimization.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch

from backends.explicit import cost_scale, feasibility_tolerance, require_package
from backends.worker import Worker, WorkerError
from lift_core.lp import BackendAnswer, ExplicitLP, LinearProgram, LPBackend, LPStart, LPStatus

Method = Literal["pdlp", "glop"]

STATUSES = {
    "OPTIMAL": LPStatus.OPTIMAL,
    "INFEASIBLE": LPStatus.INFEASIBLE,
    "UNBOUNDED": LPStatus.UNBOUNDED,
    "INFEASIBLE_OR_UNBOUNDED": LPStatus.INFEASIBLE_OR_UNBOUNDED,
    "IMPRECISE": LPStatus.NUMERICAL_ERROR,
    "FEASIBLE": LPStatus.FAILED,
    "NO_SOLUTION_FOUND": LPStatus.FAILED,
    "NUMERICAL_ERROR": LPStatus.NUMERICAL_ERROR,
    "OTHER_ERROR": LPStatus.FAILED,
}
"""MathOpt's termination reasons; one that is missing here is `LPStatus.FAILED`."""

LIMITS = {
    "ITERATION": LPStatus.ITERATION_LIMIT,
    "TIME": LPStatus.TIME_LIMIT,
    "INTERRUPTED": LPStatus.INTERRUPTED,
    "SLOW_PROGRESS": LPStatus.NUMERICAL_ERROR,
}
"""What stopped a solve whose reason is FEASIBLE or NO_SOLUTION_FOUND."""

_GRACE = 5.0  # seconds that the solver may run over its limit before its process is ended

_worker = Worker("ortools_worker.py")


@dataclass(frozen=True, kw_only=True)
class ORTools(LPBackend):
    """OR-tools through MathOpt: ``pip install ortools``.

    Attributes:
        method: "pdlp" (first order) or "glop" (simplex).
        presolve: whether the solver may simplify the program first. Its tolerances then hold for the simplified one.
        threads: of PDLP; GLOP has one.
        iteration_limit: of the method's own iterations; None: no limit.

    PDLP gives rays where presolve is off; GLOP's infeasible and unbounded verdicts come without and stay uncertified.

    >>> ORTools(method="glop").rtol
    1e-06
    """

    name: ClassVar[str] = "ortools"
    method: Method = "pdlp"
    presolve: bool = True
    threads: int = 1
    iteration_limit: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in get_args(Method):
            raise ValueError(f"method: expected 'pdlp' or 'glop', got {self.method!r}")
        if self.threads < 1:
            raise ValueError(f"threads: expected at least 1, got {self.threads}")
        if self.iteration_limit is not None and self.iteration_limit < 0:
            raise ValueError(f"iteration_limit: expected None or at least 0, got {self.iteration_limit}")

    def solve(self, lp: LinearProgram, start: LPStart | None = None) -> BackendAnswer:
        """Solve one program; ``start`` is ignored.

        Raises:
            ModuleNotFoundError: if ortools is not installed.
            RuntimeError: if the solver's process refuses the program or breaks down.
        """
        del start  # MathOpt takes no point without a basis
        require_package("ortools")
        program = lp.explicit()
        scale = cost_scale(program.c)
        try:
            reply = _worker.ask(self._request(program, scale), timeout=self.time_limit + _GRACE)
        except TimeoutError:
            return BackendAnswer(None, None, LPStatus.TIME_LIMIT)
        except WorkerError as error:
            raise RuntimeError(f"ORTools: {error}") from error
        status = self._status(reply)
        x, y = reply["x"], reply["y"]
        if status is LPStatus.INFEASIBLE:
            x, y = None, reply["dual_ray"]
        elif status in (LPStatus.UNBOUNDED, LPStatus.INFEASIBLE_OR_UNBOUNDED):
            x, y = reply["primal_ray"], None
        y = None if y is None else y / scale
        return BackendAnswer(_first(x, lp.num_columns), _first(y, lp.num_rows), status, reply["iterations"])

    def _status(self, reply: dict[str, Any]) -> LPStatus:
        if reply["reason"] not in ("FEASIBLE", "NO_SOLUTION_FOUND"):
            return STATUSES.get(reply["reason"], LPStatus.FAILED)
        if reply["limit"] == "UNDETERMINED":  # GLOP does not tell which
            if self.iteration_limit is not None and reply["iterations"] >= self.iteration_limit:
                return LPStatus.ITERATION_LIMIT
            return LPStatus.TIME_LIMIT if math.isfinite(self.time_limit) else LPStatus.FAILED
        return LIMITS.get(reply["limit"], LPStatus.FAILED)

    def _request(self, program: ExplicitLP, scale: float) -> dict[str, Any]:
        matrix = program.A.copy()
        matrix.eliminate_zeros()
        return {
            "method": self.method,
            "c": scale * program.c,
            "entries": (matrix.data, matrix.indices, matrix.indptr),
            "rows": (program.row_lower, program.row_upper),
            "columns": (program.col_lower, program.col_upper),
            "presolve": self.presolve,
            "threads": self.threads,
            "time_limit": self.time_limit if math.isfinite(self.time_limit) else None,
            "iteration_limit": self.iteration_limit,
            "pdlp_tolerance": max(0.5 * self.rtol, 1e-12),
            "glop_tolerance": feasibility_tolerance(self.rtol),
        }


def _first(vector: np.ndarray | None, size: int) -> torch.Tensor | None:
    return None if vector is None else torch.from_numpy(vector[:size].copy())
