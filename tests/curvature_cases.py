"""Points, starts and dense twins that tests of curvature models share."""

import torch
from torch import Tensor

from lift_core import BilevelProblem, Point


def trained(problem: BilevelProblem) -> Point:
    """A point that is not special: the start, moved by a seeded perturbation."""
    point = problem.initial_point()
    noise = torch.randn(len(point.weights), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Point(point.hyper, point.weights + 0.1 * noise)


def dense_twin(problem: BilevelProblem, point: Point) -> Tensor:
    """The Hessian of the whole lower loss by double autodiff."""
    batches = problem.batches("train")
    count = sum(problem.batch_size(batch) for batch in batches)

    def lower(weights: Tensor) -> Tensor:
        data = sum(
            problem.batch_size(batch) / count * problem.training_loss(point.hyper, weights, batch) for batch in batches
        )
        return data if problem.regularizer is None else data + problem.regularizer.value(point.hyper, weights)

    return torch.func.hessian(lower)(point.weights)


def start_of(problem: BilevelProblem, point: Point) -> Tensor:
    return problem.upper_gradient(point)[1]
