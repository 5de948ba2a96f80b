"""LiFT's local search: warm up, then move (λ, θ) together along the direction of a linear program."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from numbers import Integral, Real
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lift_core.curvature import CurvatureModel, LowRank
from lift_core.description import require_batches, require_description
from lift_core.direction import TrustBox
from lift_core.line_search import GoldenSection, LineSearch
from lift_core.lp import LPBackend, LPStatus
from lift_core.lp_move import LPDirection
from lift_core.metering import Cost, Metered
from lift_core.moves import Facts, Move, Situation
from lift_core.problem import BilevelProblem, Point, Split
from lift_core.recorder import OnProgress, Recorder
from lift_core.records import SearchState, SearchStatus
from lift_core.refit import Refit
from lift_core.training import Trainer, TrainingDivergedError, TrainingState

CHOOSING_SPLITS: tuple[Split, ...] = ("train", "direction", "selection")
ALL_SPLITS: tuple[Split, ...] = (*CHOOSING_SPLITS, "test")
"""The test split is read where nothing is left to choose, and there only."""

_KINDS = (
    ("backend", LPBackend),
    ("curvature", CurvatureModel),
    ("box", TrustBox),
    ("line_search", LineSearch),
    ("trainer", Trainer),
    ("refit", Refit),
)


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        point: the final (λ, θ).
        status: why it ended.
        methods: one row per method, "before" (the warm-started point) and "LiFT" first, then the controls: losses on
            all splits, the test split read once, after every choice was made, and what each spent.
        warmup, steps: records of the stages, see `SearchState`.
        hyper_names, hyper_before, hyper_after: λ after the warm-up and at the end.
        cost: spent by warm-up and search.
    """

    point: Point
    status: SearchStatus
    methods: tuple[Facts, ...]
    warmup: tuple[Facts, ...]
    steps: tuple[Facts, ...]
    hyper_names: tuple[str, ...]
    hyper_before: tuple[float, ...]
    hyper_after: tuple[float, ...]
    cost: Cost

    def to_json(self) -> dict[str, Any]:
        """JSON values of everything but the weights."""
        plain = {key: value for key, value in vars(self).items() if key != "point"}
        return plain | {"status": self.status.name, "status_text": self.status.value, "cost": asdict(self.cost)}


