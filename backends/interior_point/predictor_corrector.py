"""Mehrotra's predictor-corrector method for ``min c̃ᵀw`` s.t. ``B w = 0``, ``lower ≤ w ≤ upper`` (see `newton`).

The gaps to finite bounds are variables of their own, ``w − l = lower`` and ``upper − w = u``, so the iterates may start outside
the bounds. With duals z_l, z_u ≥ 0 of the bounds, the central path solves

    B w = 0,   c̃ − Bᵀy = z_l − z_u,   l z_l = μ,   u z_u = μ.

Reference: Mehrotra (1992), On the implementation of a primal-dual interior point method, SIAM J. Optim. 2(4), 575-601.
"""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from backends.interior_point.newton import Newton
from backends.interior_point.system import NewtonSystem
from backends.pdlp.certificates import certify
from lift_core.lp import BackendAnswer, LinearProgram, LPStatus, kkt_residuals

STEP_FRACTION = 0.995
"""Of the way to the nearest bound."""
MAX_CORRECTORS = 2
LENGTHEN = 0.3
"""What a centrality corrector tries to add to the steps, of which it must reach the share `WORTHWHILE`."""
WORTHWHILE = 0.1
CHECK_RAYS_EVERY = 5
PATIENCE = 30
"""Iterations without a better point after which the method gives up."""
FIXED = 1e-14
"""Relative distance of two bounds below which they are one."""


class Iterate(NamedTuple):
    """A point, or a direction."""

    w: Float64[Tensor, " n+m"]
    y: Float64[Tensor, " m"]
    gap_lower: Float64[Tensor, " n+m"]
    gap_upper: Float64[Tensor, " n+m"]
    z_lower: Float64[Tensor, " n+m"]
    z_upper: Float64[Tensor, " n+m"]

    def step(self, along: Iterate, primal: float, dual: float) -> Iterate:
        lengths = (primal, dual, primal, primal, dual, dual)
        return Iterate(*(at + length * d for at, d, length in zip(self, along, lengths, strict=True)))


class Residuals(NamedTuple):
    """How far an iterate is from the linear equations of the central path."""

    lower: Float64[Tensor, " n+m"]
    upper: Float64[Tensor, " n+m"]
    dual: Float64[Tensor, " n+m"]
    rows: Float64[Tensor, " m"]

    def removed(self) -> Residuals:
        return Residuals(*(torch.zeros_like(part) for part in self))


class Barrier:
    """The bounds of w, where they are finite, and what Newton's equations read from them."""

    def __init__(self, lp: LinearProgram, newton: Newton) -> None:
        lower, upper = torch.cat([lp.col_lower, lp.row_lower]), torch.cat([lp.col_upper, lp.row_upper])
        finite_lower, finite_upper = torch.isfinite(lower), torch.isfinite(upper)
        self.newton = newton
        self.cost = torch.cat([lp.c, torch.zeros_like(lp.row_lower)])
        self.lower, self.upper = torch.where(finite_lower, lower, 0.0), torch.where(finite_upper, upper, 0.0)
        self.movable = ~(finite_lower & finite_upper & (upper - lower <= FIXED * (1 + lower.abs())))
        self.has_lower, self.has_upper = finite_lower & self.movable, finite_upper & self.movable
        self.count = max(int(self.has_lower.sum() + self.has_upper.sum()), 1)

    def mean_product(self, at: Iterate) -> float:
        """μ, the mean of gap times dual over all bounds."""
        lower = torch.where(self.has_lower, at.gap_lower * at.z_lower, 0.0)
        upper = torch.where(self.has_upper, at.gap_upper * at.z_upper, 0.0)
        return float((lower + upper).sum()) / self.count

    def factorize(self, at: Iterate) -> None:
        self.newton.factorize(at.z_lower / at.gap_lower + at.z_upper / at.gap_upper, self.movable)

    def residuals(self, at: Iterate) -> Residuals:
        return Residuals(
            torch.where(self.has_lower, at.w - self.lower - at.gap_lower, 0.0),
            torch.where(self.has_upper, self.upper - at.w - at.gap_upper, 0.0),
            self.cost - self.newton.transposed_product(at.y) - at.z_lower + at.z_upper,
            -self.newton.product(at.w),
        )

    def direction(self, at: Iterate, off: Residuals, aim_lower: Tensor, aim_upper: Tensor) -> Iterate:
        """Newton's direction that removes the residuals and changes the products of gap and dual by the aims."""
        aim_lower = torch.where(self.has_lower, aim_lower, 0.0)
        aim_upper = torch.where(self.has_upper, aim_upper, 0.0)
        from_lower = (aim_lower - at.z_lower * off.lower) / at.gap_lower
        from_upper = (aim_upper - at.z_upper * off.upper) / at.gap_upper
        f = torch.where(self.movable, from_lower - from_upper - off.dual, 0.0)
        dw, dy = self.newton.solve(f, off.rows)
        gap_lower = torch.where(self.has_lower, off.lower + dw, 0.0)
        gap_upper = torch.where(self.has_upper, off.upper - dw, 0.0)
        z_lower = (aim_lower - at.z_lower * gap_lower) / at.gap_lower
        z_upper = (aim_upper - at.z_upper * gap_upper) / at.gap_upper
        return Iterate(dw, dy, gap_lower, gap_upper, z_lower, z_upper)


