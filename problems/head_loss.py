"""Cross-entropy of a frozen linear head, with all derivatives that curvature needs, in blocks of tokens and words.

For one token with hidden state h (width d), head W (vocabulary x d), target t, ``z = W h`` and ``p = softmax(z)``:

    loss        log sum exp(z) - z_t
    gradient    W^T (p - e_t)
    curvature   W^T (p ∘ W u - p (p · W u))      along a direction u

With ordinary autodiff operations a gradient that is differentiated again stores several tensors of tokens x vocabulary,
and they dominate the memory of a Hessian product. Here at most one is stored, p, and only where it is small; else the
logits are formed again, a block of tokens and words at a time, for one extra matrix product. A loss that may be
differentiated takes ``W^T p`` along, while a block of logits is still in the processor's cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

TOKENS, WORDS = {"cpu": 512, "cuda": 2048}, {"cpu": 2048, "cuda": 8192}
"""Tokens and words whose logits are formed at once, by the type of device: few enough to stay in a processor's caches,
and a matrix product of about as many rows as columns is the fastest."""

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
    hidden: Float[Tensor, "n width"], head: Float[Tensor, "vocabulary width"], direction: Float[Tensor, "n width"]
) -> Float[Tensor, "n width"]:
    """Hessian of every token's loss in its hidden state, times its row of ``direction``."""
    parts: list[Tensor] = []
    for rows in _blocks(hidden, TOKENS):
        sums = _sums(hidden[rows], head, with_mean=True)
        parts.append(_curvature(hidden[rows], head, direction[rows], *sums, ()))
    return torch.cat(parts) if parts else torch.zeros_like(hidden)


def _blocks(matrix: Tensor, sizes: dict[str, int]) -> Iterator[slice]:
    size = sizes.get(matrix.device.type, sizes["cpu"])
    return (slice(start, start + size) for start in range(0, len(matrix), size))


def _logits(hidden: Tensor, words: Tensor) -> Tensor:
    return _at_least_single(hidden @ words.T)


def _mix(weights: Float[Tensor, "n words"], words: Float[Tensor, "words width"]) -> Float[Tensor, "n width"]:
    return _at_least_single(weights.to(words.dtype) @ words)


def _at_least_single(value: Tensor) -> Tensor:
    return value if value.dtype == torch.float64 else value.float()


def _sums(hidden: Tensor, head: Tensor, *, with_mean: bool) -> tuple[Float[Tensor, "n 1"], Float[Tensor, "n width"]]:
    """``log sum exp(z)`` and ``W^T p`` (empty if it is not wanted), in one pass over the words.

    Sums are in units of the largest term so far (Milakov & Gimelshein 2018, Online normalizer calculation for softmax).
    """
    logs: list[Tensor] = [_at_least_single(hidden[:0, :1])]
    means: list[Tensor] = [_at_least_single(hidden[:0])]
    for rows in _blocks(hidden, TOKENS):
        largest, total, mean = hidden.new_tensor(-math.inf), hidden.new_tensor(0.0), hidden.new_tensor(0.0)
        for words in _blocks(head, WORDS):
            logits = _logits(hidden[rows], head[words])
            before, largest = largest, torch.maximum(largest, logits.amax(-1, keepdim=True))
            terms, shrinkage = logits.sub_(largest).exp_(), (before - largest).exp()
            total = total * shrinkage + terms.sum(-1, keepdim=True)
            mean = mean * shrinkage + _mix(terms, head[words]) if with_mean else mean
        logs.append(total.log() + largest)
        means.append(mean / total if with_mean else means[0])
    return torch.cat(logs), torch.cat(means)


def _probabilities(hidden: Tensor, head: Tensor, log_sum: Tensor) -> Iterator[Float[Tensor, "n words"]]:
    """Of some tokens, a block of words after the other."""
    return (_logits(hidden, head[words]).sub_(log_sum).exp_() for words in _blocks(head, WORDS))


def _curvature(
    hidden: Tensor, head: Tensor, direction: Tensor, log_sum: Tensor, mean: Tensor, kept: Sequence[Tensor]
) -> Float[Tensor, "n width"]:
    """``W^T (p ∘ (W u - p · W u))`` with ``p · W u = u · W^T p``, so that one pass over the words is enough.

    Args:
        log_sum, mean: of `_sums`.
        kept: p in the order of the passes; if there is none, it is formed again.
    """
    parts, waiting = [direction[:0]], iter(kept)
    for rows in _blocks(hidden, TOKENS):
        u, total = direction[rows], None
        inner = (_at_least_single(u) * mean[rows]).sum(-1, keepdim=True)
        probabilities = waiting if kept else _probabilities(hidden[rows], head, log_sum[rows])
        for words in _blocks(head, WORDS):
            curved = _logits(u, head[words]).sub_(inner).mul_(next(probabilities))
            part = _mix(curved, head[words])
            total = part if total is None else total.add_(part)
        if total is not None:
            parts.append(total.to(direction.dtype))
    return torch.cat(parts)


class _Gradient(torch.autograd.Function):
    """Rows ``W^T p - W^T e_t``, with the curvature as derivative; beside them p by blocks, if it is to be kept."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        hidden: Tensor, head: Tensor, targets: Tensor, log_sum: Tensor, mean: Tensor, keep: bool
    ) -> tuple[Tensor, ...]:
        blocks = _blocks(hidden, TOKENS) if keep else ()
        kept = [p for rows in blocks for p in _probabilities(hidden[rows], head, log_sum[rows])]
        return mean.to(head.dtype) - head[targets], *kept

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # or the probabilities would get a gradient of zeros
        ctx.save_for_backward(*inputs[:2], *inputs[3:5], *output[1:])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        if grad_outputs[0] is None:
            return (None,) * 6
        hidden, head, log_sum, mean, *kept = ctx.saved_tensors  # the curvature is symmetric
        return _curvature(hidden, head, grad_outputs[0], log_sum, mean, kept), *(None,) * 5


class _Loss(torch.autograd.Function):
    """Losses of the tokens, with `_Gradient` as derivative where that is differentiated on."""

    generate_vmap_rule = True

    @staticmethod
    def forward(hidden: Tensor, head: Tensor, targets: Tensor, differentiable: bool) -> tuple[Tensor, ...]:
        log_sum, mean = _sums(hidden, head, with_mean=differentiable)
        picked = (_at_least_single(hidden) * _at_least_single(head[targets])).sum(-1)
        return log_sum[:, 0] - picked, log_sum, mean

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:3], *output[1:])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        if grad_outputs[0] is None:
            return None, None, None, None
        hidden, head, targets, log_sum, mean = ctx.saved_tensors
        if torch.is_grad_enabled():  # only a Hessian product differentiates on
            keep = len(hidden) * len(head) <= KEEP
            again: Any = _Gradient.apply(hidden, head, targets, log_sum, mean, keep)
            rows = again[0]
        else:
            rows = mean.to(head.dtype) - head[targets]
        return rows * grad_outputs[0][:, None].to(hidden.dtype), None, None, None
