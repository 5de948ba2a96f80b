"""Projections onto ``{w : M w = b}`` with ``M = [A diag(scale_x), -diag(scale_s)]``, factorised once.

`DenseProjection` takes a QR factorisation of ``M^T`` (O(n^2) per projection). `FactoredProjection` never forms M: for
``A = [J H]`` with ``H = diag(d) + V diag(c) V^T`` one factorisation of size 2k + p makes each projection O(n (k + p)).
Where H is neither, `backends.pdlp.inexact` has one by products.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from backends.pdlp.batch import product
from lift_core.operators import (
    DENSE_LIMIT,
    Dense,
    Diagonal,
    DirectionMatrix,
    LinearOperator,
    LowRankPlusDiagonal,
    pull,
)

SMALL_SYSTEM_LIMIT = 4_000
"""Largest 2k + p for which the small system of `FactoredProjection` is formed."""
_TINY = 1e-300
RIDGE = 1e-13
"""Relative size of the singular values that a projection may ignore: rows of M that depend on others."""


class Graph(NamedTuple):
    """The set ``{(x, s) : A x = s}`` with ``x = center_x + scale_x u`` and ``s = center_s + scale_s v``."""

    A: LinearOperator
    center_x: Float64[Tensor, "n b"]
    scale_x: Float64[Tensor, "n b"]
    center_s: Float64[Tensor, "m b"]
    scale_s: Float64[Tensor, "m b"]

    def keep(self, columns: list[int]) -> Graph:
        """For the programs with these indices."""
        center_x, scale_x, center_s, scale_s = (block[:, columns] for block in self[1:])
        return Graph(self.A, center_x, scale_x, center_s, scale_s)


class Projection(ABC):
    """Orthogonal projection onto ``{w = (u, v) : M w = b}``, ``b = center_s - A center_x``.

    Attributes:
        graph: the units that u and v are in.
    """

    graph: Graph

    @abstractmethod
    def project(self, point: Float64[Tensor, "n+m b"]) -> Float64[Tensor, "n+m b"]:
        """The nearest w with ``M w = b``."""

    @abstractmethod
    def keep(self, columns: list[int]) -> Projection:
        """For the programs with these indices."""

    @abstractmethod
    def multiplier(self, point: Float64[Tensor, "n+m b"]) -> Float64[Tensor, "m b"]:
        """t with ``point - project(point) = M^T t``."""


def make_projection(graph: Graph, *, densify_limit: int, accuracy: float) -> Projection | None:
    """The cheaper projection that exists for this operator, or None."""
    A, (m, n) = graph.A, graph.A.shape  # noqa: N806  (the field's letter)
    if isinstance(A, DirectionMatrix):
        parts = factors(A.hessian)
        if parts is not None and 2 * len(parts.signs) + A.num_hyper <= SMALL_SYSTEM_LIMIT:
            with suppress(torch.linalg.LinAlgError):
                return FactoredProjection(graph, A, parts, accuracy)
    readable = isinstance(A.hessian if isinstance(A, DirectionMatrix) else A, (Dense, LowRankPlusDiagonal, Diagonal))
    if (readable or max(m, n) <= densify_limit) and m * (n + 2 * m) <= DENSE_LIMIT:
        return DenseProjection(graph)
    return None


class DenseProjection(Projection):
    """By ``[M^T; ridge I] = Q R``: ``w - Q (Q^T w - R^-T b)``, accurate even where ``M M^T`` would not be.

    The ridge only appears where the slack does not already bound the singular values of M away from zero; directions
    below it count as no constraint. Every program of a batch has a factorisation of its own.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        matrix = graph.A.to_dense()
        self._factors = [self._factorize(matrix, column) for column in range(graph.scale_x.shape[1])]

    def _factorize(self, matrix: Tensor, column: int) -> tuple[Tensor, Tensor, Tensor]:
        """``(Q, R, R^-T b)``."""
        graph = self.graph
        scale_s = graph.scale_s[:, column]
        M = torch.cat([matrix * graph.scale_x[:, column], -torch.diag(scale_s)], dim=1)  # noqa: N806
        m, size = M.shape
        ridge = RIDGE * (float(M.norm()) or 1.0)
        tall = M.T if m == 0 or float(scale_s.min()) > ridge else torch.cat([M.T, ridge * torch.eye(m).to(M)])
        Q, R = torch.linalg.qr(tall)  # noqa: N806
        offset = graph.center_s[:, column] - matrix @ graph.center_x[:, column]
        return Q[:size].contiguous(), R, torch.linalg.solve_triangular(R.T, offset[:, None], upper=False)

    def keep(self, columns: list[int]) -> DenseProjection:
        kept = copy.copy(self)
        kept.graph, kept._factors = self.graph.keep(columns), [self._factors[column] for column in columns]
        return kept

    def project(self, point: Tensor) -> Tensor:
        moves = [Q @ (Q.T @ column[:, None] - b) for (Q, _, b), column in zip(self._factors, point.T, strict=True)]
        return point - torch.cat(moves, dim=1)

    def multiplier(self, point: Tensor) -> Tensor:
        found = [
            torch.linalg.solve_triangular(R, Q.T @ column[:, None] - b, upper=True)
            for (Q, R, b), column in zip(self._factors, point.T, strict=True)
        ]
        return torch.cat(found, dim=1)


