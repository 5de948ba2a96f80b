"""Proximal Newton on the dual of a program in a box.

In units of the box, ``x_j = m_j + r_j s_j`` with ``−1 ≤ s_j ≤ 1``. Around a point s̄ and for a width ω, minimise over y

    h(y) + Σ_i max(−lower_i y_i, −upper_i y_i),      h(y) = max_s  −dᵀ(m + r s) − ω/2 ‖s − s̄‖²,      d = c − Aᵀy.

h is smooth: with ``s = clip(s̄ − r d / ω)`` its gradient is ``A x``, and its generalised Hessian ``A Θ Aᵀ``, where Θ_j
is ``r_j² / ω`` in the *window*, the columns that are not clipped, and 0 outside. The other term has a kink in each
entry, which keeps y sparse: a Newton step on h alone concerns only rows that bind or nearly do, and
`feature_sign_search` finds it exactly. Once y is a good minimiser, s̄ moves to s (the proximal point method, which ends
at the program's own solution though ω stays positive) and ω is lowered. As long as window and binding rows stay, y is
then known to first order: the step is linearised at s with the columns of the window unclipped.

References: Lee, Sun, Saunders (2014), Proximal Newton-type methods, SIAM J. Optim. 24(3); Li, Sun, Toh (2020), An
asymptotically superlinearly convergent semismooth Newton augmented Lagrangian method for LP, SIAM J. Optim. 30(3).
"""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from backends.dual_newton.feature_sign import NoMinimumError, feature_sign_search
from backends.dual_newton.rows import FactoredRows
from backends.kkt import Incumbent, KKTCheck, Residuals
from lift_core.lp import BackendAnswer, LinearProgram, LPStart, LPStatus
from lift_core.operators import DirectionMatrix

SLOW, FAST = 0.2, 0.01
"""Factors by which ω is lowered: the slow one to begin with, smaller ones after full steps, 1 after others."""
MANY_STEPS, STALLED = 10, 4
"""ω is raised after so many steps at one width, or so many without a better point."""
FEW_COLUMNS = 8
"""ω is lowered slowly where the window, which carries the step, has fewer columns than this multiple of the binding
rows."""
CENTRED, LEAK = 0.1, 0.3
"""ω is lowered once a full step promised to gain less than this share of the gap, and infeasible rows flatter the
objective by less than that one."""
NEAR = 0.15
"""Rows are looked at if they are closer to a bound than this share of the distance of their bounds."""
ALONE, MANY_ALONE = 0.25, 0.1
"""If rows in number more than a share of ``max_rows`` can be moved across a share of their width by their own weight
alone, as many will bind, and the method is not for them."""
MORE_BINDING = 50
"""Rows that may bind beside twice the rank of the curvature and of the hyperparameters."""
SHORTEST, SHORT = 2.0**-12, 0.125
SUFFICIENT = 1e-3
"""Share of the promised decrease that a step must reach (Armijo)."""
ROUNDING = 1e-13
"""A decrease below this share of the value cannot be measured, and the step is taken."""
LEAST_DAMPING, CHANGE_OF_DAMPING = 1e-10, 100.0
"""The diagonal of A Θ Aᵀ gets this share of what it were with all columns in the window: a row all of whose columns are
clipped has none. It grows after a short step (Levenberg-Marquardt)."""
PATIENCE = 20
"""Iterations without a better point after which the method gives up."""


class DualPoint(NamedTuple):
    """y on the rows that are looked at, zero on all others, and ``d = c − Aᵀy``."""

    rows: Int64[Tensor, " r"]
    y: Float64[Tensor, " r"]
    d: Float64[Tensor, " n"]


class Step(NamedTuple):
    """Where a step led, its length in (0, 1], and the decrease that a full one promised."""

    at: DualPoint
    length: float
    promised: float


