"""Slope and curvature along a line from losses alone: a parabola through a few points, and how well it fits."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class QuadraticFit:
    """Least squares of ``L − b t + ½ a t²``.

    Attributes:
        slope, curvature: b and a.
        r_squared: ``1 − residual / total`` sum of squares; 1 where the losses do not differ at all.
        error: standard error of ``b² / (2a)``, relative; from the residuals.
    """

    slope: float
    curvature: float
    r_squared: float
    error: float = field(default=0.0)


def fit_quadratic(losses: dict[float, float]) -> QuadraticFit:
    """Fit a parabola to losses at steps t; at least four different t, so that the fit can fail.

    Raises:
        ValueError: if there are fewer.

    >>> fit = fit_quadratic({t: 5 - 3 * t + 2 * t * t for t in (-1.0, 0.0, 1.0, 2.0)})
    >>> round(fit.slope, 9), round(fit.curvature, 9), round(fit.r_squared, 9)
    (3.0, 4.0, 1.0)
    """
    if len(losses) < 4:
        raise ValueError(f"losses: expected at least 4 different steps, got {len(losses)}")
    steps = torch.tensor(list(losses), dtype=torch.float64)
    values = torch.tensor(list(losses.values()), dtype=torch.float64)
    if not torch.isfinite(values).all():
        return QuadraticFit(math.nan, math.nan, -math.inf, math.inf)
    scale = float(steps.abs().max())
    t = steps / scale
    design = torch.stack([torch.ones_like(t), -t, t.square() / 2], dim=1)
    # losses relative to the one nearest to 0, so that rounding is relative to what they differ by
    relative = values - values[steps.abs().argmin()]
    inverse = torch.linalg.inv(design.T @ design)
    _, slope, curvature = (inverse @ (design.T @ relative)).tolist()
    residual = float((relative - design @ (inverse @ (design.T @ relative))).square().sum())
    total = float((relative - relative.mean()).square().sum())
    variance = residual / (len(losses) - 3) * inverse.diagonal()
    error = math.inf
    if slope and curvature:
        error = math.hypot(2 * float(variance[1]) ** 0.5 / slope, float(variance[2]) ** 0.5 / curvature)
    return QuadraticFit(slope / scale, curvature / scale / scale, 1 - residual / total if total else 1.0, error)


def second_step(first: float, slope: float, curvature: float) -> float:
    """Where to look next: the best step ``b / a``, within a factor of four of the first, but not within two of it.

    >>> second_step(1.0, 3.0, 1.0), second_step(1.0, 1.0, 1.0), second_step(1.0, 1.0, -1.0), second_step(1.0, 1.0, 9.0)
    (3.0, 2.0, 4.0, 0.25)
    """
    if not (curvature > 0 and math.isfinite(slope)):
        return 4 * first
    best = min(max(abs(slope) / curvature, first / 4), 4 * first)
    if first / 2 < best < 2 * first:
        return 2 * first if best >= first else first / 2
    return best
