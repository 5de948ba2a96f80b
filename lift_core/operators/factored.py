"""Operators of direction LPs: factored curvature, mixed partials by group, and ``[J  H]``."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from lift_core.operators.base import DENSE_LIMIT, Lifted, LinearOperator, require_finite
from lift_core.operators.tall import columns_are_contiguous, pull


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
        return self.diagonal * x + self.factor @ (self.core * pull(self.factor, x[:, None])[:, 0])

    def rmatvec(self, y: Tensor) -> Tensor:
        return self.matvec(y)

    def matmat(self, x: Tensor) -> Tensor:
        inner = self.core[:, None] * pull(self.factor, x)
        if columns_are_contiguous(x):
            return torch.addmm(self.diagonal * x.mT, inner.mT, self.factor.mT).mT
        return self.diagonal[:, None] * x + self.factor @ inner

    def rmatmat(self, y: Tensor) -> Tensor:
        return self.matmat(y)

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


class PlusDiagonal(LinearOperator):
    """``A + diag(d)`` for a square operator of any kind, which keeps the forms that A has.

    >>> from lift_core.operators import Sparse
    >>> PlusDiagonal(Sparse(sp.eye(2)), torch.tensor([1.0, 2.0]).double()).to_dense().tolist()
    [[2.0, 0.0], [0.0, 3.0]]
    """

    def __init__(self, operator: LinearOperator, diagonal: Float64[Tensor, " n"]) -> None:
        self.operator, self.diagonal = operator, diagonal
        self.shape, self.device = operator.shape, operator.device

    def matvec(self, x: Tensor) -> Tensor:
        return self.operator.matvec(x) + self.diagonal * x

    def rmatvec(self, y: Tensor) -> Tensor:
        return self.operator.rmatvec(y) + self.diagonal * y

    def matmat(self, x: Tensor) -> Tensor:
        return self.operator.matmat(x) + self.diagonal[:, None] * x

    def rmatmat(self, y: Tensor) -> Tensor:
        return self.operator.rmatmat(y) + self.diagonal[:, None] * y

    def dense_rows(self, rows: slice | Int64[Tensor, " r"]) -> Tensor:
        block, place = self.operator.dense_rows(rows), torch.arange(self.shape[0], device=self.device)[rows]
        return block.scatter_add(1, place[:, None], self.diagonal[place][:, None])

    def to_dense(self, limit: int = DENSE_LIMIT) -> Tensor:
        return self.operator.to_dense(limit) + torch.diag(self.diagonal)

    def lifted(self, limit: int = DENSE_LIMIT) -> Lifted:
        matrix, k = self.operator.lifted(limit)
        added = np.concatenate([self.diagonal.cpu().numpy(), np.zeros(k)])
        return Lifted(sp.csr_matrix(matrix + sp.diags(added)), k)


class GroupColumns(LinearOperator):
    """n x p matrix with at most one entry a row: row i holds ``values[i]`` in column ``group_of[i]``.

    This is the mixed partial ``J`` of elementwise regularisers. Rows whose ``group_of`` is -1 are empty.

    >>> GroupColumns([1.0, 2.0, 3.0], [0, 1, 0], num_groups=2).to_dense().tolist()
    [[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]
    """

    def __init__(
        self, values: Tensor | list[float], group_of: Int64[Tensor, " n"] | list[int], *, num_groups: int
    ) -> None:
        raw = torch.as_tensor(values, dtype=torch.float64)
        self.group_of = torch.as_tensor(group_of, dtype=torch.int64, device=raw.device)
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
        return self.values * x.index_select(0, self._column)

    def rmatvec(self, y: Tensor) -> Tensor:
        out = torch.zeros(self.shape[1], dtype=torch.float64, device=self.device)
        return out if self.shape[1] == 0 else out.index_add_(0, self._column, self.values * y)

    def matmat(self, x: Tensor) -> Tensor:
        if self.shape[1] == 0:
            return x.new_zeros(self.shape[0], x.shape[1])
        if columns_are_contiguous(x):
            return (self.values * x.mT.index_select(1, self._column)).mT
        return self.values[:, None] * x.index_select(0, self._column)

    def rmatmat(self, y: Tensor) -> Tensor:
        out = y.new_zeros(y.shape[1], self.shape[1])
        if self.shape[1]:  # by rows: `index_add_` of a whole block takes more than twice the time
            out.scatter_add_(1, self._column.expand(y.shape[1], -1), (self.values[:, None] * y).T)
        return out.T

    def dense_rows(self, rows: slice | Int64[Tensor, " r"]) -> Tensor:
        values, columns = self.values[rows], self._column[rows]
        block = torch.zeros(len(values), self.shape[1], dtype=torch.float64, device=self.device)
        return block.scatter_(1, columns[:, None], values[:, None]) if self.shape[1] else block

    def lifted(self, limit: int = DENSE_LIMIT) -> Lifted:
        del limit  # at most one entry a row
        rows = np.flatnonzero((self.group_of >= 0).cpu().numpy()) if self.shape[1] else np.zeros(0, dtype=np.int64)
        entries = (self.values.cpu().numpy()[rows], (rows, self.group_of.cpu().numpy()[rows]))
        return Lifted(sp.csr_matrix(entries, shape=self.shape), 0)


class DirectionMatrix(LinearOperator):
    """``A = [J  H]``, or the chosen ``rows`` of it: the constraint matrix of a direction LP.

    Args:
        mixed: J, n x p.
        hessian: H, n x n, symmetric.
        rows: indices of the rows that are kept (None: all), sorted.

    Structured backends read ``mixed``, ``hessian`` and ``rows``; all others use the products or `lifted`.

    >>> from lift_core.operators import Dense, Diagonal
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

    def matmat(self, x: Tensor) -> Tensor:
        full = self.mixed.matmat(x[: self.num_hyper]) + self.hessian.matmat(x[self.num_hyper :])
        return full if self.rows is None else full[self.rows]

    def rmatmat(self, y: Tensor) -> Tensor:
        if self.rows is not None:
            y = y.new_zeros(self.hessian.shape[0], y.shape[1]).index_copy_(0, self.rows, y)
        parts = self.mixed.rmatmat(y), self.hessian.rmatmat(y)
        if columns_are_contiguous(y):
            return torch.cat([part.mT for part in parts], dim=1).mT
        return torch.cat(parts)

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
