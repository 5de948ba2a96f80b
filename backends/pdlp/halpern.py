"""r2HPDHG: restarted, reflected Halpern primal-dual hybrid gradient, two products with A per iteration.

One iteration maps ``z = (x, y)`` to ``T(z) = (x', y')`` and averages its reflection with the anchor z0 of the epoch:

    x' = proj_X(x - tau (c - A^T y)),      a = A (2 x' - x)
    y' = y + sigma (proj_[lower, upper](a - y / sigma) - a)
    z+ = (k + 1) / (k + 2) (2 T(z) - z) + 1 / (k + 2) z0

with ``tau = eta / omega``, ``sigma = eta omega``, ``eta = 0.998 / ||A||`` and omega the weight of `PrimalWeight`.
``A x`` and ``A^T y`` are carried along by the same linear combinations, so that residuals cost no product. Programs
that share A are iterated side by side, and each product is one with a block.

Reference: Lu & Yang (2024), arXiv 2407.16144; Lu et al. (2025), cuPDLPx, arXiv 2507.14051, algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from backends.certificates import certify
from backends.kkt import Incumbent, KKTCheck, Residuals
from backends.pdlp.batch import Batch, columns_of, product, transposed_product
from backends.pdlp.equations import equations_of_entries
from backends.pdlp.feasibility import Feasibility
from backends.pdlp.iteration import AnchoredIteration, Callback, drive
from backends.pdlp.limits import Limits
from backends.pdlp.polish import Polish, run
from backends.pdlp.proximal import Point
from backends.pdlp.restarts import PrimalWeight
from backends.pdlp.scaling import ScaledBatch, read_entries, scale, spectral_norm
from lift_core.lp import BackendAnswer, LinearProgram, LPStart, LPStatus

STEP = 0.998
FIRST_POLISH = 500
"""Iterations before polishing is first tried."""
SHARE = 1 / 16
"""Iterations before the first attempt, where more, as a share of what its Newton steps may cost."""
FINE = 1e-6
"""What an answer to a looser tolerance is polished to, once: where duals are huge, residuals of 1e-4 can hide an
objective that is percents off. If nothing has been tried yet, iterations go on until it is due."""
ASTRAY, HOME = 100.0, 2e-3
"""A pair so many times worse than the best one, if that is this good, makes the next epoch start there, once, with the
weight of then: on some badly scaled programs the weight runs away."""
JUMP = 10.0
"""Polished pairs that are so many times better are where the next epoch starts."""
SMALLEST_STEP = 1e-8
"""Share of ``||A x||`` above which a step says something about the norm of A."""
PATIENCE = (2, 1_000)
"""Times as many iterations, and so many more, that a program whose residuals are small gets for its objective."""
SAFETY = 0.98
"""Share of ``rtol`` to reach: residuals from carried products differ a little from recomputed ones."""


def solve(
    batch: Batch,
    starts: Sequence[LPStart | None],
    limits: Limits,
    *,
    callback: Callback | None = None,
    polish: bool = True,
    names: Sequence[int] | None = None,
) -> list[BackendAnswer]:
    """Iterate until the unscaled residuals meet ``limits.rtol``, a certificate is verified, or a limit is reached."""
    scaled = scale(batch)
    effort = {"width": 4, "iterations": 500} if read_entries(batch.A) is not None else {"width": 1, "iterations": 50}
    norm = spectral_norm(scaled.batch.A, **effort)
    if norm == 0:
        return [solve_separable(batch.program(column)) for column in range(batch.size)]
    return drive(PDHG(batch, scaled, STEP / norm, starts, limits, polish=polish), limits, callback, names)


def solve_separable(lp: LinearProgram) -> BackendAnswer:
    """The exact answer when A has no nonzero entry: every column goes to its cheaper bound."""
    y = torch.zeros(lp.num_rows, dtype=torch.float64, device=lp.A.device)
    zero = torch.zeros_like(lp.c)
    resting = zero.clamp(lp.col_lower, lp.col_upper)
    x = torch.where(lp.c > 0, lp.col_lower, torch.where(lp.c < 0, lp.col_upper, resting))
    farkas = (lp.row_lower > 0).to(torch.float64) - (lp.row_upper < 0).to(torch.float64)
    recession = torch.where(torch.isinf(x), -lp.c, zero)
    verdict = certify(lp, [recession], [farkas], 0)
    return verdict or BackendAnswer(x, y, LPStatus.OPTIMAL, 0)


class Pair(NamedTuple):
    """Primal and dual blocks with their products ``A x`` and ``A^T y``."""

    x: Float64[Tensor, "n b"]
    y: Float64[Tensor, "m b"]
    ax: Float64[Tensor, "m b"]
    aty: Float64[Tensor, "n b"]

    def keep(self, columns: list[int]) -> Pair:
        return Pair(*(columns_of(block, columns) for block in self))

    def replaced(self, other: Pair, where: Tensor) -> Pair:
        """With the columns of another pair where the mask says so."""
        return Pair(*(torch.where(where, new, old) for old, new in zip(self, other, strict=True)))


class PDHG(AnchoredIteration):
    """The iterates of one solve, in scaled units, with their carried products."""

    def __init__(
        self,
        batch: Batch,
        scaled: ScaledBatch,
        eta: float,
        starts: Sequence[LPStart | None],
        limits: Limits,
        *,
        polish: bool = False,
    ) -> None:
        self.scaled, self.eta, self.limits = scaled, eta, limits
        x, y = torch.zeros_like(batch.c), torch.zeros_like(batch.row_lower)
        for column, start in enumerate(starts):
            if start is not None:
                x[:, column], y[:, column] = start.x, start.y
        x, y = scaled.scale_primal(x).clamp(scaled.batch.col_lower, scaled.batch.col_upper), scaled.scale_dual(y)
        primal, dual = scaled.primal(x), scaled.dual(y)
        given = [1.0 if start is None or start.weight is None else start.weight for start in starts]
        super().__init__(
            batch,
            [PrimalWeight(weight) for weight in given],
            [Incumbent(primal[:, column], dual[:, column]) for column in range(batch.size)],
        )
        self.kkt, self.A = KKTCheck(batch), scaled.batch.A
        entries = read_entries(self.A)
        equations = equations_of_entries(entries) if polish and entries is not None else None
        first = 0 if equations is None else max(FIRST_POLISH, int(SHARE * equations.fewest_steps * equations.cost))
        self.polish = [None if equations is None else Polish(equations, first) for _ in starts]
        self.feasibility = [self._without_costs(column, polish=polish) for column in range(batch.size)]
        self.met_at = [0] * batch.size
        self.best_weights: list[float | None] = [None] * batch.size
        self.first_error = self.tau = self.sigma = torch.zeros(batch.size, dtype=torch.float64, device=x.device)
        self.at = self.anchor = self.mapped = Pair(x, y, product(self.A, x), transposed_product(self.A, y))
        self._begin([True] * batch.size)

    def _begin(self, fresh: list[bool]) -> None:
        """Step sizes of new epochs."""
        weights = torch.tensor([weight.value for weight in self.weights], dtype=torch.float64)
        weights, self._fresh = weights.to(self.at.x.device), torch.tensor(fresh).to(self.at.x.device)
        self.tau, self.sigma, self._any_fresh = self.eta / weights, self.eta * weights, True
        self._cost, self._over_sigma = self.tau * self.scaled.batch.c, -1 / self.sigma

    def map(self) -> None:
        """T at the current point: the two products of an iteration."""
        lp, at = self.scaled.batch, self.at
        x = torch.addcmul(at.x, at.aty, self.tau).sub_(self._cost).clamp_(lp.col_lower, lp.col_upper)
        self.reflected = torch.lerp(at.x, x, 2.0)
        self.activity = product(self.A, self.reflected)
        shifted = torch.addcmul(self.activity, at.y, self._over_sigma)
        y = shifted.clamp(lp.row_lower, lp.row_upper).sub_(shifted).mul_(self.sigma)
        self.mapped = Pair(x, y, self.activity, transposed_product(self.A, y))
        if self._any_fresh:
            self.first_error = torch.where(self._fresh, self.squared_error(), self.first_error)
            self._any_fresh = False
        self.iterations += 1

    def squared_error(self) -> Float64[Tensor, " b"]:
        """``||T(z) - z||^2`` in the norm of the method, ``||dx||^2 / tau + 2 dy^T A dx + ||dy||^2 / sigma``."""
        dx, dy = self.mapped.x - self.at.x, self.mapped.y - self.at.y
        coupling = (dy * (self.activity - self.at.ax)).sum(0)
        return dx.square().sum(0) / self.tau + coupling + dy.square().sum(0) / self.sigma

    def average(self, share: float | Tensor) -> None:
        old, mapped, anchor = self.at, self.mapped, self.anchor
        self.at = Pair(
            torch.lerp(anchor.x, self.reflected, share),
            torch.lerp(anchor.y, torch.lerp(old.y, mapped.y, 2.0), share),
            torch.lerp(anchor.ax, self.activity, share),
            torch.lerp(anchor.aty, torch.lerp(old.aty, mapped.aty, 2.0), share),
        )

    def check(self) -> list[Residuals]:
        scaled = self.scaled
        # A x' from A (2 x' - x) and A x
        self.mapped = found = self.mapped._replace(ax=torch.lerp(self.at.ax, self.activity, 0.5))
        primal, dual = scaled.primal(found.x), scaled.dual(found.y)
        residuals = self.kkt.evaluate(primal, dual, scaled.activity(found.ax), scaled.pullback(found.aty))
        moves = [(found.x - self.anchor.x).norm(dim=0), (found.y - self.anchor.y).norm(dim=0)]
        facts = torch.stack([self.squared_error(), self.first_error, *moves, self._stretch()])
        numbers = torch.cat([residuals, facts]).T.tolist()
        self.errors = [(math.sqrt(max(row[6], 0.0)), math.sqrt(max(row[7], 0.0))) for row in numbers]
        self.moves, results = [row[8:10] for row in numbers], [Residuals(*row[:6]) for row in numbers]
        self._respect(max(row[10] for row in numbers))
        for column, result in enumerate(results):
            if self.best[column].offer(primal[:, column], dual[:, column], result.score):
                self.best_weights[column] = self.weights[column].value
        return results

    def _stretch(self) -> Float64[Tensor, " b"]:
        """``||A dx|| / ||dx||`` of the last step, no more than the norm of A; 0 where the step is near rounding."""
        length, image = (self.mapped.x - self.at.x).norm(dim=0), (self.mapped.ax - self.at.ax).norm(dim=0)
        tells = (length > 0) & (image > SMALLEST_STEP * self.mapped.ax.norm(dim=0))
        return torch.where(tells, image / torch.where(length > 0, length, 1.0), 0.0)

    def _respect(self, stretch: float) -> None:
        """Begin the epoch again with shorter steps if a step shows that A is longer than was thought."""
        if stretch * self.eta > 1 and math.isfinite(stretch):
            self.eta = STEP / stretch
            for column in range(self.batch.size):
                self.jumps[column] = self.anchor.x[:, column].clone(), self.anchor.y[:, column].clone()

    def is_done(self, column: int, residuals: Residuals) -> bool:
        """Whether residuals and objective are accurate; or the residuals alone, long after they became so."""
        goal, polish = SAFETY * self.limits.rtol, self.polish[column]
        if residuals.score > goal and polish is not None and polish.is_due(self.iterations):
            self._polish(column, polish, residuals.score, goal)
        if self.best[column].score <= goal:
            if polish is None or self.best[column].score <= FINE:
                return True
            if not polish.waits(self.iterations):
                self._polish(column, polish, residuals.score, FINE, steps=polish.worth(self.iterations))
                return True
            return False
        if residuals.worst > goal:
            return False
        self.met_at[column] = self.met_at[column] or self.iterations
        if self.iterations < PATIENCE[0] * self.met_at[column] + PATIENCE[1]:
            return False
        primal, dual = self.scaled.primal(self.mapped.x), self.scaled.dual(self.mapped.y)
        self.best[column] = Incumbent(primal[:, column].clone(), dual[:, column].clone())
        return True

    def restart(self, due: list[bool], residuals: list[Residuals]) -> None:
        for column, is_due in enumerate(due):
            if is_due and residuals[column].score > ASTRAY * self.best[column].score:
                self._return_home(column)
            if column in self.jumps:
                x, y = self.jumps.pop(column)
                pair = Pair(x, y, self.A.matvec(x), self.A.rmatvec(y))
                for block, values in zip(self.mapped, pair, strict=True):
                    block[:, column] = values
            elif is_due:
                found = residuals[column]
                ratio = found.dual / found.primal if found.primal > 0 else math.inf
                primal, dual = self.moves[column]
                self.weights[column].update(primal, dual, ratio)
        if all(due):
            self.at = self.anchor = self.mapped
        else:
            where = torch.tensor(due).to(self.at.x.device)
            self.at, self.anchor = self.at.replaced(self.mapped, where), self.anchor.replaced(self.mapped, where)
        self._begin(due)

    def _return_home(self, column: int) -> None:
        """Jump to the best pair and its weight, unless that has been tried."""
        best, weight = self.best[column], self.best_weights[column]
        if best.score <= HOME and weight is not None:
            scaled = self.scaled.keep([column])
            pair = scaled.scale_primal(best.x[:, None])[:, 0], scaled.scale_dual(best.y[:, None])[:, 0]
            self.jumps.setdefault(column, pair)
            self.weights[column], self.best_weights[column] = PrimalWeight(weight), None

    def _without_costs(self, column: int, *, polish: bool) -> Feasibility | None:
        """What asks whether a program is feasible; None if that is all that the program asks."""
        if not self.batch.c[:, column].any():
            return None
        batch, scaled = self.batch.keep([column]).without_costs(), self.scaled.keep([column])
        scaled, eta, limits = scaled._replace(batch=scaled.batch.without_costs()), self.eta, self.limits
        return Feasibility(lambda: PDHG(batch, scaled, eta, [None], limits, polish=polish), limits)

    def certificate(self, column: int) -> BackendAnswer | None:
        """Out of the last step, the epoch's displacement or the point itself; or of what iterates without costs."""
        mapped, primal, dual = self.mapped, self.scaled.primal, self.scaled.dual
        primal_rays = [primal(ray)[:, column] for ray in (mapped.x - self.at.x, mapped.x - self.anchor.x, mapped.x)]
        dual_rays = [dual(ray)[:, column] for ray in (mapped.y - self.at.y, mapped.y - self.anchor.y, mapped.y)]
        found = certify(self.batch.program(column), primal_rays, dual_rays, self.iterations)
        asked = self.feasibility[column]
        return asked.disprove(self.iterations) if found is None and asked is not None else found

    def keep(self, columns: list[int]) -> None:
        self.keep_records(columns)
        self.scaled, self.kkt = self.scaled.keep(columns), KKTCheck(self.batch)
        for name in ("met_at", "best_weights", "feasibility"):
            setattr(self, name, [getattr(self, name)[column] for column in columns])
        self.at, self.anchor = self.at.keep(columns), self.anchor.keep(columns)
        self.first_error, fresh = self.first_error[columns], [bool(self._fresh[column]) for column in columns]
        pending = self._any_fresh
        self._begin(fresh)
        self._any_fresh = pending

    def _polish(self, column: int, polish: Polish, residual: float, goal: float, *, steps: int | None = None) -> None:
        """Offer what Newton's method makes of the current pair, and go on from there if it is better."""
        scaled, kkt, best = self.scaled.keep([column]), KKTCheck(self.batch.keep([column])), self.best[column]

        def judge(program: int, point: Point) -> float:
            del program
            primal, dual = scaled.primal(point.x[:, None]), scaled.dual(point.y[:, None])
            activity, pullback = scaled.activity(point.activity[:, None]), scaled.pullback(point.pulled[:, None])
            found = Residuals(*kkt.evaluate(primal, dual, activity, pullback)[:, 0].tolist())
            best.offer(primal[:, 0], dual[:, 0], found.score)
            return found.score

        before, pair = best.score, (self.mapped.x[:, [column]], self.mapped.y[:, [column]])
        attempt = polish.attempt(self.weights[column].value, self.eta, self.iterations, allowed=steps)
        deadline = self.limits.deadline
        run(scaled.batch, *pair, [attempt], polish.equations, judge=judge, goal=goal, deadline=deadline)
        polish.steps += attempt.steps
        if best.score < before:
            self.best_weights[column] = self.weights[column].value
        if attempt.best is not None and attempt.residual < residual / JUMP:
            self.jumps[column] = attempt.best.x, attempt.best.y