class Best:
    """The best pair (x, y) so far by the residuals that the core will judge it by."""

    def __init__(self, lp: LinearProgram) -> None:
        self._lp = lp
        self._allowed = (
            torch.where(torch.isinf(lp.row_upper), 0.0, -math.inf),
            torch.where(torch.isinf(lp.row_lower), 0.0, math.inf),
        )
        self.worst, self.age = math.inf, 0

    def offer(self, at: Iterate) -> None:
        x = at.w[: self._lp.num_columns].clamp(self._lp.col_lower, self._lp.col_upper)
        y = at.y.clamp(*self._allowed)
        worst = kkt_residuals(self._lp, x, y)[2].worst
        self.age += 1
        if worst < self.worst:
            self.worst, self.age, self._pair = worst, 0, (x, y)

    def answer(self, status: LPStatus, iterations: int) -> BackendAnswer:
        return BackendAnswer(*self._pair, status, iterations)


def solve_by_predictor_corrector(
    lp: LinearProgram, system: NewtonSystem, *, rtol: float, max_iterations: int, deadline: float
) -> BackendAnswer:
    """Solve a program to relative KKT residuals of ``rtol``.

    Args:
        lp: the program.
        system: solves Newton systems with its matrix.
        rtol: tolerance.
        max_iterations: Newton steps.
        deadline: in seconds of `time.monotonic`.
    """
    barrier, best = Barrier(lp, Newton(lp, system)), Best(lp)
    at, status, iteration = starting_point(barrier), LPStatus.ITERATION_LIMIT, 0
    along = at
    for iteration in range(max_iterations + 1):
        best.offer(at)
        if best.worst <= rtol:
            return best.answer(LPStatus.OPTIMAL, iteration)
        if iteration % CHECK_RAYS_EVERY == CHECK_RAYS_EVERY - 1 and (proof := _certify(lp, at, along, iteration)):
            return proof
        if time.monotonic() > deadline:
            return best.answer(LPStatus.TIME_LIMIT, iteration)
        along = _search_direction(barrier, at)
        if best.age >= PATIENCE or along is None:
            status = LPStatus.NUMERICAL_ERROR
            break
        primal, dual = _step_lengths(at, along)
        at = at.step(along, min(1.0, STEP_FRACTION * primal), min(1.0, STEP_FRACTION * dual))
    return best.answer(status, iteration)


def _search_direction(barrier: Barrier, at: Iterate) -> Iterate | None:
    """The box of Mehrotra's algorithm: one factorisation, a few solves. None if the arithmetic breaks down.

    1. predictor: the affine direction, towards μ = 0
    2. centring  σ = (μ after the longest affine step / μ)³
    3. corrector: towards σ μ, less the second-order error of the affine direction
    4. centrality correctors, see `_correct_centrality`
    """
    try:
        barrier.factorize(at)
        off, product_lower, product_upper = barrier.residuals(at), at.gap_lower * at.z_lower, at.gap_upper * at.z_upper
        affine = barrier.direction(at, off, -product_lower, -product_upper)
        mu = barrier.mean_product(at)
        primal, dual = _step_lengths(at, affine)
        sigma = (barrier.mean_product(at.step(affine, min(1.0, primal), min(1.0, dual))) / mu) ** 3 if mu > 0 else 0.0
        along = barrier.direction(
            at,
            off,
            sigma * mu - product_lower - affine.gap_lower * affine.z_lower,
            sigma * mu - product_upper - affine.gap_upper * affine.z_upper,
        )
        along = _correct_centrality(barrier, at, along, off.removed(), sigma * mu)
    except torch.linalg.LinAlgError:
        return None
    return along if all(bool(torch.isfinite(part).all()) for part in along) else None


