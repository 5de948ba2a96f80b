"""Projections onto ``{w : M w = b}`` with ``M = [A diag(scale_x), -diag(scale_s)]``, factorised once.

`DenseProjection` takes a QR factorisation of ``M^T`` (O(n^2) per projection). `FactoredProjection` never forms M: for
``A = [J H]`` with ``H = diag(d) + V diag(c) V^T`` one factorisation of size 2k + p makes each projection O(n (k + p)).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from lift_core.operators import DENSE_LIMIT, Dense, Diagonal, DirectionMatrix, LinearOperator, LowRankPlusDiagonal

SMALL_SYSTEM_LIMIT = 4_000
"""Largest 2k + p for which the small system of `FactoredProjection` is formed."""
_TINY = 1e-300
RIDGE = 1e-13
"""Relative size of the singular values that a projection may ignore: rows of M that depend on others."""


class Graph(NamedTuple):
    """The set ``{(x, s) : A x = s}`` with ``x = center_x + scale_x u`` and ``s = center_s + scale_s v``."""

    A: LinearOperator
    center_x: Float64[Tensor, " n"]
    scale_x: Float64[Tensor, " n"]
    center_s: Float64[Tensor, " m"]
    scale_s: Float64[Tensor, " m"]


class Projection(ABC):
    """Orthogonal projection onto ``{w = (u, v) : M w = b}``, ``b = center_s - A center_x``.

    Attributes:
        graph: the units that u and v are in.
    """

    graph: Graph

    @abstractmethod
    def project(self, point: Float64[Tensor, " n+m"]) -> Float64[Tensor, " n+m"]:
        """The nearest w with ``M w = b``."""

    @abstractmethod
    def multiplier(self, point: Float64[Tensor, " n+m"]) -> Float64[Tensor, " m"]:
        """t with ``point - project(point) = M^T t``."""


def make_projection(graph: Graph, *, densify_limit: int, accuracy: float) -> Projection | None:
    """The cheaper projection that exists for this operator, or None."""
    A, (m, n) = graph.A, graph.A.shape  # noqa: N806  (the field's letter)
    if isinstance(A, DirectionMatrix):
        parts = factors(A.hessian)
        if parts is not None and 2 * len(parts.signs) + A.num_hyper <= SMALL_SYSTEM_LIMIT:
            return FactoredProjection(graph, A, parts, accuracy)
    readable = isinstance(A.hessian if isinstance(A, DirectionMatrix) else A, (Dense, LowRankPlusDiagonal, Diagonal))
    if (readable or max(m, n) <= densify_limit) and m * (n + 2 * m) <= DENSE_LIMIT:
        return DenseProjection(graph)
    return None


class DenseProjection(Projection):
    """By ``[M^T; ridge I] = Q R``: ``w - Q (Q^T w - R^-T b)``, accurate even where ``M M^T`` would not be.

    The ridge only appears where the slack does not already bound the singular values of M away from zero; directions
    below it count as no constraint.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        matrix = graph.A.to_dense() * graph.scale_x
        M = torch.cat([matrix, -torch.diag(graph.scale_s)], dim=1)  # noqa: N806
        m, size = M.shape
        ridge = RIDGE * (float(M.norm()) or 1.0)
        tall = M.T if m == 0 or float(graph.scale_s.min()) > ridge else torch.cat([M.T, ridge * torch.eye(m).to(M)])
        Q, self._R = torch.linalg.qr(tall)  # noqa: N806
        self._Q = Q[:size].contiguous()
        offset = graph.center_s - graph.A.matvec(graph.center_x)
        self._offset = torch.linalg.solve_triangular(self._R.T, offset[:, None], upper=False)[:, 0]

    def project(self, point: Tensor) -> Tensor:
        return point - self._Q @ (self._Q.T @ point - self._offset)

    def multiplier(self, point: Tensor) -> Tensor:
        coordinates = self._Q.T @ point - self._offset
        return torch.linalg.solve_triangular(self._R, coordinates[:, None], upper=True)[:, 0]


