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

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from backends.chunks import GRAM_ROWS, ROWS, SMALL_FACTORS, chunks, elementwise
from backends.factors import factors
from backends.interior_point.system import NewtonSystem, factorize_lu, solve_lu
from lift_core.lp import LinearProgram
from lift_core.operators import Dense, DirectionMatrix, GroupColumns, LowRankPlusDiagonal, pull

LARGEST_CORE = 2_000
"""Up to this size the core grows where accuracy asks for it."""


def core_size(A: DirectionMatrix) -> int:  # noqa: N803
    """Unknowns of the core: 2k + p, and two for each of as many blocks."""
    rank = A.hessian.factor.shape[1] if isinstance(A.hessian, LowRankPlusDiagonal) else 0
    return 3 * (2 * rank + A.num_hyper)


class StructuredSystem(NewtonSystem):
    """Weights in blocks of two unknowns; (t, z, λ) and the most extreme blocks in a small dense core.

    V and J are read where they are, a chunk of rows at a time: unless they are small, no other array has more than n
    entries.
    """

    proximal = 1e-24  # D² may be that much smaller than the entries of V Vᵀ, which are the unit

    def __init__(self, A: DirectionMatrix) -> None:  # noqa: N803
        super().__init__(A)
        self.D, self.V, self.C = factors(A.hessian)
        self.num_hyper, self.rank = A.num_hyper, len(self.C)
        small = len(self.D) * (self.rank + self.num_hyper) <= SMALL_FACTORS
        sparse = isinstance(A.mixed, GroupColumns) and not small
        self.J = A.mixed if sparse or isinstance(A.mixed, Dense) else Dense(A.mixed.to_dense())
        self._both = torch.cat([self.V, self.J.to_dense()], dim=1) if small else None
        self._root = self.C.abs().sqrt()
        self._signed_root = self._root * torch.where(self.C < 0, -1.0, 1.0).to(self.C)
        self._rows = A.rows
        self._has_row = self._spread(self.D.new_ones(A.shape[0]), 0.0)
        self._num_extreme = min(len(self.D), 2 * self.rank + self.num_hyper)

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
        gram = sum(
            (pull(V, weights[part, None] * V) for part, V in self._blocks()), torch.zeros_like(torch.diag(self.C))
        )
        gram = self.C[:, None] * gram * self.C
        squares = torch.empty_like(self.D)
        for part, V in self._blocks():  # noqa: N806
            D = self.D[part]  # noqa: N806
            of_diagonal = D * weights[part] * (D + 2 * V.square() @ self.C)
            squares[part] = of_diagonal + ((V @ gram) * V).sum(1) + self.J.dense_rows(part).square() @ hyper
        return columns, self._select(squares.clamp_(min=0).sqrt_())

    def products(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """``(A x, Aᵀ y)`` in two passes over V."""
        p, y = self.num_hyper, self._spread(y, 0.0)
        hyper, d = x[:p], x[p:]
        inner, pulled = self._pull(lambda part: (d[part], y[part])), self.J.rmatvec(y)
        inner = self.C * inner
        activity, pullback = torch.empty_like(self.D), torch.cat([pulled, y])
        for part, V in self._blocks():  # noqa: N806
            outer, D = inner @ V.T, self.D[part]  # noqa: N806
            torch.addcmul(outer[0], D, d[part], out=activity[part])
            pullback[p:][part].mul_(D).add_(outer[1])
        return self._select(activity.add_(self.J.matvec(hyper))), pullback

    def factorize(self, theta: Tensor, theta_rows: Tensor) -> None:
        p, units = self.num_hyper, self.units
        self._theta, theta_rows = theta[p:], self._spread(theta_rows, 1.0)
        self._inverse = elementwise(invert_blocks, self.D, self._theta, theta_rows, self._has_row)
        self._extreme = self._most_extreme()
        for part in self._inverse:
            part.index_fill_(0, self._extreme, 0.0)
        # measured in the square root of its Θ, or in its unit where Θ is larger, a column has entries that stay bounded
        self._scale = torch.cat([theta.new_ones(self.rank), torch.minimum(theta[:p], units.theta[:p]).sqrt()])
        extreme = self._extreme
        self._scale_extreme = torch.minimum(self._theta[extreme], units.theta[p:][extreme]).sqrt()
        self._lu = factorize_lu(self._core(theta[:p], theta_rows[extreme]))

    def solve(self, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        p, extreme = self.num_hyper, self._extreme
        f, f_hyper, g = f[p:], f[:p], self._spread(g, 0.0)
        y = torch.empty_like(f)

        def blocks(part: slice) -> tuple[Tensor, Tensor]:
            d, y[part] = self._solve_blocks(part, f[part], g[part])
            return d, y[part]

        inner = self._pull(blocks)
        rhs = [
            -self._root * inner[0],
            -self._scale * torch.cat([self._signed_root * inner[1], self.J.rmatvec(y) + f_hyper]),
            -self._scale_extreme * f[extreme],
            (self._has_row * g)[extreme],
        ]
        t, z_and_hyper, d_extreme, y_extreme = solve_lu(self._lu, torch.cat(rhs)).split([len(part) for part in rhs])
        z, hyper = (self._scale * z_and_hyper).split([self.rank, p])
        inner = torch.stack([self._root * t, -self._signed_root * z])
        g = g - self.J.matvec(hyper)
        dx = torch.cat([hyper, f])
        for part, V in self._blocks():  # noqa: N806
            outer = inner @ V.T
            dx[p:][part], y[part] = self._solve_blocks(part, f[part] + outer[0], g[part] + outer[1])
        dx[p:].index_copy_(0, extreme, self._scale_extreme * d_extreme)
        return dx, self._select(y.index_copy_(0, extreme, y_extreme))

    def _blocks(self) -> Iterator[tuple[slice, Float64[Tensor, "rows k"]]]:
        return ((part, self.V[part]) for part in chunks(len(self.D), self.D.device, ROWS))

    def _pull(self, vectors: Callable[[slice], tuple[Tensor, Tensor]]) -> Float64[Tensor, "2 k"]:
        """``[d, y]ᵀ V`` of two vectors, given by chunks."""
        inner = self.V.new_zeros(2, self.rank)
        for part, V in self._blocks():  # noqa: N806
            inner += pull(V, torch.stack(vectors(part)).T).T
        return inner

    def _most_extreme(self) -> Int64[Tensor, " e"]:
        units, (first, _, second) = self.units, self._inverse

        def size(first: Tensor, second: Tensor, theta: Tensor, rows: Tensor) -> tuple[Tensor]:
            return (torch.maximum(first / theta, second * rows.square() / units.cost),)

        (by_unit,) = elementwise(size, first, second, units.theta[self.num_hyper :], self._spread(units.rows, 1.0))
        return by_unit.topk(self._num_extreme).indices

    def _solve_blocks(self, part: slice, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        first, mixed, second = (entries[part] for entries in self._inverse)
        return torch.addcmul(first * f, mixed, g), torch.addcmul(second * g, mixed, f, value=-1)

    def _core(self, theta_hyper: Tensor, theta_rows: Tensor) -> Float64[Tensor, "c c"]:
        """The symmetric core; its unknowns are (t, (z, λ), d of extreme blocks, y of extreme blocks)."""
        k, extreme = self.rank, self._extreme
        has_row, D = self._has_row[extreme], self.D[extreme]  # noqa: N806
        scale, scale_d = self._scale, self._scale_extreme
        a, b, c = k, len(scale) + k, len(scale) + k + len(extreme)
        core = D.new_zeros(c + len(extreme), c + len(extreme))
        root = self._root
        wide = torch.cat([self._signed_root, torch.ones_like(theta_hyper)]) * scale
        by_first, by_mixed, by_second = self._grams()
        core[:a, :a] = root[:, None] * by_first * root
        core[:a, a:b] = -root[:, None] * by_mixed * wide
        core[:a, a:b].diagonal().sub_(1.0)
        core[:a, b:c] = (self.V[extreme] * root * scale_d[:, None]).T
        core[a:b, a:b] = -wide[:, None] * by_second * wide
        core[a + k : b, a + k : b].diagonal().sub_(_over(scale[k:].square(), theta_hyper))
        core[a:b, c:] = (torch.cat([self.V[extreme], self.J.dense_rows(extreme)], dim=1) * wide * has_row[:, None]).T
        core[b:c, b:c] = -torch.diag(_over(scale_d.square(), self._theta[extreme]))
        core[b:c, c:] = torch.diag(scale_d * D * has_row)
        core[c:, c:] = torch.diag(theta_rows)
        return core.triu() + core.triu(1).T

    def _grams(self) -> tuple[Tensor, Tensor, Tensor]:
        """``Vᵀ diag(first) V``, ``Vᵀ diag(mixed) [V J]`` and ``[V J]ᵀ diag(second) [V J]``."""
        k, both = self.rank, self.rank + self.num_hyper
        together = self.V.new_zeros(both, both + 2 * k)
        for part in chunks(len(self.D), self.D.device, GRAM_ROWS):
            self._add_up(together, part, [entries[part] for entries in self._inverse])
        by_first, by_mixed, by_second = together.split([k, k, both], dim=1)
        return by_first[:k], by_mixed.T, by_second

    def _add_up(self, together: Float64[Tensor, "k+p 3k+p"], part: slice, weights: list[Tensor]) -> None:
        """Add some rows: one product ``[V J]ᵀ [first V  mixed V  second [V J]]``, whose factors stay in the cache."""
        V = self.V[part]  # noqa: N806
        VJ = torch.cat([V, self.J.dense_rows(part)], dim=1) if self._both is None else self._both[part]  # noqa: N806
        weighted = V.new_empty(len(V), together.shape[1])
        blocks = weighted.split([self.rank, self.rank, len(together)], dim=1)
        for block, entries, rows in zip(blocks, weights, (V, V, VJ), strict=True):
            torch.mul(rows, entries[:, None], out=block)
        together.addmm_(VJ.T, weighted)

    def _spread(self, vector: Tensor, fill: float) -> Float64[Tensor, " n"]:
        """From the kept rows to all rows."""
        if self._rows is None:
            return vector
        return vector.new_full((len(self.D),), fill).index_copy(0, self._rows, vector)

    def _select(self, vector: Tensor) -> Float64[Tensor, " m"]:
        """From all rows to the kept ones."""
        return vector if self._rows is None else vector[self._rows]


def invert_blocks(
    D: Tensor,  # noqa: N803
    theta: Tensor,
    theta_rows: Tensor,
    has_row: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Entries of the inverses of the blocks; Θ itself where a weight has no row; None: all have one."""
    E = D.square() * theta + theta_rows  # noqa: N806
    if has_row is None:
        second = E.reciprocal_()
        share = theta * second
        return theta_rows * share, D * share, second
    return torch.lerp(E, theta_rows, has_row) * theta / E, has_row * D * theta / E, has_row / E


def _over(numerator: Tensor, theta: Tensor) -> Tensor:
    """``numerator / theta``, and its limit 1 where both are 0: a column that does not move."""
    return torch.where(theta > 0, numerator / torch.where(theta > 0, theta, 1.0), 1.0)
