"""Scaling of a program before a first-order method: ``A~ = R A C`` with positive diagonal R and C, b and c of size one.

Where entries can be read: ten sweeps of Ruiz (largest entries of rows and columns), then one of Pock-Chambolle.
Where only products exist: stochastic equilibration, which estimates 2-norms of rows and columns from random signs.

Reference: Ruiz (2001), RAL-TR-2001-034; Pock & Chambolle (2011), ICCV; Diamond & Boyd (2017), arXiv 1602.06621.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float64
from torch import Tensor

from backends.pdlp.batch import Batch
from lift_core.operators import (
    DENSE_LIMIT,
    Dense,
    Diagonal,
    DirectionMatrix,
    GroupColumns,
    LinearOperator,
    Sparse,
)

RUIZ_SWEEPS = 10
PROBE_SWEEPS, PROBES = 5, 16
_SEED = 20507


class ScaledBatch(NamedTuple):
    """``x = C x~ / bound_scale``, ``y = R y~ / cost_scale``.

    Attributes:
        batch: the scaled programs.
        row_scale, col_scale: diagonals of R (m, 1) and C (n, 1), which depend on A alone.
        bound_scale, cost_scale: factors that bring bounds and costs of each program to size one.
    """

    batch: Batch
    row_scale: Float64[Tensor, "m 1"]
    col_scale: Float64[Tensor, "n 1"]
    bound_scale: Float64[Tensor, " b"]
    cost_scale: Float64[Tensor, " b"]

    def primal(self, scaled: Float64[Tensor, "n b"]) -> Float64[Tensor, "n b"]:
        """x from x~."""
        return scaled * self.col_scale / self.bound_scale

    def dual(self, scaled: Float64[Tensor, "m b"]) -> Float64[Tensor, "m b"]:
        """y from y~."""
        return scaled * self.row_scale / self.cost_scale

    def activity(self, scaled: Float64[Tensor, "m b"]) -> Float64[Tensor, "m b"]:
        """``A x`` from ``A~ x~``."""
        return scaled / (self.row_scale * self.bound_scale)

    def pullback(self, scaled: Float64[Tensor, "n b"]) -> Float64[Tensor, "n b"]:
        """``A^T y`` from ``A~^T y~``."""
        return scaled / (self.col_scale * self.cost_scale)

    def scale_primal(self, x: Float64[Tensor, "n b"]) -> Float64[Tensor, "n b"]:
        """x~ from x."""
        return x * self.bound_scale / self.col_scale

    def scale_dual(self, y: Float64[Tensor, "m b"]) -> Float64[Tensor, "m b"]:
        """y~ from y."""
        return y * self.cost_scale / self.row_scale

    def keep(self, columns: list[int]) -> ScaledBatch:
        """The programs with these indices."""
        scales = self.bound_scale[columns], self.cost_scale[columns]
        return ScaledBatch(self.batch.keep(columns), self.row_scale, self.col_scale, *scales)


def scale(batch: Batch) -> ScaledBatch:
    """The scaled programs: by entries where they can be read, by probing otherwise."""
    readable = read_entries(batch.A)
    rows, columns = equilibrate(batch.A) if readable is None else ruiz_pock_chambolle(readable)
    operator = _scaled_operator(batch.A if readable is None else readable, rows, columns)
    rows, columns = rows[:, None], columns[:, None]
    bounds = (batch.row_lower * rows, batch.row_upper * rows)
    bound_scale = 1 / (1 + _sizes(*bounds).norm(dim=0))
    cost_scale = 1 / (1 + (batch.c * columns).norm(dim=0))
    scaled = Batch(
        c=batch.c * columns * cost_scale,
        A=operator,
        row_lower=bounds[0] * bound_scale,
        row_upper=bounds[1] * bound_scale,
        col_lower=batch.col_lower / columns * bound_scale,
        col_upper=batch.col_upper / columns * bound_scale,
        offset=torch.zeros_like(batch.offset),
    )
    return ScaledBatch(scaled, rows, columns, bound_scale, cost_scale)


def _sizes(lower: Tensor, upper: Tensor) -> Tensor:
    """Magnitude of the bound of each row that is nearer to 0, of the other one where that is 0, and 0 without any."""
    finite = [torch.where(torch.isfinite(bound), bound.abs(), 0.0) for bound in (lower, upper)]
    smaller, larger = torch.minimum(*finite), torch.maximum(*finite)
    return torch.where(smaller > 0, smaller, larger)


def read_entries(operator: LinearOperator) -> Dense | Sparse | None:
    """The operator over stored entries, or None where only its products are at hand."""
    if isinstance(operator, (Dense, Sparse)):
        return operator
    if isinstance(operator, DirectionMatrix) and operator.shape[0] * operator.shape[1] <= DENSE_LIMIT:
        kinds = type(operator.mixed), type(operator.hessian)
        if kinds[0] in (GroupColumns, Sparse) and kinds[1] in (Diagonal, Sparse):
            return Sparse(operator.lifted().matrix, operator.device)
        if kinds[0] in (Dense, GroupColumns) and kinds[1] in (Dense, Diagonal):
            return Dense(operator.to_dense())
    return None


def ruiz_pock_chambolle(operator: Dense | Sparse) -> tuple[Float64[Tensor, " m"], Float64[Tensor, " n"]]:
    """Diagonals (R, C) after `RUIZ_SWEEPS` sweeps of Ruiz and one of Pock-Chambolle with alpha = 1."""
    entries = _Entries(operator)
    m, n = operator.shape
    rows = torch.ones(m, dtype=torch.float64, device=operator.device)
    columns = torch.ones(n, dtype=torch.float64, device=operator.device)
    for sweep in range(RUIZ_SWEEPS + 1):
        by_row, by_column = entries.sizes(rows, columns, largest=sweep < RUIZ_SWEEPS)
        rows, columns = rows / _root(by_row), columns / _root(by_column)
    return rows, columns


def equilibrate(operator: LinearOperator) -> tuple[Float64[Tensor, " m"], Float64[Tensor, " n"]]:
    """Diagonals (R, C) from products alone: `PROBE_SWEEPS` sweeps with `PROBES` random sign vectors on either side.

    For random signs w, ``E (R A C w)_i^2`` is the squared 2-norm of row i of ``R A C``; both sides are updated at once
    by the square root of the estimated norm, which keeps a symmetric matrix symmetric up to sampling.
    """
    m, n = operator.shape
    generator = torch.Generator().manual_seed(_SEED)
    rows = torch.ones(m, dtype=torch.float64, device=operator.device)
    columns = torch.ones(n, dtype=torch.float64, device=operator.device)
    for _ in range(PROBE_SWEEPS):
        right = _signs(n, generator).to(operator.device)
        left = _signs(m, generator).to(operator.device)
        forward = rows[:, None] * operator.matmat(columns[:, None] * right)
        backward = torch.stack([columns * operator.rmatvec(rows * probe) for probe in left.T], dim=1)
        rows = rows / _root(forward.square().mean(1).sqrt())
        columns = columns / _root(backward.square().mean(1).sqrt())
    return rows, columns


def spectral_norm(operator: LinearOperator, *, width: int = 1, iterations: int = 300, rtol: float = 1e-5) -> float:
    """``||A||_2`` from below by the power method on ``A^T A``, stopped when an iteration gains less than ``rtol``.

    ``width`` vectors at once, kept orthonormal: a single one that happens to be nearly orthogonal to the leading
    singular vector stops at the next one.
    """
    generator = torch.Generator().manual_seed(_SEED)
    shape = operator.shape[1], min(width, operator.shape[1])
    block = torch.randn(shape, dtype=torch.float64, generator=generator).to(operator.device)
    norm = 0.0
    for _ in range(iterations):
        image = operator.matmat(torch.linalg.qr(block)[0])
        previous, norm = norm, float(torch.linalg.matrix_norm(image, 2)) if image.numel() else 0.0
        if norm - previous <= rtol * norm:
            return max(norm, previous)
        block = operator.rmatmat(image)
    return norm


class _Entries:
    """Absolute entries of a stored matrix: a dense tensor, or values with their rows and columns."""

    def __init__(self, operator: Dense | Sparse) -> None:
        self.shape, self.dense = operator.shape, isinstance(operator, Dense)
        if isinstance(operator, Dense):
            self.values = operator.matrix.abs()
        else:
            coo = operator.matrix.tocoo()
            self.values = torch.from_numpy(np.abs(coo.data)).to(operator.device)
            self.row, self.column = (
                torch.from_numpy(index.astype(np.int64)).to(operator.device) for index in (coo.row, coo.col)
            )

    def sizes(self, rows: Tensor, columns: Tensor, *, largest: bool) -> tuple[Tensor, Tensor]:
        """Largest entries, or else 1-norms, of the rows and of the columns of ``R |A| C``."""
        if 0 in self.shape:
            return torch.zeros_like(rows), torch.zeros_like(columns)
        if self.dense:
            scaled = rows[:, None] * self.values * columns
            return (scaled.amax(1), scaled.amax(0)) if largest else (scaled.sum(1), scaled.sum(0))
        scaled = rows[self.row] * self.values * columns[self.column]
        reduce = "amax" if largest else "sum"
        return (
            torch.zeros_like(rows).scatter_reduce_(0, self.row, scaled, reduce),
            torch.zeros_like(columns).scatter_reduce_(0, self.column, scaled, reduce),
        )


class _Scaled(LinearOperator):
    """``R A C`` by products."""

    def __init__(self, operator: LinearOperator, rows: Tensor, columns: Tensor) -> None:
        self.operator, self.rows, self.columns = operator, rows, columns
        self.shape, self.device = operator.shape, operator.device

    def matvec(self, x: Tensor) -> Tensor:
        return self.rows * self.operator.matvec(self.columns * x)

    def rmatvec(self, y: Tensor) -> Tensor:
        return self.columns * self.operator.rmatvec(self.rows * y)

    def matmat(self, x: Tensor) -> Tensor:
        return self.rows[:, None] * self.operator.matmat(self.columns[:, None] * x)

    def rmatmat(self, y: Tensor) -> Tensor:
        return self.columns[:, None] * self.operator.rmatmat(self.rows[:, None] * y)


def _scaled_operator(operator: LinearOperator, rows: Tensor, columns: Tensor) -> LinearOperator:
    if isinstance(operator, Dense):
        return Dense(rows[:, None] * operator.matrix * columns)
    if isinstance(operator, Sparse):
        scaled = sp.diags(rows.cpu().numpy()) @ operator.matrix @ sp.diags(columns.cpu().numpy())
        return Sparse(scaled, operator.device)
    return _Scaled(operator, rows, columns)


def _root(sizes: Tensor) -> Tensor:
    """Square root of each size, one where the row or column is empty."""
    return torch.where(sizes > 0, sizes, 1.0).sqrt()


def _signs(size: int, generator: torch.Generator) -> Float64[Tensor, "size probes"]:
    return torch.randint(0, 2, (size, PROBES), generator=generator).to(torch.float64) * 2 - 1
