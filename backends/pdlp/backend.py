"""The `PDLP` backend: which first-order method runs, where, and with which limits."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from backends.devices import move_program
from backends.pdlp import douglas_rachford, halpern
from backends.pdlp.limits import Limits
from backends.pdlp.projection import Projection
from backends.pdlp.units import fit_projection
from lift_core.lp import BackendAnswer, LinearProgram, LPBackend, LPStart, LPStatus
from lift_core.operators import DirectionMatrix

Algorithm = Literal["auto", "halpern", "douglas_rachford"]

PROJECTION_ACCURACY = 1e-5
"""Error of a projection relative to ``rtol``: the fixed point is that many times as sensitive."""


@dataclass(frozen=True, kw_only=True)
class PDLP(LPBackend):
    """First-order linear programming by products with A, in float64, on CPU or CUDA.

    Two methods share anchoring, restarts and step-size control. ``"halpern"`` is r2HPDHG, for any program.
    ``"douglas_rachford"`` projects onto ``{A x = s}`` exactly; direction LPs need that, and ``"auto"`` takes it for
    them wherever H can be factored.

    Attributes:
        max_iterations: iterations of either method; each costs two products with A.
        algorithm: ``"auto"``, ``"halpern"`` or ``"douglas_rachford"``.
        device: where to compute; None: where the program lives.
        check_interval: iterations from one check of residuals and restarts to the next; only these wait for the device.
        densify_limit: ``"auto"`` reads matrix-free Hessians of up to this size column by column, to factor them.

    Reference: Lu et al. (2025), cuPDLPx, arXiv 2507.14051; `backends.pdlp.douglas_rachford`.

    >>> from lift_core.lp import LinearProgram, solve_lp
    >>> lp = LinearProgram(c=[1.0, 2.0], A=[[1.0, 1.0]], row_lower=1.0, row_upper=1.0, col_lower=0.0)
    >>> round(solve_lp(lp, PDLP(rtol=1e-6)).objective, 4)
    1.0
    """

    name: ClassVar[str] = "pdlp"
    rtol: float = 1e-4
    max_iterations: int = 1_000_000
    algorithm: Algorithm = "auto"
    device: str | torch.device | None = None
    check_interval: int = 40
    densify_limit: int = 2_048

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.algorithm not in ("auto", "halpern", "douglas_rachford"):
            raise ValueError(f"algorithm: expected 'auto', 'halpern' or 'douglas_rachford', got {self.algorithm!r}")
        for name, smallest in (("max_iterations", 1), ("check_interval", 1), ("densify_limit", 0)):
            if getattr(self, name) < smallest:
                raise ValueError(f"{name}: expected an integer of at least {smallest}, got {getattr(self, name)}")

    def solve(self, lp: LinearProgram, start: LPStart | None = None) -> BackendAnswer:
        """Solve one program; ``start`` sets the first iterate.

        Raises:
            ValueError: if ``algorithm="douglas_rachford"`` and A has no projection within the limits of this machine.
        """
        lp, start = move_program(lp, self.device), _usable(start, lp)
        if start is not None:
            start = LPStart(start.x.to(lp.A.device, torch.float64), start.y.to(lp.A.device, torch.float64))
        limits = Limits(
            rtol=self.rtol,
            max_iterations=self.max_iterations,
            deadline=time.monotonic() + self.time_limit,
            check_interval=self.check_interval,
        )
        projection = self._projection(lp)
        if projection is None:
            answer = halpern.solve(lp, start, limits)
        else:
            answer = douglas_rachford.solve(lp, projection, start, limits)
        return _settle_unbounded(lp, answer, limits) if answer.status is LPStatus.UNBOUNDED else answer

    def _projection(self, lp: LinearProgram) -> Projection | None:
        """The projection that Douglas-Rachford is to use, or None if r2HPDHG is to run."""
        direction = isinstance(lp.A, DirectionMatrix) and 0 not in lp.A.shape
        if self.algorithm == "halpern" or (self.algorithm == "auto" and not direction):
            return None
        forced = self.algorithm == "douglas_rachford"
        projection = fit_projection(
            lp,
            densify_limit=max(lp.A.shape) if forced else self.densify_limit,
            accuracy=PROJECTION_ACCURACY * self.rtol,
        )
        if projection is None and forced:
            raise ValueError(
                f"algorithm: 'douglas_rachford' needs to factor A, but {lp.A!r} is too large for that; use 'halpern'"
            )
        return projection


def _settle_unbounded(lp: LinearProgram, answer: BackendAnswer, limits: Limits) -> BackendAnswer:
    """Decide whether a program with a recession ray is feasible at all, by solving it without costs."""
    without_costs = LinearProgram(
        c=torch.zeros_like(lp.c),
        A=lp.A,
        row_lower=lp.row_lower,
        row_upper=lp.row_upper,
        col_lower=lp.col_lower,
        col_upper=lp.col_upper,
    )
    feasibility = halpern.solve(without_costs, None, limits)
    iterations = answer.iterations + feasibility.iterations
    if feasibility.status is LPStatus.OPTIMAL:
        return answer._replace(iterations=iterations)
    if feasibility.status is LPStatus.INFEASIBLE:
        return feasibility._replace(iterations=iterations)
    return BackendAnswer(None, None, LPStatus.INFEASIBLE_OR_UNBOUNDED, iterations)


def _usable(start: LPStart | None, lp: LinearProgram) -> LPStart | None:
    """The start, or None where it is not a finite point.

    Raises:
        ValueError: if its shapes do not fit the program.
    """
    if start is None:
        return None
    if start.x.shape != (lp.num_columns,) or start.y.shape != (lp.num_rows,):
        raise ValueError(
            f"start: expected shapes ({lp.num_columns},) and ({lp.num_rows},), "
            f"got {tuple(start.x.shape)} and {tuple(start.y.shape)}"
        )
    return start if bool(torch.isfinite(start.x).all() and torch.isfinite(start.y).all()) else None
