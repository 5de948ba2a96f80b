"""The controls beside which every result stands: same data, same line search, a matched budget.

The plain descent directions stand in `moves`; here are the ones that solve with the Hessian or train.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from lift_core.curvature import add_diagonal
from lift_core.direction import Linearization, TrustBox
from lift_core.krylov import conjugate_gradient
from lift_core.moves import (
    Candidate,
    Direction,
    LineMove,
    Move,
    NegativeGradient,
    SignGradient,
    Situation,
    take_epochs,
)
from lift_core.problem import BilevelProblem, Point, Split
from lift_core.training import TrainingDivergedError


@dataclass(frozen=True, kw_only=True)
class ImplicitHypergradient(LineMove):
    """``h = g_λ − Jᵀ H⁻¹ g`` by conjugate gradients; λ moves along −h and θ follows, ``d_θ = −H⁻¹ J d_λ``.

    Attributes:
        iterations: CG steps for each of the two systems, one Hessian product each.
        damping: added to H's diagonal, in multiples of the curvature along g.
        share: share of the training batches that H is sampled on.

    Reference: Pedregosa (2016), Hyperparameter optimization with approximate gradient, algorithm 1.
    """

    iterations: int = 8
    damping: float = 1e-3
    share: float = 1.0
    box: TrustBox = field(default_factory=TrustBox)
    name: str = "implicit hypergradient"

    def directions(self, problem: BilevelProblem, here: Situation, known: Linearization) -> Iterator[Direction]:
        batches = problem.batches("train")
        generator = torch.Generator().manual_seed(here.seed)
        chosen = torch.randperm(len(batches), generator=generator)[: max(1, math.ceil(self.share * len(batches)))]
        hessian = problem.training_hessian(here.point, [batches[i] for i in sorted(chosen.tolist())])
        if problem.regularizer is not None:
            diagonal = problem.regularizer.hessian(here.point.hyper, here.point.weights).diagonal
            hessian = add_diagonal(hessian, diagonal)
        adjoint, _ = conjugate_gradient(hessian, known.grad_weights, self.iterations, damping=self.damping)
        hypergradient = known.grad_hyper - known.mixed.rmatvec(adjoint)
        largest = float(hypergradient.abs().max()) if len(hypergradient) else 0.0
        if largest == 0.0:
            return
        d_hyper = -self.box.hyper_radius / largest * hypergradient
        response, _ = conjugate_gradient(hessian, known.mixed.matvec(d_hyper), self.iterations, damping=self.damping)
        slope = float(known.grad_hyper @ d_hyper - known.grad_weights @ response)
        yield Direction("-h", d_hyper, -response, slope, {"hypergradient_norm": float(hypergradient.norm())})


@dataclass(frozen=True, kw_only=True)
class MoreTraining(Move):
    """Training goes on at the same λ with early stopping on the selection split.

    Attributes:
        splits: data that is trained on: ``("train",)``, or ``("train", "direction")`` for the strongest control.
        max_epochs: cap beside the budget.
        patience: epochs without a new best after which training stops.
    """

    splits: tuple[Split, ...] = ("train",)
    max_epochs: int = 50
    patience: int = 2
    name: str = "more training"

    def candidates(self, problem: BilevelProblem, here: Situation) -> Iterator[Candidate]:
        cost = sum(problem.num_examples(split) for split in self.splits) / problem.num_examples("train")
        count = max(1, math.floor(min(self.max_epochs, here.budget / cost)))
        states = here.trainer.epochs(problem, here.training, seed=here.seed, splits=self.splits)
        yield from until_stale(take_epochs(problem, here, states, count, ""), here.selection_loss, self.patience)


@dataclass(frozen=True, kw_only=True)
class HyperSearch(Move):
    """Grid or random search over λ, each trial trained from the same point with an equal part of the budget.

    Attributes:
        kind: ``"grid"`` shifts all of λ by the same amount, ``"random"`` draws one shift per hyperparameter.
        trials: number of settings.
        reach: largest shift of λ, either way.
        max_epochs: cap on the epochs of one trial.
        patience: epochs without a new best of the trial after which it stops.
    """

    kind: Literal["grid", "random"] = "grid"
    trials: int = 3
    reach: float = 4.0
    max_epochs: int = 20
    patience: int = 1
    name: str = "grid search"

    def candidates(self, problem: BilevelProblem, here: Situation) -> Iterator[Candidate]:
        p = len(here.point.hyper)
        if self.kind == "grid":
            shifts = torch.linspace(-self.reach, self.reach, self.trials, dtype=torch.float64)[:, None].expand(-1, p)
        else:
            generator = torch.Generator().manual_seed(here.seed)
            draws = torch.rand(self.trials, p, generator=generator, dtype=torch.float64)
            shifts = self.reach * (2 * draws - 1)
        count = max(1, math.floor(min(self.max_epochs, here.budget / self.trials)))
        for number, shift in enumerate(shifts):
            hyper = (here.point.hyper + shift).clamp(problem.hyper_lower, problem.hyper_upper)
            start = replace(here.training, point=Point(hyper, here.point.weights))
            label = f"λ{shift[0]:+.2g}, " if self.kind == "grid" else f"trial {number + 1}, "
            epochs = here.trainer.epochs(problem, start, seed=here.seed)
            trial = take_epochs(problem, here, epochs, count, label)
            yield from until_stale(trial, here.selection_loss, self.patience)


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


def standard_controls(box: TrustBox, *, share: float = 1.0) -> tuple[Move, ...]:
    """All controls of the method, with the LP's own trust box and share of curvature batches."""
    return (
        NegativeGradient(box=box),
        SignGradient(box=box),
        ImplicitHypergradient(box=box, share=share),
        MoreTraining(),
        MoreTraining(splits=("train", "direction"), name="train + direction data"),
        HyperSearch(),
        HyperSearch(kind="random", name="random search"),
    )