class FactoredProjection(Projection):
    """By the augmented system of ``(A diag(scale_x)^2 A^T + diag(scale_s)^2) t = r``.

    With ``V' = V sqrt|c|``, ``C = sign(c)``, ``J' = J scale_hyper``, ``S = scale_s^2``, ``theta = scale_x^2``:

        x = theta (d t + V' beta)             alpha = C V'^T x,  beta = C V'^T t,  mu = J'^T t
        d x + V' alpha + J' mu + S t = r

    Eliminating x and t leaves 2k + p unknowns whose matrix holds products with V' once: the condition number of H
    enters once, where a Woodbury formula for ``M M^T`` would square it. Rows that are left out have t = 0.
    """

    def __init__(self, graph: Graph, matrix: DirectionMatrix, factors: Factors, accuracy: float) -> None:
        self.graph, self._matrix = graph, matrix
        diagonal, self._V, self._signs = factors
        p = matrix.num_hyper
        self._hyper_scale, theta = graph.scale_x[:p], graph.scale_x[p:].square()
        rows = torch.arange(len(diagonal), device=diagonal.device) if matrix.rows is None else matrix.rows
        kept = torch.zeros_like(diagonal).index_fill_(0, rows, 1.0) > 0
        slack = torch.zeros_like(diagonal).index_copy_(0, rows, graph.scale_s.square())
        pivot = theta * diagonal.square() + slack
        size = float((pivot + theta * self._V.square().sum(1).square()).max())
        slack = torch.where(pivot <= RIDGE**2 * size, slack + RIDGE * size + _TINY, slack)
        pivot = theta * diagonal.square() + slack
        self._f = torch.where(kept, 1 / pivot, 0.0)
        self._b = theta * diagonal * self._f
        self._a = torch.where(kept, theta * slack * self._f, theta)
        self._small = torch.linalg.lu_factor(self._small_system())
        self._refinements = 0
        self._refinements = self._needed_refinements(accuracy)

    def _small_system(self) -> Float64[Tensor, "2k+p 2k+p"]:
        V, f = self._V, self._f  # noqa: N806
        fV, bV, aV = (weights[:, None] * V for weights in (f, self._b, self._a))  # noqa: N806
        inner = torch.diag(self._signs) + V.T @ bV
        JfV, JbV = self._pull_back(fV.T), self._pull_back(bV.T)  # noqa: N806
        unit = torch.diag(self._hyper_scale)
        JfJ = self._pull_back(f * self._matrix.mixed.matvec(column) for column in unit)  # noqa: N806
        top = torch.cat([inner, -V.T @ aV, JbV.T], dim=1)
        middle = torch.cat([V.T @ fV, inner, JfV.T], dim=1)
        bottom = torch.cat([JfV, JbV, torch.eye(len(unit)).to(V) + JfJ], dim=1)
        return torch.cat([top, middle, bottom])

    def _pull_back(self, columns: Iterable[Tensor]) -> Float64[Tensor, "p columns"]:
        """``J'^T`` times each column."""
        pulled = [self._hyper_scale * self._matrix.mixed.rmatvec(column) for column in columns]
        return torch.stack(pulled, dim=1) if pulled else self._V.new_zeros(len(self._hyper_scale), 0)

    def project(self, point: Tensor) -> Tensor:
        return self._project(point)[0]

    def multiplier(self, point: Tensor) -> Tensor:
        return self._project(point)[1]

    def _project(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """The projection and its multiplier; projecting once more removes the rounding error of the first time."""
        t = self._solve(self._residual(point))
        point = self._move(point, t)
        for _ in range(self._refinements):
            correction = self._solve(self._residual(point))
            point, t = self._move(point, correction), t + correction
        return point, t

    def _move(self, point: Tensor, t: Tensor) -> Float64[Tensor, " n+m"]:
        """``w - M^T t``."""
        graph = self.graph
        return point - torch.cat([graph.scale_x * graph.A.rmatvec(t), -graph.scale_s * t])

    def _needed_refinements(self, accuracy: float) -> int:
        """Refinement steps that bring ``||M w - b||`` below ``accuracy`` times its value at a random point."""
        size = len(self.graph.scale_x) + len(self.graph.scale_s)
        point = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        point = point.to(self._f.device)
        before, after = self._residual(point), self._residual(self.project(point))
        return int(float(after.norm()) > accuracy * float(before.norm()))

    def _residual(self, point: Tensor) -> Float64[Tensor, " m"]:
        """``M w - b``."""
        graph = self.graph
        n = len(graph.scale_x)
        activity = graph.A.matvec(graph.center_x + graph.scale_x * point[:n])
        return activity - graph.center_s - graph.scale_s * point[n:]

    def _solve(self, residual: Float64[Tensor, " m"]) -> Float64[Tensor, " m"]:
        """``(M M^T)^-1 r``."""
        rows, V, k = self._matrix.rows, self._V, len(self._signs)  # noqa: N806
        r = residual if rows is None else torch.zeros_like(self._f).index_copy_(0, rows, residual)
        fr = self._f * r
        pulled = V.T @ torch.stack([self._b * r, fr], dim=1)
        right = torch.cat([pulled[:, 0], pulled[:, 1], self._hyper_scale * self._matrix.mixed.rmatvec(fr)])
        unknown = torch.linalg.lu_solve(*self._small, right[:, None])[:, 0]
        lifted = V @ unknown[: 2 * k].reshape(2, k).T
        mixed = self._matrix.mixed.matvec(self._hyper_scale * unknown[2 * k :])
        t = fr - self._f * (lifted[:, 0] + mixed) - self._b * lifted[:, 1]
        return t if rows is None else t[rows]


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
