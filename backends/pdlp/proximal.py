"""Proximal points of several programs that share A, one program in each row of every block.

With a slack s for every row, the proximal point of the Lagrangian ``c^T x - y^T (A x - s)`` at (x0, s0, y0),

    x(y) = proj(x0 - tau (c - A^T y)),   s(y) = proj(s0 - tau y),   A x(y) - s(y) + (y - y0) / sigma = 0,

is one semismooth equation in y: the gradient of a convex function, to which Newton's method with a line search applies.
Its matrix is ``tau (A P A^T + Q) + I / sigma``, P and Q marking the columns and slacks inside their bounds. All
programs take their steps together, so that each product with A is one with a block.

Reference: Li, Sun & Toh (2020), An asymptotically superlinearly convergent semismooth Newton augmented Lagrangian
method for linear programming, SIAM J. Optim. 30(3), arXiv 1903.09546; Rockafellar (1976).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from backends.chunks import pieces, reduced
from backends.pdlp.batch import Batch
from backends.pdlp.equations import Equations

FLAT = 0.25
"""Slope at the end of a step, as a share of the one at its beginning, at which the line search ends."""
CHEAP = 1 << 17
"""Entries of a block up to which slopes of programs that need none any more are not left out."""
TRIALS, MARGIN = 15, 0.1
"""Lengths that a line search tries at most, and the share of its interval by which it stays off the ends."""


class Steps(NamedTuple):
    """Programs, and where and how far a proximal step goes in each: a row of every block."""

    c: Float64[Tensor, "b n"]
    col_lower: Float64[Tensor, "b n"]
    col_upper: Float64[Tensor, "b n"]
    row_lower: Float64[Tensor, "b m"]
    row_upper: Float64[Tensor, "b m"]
    x: Float64[Tensor, "b n"]
    s: Float64[Tensor, "b m"]
    y: Float64[Tensor, "b m"]
    tau: Float64[Tensor, "b 1"]
    sigma: Float64[Tensor, "b 1"]

    def rows(self, rows: list[int]) -> Steps:
        return Steps(*(block[rows] for block in self))


class At(NamedTuple):
    """Of a y: ``A^T y``, x(y) and s(y) before they are projected, ``A x(y)``, and what is left of the equation."""

    y: Float64[Tensor, "b m"]
    pulled: Float64[Tensor, "b n"]
    x: Float64[Tensor, "b n"]
    s: Float64[Tensor, "b m"]
    activity: Float64[Tensor, "b m"]
    off: Float64[Tensor, "b m"]


class Point(NamedTuple):
    """What Newton's method has arrived at in one program, with both products."""

    x: Float64[Tensor, " n"]
    s: Float64[Tensor, " m"]
    y: Float64[Tensor, " m"]
    activity: Float64[Tensor, " m"]
    pulled: Float64[Tensor, " n"]


