"""The judge that stands between a backend and its user: residuals, bounds and certificates, recomputed in float64."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from lift_core.lp.record import BackendAnswer, LinearProgram, LPBackend, LPStart, LPStatus
from lift_core.operators import LinearOperator

RAY_RTOL = 1e-9
"""Residual of a ray, relative to its gain, up to which it counts as a proof: rounding, and little more."""
_NO_MORE: Any = object()
_DUAL_INFEASIBLE = (LPStatus.UNBOUNDED, LPStatus.INFEASIBLE_OR_UNBOUNDED)


@dataclass(frozen=True)
class KKTResiduals:
    """Relative KKT residuals (2-norms), recomputed in float64 on the unscaled data.

    primal = ||Ax - proj(Ax)|| / (1 + ||b||) and ||x - proj(x)|| / (1 + ||b_x||), as one norm;
    dual = ||dual residual|| / (1 + ||c||), gap = |p - d| / (1 + |p| + |d|). b holds the bound of each row that Ax is
    nearer to, b_x the smaller one of each column: rows and columns have units of their own.

    leak = (|y|^T |Ax - proj(Ax)| + |z|^T |x - proj(x)| + max(1, |(x, Ax)|)^T dual residual) / (1 + |p| + |d|): what
    the violations that are left are worth in the objective, to first order; at zero, a point whose size is not known
    yet, as if it were one. It decides no status; where duals or weights are huge, or one cost hides all others,
    residuals within a tolerance can go with an objective that is not.

    Reference: Lu et al. (2025), cuPDLPx, arXiv 2507.14051, section 2; leak from weak duality.
    """

    primal: float
    dual: float
    gap: float
    leak: float = math.inf

    @property
    def worst(self) -> float:
        """The largest of primal, dual and gap: what a tolerance is about."""
        return max(self.primal, self.dual, self.gap)

    @property
    def objective_error(self) -> float:
        """gap + leak: how far the objective can be from the optimal value, relative and to first order."""
        return self.gap + self.leak


@dataclass(frozen=True)
class LPSolution:
    """A judged answer.

    Attributes:
        x, y: primal and dual point; NaN-filled where the backend had none. A ray when the status names a certificate.
        status: decided by the recomputed residuals, see `solve_lp`.
        objective: ``c^T x + offset``.
        bound: a lower bound on the optimal value proved by y alone; -inf where y proves none.
        kkt: relative residuals, and what they are worth in the objective; infinite where there is no point.
        certified: whether a verdict without an optimum was proved here: `INFEASIBLE` by a Farkas ray, `UNBOUNDED` by a
            recession ray and a feasible point, `INFEASIBLE_OR_UNBOUNDED` by a recession ray (its dual is infeasible).
    """

    x: Float64[Tensor, " n"]
    y: Float64[Tensor, " m"]
    status: LPStatus
    objective: float
    bound: float
    kkt: KKTResiduals
    iterations: int
    seconds: float
    backend: str
    certified: bool = False


def solve_lp(lp: LinearProgram, backend: LPBackend, *, start: LPStart | None = None) -> LPSolution:
    """Solve ``lp`` with ``backend`` and judge the answer.

    The status is `OPTIMAL` exactly when the recomputed residuals meet ``backend.rtol``, whatever the solver said; a
    claim of optimality that misses them becomes `INACCURATE`. A recession ray proves that the program is unbounded only
    if there is a feasible point: ``backend`` is asked for one by solving the program without costs, which takes up to
    its time limit once more. Where it finds none, the verdict is `INFEASIBLE_OR_UNBOUNDED`. An integer program has no
    dual point: there the solver's word is taken for optimality, once x is feasible and whole up to ``backend.rtol``;
    dual residual and gap read 0, and no bound is proved.

    Raises:
        ValueError: if the program has integers and the backend does not take them, or if products with A are not finite
            or have the wrong shape.

    >>> from backends import HiGHS
    >>> lp = LinearProgram(c=[1.0, 1.0], A=[[1.0, 2.0]], row_lower=2.0, col_lower=0.0)
    >>> round(solve_lp(lp, HiGHS()).objective, 9)
    1.0
    """
    return next(iter(solve_lps([lp], backend, start=start)))


def solve_lps(
    lps: Iterable[LinearProgram], backend: LPBackend, *, start: LPStart | None = None
) -> Iterator[LPSolution]:
    """Solve programs that share A one after another, each warm-started from its predecessor, and judge each."""
    programs = list(lps)
    for lp in programs:
        _check_products(lp.A)
        if lp.integrality is not None and not backend.takes_integers:
            raise ValueError(f"backend: expected one that takes integer programs (HiGHS, Pyomo), got {backend.name!r}")
    answers = (backend.solve(lp, start) for lp in programs) if len(programs) == 1 else backend.solve_sequence(programs)
    answers = iter(answers)
    for lp in programs:
        began = time.perf_counter()
        answer = next(answers, _NO_MORE)
        if answer is _NO_MORE:
            raise ValueError(f"{backend.name}: solve_sequence gave fewer answers than the {len(programs)} programs")
        yield judge(lp, answer, backend, time.perf_counter() - began)


def judge(lp: LinearProgram, answer: BackendAnswer, backend: LPBackend, seconds: float) -> LPSolution:
    """Recompute residuals, objective, bound and status of a backend's answer in float64.

    Raises:
        TypeError: if the answer is not what a backend must return.
        ValueError: if its vectors do not have the size of the program.
    """
    if not (isinstance(answer, BackendAnswer) and isinstance(answer.status, LPStatus)):
        raise TypeError(f"{backend.name}: expected a BackendAnswer with an LPStatus from solve, got {answer!r:.200}")
    iterations = _count(f"{backend.name}: iterations", answer.iterations)
    x = _point(f"{backend.name}: x", answer.x, lp.num_columns, lp.A.device)
    y = _point(f"{backend.name}: y", answer.y, lp.num_rows, lp.A.device)
    certified, status = False, answer.status
    objective, bound, kkt = math.nan, -math.inf, KKTResiduals(math.inf, math.inf, math.inf)
    if status is LPStatus.INFEASIBLE:
        certified = proves_infeasible(lp, y)
    elif lp.integrality is not None:
        objective, kkt = _integer_residuals(lp, x)
        if status is LPStatus.OPTIMAL and not kkt.worst <= backend.rtol:
            status = LPStatus.INACCURATE if math.isfinite(objective) else LPStatus.NUMERICAL_ERROR
    elif status in _DUAL_INFEASIBLE and proves_unbounded(lp, x):
        certified, feasible = True, _finds_feasible_point(lp, backend)
        status = LPStatus.UNBOUNDED if feasible else LPStatus.INFEASIBLE_OR_UNBOUNDED
    elif status is not LPStatus.UNBOUNDED and torch.isfinite(x).all() and torch.isfinite(y).all():
        objective, bound, kkt = kkt_residuals(lp, x, y)
        if kkt.worst <= backend.rtol:
            status = LPStatus.OPTIMAL
        elif status is LPStatus.OPTIMAL:
            status = LPStatus.INACCURATE
    elif status is LPStatus.OPTIMAL:
        status = LPStatus.NUMERICAL_ERROR
    return LPSolution(x, y, status, objective, bound, kkt, iterations, seconds, backend.name, certified)


def kkt_residuals(lp: LinearProgram, x: Tensor, y: Tensor) -> tuple[float, float, KKTResiduals]:
    """``(primal objective, proved lower bound, relative KKT residuals)`` of any pair (x, y)."""
    primal_objective = float(lp.c @ x) + lp.offset
    activity, z = lp.A.matvec(x), lp.c - lp.A.rmatvec(y)
    off_rows, off_columns = _violations(lp, x, activity)
    from_rows, rows_left = _support(lp.row_lower, lp.row_upper, y)
    from_columns, columns_left = _support(lp.col_lower, lp.col_upper, z)
    dual_objective = from_rows + from_columns + lp.offset
    dual_residual = math.hypot(float(rows_left.norm()), float(columns_left.norm()))
    size = 1 + abs(primal_objective) + abs(dual_objective)
    kkt = KKTResiduals(
        primal=_primal_residual(lp, activity, off_rows, off_columns),
        dual=dual_residual / (1 + float(lp.c.norm())),
        gap=abs(primal_objective - dual_objective) / size,
        leak=float(
            y.abs() @ off_rows
            + z.abs() @ off_columns
            + activity.abs().clamp(min=1) @ rows_left
            + x.abs().clamp(min=1) @ columns_left
        )
        / size,
    )
    return primal_objective, dual_objective if dual_residual == 0 else -math.inf, kkt


def _integer_residuals(lp: LinearProgram, x: Tensor) -> tuple[float, KKTResiduals]:
    """Objective and primal residual of an integer program, distances to whole numbers included."""
    if not torch.isfinite(x).all():
        return math.nan, KKTResiduals(math.inf, math.inf, math.inf)
    objective, _, kkt = kkt_residuals(lp, x, torch.zeros_like(lp.row_lower))
    off_whole = torch.where(lp.integrality, x - x.round(), 0.0) if lp.integrality is not None else x - x
    return objective, KKTResiduals(math.hypot(kkt.primal, float(off_whole.norm())), 0.0, 0.0)


def proves_infeasible(lp: LinearProgram, ray: Tensor, rtol: float = RAY_RTOL) -> bool:
    """Whether ``ray`` is a Farkas certificate: the dual objective with c = 0 grows along it, residual negligible.

    What infinite bounds leave over of the ray, at most ``rtol`` of the growth, excludes points of norm below
    ``1 / rtol`` only; where every bound is finite nothing is left over, and the proof holds for all.
    """
    if not torch.isfinite(ray).all() or not ray.any():
        return False
    ray = ray / ray.abs().max()
    from_rows, rows_left = _support(lp.row_lower, lp.row_upper, ray)
    pulled = lp.A.rmatvec(ray)
    from_columns, columns_left = _support(lp.col_lower, lp.col_upper, -pulled)
    gain = from_rows + from_columns
    # every point violates the constraints by gain / size or more; by less than this it would pass for feasible
    size = math.hypot(float(ray.norm()), float(pulled.norm()))
    is_violated = gain > 1e-9 * size * (1 + _largest_bounds(lp))
    return is_violated and math.hypot(float(rows_left.norm()), float(columns_left.norm())) <= rtol * gain


def proves_unbounded(lp: LinearProgram, ray: Tensor, rtol: float = RAY_RTOL) -> bool:
    """Whether ``ray`` is a recession direction of the constraints along which the objective falls.

    It may leave finite bounds by ``rtol`` of the fall, which excludes duals of norm below ``1 / rtol`` only.
    """
    if not torch.isfinite(ray).all() or not ray.any():
        return False
    ray = ray / ray.abs().max()
    gain = -float(lp.c @ ray)
    # every y violates the dual constraints by gain / norm or more
    if not gain > 1e-9 * float(ray.norm()) * (1 + float(lp.c.norm())):
        return False
    violation = math.hypot(
        _recession_violation(lp.row_lower, lp.row_upper, lp.A.matvec(ray)),
        _recession_violation(lp.col_lower, lp.col_upper, ray),
    )
    return violation <= rtol * gain


def _finds_feasible_point(lp: LinearProgram, backend: LPBackend) -> bool:
    """Whether ``backend``, with the costs left out, finds a point that meets the primal tolerance."""
    without_costs = LinearProgram(
        c=torch.zeros_like(lp.c), A=lp.A, row_lower=lp.row_lower, row_upper=lp.row_upper,
        col_lower=lp.col_lower, col_upper=lp.col_upper,
    )  # fmt: skip
    x = _point("x", backend.solve(without_costs).x, lp.num_columns, lp.A.device)
    if not torch.isfinite(x).all():
        return False
    activity = lp.A.matvec(x)
    return _primal_residual(lp, activity, *_violations(lp, x, activity)) <= backend.rtol


def _primal_residual(lp: LinearProgram, activity: Tensor, off_rows: Tensor, off_columns: Tensor) -> float:
    """Size of the violations, those of rows and of columns each relative to that of their bounds."""
    rows, columns = size_of_bounds(lp.row_lower, lp.row_upper, activity), smaller_bounds(lp.col_lower, lp.col_upper)
    return math.hypot(float(off_rows.norm() / (1 + rows)), float(off_columns.norm() / (1 + columns)))


def _violations(lp: LinearProgram, x: Tensor, activity: Tensor) -> tuple[Tensor, Tensor]:
    """Distances of Ax to the rows' bounds, and of x to the columns'."""
    off_rows = (activity - activity.clamp(lp.row_lower, lp.row_upper)).abs()
    return off_rows, (x - x.clamp(lp.col_lower, lp.col_upper)).abs()


def size_of_bounds(lower: Tensor, upper: Tensor, activity: Tensor) -> Tensor:
    """``||b||``, b holding the bound of each row that its activity is nearer to; a far one says nothing of scale."""
    nearer = torch.where((activity - lower).abs() <= (upper - activity).abs(), lower, upper)
    return _finite_or_zero(nearer).norm(dim=0)


def smaller_bounds(lower: Tensor, upper: Tensor) -> Tensor:
    """``||b||``, b holding the bound of smaller magnitude, or 0 where both are infinite."""
    return _finite_or_zero(torch.minimum(lower.abs(), upper.abs())).norm(dim=0)


def _largest_bounds(lp: LinearProgram) -> float:
    """``||b||``, b holding the finite bound of larger magnitude of each row."""
    return float(torch.maximum(_finite_or_zero(lp.row_lower).abs(), _finite_or_zero(lp.row_upper).abs()).norm())


def _support(lower: Tensor, upper: Tensor, dual: Tensor) -> tuple[float, Tensor]:
    """``Σ lower dual⁺ − upper dual⁻`` over the finite bounds, and the size of what infinite bounds leave over."""
    at_lower, at_upper = dual.clamp(min=0), (-dual).clamp(min=0)
    value = float((at_lower * _finite_or_zero(lower)).sum() - (at_upper * _finite_or_zero(upper)).sum())
    left_over = torch.where(torch.isfinite(lower), 0.0, at_lower) + torch.where(torch.isfinite(upper), 0.0, at_upper)
    return value, left_over


def _recession_violation(lower: Tensor, upper: Tensor, ray: Tensor) -> float:
    below = torch.where(torch.isfinite(lower), (-ray).clamp(min=0), 0.0)
    above = torch.where(torch.isfinite(upper), ray.clamp(min=0), 0.0)
    return float((below + above).norm())


def _finite_or_zero(vector: Tensor) -> Tensor:
    return torch.where(torch.isfinite(vector), vector, 0.0)


def _point(name: str, value: Tensor | None, size: int, device: torch.device) -> Tensor:
    if value is None:
        return torch.full((size,), math.nan, dtype=torch.float64, device=device)
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor or None in the answer, got {type(value).__name__}")
    if value.shape != (size,):
        raise ValueError(f"{name}: expected shape ({size},) in the answer, got {tuple(value.shape)}")
    return value.detach().to(device=device, dtype=torch.float64)


def _count(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer in the answer, got {value!r}") from None


def _check_products(A: LinearOperator) -> None:  # noqa: N803
    """One product with A and one with its transpose: finite, of the right shape, and y^T(Ax) = x^T(A^T y)."""
    generator = torch.Generator().manual_seed(0)
    m, n = A.shape
    x = torch.randn(n, dtype=torch.float64, generator=generator).to(A.device)
    y = torch.randn(m, dtype=torch.float64, generator=generator).to(A.device)
    ax, aty = A.matvec(x), A.rmatvec(y)
    for name, product, size in (("matvec", ax, m), ("rmatvec", aty, n)):
        if product.shape != (size,):
            raise ValueError(f"A.{name}: expected a result of shape ({size},), got {tuple(product.shape)}")
        if not torch.isfinite(product).all():
            raise ValueError(f"A.{name}: a product with finite numbers holds NaN or inf; check the entries of A")
    if abs(float(y @ ax - x @ aty)) > 1e-3 * (1 + float(y.norm() * ax.norm())):
        raise ValueError("A: rmatvec is not the transpose of matvec: y^T(Ax) and x^T(A^T y) differ on a random pair")
