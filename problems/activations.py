"""GPT-2's activation with its derivatives in closed form."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

_SCALE, _CUBIC = math.sqrt(2 / math.pi), 0.044715


class TanhGELU(nn.Module):
    """``½ x (1 + tanh u)`` with ``u = sqrt(2/π) (x + 0.044715 x³)``: transformers' ``gelu_new``.

    Differentiated twice operation by operation, it keeps dozens of tensors; here a few.

    >>> TanhGELU()(torch.tensor([-1.0, 0.0, 1.0]))
    tensor([-0.1588,  0.0000,  0.8412])
    """

    def forward(self, x: Tensor) -> Any:
        return _Value.apply(x)


def _inner(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``tanh u`` and its first two derivatives."""
    t = torch.tanh(_SCALE * (x + _CUBIC * x**3))
    u1, u2 = _SCALE * (1 + 3 * _CUBIC * x**2), 6 * _SCALE * _CUBIC * x
    sech2 = 1 - t**2
    return t, sech2 * u1, sech2 * (u2 - 2 * t * u1**2)


def _slope(x: Tensor) -> Tensor:
    t, t1, _ = _inner(x)
    return (1 + t + x * t1) / 2


def _bend(x: Tensor) -> Tensor:
    _, t1, t2 = _inner(x)
    return t1 + x * t2 / 2


class _Elementwise(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)


class _Value(_Elementwise):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return nn.functional.gelu(x, approximate="tanh")

    @staticmethod
    def jvp(ctx: Any, *grad_inputs: Any) -> Any:
        return _Slope.apply(*ctx.saved_tensors) * grad_inputs[0]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return _Slope.apply(*ctx.saved_tensors) * grad_outputs[0]


class _Slope(_Elementwise):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return _slope(x)

    @staticmethod
    def jvp(ctx: Any, *grad_inputs: Any) -> Any:
        return _bend(*ctx.saved_tensors) * grad_inputs[0]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return _bend(*ctx.saved_tensors) * grad_outputs[0]
