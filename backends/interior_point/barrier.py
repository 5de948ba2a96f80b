"""Iterates between bounds, and the Newton directions that lead along the central path.

The gaps to finite bounds are variables of their own, ``w − l = lower`` and ``w + u = upper``, so the iterates may start
outside the bounds. With duals z_l, z_u ≥ 0 of the bounds, the central path of ``min c̃ᵀw`` s.t. ``B w = 0`` solves

    B w = 0,   c̃ − Bᵀy = z_l − z_u,   l z_l = μ,   u z_u = μ.

What belongs to bounds is kept in pairs: lower ones in row 0, upper ones in row 1. Where there is no bound its gap is 1
and its dual 0, and both stay so. Masks are factors 0.0 and 1.0: products take a fraction of the time of `torch.where`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from backends.chunks import elementwise, reduced
from backends.interior_point.newton import Newton
from lift_core.lp import LinearProgram

FIXED = 1e-14
"""Relative distance of two bounds below which they are one."""


class Iterate(NamedTuple):
    """A point, or a direction."""

    w: Float64[Tensor, " n+m"]
    y: Float64[Tensor, " m"]
    gaps: Float64[Tensor, "2 n+m"]
    duals: Float64[Tensor, "2 n+m"]

    def move(self, along: Iterate, primal: float, dual: float) -> None:
        """Step along a direction, in place."""
        for at, change, length in zip(self, along, (primal, dual, primal, dual), strict=True):
            at.add_(change, alpha=length)

    def is_finite(self) -> bool:
        return all(math.isfinite(float(part.sum())) for part in self)


class Residuals(NamedTuple):
    """How far an iterate is from the linear equations of the central path."""

    bounds: Float64[Tensor, "2 n+m"]
    dual: Float64[Tensor, " n+m"]
    rows: Float64[Tensor, " m"]


Aims = Float64[Tensor, "2 n+m"]
"""By how much a direction is to change the products of gaps and duals."""


class Barrier:
    """The bounds of w, where they are finite, and what Newton's equations read from them."""

    def __init__(self, lp: LinearProgram, newton: Newton) -> None:
        lower, upper = torch.cat([lp.col_lower, lp.row_lower]), torch.cat([lp.col_upper, lp.row_upper])
        finite_lower, finite_upper = torch.isfinite(lower), torch.isfinite(upper)
        self.newton = newton
        self.cost = torch.cat([lp.c, torch.zeros_like(lp.row_lower)])
        self.lower, self.upper = torch.where(finite_lower, lower, 0.0), torch.where(finite_upper, upper, 0.0)
        fixed = finite_lower & finite_upper & (upper - lower <= FIXED * (1 + lower.abs()))
        self.movable: Float64[Tensor, " n+m"] = (~fixed).to(lower)
        self.has: Float64[Tensor, "2 n+m"] = torch.stack([finite_lower, finite_upper]).logical_and(~fixed).to(lower)
        self.count = max(int(self.has.sum()), 1)

    def mean_product(self, at: Iterate) -> float:
        """μ, the mean of gap times dual over all bounds."""
        return float(at.gaps.flatten() @ at.duals.flatten()) / self.count

    def mean_product_after(self, at: Iterate, along: Iterate, primal: float, dual: float) -> float:
        """μ after a step."""

        def total(gaps: Tensor, duals: Tensor, d_gaps: Tensor, d_duals: Tensor) -> Tensor:
            return torch.add(gaps, d_gaps, alpha=primal).mul_(torch.add(duals, d_duals, alpha=dual)).sum()

        return float(reduced(total, at.gaps, at.duals, along.gaps, along.duals).sum()) / self.count

    def factorize(self, at: Iterate) -> None:
        """Prepare `direction`.

        Raises:
            torch.linalg.LinAlgError: if even the regularised system is singular.
        """
        (inverse_theta,) = elementwise(lambda gaps, duals: ((duals / gaps).sum(0),), at.gaps, at.duals)
        self.newton.factorize(inverse_theta, self.movable)

    def residuals(self, at: Iterate, activity: Tensor, pullback: Tensor) -> Residuals:
        """Out of ``A x`` and ``Aᵀ y`` of the iterate."""
        n = len(pullback)

        def off_bounds(w: Tensor, lower: Tensor, upper: Tensor, gaps: Tensor, has: Tensor) -> tuple[Tensor]:
            return (torch.stack([w - lower, upper - w]).sub_(gaps).mul_(has),)

        (bounds,) = elementwise(off_bounds, at.w, self.lower, self.upper, at.gaps, self.has)
        dual = self.cost - at.duals[0]
        dual += at.duals[1]
        dual[:n] -= pullback
        dual[n:] += at.y
        return Residuals(bounds, dual, at.w[n:] - activity)

    def affine_aims(self, at: Iterate) -> Aims:
        """All products to zero."""
        return elementwise(lambda gaps, duals: ((gaps * duals).neg_(),), at.gaps, at.duals)[0]

    def correcting_aims(self, affine: Iterate, target: float, *, second_order: bool) -> Aims:
        """What the affine direction leaves to do: all products to the target, less its second-order error if asked."""
        if not second_order:
            return target * self.has

        def aims(d_gaps: Tensor, d_duals: Tensor, has: Tensor) -> tuple[Tensor]:
            return (torch.rsub(d_gaps * d_duals, target).mul_(has),)

        return elementwise(aims, affine.gaps, affine.duals, self.has)[0]

    def centred_aims(self, at: Iterate, along: Iterate, primal: float, dual: float, target: float) -> Aims:
        """What brings the products after a step back to ``[0.1, 10] target``; large ones only part of the way."""

        def aims(gaps: Tensor, duals: Tensor, d_gaps: Tensor, d_duals: Tensor, has: Tensor) -> tuple[Tensor]:
            products = torch.add(gaps, d_gaps, alpha=primal).mul_(torch.add(duals, d_duals, alpha=dual))
            change = products.clamp(0.1 * target, 10 * target).sub_(products).clamp_(min=-10 * target)
            return (change.mul_(has),)

        return elementwise(aims, at.gaps, at.duals, along.gaps, along.duals, self.has)[0]

    def direction(self, at: Iterate, off: Residuals | None, aims: Aims) -> Iterate:
        """Newton's direction that removes the residuals and changes the products by the aims.

        Without residuals it is a correction of a direction that removes them, and may go unchecked.
        """

        def right(aims: Tensor, gaps: Tensor, duals: Tensor, movable: Tensor, *off: Tensor) -> tuple[Tensor]:
            pair = (torch.addcmul(aims, duals, off[0], value=-1) if off else aims) / gaps
            total = pair[0].sub_(pair[1])
            return ((total.sub_(off[1]) if off else total).mul_(movable),)

        def pairs(
            dw: Tensor, aims: Tensor, gaps: Tensor, duals: Tensor, has: Tensor, *off: Tensor
        ) -> tuple[Tensor, ...]:
            d_gaps = torch.stack([dw, -dw])
            d_gaps = (d_gaps.add_(off[0]) if off else d_gaps).mul_(has)
            return d_gaps, torch.addcmul(aims, duals, d_gaps, value=-1).div_(gaps)

        (f,) = elementwise(right, aims, at.gaps, at.duals, self.movable, *(off[:2] if off else ()))
        dw, dy = self.newton.solve(f, off.rows) if off else self.newton.correction(f)
        return Iterate(dw, dy, *elementwise(pairs, dw, aims, at.gaps, at.duals, self.has, *(off[:1] if off else ())))


