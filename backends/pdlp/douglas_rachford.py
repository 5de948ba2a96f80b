"""Douglas-Rachford splitting for direction LPs, anchored and restarted like r2HPDHG.

With every variable, the row activities included, in a box of about unit size (``w = (u, v)``, see `Graph`):

    w1 = proj_box(z - gamma c),   w2 = proj_{M w = b}(2 w1 - z),   T(z) = z + w2 - w1
    z+ = (k + 1) / (k + 2) (2 T(z) - z) + 1 / (k + 2) z0

The projection's multiplier t is the dual: ``y = -t / gamma``. A direction LP has a feasible point 0, so that ``w2``,
shrunk towards it until it fits its box, is exactly feasible: an error of epsilon in the unit box costs epsilon of the
objective.

Reference: Lions & Mercier (1979); anchoring and restarts as in arXiv 2407.16144, here with T firmly nonexpansive.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from backends.certificates import certify
from backends.kkt import Incumbent, KKTCheck, Residuals
from backends.pdlp.interior import interior_pair
from backends.pdlp.limits import Limits
from backends.pdlp.projection import Projection
from backends.pdlp.restarts import PrimalWeight, RestartRule
from backends.pdlp.units import in_units
from lift_core.lp import BackendAnswer, LinearProgram, LPStart, LPStatus

SAFETY = 0.9
"""Share of ``rtol`` for residuals; gap and leak together get half of that, so that the objective is within ``rtol``."""
STALL_ITERATIONS = 5_000
RAY_CHECKS = 5
SMALLEST_SHRINKAGE = 0.9
"""Below this, shrinking towards 0 would cost more than the violation it repairs."""


def solve(lp: LinearProgram, projection: Projection, start: LPStart | None, limits: Limits) -> BackendAnswer:
    """Iterate until residuals and leak meet ``limits.rtol``, a certificate is verified, or a limit is reached."""
    pair = interior_pair(lp)
    if pair is not None and is_accurate(KKTCheck(lp).recompute(*pair), limits.rtol):
        return BackendAnswer(pair.x, pair.y, LPStatus.OPTIMAL, 0)
    run = DouglasRachford(lp, projection, start)
    checks = 0
    while True:
        for _ in range(limits.block(run.iterations) - 1):
            run.average(run.map())
        move = run.map()
        residuals = run.check(move)
        checks += 1
        if is_accurate(residuals, limits.rtol) or (run.stalled and residuals.worst <= SAFETY * limits.rtol):
            return BackendAnswer(run.best.x, run.best.y, LPStatus.OPTIMAL, run.iterations)
        if checks % RAY_CHECKS == 0 and (answer := run.certificate()) is not None:
            return answer
        if math.isinf(residuals.worst):
            return BackendAnswer(run.best.x, run.best.y, LPStatus.NUMERICAL_ERROR, run.iterations)
        if (reached := limits.reached(run.iterations)) is not None:
            return BackendAnswer(run.best.x, run.best.y, reached, run.iterations)
        if not run.restart_if_due(move, residuals):
            run.average(move)


def is_accurate(residuals: Residuals, rtol: float) -> bool:
    """Whether the residuals meet ``rtol`` and the objective is within it, too."""
    return residuals.worst <= SAFETY * rtol and accuracy(residuals) <= SAFETY / 2 * rtol


def accuracy(residuals: Residuals) -> float:
    """Relative distance to the optimal value that gap and leak allow."""
    size = 1 + abs(residuals.primal_objective) + abs(residuals.dual_objective)
    return residuals.gap + residuals.leak / size


class DouglasRachford:
    """The iterates of one solve in units of the boxes."""

    def __init__(self, lp: LinearProgram, projection: Projection, start: LPStart | None) -> None:
        self.lp, self.graph, self.projection = lp, projection.graph, projection
        graph = self.graph
        self.n, self.iterations, self.improved_at = lp.num_columns, 0, 0
        self.rule, self.kkt = RestartRule(), KKTCheck(lp)
        lower = [
            (lp.col_lower - graph.center_x) / graph.scale_x,
            in_units(lp.row_lower - graph.center_s, graph.scale_s),
        ]
        upper = [
            (lp.col_upper - graph.center_x) / graph.scale_x,
            in_units(lp.row_upper - graph.center_s, graph.scale_s),
        ]
        self.lower, self.upper = torch.cat(lower), torch.cat(upper)
        cost = torch.cat([lp.c * graph.scale_x, torch.zeros_like(graph.scale_s)])
        self.cost_size = float(cost.norm()) or 1.0
        self.cost = cost / self.cost_size
        self.weight = _step_control(max(len(cost), 1) ** -0.5)
        zero = torch.zeros_like
        self.previous = zero(lp.c).clamp(lp.col_lower, lp.col_upper), zero(lp.row_lower)
        self.best = Incumbent(*self.previous)
        self.begin(zero(cost) if start is None else self.fixed_point(start))

    @property
    def stalled(self) -> bool:
        """Whether the second half of all iterations brought nothing: the floor of float64 is reached."""
        return self.iterations > max(2 * self.improved_at, STALL_ITERATIONS)

    @property
    def gamma(self) -> float:
        """The step size."""
        return 1 / self.weight.value

    def fixed_point(self, start: LPStart) -> Float64[Tensor, " n+m"]:
        """``z = w + gamma M^T y``, the fixed point that belongs to a solution (x, y)."""
        graph = self.graph
        x = start.x.clamp(self.lp.col_lower, self.lp.col_upper)
        activity = self.lp.A.matvec(x)
        w = torch.cat([(x - graph.center_x) / graph.scale_x, in_units(activity - graph.center_s, graph.scale_s)])
        pulled = torch.cat([graph.scale_x * self.lp.A.rmatvec(start.y), -graph.scale_s * start.y]) / self.cost_size
        primal, dual = float(w.norm()), float(pulled.norm())
        if primal > 0 and dual > 0:
            self.weight = _step_control(dual / primal)
        return w + self.gamma * pulled

    def begin(self, z: Tensor) -> None:
        """Start an epoch anchored at z."""
        self.z = self.anchor = z
        self.anchor_pair = self.pair(z)
        self.k = 0

    def pair(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The primal point ``w1`` and the dual ``(z - w1) / gamma`` that z stands for."""
        w = (z - self.gamma * self.cost).clamp(self.lower, self.upper)
        return w, (z - w) / self.gamma

    def map(self) -> Float64[Tensor, " n+m"]:
        """``T(z) - z = w2 - w1``."""
        w = (self.z - self.gamma * self.cost).clamp(self.lower, self.upper)
        self.reflected = 2 * w - self.z
        self.projected = self.projection.project(self.reflected)
        move = self.projected - w
        if self.k == 0:
            self.first_error = move.norm()
        self.iterations += 1
        return move

    def average(self, move: Tensor) -> None:
        """Reflect T(z) at z and average with the anchor."""
        self.z = torch.lerp(self.anchor, self.z + 2 * move, (self.k + 1) / (self.k + 2))
        self.k += 1

    def check(self, move: Tensor) -> Residuals:
        """Residuals of the feasible point and the multiplier at hand, and what the restart needs, in one transfer."""
        A = self.lp.A  # noqa: N806
        self.x = x = self.feasible_point()
        self.y = self.projection.multiplier(self.reflected) * (-self.cost_size / self.gamma)
        residuals = self.kkt.evaluate(x, self.y, A.matvec(x), A.rmatvec(self.y))
        mapped = self.pair(self.z + move)
        distances = [(new - old).norm() for new, old in zip(mapped, self.anchor_pair, strict=True)]
        numbers = torch.cat([residuals, torch.stack([move.norm(), self.first_error, *distances])]).tolist()
        found = Residuals(*numbers[:6])
        self.errors, self.distances = numbers[6:8], numbers[8:]
        if self.best.offer(x, self.y, max(found.worst, 2 * accuracy(found))):
            self.improved_at = self.iterations
        return found

    def feasible_point(self) -> Float64[Tensor, " n"]:
        """x of ``w2``, shrunk towards 0 until it and its activity fit their bounds, if that is a small change."""
        graph, lp = self.graph, self.lp
        x = graph.center_x + graph.scale_x * self.projected[: self.n]
        activity = graph.center_s + graph.scale_s * self.projected[self.n :]
        ratios = [_shrinkage(x, lp.col_lower, lp.col_upper), _shrinkage(activity, lp.row_lower, lp.row_upper)]
        smallest = torch.cat([*ratios, x.new_ones(1)]).min()
        shrunk = torch.where(smallest >= SMALLEST_SHRINKAGE, smallest * x, x)
        return shrunk.clamp(lp.col_lower, lp.col_upper)

    def restart_if_due(self, move: Tensor, residuals: Residuals) -> bool:
        """Restart from T(z) with an updated step size if the rule says so; call after `check`."""
        error, initial = self.errors
        if not self.rule.due(error, initial=initial, epoch_iterations=self.k + 1, iterations=self.iterations):
            return False
        w, dual = self.pair(self.z + move)
        self.weight.update(self.distances[0], self.distances[1], residuals.gap / max(residuals.primal, 1e-300))
        self.begin(w + self.gamma * dual)
        return True

    def certificate(self) -> BackendAnswer | None:
        """A verified certificate out of the pair or its change since the last time."""
        old_x, old_y = self.previous
        self.previous = self.x, self.y
        return certify(self.lp, [self.x, self.x - old_x], [self.y, self.y - old_y], self.iterations)


def _shrinkage(value: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Largest t in [0, 1] with ``lower <= t value <= upper``, entry by entry."""
    bound = torch.where(value > upper, upper, torch.where(value < lower, lower, value))
    return torch.where(bound == value, 1.0, (bound / value).clamp(0, 1))


def _step_control(weight: float) -> PrimalWeight:
    """Control of 1 / gamma, half the correction at a time: with exact projections full ones were seen to oscillate."""
    return PrimalWeight(weight, proportional=0.5, integral=0.0)
