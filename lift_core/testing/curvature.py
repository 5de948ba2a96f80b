"""The contract of a curvature model."""

from __future__ import annotations

import math
from copy import copy

import torch
from torch import Tensor

from lift_core.curvature import Budget, Curvature, CurvatureModel, build_curvature
from lift_core.metering import Cost, Metered
from lift_core.problem import BilevelProblem, Point
from lift_core.testing.operators import check_products, check_symmetric
from lift_core.testing.problems import nearby


def check_curvature(
    model: CurvatureModel,
    problem: BilevelProblem,
    *,
    point: Point | None = None,
    rtol: float = 1e-6,
    num_directions: int = 5,
    seed: int = 0,
) -> None:
    """Build a model on a problem and check what it returns, and what it says that it spends.

    H must be an n x n operator of float64, linear and symmetric, and the same at every call with one seed. No curvature
    along a vector may be below the smallest that the model names, or below zero where it is told to be definite. What
    the meter has seen must be declared, and what is declared be within the budget.

    Args:
        problem: one that describes what the model needs; small, as H is built twice.
        point: where; by default slightly off the initial point.
        rtol: relative accuracy that products and curvatures are held to; about 1e-3 where H is computed in float32.
        num_directions: random vectors along which curvature is looked at, beside ∇_θ F.
        seed: of everything random.

    Raises:
        AssertionError: a sentence that says what is wrong and what is wanted.

    >>> from lift_core import Exact
    >>> from problems import Quadratic
    >>> check_curvature(Exact(), Quadratic())
    """
    who = type(model).__name__
    assert isinstance(model, CurvatureModel), f"{who}: expected an instance of a subclass of lift_core.CurvatureModel"
    assert isinstance(getattr(model, "name", None), str) and model.name, f"{who}.name: expected a string"
    generator = torch.Generator().manual_seed(seed)
    point = nearby(problem, generator) if point is None else point
    budget, metered = _budget(model, len(point.weights)), Metered(problem)
    start = problem.upper_gradient(point)[1]
    snapshots = [nearby(problem, generator).weights for _ in range(model.num_snapshots)]
    unchecked = copy(model)
    object.__setattr__(unchecked, "check", False)  # the guard's products are none of the model's

    def build(on: BilevelProblem) -> Curvature:
        try:
            return build_curvature(unchecked, on, point, start=start, snapshots=snapshots, seed=seed)
        except (TypeError, ValueError) as error:
            raise AssertionError(f"{who}: {error}") from error

    built = build(metered)
    _check_costs(who, built, metered.cost, share=_share(model, problem, seed), budget=budget)
    for check in (check_products, check_symmetric):
        try:
            check(built.hessian, rtol=rtol, seed=seed)
        except AssertionError as error:
            raise AssertionError(f"{who}.data_curvature, hessian: {error}") from error
    drawn = [torch.randn(len(start), dtype=torch.float64, generator=generator) for _ in range(num_directions)]
    vectors = [start, *(vector.to(start.device) for vector in drawn)]
    once, again = (one.hessian.matvec(vectors[-1]) for one in (built, build(problem)))
    assert (once - again).norm() <= rtol * once.norm(), (
        f"{who}.data_curvature: two calls with one seed differ; draw random numbers by view.generator or view.probe()"
    )
    _check_definite(model, built, problem, point, vectors, rtol)


def _budget(model: CurvatureModel, n: int) -> Budget:
    budget = model.budget(n)
    who = f"{type(model).__name__}.budget"
    assert isinstance(budget, Budget), f"{who}: expected a Budget, got {type(budget).__name__}"
    for name, value in vars(budget).items():
        assert isinstance(value, (int, float)) and 0 <= value < math.inf, (
            f"{who}: expected {name} of at least 0, got {value!r}"
        )
    return budget


def _share(model: CurvatureModel, problem: BilevelProblem, seed: int) -> float:
    """Share of the training examples that are in the batches that `build_curvature` chooses."""
    batches = problem.batches("train")
    order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(seed))
    chosen = order[: max(1, math.ceil(model.share * len(batches)))].tolist()
    return sum(problem.batch_size(batches[i]) for i in chosen) / problem.num_examples("train")


def _check_costs(who: str, built: Curvature, cost: Cost, *, share: float, budget: Budget) -> None:
    """``cost`` is what was charged: the larger of what was metered and what the model declares."""
    said = built.num_gradients + 2 * built.num_hvps
    assert cost.differentiation <= share * said * (1 + 1e-9), (
        f"{who}.data_curvature: expected num_hvps and num_gradients of at least what was asked of the problem, "
        f"got {said:g} for {cost.differentiation / share:g} passes over the chosen batches (a product counted as two)"
    )
    allowed = budget.num_gradients + 2 * budget.num_hvps
    assert said <= allowed * (1 + 1e-9), (
        f"{who}.budget: expected at least the {said:g} passes over the chosen batches (a product counted as two) that "
        f"were spent, got {allowed:g}"
    )


def _check_definite(
    model: CurvatureModel, built: Curvature, problem: BilevelProblem, point: Point, vectors: list[Tensor], rtol: float
) -> None:
    """Curvature of the data part is no smaller than the model says: than zero, or its smallest value and its bulk."""
    named = [value for value in (built.smallest, built.bulk) if value is not None and not math.isnan(value)]
    floor = min(named, default=-math.inf) if model.definiteness == "raw" else 0.0
    if floor == -math.inf:
        return
    for v in (vector / vector.norm().clamp(min=1e-300) for vector in vectors):
        product = built.hessian.matvec(v)
        if problem.regularizer is not None:
            product = product - problem.regularizer.hessian(point.hyper, point.weights).matvec(v)
        along = float(v @ product)
        assert along >= floor * float(v @ v) - rtol * (float(product.norm()) + abs(floor)), (
            f"{type(model).__name__}.data_curvature: expected vᵀHv / vᵀv of at least {floor:.3g}, the smallest value "
            f"or bulk that it names (0 where definiteness={model.definiteness!r} is not 'raw'), got {along:.3g}"
        )
