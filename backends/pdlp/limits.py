"""When a first-order method has to stop, whether it is done or not."""

from __future__ import annotations

import time
from dataclasses import dataclass

from lift_core.lp import LPStatus


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Tolerance and budget of one solve.

    Attributes:
        rtol: relative KKT tolerance.
        max_iterations: total number of iterations.
        deadline: in seconds of `time.monotonic`.
        check_interval: iterations from one check to the next.
    """

    rtol: float
    max_iterations: int
    deadline: float
    check_interval: int

    def block(self, iterations: int) -> int:
        """Iterations until the next check, after so many in all."""
        return min(self.check_interval, self.max_iterations - iterations)

    def reached(self, iterations: int) -> LPStatus | None:
        """The limit that has been reached after so many iterations, if one has."""
        if iterations >= self.max_iterations:
            return LPStatus.ITERATION_LIMIT
        return LPStatus.TIME_LIMIT if time.monotonic() > self.deadline else None
