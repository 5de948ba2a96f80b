"""Moves: ways from one point to a better one. The LP direction and all of its controls share this one interface.

A move proposes candidates; each carries its loss on the selection split, and the best of them wins. For a direction the
candidates are the ends of line searches, for training they are the epochs (so that choosing is early stopping).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from lift_core.curvature import CurvatureModel, Snapshots, build_curvature
from lift_core.direction import TrustBox, promised_value, slack_path_lps, widen
from lift_core.line_search import GoldenSection, LineSearch
from lift_core.linearization import Linearization, linearize, training_gradient_norm
from lift_core.lp import LinearProgram, LPBackend, LPSolution, solve_lps
from lift_core.operators import LinearOperator
from lift_core.problem import BilevelProblem, Point
from lift_core.training import Trainer, TrainingDivergedError, TrainingState

Facts = dict[str, Any]
"""What a report says of a candidate: JSON values only."""

USABLE = 1e-2
"""Primal residual of a direction LP up to which its answer is taken for a direction."""


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
        curve = [[t, _number(value)] for t, value in self.curve]
        return {"label": self.label, "selection_loss": _number(self.selection_loss), "curve": curve} | self.facts


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
class LPDirection(LineMove):
    """The direction LP, for one slack ratio or along a ρ-path.

    Attributes:
        backend: solves it.
        curvature: stands in for H.
        slacks: ratios ρ in [0, 1], see `slack_unit`.
        delta: one absolute δ, in units of the training gradient, in place of the ratios.
        box: trust region and kept rows.
        unit_norm: whether directions are scaled to ``‖(d_λ, d_θ)‖₂ = 1`` before the line search.
        tolerance: share of the selection loss; a solution that promises no larger decrease, see `promised_value`, makes
            a zero direction. At ρ = 0 the promise is all that λ can gain in the trust box, to first order in strengths,
            and the signs of a hypergradient that is as good as zero are noise.
    """

    backend: LPBackend
    curvature: CurvatureModel
    slacks: tuple[float, ...] = (1e-3,)
    delta: float | None = None
    box: TrustBox = field(default_factory=TrustBox)
    unit_norm: bool = False
    tolerance: float = 1e-10
    name: str = "LiFT"

    def __post_init__(self) -> None:
        if self.delta is not None and not (math.isfinite(self.delta) and self.delta >= 0):
            raise ValueError(f"delta: expected a finite number >= 0, got {self.delta}")
        if not self.slacks or not all(0 <= slack <= 1 for slack in self.slacks):
            raise ValueError(f"slacks: expected one or more ratios in [0, 1], got {self.slacks}")
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(f"tolerance: expected a finite share of at least 0, got {self.tolerance}")

    def is_descent(self, promised: float, selection_loss: float) -> bool:
        """Whether this change of F is decrease enough."""
        return -promised > self.tolerance * abs(selection_loss)

    def directions(self, problem: BilevelProblem, here: Situation, known: Linearization) -> Iterator[Direction]:
        built = build_curvature(
            self.curvature, problem, here.point, start=known.grad_weights, snapshots=here.snapshots, seed=here.seed
        )
        lps, labels = self._programs(problem, known, built.hessian, here.seed)
        p = len(known.grad_hyper)
        shared = {
            "curvature": self.curvature.name,
            "smallest_curvature": _number(built.smallest),
            "largest_curvature": _number(built.largest),
            "bulk_curvature": _number(built.bulk),
            "bulk_error": _number(built.bulk_error),
            "largest_ritz_residual": None if built.ritz_residuals is None else float(built.ritz_residuals.max()),
            "lower_gradient_norm": self._training_gradient_norm(problem, here, known),
            "upper_gradient_norm": float(known.grad_weights.norm()),
            "rows": lps[0].num_rows,
            "row_coverage": lps[0].num_rows / len(known.grad_weights),
        }
        for (label, slack), lp, solution in zip(labels, lps, solve_lps(lps, self.backend), strict=True):
            solution = in_box(lp, solution)
            promised = promised_value(problem, here.point, lp, solution) if is_usable(solution.kkt.primal) else math.nan
            taken = bool(torch.isfinite(solution.x).all()) and self.is_descent(promised, here.selection_loss)
            x = solution.x if taken else torch.zeros_like(solution.x)  # no direction, but a status to report
            facts = shared | {"slack": slack, "lp_promise": _number(promised)} | lp_facts(solution)
            facts |= _box_share(lp.col_upper, x, p)
            scale = 1 / max(float(x.norm()), 1e-300) if self.unit_norm else 1.0
            slope = scale * solution.objective if taken else 0.0
            yield Direction(label, scale * x[:p], scale * x[p:], slope, facts)

    def _training_gradient_norm(self, problem: BilevelProblem, here: Situation, known: Linearization) -> float:
        """Exact where the LP has asked for the gradient."""
        if self.box.kappa:
            return float(known.lower_gradient.norm())
        return training_gradient_norm(problem, here.point, seed=here.seed)

    def _programs(
        self, problem: BilevelProblem, known: Linearization, hessian: LinearOperator, seed: int
    ) -> tuple[list[LinearProgram], list[tuple[str, float | None]]]:
        """The direction LPs, with label and slack ratio of each."""
        if self.delta is None:
            lps = slack_path_lps(problem, known, hessian, slacks=list(self.slacks), box=self.box, seed=seed)
            return lps, [(f"ρ={slack:g}", slack) for slack in self.slacks]
        (tight,) = slack_path_lps(problem, known, hessian, slacks=[0.0], box=self.box, seed=seed)
        return [widen(tight, self.delta)], [(f"δ={self.delta:g}", None)]


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


def is_usable(primal_residual: float | None) -> bool:
    """Whether an answer that violates its program by so much still makes a direction."""
    return primal_residual is not None and primal_residual <= USABLE


def in_box(lp: LinearProgram, solution: LPSolution) -> LPSolution:
    """The solution, moved into the trust box where a backend has left it."""
    x = solution.x.clamp(lp.col_lower, lp.col_upper)
    return solution if torch.equal(x, solution.x) else replace(solution, x=x, objective=float(lp.c @ x) + lp.offset)


def lp_facts(solution: LPSolution) -> Facts:
    """What a report says of an LP solve."""
    return {
        "lp_backend": solution.backend,
        "lp_status": solution.status.name,
        "lp_objective": _number(solution.objective),
        "lp_bound": _number(solution.bound),
        "lp_primal_residual": _number(solution.kkt.primal),
        "lp_dual_residual": _number(solution.kkt.dual),
        "lp_gap": _number(solution.kkt.gap),
        "lp_objective_error": _number(solution.kkt.objective_error),
        "lp_iterations": solution.iterations,
        "lp_seconds": solution.seconds,
    }


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


def _box_share(radius: Tensor, x: Tensor, num_hyper: int) -> Facts:
    """Share of the weights that sit on the trust box."""
    return {"weights_on_box": float((x.abs() >= radius * (1 - 1e-6))[num_hyper:].double().mean())}


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
