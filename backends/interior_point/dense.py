"""Newton systems with a matrix of modest size: one Cholesky factorisation of the normal matrix ``A Θ Aᵀ + Θ_s``."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from backends.chunks import TRIANGLE_ROWS, chunks
from backends.interior_point.system import NewtonSystem, equilibrate, factorize_lu, solve_lu
from lift_core.lp import LinearProgram
from lift_core.operators import LinearOperator, Sparse

JITTER = 1e-14
"""Relative to the diagonal; redundant equalities make the normal matrix singular."""
LARGEST_JITTER = 1e-6
BASIC, MOST_BASIC = 1e-3, 2_000
"""Columns whose Θ exceeds this many units stay unknowns of the accurate factorisation; how many of them at most, or as
many as there are rows. Long before the end most columns are large, and nearly dependent rows need them all."""
PIVOTED_MATRICES = 7
"""As large as the accurate system, which are held while it is factorised."""


class DenseSystem(NewtonSystem):
    """The columns are eliminated first; the normal matrix is formed, scaled to unit diagonal and factorised.

    That squares the condition number of A. After `strengthen`, columns with a large Θ (those that a simplex basis would
    hold) are not eliminated, and LU with pivoting factorises

        [ −Θ_B⁻¹   A_Bᵀ              ]
        [  A_B     A_N Θ_N A_Nᵀ + Θ_s ]
    """

    def __init__(self, A: LinearOperator, *, spare_bytes: float = math.inf) -> None:  # noqa: N803
        super().__init__(A)
        self.matrix: Float64[Tensor, "m n"] = A.to_dense()
        m, n = A.shape
        largest = math.sqrt(spare_bytes / (8 * PIVOTED_MATRICES)) - m  # so that the system fits
        self._most_basic = int(min(max(m, MOST_BASIC), n, largest))
        self._sparse = A.matrix if isinstance(A, Sparse) else None
        self._pivoted = False

    def measure(self, lp: LinearProgram) -> tuple[Tensor, Tensor]:
        sizes = self.matrix.abs()
        scaled = torch.empty_like(sizes)

        def largest_entries(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
            m, n = sizes.shape
            by_row = torch.mul(sizes, columns, out=scaled).amax(1) * rows if n else torch.zeros_like(rows)
            by_column = (
                torch.mul(sizes, rows[:, None], out=scaled).amax(0) * columns if m else torch.zeros_like(columns)
            )
            return by_row, by_column

        return equilibrate(lp, largest_entries)

    def strengthen(self) -> bool:
        changes = not self._pivoted and self._most_basic > 0
        self._pivoted = self._pivoted or changes
        return changes

    def factorize(self, theta: Tensor, theta_rows: Tensor) -> None:
        self._basic = self._large(theta / self.units.theta) if self._pivoted else torch.zeros(0).to(theta).long()
        self._theta_basic = theta[self._basic]
        self._theta = theta.index_fill(0, self._basic, 0.0)
        normal = self._normal_matrix(self._theta, theta_rows)
        jitter = JITTER
        while not (self._factorize_pivoted(normal, jitter) if self._pivoted else self._factorize(normal, jitter)):
            jitter *= 100
            if jitter > LARGEST_JITTER or not torch.isfinite(normal).all():
                raise torch.linalg.LinAlgError("the normal matrix is singular or not finite")

    def _large(self, ratio: Tensor) -> Int64[Tensor, " b"]:
        large = (ratio > BASIC).nonzero().flatten()
        most = self._most_basic
        return large if len(large) <= most else large[ratio[large].topk(most).indices]

    def solve(self, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        g = g - self.matrix @ (self._theta * f)
        if not self._pivoted:
            y = self._scale * torch.cholesky_solve((self._scale * g)[:, None], self._factor)[:, 0]
            return self._theta * (f + self.matrix.T @ y), y
        both = self._scale * solve_lu(self._lu, self._scale * torch.cat([-f[self._basic], g]))
        x_basic, y = both[: len(self._basic)], both[len(self._basic) :]
        return (self._theta * (f + self.matrix.T @ y)).index_copy(0, self._basic, x_basic), y

    def _normal_matrix(self, theta: Tensor, theta_rows: Tensor) -> Float64[Tensor, "m m"]:
        """Its lower triangle; what stands above the diagonal is not to be read."""
        if self._sparse is None:
            normal = lower_triangle(self.matrix * theta, self.matrix)
        else:
            scaled = self._sparse.multiply(theta.cpu().numpy()[None, :]).tocsr()
            normal = torch.from_numpy((scaled @ self._sparse.T).toarray()).to(theta.device)
        normal.diagonal().add_(theta_rows)
        return normal

    def _factorize(self, normal: Tensor, jitter: float) -> bool:
        diagonal = normal.diagonal()
        self._scale = torch.where(diagonal > 0, diagonal, 1.0).rsqrt()
        scaled = (normal * self._scale).mul_(self._scale[:, None])
        scaled.diagonal().fill_(1 + jitter)
        self._factor, info = torch.linalg.cholesky_ex(scaled)
        return int(info) == 0 and bool(torch.isfinite(self._factor.diagonal()).all())

    def _factorize_pivoted(self, normal: Tensor, jitter: float) -> bool:
        units, b = self.units, len(self._basic)
        unit_y = units.cost**0.5 / units.rows
        self._scale = torch.cat([units.theta[self._basic].sqrt(), unit_y])
        columns, normal = self.matrix[:, self._basic], normal.tril() + normal.tril(-1).T
        both = torch.cat(
            [
                torch.cat([torch.diag(-1 / self._theta_basic), columns.T], dim=1),
                torch.cat([columns, normal], dim=1),
            ]
        )
        both = both * self._scale * self._scale[:, None]
        if jitter > JITTER:  # LU needs none unless a pivot is zero
            both.diagonal()[b:].add_(jitter)
        try:
            self._lu = factorize_lu(both)
        except torch.linalg.LinAlgError:
            return False
        return True


def lower_triangle(left: Float64[Tensor, "m n"], right: Float64[Tensor, "m n"]) -> Float64[Tensor, "m m"]:
    """The lower triangle of the symmetric ``left @ rightᵀ`` in a little more than half the operations.

    >>> one = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> lower_triangle(one, one).tril().tolist()
    [[5.0, 0.0], [11.0, 25.0]]
    """
    product = left.new_zeros(len(left), len(right))
    for part in chunks(len(left), left.device, TRIANGLE_ROWS):
        torch.mm(left[part], right[: part.stop].T, out=product[part, : part.stop])
    return product
