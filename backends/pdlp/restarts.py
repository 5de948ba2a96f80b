"""When a Halpern iteration restarts, and how the weight between primal and dual moves follows.

Reference: Lu et al. (2025), cuPDLPx, arXiv 2507.14051, sections 3.2 (restarts) and 3.3 (weight).
"""

from __future__ import annotations

import math

SUFFICIENT, NECESSARY, ARTIFICIAL = 0.2, 0.5, 0.36
"""Restart thresholds: decay that suffices, decay that suffices once progress stops, share of all iterations."""


class RestartRule:
    """Restarts on the fixed-point error ``r = ||z - T(z)||`` relative to that of the epoch's first point.

    >>> RestartRule().due(0.1, initial=1.0, epoch_iterations=40, iterations=1000)
    True
    """

    def __init__(self) -> None:
        self._previous = math.inf

    def due(self, error: float, *, initial: float, epoch_iterations: int, iterations: int) -> bool:
        """Whether to restart after ``epoch_iterations`` of this epoch and ``iterations`` in all."""
        stalled = error <= NECESSARY * initial and error > self._previous
        restart = error <= SUFFICIENT * initial or stalled or epoch_iterations >= ARTIFICIAL * iterations
        self._previous = math.inf if restart else error
        return restart


class PrimalWeight:
    """PID control of the weight omega, which balances ``omega ||dx||`` and ``||dy||`` between restarts.

    ``log omega += Kp e + Ki sum(e) + Kd (e - e_previous)`` with ``e = log ||dy|| - log ||dx|| - log omega``. Where the
    moves say nothing (one of them vanishes), it falls back to the weight under which the residuals were best balanced.
    """

    def __init__(
        self, value: float, *, proportional: float = 0.99, integral: float = 0.01, derivative: float = 0.0
    ) -> None:
        self.value = value
        self._gains = (proportional, integral, derivative)
        self._best, self._best_imbalance = value, math.inf
        self._sum = self._last = 0.0

    def update(self, primal_move: float, dual_move: float, residual_ratio: float) -> float:
        """The next weight, from the distances moved in this epoch and the ratio of dual to primal residual."""
        if all(1e-14 < move < 1e14 for move in (primal_move, dual_move)):
            error = math.log(dual_move / primal_move) - math.log(self.value)
            self._sum = 0.3 * self._sum + error
            kp, ki, kd = self._gains
            exponent = kp * error + ki * self._sum + kd * (error - self._last)
            self.value *= math.exp(min(max(exponent, -20.0), 20.0))
            self._last = error
        else:
            self.value, self._sum, self._last = self._best, 0.0, 0.0
        imbalance = abs(math.log(residual_ratio)) if 0 < residual_ratio < math.inf else math.inf
        if imbalance < self._best_imbalance:
            self._best, self._best_imbalance = self.value, imbalance
        return self.value
