"""Where the interior-point method starts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backends.interior_point.barrier import Barrier, Iterate
from lift_core.lp import LPStart

WARM = 1e-2
"""Smallest gaps and duals of a warm start, in units."""


def starting_point(barrier: Barrier) -> Iterate:
    """Mehrotra's: least-squares primal and dual points, then gaps and duals shifted until they are well positive.

    The primal point is the one of ``B w = 0`` nearest to that point of the box which is nearest to zero; distances are
    in units. Gaps are never wider than the box.

    Reference: Mehrotra (1992), section 7.
    """
    newton, movable = barrier.newton, barrier.movable
    lower, upper, has_lower, has_upper = barrier.lower, barrier.upper, barrier.has_lower, barrier.has_upper
    newton.factorize(newton.cost_unit / newton.units.square(), movable)
    zero = torch.zeros_like(barrier.cost)
    w = torch.where(has_lower, lower.clamp(min=0), zero)
    w = torch.where(has_upper, torch.minimum(w, upper), w)
    w = torch.where(movable, w, (lower + upper) / 2)
    n = len(w) - len(newton.row_units)
    activity = newton.products(w[:n], newton.row_units)[0]
    w = w + newton.solve(zero, w[n:] - activity)[0]
    y = newton.solve(-barrier.cost, torch.zeros_like(newton.row_units))[1]
    z = barrier.cost - torch.cat([newton.products(w[:n], y)[1], -y])
    z = torch.where(movable, z, 0.0) * newton.units / newton.cost_unit
    both = has_lower & has_upper
    gaps = (w - lower) / newton.units, (upper - w) / newton.units
    duals = torch.where(both, z.clamp(min=0), z), torch.where(both, -z.clamp(max=0), -z)
    masks = has_lower, has_upper
    width = torch.where(both, upper - lower, math.inf)
    shift_gaps, shift_duals = _shifts(gaps, duals, masks)
    found_gaps, found_duals = [], []
    for gap, dual, mask in zip(gaps, duals, masks, strict=True):
        found_gaps.append(torch.where(mask, torch.minimum((gap + shift_gaps) * newton.units, width), 1.0))
        found_duals.append(torch.where(mask, (dual + shift_duals) * newton.cost_unit / newton.units, 0.0))
    return Iterate(w, y, *found_gaps, *found_duals)


def _shifts(
    gaps: tuple[Tensor, Tensor], duals: tuple[Tensor, Tensor], masks: tuple[Tensor, Tensor]
) -> tuple[float, float]:
    """Out of the negative first; then by half the mean of the other's weights."""
    count = sum(int(mask.sum()) for mask in masks)
    if not count:
        return 0.0, 0.0
    by = [max(-1.5 * _smallest(values, masks), 0.0) for values in (gaps, duals)]
    product = sum_gaps = sum_duals = 0.0
    for gap, dual, mask in zip(gaps, duals, masks, strict=True):
        gap, dual = torch.where(mask, gap + by[0], 0.0), torch.where(mask, dual + by[1], 0.0)
        product, sum_gaps, sum_duals = (
            product + float(gap @ dual),
            sum_gaps + float(gap.sum()),
            sum_duals + float(dual.sum()),
        )
    if product <= 0:
        return by[0] + 1, by[1] + 1
    return by[0] + 0.5 * product / sum_duals, by[1] + 0.5 * product / sum_gaps


def _smallest(values: tuple[Tensor, Tensor], masks: tuple[Tensor, Tensor]) -> float:
    return min(float(torch.where(mask, value, math.inf).min()) for value, mask in zip(values, masks, strict=True))


def warm_point(barrier: Barrier, start: LPStart) -> Iterate:
    """From the solution of a neighbouring program: near it, but inside the bounds and near the central path.

    Gaps and duals are at least `WARM` units; on both sides of a box the same is added to the duals, so that the
    equations between them and y hold.

    Reference: Yildirim & Wright (2002), Warm-start strategies in interior-point methods, SIAM J. Optim. 12(3).
    """
    newton, movable = barrier.newton, barrier.movable
    lower, upper, has_lower, has_upper = barrier.lower, barrier.upper, barrier.has_lower, barrier.has_upper
    activity, pullback = newton.products(start.x, start.y)
    w = torch.where(movable, torch.cat([start.x, activity]), (lower + upper) / 2)
    reduced_cost = torch.where(movable, barrier.cost - torch.cat([pullback, -start.y]), 0.0)
    width = torch.where(has_lower & has_upper, upper - lower, math.inf)
    smallest_gap, smallest_dual = WARM * newton.units, WARM * newton.cost_unit / newton.units
    smallest_gap = torch.minimum(smallest_gap, width / 4)
    gaps = [torch.minimum(torch.maximum(gap, smallest_gap), width) for gap in (w - lower, upper - w)]
    duals = [part.clamp(min=0) + smallest_dual for part in (reduced_cost, -reduced_cost)]
    gaps = [torch.where(mask, gap, 1.0) for mask, gap in zip((has_lower, has_upper), gaps, strict=True)]
    duals = [torch.where(mask, dual, 0.0) for mask, dual in zip((has_lower, has_upper), duals, strict=True)]
    return Iterate(w, start.y.clone(), *gaps, *duals)
