"""Programs that share A, solved at once: column j of every block belongs to program j.

In memory the entries of a program stand next to each other: every block is the transpose of one that is contiguous.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from lift_core.lp import LinearProgram
from lift_core.operators import LinearOperator


class Batch(NamedTuple):
    """``min c_j^T x_j + offset_j`` over the bounds of program j, for every j; the matrix is common to all."""

    A: LinearOperator
    c: Float64[Tensor, "n b"]
    row_lower: Float64[Tensor, "m b"]
    row_upper: Float64[Tensor, "m b"]
    col_lower: Float64[Tensor, "n b"]
    col_upper: Float64[Tensor, "n b"]
    offset: Float64[Tensor, " b"]

    @property
    def size(self) -> int:
        return self.c.shape[1]

    def keep(self, columns: list[int]) -> Batch:
        """The programs with these indices."""
        c, row_lower, row_upper, col_lower, col_upper = (columns_of(block, columns) for block in self[1:6])
        return Batch(self.A, c, row_lower, row_upper, col_lower, col_upper, self.offset[columns])

    def without_costs(self) -> Batch:
        """The same programs, asked for any feasible point."""
        return self._replace(c=torch.zeros_like(self.c), offset=torch.zeros_like(self.offset))

    def program(self, column: int) -> LinearProgram:
        """One of the programs, its vectors contiguous: much is computed with them."""
        names = ("c", "row_lower", "row_upper", "col_lower", "col_upper")
        vectors = {name: getattr(self, name)[:, column].contiguous() for name in names}
        return LinearProgram(A=self.A, offset=float(self.offset[column]), **vectors)


def make_batch(lps: Sequence[LinearProgram]) -> Batch:
    """Side by side; the matrix is that of the first one."""
    names = ("c", "row_lower", "row_upper", "col_lower", "col_upper")
    c, row_lower, row_upper, col_lower, col_upper = (
        torch.stack([getattr(lp, name) for lp in lps]).mT for name in names
    )
    offset = torch.tensor([lp.offset for lp in lps], dtype=torch.float64, device=c.device)
    return Batch(lps[0].A, c, row_lower, row_upper, col_lower, col_upper, offset)


def product(A: LinearOperator, x: Float64[Tensor, "n b"]) -> Float64[Tensor, "m b"]:  # noqa: N803
    """``A X``; one call of A."""
    return A.matvec(x[:, 0])[:, None] if x.shape[1] == 1 else A.matmat(x)


def transposed_product(A: LinearOperator, y: Float64[Tensor, "m b"]) -> Float64[Tensor, "n b"]:  # noqa: N803
    """``A^T Y``; one call of A."""
    return A.rmatvec(y[:, 0])[:, None] if y.shape[1] == 1 else A.rmatmat(y)


def columns_of(block: Float64[Tensor, "n b"], columns: list[int]) -> Float64[Tensor, "n c"]:
    """Some columns, each contiguous."""
    return block.mT[columns].mT


def below(*blocks: Float64[Tensor, "_ b"]) -> Float64[Tensor, "_ b"]:
    """Blocks one below the other, each column contiguous."""
    return torch.cat([block.mT for block in blocks], dim=1).mT
