"""What the method knows at a point before it asks for curvature."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float64
from torch import Tensor

from lift_core.operators import LinearOperator, require_finite
from lift_core.problem import BilevelProblem, Point, Split

NORM_BATCHES = 4
"""Batches behind each of the two gradients whose product tells how large the training gradient is."""


@dataclass(frozen=True)
class Linearization:
    """What the method knows at a point, curvature aside.

    Attributes:
        problem, point: where (λ, θ).
        grad_hyper, grad_weights: g_λ (p,) and g (n,), gradients of the validation loss F.
        mixed: J, n x p.
    """

    problem: BilevelProblem
    point: Point
    grad_hyper: Float64[Tensor, " p"]
    grad_weights: Float64[Tensor, " n"]
    mixed: LinearOperator

    @cached_property
    def lower_gradient(self) -> Float64[Tensor, " n"]:
        """r, the gradient of the training loss f; a pass over the training data when it is first read.

        Raises:
            ValueError: if it is not finite.
        """
        gradient = self.problem.lower_gradient(self.point)
        require_finite(lower_gradient=gradient)
        return gradient


def linearize(problem: BilevelProblem, point: Point, *, split: Split = "direction") -> Linearization:
    """Gradient of the validation loss and mixed partial at a point; the training gradient waits until it is asked for.

    Raises:
        ValueError: if a gradient is not finite, or zero in every weight although the validation loss depends on them.
    """
    grad_hyper, grad_weights = problem.upper_gradient(point, split)
    require_finite(grad_hyper=grad_hyper, grad_weights=grad_weights)
    if not grad_weights.any():
        _require_flat(problem, point, split)
    return Linearization(problem, point, grad_hyper, grad_weights, problem.mixed(point))


def _require_flat(problem: BilevelProblem, point: Point, split: Split) -> None:
    """Where the gradient is zero, the loss is as large on one side of the point as on the other.

    Raises:
        ValueError: if it is not, so that the gradient cannot be right.
    """
    drawn = torch.randn(len(point.weights), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    step = 1e-3 * (1 + float(point.weights.abs().max())) * drawn.to(point.weights.device)
    up, down = (problem.loss(Point(point.hyper, point.weights + sign * step), split) for sign in (1, -1))
    if abs(up - down) > 1e-6 * (abs(up) + abs(down)):
        raise ValueError(
            "upper_gradient: expected the gradient of the validation loss, got zero in every weight, but the loss is "
            f"{up:.9g} on one side of the point and {down:.9g} on the other; look for no_grad, detach or item in "
            "upper_loss"
        )


def training_gradient_norm(problem: BilevelProblem, point: Point, *, seed: int = 0) -> float:
    """``‖r‖``, how far from optimal training is; from a few batches where there are many.

    With r₁ and r₂ from disjoint random sets of k out of N batches, ``r₁ᵀr₂ + k/(2N) ‖r₁ − r₂‖²`` has the mean ``‖r‖²``
    for batches of one size: the second term is what drawing without replacement takes from the first. Zero where
    rounding and noise make it negative: r is then smaller than these batches can tell.

    Raises:
        ValueError: if a gradient is not finite.
    """
    batches, k = problem.batches("train"), NORM_BATCHES
    if len(batches) < 2 * k:
        first = second = problem.lower_gradient(point)
    else:
        drawn = torch.randperm(len(batches), generator=torch.Generator().manual_seed(seed))[: 2 * k].tolist()
        first, second = (problem.lower_gradient(point, [batches[i] for i in half]) for half in (drawn[:k], drawn[k:]))
    require_finite(lower_gradient=first + second)
    return math.sqrt(max(float(first @ second + k / (2 * len(batches)) * (first - second).square().sum()), 0.0))
