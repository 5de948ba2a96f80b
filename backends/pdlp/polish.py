"""Polishing: from a pair of modest accuracy to an exact one, by proximal points with ever longer steps.

A first-order method finds which bounds and rows bind long before it has solved the equations that they leave over;
where A is badly conditioned, that can take it forever. For a linear program a single proximal step that is long enough
ends in a solution; see `backends.pdlp.proximal` for how one is taken. Results are offered, never trusted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from jaxtyping import Float64
from torch import Tensor

from backends.pdlp.batch import Batch
from backends.pdlp.equations import Equations
from backends.pdlp.proximal import Point, ProximalPoints

PATIENCE = 2.0
"""Growth of the number of iterations from one attempt to the next."""
FIRST_STEP = 10.0
"""Length of the first proximal step, in steps of the first-order method."""
STEPS_PER_POINT, EASY = 30, 6
"""Newton steps after which a proximal point is given up, and useful ones up to which it was an easy one."""
FAILURES, FORGIVEN = 3, 1.5
"""Proximal points given up in a row that end an attempt; factor by which an easy one lengthens the longest step again
after a failure."""
SOLVED = 1e-3
"""Share of the move of y to which the equation of a proximal point is solved, where rounding allows."""
ROUNDING = 2e-9
"""Share of the size of the rows below which rounding may be all that is left of it."""
SMALLEST = 1e-14
"""What no equation has to get below."""
STALLED = 3
"""Newton steps in a row, none of which halves what is left, after which the equation counts as solved, if that may be
rounding."""


Judge = Callable[[int, Point], float]
"""What is left of the residuals of the program in some column of the batch at a point."""


class Polish:
    """When to try, with how many Newton steps, for one program."""

    def __init__(self, equations: Equations, first_attempt: int) -> None:
        self.equations, self._next, self.steps = equations, first_attempt, 0

    def is_due(self, iterations: int) -> bool:
        return iterations >= self._next

    def waits(self, iterations: int) -> bool:
        """Whether nothing has been tried, since it would cost much more than all iterations so far."""
        return self.steps == 0 and not self.is_due(iterations)

    def worth(self, iterations: int) -> int:
        """Newton steps that cost as much as all iterations so far, and some in any case."""
        return max(self.equations.fewest_steps, int(iterations / self.equations.cost))

    def attempt(self, weight: float, step: float, iterations: int, *, allowed: int | None = None) -> Attempt:
        """One that begins now.

        A proximal step of length l is ``tau = l / weight`` for x and s, and ``sigma = l weight`` for y; the first one
        is as long as `FIRST_STEP` times ``step``. Newton steps are at most ``allowed``; None: those that cost half as
        much as all iterations so far, and some in any case.
        """
        self._next = int(PATIENCE * iterations)
        affordable = self.equations.fewest_steps + int(iterations / (2 * self.equations.cost))
        return Attempt(self.equations, weight, step, affordable if allowed is None else allowed)


class Attempt:
    """The proximal steps of one program: their lengths, when they end, and the best pair that they led to.

    Attributes:
        best: the pair with the smallest ``residual``; None before the first one.
        steps: Newton steps of all proximal points that ended.
    """

    def __init__(self, equations: Equations, weight: float, step: float, allowed: int) -> None:
        self._equations, self._weight, self._allowed = equations, weight, allowed
        self._length, self._longest, self._failures = FIRST_STEP * step, math.inf, 0
        self.best: Point | None = None
        self.residual, self.steps = math.inf, 0
        self._begin()

    def _begin(self) -> None:
        self._taken, self._slow, self._smallest, self._converged, self._stuck = 0, 0, math.inf, False, False

    @property
    def lengths(self) -> tuple[float, float]:
        """``tau`` and ``sigma``."""
        return self._length / self._weight, self._length * self._weight

    def arrives(self, off: float, move: float, size: float) -> bool:
        """Whether the equation is solved to `SOLVED` of the move of y, or to rounding; or given up."""
        if self._stuck:
            return True
        self._slow = 0 if off < self._smallest / 2 else self._slow + 1
        self._smallest = min(self._smallest, off)
        solved = (self._taken > 0 and off <= SOLVED * move) or off <= SMALLEST
        self._converged = solved or (self._slow >= STALLED and off <= ROUNDING * size)
        gives_up = self._slow >= self._equations.hopeless or self._taken >= min(STEPS_PER_POINT, self._allowed)
        return self._converged or gives_up

    def take(self, *, solved: bool) -> None:
        """Count a Newton step; a point whose equations could not be solved has none."""
        self._taken, self._stuck, self._converged = self._taken + solved, not solved, False

    def conclude(self, point: Point, residual: float) -> bool:
        """Choose the length of the next step; whether that begins at this point, or where this one began."""
        self.steps, self._allowed = self.steps + self._taken, self._allowed - max(self._taken, 1)
        better, converged, useful = residual < self.residual, self._converged, self._taken - self._slow
        self._begin()
        if better:
            self.best, self.residual, self._failures = point, residual, 0
        if not (converged or better):
            self._failures, self._longest = self._failures + 1, self._length / 2
        if not converged:
            self._length /= self._equations.growth
        elif useful <= EASY:
            self._length = min(self._equations.growth * self._length, self._longest)
            self._longest *= FORGIVEN
        return converged or better

    def is_over(self, goal: float) -> bool:
        return self.residual <= goal or self._allowed <= 0 or self._failures >= FAILURES


def run(
    batch: Batch,
    x: Float64[Tensor, "n b"],
    y: Float64[Tensor, "m b"],
    attempts: Sequence[Attempt],
    equations: Equations,
    *,
    judge: Judge,
    goal: float,
    deadline: float = math.inf,
) -> None:
    """Take proximal steps in all programs, until ``judge`` finds pairs below ``goal`` or too many are given up."""
    tau, sigma = zip(*(attempt.lengths for attempt in attempts), strict=True)
    points = ProximalPoints(batch, equations, x, y, tau=tau, sigma=sigma)
    programs = list(range(len(attempts)))
    while programs:
        is_late, going = time.monotonic() > deadline, []
        for row, (program, measured) in enumerate(zip(programs, points.measure(), strict=True)):
            attempt = attempts[program]
            if attempt.arrives(*measured, points.sizes[row]) or is_late:
                point = points.point(row)
                leads_on = attempt.conclude(point, judge(program, point))
                if is_late or attempt.is_over(goal):
                    continue
                points.begin(row, point if leads_on else None, *attempt.lengths)
            going.append(row)
        if len(going) < len(programs):
            points.keep(going)
            programs = [programs[row] for row in going]
        if programs:
            for program, solved in zip(programs, points.advance(), strict=True):
                attempts[program].take(solved=solved)
