"""Iterations of Douglas-Rachford splitting that pass over the factors of a direction LP once each, instead of twice.

In the rotated variables of `FactoredProjection` a projection ends with the products that push ``(alpha, beta)`` to the
weights, and the next one begins with those that pull ``x`` and ``t`` to ``2k + p`` numbers. Between the two, all is
done weight by weight, so that both read the same rows of V while these are in the cache. With (a, e) of the reflected
point,

    2 w2 - (2 w1 - z):    a' = a - 2 zeta scale_x V' beta,    e' = -2 r (J h + V' alpha) - e,    u = zeta a' + delta e',

``v = delta a' - zeta e'``, of which the average with the anchor is the next z.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from backends.pdlp.factored_projection import FactoredProjection

HYPER, WEIGHTS, ROWS = range(3)
"""Parts of z."""


class Splitting(NamedTuple):
    """What an iteration reads: bounds of w, the shift ``gamma c`` of z, which is 0 for rows, and the anchor."""

    lower: Float64[Tensor, "n+m b"]
    upper: Float64[Tensor, "n+m b"]
    shift: Float64[Tensor, "n+m b"]
    anchor: Float64[Tensor, "n+m b"]


def sweep(
    projection: FactoredProjection,
    splitting: Splitting,
    z: Float64[Tensor, "n+m b"],
    shares: Iterable[float | Tensor],
) -> None:
    """An iteration for each share ``(k + 1) / (k + 2)`` of the anchored average, on z itself."""
    sweeps, shares = _Sweeps(projection, splitting, z), list(shares)
    for step, share in enumerate(shares, 1):
        sweeps.iterate(share, last=step == len(shares))


class _Sweeps:
    """The rotated variables between two passes."""

    def __init__(self, projection: FactoredProjection, splitting: Splitting, z: Tensor) -> None:
        p, (programs, n) = projection.scale_h.shape[1], projection.r.shape
        self._projection, sizes = projection, [p, n, n]
        self._lower, self._upper, self._shift, self._anchor, self._z = (
            block.mT.split(sizes, dim=1) for block in (*splitting, z)
        )
        self._a, self._e = projection.work[:programs], projection.work[programs : 2 * programs]
        self._inner = self._a.new_zeros(2 * programs, projection.factors.width)
        self._hyper = self._reflected(HYPER, slice(None), self._z[HYPER])
        for part in projection.parts():
            self._rotate(part, self._z[WEIGHTS][:, part], self._z[ROWS][:, part])

    def iterate(self, share: float | Tensor, *, last: bool) -> None:
        """Push, average with the anchor, reflect and pull, part after part; the last time z is written instead."""
        projection, share = self._projection, share[:, None] if isinstance(share, Tensor) else share
        pushed = projection.solve_small(*projection.completed(self._inner, self._a), self._hyper)
        hyper = torch.lerp(self._anchor[HYPER], 2 * pushed.hyper - self._hyper, share)
        self._inner.zero_()
        for part in projection.parts():
            u, v = self._moved(part, *projection.push(pushed, part))
            targets = (self._z[WEIGHTS][:, part], self._z[ROWS][:, part]) if last else (u, v)
            torch.lerp(self._anchor[WEIGHTS][:, part], u, share, out=targets[0])
            torch.lerp(self._anchor[ROWS][:, part], v, share, out=targets[1])
            if not last:
                self._rotate(part, u, v)
        if last:
            self._z[HYPER].copy_(hyper)
        else:
            self._hyper = self._reflected(HYPER, slice(None), hyper)

    def _moved(self, part: slice, g: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """u and v of ``2 w2 - (2 w1 - z)``."""
        projection = self._projection
        delta, zeta = projection.delta[:, part], projection.zeta[:, part]
        e = g.mul_(projection.r[:, part])
        if projection.offset is not None:
            e += projection.offset.row[:, part]
        e = torch.add(self._e[:, part], e, alpha=2.0)  # with the other sign
        a = torch.addcmul(self._a[:, part], projection.reach[:, part], b, value=-2)
        return (zeta * a).addcmul_(delta, e, value=-1), (delta * a).addcmul_(zeta, e)

    def _rotate(self, part: slice, u: Tensor, v: Tensor) -> None:
        """(a, e) of the reflected point, and what is pulled of it."""
        projection = self._projection
        u, v = self._reflected(WEIGHTS, part, u), self._reflected(ROWS, part, v)
        delta, zeta = projection.delta[:, part], projection.zeta[:, part]
        a = torch.mul(zeta, u, out=self._a[:, part]).addcmul_(delta, v)
        e = torch.mul(delta, u, out=self._e[:, part]).addcmul_(zeta, v, value=-1)
        self._inner += projection.factors.pull(
            part, torch.cat([projection.reach[:, part] * a, projection.r[:, part] * e])
        )

    def _reflected(self, which: int, part: slice, z: Tensor) -> Tensor:
        """``2 w1 - z`` of hyperparameters, weights or rows."""
        bounds = self._lower[which][:, part], self._upper[which][:, part]
        w = z.clamp(*bounds) if which == ROWS else (z - self._shift[which][:, part]).clamp_(*bounds)
        return torch.lerp(z, w, 2.0)