@dataclass(frozen=True, kw_only=True)
class LocalSearch:
    """Warm-up, then rounds of *linearise → direction LP → line search → refit → accept*.

    Attributes:
        backend: solves the direction LPs.
        curvature: stands in for the training Hessian.
        slack: ρ in [0, 1], or a path of them: the line search on the selection split picks.
        box: trust region of the direction, and the rows it respects.
        line_search: how far to go.
        trainer: optimiser of warm-up, refits and training controls.
        warmup_epochs: epochs of plain training before the first round.
        delta: one absolute δ in place of ρ, see `LPDirection`.
        unit_norm: whether directions have unit norm before the line search.
        refit: training on at the new λ, which verifies the move; the better of the two is kept.
        rounds: number of LP steps, at most.
        tolerance: the search is stationary where the LP promises no larger decrease than this share of the selection
            loss, see `LPDirection`; (λ, θ) does not move then, and a refit with a reach trains on at the λ that was.
        controls: other moves that start from the warm point and are reported beside the search.
        seed: of everything random.

    >>> from backends import HiGHS
    >>> from lift_core import Exact
    >>> from problems import Quadratic
    >>> result = LocalSearch(backend=HiGHS(), curvature=Exact(), slack=0.0, warmup_epochs=0).run(Quadratic())
    >>> result.methods[1]["selection"] <= result.methods[0]["selection"]
    True
    """

    backend: LPBackend
    curvature: CurvatureModel = field(default_factory=LowRank)
    slack: float | Sequence[float] = 1e-3
    delta: float | None = None
    unit_norm: bool = False
    box: TrustBox = field(default_factory=TrustBox)
    line_search: LineSearch = field(default_factory=GoldenSection)
    trainer: Trainer = field(default_factory=Trainer)
    warmup_epochs: int = 2
    refit: Refit = field(default_factory=Refit)
    rounds: int = 1
    tolerance: float = 1e-10
    controls: tuple[Move, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_types()
        for name, least in (("warmup_epochs", 0), ("rounds", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        self.direction()  # refuses bad slacks now rather than after the warm-up

    def _check_types(self) -> None:
        slacks = self.slack if isinstance(self.slack, Collection) else (self.slack,)
        controls = self.controls if isinstance(self.controls, (tuple, list)) else (self.controls,)
        for name, value, kind, wanted in (
            *((name, getattr(self, name), kind, f"an instance of {kind.__name__}") for name, kind in _KINDS),
            *((name, getattr(self, name), Integral, "a whole number") for name in ("warmup_epochs", "rounds", "seed")),
            *(("slack", slack, Real, "a number or a tuple of them") for slack in slacks),
            ("delta", 0.0 if self.delta is None else self.delta, Real, "a number or None"),
            ("tolerance", self.tolerance, Real, "a number"),
            *((f"controls[{i}]", control, Move, "an instance of Move") for i, control in enumerate(controls)),
            *((f"controls[{i}].name", _name(control), str, "a string") for i, control in enumerate(controls)),
            ("controls", self.controls, (tuple, list), "a tuple of them"),
        ):
            if not isinstance(value, kind):
                raise TypeError(f"{name}: expected {wanted}, got {value!r}")

    def direction(self) -> LPDirection:
        """The LP move that this search makes."""
        slacks = (float(self.slack),) if isinstance(self.slack, (int, float)) else tuple(self.slack)
        return LPDirection(
            backend=self.backend,
            curvature=self.curvature,
            slacks=slacks,
            delta=self.delta,
            box=self.box,
            unit_norm=self.unit_norm,
            tolerance=self.tolerance,
        )

    def run(
        self, problem: BilevelProblem, *, folder: str | Path | None = None, on_progress: OnProgress | None = None
    ) -> SearchResult:
        """Run, or resume from the checkpoint in ``folder``; every finished stage is checkpointed there.

        Args:
            problem: described as `check_problem` wants it; what can be seen without a loss is looked at first.
            folder: of this run alone; None: nothing is kept.
            on_progress: called whenever something was spent, as ``on_progress(stage, done, total, cost)``: the stage
                (``"warm-up"``, ``"LP step"`` or a control's name), how many stages of its kind are finished (warm-up
                epochs, rounds, controls) and of how many, and the `Cost` of this one so far.

        Raises:
            ValueError: if the problem's description is wrong, a split is empty, the loss is no number where training or
                a step is to begin, or settings cannot be told apart, see `tell_apart`.
            CheckpointError: if ``folder`` holds a checkpoint of another search, problem or data.
        """
        for split in ALL_SPLITS:  # a split that cannot be had says so before anything is spent
            require_batches(problem, split)
        start = require_description(problem)
        recorder = Recorder(self, problem, None if folder is None else Path(folder), on_progress)
        state = recorder.resume() or SearchState(TrainingState.fresh(start))
        while state.status is None and len(state.warmup) < self.warmup_epochs:
            state = recorder.keep(self._warm_up(recorder.meter("warm-up", len(state.warmup)), state))
        state = replace(state, warm=state.warm or state.training)
        while state.status is None and len(state.steps) < self.rounds:
            state = recorder.keep(self._step(recorder.meter("LP step", len(state.steps)), state))
        for control in self.controls[len(state.controls) :] if state.steps else ():
            state = recorder.keep(self._control(recorder.meter(control.name, len(state.controls)), state, control))
        return self._result(problem, state)

    def _warm_up(self, problem: Metered, state: SearchState) -> SearchState:
        began = time.perf_counter()
        wanted = -(-self.curvature.num_snapshots // self.warmup_epochs)
        try:
            training, snapshots = self.trainer.epoch(problem, state.training, seed=self.seed, num_snapshots=wanted)
        except TrainingDivergedError:
            loss = problem.inner.lower_loss(state.training.point)
            if state.training.epochs == 0 and not math.isfinite(loss):
                raise ValueError(
                    f"loss('train'): expected a finite number where training is to begin, got {loss}; look at the data"
                ) from None
            return replace(state, status=SearchStatus.DIVERGED)
        record = {
            "epoch": training.epochs,
            "selection": problem.loss(training.point, "selection"),
            "seconds": time.perf_counter() - began,
        }
        return replace(
            state,
            training=training,
            snapshots=(*state.snapshots, *snapshots),
            warmup=(*state.warmup, record),
            cost=state.cost + problem.cost,
        )

    def _step(self, problem: Metered, state: SearchState) -> SearchState:
        """One round of local search."""
        began = time.perf_counter()
        here = self._situation(problem, state.training, state.snapshots)
        moved, candidates = self.direction().best(problem, here)
        refitted = self.refit.best(problem, here, moved, spent=problem.cost.differentiation)
        best = min((moved, refitted), key=lambda candidate: candidate.selection_loss)
        accepted = best.selection_loss < here.selection_loss
        before = state.steps[-1]["after"] if state.steps else _losses(problem, here.point, known=here.known)
        after_move = before if moved.label == "stay" else _losses(problem, moved.training.point, known=moved.known)
        record: Facts = {
            "accepted": accepted,
            "refit_kept": best is refitted and best is not moved,
            "label": moved.label,
            "refit_label": refitted.label if refitted is not moved else None,
            "candidates": candidates,
            "refit_curve": [list(pair) for pair in refitted.curve] if refitted is not moved else [],
            "before": before,
            "moved": after_move,
            "after": after_move if best is moved else _losses(problem, best.training.point, known=best.known),
            "hyper": best.training.point.hyper.tolist(),
            "cost": asdict(problem.cost),
            "seconds": time.perf_counter() - began,
        }
        return replace(
            state,
            training=best.training,
            snapshots=(*state.snapshots, here.point.weights),
            steps=(*state.steps, record),
            cost=state.cost + problem.cost,
            status=self._verdict(candidates, here.selection_loss, accepted, len(state.steps) + 1),
        )

    def _verdict(
        self, candidates: list[Facts], selection_loss: float, accepted: bool, rounds_done: int
    ) -> SearchStatus | None:
        found = [(one["lp_promise"], one["lp_status"]) for one in candidates if one["lp_promise"] is not None]
        descents = [self.direction().is_descent(promised, selection_loss) for promised, _ in found]
        solved = [status == LPStatus.OPTIMAL.name for _, status in found]
        if not any(descents):  # an LP that was not solved says nothing about the point
            return SearchStatus.STATIONARY if solved and all(solved) else SearchStatus.NO_DIRECTION
        if not accepted:
            return SearchStatus.NO_DECREASE
        return SearchStatus.ROUNDS_DONE if rounds_done >= self.rounds else None

    def _control(self, problem: Metered, state: SearchState, control: Move) -> SearchState:
        assert state.warm is not None  # set before the first step
        began = time.perf_counter()
        spent = sum((Cost(**step["cost"]) for step in state.steps), start=Cost())
        here = self._situation(problem, state.warm, state.snapshots, budget=spent.gradient_equivalents)
        best, candidates = control.best(problem, here)
        record = {
            "method": control.name,
            "label": best.label,
            "candidates": candidates,
            "cost": asdict(problem.cost),
            "seconds": time.perf_counter() - began,
        }
        record |= _losses(problem, best.training.point, ALL_SPLITS, known=best.known)
        return replace(state, controls=(*state.controls, record))

    def _situation(
        self, problem: Metered, training: TrainingState, snapshots: tuple[Any, ...], budget: float = float("inf")
    ) -> Situation:
        loss = problem.loss(training.point, "selection")
        if not math.isfinite(loss):
            raise ValueError(
                f"loss('selection'): expected a finite number where a step is to begin, got {loss}; look at the data, "
                f"or lower learning_rate={self.trainer.learning_rate:g}"
            )
        return Situation(
            training=training,
            selection_loss=loss,
            snapshots=snapshots,
            budget=budget,
            trainer=self.trainer,
            line_search=self.line_search,
            seed=self.seed,
        )

    def _result(self, problem: BilevelProblem, state: SearchState) -> SearchResult:
        warm, status = state.warm or state.training, state.status or SearchStatus.ROUNDS_DONE
        spent = sum((Cost(**step["cost"]) for step in state.steps), start=Cost())
        seconds = sum(step["seconds"] for step in state.steps)
        before: Facts = {"method": "before", "cost": asdict(Cost()), "seconds": 0.0, "label": "warm start"}
        lift: Facts = {"method": "LiFT", "cost": asdict(spent), "seconds": seconds}
        lift["label"] = ", ".join(step["label"] for step in state.steps)
        known = (state.steps[0]["before"], state.steps[-1]["after"]) if state.steps else ({}, {})
        methods = (
            before | _losses(problem, warm.point, ALL_SPLITS, known=known[0]),
            lift | _losses(problem, state.training.point, ALL_SPLITS, known=known[1]),
            *state.controls,
        )
        return SearchResult(
            point=state.training.point,
            status=status,
            methods=methods,
            warmup=state.warmup,
            steps=state.steps,
            hyper_names=problem.hyper_names,
            hyper_before=tuple(warm.point.hyper.tolist()),
            hyper_after=tuple(state.training.point.hyper.tolist()),
            cost=state.cost,
        )


def _name(control: object) -> object:
    return getattr(control, "name", None)


def _losses(
    problem: BilevelProblem,
    point: Point,
    splits: tuple[Split, ...] = CHOOSING_SPLITS,
    *,
    known: Mapping[str, float] = MappingProxyType({}),
) -> Facts:
    """Loss on each split, unless it is known; reporting is not part of any budget."""
    inner = problem.inner if isinstance(problem, Metered) else problem
    return {split: known[split] if split in known else inner.loss(point, split) for split in splits}
