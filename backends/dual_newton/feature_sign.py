"""A quadratic with one kink a variable, minimised exactly by an active set.

    min  ½ (y − y₀)ᵀM (y − y₀) + sᵀ(y − y₀) + σ(y),      σ(y) = Σ_i max(−lower_i y_i, −upper_i y_i)

With ``upper = −lower = 1`` this is the lasso. ``y_i = 0`` is optimal where the slope ``s + M (y − y₀)`` lies in
``[lower_i, upper_i]``. A solution has no more entries than M has rank, so the systems stay small, and the last solution
is where the next search starts.

Reference: Lee, Battle, Raina, Ng (2007), Efficient sparse coding algorithms, NeurIPS 19 (feature-sign search).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from scipy.linalg import lu_factor, lu_solve

Vector = Float64[np.ndarray, " r"]

TOLERANCE = 1e-10
"""How far outside ``[lower, upper]`` a slope may be, relative to its width or to the bounds."""
RIDGE = 1e-13
"""Added to the unit diagonal of scaled systems: they are singular where more rows bind than M has rank."""
STEPS_PER_ENTRY = 3
LARGEST = 1e100


class NoMinimumError(ArithmeticError):
    """No minimiser was found, see `feature_sign_search`."""


def feature_sign_search(
    M: Float64[np.ndarray, "r r"],  # noqa: N803
    slope: Vector,
    lower: Vector,
    upper: Vector,
    start: Vector,
    *,
    most: int,
) -> Vector:
    """The minimiser y, from ``start``, which is y₀.

    Args:
        M: symmetric and positive semi-definite.
        slope: s, of the smooth part at y₀.
        lower, upper: may be infinite, and must not cross.
        most: entries that may be nonzero at a time.

    Raises:
        NoMinimumError: if there is none, or it has more entries, or rounding errors hide it.

    >>> one = np.ones(2)
    >>> feature_sign_search(np.eye(2), np.array([-3.0, -0.5]), -one, one, 0 * one, most=2).tolist()
    [2.0, 0.0]
    """
    y, here = start.copy(), slope
    if not len(y):
        return y
    size = np.fmin(upper - lower, np.fmin(np.abs(lower), np.abs(upper)) + 1)
    size = np.where(size > 0, size, 1.0)
    positive, active = y > 0, y != 0
    settled = False
    for _ in range(STEPS_PER_ENTRY * (len(y) + 10)):
        if settled or not active.any():
            outside = np.where(active, 0.0, np.maximum(lower - here, here - upper) / size)
            entering = int(outside.argmax())
            if not outside[entering] > TOLERANCE:
                return y
            if active.sum() >= most:
                raise NoMinimumError("too many entries")
            active[entering], positive[entering] = True, here[entering] < lower[entering]
        these = np.flatnonzero(active)
        sides = np.where(positive, lower, upper)[these]
        bounds = (lower[these], upper[these])
        y[these], settled = _descend(M[np.ix_(these, these)], here[these], y[these], sides, bounds)
        active, positive = y != 0, y > 0
        here = slope + M @ (y - start)
    raise NoMinimumError("too many steps")


def _descend(
    M: Float64[np.ndarray, "a a"],  # noqa: N803
    slope: Float64[np.ndarray, " a"],
    y: Float64[np.ndarray, " a"],
    sides: Float64[np.ndarray, " a"],
    bounds: tuple[Float64[np.ndarray, " a"], Float64[np.ndarray, " a"]],
) -> tuple[Float64[np.ndarray, " a"], bool]:
    """To the lowest point on the way from y to where slopes are at their ``sides``; whether it has the signs for that.

    It is the end of the way, or a point where an entry changes its sign.
    """
    unit = 1 / np.sqrt(np.maximum(M.diagonal(), np.finfo(float).tiny))
    scaled = M * unit[:, None] * unit
    factors = lu_factor(scaled + RIDGE * np.eye(len(y)), check_finite=False)
    wanted = unit * (sides - slope)
    first = lu_solve(factors, wanted, check_finite=False)
    with np.errstate(over="ignore"):
        step = unit * (first + lu_solve(factors, wanted - scaled @ first, check_finite=False))
    if not np.isfinite(step).all() or np.abs(step).max() > LARGEST:
        raise NoMinimumError("no curvature")
    changes = y * (y + step) < 0
    crossings = np.where(changes, -y / np.where(changes, step, 1.0), np.inf)
    lengths = np.unique(np.append(crossings[changes], 1.0))
    moves = lengths[:, None] * step
    points = np.where(crossings == lengths[:, None], 0.0, y + moves)
    with np.errstate(invalid="ignore"):
        kinks = np.where(points == 0, 0.0, -points * np.where(points > 0, *bounds))
    values = (0.5 * (moves @ M) * moves + moves * slope + kinks).sum(1)
    best = int(values.argmin())
    return points[best], bool(lengths[best] == 1.0) and not changes.any()
