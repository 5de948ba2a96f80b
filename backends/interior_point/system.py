"""What the iteration asks of linear algebra: Newton systems with A, and the units in which A is well scaled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from lift_core.lp import LinearProgram
from lift_core.operators import LinearOperator

_SWEEPS = 10


class Units(NamedTuple):
    """``x_j`` is measured in ``columns[j]``, ``(Ax)_i`` in ``rows[i]`` and the objective in ``cost``.

    Newton's direction does not depend on units, so the iteration runs on the unscaled data. Only its starting point,
    its regularisation and the pivoting need them.
    """

    columns: Float64[Tensor, " n"]
    rows: Float64[Tensor, " m"]
    cost: float

    @property
    def theta(self) -> Float64[Tensor, " n"]:
        """The unit of Θ, which maps costs to columns."""
        return self.columns.square() / self.cost


class NewtonSystem(ABC):
    """``Θ⁻¹ dx − Aᵀ dy = f,  A dx + Θ_s dy = g``: factorised once per iteration, solved a few times.

    Θ ≥ 0 is a diagonal over the columns; a column with Θ_j = 0 does not move. Θ_s ≥ 0 is one over the rows.

    Attributes:
        units: set by `set_units`.
        proximal: what is added to Θ_s, in units: it makes redundant rows harmless, and vanishes at the solution.
    """

    proximal: ClassVar[float] = 1e-16

    def __init__(self, A: LinearOperator) -> None:  # noqa: N803
        self.units: Units
        self._A = A

    def products(
        self, x: Float64[Tensor, " n"], y: Float64[Tensor, " m"]
    ) -> tuple[Float64[Tensor, " m"], Float64[Tensor, " n"]]:
        """``(A x, Aᵀ y)``."""
        return self._A.matvec(x), self._A.rmatvec(y)

    @abstractmethod
    def measure(self, lp: LinearProgram) -> tuple[Float64[Tensor, " n"], Float64[Tensor, " m"]]:
        """Units of the columns and of the rows in which the entries of A are about one; zero for empty rows."""

    @abstractmethod
    def factorize(self, theta: Float64[Tensor, " n"], theta_rows: Float64[Tensor, " m"]) -> None:
        """Prepare `solve`.

        Raises:
            torch.linalg.LinAlgError: if the system is singular or not finite.
        """

    @abstractmethod
    def solve(
        self, f: Float64[Tensor, " n"], g: Float64[Tensor, " m"]
    ) -> tuple[Float64[Tensor, " n"], Float64[Tensor, " m"]]:
        """``(dx, dy)``."""

    def strengthen(self) -> bool:
        """Change to a slower and more accurate factorisation from now on; False if there is none."""
        return False


def set_units(system: NewtonSystem, lp: LinearProgram) -> Units:
    """Measure the units of a program once, and leave them with the system."""
    columns, rows = system.measure(lp)
    rows = torch.where(rows > 0, rows, 1.0)
    cost = float((lp.c * columns).abs().max()) if len(lp.c) else 0.0
    system.units = Units(columns, rows, cost if cost > 0 else 1.0)
    return system.units


def equilibrate(
    lp: LinearProgram, largest_entries: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
) -> tuple[Float64[Tensor, " n"], Float64[Tensor, " m"]]:
    """Ruiz's iteration: divide rows and columns by the square roots of their largest entries, a few times.

    No column's unit is longer than half its box.

    Args:
        lp: for shapes and device.
        largest_entries: maps factors of the rows and of the columns to the largest entries of the scaled matrix, by row
            and by column.

    Reference: Ruiz (2001), A scaling algorithm to equilibrate both rows and columns norms in matrices, RAL-TR-2001-034.
    """
    rows, columns = torch.ones_like(lp.row_lower), torch.ones_like(lp.c)
    for _ in range(_SWEEPS):
        by_row, by_column = largest_entries(1 / rows, columns)
        rows = rows * torch.where(by_row > 0, by_row.sqrt(), 1.0)
        columns = columns / torch.where(by_column > 0, by_column.sqrt(), 1.0)
    # a column with tiny entries alone would be measured in many of its boxes
    width = (lp.col_upper - lp.col_lower) / 2
    return torch.where((width > 0) & torch.isfinite(width), torch.minimum(columns, width), columns), rows


def factorize_lu(matrix: Float64[Tensor, "k k"]) -> tuple[Tensor, Tensor, Tensor]:
    """Row scale, LU factors and pivots.

    Raises:
        torch.linalg.LinAlgError: if the matrix is singular or not finite.
    """
    largest = matrix.abs().amax(1) if len(matrix) else matrix.new_zeros(0)
    scale = 1 / torch.where(largest > 0, largest, 1.0)
    factors, pivots, info = torch.linalg.lu_factor_ex(matrix * scale[:, None])
    if int(info) != 0 or not torch.isfinite(factors).all():
        raise torch.linalg.LinAlgError("singular Newton system")
    return scale, factors, pivots


def solve_lu(lu: tuple[Tensor, Tensor, Tensor], rhs: Float64[Tensor, " k"]) -> Float64[Tensor, " k"]:
    """Solve with what `factorize_lu` returned."""
    scale, factors, pivots = lu
    return torch.linalg.lu_solve(factors, pivots, (scale * rhs)[:, None])[:, 0]
