"""Gradients and curvature products of a loss of many tensors, handed out as flat float64 vectors.

The flat vector of the core would cost a network several copies of all its weights at every product. Here the network is
differentiated in its own tensors and precision, on one graph per batch that is built once and kept; only the results
are summed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch.autograd import grad

from lift_core.operators import MatrixFree

Parameters = Mapping[str, Tensor]

_PIECE = 1 << 18


@dataclass(frozen=True)
class Layout:
    """Where each tensor stands in the flat vector, and the precision that the network computes in."""

    groups: Mapping[str, slice]
    shapes: Mapping[str, torch.Size]
    dtype: torch.dtype

    def tensors(self, vector: Float64[Tensor, " n"]) -> dict[str, Tensor]:
        """The parts of a flat vector by name, differentiable in it."""
        parts = vector.to(self.dtype).split([part.stop - part.start for part in self.groups.values()])
        return {name: part.view(self.shapes[name]) for name, part in zip(self.groups, parts, strict=True)}

    def leaves(self, vector: Float64[Tensor, " n"]) -> dict[str, Tensor]:
        """The parts as tensors to differentiate by."""
        return {name: part.requires_grad_() for name, part in self.tensors(vector.detach()).items()}

    def add(self, total: Float64[Tensor, " n"] | None, parts: Sequence[Tensor], factor: float) -> Float64[Tensor, " n"]:
        """``total += factor * parts``, in pieces: a sum of two precisions makes a copy of what it converts.

        Without a total, a new one in float64.
        """
        is_new = total is None
        if total is None:
            total = parts[0].new_empty(sum(part.numel() for part in parts), dtype=torch.float64)
        for place, part in zip(self.groups.values(), parts, strict=True):
            pieces = zip(total[place].split(_PIECE), part.detach().flatten().split(_PIECE), strict=True)
            for sum_so_far, piece in pieces:
                if is_new:
                    sum_so_far.copy_(piece).mul_(factor)
                else:
                    sum_so_far.add_(piece, alpha=factor)
        return total


@dataclass(frozen=True)
class BatchMean:
    """A split: its batches and their shares of the mean; or what these are cut into.

    Attributes:
        cut: parts of a batch, each with its share of the batch's mean; by default a batch stays whole.
    """

    batches: Sequence[Any]
    shares: Sequence[float]
    cut: Callable[[Any], Iterable[tuple[Any, float]]] = lambda batch: ((batch, 1.0),)

    def __iter__(self) -> Iterator[tuple[Any, float]]:
        for batch, share in zip(self.batches, self.shares, strict=True):
            yield from ((part, share * of_batch) for part, of_batch in self.cut(batch))


def mean_gradient(
    layout: Layout, weights: Float64[Tensor, " n"], loss: Callable[[Parameters, Any], Tensor], mean: BatchMean
) -> Float64[Tensor, " n"]:
    """Gradient of the mean loss."""
    leaves, total = layout.leaves(weights), None
    for batch, share in mean:
        parts = grad(loss(leaves, batch), list(leaves.values()), allow_unused=True, materialize_grads=True)
        total = layout.add(total, parts, share)
    return torch.zeros_like(weights) if total is None else total


def hessian(
    layout: Layout,
    weights: Float64[Tensor, " n"],
    loss: Callable[[Parameters, Any], Tensor],
    mean: BatchMean,
    *,
    network: nn.Module,
    keep_bytes: int,
) -> MatrixFree:
    """Hessian of the mean loss: the gradient of ``<gradient, v>``, on a graph of the gradient that is kept.

    Args:
        network: whose parameters a graph refers to; they live on without it and do not count.
        keep_bytes: what the kept graphs may take; a part beyond is differentiated again for every product.
    """
    leaves = layout.leaves(weights)
    inputs = list(leaves.values())

    def linearized(batch: Any) -> _Graph:
        parts = grad(loss(leaves, batch), inputs, create_graph=True, allow_unused=True, materialize_grads=True)
        curved = [i for i, part in enumerate(parts) if part.requires_grad]

        def product(tangents: Sequence[Tensor]) -> Sequence[Tensor]:
            into = [tangents[i] for i in curved]
            return _pull([parts[i] for i in curved], inputs, into)

        return _Graph(parts, product)

    known = [*inputs, *network.parameters()]
    return _operator(layout, weights, mean, linearized, known=known, keep_bytes=keep_bytes)


def gauss_newton(
    layout: Layout,
    weights: Float64[Tensor, " n"],
    outputs: Callable[[Parameters, Any], Tensor],
    curvature: Callable[[Tensor, Tensor, Any], Tensor],
    mean: BatchMean,
    *,
    network: nn.Module,
    keep_bytes: int,
) -> MatrixFree:
    """``Jac^T C Jac``, with Jac the Jacobian of ``outputs`` and C the loss's Hessian in them, given by ``curvature``.

    ``Jac v`` is the gradient of ``<Jac^T u, v>`` in u, on the graph of ``Jac^T u``, which is kept beside the outputs'.

    Args:
        curvature: maps (outputs, direction, batch) to ``C direction``.
        network, keep_bytes: see `hessian`.
    """
    leaves = layout.leaves(weights)
    inputs = list(leaves.values())

    def linearized(batch: Any) -> _Graph:
        values = outputs(leaves, batch)
        dummy = torch.zeros_like(values, requires_grad=True)
        parts = grad(values, inputs, dummy, create_graph=True, allow_unused=True, materialize_grads=True)
        linear = [i for i, part in enumerate(parts) if part.requires_grad]

        def product(tangents: Sequence[Tensor]) -> Sequence[Tensor]:
            into = [tangents[i] for i in linear]
            (tangent,) = _pull([parts[i] for i in linear], [dummy], into)
            return _pull([values], inputs, [curvature(values.detach(), tangent, batch)])

        return _Graph((values, *parts), product)

    known = [*inputs, *network.parameters()]
    return _operator(layout, weights, mean, linearized, known=known, keep_bytes=keep_bytes)


@dataclass(frozen=True)
class _Graph:
    roots: Sequence[Tensor]
    product: Callable[[Sequence[Tensor]], Sequence[Tensor]]


def _pull(outputs: Sequence[Tensor], inputs: Sequence[Tensor], into: Sequence[Tensor]) -> Sequence[Tensor]:
    if not outputs:
        return [torch.zeros_like(part) for part in inputs]
    return grad(outputs, inputs, into, retain_graph=True, allow_unused=True, materialize_grads=True)


def _operator(
    layout: Layout,
    weights: Tensor,
    mean: BatchMean,
    linearized: Callable[[Any], _Graph],
    *,
    known: Sequence[Tensor],
    keep_bytes: int,
) -> MatrixFree:
    kept: dict[int, _Graph] = {}
    spent = 0

    def graph(index: int, batch: Any) -> _Graph:
        nonlocal spent
        if index not in kept:
            built = linearized(batch)
            size = graph_bytes(built.roots, known=known)
            if spent + size > keep_bytes:
                return built
            kept[index], spent = built, spent + size
        return kept[index]

    def matmat(columns: Tensor) -> Tensor:
        """Batches outside, columns inside: a graph that is not kept is built once for all columns."""
        tangents = [list(layout.tensors(column).values()) for column in columns.T]
        totals: list[Tensor | None] = [None] * len(tangents)
        for index, (batch, share) in enumerate(mean):
            one = graph(index, batch)
            totals = [
                layout.add(total, one.product(tangent), share) for total, tangent in zip(totals, tangents, strict=True)
            ]
            del one  # or a graph that is not kept would live on while the next is built
        products = [torch.zeros_like(weights) if total is None else total for total in totals]
        return torch.stack(products, dim=1) if len(products) > 1 else products[0][:, None]

    return MatrixFree(len(weights), lambda x: matmat(x[:, None])[:, 0], matmat=matmat, device=weights.device)


def graph_bytes(roots: Sequence[Tensor], *, known: Sequence[Tensor] = ()) -> int:
    """Bytes of the tensors that an autograd graph keeps alive, without those ``known``."""
    storages = {tensor.untyped_storage().data_ptr(): 0 for tensor in known}
    waiting: list[Any] = [root.grad_fn for root in roots if root.grad_fn is not None]
    seen: set[Any] = set(waiting)
    while waiting:
        node = waiting.pop()
        for tensor in _saved(node):
            storage = tensor.untyped_storage()
            storages.setdefault(storage.data_ptr(), storage.nbytes())
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return sum(storages.values())


def _saved(node: Any) -> Iterator[Tensor]:
    values = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
    values.extend(getattr(node, "saved_tensors", ()))
    for value in values:
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, Tensor):
                yield item


def shares(sizes: Sequence[int]) -> list[float]:
    """Sizes as shares of their sum."""
    total = math.fsum(sizes)
    return [size / total for size in sizes]
