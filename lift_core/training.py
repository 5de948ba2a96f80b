"""Stochastic training of the lower level: warm-up, refits and the training controls."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Float64
from torch import Tensor

from lift_core.problem import BilevelProblem, Point, Split

_EPSILON = 1e-8
"""Adam's ε, torch's default."""


def epoch_price(problem: BilevelProblem, splits: tuple[Split, ...]) -> float:
    """Passes over the training split that one epoch on ``splits`` costs."""
    return sum(problem.num_examples(split) for split in splits) / problem.num_examples("train")


def whole_epochs(share: float) -> int:
    """Whole epochs, at least one.

    Raises:
        ValueError: if nothing limits them.
    """
    if share == math.inf:
        raise ValueError("budget: expected a finite number of passes, got inf")
    return max(1, math.floor(share))


def check_training_splits(splits: tuple[Split, ...]) -> None:
    """Refuse to train on what is there to choose and to report by.

    Raises:
        ValueError: unless ``splits`` is a tuple out of ``"train"`` and ``"direction"``, each at most once.
    """
    known = isinstance(splits, tuple) and set(splits) <= {"train", "direction"} and len(set(splits)) == len(splits)
    if not (known and splits):
        raise ValueError(f"splits: expected a tuple out of 'train' and 'direction', got {splits!r}")


def _order(sizes: list[int], seed: int, share: float) -> list[int]:
    """Positions of the batches, shuffled, until the next one would exceed the share of all examples."""
    order = torch.randperm(len(sizes), generator=torch.Generator().manual_seed(seed)).tolist()
    return order[: bisect_right(list(accumulate(sizes[at] for at in order)), share * sum(sizes) * (1 + 1e-9))]


class TrainingDivergedError(ArithmeticError):
    """The weights left the finite numbers."""


@dataclass(frozen=True)
class TrainingState:
    """A point on the way, with the optimiser's state.

    Attributes:
        point: (λ, θ); training moves θ alone.
        first_moment, second_moment: Adam's, shape (n,).
        steps, epochs: counted since the optimiser was started; a part of an epoch counts as one.
        iterate: the weights that Adam stands at, shape (n,), where ``point`` is an average of them; None: the same.
    """

    point: Point
    first_moment: Float64[Tensor, " n"]
    second_moment: Float64[Tensor, " n"]
    steps: int = 0
    epochs: int = 0
    iterate: Float64[Tensor, " n"] | None = None

    @classmethod
    def fresh(cls, point: Point) -> TrainingState:
        return cls(point, torch.zeros_like(point.weights), torch.zeros_like(point.weights))


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Adam on ``f(λ, θ)`` at fixed λ, one batch a step, batches reshuffled every epoch.

    Attributes:
        learning_rate: Adam's.
        betas: decay rates of the two moments.
        averaging: a in [0, 1). Points are the average ``θ̄ ← a_t θ̄ + (1 − a_t) θ`` of Adam's iterates,
            ``a_t = min(a, (1 + t) / (10 + t))`` after t steps; 0: the iterates themselves.

    References: Kingma & Ba (2015), algorithm 1; Polyak & Juditsky (1992) for averaging.
    """

    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    averaging: float = 0.0

    def __post_init__(self) -> None:
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError(f"learning_rate: expected a positive number, got {self.learning_rate}")
        if not 0 <= self.averaging < 1:
            raise ValueError(f"averaging: expected a number in [0, 1), got {self.averaging}")

    def epoch(
        self,
        problem: BilevelProblem,
        state: TrainingState,
        *,
        seed: int,
        splits: tuple[Split, ...] = ("train",),
        share: float = 1.0,
        num_snapshots: int = 0,
    ) -> tuple[TrainingState, list[Tensor]]:
        """One pass over the batches of ``splits``; also returns evenly spaced snapshots of the weights on the way.

        Args:
            share: of the examples that are passed over, at most; where no batch fits, the state stays what it was.

        Raises:
            TrainingDivergedError: if the weights leave the finite numbers.
        """
        batches = [batch for split in splits for batch in problem.batches(split)]
        order = _order([problem.batch_size(batch) for batch in batches], seed + 7919 * state.epochs, share)
        if not order:
            return state, []
        weights, optimizer = self._optimizer(state)
        average = state.point.weights.clone()
        keep = {round(len(order) * (i + 1) / num_snapshots) for i in range(num_snapshots)}
        snapshots: list[Tensor] = []
        for step, index in enumerate(order, start=1):
            here = Point(state.point.hyper, weights.detach())
            weights.grad = problem.training_gradient(here, [batches[index]])
            if problem.regularizer is not None:
                weights.grad += problem.regularizer.gradient(here.hyper, here.weights)
            optimizer.step()
            average.lerp_(weights.detach(), 1 - self._memory(state.steps + step))
            if step in keep:
                snapshots.append(weights.detach().clone())
        if not torch.isfinite(weights).all():
            raise TrainingDivergedError(
                f"training diverged in epoch {state.epochs + 1}: lower learning_rate={self.learning_rate}"
            )
        moments = optimizer.state[weights]
        reached = TrainingState(
            Point(state.point.hyper, average),
            moments["exp_avg"],
            moments["exp_avg_sq"],
            state.steps + len(order),
            state.epochs + 1,
            weights.detach() if self.averaging else None,
        )
        return reached, snapshots

    def steps(self, problem: BilevelProblem, state: TrainingState, *, seed: int) -> Iterator[TrainingState]:
        """Endless single steps in the order of whole `epochs`, each with the state after it.

        Raises:
            TrainingDivergedError: if the weights leave the finite numbers.
        """
        batches = problem.batches("train")
        weights, optimizer = self._optimizer(state)
        while True:
            position, epoch = state.steps % len(batches), state.epochs
            order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(seed + 7919 * epoch))
            here = Point(state.point.hyper, weights.detach())
            weights.grad = problem.lower_gradient(here, [batches[int(order[position])]])
            optimizer.step()
            if not torch.isfinite(weights).all():
                raise TrainingDivergedError(
                    f"training diverged in step {state.steps + 1}: lower learning_rate={self.learning_rate}"
                )
            moments = optimizer.state[weights]
            average = state.point.weights.lerp(weights.detach(), 1 - self._memory(state.steps + 1))
            state = TrainingState(
                Point(state.point.hyper, average),
                moments["exp_avg"].clone(),
                moments["exp_avg_sq"].clone(),
                state.steps + 1,
                epoch + (position + 1 == len(batches)),
                weights.detach().clone() if self.averaging else None,
            )
            yield state

    def direction(self, state: TrainingState) -> Float64[Tensor, " n"]:
        """``u = m̂ / (√v̂ + ε)``: what the last step subtracted, in multiples of the learning rate.

        Raises:
            ValueError: if the optimiser has taken no step.
        """
        if state.steps == 0:
            raise ValueError("state: expected one after at least one step; before it the moments say nothing")
        first, second = (1 - beta**state.steps for beta in self.betas)
        return state.first_moment / first / ((state.second_moment / second).sqrt() + _EPSILON)

    def epochs(
        self,
        problem: BilevelProblem,
        state: TrainingState,
        *,
        seed: int,
        splits: tuple[Split, ...] = ("train",),
        count: float = math.inf,
    ) -> Iterator[tuple[float, TrainingState]]:
        """``count`` epochs, the last one in part where that is no whole number; each end with the epochs up to it."""
        done = 0.0
        while count - done > 1e-9:
            share = min(1.0, count - done)
            before, (state, _) = state, self.epoch(problem, state, seed=seed, splits=splits, share=share)
            if state is before:
                return  # the rest is less than one batch
            done += share
            yield done, state

    def _memory(self, step: int) -> float:
        """``a_t``, the share of the average that step t keeps."""
        return min(self.averaging, (1 + step) / (10 + step))

    def _optimizer(self, state: TrainingState) -> tuple[Tensor, torch.optim.Adam]:
        """Adam and the weights that it moves, as the state left them."""
        start = state.point.weights if state.iterate is None else state.iterate
        weights = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([weights], lr=self.learning_rate, betas=self.betas)
        optimizer.state[weights] = {
            "step": torch.tensor(float(state.steps)),
            "exp_avg": state.first_moment.clone(),
            "exp_avg_sq": state.second_moment.clone(),
        }
        return weights, optimizer
