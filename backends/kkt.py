"""Relative KKT residuals from products that are already known, and the best pair seen so far."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float64
from torch import Tensor

from lift_core.lp import size_of_bounds, smaller_bounds

WORTH = 10.0
"""Error of the objective, in multiples of the tolerance, that residuals within the tolerance may go with."""


class Residuals(NamedTuple):
    """Relative residuals of one pair (x, y), as `lift_core.lp.kkt_residuals` defines them, and both objectives.

    Attributes:
        leak: what the violations are worth in the objective, as there, but absolute.
    """

    primal: float
    dual: float
    gap: float
    primal_objective: float
    dual_objective: float
    leak: float

    @property
    def worst(self) -> float:
        """The largest of the three residuals; infinite when one is not a number."""
        worst = max(self.primal, self.dual, self.gap)
        return worst if math.isfinite(self.primal + self.dual + self.gap) else math.inf

    @property
    def objective_error(self) -> float:
        """Relative distance to the optimal value that gap and leak allow."""
        return self.gap + self.leak / (1 + abs(self.primal_objective) + abs(self.dual_objective))

    @property
    def score(self) -> float:
        """What a method is to bring below its tolerance: the residuals, and a share of the objective's error.

        Where one cost is huge, residuals relative to its size are small at points that are far from optimal.
        """
        return max(self.worst, self.objective_error / WORTH)


class Programs(Protocol):
    """A `LinearProgram`, or several that share A with their vectors side by side."""

    @property
    def c(self) -> Tensor: ...
    @property
    def row_lower(self) -> Tensor: ...
    @property
    def row_upper(self) -> Tensor: ...
    @property
    def col_lower(self) -> Tensor: ...
    @property
    def col_upper(self) -> Tensor: ...
    @property
    def offset(self) -> float | Tensor: ...


class KKTCheck:
    """Evaluates `Residuals` of one program or of a batch, without touching its operator where the products are known.

    Reference: the formulas of `lift_core.lp.kkt_residuals`; here the products ``Ax`` and ``A^T y`` are arguments.
    """

    def __init__(self, lp: Programs) -> None:
        self.lp = lp
        self._rows = _Support(lp.row_lower, lp.row_upper)
        self._columns = _Support(lp.col_lower, lp.col_upper)
        self._cost_size = 1 + lp.c.norm(dim=0)
        self._column_size = 1 + smaller_bounds(lp.col_lower, lp.col_upper)

    def evaluate(
        self,
        x: Float64[Tensor, " n *b"],
        y: Float64[Tensor, " m *b"],
        ax: Float64[Tensor, " m *b"],
        aty: Float64[Tensor, " n *b"],
    ) -> Tensor:
        """The fields of `Residuals` as one tensor, left on its device; a column for each program of a batch."""
        lp = self.lp
        off_rows = ax - ax.clamp(lp.row_lower, lp.row_upper)
        off_columns = x - x.clamp(lp.col_lower, lp.col_upper)
        reduced_costs = lp.c - aty
        from_rows, row_residual, row_leak = self._rows(y, ax)
        from_columns, column_residual, column_leak = self._columns(reduced_costs, x)
        primal_objective = torch.linalg.vecdot(lp.c, x, dim=0) + lp.offset
        dual_objective = from_rows + from_columns + lp.offset
        size = 1 + primal_objective.abs() + dual_objective.abs()
        row_size = 1 + size_of_bounds(lp.row_lower, lp.row_upper, ax)
        return torch.stack(
            [
                torch.hypot(off_rows.norm(dim=0) / row_size, off_columns.norm(dim=0) / self._column_size),
                torch.hypot(row_residual, column_residual) / self._cost_size,
                (primal_objective - dual_objective).abs() / size,
                primal_objective,
                dual_objective,
                torch.linalg.vecdot(y.abs(), off_rows.abs(), dim=0)
                + torch.linalg.vecdot(reduced_costs.abs(), off_columns.abs(), dim=0)
                + row_leak
                + column_leak,
            ]
        )


class Incumbent:
    """The best finite pair offered so far, by its score."""

    def __init__(self, x: Float64[Tensor, " n"], y: Float64[Tensor, " m"]) -> None:
        self.x, self.y, self.score = x, y, math.inf

    def offer(self, x: Float64[Tensor, " n"], y: Float64[Tensor, " m"], score: float) -> bool:
        """Keep (x, y) and say so if its score is lower than the best one; a score that is NaN never is."""
        better = score < self.score
        if better:
            self.x, self.y, self.score = x.clone(), y.clone(), score
        return better


class _Support:
    """``sum lower * dual^+ - upper * dual^-`` over finite bounds; the norm of what infinite ones leave over; its worth.

    What is left over is worth as much at a point as its entries are large there, or one.
    """

    def __init__(self, lower: Tensor, upper: Tensor) -> None:
        no_lower, no_upper = torch.isinf(lower), torch.isinf(upper)
        self.missing = (no_lower, no_upper) if bool(no_lower.any() or no_upper.any()) else None
        self.lower = lower.masked_fill(no_lower, 0.0) if self.missing else lower
        self.upper = upper.masked_fill(no_upper, 0.0) if self.missing else upper

    def __call__(self, dual: Tensor, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        at_lower, at_upper = dual.clamp(min=0), dual.clamp(max=0).neg_()
        value = torch.linalg.vecdot(self.lower, at_lower, dim=0) - torch.linalg.vecdot(self.upper, at_upper, dim=0)
        if self.missing is None:
            return value, torch.zeros_like(value), torch.zeros_like(value)
        left_over = at_lower * self.missing[0] + at_upper * self.missing[1]
        return value, left_over.norm(dim=0), torch.linalg.vecdot(at.abs().clamp_(min=1), left_over, dim=0)
