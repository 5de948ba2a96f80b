"""The controls beside which every result stands: same data, same line search, a matched budget.

The plain descent directions stand in `moves`; here are the ones that solve with the Hessian or train.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

import torch
from jaxtyping import Float64
from torch import Tensor

from lift_core.curvature import add_diagonal
from lift_core.direction import TrustBox
from lift_core.krylov import conjugate_gradient
from lift_core.linearization import Linearization, linearize
from lift_core.moves import (
    Candidate,
    Direction,
    LineMove,
    Move,
    NegativeGradient,
    SignGradient,
    Situation,
    take_epochs,
    until_stale,
)
from lift_core.operators import LinearOperator
from lift_core.problem import Batch, BilevelProblem, Point, Split
from lift_core.training import TrainingDivergedError, check_training_splits, epoch_price


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

    def adjoint(
        self, problem: BilevelProblem, here: Situation, known: Linearization
    ) -> tuple[LinearOperator, Float64[Tensor, " n"]]:
        """H, and ``H⁻¹ g`` by conjugate gradients."""
        hessian = lower_hessian(problem, here, self.share)
        return hessian, conjugate_gradient(hessian, known.grad_weights, self.iterations, damping=self.damping)[0]

    def directions(self, problem: BilevelProblem, here: Situation, known: Linearization) -> Iterator[Direction]:
        hessian, adjoint = self.adjoint(problem, here, known)
        hypergradient = known.grad_hyper - known.mixed.rmatvec(adjoint)
        largest = float(hypergradient.abs().max()) if len(hypergradient) else 0.0
        if largest == 0.0:
            return
        d_hyper = -self.box.hyper_radius / largest * hypergradient
        response, _ = conjugate_gradient(hessian, known.mixed.matvec(d_hyper), self.iterations, damping=self.damping)
        slope = float(known.grad_hyper @ d_hyper - known.grad_weights @ response)
        yield Direction("-h", d_hyper, -response, slope, {"hypergradient_norm": float(hypergradient.norm())})


def lower_hessian(problem: BilevelProblem, here: Situation, share: float = 1.0) -> LinearOperator:
    """``∇²_θθ f`` as products, the regulariser's part included, on a share of the training batches."""
    hessian = problem.training_hessian(here.point, _some_batches(problem, here.seed, share))
    if problem.regularizer is None:
        return hessian
    return add_diagonal(hessian, problem.regularizer.hessian(here.point.hyper, here.point.weights).diagonal)


def _some_batches(problem: BilevelProblem, seed: int, share: float) -> list[Batch]:
    """A share of the training batches, at least one."""
    batches = problem.batches("train")
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(batches), generator=generator)[: max(1, math.ceil(share * len(batches)))]
    return [batches[i] for i in sorted(chosen.tolist())]


@dataclass(frozen=True, kw_only=True)
class MoreTraining(Move):
    """Training goes on at the same λ with early stopping on the selection split.

    Attributes:
        splits: data that is trained on: ``("train",)``, or ``("train", "direction")`` for the strongest control.
        max_epochs: cap beside the budget.
        patience: epochs without a new best after which training stops.
    """

    splits: tuple[Split, ...] = ("train",)
    max_epochs: float = math.inf
    patience: int = 2
    name: str = "more training"

    def __post_init__(self) -> None:
        check_training_splits(self.splits)

    def candidates(self, problem: BilevelProblem, here: Situation) -> Iterator[Candidate]:
        count = _whole(min(self.max_epochs, here.budget / epoch_price(problem, self.splits)))
        epochs = here.trainer.epochs(problem, here.training, seed=here.seed, splits=self.splits, count=count)
        yield from until_stale(take_epochs(problem, here, epochs, ""), here.selection_loss, self.patience)


