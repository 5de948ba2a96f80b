"""Line searches: how far to go along a direction, judged by a function that may be noisy, infinite or NaN.

Both take ``φ(t)`` for t ≥ 0 with ``φ(0)`` known, and return the best t they evaluated; 0 if none was better.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

GOLDEN = (math.sqrt(5) - 1) / 2


class LineSearchResult(NamedTuple):
    """The best step and all evaluations ``(t, φ(t))`` in the order they were made, (0, φ(0)) first."""

    step_size: float
    value: float
    evaluations: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class LineSearch(ABC):
    """A way to choose a step size.

    Attributes:
        initial_step: first t that is tried.
        max_evaluations: evaluations of φ, φ(0) not counted.
    """

    initial_step: float = 1.0
    max_evaluations: int = 16

    def __post_init__(self) -> None:
        if not (self.initial_step > 0 and math.isfinite(self.initial_step)):
            raise ValueError(f"initial_step: expected a positive number, got {self.initial_step}")
        if self.max_evaluations < 1:
            raise ValueError(f"max_evaluations: expected at least 1, got {self.max_evaluations}")

    def search(self, phi: Callable[[float], float], value_at_zero: float, slope: float) -> LineSearchResult:
        """Minimise φ over t ≥ 0.

        Args:
            phi: the function; NaN counts as infinite.
            value_at_zero: φ(0).
            slope: predicted φ'(0), negative for a descent direction.
        """
        if not math.isfinite(value_at_zero):
            raise ValueError(f"value_at_zero: expected a finite number, got {value_at_zero}")
        seen = {0.0: value_at_zero}

        def evaluate(t: float) -> float:
            if t not in seen:
                value = phi(t)
                seen[t] = math.inf if math.isnan(value) else value
            return seen[t]

        self.explore(evaluate, lambda: len(seen) <= self.max_evaluations, slope)
        best = min(seen, key=lambda t: (seen[t], t))
        return LineSearchResult(best, seen[best], tuple(seen.items()))

    @abstractmethod
    def explore(self, phi: Callable[[float], float], may_evaluate: Callable[[], bool], slope: float) -> None:
        """Evaluate φ where it is worth it, asking ``may_evaluate`` before each evaluation."""


@dataclass(frozen=True, kw_only=True)
class GoldenSection(LineSearch):
    """A bracket grown (or shrunk) geometrically from ``initial_step``, then golden section inside it.

    Attributes:
        growth: factor of the bracket phase.
        rtol: width of the bracket, relative to its best t, at which the search ends.

    >>> round(GoldenSection(rtol=1e-3, max_evaluations=40).search(lambda t: (t - 3) ** 2, 9.0, -6.0).step_size, 2)
    3.0
    """

    growth: float = 4.0
    rtol: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.growth > 1:
            raise ValueError(f"growth: expected a number above 1, got {self.growth}")
        if not self.rtol >= 0:
            raise ValueError(f"rtol: expected a number of at least 0, got {self.rtol}")

    def explore(self, phi: Callable[[float], float], may_evaluate: Callable[[], bool], slope: float) -> None:
        bracket = self._bracket(phi, may_evaluate)
        if bracket is None:
            return
        low, middle, high = bracket
        while may_evaluate() and high - low > self.rtol * middle:
            larger_is_left = middle - low > high - middle
            t = middle - (1 - GOLDEN) * (middle - low) if larger_is_left else middle + (1 - GOLDEN) * (high - middle)
            if phi(t) < phi(middle):
                low, middle, high = (low, t, middle) if larger_is_left else (middle, t, high)
            else:
                low, high = (t, high) if larger_is_left else (low, t)

    def _bracket(
        self, phi: Callable[[float], float], may_evaluate: Callable[[], bool]
    ) -> tuple[float, float, float] | None:
        """``low < middle < high`` with φ(middle) below both ends, or None if the evaluations do not reach for one."""
        low, middle = 0.0, self.initial_step
        while phi(middle) >= phi(0.0):  # too far: shrink towards 0
            if not may_evaluate():
                return None
            middle, high = middle / self.growth, middle
            if middle == 0.0:
                return None
            if phi(middle) < phi(0.0):
                return low, middle, high
        while may_evaluate():  # still falling: grow
            high = middle * self.growth
            if phi(high) >= phi(middle):
                return low, middle, high
            low, middle = middle, high
        return None


@dataclass(frozen=True, kw_only=True)
class Armijo(LineSearch):
    """Backtracking until ``φ(t) ≤ φ(0) + c t φ'(0)``: the cheap alternative.

    Attributes:
        shrink: factor by which t falls.
        sufficient: c, the share of the predicted decrease that is asked for.

    Reference: Nocedal & Wright (2006), algorithm 3.1.

    >>> Armijo().search(lambda t: (t - 3) ** 2, 9.0, -6.0).step_size
    1.0
    """

    shrink: float = 0.5
    sufficient: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.shrink < 1:
            raise ValueError(f"shrink: expected a number in (0, 1), got {self.shrink}")

    def explore(self, phi: Callable[[float], float], may_evaluate: Callable[[], bool], slope: float) -> None:
        t = self.initial_step
        while may_evaluate() and phi(t) > phi(0.0) + self.sufficient * t * min(slope, 0.0):
            t *= self.shrink
