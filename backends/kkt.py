"""Relative KKT residuals from products that are already known, and the best pair seen so far."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from lift_core.lp import LinearProgram


class Residuals(NamedTuple):
    """Relative residuals of one pair (x, y), as `lift_core.lp.kkt_residuals` defines them, and both objectives.

    Attributes:
        leak: ``|y|^T |Ax - proj(Ax)|``: by how much the infeasibility of the rows can flatter the objective.
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


class KKTCheck:
    """Evaluates `Residuals` of one program, without touching its operator where the products are known.

    Reference: the formulas of `lift_core.lp.kkt_residuals`; here the products ``Ax`` and ``A^T y`` are arguments.
    """

    def __init__(self, lp: LinearProgram) -> None:
        self.lp = lp
        self._rows = _Support(lp.row_lower, lp.row_upper)
        self._columns = _Support(lp.col_lower, lp.col_upper)
        self._bound_size = 1 + torch.maximum(self._rows.lower.abs(), self._rows.upper.abs()).norm()
        self._cost_size = 1 + lp.c.norm()

    def recompute(self, x: Float64[Tensor, " n"], y: Float64[Tensor, " m"]) -> Residuals:
        """Residuals of a pair whose products are not known: two products."""
        return Residuals(*self.evaluate(x, y, self.lp.A.matvec(x), self.lp.A.rmatvec(y)).tolist())

    def evaluate(
        self, x: Float64[Tensor, " n"], y: Float64[Tensor, " m"], ax: Float64[Tensor, " m"], aty: Float64[Tensor, " n"]
    ) -> Float64[Tensor, " 6"]:
        """The fields of `Residuals` as one tensor, left on its device."""
        lp = self.lp
        off_rows = ax - ax.clamp(lp.row_lower, lp.row_upper)
        off_columns = x - x.clamp(lp.col_lower, lp.col_upper)
        from_rows, row_residual = self._rows(y)
        from_columns, column_residual = self._columns(lp.c - aty)
        primal_objective = lp.c @ x + lp.offset
        dual_objective = from_rows + from_columns + lp.offset
        size = 1 + primal_objective.abs() + dual_objective.abs()
        return torch.stack(
            [
                torch.hypot(off_rows.norm(), off_columns.norm()) / self._bound_size,
                torch.hypot(row_residual, column_residual) / self._cost_size,
                (primal_objective - dual_objective).abs() / size,
                primal_objective,
                dual_objective,
                y.abs() @ off_rows.abs(),
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
    """``sum lower * dual^+ - upper * dual^-`` over finite bounds, and the norm of what the infinite ones leave over."""

    def __init__(self, lower: Tensor, upper: Tensor) -> None:
        no_lower, no_upper = torch.isinf(lower), torch.isinf(upper)
        self.missing = (no_lower, no_upper) if bool(no_lower.any() or no_upper.any()) else None
        self.lower = lower.masked_fill(no_lower, 0.0) if self.missing else lower
        self.upper = upper.masked_fill(no_upper, 0.0) if self.missing else upper

    def __call__(self, dual: Tensor) -> tuple[Tensor, Tensor]:
        at_lower, at_upper = dual.clamp(min=0), dual.clamp(max=0).neg_()
        value = self.lower @ at_lower - self.upper @ at_upper
        if self.missing is None:
            return value, value.new_zeros(())
        return value, (at_lower * self.missing[0] + at_upper * self.missing[1]).norm()
