"""Curvature models beside their dense twins."""

import pytest
import torch
from torch import Tensor

from lift_core import (
    SR1,
    BilevelProblem,
    CurvatureModel,
    Dense,
    Exact,
    GaussNewton,
    HessianDiagonal,
    LowRank,
    LowRankPlusDiagonal,
    MatrixFree,
    Point,
    build_curvature,
)
from lift_core.krylov import complement_mean, conjugate_gradient, lanczos
from problems import Network, Quadratic


def symmetric(n: int, seed: int, *, low: float = -1.0, high: float = 10.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    return q @ torch.diag(torch.linspace(low, high, n, dtype=torch.float64)) @ q.T


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


def test_lanczos_pairs_match_eigh_and_survive_a_closed_krylov_space() -> None:
    matrix = symmetric(30, seed=0)
    vectors, values = lanczos(Dense(matrix), torch.ones(30).double(), 30, torch.Generator().manual_seed(0))
    torch.testing.assert_close(values, torch.linalg.eigvalsh(matrix), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(30).double(), rtol=0, atol=1e-10)
    eigenvector = torch.linalg.eigh(matrix).eigenvectors[:, 3]
    for start in (eigenvector, torch.zeros(30).double()):
        _, values = lanczos(Dense(matrix), start, 30, torch.Generator().manual_seed(0))
        torch.testing.assert_close(values, torch.linalg.eigvalsh(matrix), rtol=1e-7, atol=1e-7)


def test_complement_mean_is_the_mean_of_the_unseen_eigenvalues() -> None:
    matrix = symmetric(200, seed=1, low=1.0, high=2.0)
    values, vectors = torch.linalg.eigh(matrix)
    generator = torch.Generator().manual_seed(0)
    probes = [torch.randn(200, generator=generator, dtype=torch.float64) for _ in range(50)]
    estimate = complement_mean(Dense(matrix), vectors[:, 150:], probes)
    assert estimate == pytest.approx(float(values[:150].mean()), rel=0.02)
    assert complement_mean(Dense(matrix), vectors, probes) == 0.0


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


MODELS = [Exact, GaussNewton, LowRank, SR1, HessianDiagonal]


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


def test_conjugate_gradient_solves_and_stops_at_negative_curvature() -> None:
    matrix = symmetric(40, seed=2, low=0.5)
    right = torch.randn(40, generator=torch.Generator().manual_seed(0)).double()
    solution, steps = conjugate_gradient(Dense(matrix), right, 80)
    torch.testing.assert_close(matrix @ solution, right, rtol=1e-6, atol=1e-6)
    assert steps <= 80
    solution, steps = conjugate_gradient(Dense(-matrix), right, 80)
    assert steps == 1
    assert torch.equal(solution, right)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: LowRank(rank=0), "rank"),
        (lambda: LowRank(bulk="mean"), "bulk"),
        (lambda: LowRank(bulk=float("nan")), "bulk"),
        (lambda: LowRank(num_probes=0), "num_probes"),
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
