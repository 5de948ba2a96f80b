"""Products with the transposes of tall matrices, and how blocks of vectors lie in memory."""

from __future__ import annotations

from jaxtyping import Float64
from torch import Tensor

ROWS = 1 << 10
"""Rows of a block: few enough to stay in a processor's inner caches."""
FEWEST = 32
"""Blocks from which on it pays: what is smaller stays in the caches anyway."""
MOST_ENTRIES = 1 << 13
"""Entries of the product of a block up to which it is done: all together take no more than eight columns of V."""
ENOUGH_COLUMNS = 12
"""From so many columns on BLAS multiplies with the transpose of a tall matrix at full speed."""


def pull(V: Float64[Tensor, "n k"], block: Float64[Tensor, "n b"]) -> Float64[Tensor, "k b"]:  # noqa: N803
    """``V^T X`` for tall V, for few columns as ``(X^T V)^T``; on a CPU as a sum over blocks of rows.

    BLAS shares the entries of a product among threads, of which there are few here; a batch of products that are added
    up gives every thread rows of its own.

    >>> import torch
    >>> pull(torch.ones(3, 2), torch.tensor([[1.0], [2.0], [3.0]])).tolist()
    [[6.0], [6.0]]
    """
    whole = len(V) // ROWS * ROWS
    if V.device.type != "cpu" or whole < FEWEST * ROWS or V.shape[1] * block.shape[1] > MOST_ENTRIES:
        return _product(V, block)
    blocks = (part[:whole].unflatten(0, (-1, ROWS)) for part in (V, block))
    inner = _product(*blocks).sum(0)
    return inner if whole == len(V) else inner + _product(V[whole:], block[whole:])


def _product(
    tall: Float64[Tensor, "*blocks n k"], block: Float64[Tensor, "*blocks n b"]
) -> Float64[Tensor, "*blocks k b"]:
    return tall.mT @ block if block.shape[-1] >= ENOUGH_COLUMNS else (block.mT @ tall).mT


def columns_are_contiguous(block: Float64[Tensor, "n b"]) -> bool:
    """Whether a block is ``rows.mT`` in memory: products that keep it so read and write without jumps."""
    return block.shape[1] > 1 and block.stride(0) == 1
