"""Where the interior-point method starts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backends.interior_point.barrier import Barrier, Iterate


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
    """Out of the negative first; then by half the mean of the other's weights."""
    if not len(gaps):
        return gaps, duals
    gaps = gaps + max(-1.5 * float(gaps.min()), 0.0)
    duals = duals + max(-1.5 * float(duals.min()), 0.0)
    product = float(gaps @ duals)
    if product <= 0:
        return gaps + 1, duals + 1
    return gaps + 0.5 * product / float(duals.sum()), duals + 0.5 * product / float(gaps.sum())
