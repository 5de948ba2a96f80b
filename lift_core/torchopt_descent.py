"""Implicit differentiation by TorchOpt as a control; importing this module needs TorchOpt."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, cast

import torch
import torchopt
from jaxtyping import Float64
from torch import Tensor

from lift_core.implicit import ImplicitDescent, lower_hessian
from lift_core.linearization import linearize
from lift_core.moves import Situation
from lift_core.operators import LinearOperator
from lift_core.problem import BilevelProblem


@dataclass(frozen=True, kw_only=True)
class TorchOptDescent(ImplicitDescent):
    """`ImplicitDescent` with the hypergradient that TorchOpt's implicit differentiation gives.

    Its conjugate gradients start with a product, one more than ours; they damp by the absolute ``damping``.

    Reference: Ren et al. (2023), TorchOpt: an efficient library for differentiable optimization, JMLR 24.
    """

    name: str = "implicit differentiation, TorchOpt"

    @property
    def products(self) -> int:
        return self.iterations + 1

    def hypergradient(self, problem: BilevelProblem, here: Situation) -> Float64[Tensor, " p"]:
        known = linearize(problem, here.point)
        hessian = lower_hessian(problem, here, self.share)

        def stationarity(weights: Tensor, hyper: Tensor) -> Tensor:
            return _Stationarity.apply(weights, hyper, hessian, known.mixed)

        solve = torchopt.linear_solve.solve_cg(maxiter=self.iterations, ridge=self.damping)
        implicit = torchopt.diff.implicit.custom_root(stationarity, argnums=1, solve=solve)
        hyper = here.point.hyper.clone().requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # it calls functorch by its old name
            start = here.point.weights.clone().requires_grad_()
            solution = cast(Tensor, implicit(lambda weights, _: weights)(start, hyper))
            (through_weights,) = torch.autograd.grad(solution, hyper, known.grad_weights)
        return known.grad_hyper + through_weights


class _Stationarity(torch.autograd.Function):
    """``r(θ, λ) = ∇_θ f``, taken to be 0, with derivatives by the problem's own products, ``H v`` and ``Jᵀ v``."""

    @staticmethod
    def forward(weights: Tensor, hyper: Tensor, hessian: LinearOperator, mixed: LinearOperator) -> Tensor:
        return torch.zeros_like(weights)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.hessian, ctx.mixed = inputs[2:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (vector,) = grads
        through_weights = ctx.hessian.matvec(vector) if ctx.needs_input_grad[0] else None
        return through_weights, ctx.mixed.rmatvec(vector) if ctx.needs_input_grad[1] else None, None, None
