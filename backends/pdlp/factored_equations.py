"""Newton's equations of proximal points of direction LPs with factored curvature, of several programs at once.

For ``A = [J  H]`` and ``H = D + V C Vᵀ``, with ``Θ = tau P`` and ``Θ_s = tau Q + I / sigma``, d the weights' part of
``Θ Aᵀ y`` and h that of the hyperparameters, the equations read, weight by weight,

    d_i / θ_i − D_i y_i − V_i C t = 0,              t = Vᵀ y
    D_i d_i + θ_s,i y_i + V_i C z + J_i h = g_i,    z = Vᵀ d

A block of two unknowns is eliminated for every weight; what remains is a system of size 2k + p for (t, z, h) that is
made of sums over the weights. From one step of Newton's method to the next, few weights and rows pass a bound, and the
sums follow these. Every program has a system of its own, and all of them share the passes over V.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from backends.chunks import GRAM_ROWS, chunks
from backends.factors import factors, has_factors
from backends.interior_point.structured import invert_blocks
from backends.pdlp.equations import Equations
from backends.tall_factors import TallFactors
from lift_core.operators import DirectionMatrix, LinearOperator, pull

FEW, UPDATES, SHRINKS = 1 / 8, 20, 1e-4
"""Share of the weights up to which sums follow the changes since the last step instead of being added up again, how
often in a row, and how far their largest terms may shrink meanwhile: rounding stays."""


class FactoredEquations(Equations):
    """In O(n (2k + p)²) for each program, or less where sums follow changes.

    Every vector of the weights' length is a row of a block.
    """

    def __init__(self, A: DirectionMatrix) -> None:  # noqa: N803
        super().__init__(A, cost=10, fewest_steps=300, growth=2.0, hopeless=10)
        self._D, self._V, core = factors(A.hessian)
        self._root = core.abs().sqrt()
        self._signed_root = self._root * torch.where(core < 0, -1.0, 1.0).to(core)
        self._tall, self._kept_rows = TallFactors(self._V, A.mixed), A.rows
        self._J, self._num_hyper = self._tall.J, A.num_hyper
        self._has_row = None if A.rows is None else self._spread(self._D.new_ones(1, A.shape[0]), 0.0)[0]
        self._last: _Sums | None = None

    def keep(self, rows: list[int]) -> None:
        if self._last is None or not rows:
            self._last = None
        else:
            marks, largest, sums, updates = self._last
            self._last = _Sums(marks.rows(rows), largest[rows], sums[rows], [updates[row] for row in rows])

    def solve(
        self, inside_x: Tensor, inside_s: Tensor, tau: Tensor, sigma: Tensor, right: Tensor
    ) -> tuple[Tensor, Tensor]:
        p, size, right = self._num_hyper, len(right), self._spread(right, 0.0)
        marks = _Marks(inside_x[:, p:], self._spread(inside_s, False), tau.clone(), sigma.clone())
        scale = torch.cat([tau.new_ones(size, len(self._root)), (tau * inside_x[:, :p]).sqrt()], dim=1)
        weights, eliminated, pulled = self._eliminate(marks, right)
        system = self._system(self._update(marks, weights), scale)
        wide = torch.cat([self._signed_root.expand(size, -1), torch.ones_like(pulled)], dim=1) * scale
        rhs = -torch.cat([self._root * eliminated[:size], wide * torch.cat([eliminated[size:], pulled], dim=1)], dim=1)
        tiny = system.new_full((size, system.shape[1], 1), torch.finfo(system.dtype).tiny)
        largest = torch.cat([system.abs(), tiny], dim=2).amax(2, keepdim=True)
        found, failed = torch.linalg.solve_ex(system / largest, rhs[:, :, None] / largest)
        found = found[:, :, 0].masked_fill_((failed != 0)[:, None], torch.nan)
        return self._push(found, scale, weights, right)

    def _eliminate(self, marks: _Marks, right: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """The inverses of all blocks, and ``[d y] V`` and ``y J`` of what they are solved by alone."""
        weights, y = [torch.empty_like(right) for _ in range(3)], torch.empty_like(right)
        inner = self._V.new_zeros(len(self._root), 2 * len(right))
        for part in chunks(len(self._D), right.device, vectors=2 * len(right)):
            inverse = self._invert(marks, part)
            for block, entries in zip(weights, inverse, strict=True):
                block[:, part] = entries
            _, mixed, second = inverse
            torch.mul(second, right[:, part], out=y[:, part])
            inner += pull(self._V[part], torch.cat([mixed.mul_(right[:, part]), y[:, part]]).mT)
        return tuple(weights), inner.mT, self._J.rmatmat(y.mT).mT

    def _push(self, found: Tensor, scale: Tensor, weights: tuple[Tensor, ...], right: Tensor) -> tuple[Tensor, Tensor]:
        """y, and ``Aᵀ y``, which (t, z, h) give without another pass over V."""
        p, k, size = self._num_hyper, len(self._root), len(right)
        t, z, h = (scale.new_ones(0) if part is None else part for part in found.split([k, k, p], dim=1))
        inner = torch.cat([self._root * t, -self._signed_root * z])
        left = right - self._J.matmat((scale[:, k:] * h).mT).mT
        _, mixed, second = weights
        y, pulled = torch.empty_like(right), right.new_empty(size, p + len(self._D))
        for part in chunks(len(self._D), right.device, vectors=2 * size):
            of_t, of_z = (inner @ self._V[part].mT).split(size)
            of_z += left[:, part]
            torch.mul(second[:, part], of_z, out=y[:, part]).addcmul_(mixed[:, part], of_t, value=-1)
            torch.addcmul(of_t, self._D[part], y[:, part], out=pulled[:, p:][:, part])
        pulled[:, :p] = self._J.rmatmat(y.mT).mT
        return self._select(y), pulled

    def _system(self, sums: Tensor, scale: Tensor) -> Float64[Tensor, "b 2k+p 2k+p"]:
        """Symmetric, of the unknowns ``(t, z, h)``, h in units of ``sqrt(theta)``."""
        k, root = len(self._root), self._root
        wide = torch.cat([self._signed_root.expand(len(sums), -1), torch.ones_like(scale[:, k:])], dim=1) * scale
        first, mixed, second = self._tall.split(sums)
        top = root[:, None] * first * root
        side = -root[:, None] * mixed * wide[:, None]
        side.diagonal(dim1=1, dim2=2).sub_(1.0)
        bottom = -wide[:, :, None] * second * wide[:, None]
        bottom.diagonal(dim1=1, dim2=2)[:, k:].sub_(1.0)
        return torch.cat([torch.cat([top, side], dim=2), torch.cat([side.mT, bottom], dim=2)], dim=1)

    def _update(self, marks: _Marks, weights: tuple[Tensor, ...]) -> Float64[Tensor, "b k+p 3k+p"]:
        """The sums of every program: brought up to date, or added up where that is not worth it, or not accurate."""
        last = self._last
        largest = torch.stack([torch.linalg.vector_norm(entries, torch.inf, dim=1) for entries in weights], dim=1)
        follows, changed = [False] * len(largest), torch.zeros_like(marks.inside_x)
        if last is not None:
            changed = (marks.inside_x ^ last.marks.inside_x) | (marks.inside_s ^ last.marks.inside_s)
            same = (marks.steps == last.marks.steps).all(1) & (largest >= SHRINKS * last.largest).all(1)
            few = changed.sum(1) <= FEW * len(self._D)
            follows = [yes and n < UPDATES for yes, n in zip((same & few).tolist(), last.updates, strict=True)]
        sums: list[Tensor] = []
        for row, follow in enumerate(follows):
            entries = [block[row] for block in weights]
            if follow and last is not None:
                sums.append(last.sums[row])
                self._follow(sums[row], last.marks.row(row), changed[row].nonzero()[:, 0], entries)
            else:
                sums.append(self._tall.grams(entries))
        updates = [last.updates[row] + 1 if follow and last else 0 for row, follow in enumerate(follows)]
        self._last = _Sums(marks, largest, torch.stack(sums), updates)
        return self._last.sums

    def _follow(self, sums: Tensor, before: _Marks, changed: Tensor, weights: list[Tensor]) -> None:
        """Replace the terms of the weights that changed."""
        for some in chunks(len(changed), changed.device, GRAM_ROWS):
            part = changed[some]
            old = self._invert(before, part)
            self._tall.add(sums, part, [new[part] - gone[0] for new, gone in zip(weights, old, strict=True)])

    def _invert(self, marks: _Marks, part: slice | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the blocks of some weights."""
        theta, theta_rows = marks.tau * marks.inside_x[:, part], marks.tau * marks.inside_s[:, part] + 1 / marks.sigma
        return invert_blocks(self._D[part], theta, theta_rows, None if self._has_row is None else self._has_row[part])

    def _spread(self, rows: Tensor, fill: float) -> Float64[Tensor, "b n"]:
        """From the kept rows to all."""
        if self._kept_rows is None:
            return rows
        return rows.new_full((len(rows), len(self._D)), fill).index_copy_(1, self._kept_rows, rows)

    def _select(self, rows: Tensor) -> Float64[Tensor, "b m"]:
        """From all rows to the kept ones."""
        return rows if self._kept_rows is None else rows[:, self._kept_rows]