class DualNewtonIteration:
    """One program on its way.

    Args:
        lp: in a box, over a factored `DirectionMatrix`.
        max_rows: rows that may be looked at at a time.
    """

    def __init__(self, lp: LinearProgram, *, max_rows: int) -> None:
        assert isinstance(lp.A, DirectionMatrix)
        self.lp, self.max_rows, self._check = lp, max_rows, KKTCheck(lp)
        self.centre, self.radius = (lp.col_upper + lp.col_lower) / 2, (lp.col_upper - lp.col_lower) / 2
        self.access = FactoredRows(lp.A, self.radius)
        mean = float((self.radius * lp.c).abs().mean()) if len(lp.c) else 0.0
        self.omega, self._cut, self._steps, self._damping = mean if mean > 0 else 1.0, SLOW, 0, LEAST_DAMPING
        self.near = torch.zeros_like(self.radius)
        width = lp.row_upper - lp.row_lower
        self._margin = torch.where(torch.isfinite(width), NEAR * width, 0.0)
        self._most = 2 * self.access.rank + MORE_BINDING
        self._too_many = int((self.access.own_reach() > ALONE * width).sum()) > MANY_ALONE * max_rows

    def solve(
        self, start: LPStart | None, *, rtol: float, max_iterations: int, deadline: float
    ) -> BackendAnswer | None:
        """The answer, or None where too many rows bind or the method gets no further."""
        if self._too_many:
            return None
        at, left, age = self._first(start), math.inf, 0
        best = Incumbent(torch.zeros_like(self.lp.c), self._spread(at))
        for iteration in range(max_iterations + 1):
            share = self._respond(at.d)
            x = torch.addcmul(self.centre, self.radius, share)
            activity = self.access.activity(x)
            now = self._judge(x, at, activity)
            age = 0 if best.offer(x, self._spread(at), now.worst) else age + 1
            if best.score <= rtol:
                return BackendAnswer(best.x, best.y, LPStatus.OPTIMAL, iteration)
            if time.monotonic() > deadline:
                return BackendAnswer(best.x, best.y, LPStatus.TIME_LIMIT, iteration)
            if age > PATIENCE:
                return None
            at, gap = self._look_at(at, activity), abs(now.primal_objective - now.dual_objective)
            try:
                centred = left <= CENTRED * gap and now.leak <= LEAK * gap
                step = (
                    self._follow(at, share, CENTRED * gap) if centred else self._step(at, self._window(at.d), activity)
                )
            except NoMinimumError:
                return None
            self._widen(age)
            at = step.at
            left = abs(step.promised) if step.length == 1 or abs(step.promised) <= CENTRED * gap else math.inf
        return None

    def _widen(self, age: int) -> None:
        """Raise ω, which makes steps easier, where they have been many or do not help."""
        self._steps += 1
        if self._steps > MANY_STEPS or (age and age % STALLED == 0):
            self.omega, self._cut, self._steps = self.omega / SLOW, 1.0, 0

    def _follow(self, at: DualPoint, share: Float64[Tensor, " n"], little: float) -> Step:
        """Move s̄ to s and lower ω, as far as a full step then succeeds or has little to gain."""
        window = self._window(at.d)
        few = int(window.sum()) < FEW_COLUMNS * (1 + int((at.y != 0).sum()))
        self.near, omega, cut = share, self.omega, max(self._cut, SLOW if few else FAST)
        slope = self.radius * at.d * window
        while True:
            self.omega = cut * omega
            unclipped = torch.add(share, slope, alpha=-1 / self.omega)
            activity = self.access.activity(torch.addcmul(self.centre, self.radius, unclipped))
            step = self._step(at, window, activity)
            done = step.length == 1 or abs(step.promised) <= little
            if done or cut == 1:
                self._cut = max(SLOW * cut, FAST) if step.length == 1 else SLOW if done else 1.0
                self._steps = 0
                return step
            cut = SLOW if cut < SLOW else 1.0

    def _step(self, at: DualPoint, window: Bool[Tensor, " n"], activity: Float64[Tensor, " m"]) -> Step:
        """A Newton step with line search, h linearised at ``activity``."""
        lp, rows = self.lp, at.rows
        gram = self.access.gram(rows, window, self.omega)
        gram += torch.diag(self.access.squares(rows) * (self._damping / self.omega))
        system = (gram, activity[rows], lp.row_lower[rows], lp.row_upper[rows], at.y)
        found = feature_sign_search(*(part.cpu().numpy() for part in system), most=self._most)
        y = torch.from_numpy(found).to(at.y)
        change, slope = y - at.y, self._reduced_costs(rows, y) - at.d
        promised = float(activity[rows] @ change) + self._kinks(y, rows) - self._kinks(at.y, rows)
        before, length = self._value(at), 1.0
        if abs(promised) > ROUNDING * (1 + abs(before)):
            while length > SHORTEST:
                there = DualPoint(rows, at.y + length * change, at.d + length * slope)
                if self._value(there) <= before + SUFFICIENT * length * min(promised, 0.0):
                    break
                length /= 2
        if length <= SHORT:
            self._damping = min(1.0, self._damping * CHANGE_OF_DAMPING)
        elif length == 1:
            self._damping = max(LEAST_DAMPING, self._damping / CHANGE_OF_DAMPING)
        y = y if length == 1 else at.y + length * change  # exact zeros stay
        return Step(DualPoint(rows, y, at.d + length * slope), length, promised)

    def _look_at(self, at: DualPoint, activity: Float64[Tensor, " m"]) -> DualPoint:
        """Rows that bind, and the most violated of those that are outside their bounds or nearly so."""
        lp, binding = self.lp, at.y != 0
        excess = torch.maximum(lp.row_lower - activity, activity - lp.row_upper).add_(self._margin)
        excess[at.rows[binding]] = -torch.inf
        worst = excess.topk(min(max(self.max_rows - int(binding.sum()), 0), lp.num_rows))
        others = worst.indices[worst.values > 0]
        y = torch.cat([at.y[binding], at.y.new_zeros(len(others))])
        return DualPoint(torch.cat([at.rows[binding], others]), y, at.d)

    def _respond(self, d: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
        """s(y)."""
        return self._unclipped(d).clamp_(-1, 1)

    def _unclipped(self, d: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
        return torch.addcmul(self.near, self.radius, d, value=-1 / self.omega)

    def _window(self, d: Float64[Tensor, " n"]) -> Bool[Tensor, " n"]:
        return self._unclipped(d).abs_() < 1

    def _value(self, at: DualPoint) -> float:
        """What is minimised."""
        share = self._respond(at.d)
        moved, along = share - self.near, torch.addcmul(self.centre, self.radius, share)
        return float(-(at.d @ along) - self.omega / 2 * (moved @ moved)) + self._kinks(at.y, at.rows)

    def _kinks(self, y: Float64[Tensor, " r"], rows: Int64[Tensor, " r"]) -> float:
        lower, upper = self.lp.row_lower[rows], self.lp.row_upper[rows]
        return float(torch.where(y > 0, -lower * y, torch.where(y < 0, -upper * y, 0.0)).sum())

    def _first(self, start: LPStart | None) -> DualPoint:
        lp = self.lp
        y = torch.zeros_like(lp.row_lower) if start is None else start.y
        y = torch.where(torch.isinf(lp.row_lower), y.clamp(max=0), y)
        y = torch.where(torch.isinf(lp.row_upper), y.clamp(min=0), y)
        rows = y.nonzero()[:, 0]
        if len(rows) > self._most:  # an interior point's
            rows = y.abs().topk(self._most).indices
        if start is not None:  # with its y, an optimal x is where s̄ leads for every ω
            share = (start.x - self.centre) / torch.where(self.radius > 0, self.radius, 1.0)
            self.near = share.clamp_(-1, 1)
        return DualPoint(rows, y[rows], self._reduced_costs(rows, y[rows]))

    def _reduced_costs(self, rows: Int64[Tensor, " r"], y: Float64[Tensor, " r"]) -> Float64[Tensor, " n"]:
        return self.lp.c - self.access.pull(rows, y) if len(rows) else self.lp.c

    def _judge(self, x: Tensor, at: DualPoint, activity: Tensor) -> Residuals:
        return Residuals(*self._check.evaluate(x, self._spread(at), activity, self.lp.c - at.d).tolist())

    def _spread(self, at: DualPoint) -> Float64[Tensor, " m"]:
        return at.y.new_zeros(self.lp.num_rows).index_copy_(0, at.rows, at.y)
