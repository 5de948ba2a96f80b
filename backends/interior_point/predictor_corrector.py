"""Mehrotra's predictor-corrector method for ``min c̃ᵀw`` s.t. ``B w = 0``, ``lower ≤ w ≤ upper`` (see `barrier`).

Reference: Mehrotra (1992), On the implementation of a primal-dual interior point method, SIAM J. Optim. 2(4), 575-601.
"""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from backends.interior_point.barrier import Barrier, Iterate, Residuals
from backends.interior_point.newton import Newton
from backends.interior_point.starting_point import starting_point
from backends.interior_point.system import NewtonSystem
from backends.pdlp.certificates import certify
from lift_core.lp import BackendAnswer, LinearProgram, LPStatus, kkt_residuals

STEP_FRACTION = 0.995
"""Of the way to the nearest bound."""
SECOND_ORDER_FROM = 0.1
"""Affine steps shorter than this say nothing about the second-order error of a long step."""
MAX_CORRECTORS = 2
LENGTHEN = 0.3
"""What a centrality corrector tries to add to the steps, of which it must reach the share `WORTHWHILE`."""
WORTHWHILE = 0.1
CHECK_RAYS_EVERY = 5
PATIENCE = 30
"""Iterations without a better point after which the method gives up."""


class Best:
    """The best pair (x, y) so far, by the residuals that the core will judge it by."""

    def __init__(self, lp: LinearProgram) -> None:
        self._lp = lp
        self._allowed = (
            torch.where(torch.isinf(lp.row_upper), 0.0, -math.inf),
            torch.where(torch.isinf(lp.row_lower), 0.0, math.inf),
        )
        self._pair = self._within_bounds(torch.zeros_like(lp.c), torch.zeros_like(lp.row_lower))
        self.worst, self.age = math.inf, 0

    def offer(self, at: Iterate) -> None:
        pair = self._within_bounds(at.w[: self._lp.num_columns], at.y)
        worst = kkt_residuals(self._lp, *pair)[2].worst
        self.age += 1
        if worst < self.worst:
            self.worst, self.age, self._pair = worst, 0, pair

    def answer(self, status: LPStatus, iterations: int) -> BackendAnswer:
        return BackendAnswer(*self._pair, status, iterations)

    def _within_bounds(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x.clamp(self._lp.col_lower, self._lp.col_upper), y.clamp(*self._allowed)


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
    barrier, best, iteration = Barrier(lp, Newton(lp, system)), Best(lp), 0
    try:
        at = starting_point(barrier)
        for iteration in range(max_iterations):
            best.offer(at)
            if best.worst <= rtol:
                return best.answer(LPStatus.OPTIMAL, iteration)
            if time.monotonic() > deadline:
                return best.answer(LPStatus.TIME_LIMIT, iteration)
            if best.age >= PATIENCE:
                return best.answer(LPStatus.NUMERICAL_ERROR, iteration)
            along = _search_direction(barrier, at)
            at = at.step(along, *_step_lengths(at, along, STEP_FRACTION))
            if iteration % CHECK_RAYS_EVERY == CHECK_RAYS_EVERY - 1 and (proof := _certify(lp, at, along, iteration)):
                return proof
    except torch.linalg.LinAlgError:
        return best.answer(LPStatus.NUMERICAL_ERROR, iteration)
    best.offer(at)
    return best.answer(LPStatus.OPTIMAL if best.worst <= rtol else LPStatus.ITERATION_LIMIT, max_iterations)


def _search_direction(barrier: Barrier, at: Iterate) -> Iterate:
    """The box of Mehrotra's algorithm: one factorisation, a few solves.

    1. predictor: the affine direction, towards μ = 0
    2. centring  σ = (μ after the longest affine step / μ)³
    3. corrector: towards σ μ, less the second-order error of the affine direction
    4. centrality correctors, see `_correct_centrality`

    Raises:
        torch.linalg.LinAlgError: if the arithmetic breaks down.
    """
    barrier.factorize(at)
    off, product_lower, product_upper = barrier.residuals(at), at.gap_lower * at.z_lower, at.gap_upper * at.z_upper
    affine = barrier.direction(at, off, -product_lower, -product_upper)
    primal, dual = _step_lengths(at, affine)
    mu = barrier.mean_product(at)
    sigma = (barrier.mean_product(at.step(affine, primal, dual)) / mu) ** 3 if mu > 0 else 0.0
    weight = 1.0 if min(primal, dual) >= SECOND_ORDER_FROM else 0.0
    along = barrier.direction(
        at,
        off,
        sigma * mu - product_lower - weight * affine.gap_lower * affine.z_lower,
        sigma * mu - product_upper - weight * affine.gap_upper * affine.z_upper,
    )
    along = _correct_centrality(barrier, at, along, off.removed(), sigma * mu)
    if not all(bool(torch.isfinite(part).all()) for part in along):
        raise torch.linalg.LinAlgError("the Newton direction is not finite")
    return along


def _correct_centrality(barrier: Barrier, at: Iterate, along: Iterate, none: Residuals, target: float) -> Iterate:
    """Bring the products that a longer step would spoil back to ``[0.1, 10] target``, while steps get longer by it.

    Reference: Gondzio (1996), Multiple centrality corrections, Comput. Optim. Appl. 6, 137-156.
    """
    primal, dual = _step_lengths(at, along)
    for _ in range(MAX_CORRECTORS):
        goals = min(1.0, primal + LENGTHEN), min(1.0, dual + LENGTHEN)
        ahead = at.step(along, *goals)
        lower = _back_to_centre(ahead.gap_lower * ahead.z_lower, target)
        upper = _back_to_centre(ahead.gap_upper * ahead.z_upper, target)
        correction = barrier.direction(at, none, lower, upper)
        corrected = along.step(correction, 1.0, 1.0)
        longer_primal, longer_dual = _step_lengths(at, corrected)
        if longer_primal + longer_dual < primal + dual + WORTHWHILE * LENGTHEN:
            break
        along, primal, dual = corrected, longer_primal, longer_dual
    return along


def _back_to_centre(products: Tensor, target: float) -> Tensor:
    """The change that brings products into the neighbourhood of the target; large ones only part of the way."""
    return (products.clamp(0.1 * target, 10 * target) - products).clamp(min=-10 * target)


def _step_lengths(at: Iterate, along: Iterate, fraction: float = 1.0) -> tuple[float, float]:
    """How far gaps and duals can go, at most 1: this fraction of the way to where one of them reaches zero."""
    primal = min(_longest_step(at.gap_lower, along.gap_lower), _longest_step(at.gap_upper, along.gap_upper))
    dual = min(_longest_step(at.z_lower, along.z_lower), _longest_step(at.z_upper, along.z_upper))
    return min(1.0, fraction * primal), min(1.0, fraction * dual)


def _longest_step(positive: Tensor, change: Tensor) -> float:
    steps = torch.where(change < 0, -positive / change, math.inf)
    return float(steps.min()) if len(steps) else math.inf


def _certify(lp: LinearProgram, at: Iterate, along: Iterate, iteration: int) -> BackendAnswer | None:
    """Without an optimum the iterates diverge along a ray that proves it."""
    n = lp.num_columns
    return certify(lp, (along.w[:n], at.w[:n]), (along.y, at.y), iteration)
