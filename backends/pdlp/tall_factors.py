"""The factors ``[V' J]`` of a direction LP as `PDLP` reads them: every column contiguous, and a few rows at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from backends.chunks import GRAM_ROWS, SMALL_FACTORS, chunks
from backends.factors import signed_factors
from lift_core.operators import Dense, DirectionMatrix, GroupColumns


class TallFactors:
    """``H = diag(d) + V' diag(signs) V'^T`` with the strengths of the core in V', and the mixed partial J.

    Blocks have the vectors of a program in a row. Where J is narrow or small it stands beside V', and products with
    the one are products with both: "width" is k + p there, and k elsewhere.

    Attributes:
        d, signs: of H; signs without zeros.
        J: as it is, if its rows can be read; otherwise with all its entries.
        rank: k.
        has_both: whether J stands beside V'.
        rows: those that are kept of A; None: all.

    Raises:
        ValueError: if H is not given by factors.
    """

    def __init__(self, A: DirectionMatrix) -> None:  # noqa: N803
        parts = signed_factors(A.hessian)
        self.d, self.signs, (n, self.rank), p = parts.diagonal, parts.signs, parts.V.shape, A.num_hyper
        small = n * (self.rank + p) <= SMALL_FACTORS
        keeps = isinstance(A.mixed, Dense) or (isinstance(A.mixed, GroupColumns) and not small)
        self.J, self.has_both = A.mixed if keeps else Dense(A.mixed.to_dense()), small or 2 * p <= self.rank
        beside = [self.J.dense_rows(slice(None))] if self.has_both else []
        self.rows = A.rows
        self._columns = torch.cat([parts.V.mT, *(block.mT for block in beside)]).contiguous()

    @property
    def width(self) -> int:
        return len(self._columns)

    @property
    def V(self) -> Float64[Tensor, "k n"]:  # noqa: N802  (the field's letter)
        """``V'^T``."""
        return self._columns[: self.rank]

    def pull(self, part: slice, block: Float64[Tensor, "b rows"]) -> Float64[Tensor, "b width"]:
        """``X V'`` of some weights, or ``X [V' J]``."""
        return block @ self._columns[:, part].mT

    def push(self, coefficients: Float64[Tensor, "b width"], part: slice) -> Float64[Tensor, "b rows"]:
        """``X V'^T``, or ``X [V' J]^T``, for some weights."""
        return coefficients @ self._columns[:, part]

    def pull_mixed(self, block: Float64[Tensor, "b n"]) -> Float64[Tensor, "b p"]:
        """``X J``."""
        return block @ self._columns[self.rank :].mT if self.has_both else self.J.rmatmat(block.mT).mT

    def spread(self, block: Tensor, fill: float) -> Float64[Tensor, "b n"]:
        """From the kept rows to all."""
        if self.rows is None:
            return block
        return block.new_full((len(block), len(self.d)), fill).index_copy_(1, self.rows, block)

    def select(self, block: Float64[Tensor, "b n"]) -> Float64[Tensor, "b m"]:
        """From all rows to the kept ones."""
        return block if self.rows is None else block[:, self.rows]

    def grams(self, weights: Sequence[Float64[Tensor, " n"]]) -> Float64[Tensor, "k+p 3k+p"]:
        """``V'^T diag(first) V'``, ``V'^T diag(mixed) [V' J]`` and ``[V' J]^T diag(second) [V' J]``, for `split`."""
        both = self.rank + self.J.shape[1]
        sums = self._columns.new_zeros(both, both + 2 * self.rank)
        for part in chunks(len(self.d), self.d.device, GRAM_ROWS):
            self.add(sums, part, [entries[part] for entries in weights])
        return sums

    def add(self, sums: Float64[Tensor, "k+p 3k+p"], part: slice | Tensor, weights: Sequence[Tensor]) -> None:
        """Add some weights: one product ``[V' J]^T [first V'  mixed V'  second [V' J]]``, all of it in the cache."""
        some = self._columns[:, part]
        both = some if self.has_both else torch.cat([some, self.J.dense_rows(part).mT])
        weighted = some.new_empty(sums.shape[1], both.shape[1])
        blocks, V = weighted.split([self.rank, self.rank, len(sums)]), both[: self.rank]  # noqa: N806
        for block, entries, columns in zip(blocks, weights, (V, V, both), strict=True):
            torch.mul(columns, entries, out=block)
        sums.addmm_(both, weighted.mT)

    def split(self, sums: Float64[Tensor, "*b k+p 3k+p"]) -> tuple[Tensor, Tensor, Tensor]:
        """The three matrices."""
        first, mixed, second = sums.split([self.rank, self.rank, sums.shape[-2]], dim=-1)
        return first[..., : self.rank, :], mixed.mT, second