class ProximalPoints:
    """What one proximal step each leads to, approached by Newton's method.

    Args:
        batch: the programs.
        equations: of A.
        x, y: where all steps begin.
        tau, sigma: their lengths, a number for each program.

    Attributes:
        sizes: ``‖A x‖`` where nothing cancels, with every other sign turned: what rounding is measured in.
    """

    def __init__(
        self,
        batch: Batch,
        equations: Equations,
        x: Float64[Tensor, "n b"],
        y: Float64[Tensor, "m b"],
        *,
        tau: Sequence[float],
        sigma: Sequence[float],
    ) -> None:
        equations.keep([])
        blocks = batch.c, batch.col_lower, batch.col_upper, batch.row_lower, batch.row_upper
        c, col_lower, col_upper, row_lower, row_upper = (block.mT.contiguous() for block in blocks)
        x, y = (block.mT.clone(memory_format=torch.contiguous_format) for block in (x, y))
        signs = 1 - 2 * (torch.arange(x.shape[1], device=x.device) % 2)
        s = equations.activity(x).clamp(row_lower, row_upper)
        lengths = (torch.tensor(some, dtype=torch.float64, device=x.device)[:, None] for some in (tau, sigma))
        self._equations, self.sizes = equations, equations.activity(x * signs).norm(dim=1).tolist()
        self._steps = Steps(c, col_lower, col_upper, row_lower, row_upper, x, s, y, *lengths)
        self._at = _evaluate(self._steps, equations, y, equations.pullback(y))

    def measure(self) -> list[tuple[float, float]]:
        """Norms of what is left of each equation and of ``(y - y0) / sigma``, in one transfer from the device."""
        moves = (self._at.y - self._steps.y).norm(dim=1) / self._steps.sigma[:, 0]
        return list(zip(*torch.stack([self._at.off.norm(dim=1), moves]).tolist(), strict=True))

    def advance(self) -> list[bool]:
        """A step of Newton's method in every program; False for those whose equations are singular, which stay."""
        at, steps, equations = self._at, self._steps, self._equations
        inside_x = (at.x > steps.col_lower) & (at.x < steps.col_upper)
        inside_s = (at.s > steps.row_lower) & (at.s < steps.row_upper)
        direction, pulled = equations.solve(inside_x, inside_s, steps.tau, steps.sigma, -at.off)
        usable = torch.isfinite(direction.sum(dim=1, keepdim=True) + pulled.sum(dim=1, keepdim=True))
        solved: list[bool] = usable[:, 0].tolist()
        if not all(solved):
            direction, pulled = torch.where(usable, direction, 0.0), torch.where(usable, pulled, 0.0)
        lengths = torch.tensor(_search(steps, at, direction, pulled), dtype=torch.float64, device=at.y.device)[:, None]
        y, pulled = torch.addcmul(at.y, lengths, direction), torch.addcmul(at.pulled, lengths, pulled)
        self._at = _evaluate(steps, equations, y, pulled)
        return solved

    def point(self, row: int) -> Point:
        """Of one program; its y is without components against rows that have no bound on that side."""
        at, steps = self._at, self._steps
        y = torch.where(torch.isinf(steps.row_upper[row]), at.y[row].clamp(min=0), at.y[row])
        y = torch.where(torch.isinf(steps.row_lower[row]), y.clamp(max=0), y)
        return Point(
            at.x[row].clamp(steps.col_lower[row], steps.col_upper[row]),
            at.s[row].clamp(steps.row_lower[row], steps.row_upper[row]),
            y, at.activity[row].clone(), self._equations.pullback(y[None])[0],
        )  # fmt: skip

    def begin(self, row: int, home: Point | None, tau: float, sigma: float) -> None:
        """Another proximal step in one program, from another point or, None, from the same one."""
        steps, equations = self._steps, self._equations
        steps.tau[row], steps.sigma[row] = tau, sigma
        if home is not None:
            steps.x[row], steps.s[row], steps.y[row] = home.x, home.s, home.y
        one = steps.rows([row])
        pulled = equations.pullback(one.y) if home is None else home.pulled[None]
        for block, values in zip(self._at, _evaluate(one, equations, one.y, pulled), strict=True):
            block[row] = values[0]

    def keep(self, rows: list[int]) -> None:
        """Forget all other programs."""
        self._steps, self._at = self._steps.rows(rows), At(*(block[rows] for block in self._at))
        self.sizes = [self.sizes[row] for row in rows]
        self._equations.keep(rows)


