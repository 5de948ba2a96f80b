"""Operators that hold their entries, or a function that multiplies."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from lift_core.operators.base import DENSE_LIMIT, Lifted, LinearOperator, require_finite
from lift_core.operators.tall import pull


class Dense(LinearOperator):
    """A stored matrix.

    >>> Dense([[1.0, 2.0], [3.0, 4.0]]).matvec(torch.tensor([1.0, 1.0], dtype=torch.float64)).tolist()
    [3.0, 7.0]
    """

    def __init__(self, matrix: Tensor | np.ndarray | list[list[float]]) -> None:
        matrix = np.array(matrix) if isinstance(matrix, np.ndarray) else matrix  # later changes of theirs are not ours
        self.matrix: Float64[Tensor, "m n"] = torch.as_tensor(matrix, dtype=torch.float64)
        if self.matrix.ndim != 2:
            raise ValueError(f"matrix: expected two dimensions, got shape {tuple(self.matrix.shape)}")
        require_finite(matrix=self.matrix)
        self.shape = (int(self.matrix.shape[0]), int(self.matrix.shape[1]))
        self.device = self.matrix.device

    def matvec(self, x: Tensor) -> Tensor:
        return self.matrix @ x

    def rmatvec(self, y: Tensor) -> Tensor:
        return pull(self.matrix, y[:, None])[:, 0]

    def matmat(self, x: Tensor) -> Tensor:
        return self.matrix @ x

    def rmatmat(self, y: Tensor) -> Tensor:
        return pull(self.matrix, y)

    def dense_rows(self, rows: slice | Int64[Tensor, " r"]) -> Tensor:
        return self.matrix[rows]

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

    def rmatmat(self, y: Tensor) -> Tensor:
        return self._backward @ y

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

    def rmatmat(self, y: Tensor) -> Tensor:
        return self.matmat(y)

    def _dense(self) -> Tensor:
        return torch.diag(self.diagonal)

    def lifted(self, limit: int = DENSE_LIMIT) -> Lifted:
        del limit  # one entry a row
        return Lifted(sp.csr_matrix(sp.diags(self.diagonal.cpu().numpy())), 0)


class MatrixFree(LinearOperator):
    """An operator given by functions; symmetric when ``rmatvec`` is not given.

    Args:
        shape: ``n`` for a square operator, or ``(m, n)``.
        matvec: maps a vector of length n to one of length m.
        rmatvec: maps m to n; by default the operator is symmetric.
        matmat: products with several columns at once; by default one after the other.

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
        self._matmat = matmat or super().matmat

    def matvec(self, x: Tensor) -> Tensor:
        return self._matvec(x)

    def matmat(self, x: Tensor) -> Tensor:
        return self._matmat(x)

    def rmatvec(self, y: Tensor) -> Tensor:
        return self._rmatvec(y)


def as_operator(matrix: object, *, name: str = "A", device: torch.device | None = None) -> LinearOperator:
    """An operator from a tensor, an array, a nested list, a scipy sparse matrix or an operator.

    Args:
        matrix: an operator comes back as it is.
        name: of the argument, for messages.
        device: where to put anything but an operator; None: where it is.
    """
    if isinstance(matrix, LinearOperator):
        return matrix
    try:
        found = _stored(matrix, device)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if found is None:
        wanted = "a tensor, NumPy array, scipy sparse matrix or LinearOperator"
        raise TypeError(f"{name}: expected {wanted}, got {type(matrix).__name__}")
    return found


def _stored(matrix: object, device: torch.device | None) -> LinearOperator | None:
    if isinstance(matrix, (sp.spmatrix, sp.sparray)):
        return Sparse(matrix, device or "cpu")
    if isinstance(matrix, Tensor) and matrix.layout != torch.strided:
        coo = matrix.to_sparse_coo().coalesce().cpu()
        rows, columns = coo.indices().numpy()
        scipy_matrix = sp.coo_matrix((coo.values().numpy(), (rows, columns)), shape=tuple(matrix.shape))
        return Sparse(scipy_matrix, device or matrix.device)
    if isinstance(matrix, (Tensor, np.ndarray, list)):
        return Dense(matrix if device is None else torch.as_tensor(matrix, dtype=torch.float64, device=device))
    return None


def _torch_csr(matrix: sp.csr_matrix, device: torch.device) -> Tensor:
    pointers, columns = (torch.from_numpy(a.astype(np.int64)) for a in (matrix.indptr, matrix.indices))
    values = torch.from_numpy(matrix.data.copy())
    with warnings.catch_warnings():  # torch calls its CSR tensors beta; we only multiply with them
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(pointers, columns, values, size=matrix.shape, check_invariants=False).to(device)
