"""Linear operators: what the core multiplies with, and never needs to store.

Every operator works in float64 on one device. Square symmetric operators stand for Hessians; `DirectionMatrix`
stands for the constraint matrix ``[J  H]`` of a direction LP. An operator that has one gives its explicit sparse form,
*lifted* by auxiliary variables where a product of factors would be dense (see `LinearOperator.lifted`).
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
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


class Dense(LinearOperator):
    """A stored matrix.

    >>> Dense([[1.0, 2.0], [3.0, 4.0]]).matvec(torch.tensor([1.0, 1.0], dtype=torch.float64)).tolist()
    [3.0, 7.0]
    """

    def __init__(self, matrix: Tensor | np.ndarray | list[list[float]]) -> None:
        self.matrix: Float64[Tensor, "m n"] = torch.as_tensor(matrix, dtype=torch.float64)
        if self.matrix.ndim != 2:
            raise ValueError(f"matrix: expected two dimensions, got shape {tuple(self.matrix.shape)}")
        require_finite(matrix=self.matrix)
        self.shape = (int(self.matrix.shape[0]), int(self.matrix.shape[1]))
        self.device = self.matrix.device

    def matvec(self, x: Tensor) -> Tensor:
        return self.matrix @ x

    def rmatvec(self, y: Tensor) -> Tensor:
        return self.matrix.T @ y

    def matmat(self, x: Tensor) -> Tensor:
        return self.matrix @ x

    def _dense(self) -> Tensor:
        return self.matrix


class Sparse(LinearOperator):
    """A scipy sparse matrix, kept as CSR together with its transpose for both products.

    >>> Sparse(sp.eye(2)).rmatvec(torch.ones(2, dtype=torch.float64)).tolist()
    [1.0, 1.0]
    """

    def __init__(self, matrix: sp.spmatrix | sp.sparray, device: torch.device | str = "cpu") -> None:
        self.matrix = sp.csr_matrix(matrix, dtype=np.float64)
        if not self.matrix.has_canonical_format:
            self.matrix = self.matrix.copy()  # the caller's matrix stays as it is
            self.matrix.sum_duplicates()
        if not np.isfinite(self.matrix.data).all():
            raise ValueError("matrix: its entries must be finite, but NaN or inf was found")
        rows, columns = self.matrix.get_shape()
        self.shape = (int(rows), int(columns))
        self.device = torch.device(device)
        self._forward = _torch_csr(self.matrix, self.device)
        self._backward = _torch_csr(sp.csr_matrix(self.matrix.T), self.device)

    def matvec(self, x: Tensor) -> Tensor:
        return self._forward @ x

    def rmatvec(self, y: Tensor) -> Tensor:
        return self._backward @ y

    def matmat(self, x: Tensor) -> Tensor:
        return self._forward @ x

    def _dense(self) -> Tensor:
        return torch.from_numpy(self.matrix.toarray()).to(self.device)

    def lifted(self, limit: int = DENSE_LIMIT) -> Lifted:
        del limit  # already explicit
        return Lifted(self.matrix, 0)


class Diagonal(LinearOperator):
    """``diag(d)``.

    >>> Diagonal([2.0, 3.0]).matvec(torch.tensor([1.0, 1.0], dtype=torch.float64)).tolist()
    [2.0, 3.0]
    """

    def __init__(self, diagonal: Tensor | np.ndarray | list[float]) -> None:
        self.diagonal: Float64[Tensor, " n"] = torch.as_tensor(diagonal, dtype=torch.float64)
        if self.diagonal.ndim != 1:
            raise ValueError(f"diagonal: expected one dimension, got shape {tuple(self.diagonal.shape)}")
        require_finite(diagonal=self.diagonal)
        self.shape = (len(self.diagonal), len(self.diagonal))
        self.device = self.diagonal.device

    def matvec(self, x: Tensor) -> Tensor:
        return self.diagonal * x

    def rmatvec(self, y: Tensor) -> Tensor:
        return self.diagonal * y

    def matmat(self, x: Tensor) -> Tensor:
        return self.diagonal[:, None] * x

    def _dense(self) -> Tensor:
        return torch.diag(self.diagonal)

    def lifted(self, limit: int = DENSE_LIMIT) -> Lifted:
        del limit  # one entry a row
        return Lifted(sp.csr_matrix(sp.diags(self.diagonal.cpu().numpy())), 0)


class LowRankPlusDiagonal(LinearOperator):
    """``diag(d) + V diag(c) V^T``, symmetric: the factored curvature models.

    Args:
        diagonal: d, shape (n,).
        factor: V, shape (n, k); its columns need not be orthonormal.
        core: c, shape (k,), of any sign.

    >>> H = LowRankPlusDiagonal(diagonal=[1.0, 1.0], factor=[[1.0], [0.0]], core=[2.0])
    >>> H.to_dense().tolist()
    [[3.0, 0.0], [0.0, 1.0]]
    """

    def __init__(
        self,
        *,
        diagonal: Tensor | np.ndarray | list[float],
        factor: Tensor | np.ndarray | list[list[float]],
        core: Tensor | np.ndarray | list[float],
    ) -> None:
        self.diagonal: Float64[Tensor, " n"] = torch.as_tensor(diagonal, dtype=torch.float64)
        self.factor: Float64[Tensor, "n k"] = torch.as_tensor(factor, dtype=torch.float64)
        self.core: Float64[Tensor, " k"] = torch.as_tensor(core, dtype=torch.float64)
        n = len(self.diagonal)
        if self.diagonal.ndim != 1 or self.factor.ndim != 2 or self.core.ndim != 1:
            raise ValueError("diagonal, factor and core: expected one, two and one dimensions")
        if tuple(self.factor.shape) != (n, len(self.core)):
            raise ValueError(f"factor: expected shape {(n, len(self.core))}, got {tuple(self.factor.shape)}")
        require_finite(diagonal=self.diagonal, factor=self.factor, core=self.core)
        self.shape = (n, n)
        self.device = self.diagonal.device

    def matvec(self, x: Tensor) -> Tensor:
        return self.diagonal * x + self.factor @ (self.core * (self.factor.T @ x))

    def rmatvec(self, y: Tensor) -> Tensor:
        return self.matvec(y)

    def matmat(self, x: Tensor) -> Tensor:
        return self.diagonal[:, None] * x + self.factor @ (self.core[:, None] * (self.factor.T @ x))

    def lifted(self, limit: int = DENSE_LIMIT) -> Lifted:
        n, k = self.factor.shape
        if 2 * n * k > limit:
            raise ValueError(
                f"lifted, a rank-{k} operator of size {n:,} has {2 * n * k:,} entries, more than limit={limit:,}"
            )
        factor = self.factor.cpu().numpy()
        blocks = [
            [sp.diags(self.diagonal.cpu().numpy()), sp.csr_matrix(factor * self.core.cpu().numpy())],
            [sp.csr_matrix(factor.T), -sp.identity(k)],
        ]
        return Lifted(sp.csr_matrix(sp.bmat(blocks)), int(k))


class MatrixFree(LinearOperator):
    """An operator given by functions; symmetric when ``rmatvec`` is not given.

    Args:
        shape: ``n`` for a square operator, or ``(m, n)``.
        matvec: maps a vector of length n to one of length m.
        rmatvec: maps m to n; by default the operator is symmetric.
        matmat: maps n x k to m x k; by default column by column.

    >>> MatrixFree(2, lambda x: 2 * x).matvec(torch.ones(2, dtype=torch.float64)).tolist()
    [2.0, 2.0]
    """

    def __init__(
        self,
        shape: int | tuple[int, int],
        matvec: Callable[[Tensor], Tensor],
        rmatvec: Callable[[Tensor], Tensor] | None = None,
        *,
        matmat: Callable[[Tensor], Tensor] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.shape = (shape, shape) if isinstance(shape, int) else shape
        if rmatvec is None and self.shape[0] != self.shape[1]:
            raise ValueError(f"rmatvec: needed for a rectangular operator of shape {self.shape}")
        self.device = torch.device(device)
        self._matvec = matvec
        self._rmatvec = rmatvec or matvec
        self._matmat = matmat

    def matvec(self, x: Tensor) -> Tensor:
        return self._matvec(x)

    def matmat(self, x: Tensor) -> Tensor:
        return super().matmat(x) if self._matmat is None or not x.shape[1] else self._matmat(x)

    def rmatvec(self, y: Tensor) -> Tensor:
        return self._rmatvec(y)


class GroupColumns(LinearOperator):
    """n x p matrix with at most one entry a row: row i holds ``values[i]`` in column ``group_of[i]``.

    This is the mixed partial ``J`` of elementwise regularisers. Rows whose ``group_of`` is -1 are empty.

    >>> GroupColumns([1.0, 2.0, 3.0], [0, 1, 0], num_groups=2).to_dense().tolist()
    [[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]
    """

    def __init__(
        self, values: Tensor | list[float], group_of: Int64[Tensor, " n"] | list[int], *, num_groups: int
    ) -> None:
        self.group_of = torch.as_tensor(group_of, dtype=torch.int64)
        raw = torch.as_tensor(values, dtype=torch.float64)
        if raw.shape != self.group_of.shape:
            raise ValueError(f"group_of: expected shape {tuple(raw.shape)}, got {tuple(self.group_of.shape)}")
        require_finite(values=raw)
        self.values: Float64[Tensor, " n"] = torch.where(self.group_of >= 0, raw, 0.0)
        self._column = self.group_of.clamp(min=0)
        self.shape = (len(raw), num_groups)
        self.device = raw.device

    def matvec(self, x: Tensor) -> Tensor:
        if self.shape[1] == 0:
            return torch.zeros_like(self.values)
        return self.values * x[self._column]

    def rmatvec(self, y: Tensor) -> Tensor:
        out = torch.zeros(self.shape[1], dtype=torch.float64, device=self.device)
        return out if self.shape[1] == 0 else out.index_add_(0, self._column, self.values * y)

    def lifted(self, limit: int = DENSE_LIMIT) -> Lifted:
        del limit  # at most one entry a row
        rows = np.flatnonzero((self.group_of >= 0).cpu().numpy())
        entries = (self.values.cpu().numpy()[rows], (rows, self.group_of.cpu().numpy()[rows]))
        return Lifted(sp.csr_matrix(entries, shape=self.shape), 0)


class DirectionMatrix(LinearOperator):
    """``A = [J  H]``, or the chosen ``rows`` of it: the constraint matrix of a direction LP.

    Args:
        mixed: J, n x p.
        hessian: H, n x n, symmetric.
        rows: indices of the rows that are kept (None: all), sorted.

    Structured backends read ``mixed``, ``hessian`` and ``rows``; all others use the products or `lifted`.

    >>> DirectionMatrix(Dense([[1.0], [0.0]]), Diagonal([2.0, 3.0])).to_dense().tolist()
    [[1.0, 2.0, 0.0], [0.0, 0.0, 3.0]]
    """

    def __init__(self, mixed: LinearOperator, hessian: LinearOperator, rows: Int64[Tensor, " m"] | None = None) -> None:
        n = hessian.shape[0]
        if hessian.shape != (n, n):
            raise ValueError(f"hessian: expected a square operator, got shape {hessian.shape}")
        if mixed.shape[0] != n:
            raise ValueError(f"mixed: expected {n} rows like the Hessian, got shape {mixed.shape}")
        self.mixed, self.hessian, self.rows = mixed, hessian, rows
        self.num_hyper = mixed.shape[1]
        self.shape = (n if rows is None else len(rows), self.num_hyper + n)
        self.device = hessian.device

    def matvec(self, x: Tensor) -> Tensor:
        full = self.mixed.matvec(x[: self.num_hyper]) + self.hessian.matvec(x[self.num_hyper :])
        return full if self.rows is None else full[self.rows]

    def rmatvec(self, y: Tensor) -> Tensor:
        if self.rows is not None:
            y = y.new_zeros(self.hessian.shape[0]).index_copy_(0, self.rows, y)
        return torch.cat([self.mixed.rmatvec(y), self.hessian.rmatvec(y)])

    def _dense(self) -> Tensor:
        full = torch.cat([self.mixed.to_dense(), self.hessian.to_dense()], dim=1)
        return full if self.rows is None else full[self.rows]

    def lifted(self, limit: int = DENSE_LIMIT) -> Lifted:
        hessian, k = self.hessian.lifted(limit)
        mixed = self.mixed.lifted(limit)
        if mixed.num_auxiliary:
            raise ValueError(
                "mixed: an operator that needs auxiliary variables is not supported here; pass Dense(mixed.to_dense())"
            )
        n = self.hessian.shape[0]
        kept = np.arange(n) if self.rows is None else self.rows.cpu().numpy()
        kept = np.concatenate([kept, n + np.arange(k)])
        padded = sp.vstack([mixed.matrix, sp.csr_matrix((k, self.num_hyper))])
        return Lifted(sp.csr_matrix(sp.hstack([padded, hessian], format="csr"))[kept], k)


def as_operator(matrix: object, *, name: str = "A") -> LinearOperator:
    """An operator from a tensor, an array, a nested list, a scipy sparse matrix or an operator."""
    if isinstance(matrix, LinearOperator):
        return matrix
    if isinstance(matrix, (sp.spmatrix, sp.sparray)):
        return Sparse(matrix)
    if isinstance(matrix, Tensor) and matrix.layout != torch.strided:
        coo = matrix.to_sparse_coo().coalesce().cpu()
        rows, columns = coo.indices().numpy()
        return Sparse(sp.coo_matrix((coo.values().numpy(), (rows, columns)), shape=tuple(matrix.shape)), matrix.device)
    if isinstance(matrix, (Tensor, np.ndarray, list)):
        return Dense(matrix)
    raise TypeError(
        f"{name}: expected a tensor, NumPy array, scipy sparse matrix or LinearOperator, got {type(matrix).__name__}"
    )


def require_finite(**tensors: Tensor) -> None:
    """Raise a `ValueError` naming the first tensor that holds NaN or inf, and where."""
    for name, tensor in tensors.items():
        bad = ~torch.isfinite(tensor)
        if bad.any():
            index = tuple(int(i) for i in bad.nonzero()[0])
            raise ValueError(f"{name}: expected finite entries, but {name}{list(index)} = {tensor[index].item()}")


def _torch_csr(matrix: sp.csr_matrix, device: torch.device) -> Tensor:
    pointers, columns = (torch.from_numpy(a.astype(np.int64)) for a in (matrix.indptr, matrix.indices))
    values = torch.from_numpy(matrix.data.copy())
    with warnings.catch_warnings():  # torch calls its CSR tensors beta; we only multiply with them
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(pointers, columns, values, size=matrix.shape, check_invariants=False).to(device)
