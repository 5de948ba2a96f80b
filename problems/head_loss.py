"""Cross-entropy of a frozen linear head, with all derivatives that curvature needs and no stored softmax.

For one token with hidden state h (width d), head W (vocabulary x d), target t, ``z = W h`` and ``p = softmax(z)``:

    loss        log sum exp(z) - z_t
    gradient    W^T (p - e_t)
    curvature   W^T (p ∘ W u - p (p · W u))      along a direction u

With ordinary autodiff operations a gradient that is differentiated again stores several tensors of tokens x vocabulary,
and they dominate the memory of a Hessian product. Here only h is kept and the logits are formed again, a chunk of
tokens at a time; one extra matrix product buys that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

CHUNK = 4_000_000
"""Entries of the logits that are formed at once (16 MB in float32)."""


def head_loss(
    hidden: Float[Tensor, "*tokens width"], head: Float[Tensor, "vocabulary width"], targets: Int64[Tensor, "*tokens"]
) -> Float[Tensor, " n"]:
    """Cross-entropy of every token, flattened; twice differentiable in ``hidden``, constant in ``head``.

    >>> head_loss(torch.zeros(1, 3), torch.ones(4, 3), torch.tensor([2])).exp()
    tensor([4.])
    """
    return _Loss.apply(hidden.reshape(-1, hidden.shape[-1]), head, targets.reshape(-1))  # pyright: ignore[reportReturnType]


def head_curvature(
    hidden: Float[Tensor, "n width"], head: Float[Tensor, "vocabulary width"], direction: Float[Tensor, "n width"]
) -> Float[Tensor, "n width"]:
    """Hessian of every token's loss in its hidden state, times its row of ``direction``."""
    return torch.ops.lift.head_curvature(hidden, head, direction)


def _chunks(hidden: Tensor, head: Tensor) -> Iterator[slice]:
    size = max(1, CHUNK // head.shape[0])
    return (slice(start, start + size) for start in range(0, len(hidden), size))


def _logits(hidden: Tensor, head: Tensor) -> Tensor:
    logits = hidden @ head.T
    return logits if logits.dtype == torch.float64 else logits.float()


# Registered as operations of their own: torch.func.linearize would otherwise trace into them, fold what depends on the
# hidden states alone into constants, and so store the softmax after all.
@torch.library.custom_op("lift::head_loss", mutates_args=())
def _loss(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    losses: list[Tensor] = []
    for rows in _chunks(hidden, head):
        logits = _logits(hidden[rows], head)
        losses.append(logits.logsumexp(-1) - logits.gather(-1, targets[rows, None])[:, 0])
    return torch.cat(losses)


@torch.library.custom_op("lift::head_gradient", mutates_args=())
def _gradient(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    out = torch.empty_like(hidden)
    for rows in _chunks(hidden, head):
        residual = _logits(hidden[rows], head).softmax(-1)
        residual.scatter_add_(-1, targets[rows, None], residual.new_full((len(residual), 1), -1.0))
        out[rows] = residual.to(head.dtype) @ head
    return out


@torch.library.custom_op("lift::head_curvature", mutates_args=())
def _curvature(hidden: Tensor, head: Tensor, direction: Tensor) -> Tensor:
    out = torch.empty_like(direction)
    for rows in _chunks(hidden, head):
        probabilities = _logits(hidden[rows], head).softmax(-1)
        curved = _logits(direction[..., rows, :], head).mul_(probabilities)
        curved.addcmul_(probabilities.expand_as(curved), curved.sum(-1, keepdim=True), value=-1.0)
        out[..., rows, :] = curved.to(head.dtype) @ head
    return out


@_loss.register_fake
def _(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    del head, targets
    return hidden.new_empty(len(hidden), dtype=torch.promote_types(hidden.dtype, torch.float32))


@_gradient.register_fake
def _(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    del head, targets
    return torch.empty_like(hidden)


@_curvature.register_fake
def _(hidden: Tensor, head: Tensor, direction: Tensor) -> Tensor:
    del hidden, head
    return torch.empty_like(direction)


@_curvature.register_vmap
def _(
    info: Any, in_dims: tuple[int | None, ...], hidden: Tensor, head: Tensor, direction: Tensor
) -> tuple[Tensor, int]:
    """Many directions at the same hidden states share the softmax."""
    if in_dims[0] is not None or in_dims[1] is not None or in_dims[2] is None:
        raise ValueError(f"head_curvature: only its directions can be batched by vmap, got in_dims={in_dims}")
    return _curvature(hidden, head, direction.movedim(in_dims[2], 0)), 0


class _Gradient(torch.autograd.Function):
    """Rows ``W^T (p - e_t)``, with the curvature as derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        return _gradient(hidden, head, targets)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.save_for_forward(*inputs[:2])

    @staticmethod
    def jvp(ctx: Any, *grad_inputs: Any) -> Any:
        return _curvature(*ctx.saved_tensors, grad_inputs[0])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return _curvature(*ctx.saved_tensors, grad_outputs[0]), None, None  # the curvature is symmetric


class _Loss(torch.autograd.Function):
    """Losses of the tokens, with `_Gradient` as derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        return _loss(hidden, head, targets)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx: Any, *grad_inputs: Any) -> Any:
        rows: Any = _Gradient.apply(*ctx.saved_tensors)
        return (rows * grad_inputs[0]).sum(-1).to(torch.promote_types(rows.dtype, torch.float32))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        rows: Any = _Gradient.apply(*ctx.saved_tensors)
        return rows * grad_outputs[0][:, None].to(rows.dtype), None, None