def step_lengths(at: Iterate, along: Iterate, fraction: float = 1.0) -> tuple[float, float]:
    """How far gaps and duals can go, at most 1: this fraction of the way to where one of them reaches zero."""
    (primal,), (dual,) = (_longest_steps(one, (0.0,), change) for one, change in zip(at[2:], along[2:], strict=True))
    return min(1.0, fraction * primal), min(1.0, fraction * dual)


def best_shares(
    at: Iterate, along: Iterate, correction: Iterate, shares: tuple[float, ...]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """The shares of a correction with which gaps and duals can go farthest, and how far that is, at most 1.

    Reference: Colombo & Gondzio (2008), Further development of multiple centrality correctors for interior point
    methods, Comput. Optim. Appl. 41, 277-305.
    """
    found = []
    for part, *by in zip(at[2:], along[2:], correction[2:], strict=True):
        steps = [min(1.0, step) for step in _longest_steps(part, shares, *by)]
        found.append((shares[steps.index(max(steps))], max(steps)))
    (share_primal, primal), (share_dual, dual) = found
    return (share_primal, share_dual), (primal, dual)


def _longest_steps(positive: Tensor, shares: tuple[float, ...], along: Tensor, *correction: Tensor) -> list[float]:
    """How far each of ``along + share · correction`` leads from positive pairs until an entry reaches zero.

    Entries that are zero, and stay so, do not count.
    """

    def fastest(positive: Tensor, along: Tensor, *correction: Tensor) -> Tensor:
        positive = positive.clamp(min=torch.finfo(positive.dtype).tiny)
        rate = along / positive
        if not correction:
            return rate.min()[None]
        more = correction[0] / positive
        return torch.stack([torch.add(rate, more, alpha=share).min() for share in shares])

    if not positive.numel():
        return [math.inf] * len(shares)
    rates = reduced(fastest, positive, along, *correction).amin(0).tolist()
    return [-1 / rate if rate < 0 else math.inf for rate in rates]
