"""Causal attention with the derivatives that curvature needs, in closed form and without stored attention matrices.

For one head with queries q, keys k and values v, each (length x width), and scale s:

    value       S = s q k^T (causal),  P = softmax(S),  o = P v
    gradient    dP = do v^T,  dS = P ∘ (dP - rowsum(P ∘ dP)),
                dq = s dS k,  dk = s dS^T q,  dv = P^T do

and the gradient's own derivative: along a direction (a, b, c), the gradient of ``<a, dq> + <b, dk> + <c, dv>``. With
``M = s (a k^T + q b^T)``, less the row sums of ``P ∘ M``, with u the gradient in o of the pass at hand, and

    N = do c^T + u v^T,   E = P ∘ M,   Q = dS ∘ M + P ∘ N,   R = Q - P ∘ rowsum(Q)

it is

    in do:  E v + P c       in q:  s (R k + dS b)       in k:  s (R^T q + dS^T a)       in v:  E^T do + P^T u

With ordinary autodiff operations a gradient that is differentiated again stores about ten matrices of length x length
for each head; here q, k and v are kept, of short sequences P and dS, too, and the other matrices are formed again, a
block of queries of a few heads at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, count
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from problems.second_pass import channel, open_channel

CHUNK = {"cpu": 1 << 20, "cuda": 1 << 22}
"""Entries of an attention matrix that are formed at once, by the type of device; on a CPU a dozen such pieces stay near
its caches."""
BLOCKS, SMALLEST_BLOCK = 8, 64
"""Into how many blocks the queries are cut, and the fewest in one: what lies above the diagonal blocks is left out."""

KEEP = 256
"""Length of the sequences up to which P and dS are kept: less than a fifth of all that is kept for a block of GPT-2."""

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
    out, *_ = cast(tuple[Tensor, ...], _Value.apply(*flat, scale))
    return out.view(query.shape)


def _for_transformers(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """`causal_attention` with the signature that transformers calls; the mask that it gives is the causal one."""
    del module, attention_mask
    return causal_attention(query, key, value, float(options["scaling"])).transpose(1, 2), None


AttentionInterface.register(NAME, _for_transformers)


class _Block(NamedTuple):
    """Some queries of some heads, and the keys up to the last of them; they see no others."""

    number: int
    heads: slice
    rows: slice

    def queries(self, x: Heads) -> Heads:
        return x[self.heads, self.rows]

    def keys(self, x: Heads) -> Heads:
        return x[self.heads, : self.rows.stop]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of its attention matrices."""
        return self.heads.stop - self.heads.start, self.rows.stop - self.rows.start, self.rows.stop


