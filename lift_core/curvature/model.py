"""What every curvature model has in common, and how one is built at a point."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Float64
from torch import Tensor

from lift_core.curvature.guard import available_bytes, check_hessian, check_products, check_two_passes
from lift_core.metering import Cost, Metered
from lift_core.operators import Dense, Diagonal, LinearOperator, LowRankPlusDiagonal, MatrixFree, PlusDiagonal
from lift_core.problem import Batch, BilevelProblem, Point

Definiteness = Literal["raw", "clamped", "absolute"]
"""What happens to negative eigenvalues: kept, set to zero, or made positive."""

Snapshots = Sequence[Float64[Tensor, " n"]]
"""Weights visited during the warm-up, oldest first."""


@dataclass(frozen=True)
class Budget:
    """What a model will spend.

    Attributes:
        num_hvps, num_gradients: products and gradients over the chosen batches.
        num_bytes: float64 arrays of the model itself; what differentiation of the network keeps comes on top.
    """

    num_hvps: int = 0
    num_gradients: int = 0
    num_bytes: int = 0


@dataclass(frozen=True)
class Curvature:
    """A built model.

    Attributes:
        hessian: stands in for H, regulariser included, symmetric n x n.
        smallest: smallest eigenvalue or Ritz value of the data part that was seen, before `Definiteness` acted.
        largest: the largest one.
        bulk: σ, the mean value given to the directions that were not seen; None where the model has none.
        bulk_error: standard error of σ over its random probes; None where there are none.
        ritz_residuals: ``‖H v - θ v‖`` of the Ritz pairs, largest value first; None where the model has none.
        num_hvps, num_gradients: products and gradients over the chosen batches that the model spent; one over a part of
            them counts that part. See `build_curvature` for what they are charged.
    """

    hessian: LinearOperator
    smallest: float
    largest: float
    bulk: float | None = None
    bulk_error: float | None = None
    ritz_residuals: Float64[Tensor, " k"] | None = None
    num_hvps: float = 0
    num_gradients: float = 0


@dataclass(frozen=True, kw_only=True)
class CurvatureModel(ABC):
    """A recipe for H.

    Attributes:
        definiteness: see `Definiteness`.
        share: share of the training batches that curvature is sampled on, in (0, 1].
        memory_limit: bytes that the model's arrays may take; None for what the machine has free.
        check: whether two passes over the data must agree, and the products be symmetric and linear, before the
            model trusts them (costs two evaluations of the chosen batches, and three products on one batch).
    """

    name: ClassVar[str]
    uses_products: ClassVar[bool] = True
    definiteness: Definiteness = "raw"
    share: float = 1.0
    memory_limit: int | None = None
    check: bool = True

    @property
    def num_snapshots(self) -> int:
        """Snapshots of the weights that the model wants from the warm-up."""
        return 0

    def __post_init__(self) -> None:
        if self.definiteness not in get_args(Definiteness):
            raise ValueError(f"definiteness: expected one of {get_args(Definiteness)}, got {self.definiteness!r}")
        if not 0 < self.share <= 1:
            raise ValueError(f"share: expected a number in (0, 1], got {self.share}")
        if self.memory_limit is not None and self.memory_limit <= 0:
            raise ValueError(f"memory_limit: expected a positive number of bytes or None, got {self.memory_limit}")

    @abstractmethod
    def budget(self, n: int) -> Budget:
        """What the model will spend on ``n`` weights."""

    @abstractmethod
    def data_curvature(self, view: CurvatureView) -> Curvature:
        """Approximate ``∇²_θθ L_train`` at a point from what the view offers."""


@dataclass(frozen=True)
class CurvatureView:
    """What a curvature model may look at.

    Attributes:
        problem, point: where.
        batches: the chosen training batches.
        start: direction in which accuracy matters most (∇_θ F): Krylov spaces start here.
        snapshots: weights along the warm-up.
        generator: source of random probes.
    """

    problem: BilevelProblem
    point: Point
    batches: Sequence[Batch]
    start: Float64[Tensor, " n"]
    snapshots: Snapshots
    generator: torch.Generator

    def probe(self) -> Float64[Tensor, " n"]:
        """A vector of random signs."""
        n = len(self.point.weights)
        drawn = torch.randint(0, 2, (n,), generator=self.generator, dtype=torch.float64)
        return drawn.mul_(2).sub_(1).to(self.point.weights.device)


def build_curvature(
    model: CurvatureModel,
    problem: BilevelProblem,
    point: Point,
    *,
    start: Float64[Tensor, " n"],
    snapshots: Snapshots = (),
    seed: int = 0,
) -> Curvature:
    """Build ``model`` at ``point`` on a seeded share of the training batches and add the regulariser's diagonal.

    A `Metered` problem is charged what its oracles were asked for, or what the model says that it spent where that is
    more: a model may differentiate the losses by itself, which no meter sees.

    Raises:
        TypeError: if the model returns no `Curvature` of an operator.
        ValueError: if the model's arrays would not fit in memory, or what it returns is no symmetric matrix of finite
            numbers, see `check_hessian`.
        NondeterministicError: if two passes over the data, or the products, contradict each other.
    """
    require_memory(model, len(point.weights), point.weights.device)
    batches = problem.batches("train")
    generator = torch.Generator().manual_seed(seed)
    count = max(1, math.ceil(model.share * len(batches)))
    chosen = sorted(torch.randperm(len(batches), generator=generator)[:count].tolist())
    view = CurvatureView(problem, point, [batches[i] for i in chosen], start, snapshots, generator)
    if model.check:
        check_two_passes(problem, point, chosen)
        if model.uses_products:
            check_products(problem, point, view.batches[0], seed=seed)
    built = _data_curvature(model, view)
    check_hessian(f"{type(model).__name__}.data_curvature, hessian", built.hessian, point.weights, seed=seed)
    if problem.regularizer is None:
        return built
    diagonal = problem.regularizer.hessian(point.hyper, point.weights).diagonal
    return replace(built, hessian=add_diagonal(built.hessian, diagonal))


def _data_curvature(model: CurvatureModel, view: CurvatureView) -> Curvature:
    """What the model returns, its values as floats, charged as `build_curvature` says."""
    problem, who = view.problem, f"{type(model).__name__}.data_curvature"
    before = problem.cost if isinstance(problem, Metered) else Cost()
    built = model.data_curvature(view)
    if not isinstance(built, Curvature):  # pyright: ignore[reportUnnecessaryIsInstance]  (it is the user's)
        raise TypeError(f"{who}: expected a Curvature(hessian, smallest, largest), got {type(built).__name__}")
    values: dict[str, float | None] = {}
    for name in ("smallest", "largest", "bulk", "bulk_error"):
        value = getattr(built, name)
        try:
            values[name] = None if value is None else value.item() if isinstance(value, Tensor) else float(value)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"{who}, {name}: expected a number, got {value!r:.200}") from None
    if isinstance(problem, Metered):
        share = sum(map(problem.batch_size, view.batches)) / problem.num_examples("train")
        problem.spend_at_least(Cost(gradients=share * built.num_gradients, hvps=share * built.num_hvps), since=before)
    return replace(built, **values)


def require_memory(model: CurvatureModel, n: int, device: torch.device) -> None:
    """Refuse a model whose arrays would not fit, with the bytes that it needs."""
    need = model.budget(n).num_bytes
    limit = available_bytes(device) if model.memory_limit is None else model.memory_limit
    if need > limit:
        raise ValueError(
            f"memory_limit: {type(model).__name__} needs {need / 2**30:.3g} GiB for {n:,} weights, more than "
            f"{limit / 2**30:.3g} GiB {'free' if model.memory_limit is None else 'allowed'}; lower its rank or "
            "samples, tune fewer weights, or set memory_limit"
        )


def add_diagonal(operator: LinearOperator, diagonal: Float64[Tensor, " n"]) -> LinearOperator:
    """``A + diag(d)``, in the form that A has."""
    match operator:
        case Dense():
            return Dense(operator.matrix + torch.diag(diagonal))
        case Diagonal():
            return Diagonal(operator.diagonal + diagonal)
        case LowRankPlusDiagonal():
            return LowRankPlusDiagonal(
                diagonal=operator.diagonal + diagonal, factor=operator.factor, core=operator.core
            )
        case MatrixFree():
            return MatrixFree(
                operator.shape[0],
                lambda x: operator.matvec(x) + diagonal * x,
                matmat=lambda x: operator.matmat(x) + diagonal[:, None] * x,
                device=operator.device,
            )
        case _:
            return PlusDiagonal(operator, diagonal)


def make_definite(values: Tensor, definiteness: Definiteness) -> Tensor:
    """Eigenvalues after `Definiteness` acted."""
    if definiteness == "clamped":
        return values.clamp(min=0)
    return values.abs() if definiteness == "absolute" else values