class FactoredProjection(Projection):
    """By the augmented system of ``(A diag(scale_x)^2 A^T + diag(scale_s)^2) t = r``, in two passes over V.

    With ``V' = V sqrt|c|``, ``C = sign(c)``, ``S = scale_s^2``, ``theta = scale_x^2``, ``f = 1 / (theta d^2 + S)`` and
    (x, lambda, s) the point to be projected, its projection is found weight by weight,

        x+ = f (S (x - theta V' beta) - theta d (J lambda+ + V' alpha - s)),    lambda+ = lambda - scale_hyper^2 J^T t
        t  = f (d x + J lambda+ - s + V' alpha) - f theta d V' beta

    once the ``2k + p`` numbers ``alpha = C V'^T x+``, ``beta = C V'^T t`` and ``J^T t`` are known. Their matrix holds
    products with V' once: the condition number of H enters once, where a Woodbury formula for ``M M^T`` would square
    it. Rows that are left out have t = 0.

    Raises:
        torch.linalg.LinAlgError: if that matrix is singular to rounding, as with hyperparameters of equal effect and
            boxes that are wide against H.
    """

    def __init__(self, graph: Graph, matrix: DirectionMatrix, factors: Factors, accuracy: float) -> None:
        self.graph, self._matrix = graph, matrix
        self._d, self._V, self._signs = factors
        p = matrix.num_hyper
        self._hyper_scale, theta = graph.scale_x[:p], graph.scale_x[p:].square()
        self._has_row = self._spread(torch.ones_like(graph.scale_s))
        slack = self._spread(graph.scale_s.square())
        diagonal = self._d[:, None]
        pivot = theta * diagonal.square() + slack
        size = (pivot + theta * self._V.square().sum(1, keepdim=True).square()).amax(0)
        size = torch.where(size > 0, size, self._mixed_size())  # where H is zero, rows are those of J alone
        slack = torch.where(pivot <= RIDGE**2 * size, slack + RIDGE * size + _TINY, slack)
        pivot = theta * diagonal.square() + slack
        self._f = torch.where(self._has_row > 0, 1 / pivot, 0.0)
        self._b = theta * diagonal * self._f
        self._e = torch.where(self._has_row > 0, slack * self._f, 1.0)
        self._theta = theta
        systems = [self._small_system(column) for column in range(theta.shape[1])]
        *self._small, info = torch.linalg.lu_factor_ex(torch.stack(systems))
        if bool(info.any()) or not bool(torch.isfinite(self._small[0]).all()):
            raise torch.linalg.LinAlgError("the small system of the projection is singular")
        self._refinements = 0
        self._refinements = self._needed_refinements(accuracy)

    def _mixed_size(self) -> Float64[Tensor, " b"]:
        """The largest square of a row of J, in units."""
        scales = self._hyper_scale.T
        return torch.stack([self._matrix.mixed.matmat(torch.diag(s)).square().sum(1).amax() for s in scales])

    def keep(self, columns: list[int]) -> FactoredProjection:
        kept = copy.copy(self)
        kept.graph, kept._small = self.graph.keep(columns), [part[columns] for part in self._small]
        for name in ("_hyper_scale", "_has_row", "_f", "_b", "_e", "_theta"):
            setattr(kept, name, getattr(self, name)[:, columns])
        return kept

    def _small_system(self, column: int) -> Float64[Tensor, "2k+p 2k+p"]:
        """Of the unknowns ``(alpha, beta, scale_hyper J^T t)``."""
        V, f, b = self._V, self._f[:, column], self._b[:, column]  # noqa: N806
        a, hyper_scale = self._theta[:, column] * self._e[:, column], self._hyper_scale[:, column]
        bV, fV = b[:, None] * V, f[:, None] * V  # noqa: N806
        inner = torch.diag(self._signs) + pull(V, bV)
        mixed = self._matrix.mixed
        JfV, JbV = (hyper_scale[:, None] * mixed.rmatmat(weighted) for weighted in (fV, bV))  # noqa: N806
        scaled = mixed.matmat(torch.diag(hyper_scale))
        JfJ = hyper_scale[:, None] * mixed.rmatmat(f[:, None] * scaled)  # noqa: N806
        top = torch.cat([inner, pull(V, a[:, None] * V), -JbV.T], dim=1)
        middle = torch.cat([-pull(V, fV), inner, JfV.T], dim=1)
        bottom = torch.cat([-JfV, JbV, torch.eye(len(hyper_scale)).to(V) + JfJ], dim=1)
        return torch.cat([top, middle, bottom])

    def project(self, point: Tensor) -> Tensor:
        return self._project(point)[0]

    def multiplier(self, point: Tensor) -> Tensor:
        return self._project(point)[1]

    def solve(self, right: Float64[Tensor, "m b"]) -> Float64[Tensor, "m b"]:
        """``(M M^T)^-1 right``: the multiplier of 0 where ``b = -right``; without refinement."""
        plain, graph = copy.copy(self), self.graph
        plain.graph = graph._replace(center_x=torch.zeros_like(graph.center_x), center_s=-right)
        return plain._project_once(torch.cat([plain.graph.center_x, torch.zeros_like(right)]))[1]

    def _project(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """The projection and its multiplier; projecting once more removes the rounding error of the first time."""
        projected, t = self._project_once(point)
        for _ in range(self._refinements):
            projected, correction = self._project_once(projected)
            t = t + correction
        return projected, t

    def _project_once(self, point: Float64[Tensor, "n+m b"]) -> tuple[Tensor, Tensor]:
        graph, mixed, V, k = self.graph, self._matrix.mixed, self._V, len(self._signs)  # noqa: N806
        n, p = len(graph.scale_x), self._matrix.num_hyper
        columns = torch.addcmul(graph.center_x, graph.scale_x, point[:n])
        slacks = torch.addcmul(graph.center_s, graph.scale_s, point[n:])
        hyper, x, s = columns[:p], columns[p:], self._spread(slacks)
        outside = mixed.matmat(hyper).sub_(s)
        f_residual = torch.addcmul(outside, self._d[:, None], x).mul_(self._f)
        inner = pull(V, torch.cat([(self._e * x).addcmul_(self._b, outside, value=-1), f_residual], dim=1))
        by_x, by_residual = inner.chunk(2, dim=1)
        right = torch.cat([by_x, by_residual, self._hyper_scale * mixed.rmatmat(f_residual)])
        unknown = torch.linalg.lu_solve(*self._small, right.T[:, :, None])[:, :, 0].T
        alpha, beta, moved = unknown.split([k, k, p])
        of_alpha, of_beta = (V @ torch.cat([alpha, beta], dim=1)).chunk(2, dim=1)
        step = self._hyper_scale * moved
        reach = outside.sub_(mixed.matmat(step)).add_(of_alpha)
        t = torch.addcmul(reach, self._d[:, None], x).mul_(self._f).addcmul_(self._b, of_beta, value=-1)
        t = t if self._matrix.rows is None else t[self._matrix.rows]
        columns[:p] -= step
        x.addcmul_(self._theta, of_beta, value=-1).mul_(self._e).addcmul_(self._b, reach, value=-1)
        projected = torch.empty_like(point)
        torch.sub(columns, graph.center_x, out=projected[:n]).div_(graph.scale_x)
        torch.addcmul(point[n:], graph.scale_s, t, out=projected[n:])
        return projected, t

    def _spread(self, rows: Float64[Tensor, "m b"]) -> Float64[Tensor, "n b"]:
        """From the kept rows to all."""
        kept = self._matrix.rows
        return rows if kept is None else rows.new_zeros(len(self._d), rows.shape[1]).index_copy_(0, kept, rows)

    def _needed_refinements(self, accuracy: float) -> int:
        """Refinement steps that bring ``||M w - b||`` below ``accuracy`` times its value at a random point."""
        shape = len(self.graph.scale_x) + len(self.graph.scale_s), self.graph.scale_x.shape[1]
        point = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(self._f.device)
        before, after = self._residual(point).norm(dim=0), self._residual(self.project(point)).norm(dim=0)
        return int(bool((after > accuracy * before).any()))

    def _residual(self, point: Tensor) -> Float64[Tensor, "m b"]:
        """``M w - b``."""
        graph = self.graph
        n = len(graph.scale_x)
        activity = product(graph.A, graph.center_x + graph.scale_x * point[:n])
        return activity - graph.center_s - graph.scale_s * point[n:]


class Factors(NamedTuple):
    """``H = diag(diagonal) + V diag(signs) V^T``; the strengths of the core are in V, and its zeros are gone."""

    diagonal: Float64[Tensor, " n"]
    V: Float64[Tensor, "n k"]
    signs: Float64[Tensor, " k"]


def factors(hessian: LinearOperator) -> Factors | None:
    if isinstance(hessian, LowRankPlusDiagonal):
        used = hessian.core != 0
        core = hessian.core[used]
        return Factors(hessian.diagonal, hessian.factor[:, used] * core.abs().sqrt(), core.sign())
    if isinstance(hessian, Diagonal):
        empty = hessian.diagonal.new_zeros(0)
        return Factors(hessian.diagonal, hessian.diagonal.new_zeros(len(hessian.diagonal), 0), empty)
    return None