def _blocks(query: Heads) -> list[list[_Block]]:
    """For some heads at a time, all queries in blocks."""
    heads, length, _ = query.shape
    rows = max(SMALLEST_BLOCK, -(-length // BLOCKS))
    size = max(1, CHUNK.get(query.device.type, CHUNK["cpu"]) // (rows * length))
    numbers = count()
    return [
        [
            _Block(next(numbers), slice(first, min(first + size, heads)), slice(start, min(start + rows, length)))
            for start in range(0, length, rows)
        ]
        for first in range(0, heads, size)
    ]


def _by_blocks(query: Heads, of_block: Callable[[_Block], tuple[Heads, ...]]) -> list[Heads]:
    """Put together what blocks give: first for their queries, then what they add to all keys that they see."""
    out: list[list[Heads]] = []
    for blocks in _blocks(query):
        of_queries, *of_keys = zip(*map(of_block, blocks), strict=True)
        out.append([torch.cat(of_queries, dim=1), *map(_total, of_keys)])
    return [torch.cat(column) for column in zip(*out, strict=True)]


def _total(blocks: Sequence[Heads]) -> Heads:
    """The sum of what blocks of queries contribute to keys; the last one sees all."""
    *shorter, total = blocks
    for part in shorter:
        total[:, : part.shape[1]].add_(part)
    return total


def _weights(query: Heads, key: Heads, scale: float) -> Tensor:
    """P of the last queries to all keys; products with entries beyond the diagonal vanish, as P does there."""
    rows, length = query.shape[-2], key.shape[-2]
    future = torch.ones(rows, length, dtype=torch.bool, device=query.device).triu(length - rows + 1)
    scores = (scale * query) @ key.mT
    return scores.masked_fill_(future, float("-inf")).softmax(-1)


def _centred(weights: Tensor, values: Tensor) -> Tensor:
    """``P ∘ (X - rowsum(P ∘ X))``: the derivative of softmax at P along X."""
    return (values - (weights * values).sum(-1, keepdim=True)).mul_(weights)


def _keeps(query: Heads) -> bool:
    return query.shape[1] <= KEEP


def _gradient(
    query: Heads, key: Heads, value: Heads, upstream: Heads, scale: float
) -> tuple[list[Heads], list[Tensor]]:
    """``[dq, dk, dv]``, and P and dS of one block after the other, if they are to be kept."""
    kept: list[Tensor] = []

    def of_block(block: _Block) -> tuple[Heads, ...]:
        q, do, k, v = block.queries(query), block.queries(upstream), block.keys(key), block.keys(value)
        weights = _weights(q, k, scale)
        d_scores = _centred(weights, do @ v.mT)
        if _keeps(query):
            kept.extend((weights, d_scores))
        return scale * (d_scores @ k), scale * (d_scores.mT @ q), weights.mT @ do

    return _by_blocks(query, of_block), kept


class _Curvature(NamedTuple):
    """The gradient's derivative along (a, b, c), in the letters of the module; ``kept`` is that of `_gradient`."""

    query: Heads
    key: Heads
    value: Heads
    upstream: Heads
    scale: float
    a: Heads
    b: Heads
    c: Heads
    kept: Sequence[Tensor]

    def of_upstream(self) -> Heads:
        """Its part in do."""

        def of_block(block: _Block) -> tuple[Heads, ...]:
            weights = self._weights(block)
            moved = weights * self._mixed(block, weights)
            return (torch.baddbmm(moved @ block.keys(self.value), weights, block.keys(self.c)),)

        return _by_blocks(self.query, of_block)[0]

    def of_inputs(self, u: Heads) -> list[Heads]:
        """Its parts in q, k and v."""

        def of_block(block: _Block) -> tuple[Heads, ...]:
            q, do, a, of_u = map(block.queries, (self.query, self.upstream, self.a, u))
            k, v, b, c = map(block.keys, (self.key, self.value, self.b, self.c))
            weights = self._weights(block)
            d_scores = self._d_scores(block, weights)
            mixed = self._mixed(block, weights)
            curved = torch.addcmul(weights * torch.baddbmm(do @ c.mT, of_u, v.mT), d_scores, mixed)
            curved = torch.addcmul(curved, weights, curved.sum(-1, keepdim=True), value=-1)
            q_bar = torch.baddbmm(curved @ k, d_scores, b)
            k_bar = torch.baddbmm(curved.mT @ q, d_scores.mT, a)
            v_bar = torch.baddbmm((weights * mixed).mT @ do, weights.mT, of_u)
            return self.scale * q_bar, self.scale * k_bar, v_bar

        return _by_blocks(self.query, of_block)

    def _weights(self, block: _Block) -> Tensor:
        """P."""
        if self.kept:
            return self.kept[2 * block.number]
        return _weights(block.queries(self.query), block.keys(self.key), self.scale)

    def _d_scores(self, block: _Block, weights: Tensor) -> Tensor:
        """dS."""
        if self.kept:
            return self.kept[2 * block.number + 1]
        return _centred(weights, block.queries(self.upstream) @ block.keys(self.value).mT)

    def _mixed(self, block: _Block, weights: Tensor) -> Tensor:
        """M, without the row sums of ``P ∘ M``."""
        of_a = block.queries(self.a) @ block.keys(self.key).mT
        mixed = torch.baddbmm(of_a, block.queries(self.query), block.keys(self.b).mT).mul_(self.scale)
        return mixed - (weights * mixed).sum(-1, keepdim=True)


def _constant(kept: Sequence[Tensor]) -> Sequence[Tensor]:
    """What is kept, unless third derivatives are asked for: it is constant to autodiff."""
    return () if torch.is_grad_enabled() else kept


class _Value(torch.autograd.Function):
    """Attention, and a channel for a, b, c, do, and P and dS where they are kept."""

    generate_vmap_rule = True

    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, ...]:
        # with a batch of one: torch's fused kernel, which forms no matrix of length x length, takes four dimensions
        each = query[None], key[None], value[None]
        out = scaled_dot_product_attention(*each, is_causal=True, scale=scale)[0]
        kept = [block.shape for blocks in _blocks(query) for block in blocks for _ in "PS"] if _keeps(query) else []
        return out, *channel(query, [query.shape, key.shape, value.shape, out.shape, *kept])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:3], *output[1:])
        ctx.scale = inputs[3]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (query, key, value, *zeros), (u, a, b, c, upstream, *kept) = ctx.saved_tensors, grad_outputs
        if upstream is not None:
            curvature = _Curvature(query, key, value, upstream, ctx.scale, a, b, c, _constant(kept))
            return *curvature.of_inputs(torch.zeros_like(query) if u is None else u), None
        if u is None:
            return None, None, None, None
        if torch.is_grad_enabled():  # the first pass
            first = _Gradient.apply(query, key, value, u, ctx.scale, *open_channel(ctx, zeros))
            return *cast(tuple[Tensor, ...], first)[:3], None
        return *_gradient(query, key, value, u, ctx.scale)[0], None


class _Gradient(torch.autograd.Function):
    """(dq, dk, dv); beside them P and dS, where they are kept."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        query: Tensor, key: Tensor, value: Tensor, upstream: Tensor, scale: float, *channel: Tensor
    ) -> tuple[Tensor, ...]:
        return tuple(chain(*_gradient(query, key, value, upstream, scale)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[3:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:4], *output[3:])
        ctx.scale, ctx.has_channel = inputs[4], len(inputs) > 5

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        query, key, value, upstream, *kept = ctx.saved_tensors
        parts = zip(grad_outputs, (query, key, value), strict=False)  # P and dS have no gradients
        a, b, c = (torch.zeros_like(x) if along is None else along for along, x in parts)
        curvature = _Curvature(query, key, value, upstream, ctx.scale, a, b, c, _constant(kept))
        if ctx.has_channel:
            return None, None, None, curvature.of_upstream(), None, a, b, c, upstream, *kept
        return *curvature.of_inputs(torch.zeros_like(query)), curvature.of_upstream(), None
