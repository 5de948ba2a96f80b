"""Newton systems of direction LPs with factored curvature, ``A = [J  H]``, ``H = D + V S Vᵀ``, in O(n (2k + p)²).

With ``z = Vᵀ d`` and ``t = S Vᵀ y`` the system falls apart into one 2 x 2 block per weight, coupled through (t, z, λ):

    d_i / θ_i − D_i y_i − V_i t           = f_i
    D_i d_i + θ_s,i y_i + V_i S z + J_i λ = g_i

A block is eliminated by multiplying with its inverse

    [ θ_s θ   D θ ]
    [ −D θ    1   ] / E,      E = D² θ + θ_s

in which nothing cancels. What remains is a symmetric system for (t, z, λ), the *core*. Close to a vertex of the LP a
few blocks have entries larger than all others by many orders: slack rows whose weight is inside its bounds (θ_s θ / E),
and binding rows whose weight is at a bound (1 / E). Summed into the core these would wash out all else, so the most
extreme blocks stay in the core as they are, and LU with pivoting deals with them.

At a vertex without degeneracy there are at most 2k + p of them. Once its row is slack, a weight inside its bounds is
determined by the k equations for z alone, so there are at most k of the first kind; and as many variables are basic as
there are rows, so there are as many of the second kind, and one more for each λ inside its bounds.
"""

from __future__ import annotations

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from backends.interior_point.system import NewtonSystem, factorize_lu, solve_lu
from lift_core.lp import LinearProgram
from lift_core.operators import Diagonal, DirectionMatrix, LinearOperator, LowRankPlusDiagonal

LARGEST_CORE = 2_000
"""Up to this size the core grows where accuracy asks for it."""


def core_size(A: DirectionMatrix) -> int:  # noqa: N803
    """Unknowns of the core: 2k + p, and two for each of as many blocks."""
    rank = A.hessian.factor.shape[1] if isinstance(A.hessian, LowRankPlusDiagonal) else 0
    return 3 * (2 * rank + A.num_hyper)


