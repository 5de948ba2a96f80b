"""Mehrotra's predictor-corrector method for ``min c̃ᵀw`` s.t. ``B w = 0``, ``lower ≤ w ≤ upper`` (see `barrier`).

Reference: Mehrotra (1992), On the implementation of a primal-dual interior point method, SIAM J. Optim. 2(4), 575-601.
"""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from backends.certificates import certify
from backends.interior_point.barrier import Barrier, Iterate, best_shares, step_lengths
from backends.interior_point.newton import Newton
from backends.interior_point.starting_point import is_near, starting_point, warm_point
from backends.interior_point.system import NewtonSystem
from backends.kkt import KKTCheck, Residuals
from lift_core.lp import BackendAnswer, LinearProgram, LPStart, LPStatus

STEP_FRACTION = 0.995
"""Of the way to the nearest bound."""
SHORT = 0.1
"""Affine steps shorter than this say nothing about the second-order error of a long one."""
NUM_SHARES, SMALLEST_SHARE = 3, 0.1
"""How many shares of a corrector are tried, and the smallest of them."""
MAX_CENTRALITY_CORRECTORS = 2
LENGTHEN = 0.5
"""What a centrality corrector tries to add to the steps, of which it must reach the share `WORTHWHILE`."""
WORTHWHILE = 0.1


class Best:
    """The best pair (x, y) so far, by its residuals and by what they are worth in the objective."""

    def __init__(self, lp: LinearProgram, newton: Newton) -> None:
        self._lp, self._newton, self._kkt = lp, newton, KKTCheck(lp)
        self._allowed = (
            torch.where(torch.isinf(lp.row_upper), 0.0, -math.inf),
            torch.where(torch.isinf(lp.row_lower), 0.0, math.inf),
        )
        self._pair = self._within_bounds(torch.zeros_like(lp.c), torch.zeros_like(lp.row_lower))
        self.score, self.age = math.inf, 0

    def offer(self, x: Tensor, y: Tensor, activity: Tensor, pullback: Tensor) -> None:
        """Offer a pair and its products, which serve if the pair is within the bounds."""
        pair = self._within_bounds(x, y)
        if not (torch.equal(pair[0], x) and torch.equal(pair[1], y)):
            activity, pullback = self._newton.products(*pair)
        score = Residuals(*self._kkt.evaluate(*pair, activity, pullback).tolist()).score
        self.age += 1
        if score < self.score:
            self.score, self.age, self._pair = score, 0, pair

    def answer(self, status: LPStatus, iterations: int) -> BackendAnswer:
        return BackendAnswer(*self._pair, status, iterations)

    def _within_bounds(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x.clamp(self._lp.col_lower, self._lp.col_upper), y.clamp(*self._allowed)


def solve_by_predictor_corrector(
    lp: LinearProgram,
    system: NewtonSystem,
    start: LPStart | None = None,
    *,
    rtol: float,
    max_iterations: int,
    deadline: float,
    newton_rtol: float,
    patience: int,
) -> BackendAnswer:
    """Solve a program to relative KKT residuals of ``rtol``.

    Args:
        lp: the program.
        system: solves Newton systems with its matrix.
        start: the solution of a neighbouring program, see `warm_point`; not used where it is far outside the bounds.
        rtol: tolerance.
        max_iterations: Newton steps.
        deadline: in seconds of `time.monotonic`.
        newton_rtol: tolerance that Newton's equations are solved for.
        patience: iterations without a better point after which the method gives up.
    """
    barrier = Barrier(lp, Newton(lp, system, rtol=newton_rtol))
    best, iteration, n = Best(lp, barrier.newton), 0, lp.num_columns
    try:
        if start is not None:
            products = barrier.newton.products(start.x, start.y)
            best.offer(start.x, start.y, *products)
            if best.score <= rtol:
                return best.answer(LPStatus.OPTIMAL, 0)
            start = start if is_near(barrier, start.x, products[0]) else None
        at = starting_point(barrier) if start is None else warm_point(barrier, start)
        for iteration in range(max_iterations + 1):
            products = barrier.newton.products(at.w[:n], at.y)
            best.offer(at.w[:n], at.y, *products)
            if best.score <= rtol:
                return best.answer(LPStatus.OPTIMAL, iteration)
            if time.monotonic() > deadline:
                return best.answer(LPStatus.TIME_LIMIT, iteration)
            if best.age >= patience:
                return best.answer(LPStatus.NUMERICAL_ERROR, iteration)
            if iteration == max_iterations:
                break
            along = _search_direction(barrier, at, products)
            at.move(along, *step_lengths(at, along, STEP_FRACTION))
            if best.age > 0 and (proof := _certify(lp, at, along, iteration)):
                return proof
    except torch.linalg.LinAlgError:
        return best.answer(LPStatus.NUMERICAL_ERROR, iteration)
    return best.answer(LPStatus.ITERATION_LIMIT, max_iterations)


def _search_direction(barrier: Barrier, at: Iterate, products: tuple[Tensor, Tensor]) -> Iterate:
    """The box of Mehrotra's algorithm: one factorisation, a few solves.

    1. predictor: the affine direction, towards μ = 0
    2. centring  σ = (μ after the longest affine step / μ)³
    3. corrector: towards σ μ, against the second-order error of the affine direction
    4. centrality corrector: bring the products that a longer step would spoil back to ``[0.1, 10] σ μ``

    Of each corrector as much is added as lets gaps and duals go farthest; after a short affine step, all of the first
    one without its second-order part, since the iterate lies off the central path.

    References: Mehrotra (1992); Gondzio (1996), Multiple centrality corrections, Comput. Optim. Appl. 6, 137-156.

    Raises:
        torch.linalg.LinAlgError: if the arithmetic breaks down.
    """
    barrier.factorize(at)
    along = barrier.direction(at, barrier.residuals(at, *products), barrier.affine_aims(at))
    primal, dual = step_lengths(at, along)
    mu = barrier.mean_product(at)
    ratio = barrier.mean_product_after(at, along, primal, dual) / mu if mu > 0 else 0.0
    target = mu * ratio * ratio * ratio
    long = min(primal, dual) >= SHORT
    corrector = barrier.direction(at, None, barrier.correcting_aims(along, target, second_order=long))
    allowed = _shares(max(primal * dual, SMALLEST_SHARE)) if long else (1.0,)
    shares, lengths = best_shares(at, along, corrector, allowed)
    along.move(corrector, *shares)
    for _ in range(MAX_CENTRALITY_CORRECTORS):
        goals = [min(1.0, length + LENGTHEN) for length in lengths]
        corrector = barrier.direction(at, None, barrier.centred_aims(at, along, *goals, target))
        shares, longer = best_shares(at, along, corrector, (0.0, *_shares(SMALLEST_SHARE)))
        if sum(longer) < sum(lengths) + WORTHWHILE * LENGTHEN:
            break
        along.move(corrector, *shares)
        lengths = longer
    if not along.is_finite():
        raise torch.linalg.LinAlgError("the Newton direction is not finite")
    return along


def _shares(smallest: float) -> tuple[float, ...]:
    """Shares of a correction to choose from, in ``[smallest, 1]``."""
    return tuple(smallest + (1 - smallest) * step / (NUM_SHARES - 1) for step in range(NUM_SHARES))


def _certify(lp: LinearProgram, at: Iterate, along: Iterate, iteration: int) -> BackendAnswer | None:
    """Without an optimum the iterates diverge along a ray that proves it."""
    n = lp.num_columns
    return certify(lp, (along.w[:n], at.w[:n]), (along.y, at.y), iteration)
