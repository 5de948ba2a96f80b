"""What every operator does: products, shape, device, explicit forms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import scipy.sparse as sp
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

DENSE_LIMIT = 64_000_000
"""Largest number of entries that `LinearOperator.to_dense` forms without being told to (512 MB)."""


class Lifted(NamedTuple):
    """Explicit form of an operator ``A`` (m x n) with ``num_auxiliary`` = k extra variables z and k extra rows.

    ``matrix`` is (m + k) x (n + k): its first m rows give ``A x`` from ``(x, z)``, its last k rows are the equalities
    ``V^T x - z = 0`` that define z. In a linear program z is free with zero cost; the duals of the first m rows are
    then exactly the duals of ``A``.
    """

    matrix: sp.csr_matrix
    num_auxiliary: int


class LinearOperator(ABC):
    """A real m x n matrix known through its products.

    Attributes:
        shape: ``(m, n)``.
        device: where the operands live.
    """

    shape: tuple[int, int]
    device: torch.device = torch.device("cpu")

    @abstractmethod
    def matvec(self, x: Float64[Tensor, " n"]) -> Float64[Tensor, " m"]:
        """``A x``."""

    @abstractmethod
    def rmatvec(self, y: Float64[Tensor, " m"]) -> Float64[Tensor, " n"]:
        """``A^T y``."""

    def matmat(self, x: Float64[Tensor, "n k"]) -> Float64[Tensor, "m k"]:
        """``A X``, column by column unless an operator knows better."""
        return (
            torch.stack([self.matvec(column) for column in x.T], dim=1) if x.shape[1] else x.new_zeros(self.shape[0], 0)
        )

    def rmatmat(self, y: Float64[Tensor, "m k"]) -> Float64[Tensor, "n k"]:
        """``A^T Y``, column by column unless an operator knows better."""
        return (
            torch.stack([self.rmatvec(column) for column in y.T], dim=1)
            if y.shape[1]
            else y.new_zeros(self.shape[1], 0)
        )

    def dense_rows(self, rows: slice | Int64[Tensor, " r"]) -> Float64[Tensor, "r n"]:
        """Some rows as a dense matrix; forms all of them unless an operator knows better."""
        return self.to_dense()[rows]

    def to_dense(self, limit: int = DENSE_LIMIT) -> Float64[Tensor, "m n"]:
        """The matrix itself.

        Raises:
            ValueError: if it would have more than ``limit`` entries.
        """
        m, n = self.shape
        if m * n > limit:
            raise ValueError(
                f"{type(self).__name__} of shape {self.shape} has {m * n:,} entries, more than limit={limit:,}; "
                "use a backend that works with products (PDLP), a factored curvature model (LowRank), or raise limit"
            )
        return self._dense()

    def _dense(self) -> Float64[Tensor, "m n"]:
        return self.matmat(torch.eye(self.shape[1], dtype=torch.float64, device=self.device))

    def lifted(self, limit: int = DENSE_LIMIT) -> Lifted:
        """Explicit sparse form; factored operators add auxiliary variables instead of multiplying their factors out."""
        return Lifted(sp.csr_matrix(self.to_dense(limit).cpu().numpy()), 0)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape})"


def require_finite(**tensors: Tensor) -> None:
    """Raise a `ValueError` naming the first tensor that holds NaN or inf, and where."""
    for name, tensor in tensors.items():
        bad = ~torch.isfinite(tensor)
        if bad.any():
            index = tuple(int(i) for i in bad.nonzero()[0])
            raise ValueError(f"{name}: expected finite entries, but {name}{list(index)} = {tensor[index].item()}")
