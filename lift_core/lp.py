"""The linear-program record, its solution record, and the judge that stands between a backend and its user.

One form and one sign convention everywhere:

    min c^T x + offset   s.t.  row_lower <= A x <= row_upper,  col_lower <= x <= col_upper,      z = c - A^T y,

with y_i >= 0 where row i sits at its lower bound and y_i <= 0 at its upper bound, and z likewise for the columns. A
backend returns only `(x, y, status, iterations)`; `solve_lp` recomputes all else in float64 from the data it was given.
"""

from __future__ import annotations

import enum
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float64
from torch import Tensor

from lift_core.operators import DENSE_LIMIT, LinearOperator, as_operator, require_finite

Vector = Tensor | np.ndarray | list[float] | float


class LPStatus(enum.Enum):
    """How a solve ended; the value is the sentence a user reads."""

    OPTIMAL = "optimal: the recomputed KKT residuals meet the tolerance"
    INFEASIBLE = "infeasible: no point satisfies the constraints"
    UNBOUNDED = "unbounded: the objective falls without end along a feasible ray"
    INFEASIBLE_OR_UNBOUNDED = "infeasible or unbounded: the solver did not tell which"
    ITERATION_LIMIT = "the iteration limit was reached before the tolerance"
    TIME_LIMIT = "the time limit was reached before the tolerance"
    INTERRUPTED = "interrupted before the tolerance was reached"
    INACCURATE = "the solver claims success, but the recomputed KKT residuals miss the tolerance"
    NUMERICAL_ERROR = "numerical trouble stopped the solver; the best point it had is returned"
    FAILED = "the solver ended in a way that this adapter does not know"

    @property
    def ok(self) -> bool:
        return self is LPStatus.OPTIMAL


class LinearProgram:
    """``min c^T x + offset`` s.t. ``row_lower <= A x <= row_upper``, ``col_lower <= x <= col_upper``.

    Args:
        c: costs, shape (n,), finite.
        A: m x n; a tensor, NumPy array, scipy sparse matrix or `LinearOperator`.
        row_lower, row_upper: shape (m,) or one number; -inf / +inf where there is no bound.
        col_lower, col_upper: shape (n,) or one number; default: free.
        offset: constant added to the objective.
        integrality: which variables must be whole numbers, shape (n,); None for none. Only backends whose
            ``takes_integers`` is true solve such programs.

    Raises:
        ValueError: wrong shapes, NaN anywhere, inf in ``c`` or ``A``, a lower bound above its upper bound or of +inf.

    >>> lp = LinearProgram(c=[1.0, 1.0], A=[[1.0, 2.0]], row_lower=[2.0], row_upper=[float("inf")], col_lower=0.0)
    >>> lp.num_rows, lp.num_columns
    (1, 2)
    """

    def __init__(
        self,
        *,
        c: Vector,
        A: object,  # noqa: N803  (the field's letter)
        row_lower: Vector = -math.inf,
        row_upper: Vector = math.inf,
        col_lower: Vector = -math.inf,
        col_upper: Vector = math.inf,
        offset: float = 0.0,
        integrality: Tensor | np.ndarray | list[bool] | None = None,
    ) -> None:
        self.A: LinearOperator = as_operator(A)
        m, n = self.A.shape
        self.c: Float64[Tensor, " n"] = self._vector("c", c, n)
        require_finite(c=self.c)
        self.row_lower: Float64[Tensor, " m"] = self._vector("row_lower", row_lower, m)
        self.row_upper: Float64[Tensor, " m"] = self._vector("row_upper", row_upper, m)
        self.col_lower: Float64[Tensor, " n"] = self._vector("col_lower", col_lower, n)
        self.col_upper: Float64[Tensor, " n"] = self._vector("col_upper", col_upper, n)
        self._check_bounds("row", self.row_lower, self.row_upper)
        self._check_bounds("col", self.col_lower, self.col_upper)
        self.offset = float(offset)
        if not math.isfinite(self.offset):
            raise ValueError(f"offset: expected a finite number, got {offset}")
        self.integrality = None if integrality is None else torch.as_tensor(integrality, dtype=torch.bool)
        if self.integrality is not None and self.integrality.shape != (n,):
            raise ValueError(f"integrality: expected shape ({n},), got {tuple(self.integrality.shape)}")

    @property
    def num_rows(self) -> int:
        return self.A.shape[0]

    @property
    def num_columns(self) -> int:
        return self.A.shape[1]

    @property
    def is_boxed(self) -> bool:
        """Whether every variable has two finite bounds; then any y gives a valid lower bound on the optimal value."""
        return bool(torch.isfinite(self.col_lower).all() and torch.isfinite(self.col_upper).all())

    def explicit(self, limit: int = DENSE_LIMIT) -> ExplicitLP:
        """The program over an explicit sparse matrix in NumPy arrays; auxiliary variables last where A is factored.

        The first `num_columns` entries of a solution x and the first `num_rows` of its y solve this program.

        Raises:
            ValueError: if A has no explicit form within ``limit`` entries.
        """
        matrix, k = self.A.lifted(limit)
        free, zero = np.full(k, np.inf), np.zeros(k)
        pairs = [
            (self.c, zero),
            (self.row_lower, zero),
            (self.row_upper, zero),
            (self.col_lower, -free),
            (self.col_upper, free),
        ]
        c, row_lower, row_upper, col_lower, col_upper = (np.concatenate([v.cpu().numpy(), extra]) for v, extra in pairs)
        whole = None
        if self.integrality is not None:
            whole = np.concatenate([self.integrality.cpu().numpy(), np.zeros(k, dtype=bool)])
        return ExplicitLP(c, sp.csr_matrix(matrix), row_lower, row_upper, col_lower, col_upper, self.offset, whole)

    def _vector(self, name: str, value: Vector, size: int) -> Tensor:
        vector = torch.as_tensor(value, dtype=torch.float64, device=self.A.device)
        if vector.ndim == 0:
            vector = vector.expand(size).clone()
        if vector.shape != (size,):
            raise ValueError(
                f"{name}: expected shape ({size},) to fit A of shape {self.A.shape}, got {tuple(vector.shape)}"
            )
        if vector.isnan().any():
            raise ValueError(f"{name}: NaN at index {int(vector.isnan().nonzero()[0])}")
        return vector

    @staticmethod
    def _check_bounds(name: str, lower: Tensor, upper: Tensor) -> None:
        bad = (lower > upper) | (lower == math.inf) | (upper == -math.inf)
        if bad.any():
            i = int(bad.nonzero()[0])
            raise ValueError(
                f"{name}_lower, {name}_upper: bounds cross at index {i}: [{lower[i].item()}, {upper[i].item()}]"
            )

    def __repr__(self) -> str:
        return f"LinearProgram(rows={self.num_rows:,}, columns={self.num_columns:,}, A={type(self.A).__name__})"


