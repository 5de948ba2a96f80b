"""The projection of direction LPs with factored curvature: their matrix is never formed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from backends.chunks import chunks
from backends.pdlp.batch import product
from backends.pdlp.projection import RIDGE, Graph, Projection
from backends.pdlp.tall_factors import TallFactors

_TINY = 1e-300


class FactoredProjection(Projection):
    """By rotations weight by weight and one small system, in two passes over V that all programs share.

    With ``V' = V sqrt|c|`` and ``C = sign(c)``, row i of ``M w = b`` reads, in units of the boxes,

        d_i scale_x,i u_i - scale_s,i v_i + (J h + V' alpha)_i = b_i,    alpha = C V'^T x,    h the hyperparameters.

    Multiplied by ``r_i = 1 / ‖(d_i scale_x,i, scale_s,i)‖``, its first two coefficients are ``(delta_i, -zeta_i)``, of
    length one. In the rotated variables ``a = zeta u + delta v`` and ``e = delta u - zeta v`` the projection is

        e+ = r (b - J h+ - V' alpha),     a+ = a - zeta scale_x V' beta,     h+ = h - scale_h^2 J^T t,
        t  = r (e - e+ - delta scale_x V' beta),

    once ``alpha = C V'^T x+``, ``beta = C V'^T t`` and ``h+`` are known, from ``2k + p`` equations. Their matrix holds
    products with V' once: the condition number of H enters once, where a Woodbury formula for ``M M^T`` would square
    it. Rows that are left out have ``delta = r = 0``, so that t = 0.

    Inside, the vectors of a program are rows of blocks.

    Attributes:
        factors: ``[V' J]``.
        delta, zeta, r: of the rotation.
        reach: ``zeta scale_x``.
        scale_h: the hyperparameters' part of ``scale_x``.
        can_sweep: whether a pass over the factors can project a point and rotate the next, see `backends.pdlp.sweeps`.
        offset: what the centres of the boxes add; None where all of them are 0.

    Raises:
        torch.linalg.LinAlgError: if that matrix is singular to rounding, as with hyperparameters of equal effect and
            boxes that are wide against H.
    """

    def __init__(self, graph: Graph, factors: TallFactors, accuracy: float) -> None:
        self.graph, self.factors, p = graph, factors, factors.J.shape[1]
        self.scale_h, self._scale = graph.scale_x.mT[:, :p].contiguous(), graph.scale_x.mT[:, p:]
        self._rotate_rows()
        self._small = self._small_system()
        self._refinements, self.offset = 0, self._offsets()
        self._refinements = self._needed_refinements(accuracy)
        self.can_sweep = self.factors.has_both and factors.rows is None and not self._refinements

    def _rotate_rows(self) -> None:
        """Set delta, zeta and r; rows that depend on others get a little slack."""
        d, square = self.factors.d, self._scale.square()
        slack = self.factors.spread(self.graph.scale_s.mT.square(), 1.0)
        pivot = square * d.square() + slack
        size = (pivot + square * self.factors.V.square().sum(0).square()).amax(1, keepdim=True)
        size = torch.where(size > 0, size, self._mixed_size())  # where H is zero, rows are those of J alone
        slack = torch.where(pivot <= RIDGE**2 * size, slack + RIDGE * size + _TINY, slack)
        has_row = self.factors.spread(torch.ones_like(self.graph.scale_s.mT), 0.0)
        pivot = torch.where(has_row > 0, square * d.square() + slack, 1.0)
        self.r = has_row * pivot.rsqrt()
        self.delta = d * self._scale * self.r
        self.zeta = torch.where(has_row > 0, slack.sqrt() * self.r, 1.0)
        self.reach = self.zeta * self._scale
        self.work = self.r.new_empty(3 * len(self.r), self.r.shape[1])

    def _mixed_size(self) -> Float64[Tensor, "b 1"]:
        """The largest square of a row of J, in units."""
        return torch.stack([self.factors.J.matmat(torch.diag(s)).square().sum(1).amax() for s in self.scale_h])[:, None]

    def _small_system(self) -> tuple[Tensor, Tensor]:
        """LU factors and pivots of the matrix of ``(alpha, beta, h / scale_h)``, program by program."""
        tall, signs, scale = self.factors, torch.diag(self.factors.signs), self.scale_h
        weights = self.reach.square(), self.delta * self._scale * self.r, self.r.square()
        sums = torch.stack([tall.grams([block[row] for block in weights]) for row in range(len(scale))])
        of_a, of_b, of_f = tall.split(sums)
        k = len(signs)
        top = torch.cat([signs + of_b[:, :, :k], of_a, of_b[:, :, k:] * scale[:, None]], dim=2)
        middle = torch.cat([-of_f[:, :k, :k], signs + of_b[:, :, :k], -of_f[:, :k, k:] * scale[:, None]], dim=2)
        bottom = torch.cat([of_f[:, k:, :k], -of_b[:, :, k:].mT, of_f[:, k:, k:] * scale[:, None]], dim=2)
        bottom = bottom * scale[:, :, None]
        bottom[:, :, 2 * k :].diagonal(dim1=1, dim2=2).add_(1.0)
        factors, pivots, info = torch.linalg.lu_factor_ex(torch.cat([top, middle, bottom], dim=1))
        if bool(info.any()) or not bool(torch.isfinite(factors).all()):
            raise torch.linalg.LinAlgError("the small system of the projection is singular")
        return factors, pivots

    def _offsets(self) -> _Offsets | None:
        graph, d, p = self.graph, self.factors.d, self.factors.J.shape[1]
        if not (graph.center_x.any() or graph.center_s.any()):
            return None
        h, x = graph.center_x.mT.split([p, len(d)], dim=1)
        row = self.r * (d * x - self.factors.spread(graph.center_s.mT, 0.0) + self.factors.J.matmat(h.mT).mT)
        return _Offsets(row, *self._pull(x - self.delta * self._scale * row, self.r * row))

    def keep(self, columns: list[int]) -> FactoredProjection:
        kept = copy.copy(self)
        kept.graph = self.graph.keep(columns)
        for name in ("scale_h", "_scale", "r", "delta", "zeta", "reach"):
            setattr(kept, name, getattr(self, name)[columns])
        kept.work = self.work[: 3 * len(columns)]
        factors, pivots = self._small
        kept._small = factors[columns], pivots[columns]
        kept.offset = None if self.offset is None else _Offsets(*(block[columns] for block in self.offset))
        return kept

    def project(self, point: Tensor, out: Tensor | None = None) -> Tensor:
        """Projecting once more removes the rounding error of the first time."""
        for _ in range(self._refinements + 1):
            point = self._project_once(point, out)
        return point

    def multiplier(self, point: Tensor) -> Tensor:
        t = self._multiplier_once(point)
        for _ in range(self._refinements):
            point = self._project_once(point)
            t = t + self._multiplier_once(point)
        return t

    def solve(self, right: Float64[Tensor, "m b"]) -> Float64[Tensor, "m b"]:
        """``(M M^T)^-1 right``: the multiplier of 0 where ``b = -right``; without refinement."""
        e = self.r * self.factors.spread(right.mT, 0.0)
        pulled = self._pull(-self.delta * self._scale * e, self.r * e)
        pushed = self.solve_small(*pulled, torch.zeros_like(self.scale_h))
        return self._multiply(e, pushed)

    def _project_once(self, point: Float64[Tensor, "n+m b"], out: Tensor | None = None) -> Float64[Tensor, "n+m b"]:
        """``out`` may be ``point``."""
        p, n = self.scale_h.shape[1], self._scale.shape[1]
        hyper, u, v = self._parts(point)
        a, pulled = self._rotated(u, v)
        pushed = self.solve_small(*pulled, hyper)
        projected = torch.empty_like(point.mT) if out is None else out.mT
        projected[:, :p], u, v = pushed.hyper, projected[:, p : p + n], projected[:, p + n :]
        kept = self.factors.rows
        v = v if kept is None else torch.empty_like(a)
        for part in self.parts():
            delta, zeta = self.delta[:, part], self.zeta[:, part]
            g, b = self.push(pushed, part)
            a_new = torch.addcmul(a[:, part], self.reach[:, part], b, value=-1)
            e_new = g.mul_(self.r[:, part])  # with the other sign
            if self.offset is not None:
                e_new += self.offset.row[:, part]
            torch.mul(zeta, a_new, out=u[:, part]).addcmul_(delta, e_new, value=-1)
            torch.mul(delta, a_new, out=v[:, part]).addcmul_(zeta, e_new)
        if kept is not None:
            torch.index_select(v, 1, kept, out=projected[:, p + n :])
        return projected.mT

    def _multiplier_once(self, point: Tensor) -> Float64[Tensor, "m b"]:
        hyper, u, v = self._parts(point)
        e = torch.addcmul(self.delta * u, self.zeta, v, value=-1)
        pushed = self.solve_small(*self._rotated(u, v)[1], hyper)
        return self._multiply(e if self.offset is None else e + self.offset.row, pushed)

    def _multiply(self, e: Float64[Tensor, "b n"], pushed: Pushed) -> Float64[Tensor, "m b"]:
        """``r (e - e+ - delta scale_x V' beta)`` in the rows that are kept."""
        t = torch.empty_like(e)
        for part in self.parts():
            g, b = self.push(pushed, part)
            moved = torch.addcmul(e[:, part], self.r[:, part], g)
            moved.addcmul_(self.delta[:, part] * self._scale[:, part], b, value=-1)
            torch.mul(self.r[:, part], moved, out=t[:, part])
        return self.factors.select(t).mT

    def _parts(self, point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """h, u and v, the latter for all rows."""
        n = self._scale.shape[1]
        hyper, u, v = point.mT.split([self.scale_h.shape[1], n, point.shape[0] - self.scale_h.shape[1] - n], dim=1)
        return hyper, u, self.factors.spread(v, 0.0)

    def _rotated(self, u: Tensor, v: Tensor) -> tuple[Float64[Tensor, "b n"], tuple[Tensor, Tensor]]:
        """a, and what is pulled: of the x that belongs to it, and of ``r e``."""
        a, both = self.work[: len(u)], self.work[len(u) :]
        x, t = both.split(len(u))
        inner = both.new_zeros(len(both), self.factors.width)
        for part in self.parts():
            delta, zeta, some_u, some_v = self.delta[:, part], self.zeta[:, part], u[:, part], v[:, part]
            torch.mul(zeta, some_u, out=a[:, part]).addcmul_(delta, some_v)
            torch.mul(self.reach[:, part], a[:, part], out=x[:, part])
            torch.mul(delta, some_u, out=t[:, part]).addcmul_(zeta, some_v, value=-1).mul_(self.r[:, part])
            inner += self.factors.pull(part, both[:, part])
        return a, self.completed(inner, t)

    def _pull(self, x: Float64[Tensor, "b n"], t: Float64[Tensor, "b n"]) -> tuple[Tensor, Tensor]:
        """``x V'`` and ``t [V' J]``."""
        return self._split(self.factors.pull(slice(None), torch.cat([x, t])), t)

    def completed(self, inner: Float64[Tensor, "2b k_or_k+p"], t: Float64[Tensor, "b n"]) -> tuple[Tensor, Tensor]:
        """``x V'`` and ``t [V' J]`` of what is pulled of (x, t), and of the centres."""
        of_x, of_t = self._split(inner, t)
        return (of_x, of_t) if self.offset is None else (of_x + self.offset.x, of_t + self.offset.t)

    def _split(self, inner: Tensor, t: Tensor) -> tuple[Float64[Tensor, "b k"], Float64[Tensor, "b k+p"]]:
        of_x, of_t = inner.split(len(t))
        if not self.factors.has_both:
            of_t = torch.cat([of_t, self.factors.pull_mixed(t)], dim=1)
        return of_x[:, : len(self.factors.signs)], of_t

    def solve_small(self, of_x: Tensor, of_t: Tensor, hyper: Float64[Tensor, "b p"]) -> Pushed:
        k, scale = len(self.factors.signs), self.scale_h
        right = torch.cat([of_x, of_t[:, :k], hyper - scale * of_t[:, k:]], dim=1)
        found = torch.linalg.lu_solve(*self._small, right[:, :, None])[:, :, 0]
        alpha, beta, hyper = found.split([k, k, scale.shape[1]], dim=1)
        if self.factors.has_both:
            alpha, beta = torch.cat([alpha, scale * hyper], dim=1), torch.cat([beta, torch.zeros_like(hyper)], dim=1)
            return Pushed(torch.cat([alpha, beta]), None, hyper)
        return Pushed(torch.cat([alpha, beta]), self.factors.J.matmat((scale * hyper).mT).mT, hyper)

    def push(self, pushed: Pushed, part: slice) -> tuple[Tensor, Tensor]:
        """``J h+ + V' alpha`` without the centre of h, and ``V' beta``."""
        g, b = self.factors.push(pushed.coefficients, part).split(len(pushed.hyper))
        return g if pushed.moved is None else g.add_(pushed.moved[:, part]), b

    def parts(self) -> Iterator[slice]:
        programs, n = self._scale.shape
        return chunks(n, self.r.device, vectors=2 * programs)

    def _needed_refinements(self, accuracy: float) -> int:
        """Refinement steps that bring ``||M w - b||`` below ``accuracy`` times its value at a random point."""
        graph = self.graph
        shape = graph.scale_x.shape[1], len(graph.scale_x) + len(graph.scale_s)
        point = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(self.r.device).mT
        before, after = self._residual(point).norm(dim=0), self._residual(self.project(point)).norm(dim=0)
        return int(bool((after > accuracy * before).any()))

    def _residual(self, point: Tensor) -> Float64[Tensor, "m b"]:
        """``M w - b``."""
        graph = self.graph
        n = len(graph.scale_x)
        activity = product(graph.A, graph.center_x + graph.scale_x * point[:n])
        return activity - graph.center_s - graph.scale_s * point[n:]


class _Offsets(NamedTuple):
    """What the centres of the boxes add to e, and to what is pulled."""

    row: Float64[Tensor, "b n"]
    x: Float64[Tensor, "b k"]
    t: Float64[Tensor, "b k+p"]


class Pushed(NamedTuple):
    """``(alpha, beta)``, with J side by side with V also of h and 0; ``J h`` otherwise; and h in its units."""

    coefficients: Float64[Tensor, "2b k_or_k+p"]
    moved: Float64[Tensor, "b n"] | None
    hyper: Float64[Tensor, "b p"]
