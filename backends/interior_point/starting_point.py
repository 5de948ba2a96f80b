"""Where the interior-point method starts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backends.interior_point.barrier import Barrier, Iterate
from lift_core.lp import LPStart

WARM = 1e-2
"""Smallest gaps and duals of a warm start, in units."""
NEAR = 0.1
"""Largest violation of the bounds, as a share of their distance, at which a start is worth taking."""


def starting_point(barrier: Barrier) -> Iterate:
    """Mehrotra's: least-squares primal and dual points, then gaps and duals shifted until they are well positive.

    The primal point is the one of ``B w = 0`` nearest to that point of the box which is nearest to zero; distances are
    in units. If that is the point itself and no row is an equality, as in a direction LP with slack, y starts at zero
    instead: about as good there, and a factorisation less. Gaps are never wider than the box.

    Reference: Mehrotra (1992), section 7.
    """
    newton, movable, has = barrier.newton, barrier.movable, barrier.has
    lower, upper, (has_lower, has_upper) = barrier.lower, barrier.upper, has > 0
    zero = torch.zeros_like(barrier.cost)
    w = torch.where(has_lower, lower.clamp(min=0), zero)
    w = torch.where(has_upper, torch.minimum(w, upper), w)
    w = torch.where(movable > 0, w, (lower + upper) / 2)
    n, y = len(w) - len(newton.row_units), torch.zeros_like(newton.row_units)
    off_rows = w[n:] - newton.products(w[:n], y)[0]
    if off_rows.any() or not movable[n:].all():
        newton.factorize(newton.cost_unit / newton.units.square(), movable)
        w = w + newton.solve(zero, off_rows)[0]
        y = newton.solve(-barrier.cost * movable, torch.zeros_like(y))[1]
    z = barrier.cost - torch.cat([newton.products(w[:n], y)[1], -y])
    z = movable * z * newton.units / newton.cost_unit
    gaps = torch.stack([w - lower, upper - w]) / newton.units
    duals = torch.where(has_lower & has_upper, torch.stack([z, -z]).clamp_(min=0), torch.stack([z, -z]))
    shift_gaps, shift_duals = _shifts(gaps, duals, has)
    gaps = torch.minimum((gaps + shift_gaps) * newton.units, _width(barrier))
    duals = (duals + shift_duals) * newton.cost_unit / newton.units
    return Iterate(w, y, torch.where(has > 0, gaps, 1.0), has * duals)


def _width(barrier: Barrier) -> Tensor:
    """Of the box; infinite where a bound is missing."""
    return torch.where(barrier.has.prod(0) > 0, barrier.upper - barrier.lower, math.inf)


def _shifts(gaps: Tensor, duals: Tensor, has: Tensor) -> tuple[float, float]:
    """Out of the negative first; then by half the mean of the other's weights."""
    if not has.any():
        return 0.0, 0.0
    by_gaps, by_duals = (
        max(-1.5 * float(torch.where(has > 0, values, math.inf).min()), 0.0) for values in (gaps, duals)
    )
    gaps, duals = (gaps + by_gaps) * has, (duals + by_duals) * has
    product = float((gaps * duals).sum())
    if not 0 < product < math.inf:
        return by_gaps + 1, by_duals + 1
    return by_gaps + 0.5 * product / float(duals.sum()), by_duals + 0.5 * product / float(gaps.sum())


def is_near(barrier: Barrier, x: Tensor, activity: Tensor) -> bool:
    """Whether x, with ``activity = A x``, lies within the bounds, or nearly so.

    A start that does not, such as the solution at a much larger slack, costs two to four times the iterations of none.
    """
    w = torch.cat([x, activity])
    outside = torch.stack([barrier.lower - w, w - barrier.upper]).mul_(barrier.has)
    width = _width(barrier)
    allowed = NEAR * torch.where(width.isinf(), barrier.newton.units, width)
    return bool((outside <= allowed).all())


def warm_point(barrier: Barrier, start: LPStart) -> Iterate:
    """From the solution of a neighbouring program: near it, but inside the bounds and near the central path.

    Gaps and duals are at least `WARM` units; on both sides of a box the same is added to the duals, so that the
    equations between them and y hold.

    Reference: Yildirim & Wright (2002), Warm-start strategies in interior-point methods, SIAM J. Optim. 12(3).
    """
    newton, has = barrier.newton, barrier.has
    lower, upper, width = barrier.lower, barrier.upper, _width(barrier)
    activity, pullback = newton.products(start.x, start.y)
    w = torch.where(barrier.movable > 0, torch.cat([start.x, activity]), (lower + upper) / 2)
    reduced_cost = barrier.movable * (barrier.cost - torch.cat([pullback, -start.y]))
    smallest_gap, smallest_dual = WARM * newton.units, WARM * newton.cost_unit / newton.units
    gaps = torch.stack([w - lower, upper - w])
    gaps = torch.minimum(torch.maximum(gaps, torch.minimum(smallest_gap, width / 4)), width)
    duals = torch.stack([reduced_cost, -reduced_cost]).clamp_(min=0) + smallest_dual
    return Iterate(w, start.y.clone(), torch.where(has > 0, gaps, 1.0), has * duals)