@dataclass(frozen=True, kw_only=True)
class HyperSearch(Move, ABC):
    """Search over λ, each trial trained from the same point with an equal part of the budget.

    Attributes:
        splits: data that the trials are trained on.
        trials: number of settings.
        reach: largest shift of λ, either way.
        patience: epochs without a new best of the trial after which it stops.
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
        count = _whole(share)
        shifts = self.shifts(len(here.point.hyper), here.seed)
        shift = next(shifts)
        for number in range(1, self.trials + 1):
            hyper = (here.point.hyper + shift.to(here.point.hyper)).clamp(problem.hyper_lower, problem.hyper_upper)
            start = replace(here.training, point=Point(hyper, here.point.weights))
            label = f"{self.label(number, shift)}, "
            epochs = here.trainer.epochs(problem, start, seed=here.seed, splits=self.splits, count=count)
            best = math.inf
            for candidate in until_stale(take_epochs(problem, here, epochs, label), math.inf, self.patience):
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
        patience: epochs without a new best of the last trial after which it stops.

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
            count, rung = _whole(min(share, left) / len(racing)), list[tuple[float, Iterator[Candidate]]]()
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
            yield from until_stale(islice(trial, _whole(left)), best, self.patience)

    def _trials(self, problem: BilevelProblem, here: Situation, num_trials: int) -> list[Iterator[Candidate]]:
        """Endless epochs at each shift."""
        trials: list[Iterator[Candidate]] = []
        for shift in torch.linspace(-self.reach, self.reach, num_trials, dtype=torch.float64):
            hyper = (here.point.hyper + shift).clamp(problem.hyper_lower, problem.hyper_upper)
            start = replace(here.training, point=Point(hyper, here.point.weights))
            epochs = here.trainer.epochs(problem, start, seed=here.seed, splits=self.splits)
            trials.append(take_epochs(problem, here, epochs, f"λ{shift:+.2g}, "))
        return trials


@dataclass(frozen=True, kw_only=True)
class ImplicitDescent(Move):
    """Implicit differentiation from start to end: Adam on λ along hypergradients, θ trained on in between.

    Attributes:
        step: learning rate of λ.
        inner_epochs: epochs of training after each step of λ.
        iterations, damping, share: of conjugate gradients, see `ImplicitHypergradient`.
        max_steps: cap beside the budget.

    Reference: Pedregosa (2016), Hyperparameter optimization with approximate gradient, algorithm 1.
    """

    step: float = 0.3
    inner_epochs: int = 2
    iterations: int = 4
    damping: float = 1e-3
    share: float = 1.0
    max_steps: int = 500
    name: str = "implicit differentiation"

    def candidates(self, problem: BilevelProblem, here: Situation) -> Iterator[Candidate]:
        linearized = epoch_price(problem, ("direction",)) + problem.mixed_passes
        batches = _some_batches(problem, here.seed, self.share)
        share = sum(problem.batch_size(batch) for batch in batches) / problem.num_examples("train")
        spent = linearized + 2 * self.iterations * share + self.inner_epochs
        count = _whole(min(self.max_steps, here.budget / spent))
        hyper = here.point.hyper.clone().requires_grad_()
        optimizer = torch.optim.Adam([hyper], lr=self.step)
        state, curve = here.training, [(0.0, here.selection_loss)]
        for number in range(1, count + 1):
            hyper.grad = self.hypergradient(problem, replace(here, training=state))
            optimizer.step()
            with torch.no_grad():
                hyper.clamp_(problem.hyper_lower, problem.hyper_upper)
            state = replace(state, point=Point(hyper.detach().clone(), state.point.weights))
            try:
                for _ in range(self.inner_epochs):
                    state, _ = here.trainer.epoch(problem, state, seed=here.seed)
            except TrainingDivergedError:
                return
            loss = problem.loss(state.point, "selection")
            curve.append((float(number), loss))
            yield Candidate(f"step {number}", state, loss if math.isfinite(loss) else math.inf, tuple(curve))

    def hypergradient(self, problem: BilevelProblem, here: Situation) -> Float64[Tensor, " p"]:
        """``h = g_λ − Jᵀ H⁻¹ g``."""
        known = linearize(problem, here.point)
        inner = ImplicitHypergradient(iterations=self.iterations, damping=self.damping, share=self.share)
        _, adjoint = inner.adjoint(problem, here, known)
        return known.grad_hyper - known.mixed.rmatvec(adjoint)


def _whole(share: float) -> int:
    """Whole epochs, at least one.

    Raises:
        ValueError: if nothing limits them.
    """
    if share == math.inf:
        raise ValueError("budget: expected a finite number of passes, got inf")
    return max(1, math.floor(share))


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
