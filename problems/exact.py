"""Answers that small problems know exactly: dense algebra, for n up to a few thousand."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

from lift_core.problem import BilevelProblem, Point, Split


def lower_hessian(problem: BilevelProblem, point: Point) -> Float64[Tensor, "n n"]:
    """``H = ∇²_θθ f`` as a matrix, the regulariser included."""
    data = problem.training_hessian(point).to_dense()
    if problem.regularizer is None:
        return data
    return data + problem.regularizer.hessian(point.hyper, point.weights).to_dense()


def implicit_hypergradient(problem: BilevelProblem, point: Point, split: Split = "direction") -> Float64[Tensor, " p"]:
    """``h = g_λ − Jᵀ H⁻¹ g``: at a lower solution, the gradient of ``λ ↦ F(λ, θ(λ))``.

    Reference: Pedregosa (2016), Hyperparameter optimization with approximate gradient, eq. 2.
    """
    grad_hyper, grad_weights = problem.upper_gradient(point, split)
    adjoint = torch.linalg.solve(lower_hessian(problem, point), grad_weights)
    return grad_hyper - problem.mixed(point).rmatvec(adjoint)


def newton_solution(
    problem: BilevelProblem, start: Point, *, rtol: float = 1e-12, max_iterations: int = 50
) -> Float64[Tensor, " n"]:
    """The weights that minimise a convex lower loss at ``start.hyper``, by Newton steps halved until the loss falls.

    Raises:
        ArithmeticError: if ``‖∇f‖ ≤ rtol · (1 + ‖∇f(start)‖)`` is not reached.
    """
    point, gradient = start, problem.lower_gradient(start)
    target = rtol * (1 + float(gradient.norm()))
    for _ in range(max_iterations):
        if float(gradient.norm()) <= target:
            return point.weights
        point = _newton_step(problem, point, gradient)
        gradient = problem.lower_gradient(point)
    raise ArithmeticError(
        f"{problem.name}: the lower gradient is {float(gradient.norm()):.1e} after {max_iterations} Newton steps, "
        f"wanted at most {target:.1e}"
    )


def _newton_step(problem: BilevelProblem, point: Point, gradient: Tensor) -> Point:
    step, before = torch.linalg.solve(lower_hessian(problem, point), gradient), problem.lower_loss(point)
    # rounding hides any decrease near the solution, where the full step is right
    slack = 1e-12 * (1 + abs(before))
    for halving in range(30):
        moved = Point(point.hyper, point.weights - 0.5**halving * step)
        if problem.lower_loss(moved) <= before + slack:
            return moved
    return point
