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

from backends.chunks import elementwise, reduced
from backends.interior_point.system import NewtonSystem, set_units
from lift_core.lp import LinearProgram

PROXIMAL = 1e-13
"""Proximal term of the columns, in units: it makes free columns harmless, and vanishes at the solution."""
LARGEST_PROXIMAL_DUAL = 1e-6
MAX_REFINEMENTS = 3
REFINED, POOR = 1e-3, 1e-2
"""Relative residuals of Newton's equations, as shares of ``rtol``: what refinement aims at, and above which a more
accurate factorisation is asked for."""
FLOOR = 1e-11
TINY = torch.finfo(torch.float64).tiny


class Newton:
    """``Θ⁻¹ dw − Bᵀ dy = f,  B dw = g`` with a diagonal Θ⁻¹ ≥ 0, for which `factorize` is called first."""

    def __init__(self, lp: LinearProgram, system: NewtonSystem, *, rtol: float) -> None:
        self._system, self._num_columns = system, lp.num_columns
        units = set_units(system, lp)
        self.units: Float64[Tensor, " n+m"] = torch.cat([units.columns, units.rows])
        self.cost_unit = units.cost
        self.row_units: Float64[Tensor, " m"] = units.rows
        self._proximal = PROXIMAL * self.cost_unit / self.units.square()
        self._accurate = False
        self._refined, self._poor = (max(share * rtol, FLOOR) for share in (REFINED, POOR))

    def products(
        self, x: Float64[Tensor, " n"], y: Float64[Tensor, " m"]
    ) -> tuple[Float64[Tensor, " m"], Float64[Tensor, " n"]]:
        """``(A x, Aᵀ y)``."""
        return self._system.products(x, y)

    def factorize(self, inverse_theta: Float64[Tensor, " n+m"], movable: Float64[Tensor, " n+m"]) -> None:
        """Prepare `solve`; what is not ``movable``, a factor 0.0 or 1.0, keeps dw = 0.

        Raises:
            torch.linalg.LinAlgError: if even the regularised system is singular.
        """

        def theta(inverse: Tensor, proximal: Tensor, movable: Tensor) -> tuple[Tensor]:
            return (torch.add(inverse, proximal).clamp_(min=TINY).reciprocal_().mul_(movable),)

        self._inverse_theta, self._movable, self._accurate = inverse_theta, movable, False
        (self._theta,) = elementwise(theta, inverse_theta, self._proximal, movable)
        self._factorize_system()

    def solve(self, f: Float64[Tensor, " n+m"], g: Float64[Tensor, " m"]) -> tuple[Tensor, Tensor]:
        """``(dw, dy)``, refined on the equations without regularisation; f is zero where w cannot move."""
        size = self._size(f, g)
        dw, dy, residual = self._refine(f, g, size)
        if residual > self._poor * size and self._system.strengthen():
            self._factorize_system()
            dw, dy, _ = self._refine(f, g, size)
        return dw, dy

    def correction(self, f: Float64[Tensor, " n+m"]) -> tuple[Tensor, Tensor]:
        """`solve` for g = 0, unchecked if the last `solve` with this factorisation had nothing to refine.

        An error in a correction costs nothing but a part of its use: the next direction starts from true residuals.
        """
        g = torch.zeros_like(self.row_units)
        if self._accurate:
            return self._solve_once(f, g)
        found = self.solve(f, g)
        self._accurate = False  # what a correction says of the factorisation does not count
        return found

    def _factorize_system(self) -> None:
        n, proximal = self._num_columns, self._system.proximal
        while True:
            try:
                rows = self._theta[n:] + proximal * self.row_units.square() / self.cost_unit
                return self._system.factorize(self._theta[:n], rows)
            except torch.linalg.LinAlgError:
                proximal *= 1e4
                if proximal > LARGEST_PROXIMAL_DUAL:
                    raise

    def _refine(self, f: Tensor, g: Tensor, size: float) -> tuple[Tensor, Tensor, float]:
        dw, dy = self._solve_once(f, g)
        best = (dw, dy, math.inf)
        for attempt in range(MAX_REFINEMENTS + 1):
            left_f, left_g = self._left_over(f, g, dw, dy)
            residual = self._size(left_f, left_g)
            self._accurate = attempt == 0 and residual <= self._refined * size
            if not residual < best[2]:
                return best
            stalls, best = residual > best[2] / 2, (dw, dy, residual)
            if residual <= self._refined * size or stalls:
                return best
            more_w, more_y = self._solve_once(left_f, left_g)
            dw, dy = dw + more_w, dy + more_y
        return best

    def _left_over(self, f: Tensor, g: Tensor, dw: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        """``(f − Θ⁻¹ dw + Bᵀ dy, g − B dw)``."""

        def left_f(f: Tensor, inverse_theta: Tensor, dw: Tensor, pulled: Tensor, movable: Tensor) -> tuple[Tensor]:
            return (torch.addcmul(f, inverse_theta, dw, value=-1).add_(pulled).mul_(movable),)

        n = self._num_columns
        activity, pullback = self._system.products(dw[:n], dy)
        parts = [
            elementwise(left_f, f[part], self._inverse_theta[part], dw[part], pulled, self._movable[part])[0]
            for part, pulled in ((slice(n), pullback), (slice(n, None), -dy))
        ]
        return torch.cat(parts), g - activity + dw[n:]

    def _solve_once(self, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """The slacks are eliminated: ``ds = Θ_s (f_s − dy)``."""
        n = self._num_columns
        theta_rows, f_rows = self._theta[n:], f[n:]
        dx, dy = self._system.solve(f[:n], torch.addcmul(g, theta_rows, f_rows))
        return torch.cat([dx, (f_rows - dy).mul_(theta_rows)]), dy

    def _size(self, f: Tensor, g: Tensor) -> float:
        of_f = reduced(lambda f, units: (f * units).square_().sum(), f, self.units).sum().sqrt()
        of_g = reduced(lambda g, units: (g / units).square_().sum(), g, self.row_units).sum().sqrt()
        return float(of_f / self.cost_unit + of_g)
