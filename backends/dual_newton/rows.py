"""What the method reads from ``A = [J  D + V C Vᵀ]``: products, and the Gram matrix of a few rows."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from backends.chunks import ROWS, chunks
from backends.factors import factors
from lift_core.operators import DirectionMatrix, pull


class FactoredRows:
    """A Gram matrix takes ``Vᵀ R² V`` over the columns that move, and algebra with k x k matrices.

    From one step to the next few columns start or cease to move, and only those are added or taken off. What rounding
    errors that leaves is far below `iteration.LEAST_DAMPING`, a share of the whole sum, which is where it began.

    Args:
        radius: half the widths of the columns' boxes, R.
    """

    def __init__(self, A: DirectionMatrix, radius: Float64[Tensor, " n"]) -> None:  # noqa: N803
        self._D, self._V, self._C = factors(A.hessian)
        self._J, self._p, self._rows = A.mixed, A.num_hyper, A.rows
        self.rank = len(self._C) + self._p
        self._hyper, self._weights = radius[: self._p].square(), radius[self._p :].square()
        self._moving = torch.ones_like(self._D, dtype=torch.bool)
        self._whole = self._inner(self._moving)
        self._sum, self._changes = self._whole, 0

    def activity(self, x: Float64[Tensor, " n"]) -> Float64[Tensor, " m"]:
        """``A x``."""
        weights = x[self._p :]
        inner, full = self._C * pull(self._V, weights[:, None])[:, 0], self._J.matvec(x[: self._p])
        for part in chunks(len(self._D), self._D.device, ROWS):
            full[part].addcmul_(self._D[part], weights[part]).addmv_(self._V[part], inner)
        return full if self._rows is None else full[self._rows]

    def pull(self, rows: Int64[Tensor, " r"], y: Float64[Tensor, " r"]) -> Float64[Tensor, " n"]:
        """``A_Rᵀ y``."""
        at = self._of(rows)
        inner = self._C * (self._V[at].T @ y)
        pulled = torch.mv(self._V, inner).index_add_(0, at, self._D[at] * y)
        return torch.cat([self._J.dense_rows(at).T @ y, pulled])

    def squares(self, rows: Int64[Tensor, " r"]) -> Float64[Tensor, " r"]:
        """``Σ_j (A_ij radius_j)²`` of some rows."""
        at = self._of(rows)
        return self._assemble(at, self._whole, self._weights[at], self._hyper).diagonal().clamp(min=0)

    def gram(self, rows: Int64[Tensor, " r"], window: Bool[Tensor, " n"], omega: float) -> Float64[Tensor, "r r"]:
        """``A_RW R_W² A_RWᵀ / ω`` over the columns W of a window."""
        hyper, moving = window[: self._p], window[self._p :]
        self._move(moving)
        at = self._of(rows)
        theta = self._weights[at] * moving[at] / omega
        return self._assemble(at, self._sum / omega, theta, self._hyper * hyper / omega)

    def _move(self, moving: Bool[Tensor, " weights"]) -> None:
        """Bring the sum to these weights, from what it was where that is less work than anew."""
        changed = moving ^ self._moving
        self._changes += int(changed.sum())
        if self._changes < int(moving.sum()):
            self._sum = self._sum + self._inner(changed & moving) - self._inner(changed & self._moving)
        else:
            self._sum, self._changes = self._inner(moving), 0
        self._moving = moving

    def _inner(self, moving: Bool[Tensor, " weights"]) -> Float64[Tensor, "k k"]:
        """``Vᵀ R² V`` over some weights."""
        inner, (which,) = self._V.new_zeros(len(self._C), len(self._C)), moving.nonzero(as_tuple=True)
        for part in chunks(len(which), self._D.device, ROWS):
            V = self._V[which[part]]  # noqa: N806
            inner.addmm_(V.T, self._weights[which[part], None] * V)
        return inner

    def _assemble(self, at: Tensor, inner: Tensor, theta: Tensor, hyper: Tensor) -> Float64[Tensor, "r r"]:
        """From ``Vᵀ Θ V``, Θ at the weights of the rows, and Θ of the hyperparameters."""
        V, D, J = self._V[at], self._D[at], self._J.dense_rows(at)  # noqa: N806
        outer = V * self._C
        mixed = (outer @ V.T) * (theta * D)
        return outer @ inner @ outer.T + mixed + mixed.T + torch.diag(D.square() * theta) + (J * hyper) @ J.T

    def _of(self, rows: Tensor) -> Int64[Tensor, " r"]:
        """The weights that the rows belong to."""
        return rows if self._rows is None else self._rows[rows]

    def own_reach(self) -> Float64[Tensor, " m"]:
        """``|D_i| radius_i``: how far a weight alone can move its row."""
        reach = self._D.abs() * self._weights.sqrt()
        return reach if self._rows is None else reach[self._rows]
