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
from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from backends.certificates import certify
from backends.chunks import pieces
from backends.kkt import Incumbent, KKTCheck, Residuals
from backends.memory import most_to_polish
from backends.pdlp.batch import Batch, below, columns_of, product, transposed_product
from backends.pdlp.factored_equations import equations_of_factors
from backends.pdlp.factored_projection import FactoredProjection
from backends.pdlp.iteration import AnchoredIteration, Callback, drive
from backends.pdlp.limits import Limits
from backends.pdlp.polish import Attempt, Polish, run
from backends.pdlp.projection import Projection
from backends.pdlp.proximal import Point
from backends.pdlp.restarts import PrimalWeight
from backends.pdlp.sweeps import Splitting, sweep
from backends.pdlp.units import in_units
from lift_core.lp import BackendAnswer, LPStart

SAFETY = 0.9
"""Share of ``rtol`` for residuals; gap and leak together get half of that, so that the objective is within ``rtol``."""
STALL_ITERATIONS = 5_000
STEP, DUAL_WEIGHT = 0.12, 2.0
"""What polishing measures its proximal steps in, in steps of the splitting, and the weight between steps of x and of y,
in ``‖y‖ / ‖x‖``: rows are violated long after the objectives agree, so y has to move faster than balance asks for."""
FIRST_POLISH = 80
"""Iterations before polishing is first tried where curvature is factored, times half the number of programs in a batch:
programs share more of an iteration than of a Newton step, of which later attempts need fewer."""
SMALLEST_SHRINKAGE = 0.9
"""Below this, shrinking towards 0 would cost more than the violation it repairs."""


def solve(
    batch: Batch,
    projection: Projection,
    starts: Sequence[LPStart | None],
    limits: Limits,
    *,
    callback: Callback | None = None,
    polish: bool = True,
    names: Sequence[int] | None = None,
) -> list[BackendAnswer]:
    """Iterate until residuals and leak meet ``limits.rtol``, a certificate is verified, or a limit is reached."""
    return drive(
        DouglasRachford(batch, projection, starts, rtol=limits.rtol, polish=polish, deadline=limits.deadline),
        limits,
        callback,
        names,
    )


def is_accurate(residuals: Residuals, rtol: float) -> bool:
    """Whether the residuals meet ``rtol`` and the objective is within it, too."""
    return residuals.worst <= SAFETY * rtol and residuals.objective_error <= SAFETY / 2 * rtol