class StructuredSystem(NewtonSystem):
    """Weights in blocks of two unknowns; (t, z, λ) and the most extreme blocks in a small dense core."""

    proximal = 1e-24  # D² may be that much smaller than the entries of V Vᵀ, which are the unit

    def __init__(self, A: DirectionMatrix) -> None:  # noqa: N803
        super().__init__()
        diagonal, factor, core = _factors(A.hessian)
        self.num_hyper, self.rank = A.num_hyper, len(core)
        self.D: Float64[Tensor, " n"] = diagonal
        self.V: Float64[Tensor, "n k"] = factor * core.abs().sqrt()
        signed = self.V * torch.where(core < 0, -1.0, 1.0).to(core)
        self.SVJ: Float64[Tensor, "n k+p"] = torch.cat([signed, A.mixed.to_dense()], dim=1)
        self._rows = A.rows
        self._has_row = self._spread(self.D.new_ones(A.shape[0]), 0.0)
        self._num_extreme = min(len(self.D), 2 * self.rank + self.num_hyper)

    @staticmethod
    def fits(A: DirectionMatrix) -> bool:  # noqa: N803
        """Whether the Hessian is given by factors."""
        return isinstance(A.hessian, (LowRankPlusDiagonal, Diagonal))

    def strengthen(self) -> bool:
        """Four times as many blocks in the core."""
        more = min(4 * self._num_extreme, len(self.D), LARGEST_CORE // 2 - 2 * self.rank - self.num_hyper)
        grows, self._num_extreme = more > self._num_extreme, max(more, self._num_extreme)
        return grows

    def measure(self, lp: LinearProgram) -> tuple[Tensor, Tensor]:
        """The radii of the box, and the 2-norms of the rows in these units."""
        radii = (lp.col_upper - lp.col_lower) / 2
        columns = torch.where(torch.isfinite(radii) & (radii > 0), radii, 1.0)
        hyper, weights = columns[: self.num_hyper].square(), columns[self.num_hyper :].square()
        SV, J = self.SVJ[:, : self.rank], self.SVJ[:, self.rank :]  # noqa: N806
        gram = self.V.T @ (weights[:, None] * self.V)
        of_diagonal = self.D * weights * (self.D + 2 * (SV * self.V).sum(1))
        squares = of_diagonal + ((SV @ gram) * SV).sum(1) + J.square() @ hyper
        return columns, self._select(squares.clamp(min=0).sqrt())

    def factorize(self, theta: Tensor, theta_rows: Tensor) -> None:
        p, units = self.num_hyper, self.units
        self._theta, theta_rows = theta[p:], self._spread(theta_rows, 1.0)
        E = self.D.square() * self._theta + theta_rows  # noqa: N806
        first = torch.where(self._has_row > 0, theta_rows * self._theta / E, self._theta)
        mixed, second = self._has_row * self.D * self._theta / E, self._has_row / E
        self._extreme = self._most_extreme(first, second)
        self._inverse = tuple(part.index_fill(0, self._extreme, 0.0) for part in (first, mixed, second))
        # measured in the square root of its Θ, or in its unit where Θ is larger, a column has entries that stay bounded
        self._scale = torch.cat([theta.new_ones(self.rank), torch.minimum(theta[:p], units.theta[:p]).sqrt()])
        self._scale_extreme = torch.minimum(self._theta, units.theta[p:])[self._extreme].sqrt()
        self._lu = factorize_lu(self._core(theta[:p], theta_rows[self._extreme]))

    def solve(self, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        p, k, extreme = self.num_hyper, self.rank, self._extreme
        f, f_hyper, g = f[p:], f[:p], self._spread(g, 0.0)
        d, y = self._solve_blocks(f, g)
        rhs = [
            -(self.V.T @ d),
            -self._scale * (self.SVJ.T @ y + torch.cat([f.new_zeros(k), f_hyper])),
            -self._scale_extreme * f[extreme],
            (self._has_row * g)[extreme],
        ]
        t, z_and_hyper, d_extreme, y_extreme = solve_lu(self._lu, torch.cat(rhs)).split([len(part) for part in rhs])
        z_and_hyper = self._scale * z_and_hyper
        d, y = self._solve_blocks(f + self.V @ t, g - self.SVJ @ z_and_hyper)
        d = d.index_copy(0, extreme, self._scale_extreme * d_extreme)
        return torch.cat([z_and_hyper[k:], d]), self._select(y.index_copy(0, extreme, y_extreme))

    def _most_extreme(self, first: Tensor, second: Tensor) -> Int64[Tensor, " e"]:
        units = self.units
        by_unit = torch.maximum(
            first / units.theta[self.num_hyper :], second * self._spread(units.rows, 1.0).square() / units.cost
        )
        return by_unit.topk(self._num_extreme).indices

    def _solve_blocks(self, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        first, mixed, second = self._inverse
        return first * f + mixed * g, second * g - mixed * f

    def _core(self, theta_hyper: Tensor, theta_rows: Tensor) -> Float64[Tensor, "c c"]:
        """The symmetric core; its unknowns are (t, (z, λ), d of extreme blocks, y of extreme blocks)."""
        k, extreme, (first, mixed, second) = self.rank, self._extreme, self._inverse
        has_row, D, V, SVJ = self._has_row[extreme], self.D[extreme], self.V, self.SVJ  # noqa: N806
        scale, scale_d = self._scale, self._scale_extreme
        a, b, c = k, len(scale) + k, len(scale) + k + len(extreme)
        core = V.new_zeros(c + len(extreme), c + len(extreme))
        core[:a, :a] = V.T @ (first[:, None] * V)
        core[:a, a:b] = -(V.T @ (mixed[:, None] * SVJ)) * scale
        core[:a, a:b].diagonal().sub_(1.0)
        core[:a, b:c] = (V[extreme] * scale_d[:, None]).T
        core[a:b, a:b] = -(SVJ.T @ (second[:, None] * SVJ)) * scale * scale[:, None]
        core[a + k : b, a + k : b].diagonal().sub_(_over(scale[k:].square(), theta_hyper))
        core[a:b, c:] = (SVJ[extreme] * scale * has_row[:, None]).T
        core[b:c, b:c] = -torch.diag(_over(scale_d.square(), self._theta[extreme]))
        core[b:c, c:] = torch.diag(scale_d * D * has_row)
        core[c:, c:] = torch.diag(theta_rows)
        return core.triu() + core.triu(1).T

    def _spread(self, vector: Tensor, fill: float) -> Float64[Tensor, " n"]:
        """From the kept rows to all rows."""
        if self._rows is None:
            return vector
        return vector.new_full((len(self.D),), fill).index_copy(0, self._rows, vector)

    def _select(self, vector: Tensor) -> Float64[Tensor, " m"]:
        """From all rows to the kept ones."""
        return vector if self._rows is None else vector[self._rows]


def _factors(hessian: LinearOperator) -> tuple[Tensor, Tensor, Tensor]:
    """``(d, V, c)`` of ``diag(d) + V diag(c) Vᵀ``."""
    if isinstance(hessian, LowRankPlusDiagonal):
        return hessian.diagonal, hessian.factor, hessian.core
    if isinstance(hessian, Diagonal):
        return hessian.diagonal, hessian.diagonal.new_zeros(hessian.shape[0], 0), hessian.diagonal.new_zeros(0)
    raise ValueError(f"A: expected a Hessian given by factors, got {hessian!r}")


def _over(numerator: Tensor, theta: Tensor) -> Tensor:
    """``numerator / theta``, and its limit 1 where both are 0: a column that does not move."""
    return torch.where(theta > 0, numerator / torch.where(theta > 0, theta, 1.0), 1.0)
