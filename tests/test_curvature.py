"""Curvature models beside their dense twins."""

import pytest
import torch

from lift_core import (
    SR1,
    CurvatureModel,
    Dense,
    Exact,
    Fisher,
    GaussNewton,
    HessianDiagonal,
    LowRank,
    LowRankPlusDiagonal,
    MatrixFree,
    Point,
    build_curvature,
)
from lift_core.curvature.guard import NondeterministicError
from problems import Network, Quadratic
from tests.curvature_cases import dense_twin, start_of, trained


@pytest.mark.parametrize("make", [Quadratic, Network], ids=["quadratic", "network"])
def test_exact_agrees_with_double_autodiff(make) -> None:
    problem = make()
    point = trained(problem)
    twin = dense_twin(problem, point)
    built = build_curvature(Exact(), problem, point, start=start_of(problem, point))
    assert isinstance(built.hessian, Dense)
    torch.testing.assert_close(built.hessian.matrix, twin, rtol=1e-10, atol=1e-10)


def test_exact_beyond_its_dense_limit_stays_matrix_free() -> None:
    problem = Network()
    point = trained(problem)
    twin = dense_twin(problem, point)
    free = build_curvature(Exact(dense_limit=1), problem, point, start=start_of(problem, point)).hessian
    assert isinstance(free, MatrixFree)
    torch.testing.assert_close(free.matvec(point.weights), twin @ point.weights, rtol=1e-10, atol=1e-10)


def test_gauss_newton_is_semi_definite_and_exact_for_squares() -> None:
    problem = Network()
    point = trained(problem)
    built = build_curvature(GaussNewton(), problem, point, start=start_of(problem, point))
    assert built.smallest > -1e-10
    quadratic = Quadratic()
    at = trained(quadratic)
    gauss_newton = build_curvature(GaussNewton(), quadratic, at, start=start_of(quadratic, at)).hessian.to_dense()
    torch.testing.assert_close(gauss_newton, dense_twin(quadratic, at), rtol=1e-10, atol=1e-10)


def test_low_rank_of_full_rank_is_exact_and_its_ritz_values_are_eigenvalues() -> None:
    problem = Quadratic()
    point = trained(problem)
    twin = dense_twin(problem, point)
    n = len(point.weights)
    built = build_curvature(LowRank(rank=n), problem, point, start=start_of(problem, point))
    torch.testing.assert_close(built.hessian.to_dense(), twin, rtol=1e-8, atol=1e-8)
    assert built.num_hvps <= n + 8


