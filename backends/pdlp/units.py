"""The units in which Douglas-Rachford sees a program: every variable and row activity in a box of about size one."""

from __future__ import annotations

from contextlib import suppress

import torch
from jaxtyping import Float64
from torch import Tensor

from backends.factors import has_factors
from backends.pdlp.batch import Batch
from backends.pdlp.factored_projection import FactoredProjection
from backends.pdlp.projection import DenseProjection, Graph, Projection
from backends.pdlp.tall_factors import TallFactors
from lift_core.operators import DENSE_LIMIT, Dense, Diagonal, DirectionMatrix, LowRankPlusDiagonal

SMALL_SYSTEM_LIMIT = 4_000
"""Largest 2k + p for which the small system of `FactoredProjection` is formed."""
PROBES = 8
MARGIN = 3.0
"""Optimal corners lie further out than random ones by about this factor."""

SMALLEST_REACH = 1e-9
"""What reaches less far is confined to a point, or was moved by rounding alone."""


def fit_projection(batch: Batch, *, densify_limit: int, accuracy: float) -> Projection | None:
    """The projection in units of the boxes, or of what can be reached of them where a box is too wide to bind."""
    graph = _unit_graph(batch)
    projection = make_projection(graph, densify_limit=densify_limit, accuracy=accuracy)
    if projection is None:
        return None
    weights = slice(batch.A.num_hyper if isinstance(batch.A, DirectionMatrix) else 0, batch.A.shape[1])
    share = _reachable_share(projection, weights)
    if bool((share > 0.5).all()):
        return projection
    scale_x = graph.scale_x.clone()
    scale_x[weights] *= torch.where(share > 0.5, 1.0, share)
    tall = projection.factors if isinstance(projection, FactoredProjection) else None
    graph = graph._replace(scale_x=scale_x)
    return make_projection(graph, densify_limit=densify_limit, accuracy=accuracy, tall=tall)


def make_projection(
    graph: Graph, *, densify_limit: int, accuracy: float, tall: TallFactors | None = None
) -> Projection | None:
    """The cheaper projection that exists for this operator, or None; ``tall`` are its factors, if they are at hand."""
    A, (m, n) = graph.A, graph.A.shape  # noqa: N806  (the field's letter)
    if isinstance(A, DirectionMatrix) and has_factors(A):
        tall = TallFactors(A) if tall is None else tall
        if 2 * tall.rank + A.num_hyper <= SMALL_SYSTEM_LIMIT:
            with suppress(torch.linalg.LinAlgError):
                return FactoredProjection(graph, tall, accuracy)
    readable = isinstance(A.hessian if isinstance(A, DirectionMatrix) else A, (Dense, LowRankPlusDiagonal, Diagonal))
    if (readable or max(m, n) <= densify_limit) and m * (n + 2 * m) <= DENSE_LIMIT:
        return DenseProjection(graph)
    return None


def in_units(offset: Tensor, scale: Tensor) -> Tensor:
    """``offset / scale``, and 0 where the scale is 0: the slack of an equality row has no units and no freedom."""
    return torch.where(scale > 0, offset / torch.where(scale > 0, scale, 1.0), 0.0)


def _unit_graph(lp: Batch) -> Graph:
    """Centres and half-widths of all bounds; 1 where a bound is missing, and 0 for the slack of an equality row."""
    center_x, width_x = _centre(lp.col_lower, lp.col_upper)
    center_s, width_s = _centre(lp.row_lower, lp.row_upper)
    return Graph(lp.A, center_x, torch.where(width_x > 0, width_x, 1.0), center_s, width_s)


def _centre(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and half-width of [lower, upper]; of a half-line its end and 1, of the line 0 and 1."""
    has_lower, has_upper = torch.isfinite(lower), torch.isfinite(upper)
    end = torch.where(has_lower, lower, torch.where(has_upper, upper, 0.0))
    both = has_lower & has_upper
    return torch.where(both, (lower + upper) / 2, end), torch.where(both, (upper - lower) / 2, 1.0)


def _reachable_share(projection: Projection, weights: slice) -> Float64[Tensor, " b"]:
    """Which share of their boxes the weights may need.

    The projection of random corners of the boxes shows how far the constraints let the weights move: hardly at all
    where boxes are too wide to bind, and across the box in directions that the constraints leave free. Hyperparameters
    keep their boxes: that equality rows confine them says nothing about how far they would go.
    """
    graph = projection.graph
    size, width = len(graph.scale_x) + len(graph.scale_s), graph.scale_x.shape[1]
    generator = torch.Generator().manual_seed(0)
    reach = torch.zeros(width, dtype=torch.float64, device=graph.scale_x.device)
    for _ in range(PROBES):
        corner = torch.randint(0, 2, (size, 1), generator=generator).to(graph.scale_x) * 2 - 1
        moved = projection.project(corner.expand(size, width).contiguous())[weights].abs()
        reach = torch.maximum(reach, moved.amax(0) if len(moved) else reach)
    return torch.where(reach > SMALLEST_REACH, (MARGIN * reach).clamp(max=1.0), 1.0)
