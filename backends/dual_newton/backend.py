"""The `DualNewton` backend."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from backends.devices import move_program
from backends.dual_newton.iteration import DualNewtonIteration
from backends.factors import factors, has_factors
from backends.interior_point import InteriorPoint
from backends.memory import check_memory_limit, dual_newton_bytes, require_memory
from lift_core.devices import check_device
from lift_core.lp import BackendAnswer, LinearProgram, LPBackend, LPStart
from lift_core.operators import DirectionMatrix


@dataclass(frozen=True, kw_only=True)
class DualNewton(LPBackend):
    """Proximal Newton on the dual: for programs in a box of which few rows bind.

    Direction LPs of a trained network with low-rank curvature are such: entries of V have heavy tails, and of a
    million rows some as many bind as the curvature has rank. An iteration costs two products with A and a small active
    set; there are 5 to 40, whatever the size. Where columns are unbounded, more than ``max_rows`` rows matter, or it
    gets no further, it hands the program to ``InteriorPoint``.

    Attributes:
        max_iterations: Newton steps, of each of the two methods.
        max_rows: rows that may be looked at at a time.
        device: where to compute; None: where the program lives.
        memory_limit: bytes that a solve may take beside the program; None: what the device has. What either method
            needs is counted before it starts, and refused if that is more.

    Reference: Lee, Sun, Saunders (2014), SIAM J. Optim. 24(3); Lee, Battle, Raina, Ng (2007), NeurIPS 19.

    >>> from lift_core.lp import LinearProgram, solve_lp
    >>> lp = LinearProgram(c=[1.0, 2.0], A=[[1.0, 1.0]], row_lower=1.0, row_upper=1.0, col_lower=0.0, col_upper=1.0)
    >>> round(solve_lp(lp, DualNewton()).objective, 5)
    1.0
    """

    name: ClassVar[str] = "dual_newton"
    rtol: float = 1e-6
    max_iterations: int = 200
    max_rows: int = 1_000
    device: str | torch.device | None = None
    memory_limit: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_iterations", "max_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected an integer of at least 1, got {getattr(self, name)}")
        check_memory_limit(self.memory_limit)
        check_device(self.device)

    def solve(self, lp: LinearProgram, start: LPStart | None = None) -> BackendAnswer:
        """Solve one program; ``start``, a pair near its solution, saves some iterations.

        Raises:
            ValueError: if memory is short, or if the program must be handed over and is too large for `InteriorPoint`.
        """
        deadline = time.monotonic() + self.time_limit
        if lp.is_boxed and has_factors(lp.A):
            answer = self._solve_here(lp, start, deadline)
            if answer is not None:
                return answer
        rest = InteriorPoint(
            rtol=self.rtol, time_limit=max(deadline - time.monotonic(), 1e-3), max_iterations=self.max_iterations,
            device=self.device, memory_limit=self.memory_limit,
        )  # fmt: skip
        return rest.solve(lp, start)

    def _solve_here(self, lp: LinearProgram, start: LPStart | None, deadline: float) -> BackendAnswer | None:
        """From the start and, where that leads nowhere, from nothing; None if both do."""
        assert isinstance(lp.A, DirectionMatrix)
        (n, rank), device = factors(lp.A.hessian)[1].shape, torch.device(self.device or lp.A.device)
        needed = dual_newton_bytes(n, rank, lp.A.num_hyper, max_rows=self.max_rows, device=device.type)
        remedy = f"lower max_rows={self.max_rows}, tune fewer weights"
        require_memory(lp.A, needed, device, self.memory_limit, remedy=remedy)
        lp = move_program(lp, device)
        start = None if start is None else start.on(lp)
        for first in (None,) if start is None else (start, None):
            iteration = DualNewtonIteration(lp, max_rows=self.max_rows)
            answer = iteration.solve(first, rtol=self.rtol, max_iterations=self.max_iterations, deadline=deadline)
            if answer is not None:
                return answer
        return None

    def solve_sequence(self, lps: Iterable[LinearProgram]) -> Iterator[BackendAnswer]:
        """Each from nothing: along a path of slacks ten times apart, the neighbour's solution is no better a start."""
        return (self.solve(lp) for lp in lps)
