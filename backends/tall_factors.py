"""The tall factors ``[V J]`` of direction LPs, side by side where that saves time: products and Gram matrices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from backends.chunks import GRAM_ROWS, SMALL_FACTORS, chunks
from lift_core.operators import Dense, GroupColumns, LinearOperator, pull


class TallFactors:
    """V and J, read where they are; only if they have at most ``limit`` entries, a copy of both stands side by side.

    Attributes:
        V: as it is, or the first columns of the copy.
        J: as it is, if its rows can be read; otherwise with all its entries.
        has_both: whether products are with ``[V J]``, or with V alone.
    """

    def __init__(self, V: Float64[Tensor, "n k"], J: LinearOperator, *, limit: int = SMALL_FACTORS) -> None:  # noqa: N803
        n, self._rank = V.shape
        small = n * (self._rank + J.shape[1]) <= SMALL_FACTORS
        keeps = isinstance(J, Dense) or (isinstance(J, GroupColumns) and not small)
        self.J, self.has_both = J if keeps else Dense(J.to_dense()), n * (self._rank + J.shape[1]) <= limit
        self._tall = torch.cat([V, self.J.dense_rows(slice(None))], dim=1) if self.has_both else V
        self.V = self._tall[:, : self._rank]

    @property
    def shape(self) -> torch.Size:
        """Of what products are with."""
        return self._tall.shape

    def pull(self, part: slice, block: Float64[Tensor, "b rows"]) -> Float64[Tensor, "b k_or_k+p"]:
        """``X V`` of some rows, or ``X [V J]``."""
        return pull(self._tall[part], block.mT).mT

    def push(self, coefficients: Float64[Tensor, "b k_or_k+p"], part: slice) -> Float64[Tensor, "b rows"]:
        """``X V^T``, or ``X [V J]^T``, for some rows."""
        return coefficients @ self._tall[part].mT

    def zero_grams(self) -> Float64[Tensor, "k+p 3k+p"]:
        both = self._rank + self.J.shape[1]
        return self._tall.new_zeros(both, both + 2 * self._rank)

    def grams(self, weights: Sequence[Float64[Tensor, " n"]]) -> Float64[Tensor, "k+p 3k+p"]:
        """``V^T diag(first) V``, ``V^T diag(mixed) [V J]`` and ``[V J]^T diag(second) [V J]`` in one, for `split`."""
        sums = self.zero_grams()
        for part in chunks(len(self._tall), self._tall.device, GRAM_ROWS):
            self.add(sums, part, [entries[part] for entries in weights])
        return sums

    def add(self, sums: Float64[Tensor, "k+p 3k+p"], part: slice | Tensor, weights: Sequence[Tensor]) -> None:
        """Add some rows: one product ``[V J]^T [first V  mixed V  second [V J]]``, whose factors stay in the cache."""
        tall = self._tall[part]
        VJ = tall if self.has_both else torch.cat([tall, self.J.dense_rows(part)], dim=1)  # noqa: N806
        weighted = tall.new_empty(len(tall), sums.shape[1])
        blocks, V = weighted.split([self._rank, self._rank, len(sums)], dim=1), VJ[:, : self._rank]  # noqa: N806
        for block, entries, rows in zip(blocks, weights, (V, V, VJ), strict=True):
            torch.mul(rows, entries[:, None], out=block)
        sums.addmm_(VJ.T, weighted)

    def split(self, sums: Float64[Tensor, "*b k+p 3k+p"]) -> tuple[Tensor, Tensor, Tensor]:
        """The three matrices."""
        k = self._rank
        first, mixed, second = sums.split([k, k, sums.shape[-2]], dim=-1)
        return first[..., :k, :], mixed.mT, second
