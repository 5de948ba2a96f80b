"""Sums over the rows of tall factors, ``[V J]ᵀ diag(w) [V J]`` for three weights at once, a chunk of rows at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from backends.chunks import GRAM_ROWS, SMALL_FACTORS, chunks
from lift_core.operators import Dense, GroupColumns, LinearOperator


class GramSums:
    """``Vᵀ diag(first) V``, ``Vᵀ diag(mixed) [V J]`` and ``[V J]ᵀ diag(second) [V J]``, side by side in one matrix.

    V and J are read where they are; only if they are small, a copy of both is kept.

    Attributes:
        J: as it is, if its rows can be read; otherwise with all its entries.
    """

    def __init__(self, V: Float64[Tensor, "n k"], J: LinearOperator) -> None:  # noqa: N803
        n, self._rank = V.shape
        small = n * (self._rank + J.shape[1]) <= SMALL_FACTORS
        keeps = isinstance(J, Dense) or (isinstance(J, GroupColumns) and not small)
        self._V, self.J = V, J if keeps else Dense(J.to_dense())
        self._both = torch.cat([V, self.J.to_dense()], dim=1) if small else None

    def zeros(self) -> Float64[Tensor, "k+p 3k+p"]:
        both = self._rank + self.J.shape[1]
        return self._V.new_zeros(both, both + 2 * self._rank)

    def add_all(self, sums: Float64[Tensor, "k+p 3k+p"], weights: Sequence[Float64[Tensor, " n"]]) -> None:
        """Add every row, with its three weights."""
        for part in chunks(len(self._V), self._V.device, GRAM_ROWS):
            self.add(sums, part, [entries[part] for entries in weights])

    def add(self, sums: Float64[Tensor, "k+p 3k+p"], part: slice | Tensor, weights: Sequence[Tensor]) -> None:
        """Add some rows: one product ``[V J]ᵀ [first V  mixed V  second [V J]]``, whose factors stay in the cache."""
        V = self._V[part]  # noqa: N806
        VJ = torch.cat([V, self.J.dense_rows(part)], dim=1) if self._both is None else self._both[part]  # noqa: N806
        weighted = V.new_empty(len(V), sums.shape[1])
        blocks = weighted.split([self._rank, self._rank, len(sums)], dim=1)
        for block, entries, rows in zip(blocks, weights, (V, V, VJ), strict=True):
            torch.mul(rows, entries[:, None], out=block)
        sums.addmm_(VJ.T, weighted)

    def split(self, sums: Float64[Tensor, "*b k+p 3k+p"]) -> tuple[Tensor, Tensor, Tensor]:
        """The three matrices."""
        k = self._rank
        first, mixed, second = sums.split([k, k, sums.shape[-2]], dim=-1)
        return first[..., :k, :], mixed.mT, second
