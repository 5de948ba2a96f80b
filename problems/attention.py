"""Causal attention with the derivatives that curvature needs, in closed form and without stored attention matrices.

For one head with queries q, keys k and values v, each (length x width), and scale s:

    value       S = s q k^T (causal),  P = softmax(S),  o = P v
    gradient    dP = do v^T,  dS = P ∘ (dP - rowsum(P ∘ dP)),
                dq = s dS k,  dk = s dS^T q,  dv = P^T do

and the gradient's own derivative, see `_curvature`. With ordinary autodiff operations a gradient that is differentiated
again stores about ten matrices of length x length for each head; here q, k and v are kept and the matrices are formed
again, a block of queries of a few heads at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

CHUNK = {"cpu": 1 << 20, "cuda": 1 << 22}
"""Entries of an attention matrix that are formed at once, by the type of device; on a CPU a dozen such pieces stay near
its caches."""
BLOCKS, SMALLEST_BLOCK = 8, 64
"""Into how many blocks the queries are cut, and the fewest in one: what lies above the diagonal blocks is left out."""

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


def _blocks(query: Heads) -> Iterator[tuple[slice, list[slice]]]:
    """Some heads, and blocks of their queries; a block sees no keys beyond its last query."""
    heads, length, _ = query.shape
    rows = max(SMALLEST_BLOCK, -(-length // BLOCKS))
    size = max(1, CHUNK.get(query.device.type, CHUNK["cpu"]) // (rows * length))
    blocks = [slice(start, min(start + rows, length)) for start in range(0, length, rows)]
    return ((slice(start, start + size), blocks) for start in range(0, heads, size))


def _weights(query: Heads, key: Heads, scale: float) -> Tensor:
    """P of the last queries to all keys; products with entries beyond the diagonal vanish, as P does there."""
    rows, length = query.shape[-2], key.shape[-2]
    future = torch.ones(rows, length, dtype=torch.bool, device=query.device).triu(length - rows + 1)
    scores = (scale * query) @ key.mT
    return scores.masked_fill_(future, float("-inf")).softmax(-1)


def _centred(weights: Tensor, values: Tensor) -> Tensor:
    """``P ∘ (X - rowsum(P ∘ X))``: the derivative of softmax at P along X."""
    return (values - (weights * values).sum(-1, keepdim=True)).mul_(weights)


def _total(blocks: Sequence[Heads]) -> Heads:
    """The sum of what blocks of queries contribute to keys; the last one sees all."""
    *shorter, total = blocks
    for part in shorter:
        total[:, : part.shape[1]].add_(part)
    return total


def _gradient(query: Heads, key: Heads, value: Heads, upstream: Heads, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    out: list[tuple[Tensor, Tensor, Tensor]] = []
    for part, blocks in _blocks(query):
        terms: list[tuple[Tensor, Tensor, Tensor]] = []
        for rows in blocks:
            q, do = query[part, rows], upstream[part, rows]
            k, v = key[part, : rows.stop], value[part, : rows.stop]
            weights = _weights(q, k, scale)
            d_scores = _centred(weights, do @ v.mT)
            terms.append((scale * (d_scores @ k), scale * (d_scores.mT @ q), weights.mT @ do))
        dq, dk, dv = zip(*terms, strict=True)
        out.append((torch.cat(dq, dim=1), _total(dk), _total(dv)))
    columns = [torch.cat(column) for column in zip(*out, strict=True)]
    return columns[0], columns[1], columns[2]


def _curvature(
    query: Heads, key: Heads, value: Heads, upstream: Heads, scale: float, into: tuple[Heads, Heads, Heads]
) -> tuple[Tensor, ...]:
    """Gradient in (q, k, v, do) of ``φ = <a, dq> + <b, dk> + <c, dv>`` for given (a, b, c)."""
    out: list[tuple[Tensor, ...]] = []
    for part, blocks in _blocks(query):
        terms: list[tuple[Tensor, ...]] = []
        for rows in blocks:
            of_rows = (block[part, rows] for block in (query, upstream, into[0]))
            of_keys = (block[part, : rows.stop] for block in (key, value, *into[1:]))
            terms.append(_block_curvature(*of_rows, *of_keys, scale=scale))
        q_bar, k_bar, v_bar, do_bar = zip(*terms, strict=True)
        out.append((torch.cat(q_bar, dim=1), _total(k_bar), _total(v_bar), torch.cat(do_bar, dim=1)))
    return tuple(torch.cat(column) for column in zip(*out, strict=True))


def _block_curvature(
    q: Heads, do: Heads, a: Heads, k: Heads, v: Heads, b: Heads, c: Heads, *, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What some queries contribute to `_curvature`.

    With ``M = s (a k^T + q b^T)`` and ``N = do c^T``, ``φ = <M, dS> + <N, P>``; writing ``m``, ``D`` for the row sums
    of ``P ∘ M`` and ``P ∘ dP``:

        E = P ∘ (M - m),   P̄ = dP ∘ (M - m) - D ∘ M + N,   S̄ = P ∘ (P̄ - rowsum(P ∘ P̄))
        q̄ = s (S̄ k + dS b),   k̄ = s (S̄^T q + dS^T a),   v̄ = E^T do,   d̄o = E v + P c
    """
    weights, d_weights = _weights(q, k, scale), do @ v.mT
    inner = (weights * d_weights).sum(-1, keepdim=True)
    mixed = torch.baddbmm((scale * a) @ k.mT, scale * q, b.mT)
    centred = mixed - (weights * mixed).sum(-1, keepdim=True)
    p_bar = torch.baddbmm((d_weights * centred).sub_(inner * mixed), do, c.mT)
    d_scores, s_bar, moved = (d_weights - inner).mul_(weights), _centred(weights, p_bar), weights * centred
    q_bar, k_bar = torch.baddbmm(s_bar @ k, d_scores, b), torch.baddbmm(s_bar.mT @ q, d_scores.mT, a)
    return scale * q_bar, scale * k_bar, moved.mT @ do, torch.baddbmm(moved @ v, weights, c)


class _Attention(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        # with a batch of one: torch's fused kernel, which forms no matrix of length x length, takes four dimensions
        query, key, value = query[None], key[None], value[None]
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)[0]

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
