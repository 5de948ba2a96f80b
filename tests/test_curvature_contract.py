"""What curvature models return and are charged, and the contract that holds them to it."""

import math
from dataclasses import dataclass, replace
from functools import partial

import pytest
import scipy.sparse
import torch

from lift_core import (
    SR1,
    Budget,
    Cost,
    Curvature,
    CurvatureModel,
    Dense,
    Diagonal,
    Exact,
    Fisher,
    GaussNewton,
    HessianDiagonal,
    LowRank,
    MatrixFree,
    Metered,
    Sparse,
    build_curvature,
    direction_lp,
)
from lift_core.curvature import CurvatureView
from lift_core.operators import Lifted
from lift_core.testing import check_curvature
from problems import Quadratic
from tests.batched_network import BatchedNetwork
from tests.curvature_cases import dense_twin, start_of, trained


@dataclass(frozen=True, kw_only=True)
class OwnHessian(CurvatureModel):
    """Differentiates the losses by itself, so that no product is metered."""

    name = "own"
    said: int = 6

    def budget(self, n: int) -> Budget:
        return Budget(num_hvps=n, num_bytes=16 * n * n)

    def data_curvature(self, view: CurvatureView) -> Curvature:
        losses = partial(view.problem.training_loss, view.point.hyper)
        parts = [torch.func.hessian(losses)(view.point.weights, batch) for batch in view.batches]
        sizes = [view.problem.batch_size(batch) for batch in view.batches]
        mean = sum(size * part for size, part in zip(sizes, parts, strict=True)) / sum(sizes)
        return Curvature(Dense(mean), -1.0, 1.0, num_hvps=self.said)


@pytest.mark.parametrize(("said", "charged"), [(6, 6.0), (0, 0.0)])
def test_products_that_a_model_takes_without_the_meter_are_charged_as_it_says(said: int, charged: float) -> None:
    problem = Metered(Quadratic())
    point = trained(problem.inner)
    built = build_curvature(OwnHessian(said=said, check=False), problem, point, start=start_of(problem.inner, point))
    torch.testing.assert_close(built.hessian.to_dense(), dense_twin(problem.inner, point))
    assert problem.cost == Cost(evaluations=1.0, hvps=charged)
    half = Metered(BatchedNetwork())
    point = trained(half.inner)
    build_curvature(OwnHessian(said=8, share=0.5, check=False), half, point, start=start_of(half.inner, point))
    assert half.cost.hvps == pytest.approx(8 * half.cost.evaluations) and 0.4 < half.cost.evaluations < 0.7


@dataclass(frozen=True, kw_only=True)
class Returns(CurvatureModel):
    """Whatever it is told."""

    name = "returns"
    what: object = None

    def budget(self, n: int) -> Budget:
        return Budget()

    def data_curvature(self, view: CurvatureView):
        return self.what


class OfAnotherKind(Sparse):
    """Products of float32, or with NaN."""

    def __init__(self, product) -> None:
        super().__init__(scipy.sparse.eye(6))
        self.product = product

    def matvec(self, x):
        return self.product(x)


@pytest.mark.parametrize(
    ("what", "error", "match"),
    [
        (Dense(torch.eye(6)), TypeError, r"Returns\.data_curvature: expected a Curvature.*, got Dense"),
        (Curvature(torch.eye(6), 1.0, 1.0), TypeError, r"Returns\..*hessian: expected a LinearOperator, got Tensor"),
        (Curvature(Diagonal(torch.ones(1)), 1.0, 1.0), ValueError, r"Returns\..*shape \(6, 6\) on cpu, got \(1, 1\)"),
        (Curvature(Dense(torch.ones(6, 6).triu()), 0.0, 1.0), ValueError, r"Returns\..*expected a symmetric operator"),
        (Curvature(Diagonal(torch.ones(6).requires_grad_()), 1.0, 1.0), ValueError, r"Returns\..*without a graph"),
        (Curvature(OfAnotherKind(lambda x: x.float()), 1.0, 1.0), ValueError, r"Returns\..*float64.*got torch\.fl"),
        (Curvature(OfAnotherKind(lambda x: x * torch.nan), 1.0, 1.0), ValueError, r"Returns\..*got NaN"),
        (Curvature(Diagonal(torch.ones(6)), "small", 1.0), TypeError, r"Returns\..*smallest: expected a number"),
        (Curvature(Diagonal(torch.ones(6)), torch.ones(2), 1.0), TypeError, r"Returns\..*smallest: expected a number"),
    ],
)  # fmt: skip
def test_what_a_model_returns_is_looked_at(what: object, error: type[Exception], match: str) -> None:
    problem = Quadratic()
    point = trained(problem)
    with pytest.raises(error, match=match):
        build_curvature(Returns(what=what), problem, point, start=start_of(problem, point))


