"""Projections onto ``{w : M w = b}`` with ``M = [A diag(scale_x), -diag(scale_s)]``, factorised once.

`DenseProjection` takes a QR factorisation of ``M^T`` (O(n^2) per projection). `backends.pdlp.factored_projection` never
forms M, where H is given by factors; where it is neither, `backends.pdlp.inexact` has a projection by products.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from backends.pdlp.batch import columns_of
from lift_core.operators import LinearOperator

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
        center_x, scale_x, center_s, scale_s = (columns_of(block, columns) for block in self[1:])
        return Graph(self.A, center_x, scale_x, center_s, scale_s)


class Projection(ABC):
    """Orthogonal projection onto ``{w = (u, v) : M w = b}``, ``b = center_s - A center_x``.

    Attributes:
        graph: the units that u and v are in.
    """

    graph: Graph

    @abstractmethod
    def project(self, point: Float64[Tensor, "n+m b"], out: Tensor | None = None) -> Float64[Tensor, "n+m b"]:
        """The nearest w with ``M w = b``, written to ``out`` if that is given: new memory takes time."""

    @abstractmethod
    def keep(self, columns: list[int]) -> Projection:
        """For the programs with these indices."""

    @abstractmethod
    def multiplier(self, point: Float64[Tensor, "n+m b"]) -> Float64[Tensor, "m b"]:
        """t with ``point - project(point) = M^T t``."""


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

    def project(self, point: Tensor, out: Tensor | None = None) -> Tensor:
        moves = [Q @ (Q.T @ column[:, None] - b) for (Q, _, b), column in zip(self._factors, point.T, strict=True)]
        return torch.sub(point, torch.cat(moves, dim=1), out=out)

    def multiplier(self, point: Tensor) -> Tensor:
        found = [
            torch.linalg.solve_triangular(R, Q.T @ column[:, None] - b, upper=True)
            for (Q, R, b), column in zip(self._factors, point.T, strict=True)
        ]
        return torch.cat(found, dim=1)