class ExplicitLP(NamedTuple):
    """A `LinearProgram` as NumPy arrays and a CSR matrix: what solver libraries take."""

    c: np.ndarray
    A: sp.csr_matrix
    row_lower: np.ndarray
    row_upper: np.ndarray
    col_lower: np.ndarray
    col_upper: np.ndarray
    offset: float
    integrality: np.ndarray | None = None


class LPStart(NamedTuple):
    """A warm start: a primal and a dual point of a neighbouring program."""

    x: Float64[Tensor, " n"]
    y: Float64[Tensor, " m"]


class BackendAnswer(NamedTuple):
    """What a backend returns, and all that it returns.

    For `INFEASIBLE` put a Farkas ray into ``y`` and for `UNBOUNDED` a recession ray into ``x`` where the solver has
    one; `solve_lp` then verifies it.
    """

    x: Float64[Tensor, " n"] | None
    y: Float64[Tensor, " m"] | None
    status: LPStatus
    iterations: int = 0


@dataclass(frozen=True, kw_only=True)
class LPBackend(ABC):
    """A way to solve linear programs. Options are fields of a frozen dataclass.

    Attributes:
        rtol: relative KKT tolerance that an answer is asked to meet, and judged by.
        time_limit: seconds, on a monotonic clock.
        takes_integers: whether it solves programs with `LinearProgram.integrality`.
    """

    name: ClassVar[str]
    takes_integers: ClassVar[bool] = False
    rtol: float = 1e-6
    time_limit: float = math.inf

    def __post_init__(self) -> None:
        if not 0 < self.rtol < 1:
            raise ValueError(f"rtol: expected a number in (0, 1), got {self.rtol}")
        if not self.time_limit > 0:
            raise ValueError(f"time_limit: expected positive seconds, got {self.time_limit}")

    @abstractmethod
    def solve(self, lp: LinearProgram, start: LPStart | None = None) -> BackendAnswer:
        """Solve one validated program; ``start`` is a hint that may be ignored."""

    def solve_sequence(self, lps: Iterable[LinearProgram]) -> Iterator[BackendAnswer]:
        """Solve programs that share A, each started from its predecessor; override where the solver knows better."""
        start = None
        for lp in lps:
            answer = self.solve(lp, start)
            if answer.x is not None and answer.y is not None and answer.status is LPStatus.OPTIMAL:
                start = LPStart(answer.x, answer.y)
            yield answer


