"""The direction LP: its assembly, its unit of slack, and the closed form that it must reproduce."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backends import HiGHS, InteriorPoint
from lift_core import (
    Dense,
    Exact,
    LPStatus,
    MatrixFree,
    Point,
    Trainer,
    TrustBox,
    assemble_direction_lp,
    closed_form,
    direction_lp,
    linearize,
    slack_path_lps,
    solve_lp,
)
from lift_core.direction import promised_value, slack_unit
from lift_core.linearization import training_gradient_norm
from lift_core.metering import Metered
from lift_core.training import TrainingState
from problems import Network, Quadratic, Regression

SIMPLEX = HiGHS(method="simplex", rtol=1e-7)


def parts(n: int, p: int, seed: int) -> dict[str, torch.Tensor]:
    """A well-conditioned indefinite Hessian with the other ingredients of a direction LP."""
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    signs = torch.where(torch.arange(n) % 3 == 0, -1.0, 1.0).double()
    return {
        "grad_hyper": torch.randn(p, generator=generator, dtype=torch.float64),
        "grad_weights": torch.randn(n, generator=generator, dtype=torch.float64),
        "hessian": q @ torch.diag(signs * torch.linspace(1, 5, n, dtype=torch.float64)) @ q.T,
        "mixed": torch.randn(n, p, generator=generator, dtype=torch.float64),
    }


@given(n=st.integers(1, 12), p=st.integers(0, 4), delta=st.sampled_from([0.0, 1e-4, 0.3]), seed=st.integers(0, 10**6))
def test_the_lp_is_the_implicit_hypergradient(n: int, p: int, delta: float, seed: int) -> None:
    data = parts(n, p, seed)
    exact = closed_form(**data, delta=delta)
    lp = assemble_direction_lp(**data, delta=delta, weights_radius=1e4)
    solution = solve_lp(lp, SIMPLEX)
    assert solution.status is LPStatus.OPTIMAL
    assert solution.objective == pytest.approx(exact.value, rel=1e-6, abs=1e-9)
    torch.testing.assert_close(solution.x[:p], exact.d_hyper, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(solution.y, exact.adjoint, rtol=1e-6, atol=1e-6)


def test_full_slack_is_sign_descent_and_no_slack_is_the_tangent() -> None:
    problem = Quadratic(num_weights=8, num_hyper=2)
    point = problem.initial_point()
    here = linearize(problem, point)
    hessian = Dense(problem.training_hessian(point).to_dense() + torch.eye(8).double())
    tight, loose = slack_path_lps(problem, here, hessian, slacks=[0.0, 1.0], box=TrustBox())
    loose_solution, tight_solution = solve_lp(loose, SIMPLEX), solve_lp(tight, SIMPLEX)
    assert loose_solution.objective == pytest.approx(-float(here.grad_weights.abs().sum()), rel=1e-9)
    torch.testing.assert_close(loose_solution.x[2:], -here.grad_weights.sign(), rtol=0, atol=1e-9)
    residual = here.mixed.matvec(tight_solution.x[:2]) + hessian.matvec(tight_solution.x[2:])
    assert float(residual.abs().max()) < 1e-6


@given(slacks=st.lists(st.floats(0, 1), min_size=2, max_size=2).map(sorted), seed=st.integers(0, 10**6))
def test_value_is_never_positive_and_falls_with_slack(slacks: list[float], seed: int) -> None:
    problem = Quadratic(seed=seed, indefinite=bool(seed % 2))
    here = linearize(problem, problem.initial_point())
    lps = slack_path_lps(problem, here, problem.training_hessian(here.point), slacks=slacks, box=TrustBox())
    first, second = (solve_lp(lp, SIMPLEX).objective for lp in lps)
    assert second <= first + 1e-7 <= 2e-7


@pytest.mark.parametrize("radius", [0.5, 2.0, 4.0])
def test_the_promise_follows_strengths_where_the_value_follows_logarithms(radius: float) -> None:
    problem = Regression(initial_strength=1e-4)
    point, box = problem.initial_point(), TrustBox(hyper_radius=radius, weights_radius=1e4)
    lp = direction_lp(problem, point, curvature=Exact(), slack=0.0, box=box)
    solution = solve_lp(lp, SIMPLEX)
    hyper = point.hyper + solution.x[: len(point.hyper)]
    truth = problem.loss(Point(hyper, problem.lower_solution(hyper)), "direction") - problem.loss(point, "direction")
    promised = promised_value(problem, point, lp, solution)
    assert promised == pytest.approx(truth, rel=0.03)
    assert abs(solution.objective - truth) > 10 * abs(promised - truth)


@pytest.mark.parametrize("rows", ["all", 0.6])
def test_the_promise_puts_the_step_in_strengths_into_the_rows_of_the_lp(rows: float | str) -> None:
    problem = Quadratic(num_weights=10, num_hyper=3)
    point = problem.initial_point()
    lp = direction_lp(problem, point, curvature=Exact(), slack=1e-2, box=TrustBox(rows=rows, hyper_radius=2.0))
    solution = solve_lp(lp, SIMPLEX)
    d_hyper, dense = solution.x[:3], lp.A.to_dense()
    stretched = torch.cat([torch.expm1(d_hyper), solution.x[3:]])
    change = solution.y @ (dense @ stretched - dense @ solution.x)
    assert promised_value(problem, point, lp, solution) == pytest.approx(solution.objective - float(change), rel=1e-9)
    assert abs(float(change)) > 1e-3 * abs(solution.objective)


@given(slack=st.sampled_from([0.0, 1e-2, 1.0]), seed=st.integers(0, 10**6))
def test_the_promise_never_turns_a_descent_into_a_rise(slack: float, seed: int) -> None:
    box = TrustBox(hyper_radius=4.0)
    for hyper_cost in (True, False):
        problem = Quadratic(num_hyper=3, seed=seed, hyper_cost=hyper_cost)
        point = problem.initial_point()
        lp = direction_lp(problem, point, curvature=Exact(), slack=slack, box=box)
        solution = solve_lp(lp, SIMPLEX)
        promised = promised_value(problem, point, lp, solution)
        assert promised <= 1e-6 * (1 + abs(solution.objective))
        assert not hyper_cost or promised == solution.objective
    unsolved = solve_lp(lp, InteriorPoint(max_iterations=1))
    assert not unsolved.status.ok and promised_value(problem, point, lp, unsolved) == unsolved.objective


def test_slack_unit_is_the_slack_of_sign_descent() -> None:
    data = parts(6, 2, seed=4)
    radius = torch.linspace(0.1, 1.0, 6, dtype=torch.float64)
    unit = slack_unit(Dense(data["hessian"]), data["grad_weights"], radius)
    assert unit == pytest.approx(float((data["hessian"] @ (radius * data["grad_weights"].sign())).abs().max()))


class ManyBatches(Network):
    """Four training samples a batch."""

    def __init__(self, num_train: int = 300) -> None:
        super().__init__(num_train=num_train)
        ((inputs, labels),) = self._batches["train"]
        self._batches["train"] = list(zip(inputs.split(4), labels.split(4), strict=True))


def test_nothing_is_spent_on_the_training_gradient_until_it_is_read() -> None:
    problem = Metered(Quadratic())
    here = linearize(problem, problem.initial_point())
    before = problem.cost.gradients
    assert torch.equal(here.lower_gradient, problem.inner.lower_gradient(here.point))
    assert problem.cost.gradients == before + 1 and here.lower_gradient is here.lower_gradient
    assert problem.cost.gradients == before + 1


@pytest.mark.parametrize("trained", [False, True])
def test_the_training_gradient_is_measured_without_the_noise_of_its_batches(trained: bool) -> None:
    problem, metered = Network(), Metered(ManyBatches())
    point = problem.initial_point()
    if trained:
        trainer, state = Trainer(learning_rate=1e-2), TrainingState.fresh(point)
        for _ in range(40):
            state, _ = trainer.epoch(problem, state, seed=0)
        point = state.point
    exact = float(problem.lower_gradient(point).norm())
    assert training_gradient_norm(problem, point) == pytest.approx(exact)
    squares = [training_gradient_norm(metered, point, seed=seed) ** 2 for seed in range(100)]
    assert metered.cost.gradients == pytest.approx(100 * 8 / len(metered.batches("train")))
    few = float(metered.inner.lower_gradient(point, metered.batches("train")[:8]).square().sum())
    mean = sum(squares) / len(squares)
    assert mean == pytest.approx(exact**2, rel=0.1) or abs(mean - exact**2) < 0.2 * abs(few - exact**2)


def test_eight_batches_give_the_training_gradient_exactly() -> None:
    whole, parts = Network(num_train=32), ManyBatches(num_train=32)
    point = whole.initial_point()
    assert training_gradient_norm(parts, point) == pytest.approx(float(whole.lower_gradient(point).norm()))


def test_kappa_asks_for_the_training_gradient_to_vanish() -> None:
    problem = Quadratic(num_weights=6, num_hyper=2)
    start = problem.initial_point()
    point = Point(start.hyper, start.weights + 0.01)
    lp = direction_lp(problem, point, curvature=Exact(), slack=0.0, box=TrustBox(kappa=1.0, weights_radius=10.0))
    solution = solve_lp(lp, SIMPLEX)
    assert solution.status is LPStatus.OPTIMAL
    moved = linearize(problem, point.moved(torch.zeros(2).double(), solution.x[2:], 1.0))
    drift = here_minus(problem, point, solution.x)
    assert float(drift.abs().max()) < 1e-6
    assert float(moved.lower_gradient.abs().max()) < 10.0  # the linear model, not the step, is what vanishes


def here_minus(problem: Quadratic, point: Point, x: torch.Tensor) -> torch.Tensor:
    """``r + J d_λ + H d_θ``."""
    here = linearize(problem, point)
    regularizer = problem.regularizer.hessian(point.hyper, point.weights).matvec(x[2:])
    curved = problem.training_hessian(point).matvec(x[2:]) + regularizer
    return here.lower_gradient + here.mixed.matvec(x[:2]) + curved


def test_rows_can_be_dropped_and_hyper_bounds_hold() -> None:
    problem = Network()
    start = problem.initial_point()
    point = Point(problem.hyper_upper - 0.25, start.weights)
    lp = direction_lp(problem, point, curvature=Exact(), slack=0.01, rows=0.05, seed=3)
    assert lp.num_rows == round(0.05 * len(point.weights))
    assert lp.col_upper[: len(point.hyper)].tolist() == [0.25] * len(point.hyper)
    again = direction_lp(problem, point, curvature=Exact(), slack=0.01, rows=0.05, seed=3)
    assert torch.equal(lp.A.rows, again.A.rows)


def test_relative_radii_follow_the_rms_of_each_tensor() -> None:
    problem = Network()
    point = problem.initial_point()
    radii = TrustBox(weights_radius=0.5, relative=True).weight_radii(problem, point)
    for part in problem.groups.values():
        rms = float(point.weights[part].square().mean().sqrt())
        if rms > 0:
            torch.testing.assert_close(radii[part], torch.full_like(radii[part], 0.5 * rms))
    assert float(radii.min()) > 0


BAD = [
    (lambda: TrustBox(weights_radius=0.0), "weights_radius"),
    (lambda: TrustBox(hyper_radius=math.nan), "hyper_radius"),
    (lambda: TrustBox(kappa=2.0), "kappa"),
    (lambda: TrustBox(rows=0.0), "rows"),
    (lambda: TrustBox(rows="some"), "rows"),
    (lambda: direction_lp(Quadratic(), Quadratic().initial_point(), curvature=Exact(), slack=1.5), "slack"),
    (lambda: assemble_direction_lp(**parts(3, 1, 0), delta=-1.0), "delta"),
    (lambda: assemble_direction_lp(**parts(3, 1, 0), delta=math.inf), "delta"),
    (lambda: assemble_direction_lp(**parts(3, 1, 0), delta=0.1, weights_radius=[1.0, 2.0]), "weights_radius"),
    (lambda: assemble_direction_lp(**parts(3, 1, 0), delta=0.1, hyper_radius=-1.0), "hyper_radius"),
    (lambda: assemble_direction_lp(**parts(3, 1, 0), delta=0.1, hyper_room=(1.0, 2.0)), "hyper_room"),
    (
        lambda: assemble_direction_lp(**parts(3, 1, 0) | {"grad_weights": torch.ones(2).double()}, delta=0.1),
        "grad_weights",
    ),
    (lambda: assemble_direction_lp(**parts(3, 1, 0) | {"mixed": torch.ones(2, 1).double()}, delta=0.1), "mixed"),
    (lambda: assemble_direction_lp(**parts(3, 1, 0) | {"hessian": torch.ones(3, 2).double()}, delta=0.1), "hessian"),
    (lambda: assemble_direction_lp(**parts(3, 1, 0) | {"hessian": torch.full((3, 3), math.nan)}, delta=0.1), "matrix"),
    (
        lambda: assemble_direction_lp(
            **parts(3, 1, 0) | {"hessian": MatrixFree(3, lambda x: x, device="cuda")}, delta=0.1
        ),
        "hessian: expected an operator on cpu, where the gradients are, got cuda",
    ),
]


@pytest.mark.parametrize(("make", "match"), BAD)
def test_bad_arguments_are_named(make, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


def test_a_problem_with_a_broken_loss_is_refused() -> None:
    problem = Quadratic()
    start = problem.initial_point()
    broken = Point(start.hyper, start.weights * math.nan)
    with pytest.raises(ValueError, match="grad_weights"):
        direction_lp(problem, broken, curvature=Exact())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_everything_follows_the_gradients_to_their_device() -> None:
    here, there = parts(6, 2, 0), parts(6, 2, 0)
    more = {"delta": 0.1, "rows": torch.tensor([0, 3]), "residual": torch.ones(6).double(), "weights_radius": [1.0] * 6}
    there |= {name: there[name].cuda() for name in ("grad_hyper", "grad_weights")}
    on_cpu, on_gpu = assemble_direction_lp(**here, **more), assemble_direction_lp(**there, **more)
    for name in ("c", "row_lower", "row_upper", "col_lower", "col_upper"):
        assert getattr(on_gpu, name).is_cuda and getattr(on_gpu, name).cpu().equal(getattr(on_cpu, name))
    assert on_gpu.A.to_dense().cpu().equal(on_cpu.A.to_dense())
    y = torch.ones(2).double()
    assert on_gpu.A.rmatvec(y.cuda()).cpu().allclose(on_cpu.A.rmatvec(y))