def test_an_operator_of_another_kind_keeps_its_forms_beside_the_regulariser() -> None:
    class Bordered(Sparse):
        def lifted(self, limit=0):
            return Lifted(scipy.sparse.block_diag([2 * scipy.sparse.eye(6), -scipy.sparse.eye(1)], format="csr"), 1)

    problem = Quadratic()
    point = trained(problem)
    what = Curvature(Bordered(2 * scipy.sparse.eye(6)), 2.0, 2.0)
    lp = direction_lp(problem, point, curvature=Returns(what=what))
    matrix, k = lp.A.lifted()
    strengths = problem.regularizer.hessian(point.hyper, point.weights).diagonal
    assert k == 1 and matrix.shape == (7, 3 + 7)
    torch.testing.assert_close(
        torch.from_numpy(matrix.toarray()[:6, 3:9]), 2 * torch.eye(6).double() + strengths.diag()
    )


def test_values_of_a_curvature_are_floats_and_products_are_looked_at_when_they_are_taken() -> None:
    problem = Quadratic()
    point = trained(problem)
    what = Curvature(MatrixFree(6, lambda x: x * torch.nan), torch.tensor(1.0, requires_grad=True), 2)
    built = build_curvature(Returns(what=what), problem, point, start=start_of(problem, point))
    assert (type(built.smallest), type(built.largest), built.smallest) == (float, float, 1.0)
    with pytest.raises(ValueError, match="hessian: expected finite products"):
        direction_lp(problem, point, curvature=Returns(what=what))


@pytest.mark.parametrize(
    "model",
    [
        Exact(), GaussNewton(share=0.5), LowRank(rank=6), LowRank(rank=9, share=0.3), Fisher(samples=30),
        Fisher(samples=400), SR1(), HessianDiagonal(share=0.5), HessianDiagonal(method="squared_gradients"),
    ],
    ids=repr,
)  # fmt: skip
def test_models_say_what_the_meter_says(model: CurvatureModel) -> None:
    problem = Metered(BatchedNetwork(num_hidden=3))
    point = trained(problem.inner)
    model = replace(model, check=False)
    before = [problem.inner.initial_point().weights]
    built = build_curvature(model, problem, point, start=start_of(problem.inner, point), snapshots=before)
    batches = problem.batches("train")
    chosen = torch.randperm(len(batches), generator=torch.Generator().manual_seed(0))
    chosen = chosen[: math.ceil(model.share * len(batches))].tolist()
    share = sum(problem.batch_size(batches[i]) for i in chosen) / problem.num_examples("train")
    assert problem.cost.gradients == pytest.approx(share * built.num_gradients)
    assert problem.cost.hvps == pytest.approx(share * built.num_hvps)


@pytest.mark.parametrize(
    "model",
    [
        Exact(), Exact(dense_limit=1), Exact(definiteness="clamped"), GaussNewton(), LowRank(rank=9, share=0.5),
        LowRank(rank=9, definiteness="absolute"), Fisher(samples=30), SR1(memory=3), HessianDiagonal(),
        OwnHessian(said=36),
    ],
    ids=repr,
)  # fmt: skip
def test_models_keep_the_contract(model: CurvatureModel) -> None:
    check_curvature(model, BatchedNetwork(num_hidden=1))


@dataclass(frozen=True, kw_only=True)
class Broken(Exact):
    """The exact Hessian, spoilt in one way."""

    mistake: str = ""

    def budget(self, n: int) -> Budget:
        return Budget(num_hvps=n // (2 if self.mistake == "budget" else 1))

    def data_curvature(self, view: CurvatureView) -> Curvature:
        built = super().data_curvature(view)
        matrix = built.hessian.to_dense()
        ramp = torch.linspace(1, 2, len(matrix)).double()
        match self.mistake:
            case "asymmetric":
                return replace(built, hessian=MatrixFree(6, lambda x: ramp * (matrix @ x)))
            case "bent":
                return replace(built, hessian=MatrixFree(6, lambda x: (matrix @ x).abs()))
            case "smallest":
                return replace(built, smallest=built.largest)
            case "definiteness":
                return replace(built, hessian=Dense(-matrix))
            case "random":
                return replace(built, hessian=Dense(matrix * (1 + torch.rand(()))))
            case "silent":
                return replace(built, num_hvps=0)
            case "type":
                return matrix  # pyright: ignore[reportReturnType]
            case _:
                return built


BROKEN = {
    "asymmetric": "not the transpose|not symmetric",
    "bent": "not linear",
    "smallest": "at least .*, the smallest value",
    "definiteness": "definiteness='clamped'",
    "random": "two calls with one seed differ",
    "silent": "expected num_hvps and num_gradients of at least",
    "budget": "budget: expected at least the 12 passes",
    "type": "expected a Curvature",
}


@pytest.mark.parametrize("mistake", BROKEN)
def test_broken_models_are_found(mistake: str) -> None:
    check_curvature(Broken(), Quadratic())
    definiteness = "clamped" if mistake == "definiteness" else "raw"
    with pytest.raises(AssertionError, match=rf"Broken.*({BROKEN[mistake]})"):
        check_curvature(Broken(mistake=mistake, definiteness=definiteness), Quadratic())
