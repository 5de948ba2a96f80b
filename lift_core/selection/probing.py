"""Influence accumulated along a short run of full tuning: APPI, measured lazily every few steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Float64
from torch import Tensor

from lift_core.metering import Cost, Metered
from lift_core.problem import BilevelProblem
from lift_core.selection.groups import Groups
from lift_core.selection.influence import (
    ExactInfluence,
    Influence,
    InfluenceEstimator,
    Probe,
    describe_rejections,
)
from lift_core.selection.scores import Measure, Scores, draw_batches
from lift_core.training import Trainer, TrainingState

Preconditioner = Literal["adam", "gradient"]
"""What u is: the optimiser's own step ``m̂ / (√v̂ + ε)``, or the gradient."""

OnProbe = Callable[[str, int, int], None]
"""Called with (what, done, total) after every step and every probe."""


@dataclass(frozen=True)
class ProbedRun:
    """A run of full tuning with its probes.

    Attributes:
        influences: one per probe, in order.
        state: where the run ended.
        probe_cost, training_cost: what probes and steps spent.
        probe_seconds, training_seconds: the same on the clock.
    """

    influences: tuple[Influence, ...]
    state: TrainingState
    probe_cost: Cost
    training_cost: Cost
    probe_seconds: float
    training_seconds: float

    @property
    def appi(self) -> Float64[Tensor, " K"]:
        """``APPI_k = Σ_probes PPI_k``; a rejected probe adds nothing."""
        return torch.stack([influence.ppi for influence in self.influences]).sum(0)

    @property
    def reductions(self) -> Float64[Tensor, " K"]:
        """Mean over the probes of v_k: the loss that one best step on group k alone takes off."""
        return torch.stack([influence.reductions for influence in self.influences]).mean(0)

    @property
    def cross(self) -> Float64[Tensor, "K K"] | None:
        """Mean over the probes of ``t_j t_k u_jᵀ H u_k`` at the best steps t, zero diagonal; None if not measured."""
        pairs = [torch.outer(i.best_steps, i.best_steps) * i.cross for i in self.influences if i.cross is not None]
        if not pairs:
            return None
        mean = torch.stack(pairs).mean(0)
        return mean - torch.diag(mean.diagonal())

    @property
    def overhead(self) -> float:
        """Seconds of the probes over seconds of the training that they stand in."""
        return self.probe_seconds / self.training_seconds if self.training_seconds else float("inf")


@dataclass(frozen=True, kw_only=True)
class Probing(Measure):
    """AdaPEFT's measure: probe influence every ``every`` steps of a short run of full tuning.

    Attributes:
        estimator: measures (a_k, b_k), see `ExactInfluence` and `ForwardInfluence`.
        trainer: of the full tuning; its λ stays fixed.
        preconditioner: what u is.
        weight_decay: decoupled decay: adds ``weight_decay · θ`` to u, as AdamW does.
        steps, every: length of the run, and of the stretches between probes; with ``steps=0`` one probe at the start,
            along the first step that the optimiser would take.
        num_batches: training batches of each probe, drawn afresh.

    Reference: Xu & Bu (2025), AdaPEFT, arXiv 2505.12579, section 4; Loshchilov & Hutter (2019), AdamW.

    >>> from problems import Quadratic
    >>> from lift_core.selection.groups import make_groups
    >>> problem = Quadratic()
    >>> run = Probing(steps=4, every=2).run(problem, make_groups(problem))
    >>> len(run.influences), run.state.steps
    (2, 4)
    """

    name: ClassVar[str] = "influence"
    estimator: InfluenceEstimator = field(default_factory=ExactInfluence)
    trainer: Trainer = field(default_factory=Trainer)
    preconditioner: Preconditioner = "adam"
    weight_decay: float = 0.0
    steps: int = 8
    every: int = 8
    num_batches: int = 1

    def __post_init__(self) -> None:
        if self.preconditioner not in get_args(Preconditioner):
            raise ValueError(f"preconditioner: expected one of {get_args(Preconditioner)}, got {self.preconditioner!r}")
        if self.steps < 0 or self.every < 1 or 0 < self.steps < self.every:
            raise ValueError(f"steps, every: expected steps = 0 or steps >= every >= 1, got {self.steps}, {self.every}")
        if not 0 <= self.weight_decay < float("inf"):
            raise ValueError(f"weight_decay: expected a number of at least 0, got {self.weight_decay}")

    @property
    def label(self) -> str:
        """What tables call it."""
        return f"AdaPEFT {self.estimator.name}"

    def scores(
        self,
        problem: BilevelProblem,
        groups: Groups,
        start: TrainingState,
        *,
        seed: int,
        on_probe: OnProbe | None = None,
    ) -> Scores:
        run = self.run(problem, groups, start, seed=seed, on_probe=on_probe)
        rejections = list(describe_rejections(run.influences))
        facts: dict[str, Any] = {
            "probes": len(run.influences),
            "evaluations": sum(influence.evaluations for influence in run.influences),
            "products": sum(influence.products for influence in run.influences),
            "rejections": rejections,
            "probe_cost": asdict(run.probe_cost),
            "training_cost": asdict(run.training_cost),
            "probe_seconds": run.probe_seconds,
            "training_seconds": run.training_seconds,
        }
        return Scores(self.label, groups.names, groups.sizes.cpu(), run.reductions, facts, run.cross)

    def run(
        self,
        problem: BilevelProblem,
        groups: Groups,
        start: TrainingState | None = None,
        *,
        seed: int = 0,
        on_probe: OnProbe | None = None,
    ) -> ProbedRun:
        """Train and probe.

        Raises:
            TrainingDivergedError: if the weights leave the finite numbers.
        """
        notify = on_probe or (lambda what, done, total: None)
        state = start or TrainingState.fresh(problem.initial_point())
        training, probing = Metered(problem), Metered(problem)
        influences: list[Influence] = []
        seconds = {"training": 0.0, "probe": 0.0}
        steps = self.trainer.steps(training, state, seed=seed)
        for number in range(self.steps + 1):
            if number:
                began = time.perf_counter()
                state = next(steps)
                seconds["training"] += time.perf_counter() - began
                notify("step", number, self.steps)
            if number % self.every == 0 and (number or not self.steps):
                began = time.perf_counter()
                probe = self.probe(probing, state, seed=seed + 104_729 * (number + 1))
                influences.append(self.estimator.estimate(probing, probe, groups))
                seconds["probe"] += time.perf_counter() - began
                notify("probe", len(influences), max(1, self.steps // self.every))
        return ProbedRun(tuple(influences), state, probing.cost, training.cost, seconds["probe"], seconds["training"])

    def probe(self, problem: BilevelProblem, state: TrainingState, *, seed: int) -> Probe:
        """Fresh batches, and u: the optimiser's last step, or a gradient on these batches where it has taken none."""
        batches = draw_batches(problem, self.num_batches, seed)
        if self.preconditioner == "adam" and state.steps:
            step = self.trainer.direction(state)
        else:
            step = problem.lower_gradient(state.point, batches)
            if self.preconditioner == "adam":  # m̂ = g and v̂ = g² before the first step
                step = step / (step.abs() + 1e-8)
        return Probe(state.point, step + self.weight_decay * state.point.weights, batches)
