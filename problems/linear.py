"""A linear layer whose second derivatives add up inside matrix products.

With inputs x, weights W and outputs ``y = x W + b``, the gradient takes ``δ = ȳ`` to ``x̄ = δ W^T``, ``W̄ = x^T δ`` and
``b̄ = sum δ``. Along a direction (a, B, c) of these three, and with u what the layers above add to y, the gradient of
``<a, x̄> + <B, W̄> + <c, b̄>`` is

    in δ:   a W + x B + c        in x:   u W^T + δ B^T        in W:   x^T u + a^T δ        in b:   sum u

As operations of autodiff each product is a tensor of its own, and adding two as large as the weights takes as long as
memory does.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from problems.second_pass import channel, is_transformed, open_channel


class Linear(Conv1D):
    """`Conv1D` of transformers, ``x W + b``, with these derivatives. A layer becomes one by its ``__class__``.

    >>> layer = Conv1D(2, 3)
    >>> layer.__class__ = Linear
    >>> layer(torch.ones(5, 3)).shape
    torch.Size([5, 2])
    """

    def forward(self, x: Float[Tensor, "*tokens inputs"]) -> Float[Tensor, "*tokens outputs"]:
        rows = x.reshape(-1, x.shape[-1])
        if torch.is_grad_enabled() and self.weight.requires_grad:
            y, *_ = cast(tuple[Tensor, ...], _Value.apply(rows, self.weight, self.bias))
        else:
            y = torch.addmm(self.bias, rows, self.weight)
        return y.view(*x.shape[:-1], self.nf)


class _Value(torch.autograd.Function):
    """y, and a channel for a, B and δ."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        y = torch.addmm(bias, x, weight)
        return y, *channel(x, [x.shape, weight.shape, y.shape])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs[:2], *output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (x, weight, *zeros), (u, a, B, delta) = ctx.saved_tensors, grad_outputs  # noqa: N806
        if torch.is_grad_enabled() and delta is None and u is not None:  # the first pass
            return _Gradient.apply(x, weight, u, *open_channel(ctx, zeros))
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            _sum_of_products((u, _transposed(weight)), (delta, _transposed(B))) if of_x else None,
            _sum_of_products((_transposed(x), u), (_transposed(a), delta)) if of_weight else None,
            u.sum(0) if of_bias and u is not None else None,
        )


class _Gradient(torch.autograd.Function):
    """``(x̄, W̄, b̄)``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, delta: Tensor, *channel: Tensor) -> tuple[Tensor, ...]:
        return delta @ weight.T, x.T @ delta, delta.sum(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.set_materialize_grads(False)
        ctx.has_channel = len(inputs) > 3

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (x, weight, delta), (a, B, c) = ctx.saved_tensors, grad_outputs  # noqa: N806
        start = None if c is None else c.expand_as(delta)
        of_delta = _sum_of_products((a, weight), (x, B), start=start)
        if ctx.has_channel:
            return None, None, of_delta, a, B, delta
        return _sum_of_products((delta, _transposed(B))), _sum_of_products((_transposed(a), delta)), of_delta


def _transposed(matrix: Tensor | None) -> Tensor | None:
    return None if matrix is None else matrix.T


def _sum_of_products(*pairs: tuple[Tensor | None, Tensor | None], start: Tensor | None = None) -> Tensor | None:
    """``start`` and the products of those pairs that are whole; None if there is neither."""
    total = start
    for left, right in pairs:
        if left is not None and right is not None:
            may_change = total is not start and not torch.is_grad_enabled() and not is_transformed()
            into = total if may_change else None
            total = left @ right if total is None else torch.addmm(total, left, right, out=into)
    return total