@dataclass(frozen=True)
class KKTResiduals:
    """Relative KKT residuals (2-norms), recomputed in float64 on the unscaled data.

    primal = (||Ax - proj(Ax)|| + ||x - proj(x)||) / (1 + ||b||), dual = ||dual residual|| / (1 + ||c||),
    gap = |p - d| / (1 + |p| + |d|); b holds the finite row bound of larger magnitude of each row.

    Reference: Lu et al. (2025), cuPDLPx, arXiv 2507.14051, section 2.
    """

    primal: float
    dual: float
    gap: float

    @property
    def worst(self) -> float:
        return max(self.primal, self.dual, self.gap)


@dataclass(frozen=True)
class LPSolution:
    """A judged answer.

    Attributes:
        x, y: primal and dual point; NaN-filled where the backend had none. A ray when the status names a certificate.
        status: decided by the recomputed residuals, see `solve_lp`.
        objective: ``c^T x + offset``.
        bound: a lower bound on the optimal value proved by y alone; -inf where y proves none.
        kkt: relative residuals; infinite where there is no point.
        certified: whether an infeasible or unbounded verdict carries a ray that was verified here.
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
    claim of optimality that misses them becomes `INACCURATE`. An integer program has no dual point: there the solver's
    word is taken for optimality, once x is feasible and whole up to ``backend.rtol``; dual residual and gap read 0, and
    no bound is proved.

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
        answer = next(answers, None)
        if answer is None:
            raise ValueError(f"{backend.name}: solve_sequence gave fewer answers than the {len(programs)} programs")
        yield judge(lp, answer, backend, time.perf_counter() - began)


def judge(lp: LinearProgram, answer: BackendAnswer, backend: LPBackend, seconds: float) -> LPSolution:
    """Recompute residuals, objective, bound and status of a backend's answer in float64."""
    x = _point("x", answer.x, lp.num_columns, lp.A.device)
    y = _point("y", answer.y, lp.num_rows, lp.A.device)
    certified, status = False, answer.status
    objective, bound, kkt = math.nan, -math.inf, KKTResiduals(math.inf, math.inf, math.inf)
    if status in (LPStatus.INFEASIBLE, LPStatus.UNBOUNDED):
        certified = proves_infeasible(lp, y) if status is LPStatus.INFEASIBLE else proves_unbounded(lp, x)
    elif lp.integrality is not None:
        objective, kkt = _integer_residuals(lp, x)
        if status is LPStatus.OPTIMAL and not kkt.worst <= backend.rtol:
            status = LPStatus.INACCURATE if math.isfinite(objective) else LPStatus.NUMERICAL_ERROR
    elif torch.isfinite(x).all() and torch.isfinite(y).all():
        objective, bound, kkt = kkt_residuals(lp, x, y)
        if kkt.worst <= backend.rtol:
            status = LPStatus.OPTIMAL
        elif status is LPStatus.OPTIMAL:
            status = LPStatus.INACCURATE
    elif status is LPStatus.OPTIMAL:
        status = LPStatus.NUMERICAL_ERROR
    return LPSolution(x, y, status, objective, bound, kkt, answer.iterations, seconds, backend.name, certified)


def kkt_residuals(lp: LinearProgram, x: Tensor, y: Tensor) -> tuple[float, float, KKTResiduals]:
    """``(primal objective, proved lower bound, relative KKT residuals)`` of any pair (x, y)."""
    activity = lp.A.matvec(x)
    off_rows = activity - activity.clamp(lp.row_lower, lp.row_upper)
    off_columns = x - x.clamp(lp.col_lower, lp.col_upper)
    primal_objective = float(lp.c @ x) + lp.offset
    from_rows, row_residual = _support(lp.row_lower, lp.row_upper, y)
    from_columns, column_residual = _support(lp.col_lower, lp.col_upper, lp.c - lp.A.rmatvec(y))
    dual_objective = from_rows + from_columns + lp.offset
    dual_residual = math.hypot(row_residual, column_residual)
    largest = torch.maximum(_finite_or_zero(lp.row_lower).abs(), _finite_or_zero(lp.row_upper).abs())
    kkt = KKTResiduals(
        primal=math.hypot(float(off_rows.norm()), float(off_columns.norm())) / (1 + float(largest.norm())),
        dual=dual_residual / (1 + float(lp.c.norm())),
        gap=abs(primal_objective - dual_objective) / (1 + abs(primal_objective) + abs(dual_objective)),
    )
    return primal_objective, dual_objective if dual_residual == 0 else -math.inf, kkt


