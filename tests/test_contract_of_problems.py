"""`check_problem` finds problems that are broken on purpose, and says what is wrong."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from lift_core import (
    L2,
    Batch,
    BilevelProblem,
    Dense,
    LinearOperator,
    Point,
    Regularizer,
    Split,
)
from lift_core.testing import check_problem
from problems import DataCleaning, Network, Quadratic, Regression


class WrongUpperGradient(Quadratic):
    def upper_gradient(self, point: Point, split: Split = "direction") -> tuple[Tensor, Tensor]:
        by_hyper, by_weights = super().upper_gradient(point, split)
        return by_hyper, 1.01 * by_weights


class GradientOfAnotherSplit(Quadratic):
    def upper_gradient(self, point: Point, split: Split = "direction") -> tuple[Tensor, Tensor]:
        return super().upper_gradient(point, "direction")


class NoHyperGradient(Quadratic):
    def upper_gradient(self, point: Point, split: Split = "direction") -> tuple[Tensor, Tensor]:
        by_hyper, by_weights = super().upper_gradient(point, split)
        return 0 * by_hyper, by_weights


class WrongTrainingGradient(Quadratic):
    def training_gradient(self, point: Point, batches: Sequence[Batch] | None = None) -> Tensor:
        gradient = super().training_gradient(point, batches)
        return torch.cat([gradient[:-1], 0 * gradient[-1:]])


class IgnoresBatches(Quadratic):
    def training_gradient(self, point: Point, batches: Sequence[Batch] | None = None) -> Tensor:
        return super().training_gradient(point, None if batches is None else self.batches("test")[:1])


class WrongHessian(Quadratic):
    def training_hessian(self, point: Point, batches: Sequence[Batch] | None = None) -> LinearOperator:
        return Dense(self.Q + torch.eye(len(self.Q)))


class AsymmetricHessian(Quadratic):
    def training_hessian(self, point: Point, batches: Sequence[Batch] | None = None) -> LinearOperator:
        return Dense(self.Q + torch.ones_like(self.Q).triu(1))


class NegativeGaussNewton(Quadratic):
    def training_gauss_newton(self, point: Point, batches: Sequence[Batch] | None = None) -> LinearOperator:
        return Dense(-self.Q)


class WrongOutputLoss(Regression):
    def output_loss(self, hyper: Tensor, outputs: Tensor, batch: Batch) -> Tensor:
        return super().output_loss(hyper, outputs, batch) + 1

    def upper_loss(self, hyper: Tensor, weights: Tensor, batch: Batch) -> Tensor:
        return super().output_loss(hyper, self.outputs(weights, batch), batch)


class WrongMixed(Quadratic):
    def mixed(self, point: Point) -> LinearOperator:
        return Dense(-super().mixed(point).to_dense())


class TransposedMixed(Quadratic):
    def mixed(self, point: Point) -> LinearOperator:
        return Dense(super().mixed(point).to_dense().T)


class ForgetsHyperInTraining(DataCleaning):
    hyper_in_training = False


class ShuffledBatches(Quadratic):
    """A new order at every call, as a shuffling data loader would give."""

    turn = 0

    def initial_point(self) -> Point:
        return Point(torch.zeros(3).double(), torch.ones(6).double())

    def batches(self, split: Split) -> Sequence[Batch]:
        self.turn += 1
        batches = list(super().batches(split))
        return batches[::-1] if self.turn % 2 else batches


class Dropout(Quadratic):
    def upper_loss(self, hyper: Tensor, weights: Tensor, batch: Batch) -> Tensor:
        return super().upper_loss(hyper, weights, batch) * (1 + torch.rand(()).item())


class NoTestSplit(Quadratic):
    def batches(self, split: Split) -> Sequence[Batch]:
        return [] if split == "test" else super().batches(split)


class VectorLoss(Quadratic):
    def upper_loss(self, hyper: Tensor, weights: Tensor, batch: Batch) -> Tensor:
        return super().upper_loss(hyper, weights, batch)[None]


class FloatLoss(Quadratic):
    def upper_loss(self, hyper: Tensor, weights: Tensor, batch: Batch) -> Tensor:
        return float(super().upper_loss(hyper, weights, batch))  # pyright: ignore[reportReturnType]


class Stream(Quadratic):
    def batches(self, split: Split) -> Sequence[Batch]:
        return (batch for batch in super().batches(split))  # pyright: ignore[reportReturnType]


class Named(Quadratic):
    def initial_point(self) -> Point:
        return Point(torch.zeros(3).double(), torch.ones(6).double())

    def batches(self, split: Split) -> Sequence[Batch]:
        return [{"inputs": batch} for batch in super().batches(split)]

    def batch_size(self, batch: Batch) -> int:
        return BilevelProblem.batch_size(self, batch)


class NanLoss(Quadratic):
    def upper_loss(self, hyper: Tensor, weights: Tensor, batch: Batch) -> Tensor:
        return super().upper_loss(hyper, weights, batch) * torch.nan


class RestlessStart(Quadratic):
    def initial_point(self) -> Point:
        return Point(super().initial_point().hyper, torch.randn(6).double())


class NeighbourGradients(Network):
    def example_gradients(self, point: Point, batch: Batch, *, limit: int | None = None) -> tuple[Tensor, list[int]]:
        rows, sizes = super().example_gradients(point, batch, limit=limit)
        return rows[:1].expand_as(rows), sizes


class ForgetsLimit(Network):
    def example_gradients(self, point: Point, batch: Batch, *, limit: int | None = None) -> tuple[Tensor, list[int]]:
        return super().example_gradients(point, batch)


class SizesOfBatches(Network):
    def example_gradients(self, point: Point, batch: Batch, *, limit: int | None = None) -> tuple[Tensor, list[int]]:
        rows, sizes = super().example_gradients(point, batch, limit=limit)
        return rows, [2 * size for size in sizes]


class DrawsAnew(Network):
    def sampled(self, point: Point, batch: Batch, generator: torch.Generator) -> Batch:
        return super().sampled(point, batch, torch.Generator().manual_seed(torch.seed() % 2**31))


class DropsSamples(Network):
    def sampled(self, point: Point, batch: Batch, generator: torch.Generator) -> Batch:
        return tuple(part[1:] for part in super().sampled(point, batch, generator))


class Scaled(L2):
    """With a scale of each weight, which a part of it does not take along."""

    def __init__(self, group_of: Tensor, *, num_hyper: int, taken_along: bool = False) -> None:
        super().__init__(group_of, num_hyper=num_hyper)
        self.scale, self.taken_along = torch.linspace(1, 2, len(self.group_of)).double(), taken_along

    def restricted(self, index: Tensor) -> Regularizer:
        part = super().restricted(index)
        part.scale = self.scale[: len(index)] if self.taken_along else self.scale  # pyright: ignore
        return part

    def penalty(self, weights: Tensor) -> Tensor:
        return self.scale * weights.square() / 2

    def slope(self, weights: Tensor) -> Tensor:
        return self.scale * weights

    def curvature(self, weights: Tensor) -> Tensor:
        return self.scale


class SoftStrengths(L2):
    def strengths(self, hyper: Tensor) -> Tensor:
        return torch.nn.functional.softplus(hyper)


def with_regularizer(make: Callable[..., Regularizer], **options: object) -> Callable[[], BilevelProblem]:
    def made() -> BilevelProblem:
        problem = Network(num_hidden=1)
        problem.regularizer = make(problem.regularizer.group_of, num_hyper=problem.regularizer.num_hyper, **options)
        return problem

    return made


def changed(**attributes: object) -> Callable[[], BilevelProblem]:
    def make() -> BilevelProblem:
        problem = Quadratic()
        for name, value in attributes.items():
            setattr(problem, name, value)
        return problem

    return make


BROKEN_PROBLEMS: dict[str, tuple[Callable[[], BilevelProblem], str]] = {
    "upper gradient": (WrongUpperGradient, "upper_gradient, θ part"),
    "gradient of another split": (GradientOfAnotherSplit, "upper_gradient, θ part"),
    "λ gradient": (lambda: NoHyperGradient(hyper_cost=True), "upper_gradient, λ part"),
    "training gradient": (WrongTrainingGradient, "lower_gradient: gᵀv differs"),
    "training gradient per batch": (IgnoresBatches, "training_gradient: the mean over batches"),
    "Hessian": (WrongHessian, "training_hessian: .*differs from the change"),
    "asymmetric Hessian": (AsymmetricHessian, "training_hessian: .*(transpose|symmetric)"),
    "negative Gauss-Newton": (NegativeGaussNewton, "training_gauss_newton: .*negative"),
    "output loss": (WrongOutputLoss, "output_loss: .*must equal training_loss"),
    "mixed": (WrongMixed, "mixed: J v differs"),
    "shape of mixed": (TransposedMixed, r"mixed: expected shape \(6, 3\), got \(3, 6\)"),
    "λ in training not declared": (lambda: ForgetsHyperInTraining(num_train=20), "mixed: J v differs"),
    "shuffled": (ShuffledBatches, "two passes over the data differ"),
    "dropout": (Dropout, "two passes over the data differ"),
    "empty split": (NoTestSplit, r"batches\('test'\): .*the split is empty"),
    "vector loss": (VectorLoss, "upper_loss: expected one number"),
    "NaN loss": (NanLoss, "upper_loss: nan"),
    "restless start": (RestlessStart, "initial_point: two calls differ"),
    "names": (changed(hyper_names=("a", "b")), "hyper_names: expected one name for each of 3"),
    "equal names": (changed(hyper_names=("a", "a", "b")), "hyper_names: names must differ"),
    "names that are not strings": (changed(hyper_names=(1, 2, 3)), "must be strings"),
    "infinite strength": (
        changed(hyper_upper=torch.full((3,), torch.inf).double()),
        r"hyper_upper: expected bounds at which every strength is finite, but that of λ\[0\]",
    ),
    "bounds in a list": (changed(hyper_lower=[0.0] * 3), "hyper_lower: expected a tensor, got list"),
    "batches from a generator": (Stream, r"batches\('train'\): expected a list of batches, got generator"),
    "batches in dictionaries": (Named, r"batch_size: KeyError \(0\); by default it is len\(batch\[0\]\)"),
    "loss as a float": (FloatLoss, "upper_loss: expected a tensor, got float"),
    "bound shape": (changed(hyper_lower=torch.zeros(2).double()), "hyper_lower: expected float64 of shape"),
    "bound dtype": (changed(hyper_upper=torch.ones(3)), "hyper_upper: expected float64"),
    "NaN bound": (changed(hyper_upper=torch.full((3,), torch.nan).double()), "hyper_upper: NaN"),
    "start outside bounds": (changed(hyper_lower=torch.ones(3).double()), r"initial_point: λ\[0\] lies outside"),
    "missing weights in groups": (changed(groups={"a": slice(0, 5)}), "groups: every weight .* weight 5 is in 0"),
    "overlapping groups": (
        changed(groups={"a": slice(0, 4), "b": slice(3, 6)}),
        "groups: every weight .* weight 3 is in 2",
    ),
    "groups with a step": (
        changed(groups={"even": slice(0, 6, 2), "odd": slice(1, 6, 2)}),
        r"groups\['even'\]: expected slice\(start, stop\)",
    ),
    "groups without an end": (changed(groups={"all": slice(None)}), r"groups\['all'\]: expected slice\(start, stop\)"),
    "groups that are not slices": (changed(groups={"a": [0, 1]}), "groups.*expected a slice"),
    "gradients of another example": (
        lambda: NeighbourGradients(num_hidden=1),
        "example_gradients: their mean, weighted by the sizes, differs",
    ),
    "sizes of examples": (lambda: SizesOfBatches(num_hidden=1), "example_gradients: .*sizes that add up to batch_size"),
    "limit": (lambda: ForgetsLimit(num_hidden=1), "example_gradients: expected one example with limit=1"),
    "targets from another generator": (lambda: DrawsAnew(num_hidden=1), "sampled: two calls with one seed differ"),
    "fewer samples": (lambda: DropsSamples(num_hidden=1), "sampled: expected a batch of the same size"),
    "data of each weight": (with_regularizer(Scaled), "regularizer.restricted: RuntimeError .*take the data"),
    "data of other weights": (
        with_regularizer(Scaled, taken_along=True),
        "regularizer.restricted: the gradient of the part differs",
    ),
    "strengths": (with_regularizer(SoftStrengths), "mixed: J v differs"),
    "no name": (changed(name=""), "name: expected a string"),
}


@pytest.mark.parametrize("name", BROKEN_PROBLEMS)
def test_broken_problems_are_found(name: str) -> None:
    make, sentence = BROKEN_PROBLEMS[name]
    with pytest.raises(AssertionError, match=sentence):
        check_problem(make())
