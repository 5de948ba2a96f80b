"""The controls beside which every result stands: same data, same line search, a matched budget.

The plain descent directions stand in `moves`, implicit differentiation in `implicit`; here are the ones that train.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import torch
from jaxtyping import Float64
from torch import Tensor

from lift_core.direction import TrustBox
from lift_core.implicit import ImplicitHypergradient
from lift_core.moves import (
    Candidate,
    Move,
    NegativeGradient,
    SignGradient,
    Situation,
    take_epochs,
    until_stale,
)
from lift_core.problem import BilevelProblem, Point, Split
from lift_core.training import check_training_splits, epoch_price, whole_epochs

WAIT = 0.1
"""Share of the epochs that a control may take which it waits for a new best at least, whatever its patience: where one
batch holds all data an epoch is a single step, and two steps without a new best say nothing."""


@dataclass(frozen=True, kw_only=True)
class MoreTraining(Move):
    """Training goes on at the same λ with early stopping on the selection split.

    Attributes:
        splits: data that is trained on: ``("train",)``, or ``("train", "direction")`` for the strongest control.
        max_epochs: cap beside the budget.
        patience: epochs without a new best after which training stops, or `WAIT` of all where that is more.
    """

    splits: tuple[Split, ...] = ("train",)
    max_epochs: float = math.inf
    patience: int = 2
    name: str = "more training"

    def __post_init__(self) -> None:
        check_training_splits(self.splits)

    def candidates(self, problem: BilevelProblem, here: Situation) -> Iterator[Candidate]:
        count = whole_epochs(min(self.max_epochs, here.budget / epoch_price(problem, self.splits)))
        epochs = here.trainer.epochs(problem, here.training, seed=here.seed, splits=self.splits, count=count)
        yield from until_stale(take_epochs(problem, here, epochs, ""), here.selection_loss, _wait(self.patience, count))


@dataclass(frozen=True, kw_only=True)
class HyperSearch(Move, ABC):
    """Search over λ, each trial trained from the same point with an equal part of the budget.

    Attributes:
        splits: data that the trials are trained on.
        trials: number of settings.
        reach: largest shift of λ, either way.
        patience: epochs without a new best of the trial after which it stops, or `WAIT` of all where that is more.
    """

    splits: tuple[Split, ...] = ("train",)
    trials: int = 3
    reach: float = 4.0
    patience: int = 1

    def __post_init__(self) -> None:
        check_training_splits(self.splits)
        if self.trials < 1:
            raise ValueError(f"trials: expected at least 1, got {self.trials}")

    def candidates(self, problem: BilevelProblem, here: Situation) -> Iterator[Candidate]:
        share = here.budget / self.trials / epoch_price(problem, self.splits)
        count = whole_epochs(share)
        shifts = self.shifts(len(here.point.hyper), here.seed)
        shift = next(shifts)
        for number in range(1, self.trials + 1):
            hyper = (here.point.hyper + shift.to(here.point.hyper)).clamp(problem.hyper_lower, problem.hyper_upper)
            start = replace(here.training, point=Point(hyper, here.point.weights))
            label = f"{self.label(number, shift)}, "
            epochs = here.trainer.epochs(problem, start, seed=here.seed, splits=self.splits, count=count)
            best = math.inf
            trial = take_epochs(problem, here, epochs, label)
            for candidate in until_stale(trial, math.inf, _wait(self.patience, count)):
                best = min(best, candidate.selection_loss)
                yield candidate
            if number < self.trials:
                shift = shifts.send(best)

    @abstractmethod
    def shifts(self, p: int, seed: int) -> Generator[Float64[Tensor, " p"], float, None]:
        """Shifts of λ, at least one per trial; each is answered by the best selection loss that it led to."""

    def label(self, number: int, shift: Float64[Tensor, " p"]) -> str:
        """How reports call a trial."""
        return f"trial {number}"


@dataclass(frozen=True, kw_only=True)
class GridSearch(HyperSearch):
    """All of λ is shifted by the same amount, evenly spaced."""

    name: str = "grid search"

    def shifts(self, p: int, seed: int) -> Generator[Float64[Tensor, " p"], float, None]:
        for at in torch.linspace(-self.reach, self.reach, self.trials, dtype=torch.float64):
            yield at.expand(p)

    def label(self, number: int, shift: Float64[Tensor, " p"]) -> str:
        return f"λ{shift[0]:+.2g}" if len(shift) else "no λ"


@dataclass(frozen=True, kw_only=True)
class RandomSearch(HyperSearch):
    """One shift per hyperparameter, drawn uniformly."""

    name: str = "random search"

    def shifts(self, p: int, seed: int) -> Generator[Float64[Tensor, " p"], float, None]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            yield self.reach * (2 * torch.rand(p, generator=generator, dtype=torch.float64) - 1)


@dataclass(frozen=True, kw_only=True)
class SuccessiveHalving(Move):
    """Trials at evenly spaced shifts of all of λ race: after every rung the better half of them trains on.

    The rungs share the budget evenly. In each one every trial left is trained for the same number of epochs, at least
    one; the last one spends what the others have left over on the winner, until that is stale. A trial is as good as
    its best epoch so far. The states of all trials are kept, three vectors as long as the weights each.

    Attributes:
        splits: data that the trials are trained on.
        trials: at the start, at most; fewer where half the budget does not pay an epoch of each, but no less than two.
            None are made where there is no λ.
        reach: largest shift of λ, either way.
        patience: epochs without a new best of the last trial after which it stops, or `WAIT` of all where that is more.

    Reference: Jamieson & Talwalkar (2016), Non-stochastic best arm identification and hyperparameter optimization,
    figure 3.
    """

    splits: tuple[Split, ...] = ("train", "direction")
    trials: int = 8
    reach: float = 4.0
    patience: int = 2
    name: str = "successive halving on train + direction"

    def __post_init__(self) -> None:
        check_training_splits(self.splits)
        if self.trials < 2:
            raise ValueError(f"trials: expected at least 2, got {self.trials}")

    def candidates(self, problem: BilevelProblem, here: Situation) -> Iterator[Candidate]:
        if not len(here.point.hyper):
            return
        left = here.budget / epoch_price(problem, self.splits)
        num_trials = max(2, math.floor(min(self.trials, left / 2)))
        share = left / (1 + math.ceil(math.log2(num_trials)))
        racing = [(math.inf, trial) for trial in self._trials(problem, here, num_trials)]
        while len(racing) > 1:
            count, rung = whole_epochs(min(share, left) / len(racing)), list[tuple[float, Iterator[Candidate]]]()
            for best, trial in racing:
                reached = 0
                for candidate in until_stale(islice(trial, count), math.inf, count + 1):
                    best, reached = min(best, candidate.selection_loss), reached + 1
                    yield candidate
                rung.append((best if reached == count else math.inf, trial))  # a diverged one is out
            left -= count * len(racing)
            racing = sorted(rung, key=lambda entry: entry[0])[: max(1, min(-(-len(racing) // 2), math.floor(left)))]
        if left >= 1:
            best, trial = racing[0]
            count = whole_epochs(left)
            yield from until_stale(islice(trial, count), best, _wait(self.patience, count))

    def _trials(self, problem: BilevelProblem, here: Situation, num_trials: int) -> list[Iterator[Candidate]]:
        """Endless epochs at each shift."""
        trials: list[Iterator[Candidate]] = []
        for shift in torch.linspace(-self.reach, self.reach, num_trials, dtype=torch.float64):
            hyper = (here.point.hyper + shift).clamp(problem.hyper_lower, problem.hyper_upper)
            start = replace(here.training, point=Point(hyper, here.point.weights))
            epochs = here.trainer.epochs(problem, start, seed=here.seed, splits=self.splits)
            trials.append(take_epochs(problem, here, epochs, f"λ{shift:+.2g}, "))
        return trials


def _wait(patience: int, count: int) -> int:
    """Epochs without a new best that end a training of so many."""
    return max(patience, math.ceil(WAIT * count))


def standard_controls(box: TrustBox, *, share: float = 1.0) -> tuple[Move, ...]:
    """All controls of the method, with the LP's own trust box and share of curvature batches."""
    return (
        NegativeGradient(box=box),
        SignGradient(box=box),
        ImplicitHypergradient(box=box, share=share),
        MoreTraining(),
        MoreTraining(splits=("train", "direction"), name="train + direction data"),
        GridSearch(),
        GridSearch(splits=("train", "direction"), name="grid search on train + direction"),
        SuccessiveHalving(),
        RandomSearch(),
    )
