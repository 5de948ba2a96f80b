"""Causal attention with the derivatives that curvature needs, in closed form and without stored attention matrices.

For one head with queries q, keys k and values v, each (length x width), and scale s:

    value       S = s q k^T (causal),  P = softmax(S),  o = P v
    gradient    dP = do v^T,  dS = P ∘ (dP - rowsum(P ∘ dP)),
                dq = s dS k,  dk = s dS^T q,  dv = P^T do

and the gradient's own derivative, see `_curvature`. With ordinary autodiff operations a gradient that is differentiated
again stores about ten matrices of length x length for each head; here q, k and v are kept and the matrices are formed
again, a few heads at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

CHUNK = 4_000_000
"""Entries of the attention matrices that are formed at once (16 MB each in float32)."""

NAME = "lift_causal"
"""Under this name transformers knows the attention below."""

Heads = Float[Tensor, "heads length width"]


def causal_attention(
    query: Float[Tensor, "batch heads length width"],
    key: Float[Tensor, "batch heads length width"],
    value: Float[Tensor, "batch heads length width"],
    scale: float,
) -> Float[Tensor, "batch heads length width"]:
    """Attention of every position to itself and those before it; twice differentiable.

    >>> x = torch.ones(1, 1, 2, 3)
    >>> causal_attention(x, x, x, 1.0).tolist()
    [[[[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]]]
    """
    flat = [part.flatten(0, 1) for part in (query, key, value)]
    out: Any = _Attention.apply(*flat, scale)
    return out.view(query.shape)


def _for_transformers(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """`causal_attention` with the signature that transformers calls; the mask that it gives is the causal one."""
    del module, attention_mask
    return causal_attention(query, key, value, float(options["scaling"])).transpose(1, 2), None


AttentionInterface.register(NAME, _for_transformers)


def _chunks(query: Heads) -> Iterator[slice]:
    heads, length, _ = query.shape
    size = max(1, CHUNK // length**2)
    return (slice(start, start + size) for start in range(0, heads, size))


def _weights(query: Heads, key: Heads, scale: float) -> Tensor:
    """P of some heads; the matrix products with rows beyond the diagonal vanish, as P does there."""
    length = query.shape[-2]
    future = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
    scores = (scale * query) @ key.mT
    return scores.masked_fill_(future, float("-inf")).softmax(-1)


def _centred(weights: Tensor, values: Tensor) -> Tensor:
    """``P ∘ (X - rowsum(P ∘ X))``: the derivative of softmax at P along X."""
    return weights * (values - (weights * values).sum(-1, keepdim=True))


def _gradient(query: Heads, key: Heads, value: Heads, upstream: Heads, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    out: list[tuple[Tensor, Tensor, Tensor]] = []
    for part in _chunks(query):
        q, k, v, do = query[part], key[part], value[part], upstream[part]
        weights = _weights(q, k, scale)
        d_scores = scale * _centred(weights, do @ v.mT)
        out.append((d_scores @ k, d_scores.mT @ q, weights.mT @ do))
    columns = [torch.cat(column) for column in zip(*out, strict=True)]
    return columns[0], columns[1], columns[2]


def _curvature(
    query: Heads, key: Heads, value: Heads, upstream: Heads, scale: float, into: tuple[Heads, Heads, Heads]
) -> tuple[Tensor, ...]:
    """Gradient in (q, k, v, do) of ``φ = <a, dq> + <b, dk> + <c, dv>`` for given (a, b, c).

    With ``M = s (a k^T + q b^T)`` and ``N = do c^T``, ``φ = <M, dS> + <N, P>``; writing ``m``, ``D`` for the row sums
    of ``P ∘ M`` and ``P ∘ dP``:

        E = P ∘ (M - m),   P̄ = dP ∘ (M - m) - D ∘ M + N,   S̄ = P ∘ (P̄ - rowsum(P ∘ P̄))
        q̄ = s (S̄ k + dS b),   k̄ = s (S̄^T q + dS^T a),   v̄ = E^T do,   d̄o = E v + P c
    """
    out: list[tuple[Tensor, ...]] = []
    for part in _chunks(query):
        q, k, v, do = query[part], key[part], value[part], upstream[part]
        a, b, c = (cotangent[part] for cotangent in into)
        weights, d_weights = _weights(q, k, scale), do @ v.mT
        inner = (weights * d_weights).sum(-1, keepdim=True)
        mixed = (scale * a) @ k.mT + (scale * q) @ b.mT
        centred = mixed - (weights * mixed).sum(-1, keepdim=True)
        d_scores = scale * weights * (d_weights - inner)
        moved = weights * centred
        s_bar = scale * _centred(weights, d_weights * centred - inner * mixed + do @ c.mT)
        out.append((s_bar @ k + d_scores @ b, s_bar.mT @ q + d_scores.mT @ a, moved.mT @ do, moved @ v + weights @ c))
    return tuple(torch.cat(column) for column in zip(*out, strict=True))


class _Attention(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.scale = inputs[3]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return *_AttentionGradient.apply(*ctx.saved_tensors, grad_outputs[0], ctx.scale), None  # pyright: ignore[reportGeneralTypeIssues]


class _AttentionGradient(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor, upstream: Tensor, scale: float) -> tuple[Tensor, ...]:
        return _gradient(query, key, value, upstream, scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.scale = inputs[4]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        query, key, value, upstream = ctx.saved_tensors
        into = (grad_outputs[0], grad_outputs[1], grad_outputs[2])
        return *_curvature(query, key, value, upstream, ctx.scale, into), None
