"""Cross-entropy of a frozen linear head, with all derivatives that curvature needs, in chunks of tokens.

For one token with hidden state h (width d), head W (vocabulary x d), target t, ``z = W h`` and ``p = softmax(z)``:

    loss        log sum exp(z) - z_t
    gradient    W^T (p - e_t)
    curvature   W^T (p ∘ W u - p (p · W u))      along a direction u

With ordinary autodiff operations a gradient that is differentiated again stores several tensors of tokens x vocabulary,
and they dominate the memory of a Hessian product. Here at most one is stored, p, and only where it is small; else the
logits are formed again, a chunk of tokens at a time, for one extra matrix product. A loss that may be differentiated
takes its gradient along, while a chunk of logits is still in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

ROWS = 128
"""Tokens whose logits are formed at once on a CPU; their few megabytes stay in its caches."""

CHUNK = 16_000_000
"""Entries of the logits that are formed at once on a GPU (64 MB in float32)."""

KEEP = 32_000_000
"""A batch with no more probabilities than this keeps them for its Hessian products (128 MB in float32)."""


def head_loss(
    hidden: Float[Tensor, "*tokens width"], head: Float[Tensor, "vocabulary width"], targets: Int64[Tensor, "*tokens"]
) -> Float[Tensor, " n"]:
    """Cross-entropy of every token, flattened; twice differentiable in ``hidden``, constant in ``head``.

    >>> head_loss(torch.zeros(1, 3), torch.ones(4, 3), torch.tensor([2])).exp()
    tensor([4.])
    """
    differentiable = torch.is_grad_enabled() and hidden.requires_grad
    both: Any = _Loss.apply(hidden.reshape(-1, hidden.shape[-1]), head, targets.reshape(-1), differentiable)
    return both[0]


def head_curvature(
    hidden: Float[Tensor, "n width"],
    head: Float[Tensor, "vocabulary width"],
    direction: Float[Tensor, "n width"],
    probabilities: Float[Tensor, "n vocabulary"] | None = None,
) -> Float[Tensor, "n width"]:
    """Hessian of every token's loss in its hidden state, times its row of ``direction``."""
    out: list[Tensor] = []
    for rows in _chunks(hidden, head):
        kept = _logits(hidden[rows], head).softmax(-1) if probabilities is None else probabilities[rows]
        curved = _logits(direction[rows], head).mul_(kept)
        curved.addcmul_(kept, curved.sum(-1, keepdim=True), value=-1)
        out.append(curved.to(head.dtype) @ head)
    return torch.cat(out)


def _chunks(hidden: Tensor, head: Tensor) -> Iterator[slice]:
    size = max(1, CHUNK // head.shape[0]) if hidden.is_cuda else ROWS
    return (slice(start, start + size) for start in range(0, len(hidden), size))


def _logits(hidden: Tensor, head: Tensor) -> Tensor:
    logits = hidden @ head.T
    return logits if logits.dtype == torch.float64 else logits.float()


def _losses(hidden: Tensor, head: Tensor, targets: Tensor, differentiable: bool) -> tuple[Tensor, Tensor]:
    """Losses, and rows ``W^T (p - e_t)`` if they are wanted (else an empty tensor)."""
    losses: list[Tensor] = []
    gradient: list[Tensor] = [hidden[:0]]
    for rows in _chunks(hidden, head):
        logits = _logits(hidden[rows], head)
        picked = logits.gather(-1, targets[rows, None])
        largest = logits.amax(-1, keepdim=True)
        unnormalized = logits.sub_(largest).exp_()
        total = unnormalized.sum(-1, keepdim=True)
        losses.append((total.log() + largest - picked)[:, 0])
        if differentiable:
            mean = (unnormalized.to(head.dtype) @ head) / total
            gradient.append(mean.to(head.dtype) - head[targets[rows]])
    return torch.cat(losses), torch.cat(gradient)


def _gradient(hidden: Tensor, head: Tensor, targets: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    """Rows ``W^T (p - e_t)``, and the probabilities if they are wanted (else an empty tensor)."""
    out: list[Tensor] = []
    kept: list[Tensor] = []
    for rows in _chunks(hidden, head):
        probabilities = _logits(hidden[rows], head).softmax(-1)
        kept.append(probabilities if keep else probabilities[:0])
        out.append(probabilities.to(head.dtype) @ head - head[targets[rows]])
    return torch.cat(out), torch.cat(kept)


class _Gradient(torch.autograd.Function):
    """Rows ``W^T (p - e_t)``, with the curvature as derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(hidden: Tensor, head: Tensor, targets: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
        return _gradient(hidden, head, targets, keep)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)  # or the probabilities would get a gradient of zeros
        ctx.save_for_backward(*inputs[:2], output[1])
        ctx.keep = inputs[3]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        if grad_outputs[0] is None:
            return None, None, None, None
        hidden, head, probabilities = ctx.saved_tensors  # the curvature is symmetric
        return head_curvature(hidden, head, grad_outputs[0], probabilities if ctx.keep else None), None, None, None


class _Loss(torch.autograd.Function):
    """Losses of the tokens, with `_Gradient` as derivative where that is differentiated on."""

    generate_vmap_rule = True

    @staticmethod
    def forward(hidden: Tensor, head: Tensor, targets: Tensor, differentiable: bool) -> tuple[Tensor, Tensor]:
        return _losses(hidden, head, targets, differentiable)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:3], output[1])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        if grad_outputs[0] is None:
            return None, None, None, None
        hidden, head, targets, rows = ctx.saved_tensors
        if torch.is_grad_enabled():  # only a Hessian product differentiates on
            again: Any = _Gradient.apply(hidden, head, targets, len(hidden) * len(head) <= KEEP)
            rows = again[0]
        return rows * grad_outputs[0][:, None].to(hidden.dtype), None, None, None
