"""Probes along a run of full tuning, and the simple measures beside influence."""

from typing import Any

import pytest
import torch

import lift_core as lift
from lift_core.selection import (
    Everything,
    ExactInfluence,
    FisherScore,
    ForwardInfluence,
    GradientNorm,
    LastLayers,
    Magnitude,
    NamedTensors,
    Probing,
    Random,
    Scores,
    bitfit,
    make_groups,
)
from lift_core.training import Trainer, TrainingState
from problems import Network, Quadratic


def test_probing_is_lazy_repeatable_and_metered() -> None:
    problem = Network(num_hidden=4)
    groups = make_groups(problem)
    probing = Probing(estimator=ForwardInfluence(), steps=16, every=8, trainer=Trainer(learning_rate=1e-2))
    seen: list[tuple[str, int, int]] = []
    run = probing.run(problem, groups, seed=1, on_probe=lambda *what: seen.append(what))
    again = probing.run(problem, groups, seed=1)
    assert torch.equal(run.appi, again.appi) and torch.equal(run.state.point.weights, again.state.point.weights)
    assert len(run.influences) == 2 and run.state.steps == 16
    assert run.probe_cost.evaluations == pytest.approx(2 * (4 * len(groups) + 1)) and run.probe_cost.gradients == 0
    assert run.training_cost.gradients == pytest.approx(16)
    assert [what for what in seen if what[0] == "probe"] == [("probe", 1, 2), ("probe", 2, 2)]
    assert torch.allclose(run.appi, sum(i.ppi for i in run.influences)) and run.overhead > 0
    # the same steps as whole epochs take
    state = TrainingState.fresh(problem.initial_point())
    for _ in range(16):
        state, _ = probing.trainer.epoch(problem, state, seed=1)
    assert torch.allclose(state.point.weights, run.state.point.weights, atol=1e-12)


def test_the_step_is_adams_own() -> None:
    problem, trainer = Network(num_hidden=4), Trainer(learning_rate=1e-2)
    steps = trainer.steps(problem, TrainingState.fresh(problem.initial_point()), seed=0)
    before = next(steps)
    after = next(steps)
    taken = (before.point.weights - after.point.weights) / 1e-2
    assert torch.allclose(trainer.direction(after), taken, rtol=1e-8, atol=1e-8)
    decayed = Probing(trainer=trainer, weight_decay=0.1).probe(problem, after, seed=0)
    assert torch.allclose(decayed.step, taken + 0.1 * after.point.weights, rtol=1e-8, atol=1e-8)


def test_before_the_first_step_adam_goes_along_the_sign() -> None:
    problem = Network(num_hidden=4)
    start = TrainingState.fresh(problem.initial_point())
    probe = Probing(steps=0).probe(problem, start, seed=0)
    gradient = problem.lower_gradient(start.point)
    large = gradient.abs() > 1e-5
    assert torch.allclose(probe.step[large], gradient.sign()[large], atol=1e-2)
    with pytest.raises(ValueError, match="at least one step"):
        Trainer().direction(start)


def test_cross_terms_of_a_run_are_those_of_the_second_order_model() -> None:
    problem = Quadratic(num_weights=8, num_hyper=4)
    groups = make_groups(problem)
    start = TrainingState.fresh(lift.Point(problem.initial_point().hyper, torch.ones(8).double()))
    probing = Probing(estimator=ExactInfluence(cross=True), steps=0, preconditioner="gradient", num_batches=9)
    run = probing.run(problem, groups, start)
    influence, cross = run.influences[0], run.cross
    assert cross is not None and not cross.diagonal().any()
    for j, k in ((0, 1), (1, 3)):
        both = groups.only(run.influences[0].best_steps[groups.owner] * probing.probe(problem, start, seed=0).step, j)
        both += groups.only(run.influences[0].best_steps[groups.owner] * probing.probe(problem, start, seed=0).step, k)
        moved = lift.Point(start.point.hyper, start.point.weights - both)
        achieved = problem.lower_loss(start.point) - problem.lower_loss(moved)
        predicted = float(influence.reductions[j] + influence.reductions[k] - cross[j, k])
        if influence.accepted[j] and influence.accepted[k]:
            assert achieved == pytest.approx(predicted, rel=1e-8)


# -- the measures beside it ---------------------------------------------------------------------------------------


def test_simple_measures_are_what_they_say() -> None:
    problem = Network(num_hidden=3)
    groups, start = make_groups(problem), TrainingState.fresh(problem.initial_point())
    gradient, weights = problem.lower_gradient(start.point), start.point.weights
    data = problem.training_gradient(start.point)
    expected = {
        GradientNorm(): [float(gradient[part].square().sum()) for part in problem.groups.values()],
        FisherScore(): [float(data[part].square().sum()) for part in problem.groups.values()],
        Magnitude(): [float(weights[part].square().sum()) for part in problem.groups.values()],
        Everything(): groups.sizes.tolist(),
        bitfit(): [0, 3, 0, 10],
    }
    for measure, values in expected.items():
        scores = measure.scores(problem, groups, start, seed=0)
        assert scores.values.tolist() == pytest.approx(values), scores.method
    draws = [Random().scores(problem, groups, start, seed=seed).values for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    last = LastLayers().scores(problem, groups, start, seed=0)
    assert last.density.argsort().tolist() == [0, 1, 2, 3]


def test_a_group_that_holds_other_tensors_too_is_no_bitfit() -> None:
    problem = Network(num_hidden=3)
    groups = make_groups(problem, {"hidden": "hidden.*", "output bias": "output.bias"})
    scores = bitfit().scores(problem, groups, TrainingState.fresh(problem.initial_point()), seed=0)
    assert scores.values.tolist() == [0, 10]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Probing(steps=4, every=8), "steps >= every"),
        (lambda: Probing(steps=-1), "steps"),
        (lambda: Probing(weight_decay=-1.0), "weight_decay"),
        (lambda: Probing(preconditioner="sgd"), "preconditioner: expected one of"),  # pyright: ignore
        (lambda: _score(NamedTensors(patterns=("*nothing*",))), "no tensor fits"),
        (lambda: _score(GradientNorm(num_batches=0)), "num_batches: expected at least 1, got 0"),
    ],
)
def test_bad_input_is_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def _score(measure: Any) -> Scores:
    problem = Quadratic()
    return measure.scores(problem, make_groups(problem), TrainingState.fresh(problem.initial_point()), seed=0)
