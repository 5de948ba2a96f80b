"""How what a closed form knows of second derivatives reaches the inputs of its function.

A Hessian product goes backwards through the graph of a gradient. There a closed form is two autograd functions: a
value, and its gradient, which the first pass back from the value calls. The second pass comes to the gradient, and when
it has been through all layers above, to the value. Both have something to add to the inputs. The value can add it at
once, inside matrix products, if the gradient tells it what it has found: the value gives out zeros of the shapes of
such messages, the gradient takes them as inputs, and what it returns as *their* gradients reaches the value. Messages
of two gradients would be added up on their way, so that only the first one gets the channel; another adds on its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def channel(like: Tensor, shapes: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
    """Zeros of these shapes, which take no memory.

    >>> [part.shape for part in channel(torch.ones(1), [(2, 3), (4,)])]
    [torch.Size([2, 3]), torch.Size([4])]
    """
    return tuple(like.new_zeros(()).expand(*shape) for shape in shapes)


def open_channel(ctx: Any, zeros: Sequence[Tensor]) -> Sequence[Tensor]:
    """The channel for the first gradient of the value with this context, nothing for others or a batch of them."""
    is_taken, ctx.channel_is_taken = getattr(ctx, "channel_is_taken", False), True
    return () if is_taken or is_transformed() else zeros


def is_transformed() -> bool:
    """Whether a transform of `torch.func` runs, such as vmap."""
    stack: Any = torch._C._functorch  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    return stack.peek_interpreter_stack() is not None
