"""The linear-program record, and what a backend is.

One form and one sign convention everywhere:

    min c^T x + offset   s.t.  row_lower <= A x <= row_upper,  col_lower <= x <= col_upper,      z = c - A^T y,

with y_i >= 0 where row i sits at its lower bound and y_i <= 0 at its upper bound, and z likewise for the columns. A
backend returns only `(x, y, status, iterations)`; `solve_lp` recomputes all else in float64 from the data it was given.
"""

from __future__ import annotations

import enum
import math
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


NO_BOUND = 1e20
"""Bounds of this size and beyond are none: what HiGHS and MPS files mean by infinity."""


class LinearProgram:
    """``min c^T x + offset`` s.t. ``row_lower <= A x <= row_upper``, ``col_lower <= x <= col_upper``.

    Args:
        c: costs, shape (n,), finite.
        A: m x n; a tensor, NumPy array, scipy sparse matrix or `LinearOperator`.
        row_lower, row_upper: shape (m,) or one number; -inf / +inf where there is no bound; `NO_BOUND` and more count
            as that.
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
        self.row_lower: Float64[Tensor, " m"] = self._bound("row_lower", row_lower, m, sign=-1)
        self.row_upper: Float64[Tensor, " m"] = self._bound("row_upper", row_upper, m, sign=1)
        self.col_lower: Float64[Tensor, " n"] = self._bound("col_lower", col_lower, n, sign=-1)
        self.col_upper: Float64[Tensor, " n"] = self._bound("col_upper", col_upper, n, sign=1)
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

    def _bound(self, name: str, value: Vector, size: int, *, sign: int) -> Tensor:
        vector = self._vector(name, value, size)
        missing = sign * vector >= NO_BOUND
        return torch.where(missing, sign * math.inf, vector) if bool(missing.any()) else vector

    def _vector(self, name: str, value: Vector, size: int) -> Tensor:
        value = np.array(value) if isinstance(value, np.ndarray) else value  # later changes of theirs are not ours
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
    """A warm start: a primal and a dual point of a neighbouring program.

    Attributes:
        weight: primal weight of a first-order method, see `PDLP`; None leaves it to the method.
    """

    x: Float64[Tensor, " n"]
    y: Float64[Tensor, " m"]
    weight: float | None = None

    def on(self, lp: LinearProgram) -> LPStart | None:
        """The start where the program lives, in float64; None if it is no finite point.

        Raises:
            ValueError: if its shapes do not fit the program, or its weight is not positive.
        """
        if self.x.shape != (lp.num_columns,) or self.y.shape != (lp.num_rows,):
            raise ValueError(
                f"start: expected shapes ({lp.num_columns},) and ({lp.num_rows},), "
                f"got {tuple(self.x.shape)} and {tuple(self.y.shape)}"
            )
        if self.weight is not None and not 0 < self.weight < math.inf:
            raise ValueError(f"start: expected a positive weight or None, got {self.weight}")
        if not bool(torch.isfinite(self.x).all() and torch.isfinite(self.y).all()):
            return None
        device = lp.A.device
        return LPStart(self.x.to(device, torch.float64), self.y.to(device, torch.float64), self.weight)


class BackendAnswer(NamedTuple):
    """What a backend returns, and all that it returns.

    For `INFEASIBLE` put a Farkas ray into ``y``, for `UNBOUNDED` (and for `INFEASIBLE_OR_UNBOUNDED`) a recession ray
    into ``x`` where the solver has one; `solve_lp` verifies it, and tells the last two apart by looking for a feasible
    point.
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
            yield answer  # the judge says what is wrong with one that is no answer
            if answer.x is not None and answer.y is not None and answer.status is LPStatus.OPTIMAL:
                start = LPStart(answer.x, answer.y)
