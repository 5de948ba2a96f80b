"""Elementwise formulas over long vectors, a chunk at a time: temporaries stay small, and on a CPU in
the outer cache, while each operation is still long enough for a few threads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

ENTRIES = {"cpu": 1 << 17, "cuda": 1 << 22}
"""Entries of a chunk by the type of device, those of all vectors of a block counted."""
ROWS = {"cpu": 1 << 15, "cuda": 1 << 20}
"""Rows of a chunk of a tall matrix."""
TRIANGLE_ROWS = {"cpu": 1 << 8, "cuda": 1 << 11}
"""Rows of the blocks of which half a square matrix is made."""
GRAM_ROWS = {"cpu": 1 << 11, "cuda": 1 << 19}
"""Rows of a chunk of which a few weighted copies are made."""
SMALL_FACTORS = 1 << 22
"""Up to so many entries the factors and the mixed partial of a direction LP are kept side by side as one matrix."""


def chunks(length: int, device: torch.device, sizes: dict[str, int] = ENTRIES, *, vectors: int = 1) -> Iterator[slice]:
    """Slices that cover ``range(length)``, for so many vectors side by side.

    >>> [part.stop for part in chunks(300_000, torch.device("cpu"))]
    [131072, 262144, 300000]
    """
    size = max(sizes.get(device.type, sizes["cpu"]) // vectors, 1)
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def pieces(*vectors: Tensor) -> Iterator[list[Tensor]]:
    """The same entries of every vector or block, a chunk of the last axis after the other: views, to be written to.

    >>> x = torch.arange(300_000.0)
    >>> [len(piece) for piece, in pieces(x)]
    [131072, 131072, 37856]
    """
    return ([vector[..., part] for vector in vectors] for part in _parts(vectors))


def elementwise(formula: Callable[..., tuple[Tensor, ...]], *vectors: Tensor) -> tuple[Tensor, ...]:
    """``formula(*vectors)`` for a formula that treats every entry of the last axis alike, one chunk after the other."""
    length = vectors[0].shape[-1]
    parts = _parts(vectors)
    if len(parts) <= 1:
        return formula(*vectors)
    results: tuple[Tensor, ...] = ()
    for part in parts:
        values = formula(*(vector[..., part] for vector in vectors))
        results = results or tuple(value.new_empty(*value.shape[:-1], length) for value in values)
        for result, value in zip(results, values, strict=True):
            result[..., part] = value
    return results


def reduced(formula: Callable[..., Tensor], *vectors: Tensor) -> Tensor:
    """What ``formula`` makes of each chunk of the last axis, stacked: to be added up, or searched for the extreme."""
    parts = _parts(vectors)
    if len(parts) == 1:
        return formula(*vectors)[None]
    values = [formula(*(vector[..., part] for vector in vectors)) for part in parts]
    return torch.stack(values) if values else vectors[0].new_zeros(0)


def _parts(vectors: tuple[Tensor, ...]) -> list[slice]:
    rows = max(math.prod(vector.shape[:-1]) for vector in vectors)
    return list(chunks(vectors[0].shape[-1], vectors[0].device, vectors=max(rows, 1)))
