"""Newton's equations over columns and row slacks together, solved with regularisation and refined without it.

With ``w = (x, s)``, ``B = [A  −I]`` and ``c̃ = (c, 0)`` the program reads

    min c̃ᵀw   s.t.   B w = 0,   lower ≤ w ≤ upper;

y are the multipliers of its rows, so that ``c̃ − Bᵀy = (c − Aᵀy, y)``: reduced costs of x, and duals of the rows of A.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from backends.interior_point.system import NewtonSystem, set_units
from lift_core.lp import LinearProgram

PROXIMAL = 1e-13
"""Proximal term of the columns, in units: it makes free columns harmless, and vanishes at the solution."""
LARGEST_PROXIMAL_DUAL = 1e-6
MAX_REFINEMENTS = 3
REFINED = 1e-11
POOR = 1e-10
"""Relative residual of Newton's equations above which a more accurate factorisation is asked for."""


class Newton:
    """``Θ⁻¹ dw − Bᵀ dy = f,  B dw = g`` with a diagonal Θ⁻¹ ≥ 0, for which `factorize` is called first."""

    def __init__(self, lp: LinearProgram, system: NewtonSystem) -> None:
        self._A, self._system, self._num_columns = lp.A, system, lp.num_columns
        units = set_units(system, lp)
        self.units: Float64[Tensor, " n+m"] = torch.cat([units.columns, units.rows])
        self.cost_unit = units.cost
        self._row_units = units.rows

    def product(self, w: Float64[Tensor, " n+m"]) -> Float64[Tensor, " m"]:
        """``B w = A x − s``."""
        return self._A.matvec(w[: self._num_columns]) - w[self._num_columns :]

    def transposed_product(self, y: Float64[Tensor, " m"]) -> Float64[Tensor, " n+m"]:
        """``Bᵀ y = (Aᵀ y, −y)``."""
        return torch.cat([self._A.rmatvec(y), -y])

    def factorize(self, inverse_theta: Float64[Tensor, " n+m"], movable: Tensor) -> None:
        """Prepare `solve`; what is not ``movable`` keeps dw = 0.

        Raises:
            torch.linalg.LinAlgError: if even the regularised system is singular.
        """
        self._inverse_theta, self._movable = inverse_theta, movable
        proximal = PROXIMAL * self.cost_unit / self.units.square()
        self._theta = torch.where(movable, 1 / (inverse_theta + proximal), 0.0)
        self._factorize_system()

    def solve(self, f: Float64[Tensor, " n+m"], g: Float64[Tensor, " m"]) -> tuple[Tensor, Tensor]:
        """``(dw, dy)``, refined on the equations without regularisation."""
        dw, dy, residual = self._refine(f, g)
        if residual > POOR * self._size(f, g) and self._system.strengthen():
            self._factorize_system()
            dw, dy, _ = self._refine(f, g)
        return dw, dy

    def _factorize_system(self) -> None:
        n, proximal = self._num_columns, self._system.proximal
        while True:
            try:
                rows = self._theta[n:] + proximal * self._row_units.square() / self.cost_unit
                return self._system.factorize(self._theta[:n], rows)
            except torch.linalg.LinAlgError:
                proximal *= 1e4
                if proximal > LARGEST_PROXIMAL_DUAL:
                    raise

    def _refine(self, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor, float]:
        goal = REFINED * self._size(f, g)
        dw, dy = self._solve_once(f, g)
        best = (dw, dy, math.inf)
        for _ in range(MAX_REFINEMENTS + 1):
            left_f = torch.where(self._movable, f - self._inverse_theta * dw + self.transposed_product(dy), 0.0)
            left_g = g - self.product(dw)
            residual = self._size(left_f, left_g)
            if not residual < best[2]:
                return best
            stalls, best = residual > best[2] / 2, (dw, dy, residual)
            if residual <= goal or stalls:
                return best
            more_w, more_y = self._solve_once(left_f, left_g)
            dw, dy = dw + more_w, dy + more_y
        return best

    def _solve_once(self, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """The slacks are eliminated: ``ds = Θ_s (f_s − dy)``."""
        n = self._num_columns
        theta_rows, f_rows = self._theta[n:], f[n:]
        dx, dy = self._system.solve(f[:n], g + theta_rows * f_rows)
        return torch.cat([dx, theta_rows * (f_rows - dy)]), dy

    def _size(self, f: Tensor, g: Tensor) -> float:
        of_f = torch.where(self._movable, f * self.units, 0.0).norm()
        return float(of_f / self.cost_unit + (g / self._row_units).norm())
