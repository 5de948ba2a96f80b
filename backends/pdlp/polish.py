"""Polishing: from a pair of modest accuracy to an exact one, by proximal points with ever longer steps.

A first-order method finds which bounds and rows bind long before it has solved the equations that they leave over;
where A is badly conditioned, that can take it forever. With a slack s for every row, the proximal point of the
Lagrangian ``c^T x - y^T (A x - s)`` at (x0, s0, y0),

    x(y) = proj(x0 - tau (c - A^T y)),   s(y) = proj(s0 - tau y),   A x(y) - s(y) + (y - y0) / sigma = 0,

is one semismooth equation in y: the gradient of a convex function, to which Newton's method with a line search applies.
Its matrix is ``tau (A P A^T + Q) + I / sigma``, P and Q marking the columns and slacks inside their bounds. For a
linear program a single proximal step that is long enough ends in a solution. Results are offered, never trusted.

Reference: Li, Sun & Toh (2020), An asymptotically superlinearly convergent semismooth Newton augmented Lagrangian
method for linear programming, SIAM J. Optim. 30(3), arXiv 1903.09546; Rockafellar (1976).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from backends.pdlp.equations import Equations
from lift_core.lp import LinearProgram

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
STALLED = 3
"""Newton steps in a row, none of which halves what is left, after which the equation counts as solved, if that may be
rounding."""
HALVINGS = 15


class Polish:
    """When to try, and what to do, for one program."""

    def __init__(self, equations: Equations, first_attempt: int) -> None:
        self._equations, self._next, self.steps = equations, first_attempt, 0

    def is_due(self, iterations: int) -> bool:
        return iterations >= self._next

    def run(
        self,
        program: LinearProgram,
        x: Float64[Tensor, " n"],
        y: Float64[Tensor, " m"],
        weight: float,
        step: float,
        *,
        judge: Callable[[Tensor, Tensor], float],
        goal: float,
        iterations: int,
        deadline: float = math.inf,
        steps: int | None = None,
    ) -> Polished:
        """Take proximal steps until ``judge`` finds a pair below ``goal`` or too many in a row are given up.

        A step of length l is ``tau = l / weight`` for x and s, and ``sigma = l weight`` for y. Newton steps are at most
        ``steps``; None: what so many iterations allow.
        """
        self._next = int(PATIENCE * iterations)
        best, length = Polished(x, y, math.inf), FIRST_STEP * step
        allowed, growth = self._affordable(iterations) if steps is None else steps, self._equations.growth
        failures, longest = 0, math.inf
        s, size = self._equations.A.matvec(x).clamp(program.row_lower, program.row_upper), self._size_of_rows(x)
        while allowed > 0 and failures < FAILURES and time.monotonic() < deadline:
            point = ProximalPoint(
                program, self._equations, x, s, y, tau=length / weight, sigma=length * weight, size=size
            )
            found = point.solve(min(STEPS_PER_POINT, allowed), deadline)
            allowed, self.steps = allowed - max(found.steps, 1), self.steps + found.steps
            candidate = Polished(found.x, _with_signs(found.y, program), 0.0)
            candidate = candidate._replace(residual=judge(candidate.x, candidate.y))
            better = candidate.residual < best.residual
            if not (found.converged or better):
                failures, longest, length = failures + 1, length / 2, length / growth
                continue
            x, s, y, best = found.x, found.s, found.y, candidate if better else best
            failures = 0 if better else failures
            if best.residual <= goal:
                break
            if not found.converged:
                length /= growth
            elif found.useful <= EASY:
                length, longest = min(growth * length, longest), FORGIVEN * longest
        return best

    def _size_of_rows(self, x: Tensor) -> float:
        """``‖A x‖`` where nothing cancels: with every other sign turned."""
        return float(self._equations.A.matvec(x * (1 - 2 * (torch.arange(len(x), device=x.device) % 2))).norm())

    def waits(self, iterations: int) -> bool:
        """Whether nothing has been tried, since it would cost much more than all iterations so far."""
        return self.steps == 0 and not self.is_due(iterations)

    def worth(self, iterations: int) -> int:
        """Newton steps that cost as much as all iterations so far, and some in any case."""
        return max(self._equations.fewest_steps, int(iterations / self._equations.cost))

    def _affordable(self, iterations: int) -> int:
        """Newton steps that cost half as much as all iterations so far, and some in any case."""
        return self._equations.fewest_steps + int(iterations / (2 * self._equations.cost))


class Polished(NamedTuple):
    """A pair in scaled units, and what the judge said of it."""

    x: Tensor
    y: Tensor
    residual: float


class _Found(NamedTuple):
    x: Tensor
    s: Tensor
    y: Tensor
    steps: int
    useful: int
    converged: bool


class _Values(NamedTuple):
    """``A^T y``, x(y) and s(y), which of them are inside their bounds, and what is left of the equation."""

    pulled: Tensor
    x: Tensor
    s: Tensor
    inside_x: Tensor
    inside_s: Tensor
    off: Tensor


class ProximalPoint:
    """One proximal step; ``size`` is that of the rows' terms, and tells how large rounding errors may be."""

    def __init__(
        self,
        program: LinearProgram,
        equations: Equations,
        x: Tensor,
        s: Tensor,
        y: Tensor,
        *,
        tau: float,
        sigma: float,
        size: float,
    ) -> None:
        self._program, self._equations, self._A = program, equations, equations.A
        self._x, self._s, self._y, self._tau, self._sigma, self._size = x, s, y, tau, sigma, size

    def solve(self, max_steps: int, deadline: float = math.inf) -> _Found:
        """Newton's method; converged when the equation holds to `SOLVED` of the move of y, or to rounding."""
        y, at, smallest, slow = self._y, self._at(self._y, self._A.rmatvec(self._y)), math.inf, 0
        for steps in range(max_steps + 1):
            off, move = float(at.off.norm()), float((y - self._y).norm()) / self._sigma
            slow = 0 if off < smallest / 2 else slow + 1
            smallest = min(smallest, off)
            solved = (steps > 0 and off <= SOLVED * move) or off <= 1e-14
            converged = solved or (slow >= STALLED and off <= ROUNDING * self._size)
            stopped = steps == max_steps or slow >= self._equations.hopeless or time.monotonic() > deadline
            direction = None if converged or stopped else self._newton_direction(at)
            if direction is None:
                return _Found(at.x, at.s, y, steps, steps - slow, converged)
            y, at = self._line_search(y, at, direction)
        raise AssertionError("unreachable: the last step has no direction")

    def _at(self, y: Tensor, pulled: Tensor) -> _Values:
        lp = self._program
        x = self._x - self._tau * (lp.c - pulled)
        s = self._s - self._tau * y
        inside_x, inside_s = (x > lp.col_lower) & (x < lp.col_upper), (s > lp.row_lower) & (s < lp.row_upper)
        x, s = x.clamp(lp.col_lower, lp.col_upper), s.clamp(lp.row_lower, lp.row_upper)
        return _Values(pulled, x, s, inside_x, inside_s, self._A.matvec(x) - s + (y - self._y) / self._sigma)

    def _newton_direction(self, at: _Values) -> Tensor | None:
        direction = self._equations.solve(at.inside_x, at.inside_s, self._tau, self._sigma, -at.off)
        return direction if direction is not None and bool(torch.isfinite(direction).all()) else None

    def _line_search(self, y: Tensor, at: _Values, direction: Tensor) -> tuple[Tensor, _Values]:
        """Bisection for a step whose slope is at most half of the first one, from the full step on."""
        pulled = self._A.rmatvec(direction)
        slope_at = self._slopes(y, at, direction, pulled)
        first, low, high, length = abs(float(at.off @ direction)), 0.0, 1.0, 1.0
        for _ in range(HALVINGS):
            slope = slope_at(length)
            if not slope > first / 2 and (length == 1 or not slope < -first / 2):
                break
            low, high = (low, length) if slope > 0 else (length, high)
            length = (low + high) / 2
        return y + length * direction, self._at(y + length * direction, at.pulled + length * pulled)

    def _slopes(self, y: Tensor, at: _Values, direction: Tensor, pulled: Tensor) -> Callable[[float], float]:
        """``x^T A^T d - s^T d + (y + t d - y0)^T d / sigma`` of a step t along d, which takes no product with A."""
        lp, tau = self._program, self._tau
        x, s = self._x - tau * (lp.c - at.pulled), self._s - tau * y
        offset, growth = (float(part @ direction) / self._sigma for part in (y - self._y, direction))

        def slope_at(length: float) -> float:
            moved_x = torch.add(x, pulled, alpha=length * tau).clamp_(lp.col_lower, lp.col_upper)
            moved_s = torch.sub(s, direction, alpha=length * tau).clamp_(lp.row_lower, lp.row_upper)
            return float(moved_x @ pulled - moved_s @ direction) + offset + length * growth

        return slope_at


def _with_signs(y: Tensor, program: LinearProgram) -> Tensor:
    """Without components against rows that have no bound on that side."""
    y = torch.where(torch.isinf(program.row_upper), y.clamp(min=0), y)
    return torch.where(torch.isinf(program.row_lower), y.clamp(max=0), y)
