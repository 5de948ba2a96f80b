"""Implicit differentiation as a control: one step along the hypergradient, or descent along it from start to end."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float64
from torch import Tensor

from lift_core.curvature import add_diagonal
from lift_core.direction import TrustBox
from lift_core.krylov import conjugate_gradient
from lift_core.linearization import Linearization, linearize
from lift_core.moves import Candidate, Direction, LineMove, Move, Situation
from lift_core.operators import LinearOperator
from lift_core.problem import Batch, BilevelProblem, Point, Split
from lift_core.training import TrainingDivergedError, check_training_splits, epoch_price, whole_epochs


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
class ImplicitDescent(Move):
    """Implicit differentiation from start to end: Adam on λ along hypergradients, θ trained on in between.

    Attributes:
        step: learning rate of λ.
        inner_epochs: epochs of training after each step of λ.
        splits: data that is trained on.
        iterations, damping, share: of conjugate gradients, see `ImplicitHypergradient`.
        max_steps: cap beside the budget.

    Reference: Pedregosa (2016), Hyperparameter optimization with approximate gradient, algorithm 1.
    """

    step: float = 0.3
    inner_epochs: int = 2
    splits: tuple[Split, ...] = ("train",)
    iterations: int = 4
    damping: float = 1e-3
    share: float = 1.0
    max_steps: int = 500
    name: str = "implicit differentiation"

    def __post_init__(self) -> None:
        check_training_splits(self.splits)

    def candidates(self, problem: BilevelProblem, here: Situation) -> Iterator[Candidate]:
        linearized = epoch_price(problem, ("direction",)) + problem.mixed_passes
        batches = _some_batches(problem, here.seed, self.share)
        share = sum(problem.batch_size(batch) for batch in batches) / problem.num_examples("train")
        spent = linearized + 2 * self.products * share + self.inner_epochs * epoch_price(problem, self.splits)
        count = whole_epochs(min(self.max_steps, here.budget / spent))
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
                    state, _ = here.trainer.epoch(problem, state, seed=here.seed, splits=self.splits)
            except TrainingDivergedError:
                return
            loss = problem.loss(state.point, "selection")
            curve.append((float(number), loss))
            yield Candidate(f"step {number}", state, loss if math.isfinite(loss) else math.inf, tuple(curve))

    @property
    def products(self) -> int:
        """Hessian products that a hypergradient takes."""
        return self.iterations

    def hypergradient(self, problem: BilevelProblem, here: Situation) -> Float64[Tensor, " p"]:
        """``h = g_λ − Jᵀ H⁻¹ g``."""
        known = linearize(problem, here.point)
        inner = ImplicitHypergradient(iterations=self.iterations, damping=self.damping, share=self.share)
        _, adjoint = inner.adjoint(problem, here, known)
        return known.grad_hyper - known.mixed.rmatvec(adjoint)
