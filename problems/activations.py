"""GPT-2's activation with its derivatives in closed form."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from problems.second_pass import channel, open_channel

_SCALE, _CUBIC = math.sqrt(2 / math.pi), 0.044715
_PIECE = 1 << 18  # entries that stay in a processor's cache through a dozen operations


class TanhGELU(nn.Module):
    """``½ x (1 + tanh u)`` with ``u = sqrt(2/π) (x + 0.044715 x³)``: transformers' ``gelu_new``, twice differentiable.

    Differentiated twice operation by operation, it keeps dozens of tensors; here its input and two derivatives,
    which are constants to autodiff: a third derivative would be wrong.

    >>> TanhGELU()(torch.tensor([-1.0, 0.0, 1.0]))
    tensor([-0.1588,  0.0000,  0.8412])
    """

    def forward(self, x: Tensor) -> Tensor:
        y, *_ = cast(tuple[Tensor, ...], _Value.apply(x))
        return y


def _derivatives(x: Tensor) -> tuple[Tensor, Tensor]:
    """``(gelu'(x), gelu''(x))``."""
    square = x * x
    u1 = square.mul(3 * _CUBIC * _SCALE).add_(_SCALE)  # u', with u'' = 6 · 0.044715 sqrt(2/π) x
    t = square.mul_(_CUBIC).add_(1).mul_(x).mul_(_SCALE).tanh_()
    sech2 = t.square().neg_().add_(1)
    t1 = sech2 * u1
    slope = torch.addcmul(t, x, t1).add_(1).mul_(0.5)
    t2 = sech2.mul_(x).mul_(6 * _CUBIC * _SCALE).addcmul_(t.mul_(t1), u1, value=-2)
    return slope, t1.addcmul_(x, t2, value=0.5)


class _Value(torch.autograd.Function):
    """The value, and a channel for ``gelu''(x) g v`` and ``gelu'(x)``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, ...]:
        return nn.functional.gelu(x, approximate="tanh"), *channel(x, [x.shape, x.shape])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, *output[1:])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (x, *zeros), (upstream, bent, slope) = ctx.saved_tensors, grad_outputs
        if slope is not None:
            return bent if upstream is None else torch.addcmul(bent, slope, upstream)
        if upstream is None:
            return None
        if torch.is_grad_enabled():  # the first pass
            gradient, *_ = cast(tuple[Tensor, ...], _Gradient.apply(x, upstream, *open_channel(ctx, zeros)))
            return gradient
        return _gradient(x, upstream)


def _gradient(x: Tensor, upstream: Tensor) -> Tensor:
    """``gelu'(x) g``."""
    return torch.ops.aten.gelu_backward(upstream, x, approximate="tanh")


class _Gradient(torch.autograd.Function):
    """`_gradient` as a function of both; beside it ``gelu''(x) g`` and ``gelu'(x)``, which every product needs."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, upstream: Tensor, *channel: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        slopes, bends = zip(*(_derivatives(piece) for piece in x.flatten().split(_PIECE)), strict=True)
        return _gradient(x, upstream), torch.cat(bends).view(x.shape) * upstream, torch.cat(slopes).view(x.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # or the derivatives would get gradients of zeros
        ctx.save_for_backward(*output[1:])
        ctx.has_channel = len(inputs) > 2

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (bend, slope), v = ctx.saved_tensors, grad_outputs[0]
        if ctx.has_channel:
            return (None, None, None, None) if v is None else (None, slope * v, bend * v, slope)
        return (None, None) if v is None else (bend * v, slope * v)