class _Marks(NamedTuple):
    """Which weights and rows are inside their bounds, and the lengths of the proximal steps."""

    inside_x: Bool[Tensor, "b n"]
    inside_s: Bool[Tensor, "b n"]
    tau: Float64[Tensor, "b 1"]
    sigma: Float64[Tensor, "b 1"]

    @property
    def steps(self) -> Float64[Tensor, "b 2"]:
        return torch.cat([self.tau, self.sigma], dim=1)

    def rows(self, rows: list[int]) -> _Marks:
        return _Marks(*(block[rows] for block in self))

    def row(self, row: int) -> _Marks:
        return _Marks(*(block[row : row + 1] for block in self))


class _Sums(NamedTuple):
    """What was added up last: for which marks, the largest weights, and how often the sums have followed changes."""

    marks: _Marks
    largest: Float64[Tensor, "b 3"]
    sums: Float64[Tensor, "b k+p 3k+p"]
    updates: list[int]


def equations_of_factors(A: LinearOperator) -> FactoredEquations | None:  # noqa: N803
    """For direction LPs with factored curvature of small rank."""
    if not isinstance(A, DirectionMatrix) or not has_factors(A):
        return None
    n, k = factors(A.hessian)[1].shape
    return FactoredEquations(A) if 2 * k + A.num_hyper < n else None
