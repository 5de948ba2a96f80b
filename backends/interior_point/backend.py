"""The `InteriorPoint` backend: which linear systems it solves, where, and with which limits."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import ClassVar

import torch

from backends.devices import move_program
from backends.factors import has_factors, knows_entries
from backends.interior_point.dense import DenseSystem
from backends.interior_point.predictor_corrector import solve_by_predictor_corrector
from backends.interior_point.sparse import SparseSystem
from backends.interior_point.structured import StructuredSystem, core_size
from backends.interior_point.system import NewtonSystem
from backends.memory import check_memory_limit, operator_bytes, require_memory
from lift_core.devices import check_device
from lift_core.lp import BackendAnswer, LinearProgram, LPBackend, LPStart, LPStatus
from lift_core.operators import DENSE_LIMIT, DirectionMatrix, LinearOperator, Sparse

COPIES = 4
"""Matrices as large as A and its normal matrix that a dense system holds."""
DENSE_ROWS = 2_000
"""Up to this many rows a sparse A is factorised as a dense normal matrix."""
CAREFUL = 1e-12
"""Tolerance that Newton's equations are solved for in a second attempt, where the first one broke down: where boxes are
of very different size, a direction that is good enough for a loose tolerance leads out of the small ones."""
PATIENCE = 30, 300
"""Iterations without a better point after which the first and the second attempt give up: on some infeasible programs
the iterates follow a ray that long before it is one."""


@dataclass(frozen=True, kw_only=True)
class InteriorPoint(LPBackend):
    """Mehrotra's predictor-corrector method in float64.

    The Newton systems fit A: factored curvature costs O(n (2k + p)²) per iteration and forms no n x n matrix, dense A
    one Cholesky factorisation of m x m, large sparse A one sparse factorisation (on the CPU).

    Attributes:
        max_iterations: Newton steps; 10 to 30 are usual, whatever the size.
        device: where to compute; None: where the program lives.
        memory_limit: bytes that a solve may take beside the program; None: what the device has. What it needs is
            counted before it starts, and refused if that is more. A more accurate factorisation of dense A, which
            nearly dependent rows ask for, makes do with what is left.

    Reference: Mehrotra (1992), SIAM J. Optim. 2(4); Wright (1997), Primal-Dual Interior-Point Methods, chapter 10.

    >>> from lift_core.lp import LinearProgram, solve_lp
    >>> lp = LinearProgram(c=[1.0, 2.0], A=[[1.0, 1.0]], row_lower=1.0, row_upper=1.0, col_lower=0.0)
    >>> round(solve_lp(lp, InteriorPoint()).objective, 6)
    1.0
    """

    name: ClassVar[str] = "interior_point"
    rtol: float = 1e-8
    max_iterations: int = 500
    device: str | torch.device | None = None
    memory_limit: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations: expected an integer of at least 1, got {self.max_iterations}")
        check_memory_limit(self.memory_limit)
        check_device(self.device)

    def solve(self, lp: LinearProgram, start: LPStart | None = None) -> BackendAnswer:
        """Solve one program; ``start``, a neighbouring solution, saves iterations where it fits the bounds.

        Raises:
            ValueError: if A is known through products only and is too large to be formed, or if memory is short.
        """
        deadline = time.monotonic() + self.time_limit
        spare = require_memory(lp.A, operator_bytes(lp.A), self.device, self.memory_limit)
        lp = move_program(lp, self.device)
        first = None if start is None else start.on(lp)
        answer = self._solve_from(first, lp, spare, deadline)
        if answer.status is LPStatus.NUMERICAL_ERROR:
            again = self._solve_from(None, lp, spare, deadline, careful=True)
            return again._replace(iterations=answer.iterations + again.iterations)
        return answer

    def _solve_from(
        self,
        start: LPStart | None,
        lp: LinearProgram,
        spare: int,
        deadline: float,
        *,
        careful: bool = False,
    ) -> BackendAnswer:
        system = choose_system(lp.A, spare_bytes=spare, careful=careful)
        with torch.inference_mode(knows_entries(lp.A)):  # a tenth faster; products that differentiate would fail
            answer = solve_by_predictor_corrector(
                lp,
                system,
                start,
                rtol=self.rtol,
                max_iterations=self.max_iterations,
                deadline=deadline,
                newton_rtol=CAREFUL if careful else self.rtol,
                patience=PATIENCE[int(careful)],
            )
        x, y = (None if point is None else point.clone() for point in answer[:2])
        return answer._replace(x=x, y=y)


def choose_system(
    A: LinearOperator,  # noqa: N803
    *,
    spare_bytes: float = math.inf,
    careful: bool = False,
) -> NewtonSystem:
    """The cheapest way to solve Newton systems with A.

    Args:
        spare_bytes: what a more accurate factorisation may take beside `operator_bytes`.
        careful: take the most accurate way instead, up to `DENSE_ROWS` rows.

    Raises:
        ValueError: if A is neither factored nor sparse, and too large to be formed.
    """
    m, n = A.shape
    forms = careful and max(m, n) <= DENSE_ROWS and 8 * COPIES * m * (m + n) <= spare_bytes
    if isinstance(A, DirectionMatrix) and has_factors(A) and core_size(A) < A.hessian.shape[0] and not forms:
        return StructuredSystem(A)
    hessian = A.hessian if isinstance(A, DirectionMatrix) else A
    if isinstance(hessian, Sparse) and m > DENSE_ROWS:
        return SparseSystem(A)
    if max(m * n, m * m) > DENSE_LIMIT:
        raise ValueError(
            f"A: {hessian!r} makes a program of shape {(m, n)}, too large to be factorised without structure; use "
            "PDLP, a factored curvature model (LowRank, SR1, Diagonal) or a scipy sparse matrix"
        )
    return DenseSystem(A, spare_bytes=spare_bytes)
