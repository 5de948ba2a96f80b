"""Newton's equations of a proximal point, and the ways to solve them.

Their matrix is ``tau (A P A^T + Q) + I / sigma``, P and Q marking the columns and slacks inside their bounds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from backends.pdlp.batch import product, transposed_product
from lift_core.operators import Dense, LinearOperator, Sparse

MOST_ROWS, MOST_SPARSE_ROWS = 2_000, 2_500
"""Newton's matrix has a row for every row of A; with more it is not formed, as a dense or a sparse one."""
FEWEST_SPARSE_ROWS = 150
"""A smaller matrix is factorised as a dense one."""
FILL = 1e-4
"""Entries of a sparse factor, as a share of the cube of the rows, below which it takes less time than a dense one."""
MOST_COST = 1_000
"""What a Newton step with sparse factors may cost, in iterations."""


class Equations(ABC):
    """Products with A, and Newton's equations of the proximal points of programs that share it, one in each row.

    Attributes:
        A: the matrix of the programs.
        cost: of a Newton step, in iterations of the first-order method.
        fewest_steps: that an attempt may take, however early it comes.
        growth: factor by which proximal steps grow while they are easy, and shrink when they are not.
        hopeless: steps in a row, none of which halves what is left, after which a point is given up.
    """

    def __init__(self, A: LinearOperator, *, cost: float, fewest_steps: int, growth: float, hopeless: int) -> None:  # noqa: N803
        self.A, self.cost, self.fewest_steps, self.growth, self.hopeless = A, cost, fewest_steps, growth, hopeless

    def activity(self, x: Float64[Tensor, "b n"]) -> Float64[Tensor, "b m"]:
        """``A x`` of every row."""
        return product(self.A, x.mT).mT

    def pullback(self, y: Float64[Tensor, "b m"]) -> Float64[Tensor, "b n"]:
        """``Aᵀ y`` of every row."""
        return transposed_product(self.A, y.mT).mT

    @abstractmethod
    def solve(
        self,
        inside_x: Bool[Tensor, "b n"],
        inside_s: Bool[Tensor, "b m"],
        tau: Float64[Tensor, "b 1"],
        sigma: Float64[Tensor, "b 1"],
        right: Float64[Tensor, "b m"],
    ) -> tuple[Float64[Tensor, "b m"], Float64[Tensor, "b n"]]:
        """The solutions y of ``(tau (A P A^T + Q) + I / sigma) y = right``, and ``Aᵀ y``.

        Where rounding makes a matrix singular, y is not finite.
        """

    def keep(self, rows: list[int]) -> None:
        """Only these programs go on, none of them where others come: what is remembered of the rest is of no use."""
        del rows


class RowByRow(Equations):
    """Methods that know nothing better than one program after the other."""

    def solve(
        self, inside_x: Tensor, inside_s: Tensor, tau: Tensor, sigma: Tensor, right: Tensor
    ) -> tuple[Tensor, Tensor]:
        found = [self.solve_one(*row) for row in zip(inside_x, inside_s, tau[:, 0], sigma[:, 0], right, strict=True)]
        y = torch.stack([torch.full_like(right[0], torch.nan) if one is None else one for one in found])
        return y, self.pullback(y)

    @abstractmethod
    def solve_one(
        self, inside_x: Bool[Tensor, " n"], inside_s: Bool[Tensor, " m"], tau: Tensor, sigma: Tensor, right: Tensor
    ) -> Float64[Tensor, " m"] | None:
        """y of one program; None if rounding makes the matrix singular."""


class EntryEquations(RowByRow):
    """By one Cholesky factorisation of a dense matrix with a row for every row of A, and one step of refinement."""

    def __init__(self, matrix: Dense | Sparse) -> None:
        super().__init__(matrix, cost=10 + (matrix.shape[0] / 50) ** 2, fewest_steps=100, growth=4.0, hopeless=22)
        self._matrix = matrix

    def solve_one(self, inside_x: Tensor, inside_s: Tensor, tau: Tensor, sigma: Tensor, right: Tensor) -> Tensor | None:
        normal = tau * normal_matrix(self._matrix, inside_x)
        normal.diagonal().add_(tau * inside_s + 1 / sigma)
        factor, info = torch.linalg.cholesky_ex(normal)
        if int(info) != 0:
            return None
        found = torch.cholesky_solve(right[:, None], factor)
        return (found + torch.cholesky_solve(right[:, None] - normal @ found, factor))[:, 0]


class SparseEquations(RowByRow):
    """By one sparse factorisation (SuperLU, on the CPU), and one step of refinement."""

    def __init__(self, matrix: Sparse) -> None:
        self._columns = matrix.matrix.tocsc()
        everything = np.ones(matrix.shape[1], dtype=bool)
        self.fill: int = self._factorize(self._normal(everything, np.ones(matrix.shape[0]))).L.nnz
        super().__init__(matrix, cost=25 + self.fill / 250, fewest_steps=300, growth=4.0, hopeless=22)

    def solve_one(self, inside_x: Tensor, inside_s: Tensor, tau: Tensor, sigma: Tensor, right: Tensor) -> Tensor | None:
        diagonal = (inside_s + 1 / (tau * sigma)).cpu().numpy()
        normal = self._normal(inside_x.cpu().numpy(), diagonal)
        try:
            factors = self._factorize(normal)
        except RuntimeError:  # SuperLU's word for a singular matrix
            return None
        wanted = (right / tau).cpu().numpy()
        found = factors.solve(wanted)
        found += factors.solve(wanted - normal @ found)
        return torch.from_numpy(found).to(right)

    def _normal(self, inside: np.ndarray, diagonal: np.ndarray) -> sp.csc_matrix:
        kept = self._columns[:, np.flatnonzero(inside)]
        return sp.csc_matrix(kept @ kept.T + sp.diags_array(diagonal))

    @staticmethod
    def _factorize(normal: sp.csc_matrix) -> Any:
        """Positive definite, so that the order of the unknowns may serve sparsity alone."""
        options = {"SymmetricMode": True}
        return spla.splu(normal, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)


def equations_of_entries(matrix: Dense | Sparse) -> Equations | None:
    """The cheaper ones, for matrices with few enough rows."""
    rows = matrix.shape[0]
    if isinstance(matrix, Sparse) and FEWEST_SPARSE_ROWS <= rows <= MOST_SPARSE_ROWS:
        sparse = SparseEquations(matrix)
        if sparse.fill <= FILL * rows**3 and sparse.cost <= MOST_COST:
            return sparse
    return EntryEquations(matrix) if 0 < rows <= MOST_ROWS else None


def normal_matrix(matrix: Dense | Sparse, columns: Tensor) -> Float64[Tensor, "m m"]:
    """``A P A^T`` for the columns that a mask marks."""
    if isinstance(matrix, Dense):
        kept = matrix.matrix[:, columns]
        return kept @ kept.T
    kept = matrix.matrix[:, np.flatnonzero(columns.cpu().numpy())]
    return torch.from_numpy((kept @ kept.T).toarray()).to(columns.device)