def _integer_residuals(lp: LinearProgram, x: Tensor) -> tuple[float, KKTResiduals]:
    """Objective and primal residual of an integer program, distances to whole numbers included."""
    if not torch.isfinite(x).all():
        return math.nan, KKTResiduals(math.inf, math.inf, math.inf)
    objective, _, kkt = kkt_residuals(lp, x, torch.zeros_like(lp.row_lower))
    off_whole = torch.where(lp.integrality, x - x.round(), 0.0) if lp.integrality is not None else x - x
    return objective, KKTResiduals(math.hypot(kkt.primal, float(off_whole.norm())), 0.0, 0.0)


def proves_infeasible(lp: LinearProgram, ray: Tensor, rtol: float = 1e-6) -> bool:
    """Whether ``ray`` is a Farkas certificate: the dual objective with c = 0 grows along it, residual negligible."""
    if not torch.isfinite(ray).all() or not ray.any():
        return False
    ray = ray / ray.abs().max()
    from_rows, row_residual = _support(lp.row_lower, lp.row_upper, ray)
    from_columns, column_residual = _support(lp.col_lower, lp.col_upper, -lp.A.rmatvec(ray))
    gain = from_rows + from_columns
    # every point violates the constraints by gain / size or more; by less than this it would pass for feasible
    size = math.hypot(float(ray.norm()), float(lp.A.rmatvec(ray).norm()))
    largest = torch.maximum(_finite_or_zero(lp.row_lower).abs(), _finite_or_zero(lp.row_upper).abs())
    is_violated = gain > 1e-9 * size * (1 + float(largest.norm()))
    return is_violated and math.hypot(row_residual, column_residual) <= rtol * gain


def proves_unbounded(lp: LinearProgram, ray: Tensor, rtol: float = 1e-6) -> bool:
    """Whether ``ray`` is a recession direction of the constraints along which the objective falls."""
    if not torch.isfinite(ray).all() or not ray.any():
        return False
    ray = ray / ray.abs().max()
    gain = -float(lp.c @ ray)
    violation = math.hypot(
        _recession_violation(lp.row_lower, lp.row_upper, lp.A.matvec(ray)),
        _recession_violation(lp.col_lower, lp.col_upper, ray),
    )
    # every y violates the dual constraints by gain / norm or more
    return gain > 1e-9 * float(ray.norm()) * (1 + float(lp.c.norm())) and violation <= rtol * gain


def _support(lower: Tensor, upper: Tensor, dual: Tensor) -> tuple[float, float]:
    """``Σ lower dual⁺ − upper dual⁻`` over the finite bounds, and the norm of what infinite bounds leave over."""
    at_lower, at_upper = dual.clamp(min=0), (-dual).clamp(min=0)
    value = float((at_lower * _finite_or_zero(lower)).sum() - (at_upper * _finite_or_zero(upper)).sum())
    left_over = torch.where(torch.isfinite(lower), 0.0, at_lower) + torch.where(torch.isfinite(upper), 0.0, at_upper)
    return value, float(left_over.norm())


def _recession_violation(lower: Tensor, upper: Tensor, ray: Tensor) -> float:
    below = torch.where(torch.isfinite(lower), (-ray).clamp(min=0), 0.0)
    above = torch.where(torch.isfinite(upper), ray.clamp(min=0), 0.0)
    return float((below + above).norm())


def _finite_or_zero(vector: Tensor) -> Tensor:
    return torch.where(torch.isfinite(vector), vector, 0.0)


def _point(name: str, value: Tensor | None, size: int, device: torch.device) -> Tensor:
    if value is None:
        return torch.full((size,), math.nan, dtype=torch.float64, device=device)
    if value.shape != (size,):
        raise ValueError(f"the backend returned {name} of shape {tuple(value.shape)}, expected ({size},)")
    return value.detach().to(device=device, dtype=torch.float64)


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
