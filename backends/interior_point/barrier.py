"""Iterates between bounds, and the Newton directions that lead along the central path.

The gaps to finite bounds are variables of their own, ``w − l = lower`` and ``w + u = upper``, so the iterates may start
outside the bounds. With duals z_l, z_u ≥ 0 of the bounds, the central path of ``min c̃ᵀw`` s.t. ``B w = 0`` solves

    B w = 0,   c̃ − Bᵀy = z_l − z_u,   l z_l = μ,   u z_u = μ.

Where there is no bound its gap is 1 and its dual 0, and both stay so.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from backends.interior_point.chunks import elementwise, reduced
from backends.interior_point.newton import Newton
from lift_core.lp import LinearProgram

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

    def move(self, along: Iterate, primal: float, dual: float) -> None:
        """Step along a direction, in place."""
        lengths = (primal, dual, primal, primal, dual, dual)
        for at, change, length in zip(self, along, lengths, strict=True):
            at.add_(change, alpha=length)

    def is_finite(self) -> bool:
        return all(not len(part) or math.isfinite(float(part.norm(math.inf))) for part in self)


class Residuals(NamedTuple):
    """How far an iterate is from the linear equations of the central path."""

    lower: Float64[Tensor, " n+m"]
    upper: Float64[Tensor, " n+m"]
    dual: Float64[Tensor, " n+m"]
    rows: Float64[Tensor, " m"]


class Aims(NamedTuple):
    """By how much a direction is to change the products of gaps and duals."""

    lower: Float64[Tensor, " n+m"]
    upper: Float64[Tensor, " n+m"]


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
        return float(at.gap_lower @ at.z_lower + at.gap_upper @ at.z_upper) / self.count

    def mean_product_after(self, at: Iterate, along: Iterate, primal: float, dual: float) -> float:
        """μ after a step."""

        def total(gap: Tensor, z: Tensor, d_gap: Tensor, d_z: Tensor) -> Tensor:
            return (gap + primal * d_gap) @ (z + dual * d_z)

        of_lower = reduced(total, at.gap_lower, at.z_lower, along.gap_lower, along.z_lower)
        of_upper = reduced(total, at.gap_upper, at.z_upper, along.gap_upper, along.z_upper)
        return float(of_lower.sum() + of_upper.sum()) / self.count

    def factorize(self, at: Iterate) -> None:
        """Prepare `direction`.

        Raises:
            torch.linalg.LinAlgError: if even the regularised system is singular.
        """

        def inverse_theta(gap_lower: Tensor, gap_upper: Tensor, z_lower: Tensor, z_upper: Tensor) -> tuple[Tensor]:
            return (z_lower / gap_lower + z_upper / gap_upper,)

        (of_all,) = elementwise(inverse_theta, *at[2:])
        self.newton.factorize(of_all, self.movable)

    def residuals(self, at: Iterate, activity: Tensor, pullback: Tensor) -> Residuals:
        """Out of ``A x`` and ``Aᵀ y`` of the iterate."""
        n = len(pullback)

        def off_bounds(
            w: Tensor, gap_lower: Tensor, gap_upper: Tensor, lower: Tensor, upper: Tensor, has_l: Tensor, has_u: Tensor
        ) -> tuple[Tensor, Tensor]:
            return torch.where(has_l, w - lower - gap_lower, 0.0), torch.where(has_u, upper - w - gap_upper, 0.0)

        off = elementwise(
            off_bounds, at.w, at.gap_lower, at.gap_upper, self.lower, self.upper, self.has_lower, self.has_upper
        )
        dual = self.cost - at.z_lower
        dual += at.z_upper
        dual[:n] -= pullback
        dual[n:] += at.y
        return Residuals(off[0], off[1], dual, at.w[n:] - activity)

    def affine_aims(self, at: Iterate) -> Aims:
        """All products to zero."""
        lower, upper = elementwise(lambda gl, gu, zl, zu: (-gl * zl, -gu * zu), *at[2:])
        return Aims(lower, upper)

    def correcting_aims(self, affine: Iterate, target: float, *, second_order: bool) -> Aims:
        """What the affine direction leaves to do: all products to the target, less its second-order error if asked."""

        def aim(d_gap: Tensor, d_z: Tensor, has: Tensor) -> tuple[Tensor]:
            return (torch.where(has, target - d_gap * d_z if second_order else target, 0.0),)

        (lower,) = elementwise(aim, affine.gap_lower, affine.z_lower, self.has_lower)
        (upper,) = elementwise(aim, affine.gap_upper, affine.z_upper, self.has_upper)
        return Aims(lower, upper)

    def centred_aims(self, at: Iterate, along: Iterate, primal: float, dual: float, target: float) -> Aims:
        """What brings the products after a step back to ``[0.1, 10] target``; large ones only part of the way."""

        def aim(gap: Tensor, z: Tensor, d_gap: Tensor, d_z: Tensor, has: Tensor) -> tuple[Tensor]:
            products = (gap + primal * d_gap) * (z + dual * d_z)
            change = (products.clamp(0.1 * target, 10 * target) - products).clamp(min=-10 * target)
            return (torch.where(has, change, 0.0),)

        (lower,) = elementwise(aim, at.gap_lower, at.z_lower, along.gap_lower, along.z_lower, self.has_lower)
        (upper,) = elementwise(aim, at.gap_upper, at.z_upper, along.gap_upper, along.z_upper, self.has_upper)
        return Aims(lower, upper)

    def direction(self, at: Iterate, off: Residuals | None, aims: Aims) -> Iterate:
        """Newton's direction that removes the residuals, if there are any, and changes the products by the aims."""

        def right(
            aim_l: Tensor, aim_u: Tensor, gl: Tensor, gu: Tensor, zl: Tensor, zu: Tensor, movable: Tensor, *off: Tensor
        ) -> tuple[Tensor]:
            if off:
                return (torch.where(movable, (aim_l - zl * off[0]) / gl - (aim_u - zu * off[1]) / gu - off[2], 0.0),)
            return (torch.where(movable, aim_l / gl - aim_u / gu, 0.0),)

        def pairs(
            dw: Tensor, aim_l: Tensor, aim_u: Tensor, gl: Tensor, gu: Tensor, zl: Tensor, zu: Tensor, has_l: Tensor,
            has_u: Tensor, *off: Tensor,
        ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
            gap_lower = torch.where(has_l, off[0] + dw if off else dw, 0.0)
            gap_upper = torch.where(has_u, off[1] - dw if off else -dw, 0.0)
            return gap_lower, gap_upper, (aim_l - zl * gap_lower) / gl, (aim_u - zu * gap_upper) / gu

        (f,) = elementwise(right, *aims, *at[2:], self.movable, *(off[:3] if off else ()))
        dw, dy = self.newton.solve(f, off.rows if off else torch.zeros_like(at.y))
        found = elementwise(pairs, dw, *aims, *at[2:], self.has_lower, self.has_upper, *(off[:2] if off else ()))
        return Iterate(dw, dy, *found)


def step_lengths(at: Iterate, along: Iterate, fraction: float = 1.0) -> tuple[float, float]:
    """How far gaps and duals can go, at most 1: this fraction of the way to where one of them reaches zero."""
    longest = [_longest_steps(positive, (0.0,), change)[0] for positive, change in zip(at[2:], along[2:], strict=True)]
    primal, dual = min(longest[:2]), min(longest[2:])
    return min(1.0, fraction * primal), min(1.0, fraction * dual)


def best_shares(
    at: Iterate, along: Iterate, correction: Iterate, shares: tuple[float, ...]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """The shares of a correction with which gaps and duals can go farthest, and how far that is, at most 1.

    Reference: Colombo & Gondzio (2008), Further development of multiple centrality correctors for interior point
    methods, Comput. Optim. Appl. 41, 277-305.
    """
    longest = [_longest_steps(part, shares, *by) for part, *by in zip(at[2:], along[2:], correction[2:], strict=True)]
    found = []
    for pair in (longest[:2], longest[2:]):
        steps = [min(1.0, one, other) for one, other in zip(*pair, strict=True)]
        found.append((shares[steps.index(max(steps))], max(steps)))
    (share_primal, primal), (share_dual, dual) = found
    return (share_primal, share_dual), (primal, dual)


def _longest_steps(positive: Tensor, shares: tuple[float, ...], along: Tensor, *correction: Tensor) -> list[float]:
    """How far each of ``along + share · correction`` leads from a positive vector until an entry reaches zero.

    Entries that are zero, and stay so, do not count.
    """

    def fastest(positive: Tensor, along: Tensor, *correction: Tensor) -> Tensor:
        positive = positive.clamp(min=torch.finfo(positive.dtype).tiny)
        rate = along / positive
        if not correction:
            return rate.min()[None]
        more = correction[0] / positive
        return torch.stack([torch.add(rate, more, alpha=share).min() for share in shares])

    if not len(positive):
        return [math.inf] * len(shares)
    rates = reduced(fastest, positive, along, *correction).amin(0).tolist()
    return [-1 / rate if rate < 0 else math.inf for rate in rates]
