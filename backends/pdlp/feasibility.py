"""Whether a program that takes long is feasible at all, asked without its costs.

An infeasible program's iterates follow a ray that proves it; costs can keep them from it for long. Without costs a
feasible program is mostly solved in no time, and an infeasible one shows its ray early.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from backends.pdlp.iteration import AnchoredIteration, drive
from backends.pdlp.limits import Limits
from lift_core.lp import BackendAnswer, LPStatus

FIRST, GROWTH = 20_000, 2
"""Iterations of a program after which it is asked first, and their growth from one time to the next."""


class Feasibility:
    """Iterates beside a program, without its costs, and no more often than the program itself.

    Args:
        begin: makes the method that iterates.
        limits: of the program.
    """

    def __init__(self, begin: Callable[[], AnchoredIteration], limits: Limits) -> None:
        self._begin, self._limits, self._next = begin, limits, float(FIRST)
        self._method: AnchoredIteration | None = None

    def disprove(self, iterations: int) -> BackendAnswer | None:
        """A certified `INFEASIBLE`, if it is time to ask and there is one; iterations of both count."""
        if iterations < self._next:
            return None
        self._method = self._begin() if self._method is None else self._method
        (found,) = drive(self._method, replace(self._limits, max_iterations=iterations))
        is_settled = found.status in (LPStatus.OPTIMAL, LPStatus.NUMERICAL_ERROR)
        self._next = math.inf if is_settled else GROWTH * self._next
        infeasible = found.status is LPStatus.INFEASIBLE
        return found._replace(iterations=iterations + found.iterations) if infeasible else None