def _evaluate(steps: Steps, equations: Equations, y: Tensor, pulled: Tensor) -> At:
    x, projected, s, off = (torch.empty_like(block) for block in (pulled, pulled, y, y))
    columns = steps.x, steps.c, pulled, steps.col_lower, steps.col_upper, x, projected
    for x0, c, some_pulled, lower, upper, moved, inside in pieces(*columns):
        torch.sub(some_pulled, c, out=inside)
        torch.addcmul(x0, steps.tau, inside, out=moved)
        torch.clamp(moved, lower, upper, out=inside)
    activity = equations.activity(projected)
    rows = steps.s, steps.y, y, activity, steps.row_lower, steps.row_upper, s, off
    for s0, y0, some_y, of_x, lower, upper, moved, left in pieces(*rows):
        torch.addcmul(s0, steps.tau, some_y, value=-1, out=moved)
        torch.sub(some_y, y0, out=left).div_(steps.sigma).add_(of_x).sub_(moved.clamp(lower, upper))
    return At(y, pulled, x, s, activity, off)


def _search(steps: Steps, at: At, direction: Tensor, pulled: Tensor) -> list[float]:
    """Lengths of steps along ``direction``: the full one, or by false position one at which the slope is `FLAT`."""
    ends = [((at.y - steps.y) * direction).sum(1), direction.square().sum(1)]
    numbers = torch.stack([(at.off * direction).sum(1), *(end / steps.sigma[:, 0] for end in ends)], dim=1).tolist()
    brackets = [_Bracket(abs(slope)) for slope, _, _ in numbers]
    blocks = (
        steps.tau, at.x, pulled, steps.col_lower, steps.col_upper, at.s, direction, steps.row_lower, steps.row_upper,
    )  # fmt: skip
    is_open = list(range(len(brackets)))
    for _ in range(TRIALS):
        lengths = torch.tensor([bracket.length for bracket in brackets], dtype=torch.float64, device=pulled.device)
        if len(is_open) == len(brackets) or pulled.numel() <= CHEAP:
            slopes = _slopes(lengths[:, None], *blocks)[is_open]
        else:
            rows = [[block[row : row + 1] for block in blocks] for row in is_open]
            slopes = torch.cat([_slopes(lengths[row], *some) for row, some in zip(is_open, rows, strict=True)])
        still_open: list[int] = []
        for row, slope in zip(is_open, slopes.tolist(), strict=True):
            _, constant, growth = numbers[row]
            if not brackets[row].accepts(slope + constant + brackets[row].length * growth):
                still_open.append(row)
        is_open = still_open
        if not is_open:
            break
    return [bracket.length for bracket in brackets]


def _slopes(
    length: Tensor, tau: Tensor, x: Tensor, pulled: Tensor, lower: Tensor, upper: Tensor, s: Tensor, direction: Tensor,
    row_lower: Tensor, row_upper: Tensor,
) -> Float64[Tensor, " b"]:  # fmt: skip
    """``x(y + t d)^T A^T d - s(y + t d)^T d``, without a product with A."""
    step = length * tau

    def of_columns(x: Tensor, pulled: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        return torch.linalg.vecdot(torch.addcmul(x, step, pulled).clamp_(lower, upper), pulled)

    def of_rows(s: Tensor, direction: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        return torch.linalg.vecdot(torch.addcmul(s, step, direction, value=-1).clamp_(lower, upper), direction)

    return reduced(of_columns, x, pulled, lower, upper).sum(0) - reduced(
        of_rows, s, direction, row_lower, row_upper
    ).sum(0)


class _Bracket:
    """The lengths between which the slope of one program changes its sign, and the one to try next."""

    def __init__(self, slope: float) -> None:
        self.length, self._flat, self._low, self._high = 1.0, FLAT * slope, (0.0, -slope), (1.0, math.inf)

    def accepts(self, slope: float) -> bool:
        """Whether the slope at ``length`` is flat enough; if it is not, ``length`` changes."""
        if not slope > self._flat and (self.length == 1 or not slope < -self._flat):
            return True
        if slope > 0:
            self._high = self.length, slope
        else:
            self._low = self.length, slope
        (low, falling), (high, rising) = self._low, self._high
        share = min(max(falling / (falling - rising), MARGIN), 1 - MARGIN)
        self.length = low + share * (high - low)
        return False
