"""Moves: ways from one point to a better one. The LP direction (`lp_move`) and its controls share this one interface.

A move proposes candidates; each carries its loss on the selection split, and the best of them wins. For a direction the
candidates are the ends of line searches, for training they are the epochs (so that choosing is early stopping).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float64
from torch import Tensor

from lift_core.curvature import Snapshots
from lift_core.direction import TrustBox
from lift_core.line_search import GoldenSection, LineSearch
from lift_core.linearization import Linearization, linearize
from lift_core.problem import BilevelProblem, Point
from lift_core.training import Trainer, TrainingDivergedError, TrainingState

Facts = dict[str, Any]
"""What a report says of a candidate: JSON values only."""


@dataclass(frozen=True)
class Situation:
    """What every move starts from.

    Attributes:
        training: the point, with the optimiser's state.
        selection_loss: F there, on the selection split.
        snapshots: weights visited during the warm-up.
        budget: passes over the training split (gradient equivalents) that a training control may spend.
        trainer, line_search, seed: shared by all moves.
    """

    training: TrainingState
    selection_loss: float
    snapshots: Snapshots = ()
    budget: float = math.inf
    trainer: Trainer = field(default_factory=Trainer)
    line_search: LineSearch = field(default_factory=GoldenSection)
    seed: int = 0

    @property
    def point(self) -> Point:
        return self.training.point

    @property
    def known(self) -> dict[str, float]:
        """Losses at the point, by split, that need not be evaluated again."""
        return {"selection": self.selection_loss}


@dataclass(frozen=True)
class Candidate:
    """A point that a move proposes.

    Attributes:
        label: what distinguishes it within its move (``"ρ=0.001"``, ``"epoch 3"``).
        training: the point, with an optimiser's state from which training can go on.
        selection_loss: F on the selection split.
        curve: ``(t or epoch, selection loss)`` of everything that was evaluated on the way.
        facts: for the report.
        d_hyper: d_λ of the direction that led here, shape (p,); zero where the move found nothing to do, None where
            there was no direction.
    """

    label: str
    training: TrainingState
    selection_loss: float
    curve: tuple[tuple[float, float], ...]
    facts: Facts = field(default_factory=Facts)
    d_hyper: Float64[Tensor, " p"] | None = None

    @property
    def known(self) -> dict[str, float]:
        """Losses at the point, by split, that need not be evaluated again."""
        return {"selection": self.selection_loss}

    def describe(self) -> Facts:
        """The candidate without its tensors, as JSON values."""
        curve = [[t, finite_or_none(value)] for t, value in self.curve]
        return {"label": self.label, "selection_loss": finite_or_none(self.selection_loss), "curve": curve} | self.facts


class Move(ABC):
    """A way to propose better points."""

    name: str

    @abstractmethod
    def candidates(self, problem: BilevelProblem, here: Situation) -> Iterator[Candidate]:
        """Propose points, each evaluated on the selection split. May be empty."""

    def best(self, problem: BilevelProblem, here: Situation) -> tuple[Candidate, list[Facts]]:
        """The candidate of lowest selection loss, and what there is to say of every one.

        Where none is below the loss here, the answer stays put, and keeps the best candidate's direction in λ.
        """
        best: Candidate | None = None
        described: list[Facts] = []
        for candidate in self.candidates(problem, here):
            described.append(candidate.describe())
            best = candidate if best is None or _finite(candidate) < _finite(best) else best
        if best is not None and _finite(best) < here.selection_loss:
            return best, described
        curve, d_hyper = ((0.0, here.selection_loss),), None if best is None else best.d_hyper
        return Candidate("stay", here.training, here.selection_loss, curve, d_hyper=d_hyper), described


def _finite(candidate: Candidate) -> float:
    """The selection loss; infinite where it is no number."""
    return candidate.selection_loss if math.isfinite(candidate.selection_loss) else math.inf


@dataclass(frozen=True)
class Direction:
    """A direction in (λ, θ) with the slope of F that its model predicts."""

    label: str
    d_hyper: Float64[Tensor, " p"]
    d_weights: Float64[Tensor, " n"]
    slope: float
    facts: Facts = field(default_factory=Facts)


class LineMove(Move):
    """A move along directions: a line search on the selection split decides how far."""

    @abstractmethod
    def directions(self, problem: BilevelProblem, here: Situation, known: Linearization) -> Iterable[Direction]:
        """The directions to search along."""

    def candidates(self, problem: BilevelProblem, here: Situation) -> Iterator[Candidate]:
        for direction in self.directions(problem, here, linearize(problem, here.point)):
            yield search_along(problem, here, direction)


def search_along(problem: BilevelProblem, here: Situation, direction: Direction) -> Candidate:
    """Line search along ``(λ, θ) + t d``, λ clipped to its bounds; a zero direction stays where it is."""
    if not (direction.d_hyper.any() or direction.d_weights.any()):
        facts, curve = direction.facts | {"step_size": 0.0, "predicted_decrease": 0.0}, ((0.0, here.selection_loss),)
        return Candidate(direction.label, here.training, here.selection_loss, curve, facts, direction.d_hyper)

    def at(step_size: float) -> Point:
        point = here.point.moved(direction.d_hyper, direction.d_weights, step_size)
        return Point(point.hyper.clamp(problem.hyper_lower, problem.hyper_upper), point.weights)

    found = here.line_search.search(lambda t: problem.loss(at(t), "selection"), here.selection_loss, direction.slope)
    facts = direction.facts | {"step_size": found.step_size, "predicted_decrease": -direction.slope * found.step_size}
    reached = TrainingState.fresh(at(found.step_size))
    return Candidate(direction.label, reached, found.value, found.evaluations, facts, direction.d_hyper)


@dataclass(frozen=True, kw_only=True)
class NegativeGradient(LineMove):
    """``d = −∇F``, scaled so that its largest entry is as long as the widest radius of the trust box."""

    box: TrustBox = field(default_factory=TrustBox)
    name: str = "-gradient"

    def directions(self, problem: BilevelProblem, here: Situation, known: Linearization) -> Iterator[Direction]:
        largest = float(known.grad_weights.abs().max().clamp(min=1e-300))
        scale = float(self.box.weight_radii(problem, here.point).max()) / largest
        slope = -scale * float(known.grad_weights.square().sum() + known.grad_hyper.square().sum())
        yield Direction("-g", -scale * known.grad_hyper, -scale * known.grad_weights, slope)


@dataclass(frozen=True, kw_only=True)
class SignGradient(LineMove):
    """``d = −Δ ⊙ sign ∇F``: what the direction LP becomes at ρ = 1."""

    box: TrustBox = field(default_factory=TrustBox)
    name: str = "-sign(gradient)"

    def directions(self, problem: BilevelProblem, here: Situation, known: Linearization) -> Iterator[Direction]:
        radii = self.box.weight_radii(problem, here.point)
        slope = -float(radii @ known.grad_weights.abs() + self.box.hyper_radius * known.grad_hyper.abs().sum())
        d_hyper = -self.box.hyper_radius * known.grad_hyper.sign()
        yield Direction("-sign g", d_hyper, -radii * known.grad_weights.sign(), slope)


def take_epochs(
    problem: BilevelProblem, here: Situation, epochs: Iterator[tuple[float, TrainingState]], label: str
) -> Iterator[Candidate]:
    """Candidates after each of `Trainer.epochs`, all carrying the curve up to then."""
    curve = [(0.0, here.selection_loss)]
    for done, state in epochs:
        loss = problem.loss(state.point, "selection")
        curve.append((done, loss))
        yield Candidate(
            f"{label}epoch {round(done, 2):g}", state, loss if math.isfinite(loss) else math.inf, tuple(curve)
        )


def until_stale(epochs: Iterator[Candidate], best: float, patience: int) -> Iterator[Candidate]:
    """Epochs until ``patience`` of them in a row brought no new best loss, or training diverged."""
    stale = 0
    try:
        for candidate in epochs:
            yield candidate
            best, stale = min(best, candidate.selection_loss), 0 if candidate.selection_loss < best else stale + 1
            if stale >= patience:
                return
    except TrainingDivergedError:
        return


def finite_or_none(value: float | None) -> float | None:
    """What JSON can hold."""
    return value if value is not None and math.isfinite(value) else None
