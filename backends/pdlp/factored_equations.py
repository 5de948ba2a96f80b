"""Newton's equations of proximal points of direction LPs with factored curvature, of several programs at once.

For ``A = [J  H]`` and ``H = D + V C Vᵀ``, C of ±1, with ``Θ = tau P`` and ``Θ_s = tau Q + I / sigma``, d the weights'
part of ``Θ Aᵀ y`` and h that of the hyperparameters, the equations read, weight by weight,

    d_i / θ_i − D_i y_i − V_i t = 0,                t = C Vᵀ y
    D_i d_i + θ_s,i y_i + V_i C z + J_i h = g_i,    z = Vᵀ d

A block of two unknowns is eliminated for every weight; what remains is a system of size 2k + p for (t, z, h) that is
made of sums over the weights. From one step of Newton's method to the next, few weights and rows pass a bound, and the
sums follow these. Every program has a system of its own, and all of them share the passes over V.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from backends.chunks import GRAM_ROWS, chunks
from backends.factors import factors, has_factors
from backends.interior_point.structured import invert_blocks
from backends.pdlp.equations import Equations
from backends.pdlp.tall_factors import TallFactors
from lift_core.operators import DirectionMatrix, LinearOperator

FEW, UPDATES, SHRINKS = 1 / 8, 20, 1e-4
"""Share of the weights up to which sums follow the changes since the last step instead of being added up again, how
often in a row, and how far their largest terms may shrink meanwhile: rounding stays."""


class FactoredEquations(Equations):
    """In O(n (2k + p)²) for each program, or less where sums follow changes.

    Every vector of the weights' length is a row of a block.
    """

    def __init__(self, A: DirectionMatrix, tall: TallFactors | None = None) -> None:  # noqa: N803
        super().__init__(A, cost=10, fewest_steps=300, growth=2.0, hopeless=10)
        self._tall, self._num_hyper = TallFactors(A) if tall is None else tall, A.num_hyper
        self._has_row = None if A.rows is None else self._tall.spread(self._tall.d.new_ones(1, A.shape[0]), 0.0)[0]
        self._last: _Sums | None = None

    def keep(self, rows: list[int]) -> None:
        if self._last is None or not rows:
            self._last = None
        else:
            marks, largest, sums, updates = self._last
            self._last = _Sums(marks.rows(rows), largest[rows], sums[rows], [updates[row] for row in rows])

    def activity(self, x: Tensor) -> Tensor:
        tall, (h, d) = self._tall, x.split([self._num_hyper, len(self._tall.d)], dim=1)
        coefficients, moved = self._with_mixed(tall.signs * self._pull(d), h)
        found = torch.empty_like(d) if moved is None else moved
        for part in self._parts(d):
            pushed = tall.push(coefficients, part).addcmul_(tall.d[part], d[:, part])
            torch.add(pushed, 0.0 if moved is None else moved[:, part], out=found[:, part])
        return tall.select(found)

    def pullback(self, y: Tensor) -> Tensor:
        tall, y = self._tall, self._tall.spread(y, 0.0)
        h = tall.pull_mixed(y)
        coefficients, _ = self._with_mixed(tall.signs * self._pull(y), None)
        found = torch.cat([h, tall.d * y], dim=1)
        for part in self._parts(y):
            found[:, self._num_hyper :][:, part] += tall.push(coefficients, part)
        return found

    def solve(
        self, inside_x: Tensor, inside_s: Tensor, tau: Tensor, sigma: Tensor, right: Tensor
    ) -> tuple[Tensor, Tensor]:
        p, size, right = self._num_hyper, len(right), self._tall.spread(right, 0.0)
        marks = _Marks(inside_x[:, p:], self._tall.spread(inside_s, False), tau.clone(), sigma.clone())
        scale = (tau * inside_x[:, :p]).sqrt()  # what h is measured in
        weights, of_d, of_y = self._eliminate(marks, right)
        signs = torch.cat([self._tall.signs.expand(size, -1), scale], dim=1)
        system, rhs = self._system(self._update(marks, weights), signs), -torch.cat([of_d, signs * of_y], dim=1)
        tiny = system.new_full((size, system.shape[1], 1), torch.finfo(system.dtype).tiny)
        largest = torch.cat([system.abs(), tiny], dim=2).amax(2, keepdim=True)
        found, failed = torch.linalg.solve_ex(system / largest, rhs[:, :, None] / largest)
        found = found[:, :, 0].masked_fill_((failed != 0)[:, None], torch.nan)
        return self._push(found, scale, weights, right)

    def _eliminate(self, marks: _Marks, right: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """The inverses of all blocks, and ``d V'`` and ``y [V' J]`` of what they are solved by alone."""
        tall, size = self._tall, len(right)
        weights, y = [torch.empty_like(right) for _ in range(3)], torch.empty_like(right)
        inner = right.new_zeros(2 * size, tall.width)
        for part in self._parts(right):
            inverse = self._invert(marks, part)
            for block, entries in zip(weights, inverse, strict=True):
                block[:, part] = entries
            _, mixed, second = inverse
            torch.mul(second, right[:, part], out=y[:, part])
            inner += tall.pull(part, torch.cat([mixed.mul_(right[:, part]), y[:, part]]))
        of_y = inner[size:] if tall.has_both else torch.cat([inner[size:], tall.pull_mixed(y)], dim=1)
        return tuple(weights), inner[:size, : tall.rank], of_y

    def _push(self, found: Tensor, scale: Tensor, weights: tuple[Tensor, ...], right: Tensor) -> tuple[Tensor, Tensor]:
        """y, and ``Aᵀ y``, which (t, z, h) give without another pass over V."""
        tall, p, size = self._tall, self._num_hyper, len(right)
        t, z, h = found.split([tall.rank, tall.rank, p], dim=1)
        of_z, moved = self._with_mixed(-tall.signs * z, -scale * h)
        of_t, _ = self._with_mixed(t, None)
        coefficients, (_, mixed, second) = torch.cat([of_t, of_z]), weights
        y, pulled = torch.empty_like(right), right.new_empty(size, p + len(tall.d))
        for part in self._parts(right):
            pushed, left = tall.push(coefficients, part).split(size)
            left += right[:, part]
            if moved is not None:
                left += moved[:, part]
            torch.mul(second[:, part], left, out=y[:, part]).addcmul_(mixed[:, part], pushed, value=-1)
            torch.addcmul(pushed, tall.d[part], y[:, part], out=pulled[:, p:][:, part])
        pulled[:, :p] = tall.pull_mixed(y)
        return tall.select(y), pulled

    def _with_mixed(
        self, inner: Float64[Tensor, "b k"], h: Float64[Tensor, "b p"] | None
    ) -> tuple[Tensor, Tensor | None]:
        """Coefficients of ``V' inner + J h``, and where J stands apart ``J h``; None: h is 0."""
        if self._tall.has_both:
            return torch.cat([inner, inner.new_zeros(len(inner), self._num_hyper) if h is None else h], dim=1), None
        return inner, None if h is None else self._tall.J.matmat(h.mT).mT

    def _pull(self, block: Float64[Tensor, "b n"]) -> Float64[Tensor, "b k"]:
        """``X V'``."""
        inner = block.new_zeros(len(block), self._tall.width)
        for part in self._parts(block):
            inner += self._tall.pull(part, block[:, part])
        return inner[:, : self._tall.rank]

    def _parts(self, block: Float64[Tensor, "b n"]) -> Iterator[slice]:
        return chunks(block.shape[1], block.device, vectors=2 * len(block))

    def _system(self, sums: Tensor, signs: Tensor) -> Float64[Tensor, "b 2k+p 2k+p"]:
        """Symmetric, of the unknowns ``(t, z, h)``, h in units of ``sqrt(theta)``."""
        k, (first, mixed, second) = self._tall.rank, self._tall.split(sums)
        side = -mixed * signs[:, None]
        side.diagonal(dim1=1, dim2=2).sub_(1.0)
        bottom = -signs[:, :, None] * second * signs[:, None]
        bottom.diagonal(dim1=1, dim2=2)[:, k:].sub_(1.0)
        return torch.cat([torch.cat([first, side], dim=2), torch.cat([side.mT, bottom], dim=2)], dim=1)

    def _update(self, marks: _Marks, weights: tuple[Tensor, ...]) -> Float64[Tensor, "b k+p 3k+p"]:
        """The sums of every program: brought up to date, or added up where that is not worth it, or not accurate."""
        last = self._last
        first, _, second = weights  # neither is negative; the mixed ones are at most 1 / |D|, and vanish with the first
        largest = torch.stack([first.amax(1), second.amax(1)], dim=1)
        follows, changed = [False] * len(largest), torch.zeros_like(marks.inside_x)
        if last is not None:
            changed = (marks.inside_x ^ last.marks.inside_x) | (marks.inside_s ^ last.marks.inside_s)
            same = (marks.steps == last.marks.steps).all(1) & (largest >= SHRINKS * last.largest).all(1)
            few = changed.sum(1) <= FEW * len(self._tall.d)
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
        return invert_blocks(
            self._tall.d[part], theta, theta_rows, None if self._has_row is None else self._has_row[part]
        )


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
    largest: Float64[Tensor, "b 2"]
    sums: Float64[Tensor, "b k+p 3k+p"]
    updates: list[int]


def equations_of_factors(A: LinearOperator, tall: TallFactors | None = None) -> FactoredEquations | None:  # noqa: N803
    """For direction LPs with factored curvature of small rank; ``tall`` are their factors, if they are at hand."""
    if not isinstance(A, DirectionMatrix) or not has_factors(A):
        return None
    n, k = factors(A.hessian)[1].shape
    return FactoredEquations(A, tall) if 2 * k + A.num_hyper < n else None
