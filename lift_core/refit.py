"""Training on at the λ that a move found: verifies the move, and shows how far along its direction λ should go."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from lift_core.moves import Candidate, Situation, take_epochs, until_stale
from lift_core.problem import BilevelProblem, Point, Split
from lift_core.training import check_training_splits, epoch_price


@dataclass(frozen=True, kw_only=True)
class Refit:
    """Epochs of training from the moved weights; the best of them on the selection split competes with the move.

    A line search along ``(λ, θ) + t d`` says little about λ, because F does not depend on it: what a strength is worth
    shows when θ is trained at it. ``reach`` therefore tries several steps of λ alone, at the price of one refit each.

    Attributes:
        epochs: of one refit, at most; 0: no refit.
        splits: data: ``("train",)``, or ``("train", "direction")`` to use all that λ was tuned on.
        patience: epochs without a new best after which a refit stops.
        reach: multiples s; one refit each at ``λ + s d_λ``, where d_λ is the move's direction; a single one where that
            is zero. Empty: at the move's λ, if it moved.
        all_in: whether the epochs are the price of the whole round, evaluations aside: what its direction has spent, a
            Hessian product counted as two gradients, is then taken off them, and the last epoch ends where they do.

    >>> Refit(epochs=8, splits=("train", "direction"), reach=(1.0, 2.0)).patience
    2
    """

    epochs: float = 0
    splits: tuple[Split, ...] = ("train",)
    patience: int = 2
    reach: tuple[float, ...] = ()
    all_in: bool = False

    def __post_init__(self) -> None:
        check_training_splits(self.splits)
        if not 0 <= self.epochs < math.inf:
            raise ValueError(f"epochs: expected a finite number of at least 0, got {self.epochs}")
        if self.patience < 1:
            raise ValueError(f"patience: expected at least 1, got {self.patience}")
        if not isinstance(self.reach, (tuple, list)):
            raise TypeError(f"reach: expected a tuple of numbers, got {self.reach!r}")
        if not all(0 < multiple < math.inf for multiple in self.reach):
            raise ValueError(f"reach: expected positive multiples of the direction, got {self.reach}")

    def best(self, problem: BilevelProblem, here: Situation, moved: Candidate, *, spent: float = 0.0) -> Candidate:
        """The epoch of lowest selection loss of all refits; ``moved`` where none is wanted or λ has no direction.

        Args:
            spent: by the direction, in passes over the training split.
        """
        if self.epochs == 0 or moved.d_hyper is None or (moved.label == "stay" and not self.reach):
            return moved
        budget, starts = self.budget(problem), list(self._starts(problem, here, moved))
        left = math.inf if budget is None else (budget - spent) / epoch_price(problem, self.splits) / len(starts)
        found = (epoch for label, point in starts
                 for epoch in self._epochs(problem, here, moved, label, point, min(self.epochs, left)))  # fmt: skip
        return min(found, key=lambda candidate: candidate.selection_loss, default=moved)

    def budget(self, problem: BilevelProblem) -> float | None:
        """Passes over the training split that a direction and its refits may cost together; None: no such limit."""
        return self.epochs * max(1, len(self.reach)) * epoch_price(problem, self.splits) if self.all_in else None

    def _starts(self, problem: BilevelProblem, here: Situation, moved: Candidate) -> Iterator[tuple[str, Point]]:
        assert moved.d_hyper is not None  # `best` has looked
        if not moved.d_hyper.any():
            yield "refit at λ, ", Point(here.point.hyper, moved.training.point.weights)
            return
        if not self.reach:
            yield "refit ", moved.training.point
        for multiple in self.reach:
            hyper = here.point.hyper + multiple * moved.d_hyper
            hyper = hyper.clamp(problem.hyper_lower, problem.hyper_upper)
            yield f"refit at λ{multiple:+g}·d, ", Point(hyper, moved.training.point.weights)

    def _epochs(
        self, problem: BilevelProblem, here: Situation, moved: Candidate, label: str, point: Point, count: float
    ) -> Iterator[Candidate]:
        training = replace(moved.training, point=point)
        start = replace(here, training=training, selection_loss=moved.selection_loss)
        epochs = here.trainer.epochs(problem, training, seed=here.seed, splits=self.splits, count=count)
        yield from until_stale(take_epochs(problem, start, epochs, label), moved.selection_loss, self.patience)
