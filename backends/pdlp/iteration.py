"""What both first-order methods have in common: checks, restarts, limits, and programs that leave a batch when done."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backends.kkt import Incumbent, Residuals
from backends.pdlp.batch import Batch
from backends.pdlp.limits import Limits
from backends.pdlp.polish import Polish
from backends.pdlp.restarts import PrimalWeight, RestartRule
from lift_core.lp import BackendAnswer, LPStatus

RAY_CHECKS = 5
"""Certificates are tried at every this many residual checks: each costs a product with A or its transpose."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """What one check of one program found.

    Attributes:
        program: its index among those that are solved together.
        iterations: so far; each costs two products with A.
        seconds: since the solve began.
        restarts: so far.
        weight: primal weight ω of the current epoch.
        primal, dual, gap: relative KKT residuals of the current pair, on unscaled data.
        objective, dual_objective: of the current pair.
    """

    program: int
    iterations: int
    seconds: float
    restarts: int
    weight: float
    primal: float
    dual: float
    gap: float
    objective: float
    dual_objective: float


Callback = Callable[[Check], object]
"""Is called at every check; ``True`` stops the solve."""


class AnchoredIteration(ABC):
    """Halpern's iteration ``z+ = share (2 T(z) - z) + (1 - share) z0`` on every program of a batch.

    Attributes:
        batch: the programs that are still to be solved.
        iterations: applications of T.
        best: the best pair of every program so far.
        errors: fixed-point errors of every program, now and at the beginning of its epoch.
        polish: attempts at finishing each program by Newton steps, which count as iterations.
        jumps: pairs that some programs are to restart from, instead of T(z).
    """

    def __init__(self, batch: Batch, weights: list[PrimalWeight], best: list[Incumbent]) -> None:
        self.batch, self.iterations, self.best, self.weights = batch, 0, best, weights
        self.rules = [RestartRule() for _ in weights]
        self.epoch, self.restarts = [0] * batch.size, [0] * batch.size
        self.errors: list[tuple[float, float]] = []
        self.jumps: dict[int, tuple[Tensor, Tensor]] = {}
        self.polish: list[Polish | None] = [None] * batch.size

    @abstractmethod
    def map(self) -> None:
        """Apply T; the method remembers what it found."""

    @abstractmethod
    def average(self, share: float | Tensor) -> None:
        """Reflect T(z) at z and average with the anchor; call after `map`."""

    @abstractmethod
    def check(self) -> list[Residuals]:
        """Residuals of every program at T(z), in one transfer from the device; sets `errors`."""

    @abstractmethod
    def is_done(self, column: int, residuals: Residuals) -> bool:
        """Whether the best pair of a program is good enough."""

    @abstractmethod
    def certificate(self, column: int) -> BackendAnswer | None:
        """A verified certificate, if the iterates of a program point to one."""

    @abstractmethod
    def restart(self, due: list[bool], residuals: list[Residuals]) -> None:
        """Start a new epoch at T(z), with an updated weight, in the programs that are due."""

    @abstractmethod
    def keep(self, columns: list[int]) -> None:
        """Forget all other programs."""

    def advance(self, count: int) -> None:
        """So many iterations without a look at the residuals."""
        for share in self.shares(count):
            self.map()
            self.average(share)

    def shares(self, count: int) -> Iterator[float | Tensor]:
        """``(k + 1) / (k + 2)`` for the next iterations k of each epoch."""
        epochs, self.epoch = self.epoch, [k + count for k in self.epoch]
        if len(epochs) == 1:
            return iter([(k + 1) / (k + 2) for k in range(epochs[0], epochs[0] + count)])
        k = torch.tensor(epochs, dtype=torch.float64) + torch.arange(count, dtype=torch.float64)[:, None]
        return iter(((k + 1) / (k + 2)).to(self.batch.c.device))

    def proceed(self, residuals: list[Residuals]) -> None:
        """Restart the programs that are due and go on with the others; call after `check`."""
        due = [
            rule.due(error, initial=initial, epoch_iterations=epoch + 1, iterations=self.iterations)
            or column in self.jumps
            for column, (rule, epoch, (error, initial)) in enumerate(
                zip(self.rules, self.epoch, self.errors, strict=True)
            )
        ]
        if not all(due):
            self.average(next(self.shares(1)))
        if any(due):
            self.restart(due, residuals)
            self.epoch = [0 if restarts else k for restarts, k in zip(due, self.epoch, strict=True)]
            self.restarts = [count + restarts for count, restarts in zip(self.restarts, due, strict=True)]

    def keep_records(self, columns: list[int]) -> None:
        """The part of `keep` that all methods share."""
        self.batch = self.batch.keep(columns)
        for name in ("best", "weights", "rules", "epoch", "restarts", "polish"):
            setattr(self, name, [getattr(self, name)[column] for column in columns])

    def report(self, program: int, column: int, residuals: Residuals, seconds: float) -> Check:
        return Check(
            program=program,
            iterations=self.iterations,
            seconds=seconds,
            restarts=self.restarts[column],
            weight=self.weights[column].value,
            primal=residuals.primal,
            dual=residuals.dual,
            gap=residuals.gap,
            objective=residuals.primal_objective,
            dual_objective=residuals.dual_objective,
        )


def drive(
    method: AnchoredIteration, limits: Limits, callback: Callback | None = None, names: Sequence[int] | None = None
) -> list[BackendAnswer]:
    """Iterate until every program is solved, certified, stopped by the callback or by a limit.

    Those that end last stay with the method, which can go on from there.

    Args:
        names: what the callback is told as the number of each program; by default its place in the batch.
    """
    began, checks = time.monotonic(), 0
    answers: dict[int, BackendAnswer] = {}
    programs = list(range(method.batch.size))
    while programs:
        method.advance(limits.block(method.iterations) - 1)
        method.map()
        residuals = method.check()
        checks += 1
        seconds, reached = time.monotonic() - began, limits.reached(method.iterations)
        for column, program in enumerate(programs):
            found = residuals[column]
            name = program if names is None else names[program]
            stop = callback is not None and callback(method.report(name, column, found, seconds)) is True
            answer = _verdict(method, column, found, rays=checks % RAY_CHECKS == 0)
            answer = answer or _answer(method, column, LPStatus.INTERRUPTED if stop else reached)
            if answer is not None:
                answers[program] = answer
        open_columns = [column for column, program in enumerate(programs) if program not in answers]
        if not open_columns:
            break
        method.proceed(residuals)
        if len(open_columns) < len(programs):
            method.keep(open_columns)
            programs = [programs[column] for column in open_columns]
    return [answers[program] for program in sorted(answers)]


def _verdict(method: AnchoredIteration, column: int, residuals: Residuals, *, rays: bool) -> BackendAnswer | None:
    if method.is_done(column, residuals):
        return _answer(method, column, LPStatus.OPTIMAL)
    if rays and (proof := method.certificate(column)) is not None:
        return proof
    return _answer(method, column, LPStatus.NUMERICAL_ERROR) if math.isinf(residuals.worst) else None


def _answer(method: AnchoredIteration, column: int, status: LPStatus | None) -> BackendAnswer | None:
    best = method.best[column]
    polish = method.polish[column]
    iterations = method.iterations + (0 if polish is None else polish.steps)
    return None if status is None else BackendAnswer(best.x, best.y, status, iterations)
