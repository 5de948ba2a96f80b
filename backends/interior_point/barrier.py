"""Iterates between bounds, and the Newton directions that lead along the central path.

The gaps to finite bounds are variables of their own, ``w − l = lower`` and ``w + u = upper``, so the iterates may start
outside the bounds. With duals z_l, z_u ≥ 0 of the bounds, the central path of ``min c̃ᵀw`` s.t. ``B w = 0`` solves

    B w = 0,   c̃ − Bᵀy = z_l − z_u,   l z_l = μ,   u z_u = μ.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

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