def _correct_centrality(barrier: Barrier, at: Iterate, along: Iterate, none: Residuals, target: float) -> Iterate:
    """Bring the products that a longer step would spoil back to ``[0.1, 10] target``, while steps get longer by it.

    Reference: Gondzio (1996), Multiple centrality corrections, Comput. Optim. Appl. 6, 137-156.
    """
    primal, dual = (min(1.0, step) for step in _step_lengths(at, along))
    for _ in range(MAX_CORRECTORS):
        goals = min(1.0, primal + LENGTHEN), min(1.0, dual + LENGTHEN)
        ahead = at.step(along, *goals)
        lower = _back_to_centre(ahead.gap_lower * ahead.z_lower, target)
        upper = _back_to_centre(ahead.gap_upper * ahead.z_upper, target)
        correction = barrier.direction(at, none, lower, upper)
        corrected = along.step(correction, 1.0, 1.0)
        longer_primal, longer_dual = (min(1.0, step) for step in _step_lengths(at, corrected))
        if longer_primal + longer_dual < primal + dual + WORTHWHILE * LENGTHEN:
            break
        along, primal, dual = corrected, longer_primal, longer_dual
    return along


def _back_to_centre(products: Tensor, target: float) -> Tensor:
    """The change that brings products into the neighbourhood of the target; large ones only part of the way."""
    return (products.clamp(0.1 * target, 10 * target) - products).clamp(min=-10 * target)


def _step_lengths(at: Iterate, along: Iterate) -> tuple[float, float]:
    """How far gaps and duals can go before one of them reaches zero."""
    primal = min(_longest_step(at.gap_lower, along.gap_lower), _longest_step(at.gap_upper, along.gap_upper))
    dual = min(_longest_step(at.z_lower, along.z_lower), _longest_step(at.z_upper, along.z_upper))
    return primal, dual


def _longest_step(positive: Tensor, change: Tensor) -> float:
    steps = torch.where(change < 0, -positive / change, math.inf)
    return float(steps.min()) if len(steps) else math.inf


def _certify(lp: LinearProgram, at: Iterate, along: Iterate, iteration: int) -> BackendAnswer | None:
    """Without an optimum the iterates diverge along a ray that proves it."""
    n = lp.num_columns
    return certify(lp, (along.w[:n], at.w[:n]), (along.y, at.y), iteration)


def starting_point(barrier: Barrier) -> Iterate:
    """Mehrotra's: least-squares primal and dual points, then gaps and duals shifted until they are well positive.

    The primal point is the one of ``B w = 0`` nearest to the bounds' points nearest to zero; distances are in units. Gaps
    are never wider than the box.
    """
    newton, movable = barrier.newton, barrier.movable
    lower, upper, has_lower, has_upper = barrier.lower, barrier.upper, barrier.has_lower, barrier.has_upper
    newton.factorize(newton.cost_unit / newton.units.square(), movable)
    zero = torch.zeros_like(barrier.cost)
    w = torch.where(has_lower, lower.clamp(min=0), zero)
    w = torch.where(has_upper, torch.minimum(w, upper), w)
    w = torch.where(movable, w, (lower + upper) / 2)
    w = w + newton.solve(zero, -newton.product(w))[0]
    y = newton.solve(-barrier.cost, torch.zeros_like(newton.product(w)))[1]
    z = torch.where(movable, barrier.cost - newton.transposed_product(y), 0.0) * newton.units / newton.cost_unit
    both = has_lower & has_upper
    z_lower = torch.where(both, z.clamp(min=0), z)[has_lower]
    z_upper = torch.where(both, -z.clamp(max=0), -z)[has_upper]
    gap_lower, gap_upper = ((w - lower) / newton.units)[has_lower], ((upper - w) / newton.units)[has_upper]
    gaps, duals = _shift_to_positive(torch.cat([gap_lower, gap_upper]), torch.cat([z_lower, z_upper]))
    split, width = len(gap_lower), torch.where(both, upper - lower, math.inf)

    def place(values: Tensor, mask: Tensor, unit: Tensor, otherwise: float) -> Tensor:
        return torch.full_like(w, otherwise).masked_scatter(mask, values * unit[mask])

    per_cost = newton.cost_unit / newton.units
    return Iterate(
        w,
        y,
        torch.minimum(place(gaps[:split], has_lower, newton.units, 1.0), width),
        torch.minimum(place(gaps[split:], has_upper, newton.units, 1.0), width),
        place(duals[:split], has_lower, per_cost, 0.0),
        place(duals[split:], has_upper, per_cost, 0.0),
    )


def _shift_to_positive(gaps: Tensor, duals: Tensor) -> tuple[Tensor, Tensor]:
    """Reference: Mehrotra (1992), section 7: out of the negative, then by half the mean weighted product."""
    if not len(gaps):
        return gaps, duals
    gaps = gaps + max(-1.5 * float(gaps.min()), 0.0)
    duals = duals + max(-1.5 * float(duals.min()), 0.0)
    product = float(gaps @ duals)
    if product <= 0:
        return gaps + 1, duals + 1
    return gaps + 0.5 * product / float(duals.sum()), duals + 0.5 * product / float(gaps.sum())
