"""Projections where H is known by products alone: conjugate gradients, preconditioned by a Krylov model of H.

``M M^T = A diag(scale_x)^2 A^T + diag(scale_s)^2`` is positive definite however indefinite H is. A `FactoredProjection`
for ``H ~ V diag(c) V^T + sigma I`` solves it up to what a few leading eigenpairs do not explain; slack bounds the rest
from below, so that a few steps of conjugate gradients, of two products with H each, suffice.

Reference: Zhao, Frangella & Udell (2022), NysADMM, arXiv 2202.11599: inexact subproblems, low-rank preconditioners.
"""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float64
from torch import Tensor

from backends.pdlp.batch import Batch, below, columns_of, product, transposed_product
from backends.pdlp.factored_projection import FactoredProjection
from backends.pdlp.projection import Graph, Projection
from backends.pdlp.units import fit_projection
from lift_core.krylov import block_lanczos, complement_probes
from lift_core.operators import DirectionMatrix, LinearOperator, LowRankPlusDiagonal

RANK = 32
"""Products behind the preconditioner; its factors take ``8 n RANK`` bytes several times over."""
REDUCTION, LOOSE = 0.2, 30
"""By how much projection k reduces its distance to the exact one, from the last multiplier: by 0.2 while k is at most
`LOOSE`, then by ``0.2 (LOOSE / k)^2``, as an anchored iteration adds up all errors and must not gather them."""
MAX_STEPS = 50
"""Most steps of one projection: where equality rows leave ``M M^T`` singular, more would not help."""


class InexactProjection(Projection):
    """Each projection starts from the multiplier of the one before it, so that it matters in which order they come.

    Attributes:
        near: the projection for a model of H, in the same units.
    """

    def __init__(self, graph: Graph, near: FactoredProjection) -> None:
        self.graph, self.near = graph, near
        self._b = graph.center_s - product(graph.A, graph.center_x)
        self._t = torch.zeros_like(self._b)
        self._pulled = below(torch.zeros_like(graph.center_x), self._t)
        self._last, self._count = self._pulled[:, :0], 0

    def project(self, point: Tensor, out: Tensor | None = None) -> Tensor:
        self._count += 1
        self._improve(point)
        self._last = point
        return torch.sub(point, self._pulled, out=out)

    def multiplier(self, point: Tensor) -> Tensor:
        if point is not self._last:
            self.project(point)
        return self._t

    def keep(self, columns: list[int]) -> InexactProjection:
        kept = copy.copy(self)
        kept.graph, kept.near = self.graph.keep(columns), self.near.keep(columns)
        for name in ("_b", "_t", "_pulled"):
            setattr(kept, name, columns_of(getattr(self, name), columns))
        return kept

    def _improve(self, point: Float64[Tensor, "n+m b"]) -> None:
        """Bring ``t`` and ``M^T t`` closer to those of this point, distances measured by ``M^T t``."""
        residual = self._apply(point - self._pulled) - self._b
        direction = self.near.solve(residual)
        square = (residual * direction).sum(0)
        goal = (REDUCTION * min(1.0, LOOSE / self._count) ** 2) ** 2 * square
        for _ in range(MAX_STEPS):
            is_open = square > goal
            if not bool(is_open.any()):
                return
            pulled = self._pull(direction)
            image = self._apply(pulled)
            length = _ratio(square, (direction * image).sum(0), is_open)
            self._t = self._t + length * direction
            self._pulled = self._pulled + length * pulled
            residual = residual - length * image
            step = self.near.solve(residual)
            following = torch.where(is_open, (residual * step).sum(0), square)
            direction = step + _ratio(following, square, is_open) * direction
            square = following

    def _apply(self, w: Float64[Tensor, "n+m b"]) -> Float64[Tensor, "m b"]:
        """``M w``."""
        columns, slacks = w.split([len(self.graph.scale_x), len(self.graph.scale_s)])
        return product(self.graph.A, self.graph.scale_x * columns) - self.graph.scale_s * slacks

    def _pull(self, t: Float64[Tensor, "m b"]) -> Float64[Tensor, "n+m b"]:
        """``M^T t``."""
        return below(self.graph.scale_x * transposed_product(self.graph.A, t), -self.graph.scale_s * t)


def fit_inexact_projection(batch: Batch) -> InexactProjection | None:
    """The projection in units that suit a model of H; None where A is not that of a direction LP, or J is too wide."""
    A = batch.A  # noqa: N806  (the field's letter)
    if not isinstance(A, DirectionMatrix):
        return None
    model = krylov_model(A.hessian, batch.c[A.num_hyper :, 0])
    modelled = batch._replace(A=DirectionMatrix(A.mixed, model, A.rows))
    near = fit_projection(modelled, densify_limit=0, accuracy=1.0)
    return InexactProjection(near.graph._replace(A=A), near) if isinstance(near, FactoredProjection) else None


def krylov_model(hessian: LinearOperator, start: Float64[Tensor, " n"]) -> LowRankPlusDiagonal:
    """``V Θ V^T + sigma (I - V V^T)``: `RANK` Ritz pairs of the space that starts at the costs, and the mean beyond."""
    n, generator = len(start), torch.Generator().manual_seed(0)
    space = block_lanczos(hessian, start, min(RANK, n), generator)
    probe = torch.randn(n, generator=generator, dtype=torch.float64).to(start.device)
    outside, images = complement_probes(hessian, space.vectors, [probe])
    sigma = float((outside * images).sum() / outside.square().sum().clamp(min=1e-300))
    diagonal = torch.full_like(start, sigma)
    return LowRankPlusDiagonal(diagonal=diagonal, factor=space.vectors, core=space.values - sigma)


def _ratio(above: Tensor, below: Tensor, where: Tensor) -> Tensor:
    """``above / below``, and 0 elsewhere or where there is nothing to divide by."""
    usable = where & (below > 0)
    return torch.where(usable, above / torch.where(usable, below, 1.0), 0.0)
