"""r2HPDHG: restarted, reflected Halpern primal-dual hybrid gradient, two products with A per iteration.

One iteration maps ``z = (x, y)`` to ``T(z) = (x', y')`` and averages its reflection with the anchor z0 of the epoch:

    x' = proj_X(x - tau (c - A^T y)),      a = A (2 x' - x)
    y' = y + sigma (proj_[lower, upper](a - y / sigma) - a)
    z+ = (k + 1) / (k + 2) (2 T(z) - z) + 1 / (k + 2) z0

with ``tau = eta / omega``, ``sigma = eta omega``, ``eta = 0.998 / ||A||`` and omega the weight of `PrimalWeight`.
``A x`` and ``A^T y`` are carried along by the same linear combinations, so that residuals cost no product.

Reference: Lu & Yang (2024), arXiv 2407.16144; Lu et al. (2025), cuPDLPx, arXiv 2507.14051, algorithm 1.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from backends.certificates import certify
from backends.kkt import Incumbent, KKTCheck, Residuals
from backends.pdlp.limits import Limits
from backends.pdlp.restarts import PrimalWeight, RestartRule
from backends.pdlp.scaling import ScaledLP, read_entries, scale, spectral_norm
from lift_core.lp import BackendAnswer, LinearProgram, LPStart, LPStatus

STEP = 0.998
SAFETY = 0.98
"""Share of ``rtol`` to reach: residuals from carried products differ a little from recomputed ones."""
RAY_CHECKS = 5
"""Certificates are tried at every this many residual checks: each costs a product with A or its transpose."""


def solve(lp: LinearProgram, start: LPStart | None, limits: Limits) -> BackendAnswer:
    """Iterate until the unscaled residuals meet ``limits.rtol``, a certificate is verified, or a limit is reached."""
    scaled = scale(lp)
    norm = spectral_norm(scaled.lp.A, iterations=500 if read_entries(lp.A) is not None else 50)
    if norm == 0:
        return solve_separable(lp)
    run = PDHG(lp, scaled, STEP / norm, start)
    checks = 0
    while True:
        for _ in range(limits.block(run.iterations) - 1):
            run.average(run.map())
        mapped = run.map()
        residuals = run.check(mapped)
        checks += 1
        if residuals.worst <= SAFETY * limits.rtol:
            return BackendAnswer(run.best.x, run.best.y, LPStatus.OPTIMAL, run.iterations)
        if checks % RAY_CHECKS == 0 and (answer := run.certificate(mapped)) is not None:
            return answer
        if math.isinf(residuals.worst):
            return BackendAnswer(run.best.x, run.best.y, LPStatus.NUMERICAL_ERROR, run.iterations)
        if (reached := limits.reached(run.iterations)) is not None:
            return BackendAnswer(run.best.x, run.best.y, reached, run.iterations)
        if not run.restart_if_due(mapped, residuals):
            run.average(mapped)


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


class _Mapped(NamedTuple):
    """``T(z) = (x, y)`` with ``A^T y``, and the reflected ``2 x - x_old`` with its product."""

    x: Tensor
    y: Tensor
    aty: Tensor
    reflected: Tensor
    activity: Tensor


class PDHG:
    """The iterates of one solve, in scaled units, with their carried products."""

    def __init__(self, lp: LinearProgram, scaled: ScaledLP, eta: float, start: LPStart | None) -> None:
        self.lp, self.scaled, self.eta = lp, scaled, eta
        self.A, self.iterations = scaled.lp.A, 0
        self.weight, self.rule, self.kkt = PrimalWeight(1.0), RestartRule(), KKTCheck(lp)
        x, y = torch.zeros_like(lp.c), torch.zeros_like(lp.row_lower)
        if start is not None:
            x, y = scaled.scale_primal(start.x), scaled.scale_dual(start.y)
        x = x.clamp(scaled.lp.col_lower, scaled.lp.col_upper)
        self.best = Incumbent(scaled.primal(x), scaled.dual(y))
        self.begin(x, y, self.A.matvec(x), self.A.rmatvec(y))

    def begin(self, x: Tensor, y: Tensor, ax: Tensor, aty: Tensor) -> None:
        """Start an epoch anchored at (x, y)."""
        self.x, self.y, self.ax, self.aty = self.anchor = (x, y, ax, aty)
        self.k = 0
        self.tau, self.sigma = self.eta / self.weight.value, self.eta * self.weight.value

    def map(self) -> _Mapped:
        """T at the current point: the two products of an iteration."""
        lp = self.scaled.lp
        x = (self.x - self.tau * (lp.c - self.aty)).clamp(lp.col_lower, lp.col_upper)
        reflected = 2 * x - self.x
        activity = self.A.matvec(reflected)
        shifted = activity - self.y / self.sigma
        y = self.sigma * (shifted.clamp(lp.row_lower, lp.row_upper) - shifted)
        mapped = _Mapped(x, y, self.A.rmatvec(y), reflected, activity)
        if self.k == 0:
            self.first_error = self.squared_error(mapped)
        self.iterations += 1
        return mapped

    def squared_error(self, mapped: _Mapped) -> Float64[Tensor, ""]:
        """``||T(z) - z||^2`` in the norm of the method, ``||dx||^2 / tau + 2 dy^T A dx + ||dy||^2 / sigma``."""
        dx, dy = mapped.x - self.x, mapped.y - self.y
        return dx @ dx / self.tau + dy @ (mapped.activity - self.ax) + dy @ dy / self.sigma

    def average(self, mapped: _Mapped) -> None:
        """Reflect T(z) at z and average with the anchor."""
        share = (self.k + 1) / (self.k + 2)
        x, y, ax, aty = self.anchor
        self.x = torch.lerp(x, mapped.reflected, share)
        self.ax = torch.lerp(ax, mapped.activity, share)
        self.y = torch.lerp(y, 2 * mapped.y - self.y, share)
        self.aty = torch.lerp(aty, 2 * mapped.aty - self.aty, share)
        self.k += 1

    def check(self, mapped: _Mapped) -> Residuals:
        """Residuals of T(z) on unscaled data, and everything the restart needs, in one transfer from the device."""
        primal, dual = self.scaled.primal(mapped.x), self.scaled.dual(mapped.y)
        activity, pullback = self.scaled.activity(self.mapped_activity(mapped)), self.scaled.pullback(mapped.aty)
        moves = [(mapped.x - self.anchor[0]).norm(), (mapped.y - self.anchor[1]).norm()]
        numbers = torch.cat(
            [
                self.kkt.evaluate(primal, dual, activity, pullback),
                torch.stack([self.squared_error(mapped), self.first_error, *moves]),
            ]
        ).tolist()
        residuals = Residuals(*numbers[:6])
        self.best.offer(primal, dual, residuals.worst)
        self.errors, self.moves = [math.sqrt(max(value, 0.0)) for value in numbers[6:8]], numbers[8:]
        return residuals

    def mapped_activity(self, mapped: _Mapped) -> Float64[Tensor, " m"]:
        """``A x'`` from ``A (2 x' - x)`` and ``A x``."""
        return (mapped.activity + self.ax) / 2

    def restart_if_due(self, mapped: _Mapped, residuals: Residuals) -> bool:
        """Restart from T(z) with an updated weight if the rule says so; call after `check`."""
        error, initial = self.errors
        if not self.rule.due(error, initial=initial, epoch_iterations=self.k + 1, iterations=self.iterations):
            return False
        ratio = residuals.dual / residuals.primal if residuals.primal > 0 else math.inf
        self.weight.update(self.moves[0], self.moves[1], ratio)
        self.begin(mapped.x, mapped.y, self.mapped_activity(mapped), mapped.aty)
        return True

    def certificate(self, mapped: _Mapped) -> BackendAnswer | None:
        """A verified certificate out of the last step, the epoch's displacement or the point itself."""
        primal_rays = [mapped.x - self.x, mapped.x - self.anchor[0], mapped.x]
        dual_rays = [mapped.y - self.y, mapped.y - self.anchor[1], mapped.y]
        return certify(
            self.lp,
            [self.scaled.primal(ray) for ray in primal_rays],
            [self.scaled.dual(ray) for ray in dual_rays],
            self.iterations,
        )