def test_low_rank_error_falls_with_rank() -> None:
    problem = Network()
    point = trained(problem)
    twin = dense_twin(problem, point)
    start = start_of(problem, point)
    errors = []
    for rank in (10, 50, 250):
        hessian = build_curvature(LowRank(rank=rank), problem, point, start=start).hessian
        assert isinstance(hessian, LowRankPlusDiagonal)
        errors.append(float((hessian.to_dense() - twin).norm() / twin.norm()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.05


@pytest.mark.parametrize("rank", [30, 300])
@pytest.mark.parametrize("bulk", ["trace", "groups", "diagonal"])
def test_the_bulk_has_the_trace_of_what_the_ritz_pairs_leave_over(bulk: str, rank: int) -> None:
    problem = Network()
    point = trained(problem)
    model = LowRank(rank=rank, bulk=bulk, num_probes=64)
    built = build_curvature(model, problem, point, start=start_of(problem, point))
    assert built.bulk is not None and built.bulk_error is not None and built.ritz_residuals is not None
    wanted = float(torch.trace(dense_twin(problem, point)))
    assert float(torch.trace(built.hessian.to_dense())) == pytest.approx(wanted, abs=4 * 610 * built.bulk_error)
    assert built.num_hvps == rank + 64 == model.budget(610).num_hvps
    kinds = {"trace": range(1, 2), "groups": range(4, 5), "diagonal": range(300, 611)}  # some pixels are always zero
    data = built.hessian.diagonal - problem.regularizer.hessian(point.hyper, point.weights).diagonal
    assert len(torch.unique(data.round(decimals=12))) in kinds[bulk]


def test_hutchinson_diagonal_converges_and_is_exact_for_diagonals() -> None:
    problem = Network()
    point = trained(problem)
    start = start_of(problem, point)
    twin = torch.diag(dense_twin(problem, point))
    errors = [
        float(
            (build_curvature(HessianDiagonal(num_probes=m), problem, point, start=start).hessian.diagonal - twin).norm()
        )
        for m in (4, 256)
    ]
    assert errors[1] < 0.5 * errors[0]


def test_squared_gradients_are_the_mean_square_scaled_by_the_batch_size() -> None:
    problem = Network()
    point = trained(problem)
    built = build_curvature(HessianDiagonal(method="squared_gradients"), problem, point, start=start_of(problem, point))
    batches = problem.batches("train")
    sizes = [problem.batch_size(batch) for batch in batches]
    expected = sum(
        size**2 / sum(sizes) * problem.training_gradient(point, [batch]).square()
        for batch, size in zip(batches, sizes, strict=True)
    )
    expected = expected + problem.regularizer.hessian(point.hyper, point.weights).diagonal
    torch.testing.assert_close(built.hessian.diagonal, expected)


def test_sr1_recovers_a_quadratic_from_enough_independent_steps() -> None:
    problem = Quadratic()
    point = problem.initial_point()
    n = len(point.weights)
    generator = torch.Generator().manual_seed(0)
    snapshots = [point.weights + torch.randn(n, generator=generator, dtype=torch.float64) for _ in range(n + 5)]
    built = build_curvature(SR1(memory=n + 5), problem, point, start=point.weights, snapshots=snapshots)
    torch.testing.assert_close(built.hessian.to_dense(), dense_twin(problem, point), rtol=1e-5, atol=1e-5)


def test_sr1_satisfies_the_newest_secant_equation_and_skips_useless_pairs() -> None:
    problem = Network()
    point = trained(problem)
    start = problem.initial_point().weights
    path = [start, start, (start + point.weights) / 2]  # the repeated point makes an empty pair, which must be skipped
    built = build_curvature(SR1(), problem, point, start=start_of(problem, point), snapshots=path)
    s = point.weights - path[-1]
    y = problem.training_gradient(point) - problem.training_gradient(Point(point.hyper, path[-1]))
    y = y + problem.regularizer.hessian(point.hyper, point.weights).diagonal * s
    torch.testing.assert_close(built.hessian.matvec(s), y, rtol=1e-8, atol=1e-10)


def test_sr1_takes_no_notice_of_a_snapshot_of_the_point_itself() -> None:
    """Training without averaging ends in one, and its empty pair would make σ zero."""
    problem = Network()
    point, first = trained(problem), problem.initial_point().weights
    half = (first + point.weights) / 2
    plain, repeated = (
        build_curvature(SR1(memory=2), problem, point, start=start_of(problem, point), snapshots=path)
        for path in ([first, half], [first, half, half, point.weights])
    )
    assert plain.bulk is not None and plain.bulk > 0
    assert repeated.bulk == plain.bulk and repeated.num_gradients == 3
    torch.testing.assert_close(repeated.hessian.to_dense(), plain.hessian.to_dense(), rtol=0, atol=0)


MODELS = [Exact, GaussNewton, LowRank, Fisher, SR1, HessianDiagonal]


@pytest.mark.parametrize("model", [Exact, LowRank, SR1, HessianDiagonal], ids=lambda model: model.name)
@pytest.mark.parametrize("definiteness", ["clamped", "absolute"])
def test_definite_models_have_no_negative_eigenvalue(model: type[CurvatureModel], definiteness: str) -> None:
    problem = Quadratic(indefinite=True)
    point = trained(problem)
    generator = torch.Generator().manual_seed(3)
    snapshots = [point.weights + torch.randn(len(point.weights), generator=generator).double() for _ in range(8)]
    raw = build_curvature(Exact(), problem, point, start=start_of(problem, point))
    assert raw.smallest < 0
    built = build_curvature(
        model(definiteness=definiteness), problem, point, start=start_of(problem, point), snapshots=snapshots
    )
    assert float(torch.linalg.eigvalsh(built.hessian.to_dense())[0]) > -1e-8


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_building_twice_with_one_seed_gives_the_same_operator(model: type[CurvatureModel]) -> None:
    problem = Network()
    point = trained(problem)
    snapshots = [problem.initial_point().weights]
    first, second = (
        build_curvature(model(), problem, point, start=start_of(problem, point), snapshots=snapshots, seed=5)
        for _ in range(2)
    )
    assert torch.equal(first.hessian.matvec(point.weights), second.hessian.matvec(point.weights))


def build_limited(model: CurvatureModel) -> None:
    problem = Network()
    build_curvature(model, problem, problem.initial_point(), start=torch.ones(610).double())


class Forgetful(Network):
    """What an active dropout, or a shuffled split, looks like from outside."""

    def __init__(self, mistake: str) -> None:
        super().__init__()
        self.mistake, self.calls = mistake, 0

    def batches(self, split):
        self.calls += 1
        (whole,) = super().batches(split)
        if self.mistake == "shuffled":
            order = torch.randperm(len(whole[0]), generator=torch.Generator().manual_seed(self.calls))[:200]
            return [tuple(part[order] for part in whole)]
        return [whole] * (1 + self.calls % 2) if self.mistake == "length" else [whole]

    def outputs(self, weights, batch):
        self.calls += 1
        return super().outputs(weights, batch) * (1 + 0.01 * self.calls * (self.mistake == "dropout"))

    def training_hessian(self, point, batches=None):
        exact = super().training_hessian(point, batches)
        ramp = torch.linspace(0, 1, exact.shape[0], dtype=torch.float64)
        if self.mistake == "asymmetric":
            return MatrixFree(exact.shape, lambda x: ramp * exact.matvec(x))
        return MatrixFree(exact.shape, lambda x: exact.matvec(x).abs()) if self.mistake == "bent" else exact


@pytest.mark.parametrize("mistake", ["shuffled", "length", "dropout", "asymmetric", "bent"])
def test_contradicting_oracles_are_refused(mistake: str) -> None:
    problem = Forgetful(mistake)
    start = torch.ones(610).double()
    with pytest.raises(NondeterministicError, match=r"two passes|batches at one call|not a symmetric linear map"):
        build_curvature(LowRank(rank=2), problem, problem.initial_point(), start=start)
    build_curvature(LowRank(rank=2, check=False), problem, problem.initial_point(), start=start)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: LowRank(rank=0), "rank"),
        (lambda: LowRank(bulk="mean"), "bulk"),
        (lambda: SR1(memory=0), "memory"),
        (lambda: LowRank(bulk=float("nan")), "bulk"),
        (lambda: LowRank(num_probes=0), "num_probes"),
        (lambda: LowRank(block=0), "block"),
        (lambda: Fisher(samples=0), "samples"),
        (lambda: Fisher(rank=0), "rank"),
        (lambda: Exact(memory_limit=0), "memory_limit"),
        (lambda: build_limited(LowRank(memory_limit=1000)), r"LowRank needs .* GiB for 610 weights, more than"),
        (lambda: HessianDiagonal(method="exact"), "method"),
        (lambda: HessianDiagonal(num_probes=0), "num_probes"),
        (lambda: Exact(definiteness="positive"), "definiteness"),
        (lambda: Exact(share=0.0), "share"),
        (lambda: build_curvature(SR1(), Quadratic(), Quadratic().initial_point(), start=torch.ones(1)), "snapshots"),
        (
            lambda: build_curvature(
                Exact(dense_limit=1, definiteness="clamped"),
                Quadratic(),
                Quadratic().initial_point(),
                start=torch.ones(1),
            ),
            "definiteness",
        ),
    ],
)
def test_bad_arguments_are_named(make, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()