class DouglasRachford(AnchoredIteration):
    """The iterates of one solve in units of the boxes."""

    def __init__(
        self,
        batch: Batch,
        projection: Projection,
        starts: Sequence[LPStart | None],
        *,
        rtol: float = 1e-4,
        polish: bool = False,
        deadline: float = math.inf,
    ) -> None:
        self.projection, self.rtol, self.deadline, self.n = projection, rtol, deadline, len(batch.c)
        zero_x = torch.zeros_like(batch.c).clamp(batch.col_lower, batch.col_upper)
        zero_y = torch.zeros_like(batch.row_lower)
        best = [Incumbent(zero_x[:, column], zero_y[:, column]) for column in range(batch.size)]
        super().__init__(batch, [_step_control(max(len(zero_x) + len(zero_y), 1) ** -0.5) for _ in starts], best)
        self.improved_at, self.previous = [0] * batch.size, (zero_x, zero_y)
        self.polished, self._due = [False] * batch.size, list[int]()
        if polish and most_to_polish(self.n, zero_x.device):
            tall = projection.factors if isinstance(projection, FactoredProjection) else None
            equations = equations_of_factors(batch.A, tall)
            first = math.ceil(FIRST_POLISH * max(batch.size / 2, 1))
            self.polish = [None if equations is None else Polish(equations, first) for _ in starts]
        self.cost_size = torch.ones(batch.size, dtype=torch.float64, device=zero_x.device)
        self._set_bounds()
        z = torch.zeros_like(self.cost)
        for column, start in enumerate(starts):
            if start is not None:
                z[:, column] = self.fixed_point(start, column)
        self.z, self.anchor = z, z.clone()
        self.first_error = torch.zeros_like(self.cost_size)
        self._begin([True] * batch.size)
        self.anchor_pair = self.pair(z)

    def _set_bounds(self) -> None:
        """Bounds and costs in units of the boxes, the costs of size one."""
        lp, graph = self.batch, self.projection.graph
        lower = (lp.col_lower - graph.center_x) / graph.scale_x, in_units(lp.row_lower - graph.center_s, graph.scale_s)
        upper = (lp.col_upper - graph.center_x) / graph.scale_x, in_units(lp.row_upper - graph.center_s, graph.scale_s)
        self.lower, self.upper = below(*lower), below(*upper)
        cost = below(lp.c * graph.scale_x, torch.zeros_like(graph.scale_s))
        size = cost.norm(dim=0)
        self.cost_size = torch.where(size > 0, size, 1.0)
        self.cost = cost / self.cost_size
        self.kkt = KKTCheck(lp)
        self._w, self.reflected, self.projected = (torch.empty_like(cost) for _ in range(3))

    def _begin(self, fresh: list[bool]) -> None:
        """Step sizes of new epochs."""
        weights = torch.tensor([weight.value for weight in self.weights], dtype=torch.float64).to(self.z.device)
        self.gamma, self._fresh, self._any_fresh = 1 / weights, torch.tensor(fresh).to(weights.device), True
        self._shift = self.gamma * self.cost

    def fixed_point(self, start: LPStart, column: int) -> Float64[Tensor, " n+m"]:
        """``z = w + gamma M^T y``, the fixed point that belongs to a solution (x, y)."""
        graph, lp = self.projection.graph, self.batch
        scale_x, scale_s = graph.scale_x[:, column], graph.scale_s[:, column]
        x = start.x.clamp(lp.col_lower[:, column], lp.col_upper[:, column])
        activity = in_units(lp.A.matvec(x) - graph.center_s[:, column], scale_s)
        w = torch.cat([(x - graph.center_x[:, column]) / scale_x, activity])
        pulled = torch.cat([scale_x * lp.A.rmatvec(start.y), -scale_s * start.y]) / self.cost_size[column]
        primal, dual = float(w.norm()), float(pulled.norm())
        if start.weight is not None:
            self.weights[column] = _step_control(start.weight)
        elif primal > 0 and dual > 0:
            self.weights[column] = _step_control(dual / primal)
        return w + pulled / self.weights[column].value

    def pair(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The primal point ``w1`` and the dual ``(z - w1) / gamma`` that z stands for."""
        w = (z - self._shift).clamp_(self.lower, self.upper)
        return w, (z - w) / self.gamma

    def map(self) -> None:
        """``w1`` and ``w2`` of z."""
        blocks = self.z, self._shift, self.lower, self.upper, self._w, self.reflected
        for z, shift, lower, upper, w, reflected in pieces(*(block.mT for block in blocks)):
            torch.sub(z, shift, out=w).clamp_(lower, upper)
            torch.lerp(z, w, 2.0, out=reflected)
        self.projection.project(self.reflected, out=self.projected)
        if self._any_fresh:
            self.first_error = torch.where(self._fresh, self.move.norm(dim=0), self.first_error)
            self._any_fresh = False
        self.iterations += 1

    def advance(self, count: int) -> None:
        """All but the first iteration of an epoch in one pass over the factors each, where the projection has some."""
        projection = self.projection
        if self._any_fresh and count > 0:
            super().advance(1)
            count -= 1
        if not (count > 0 and isinstance(projection, FactoredProjection) and projection.can_sweep):
            return super().advance(count)
        splitting = Splitting(self.lower, self.upper, self._shift, self.anchor)
        sweep(projection, splitting, self.z, self.shares(count))
        self.iterations += count
        return None

    @property
    def move(self) -> Float64[Tensor, "n+m b"]:
        """``T(z) - z = w2 - w1``."""
        return self.projected - self._w

    def average(self, share: float | Tensor) -> None:
        share = share[:, None] if isinstance(share, Tensor) else share
        blocks = self.anchor, self.z, self.projected, self._w
        for anchor, z, projected, w in pieces(*(block.mT for block in blocks)):
            z.add_(projected - w, alpha=2.0)
            torch.lerp(anchor, z, share, out=z)

    def check(self) -> list[Residuals]:
        """Residuals of the feasible point and the multiplier at hand, and what the restart needs, in one transfer."""
        A, self._mapped_pair = self.batch.A, self.pair(self.z + self.move)  # noqa: N806
        self.x = self.feasible_point()
        self.y = self.projection.multiplier(self.reflected) * (-self.cost_size / self.gamma)
        residuals = self.kkt.evaluate(self.x, self.y, product(A, self.x), transposed_product(A, self.y))
        distances = [(new - old).norm(dim=0) for new, old in zip(self._mapped_pair, self.anchor_pair, strict=True)]
        numbers = torch.cat([residuals, torch.stack([self.move.norm(dim=0), self.first_error, *distances])]).T.tolist()
        found = [Residuals(*row[:6]) for row in numbers]
        self.errors, self.distances = [(row[6], row[7]) for row in numbers], [row[8:] for row in numbers]
        for column, result in enumerate(found):
            if self.best[column].offer(self.x[:, column], self.y[:, column], _score(result)):
                self.improved_at[column] = self.iterations
        self._due = [
            column
            for column, (polish, result) in enumerate(zip(self.polish, found, strict=True))
            if polish is not None and polish.is_due(self.iterations) and not is_accurate(result, self.rtol)
        ]
        return found

    def is_done(self, column: int, residuals: Residuals) -> bool:
        """Accurate; or within the tolerance when the second half of all iterations brought nothing any more."""
        if self._due:
            self._polish_all(self._due)
            self._due = []
        if is_accurate(residuals, self.rtol) or self.polished[column]:
            return True
        stalled = self.iterations > max(2 * self.improved_at[column], STALL_ITERATIONS)
        if not (stalled and residuals.worst <= SAFETY * self.rtol):
            return False
        self.best[column] = Incumbent(self.x[:, column].clone(), self.y[:, column].clone())
        return True

    def _polish_all(self, columns: list[int]) -> None:
        """As many at once as there is memory for."""
        most = max(most_to_polish(self.n, self.x.device), 1)
        for first in range(0, len(columns), most):
            self._polish(columns[first : first + most])

    def _polish(self, columns: list[int]) -> None:
        """Offer what Newton's method makes of the current pairs, and remember which of them are accurate."""
        goal, batch = SAFETY * self.rtol, self.batch.keep(columns)
        x, y = columns_of(self.x, columns), columns_of(self.y, columns)
        polishes = [polish for column in columns if (polish := self.polish[column]) is not None]
        units = self.projection.graph.scale_x[:, columns].square().mean(0)
        steps = STEP * self.gamma[columns] / self.cost_size[columns] * units
        sizes = torch.stack([x.norm(dim=0), y.norm(dim=0), steps], dim=1).tolist()
        attempts: list[Attempt] = []
        for polish, (of_x, of_y, step) in zip(polishes, sizes, strict=True):
            balanced = of_y / (of_x or 1.0) or 1.0
            attempts.append(polish.attempt(DUAL_WEIGHT * balanced, step * balanced, self.iterations))
        programs = [batch.keep([column]) for column in range(batch.size)]
        checks = [KKTCheck(program) for program in programs]

        def judge(program: int, point: Point) -> float:
            vectors = (vector[:, None] for vector in (point.x, point.y, point.activity, point.pulled))
            found = Residuals(*checks[program].evaluate(*vectors)[:, 0].tolist())
            self.best[columns[program]].offer(point.x, point.y, _score(found))
            return _score(found)

        run(batch, x, y, attempts, polishes[0].equations, judge=judge, goal=goal, deadline=self.deadline)
        for column, polish, attempt in zip(columns, polishes, attempts, strict=True):
            polish.steps += attempt.steps
            self.polished[column] = attempt.residual <= goal

    def feasible_point(self) -> Float64[Tensor, "n b"]:
        """x of ``w2``, shrunk towards 0 until it and its activity fit their bounds, if that is a small change."""
        graph, lp = self.projection.graph, self.batch
        x = graph.center_x + graph.scale_x * self.projected[: self.n]
        activity = graph.center_s + graph.scale_s * self.projected[self.n :]
        ratios = [_shrinkage(x, lp.col_lower, lp.col_upper), _shrinkage(activity, lp.row_lower, lp.row_upper)]
        smallest = torch.cat([*ratios, x.new_ones(1, x.shape[1])]).amin(0)
        shrunk = torch.where(smallest >= SMALLEST_SHRINKAGE, smallest * x, x)
        return shrunk.clamp(lp.col_lower, lp.col_upper)

    def restart(self, due: list[bool], residuals: list[Residuals]) -> None:
        w, dual = self._mapped_pair
        for column, is_due in enumerate(due):
            if is_due:
                found = residuals[column]
                primal, dual_move = self.distances[column]
                self.weights[column].update(primal, dual_move, found.gap / max(found.primal, 1e-300))
        self._begin(due)
        mask, z = self._fresh, w + self.gamma * dual
        self.z, self.anchor = torch.where(mask, z, self.z), torch.where(mask, z, self.anchor)
        old = self.anchor_pair
        self.anchor_pair = tuple(torch.where(mask, a, b) for a, b in zip(self.pair(z), old, strict=True))

    def certificate(self, column: int) -> BackendAnswer | None:
        """Out of the pair or its change since the last time."""
        x, y = self.x[:, column], self.y[:, column]
        old_x, old_y = (block[:, column].clone() for block in self.previous)
        self.previous[0][:, column], self.previous[1][:, column] = x, y
        return certify(self.batch.program(column), [x, x - old_x], [y, y - old_y], self.iterations)

    def keep(self, columns: list[int]) -> None:
        self.keep_records(columns)
        self.projection = self.projection.keep(columns)
        self._set_bounds()
        self.improved_at = [self.improved_at[column] for column in columns]
        self.polished = [self.polished[column] for column in columns]
        self.z, self.anchor = columns_of(self.z, columns), columns_of(self.anchor, columns)
        self.previous, self.anchor_pair = (
            (columns_of(x, columns), columns_of(y, columns)) for x, y in (self.previous, self.anchor_pair)
        )
        self.first_error = self.first_error[columns]
        pending, fresh = self._any_fresh, [bool(self._fresh[column]) for column in columns]
        self._begin(fresh)
        self._any_fresh = pending


def _score(residuals: Residuals) -> float:
    """What is to get below `SAFETY` times the tolerance."""
    return max(residuals.worst, 2 * residuals.objective_error)


def _shrinkage(value: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Largest t in [0, 1] with ``lower <= t value <= upper``, entry by entry."""
    bound = torch.where(value > upper, upper, torch.where(value < lower, lower, value))
    return torch.where(bound == value, 1.0, (bound / value).clamp(0, 1))


def _step_control(weight: float) -> PrimalWeight:
    """Control of 1 / gamma, half the correction at a time: with exact projections full ones were seen to oscillate."""
    return PrimalWeight(weight, proportional=0.5, integral=0.0)
