"""Influence of groups: both estimators against the dense Hessian, planted rankings, cost, rejections."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lift_core as lift
from backends import HiGHS
from lift_core.metering import Metered
from lift_core.selection import (
    ExactInfluence,
    ForwardInfluence,
    Groups,
    Probe,
    Probing,
    exact_knapsack,
    make_groups,
)
from lift_core.selection.influence import CURVED_UP, NO_DESCENT
from lift_core.selection.parabola import fit_quadratic
from lift_core.training import Trainer, TrainingState
from problems import DataCleaning, Network, Quadratic, Regression
from problems.exact import lower_hessian


class Planted(lift.BilevelProblem):
    """``f = ½ Σ_k a_k ‖θ_k − c_k‖²``-like: a known diagonal Hessian, groups of known influence."""

    name = "planted"

    def __init__(self, curvature: torch.Tensor, slope: torch.Tensor) -> None:
        self.curvature, self.slope = curvature.double(), slope.double()
        self.hyper_names: tuple[str, ...] = ()
        self.hyper_lower = self.hyper_upper = torch.zeros(0, dtype=torch.float64)
        self.groups = {f"w{i}": slice(i, i + 1) for i in range(len(curvature))}

    def initial_point(self) -> lift.Point:
        return lift.Point(torch.zeros(0, dtype=torch.float64), torch.zeros_like(self.curvature))

    def batches(self, split: lift.Split) -> list[Any]:
        return [(torch.zeros(2),)]

    def upper_loss(self, hyper: torch.Tensor, weights: torch.Tensor, batch: Any) -> torch.Tensor:
        return (self.slope @ weights) + (self.curvature * weights.square()).sum() / 2


class Counting(lift.BilevelProblem):
    """A network that counts the forward passes made through it."""

    name = "counting"

    def __init__(self) -> None:
        self.inner, self.passes = Network(), 0
        self.hyper_names, self.groups = self.inner.hyper_names, self.inner.groups
        self.hyper_lower, self.hyper_upper = self.inner.hyper_lower, self.inner.hyper_upper

    def initial_point(self) -> lift.Point:
        return self.inner.initial_point()

    def batches(self, split: lift.Split) -> Any:
        return self.inner.batches(split)

    def upper_loss(self, hyper: torch.Tensor, weights: torch.Tensor, batch: Any) -> torch.Tensor:
        self.passes += 1
        return self.inner.upper_loss(hyper, weights, batch)


def trained(problem: lift.BilevelProblem, steps: int = 30) -> TrainingState:
    start = problem.initial_point()
    # a quadratic starts where it is solved
    off = 1.0 if isinstance(problem, Quadratic) else 0.0
    state = TrainingState.fresh(lift.Point(start.hyper, start.weights + off))
    iterator = Trainer(learning_rate=1e-2).steps(problem, state, seed=0)
    for _ in range(steps):
        state = next(iterator)
    return state


def dense_answer(problem: lift.BilevelProblem, probe: Probe, groups: Groups) -> tuple[torch.Tensor, torch.Tensor]:
    """b and the K x K matrix from the dense gradient and Hessian."""
    hessian, gradient = lower_hessian(problem, probe.point), problem.lower_gradient(probe.point)
    steps = torch.stack([groups.only(probe.step, k) for k in range(len(groups))], dim=1)
    return steps.T @ gradient, steps.T @ hessian @ steps


NETWORKS = {
    "network": lambda: Network(num_hidden=5, seed=1),
    "wide": lambda: Network(num_hidden=12, initial_strength=0.1, seed=2),
    "regression": Regression,
    "cleaning": DataCleaning,
    "quadratic": lambda: Quadratic(num_weights=12, num_hyper=4),
}


@pytest.mark.parametrize("preconditioner", ["adam", "gradient"])
@pytest.mark.parametrize("name", NETWORKS)
def test_exact_influence_is_the_dense_one(name: str, preconditioner: Any) -> None:
    problem = NETWORKS[name]()
    groups = make_groups(problem, max_size=40)
    probing = Probing(preconditioner=preconditioner, num_batches=10_000, trainer=Trainer(learning_rate=1e-2))
    probe = probing.probe(problem, trained(problem), seed=3)
    measured = ExactInfluence(cross=True, at_once=3).estimate(problem, probe, groups)
    slope, cross = dense_answer(problem, probe, groups)
    scale = 1 + float(cross.abs().max())
    assert torch.allclose(measured.slope, slope, rtol=1e-8, atol=1e-8 * (1 + float(slope.abs().max())))
    assert measured.cross is not None
    assert torch.allclose(measured.cross, cross, rtol=1e-8, atol=1e-8 * scale)
    assert torch.equal(measured.cross.diagonal(), measured.curvature)
    assert measured.products == len(groups) and measured.evaluations == 0


@pytest.mark.parametrize("preconditioner", ["adam", "gradient"])
@pytest.mark.parametrize("name", NETWORKS)
def test_forward_influence_agrees_where_it_is_accepted(name: str, preconditioner: Any) -> None:
    problem = NETWORKS[name]()
    groups = make_groups(problem, max_size=40)
    probing = Probing(preconditioner=preconditioner, num_batches=10_000, trainer=Trainer(learning_rate=1e-2))
    probe = probing.probe(problem, trained(problem), seed=3)
    exact = ExactInfluence().estimate(problem, probe, groups)
    forward = ForwardInfluence(first_step=1e-3).estimate(problem, probe, groups)
    accepted = forward.accepted
    assert int(accepted.sum()) >= 2, forward.rejected
    assert not (accepted & ~exact.accepted).any()
    for part in ("slope", "curvature", "reductions"):
        ours, true = getattr(forward, part)[accepted], getattr(exact, part)[accepted]
        assert torch.allclose(ours, true, rtol=0.05, atol=0.0), part
    assert forward.r_squared is not None and (forward.r_squared[accepted] >= 0.99).all()


def test_batched_products_are_the_single_ones() -> None:
    problem = Network()
    point = trained(problem, 5).point
    hessian = problem.training_hessian(point)
    vectors = torch.randn(len(point.weights), 19, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one_by_one = torch.stack([hessian.matvec(column) for column in vectors.T], dim=1)
    assert torch.allclose(hessian.matmat(vectors), one_by_one, rtol=1e-12, atol=1e-12)
    metered = Metered(problem)
    metered.training_hessian(point).matmat(vectors)
    assert metered.cost.hvps == pytest.approx(19)


def test_planted_influence_is_ranked_perfectly() -> None:
    generator = torch.Generator().manual_seed(4)
    curvature = torch.rand(48, generator=generator).double() * 3 + 0.1
    slope = torch.randn(48, generator=generator).double()
    problem = Planted(curvature, slope)
    truth = slope.square() / (2 * curvature)
    groups = make_groups(problem)
    for estimator in (ExactInfluence(), ForwardInfluence(first_step=0.1)):
        probing = Probing(estimator=estimator, preconditioner="gradient", steps=0)
        scores = probing.scores(problem, groups, TrainingState.fresh(problem.initial_point()), seed=0)
        assert torch.equal(scores.values.argsort(), truth.argsort()), estimator.name
        assert torch.allclose(scores.values, truth, rtol=1e-8)
        best = exact_knapsack(scores, 5, HiGHS())
        assert best.numbers == tuple(sorted(truth.argsort(descending=True)[:5].tolist()))


@given(st.integers(0, 10**6), st.floats(1e-3, 1e3), st.floats(1e-2, 1e2))
def test_reductions_do_not_depend_on_the_length_of_the_step(seed: int, length: float, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    problem = Planted(torch.rand(6, generator=generator) + 0.1, torch.randn(6, generator=generator))
    step = torch.randn(6, generator=generator, dtype=torch.float64)
    groups, here, batches = make_groups(problem), problem.initial_point(), problem.batches("train")
    first = ExactInfluence().estimate(problem, Probe(here, step, batches), groups)
    second = ExactInfluence().estimate(problem, Probe(here, length * step, batches), groups)
    assert torch.allclose(first.reductions, second.reductions, rtol=1e-9)
    scaled = Planted(scale * problem.curvature, scale * problem.slope)
    third = ExactInfluence().estimate(scaled, Probe(here, step, batches), groups)
    assert torch.allclose(scale * first.reductions, third.reductions, rtol=1e-9)


def test_forward_probing_makes_four_passes_for_each_group_and_one_more() -> None:
    problem = Counting()
    groups = make_groups(problem, max_size=13)
    assert len(groups) >= 48
    start = trained(problem, 2)
    probe = Probing().probe(problem, start, seed=0)
    for estimator in (ForwardInfluence(), ForwardInfluence(first_step=10.0)):
        problem.passes = 0
        measured = estimator.estimate(problem, probe, groups)
        assert problem.passes <= 4 * len(groups) + 1 == measured.evaluations


def test_rejections_are_reported_with_their_reasons() -> None:
    problem = Planted(torch.tensor([1.0, -1.0, 1.0]), torch.tensor([1.0, 1.0, 0.5]))
    step = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    probe = Probe(problem.initial_point(), step, problem.batches("train"))
    for estimator in (ExactInfluence(), ForwardInfluence(first_step=0.1)):
        measured = estimator.estimate(problem, probe, make_groups(problem))
        assert measured.rejected == ("", CURVED_UP, NO_DESCENT)
        assert measured.reductions.tolist() == pytest.approx([0.5, 0.0, 0.0])
        assert measured.best_steps[1:].tolist() == [0.0, 0.0]
    scores = Probing(steps=0, preconditioner="gradient").scores(
        problem, make_groups(problem), TrainingState.fresh(problem.initial_point()), seed=0
    )
    assert scores.facts["rejections"] == [{"group": "w1", "probes": 1, "of": 1, "reasons": [CURVED_UP]}]


class Kinked(Planted):
    """No parabola anywhere near: ``|θ|`` and a wave on top."""

    def upper_loss(self, hyper: torch.Tensor, weights: torch.Tensor, batch: Any) -> torch.Tensor:
        return super().upper_loss(hyper, weights, batch) + (40 * weights).sin().sum()


def test_a_loss_that_is_no_parabola_is_rejected() -> None:
    problem = Kinked(torch.ones(3), torch.ones(3))
    probe = Probe(problem.initial_point(), torch.ones(3).double(), problem.batches("train"))
    measured = ForwardInfluence(first_step=0.3).estimate(problem, probe, make_groups(problem))
    assert all(measured.rejected) and not measured.reductions.any()
    assert any("R²" in reason or "error of the fit" in reason for reason in measured.rejected)


def test_a_loss_that_overflows_is_rejected() -> None:
    class Exploding(Planted):
        def upper_loss(self, hyper: torch.Tensor, weights: torch.Tensor, batch: Any) -> torch.Tensor:
            return (1000 * weights.square()).exp().sum() + weights.sum()

    problem = Exploding(torch.ones(2), torch.ones(2))
    probe = Probe(problem.initial_point(), torch.ones(2).double(), problem.batches("train"))
    measured = ForwardInfluence(first_step=5.0).estimate(problem, probe, make_groups(problem))
    assert measured.rejected == ("a loss, or the fit to the losses, was not finite",) * 2
    assert measured.reductions.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("first_step", [1e160, 1e-300])
def test_a_step_whose_square_is_no_number_is_rejected(first_step: float) -> None:
    class Bounded(Planted):
        def upper_loss(self, hyper: torch.Tensor, weights: torch.Tensor, batch: Any) -> torch.Tensor:
            return weights.sin().sum()

    problem = Bounded(torch.ones(2), torch.ones(2))
    probe = Probe(problem.initial_point(), torch.ones(2).double(), problem.batches("train"))
    measured = ForwardInfluence(first_step=first_step).estimate(problem, probe, make_groups(problem))
    assert all(measured.rejected) and not measured.reductions.any()


def test_fit_quadratic_tells_noise_from_curvature() -> None:
    steps = (-2.0, -1.0, 0.0, 1.0, 2.0)
    exact = fit_quadratic({t: 7 - 2 * t + 3 * t * t for t in steps})
    assert (exact.slope, exact.curvature) == pytest.approx((2, 6)) and exact.r_squared == pytest.approx(1)
    noisy = fit_quadratic({t: (-1.0) ** i for i, t in enumerate(steps)})
    assert noisy.r_squared < 0.5
    with pytest.raises(ValueError, match="at least 4"):
        fit_quadratic({0.0: 1.0, 1.0: 2.0, 2.0: 3.0})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ForwardInfluence(first_step=0.0), "first_step: expected a positive number, got 0.0"),
        (lambda: ForwardInfluence(min_r_squared=1.0), "min_r_squared"),
        (lambda: ForwardInfluence(max_error=0.0), "max_error"),
        (lambda: ExactInfluence(at_once=0), "at_once: expected at least 1, got 0"),
        (lambda: _estimate(torch.ones(3)), "probe: expected a point and a step of 6 weights"),
        (lambda: _estimate(torch.full((6,), math.nan)), "NaN or inf"),
        (lambda: _estimate(torch.ones(6), []), "at least one batch"),
    ],
)
def test_bad_input_is_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def _estimate(step: torch.Tensor, batches: list[Any] | None = None) -> None:
    problem = Quadratic()
    data = problem.batches("train") if batches is None else batches
    ForwardInfluence().estimate(problem, Probe(problem.initial_point(), step.double(), data), make_groups(problem))
