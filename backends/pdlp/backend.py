"""The `PDLP` backend: which first-order method runs, where, and with which limits."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch

from backends.devices import move_program
from backends.factors import is_zero
from backends.pdlp import douglas_rachford, halpern
from backends.pdlp.batch import Batch, make_batch
from backends.pdlp.inexact import fit_inexact_projection
from backends.pdlp.interior import closed_forms
from backends.pdlp.iteration import Callback
from backends.pdlp.limits import Limits
from backends.pdlp.projection import Projection
from backends.pdlp.units import fit_projection
from lift_core.devices import check_device
from lift_core.lp import BackendAnswer, LinearProgram, LPBackend, LPStart, LPStatus
from lift_core.operators import DirectionMatrix

Algorithm = Literal["auto", "halpern", "douglas_rachford"]

PROJECTION_ACCURACY = 1e-5
"""Error of a projection relative to ``rtol``: the fixed point is that many times as sensitive."""


@dataclass(frozen=True, kw_only=True)
class PDLP(LPBackend):
    """First-order linear programming by products with A, in float64, on CPU or CUDA.

    Two methods share anchoring, restarts and step-size control. ``"halpern"`` is r2HPDHG, for any program.
    ``"douglas_rachford"`` projects onto ``{A x = s}``; direction LPs need that, and ``"auto"`` takes it for them. The
    projection is exact where H can be factored; where only its products are at hand it is one of a few conjugate
    gradient steps, see `backends.pdlp.inexact`. Programs that share A are solved side by side (`lift_core.solve_lps`).
    One that takes r2HPDHG long is iterated without its costs beside, in case it is infeasible.

    Attributes:
        max_iterations: iterations of either method. Each costs two products with A, or a projection where that is
            exact; by products alone one projection takes about ten, and a direction is of use after some thirty.
        algorithm: ``"auto"``, ``"halpern"`` or ``"douglas_rachford"``.
        device: where to compute; None: where the program lives.
        check_interval: iterations from one check of residuals and restarts to the next; only these wait for the device.
        densify_limit: ``"auto"`` reads matrix-free Hessians of up to this size column by column, to factor them.
        polish: whether proximal Newton steps may finish what iterations have begun, where entries of A are at hand
            (up to 2,000 rows, 2,500 where sparse factors are cheap) or curvature is factored, and memory allows; they
            count as iterations. See `backends.pdlp.polish`.
        callback: is given a `Check` (iterations, seconds, restarts, weight, residuals, objectives) of every program at
            every check; if it returns True, the solve stops as `INTERRUPTED` with the best pair so far. A list's
            ``append`` keeps a log.

    Reference: Lu et al. (2025), cuPDLPx, arXiv 2507.14051; `backends.pdlp.douglas_rachford`.

    >>> from lift_core.lp import LinearProgram, solve_lp
    >>> lp = LinearProgram(c=[1.0, 2.0], A=[[1.0, 1.0]], row_lower=1.0, row_upper=1.0, col_lower=0.0)
    >>> log = []
    >>> round(solve_lp(lp, PDLP(rtol=1e-6, callback=log.append)).objective, 4)
    1.0
    >>> log[0].iterations
    40
    """

    name: ClassVar[str] = "pdlp"
    rtol: float = 1e-4
    max_iterations: int = 1_000_000
    algorithm: Algorithm = "auto"
    device: str | torch.device | None = None
    check_interval: int = 40
    densify_limit: int = 2_048
    polish: bool = True
    callback: Callback | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.algorithm not in ("auto", "halpern", "douglas_rachford"):
            raise ValueError(f"algorithm: expected 'auto', 'halpern' or 'douglas_rachford', got {self.algorithm!r}")
        check_device(self.device)
        for name, smallest in (("max_iterations", 1), ("check_interval", 1), ("densify_limit", 0)):
            if getattr(self, name) < smallest:
                raise ValueError(f"{name}: expected an integer of at least {smallest}, got {getattr(self, name)}")

    def solve(self, lp: LinearProgram, start: LPStart | None = None) -> BackendAnswer:
        """Solve one program; ``start`` sets the first iterate, and the primal weight if it has one.

        Raises:
            ValueError: if ``algorithm="douglas_rachford"`` and A has no projection within the limits of this machine.
        """
        return self._solve_together([lp], [start])[0]

    def solve_sequence(self, lps: Iterable[LinearProgram]) -> Iterator[BackendAnswer]:
        """Solve programs that share A side by side: every product with A is one with a block of vectors.

        Together they have the time that they would have one by one.
        """
        programs = list(lps)
        yield from self._solve_together(programs, [None] * len(programs)) if programs else []

    def _solve_together(self, lps: Sequence[LinearProgram], starts: Sequence[LPStart | None]) -> list[BackendAnswer]:
        first = move_program(lps[0], self.device)
        lps = [first, *(move_program(lp, self.device, A=first.A) for lp in lps[1:])]
        starts = [None if start is None else start.on(lp) for start, lp in zip(starts, lps, strict=True)]
        limits = Limits(
            rtol=self.rtol,
            max_iterations=self.max_iterations,
            deadline=time.monotonic() + len(lps) * self.time_limit,
            check_interval=self.check_interval,
        )
        answers = self._run(make_batch(lps), starts, limits)
        return [
            _settle_unbounded(lp, answer, limits) if answer.status is LPStatus.UNBOUNDED else answer
            for lp, answer in zip(lps, answers, strict=True)
        ]

    def _run(self, batch: Batch, starts: Sequence[LPStart | None], limits: Limits) -> list[BackendAnswer]:
        """By the closed form where it holds, and the others by one of the two methods."""
        use_projection = self._wants_projection(batch)
        answers = closed_forms(batch, self.rtol) if use_projection else {}
        left = [column for column in range(batch.size) if column not in answers]
        if left:
            rest, starts = batch.keep(left), [starts[column] for column in left]
            projection = self._projection(rest) if use_projection else None
            if projection is None:
                found = halpern.solve(rest, starts, limits, callback=self.callback, polish=self.polish, names=left)
            else:
                found = douglas_rachford.solve(
                    rest, projection, starts, limits, callback=self.callback, polish=self.polish, names=left
                )
            answers |= dict(zip(left, found, strict=True))
        return [answers[column] for column in range(batch.size)]

    def _wants_projection(self, batch: Batch) -> bool:
        # where H is zero, rows may depend on each other, and projections onto them would not be stable
        direction = isinstance(batch.A, DirectionMatrix) and 0 not in batch.A.shape and not is_zero(batch.A.hessian)
        return self.algorithm == "douglas_rachford" or (self.algorithm == "auto" and direction)

    def _projection(self, batch: Batch) -> Projection | None:
        """The projection that Douglas-Rachford is to use, or None if r2HPDHG is to run."""
        forced = self.algorithm == "douglas_rachford"
        projection = fit_projection(
            batch,
            densify_limit=max(batch.A.shape) if forced else self.densify_limit,
            accuracy=PROJECTION_ACCURACY * self.rtol,
        )
        projection = fit_inexact_projection(batch) if projection is None else projection
        if projection is None and forced:
            raise ValueError(
                f"algorithm: 'douglas_rachford' needs to factor A, but {batch.A!r} is too large for that; use 'halpern'"
            )
        return projection


def _settle_unbounded(lp: LinearProgram, answer: BackendAnswer, limits: Limits) -> BackendAnswer:
    """Decide whether a program with a recession ray is feasible at all, by solving it without costs."""
    (feasibility,) = halpern.solve(make_batch([lp]).without_costs(), [None], limits)
    iterations = answer.iterations + feasibility.iterations
    if feasibility.status is LPStatus.OPTIMAL:
        return answer._replace(iterations=iterations)
    if feasibility.status is LPStatus.INFEASIBLE:
        return feasibility._replace(iterations=iterations)
    return BackendAnswer(None, None, LPStatus.INFEASIBLE_OR_UNBOUNDED, iterations)
