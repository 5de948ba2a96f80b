"""Implicit differentiation as a control: hypergradients in closed form, budgets, TorchOpt's."""

from dataclasses import replace

import pytest
import torch

from lift_core import Exact, ImplicitDescent, ImplicitHypergradient, Metered, Split, build_curvature, linearize
from lift_core.problem import BilevelProblem
from lift_core.torchopt_descent import TorchOptDescent
from lift_core.training import Trainer, TrainingState
from problems import DataCleaning, Network, Quadratic
from tests.test_controls import only_direction, situation


def test_implicit_hypergradient_is_the_closed_form() -> None:
    problem = Quadratic(num_weights=8, num_hyper=3)
    here = linearize(problem, problem.initial_point())
    hessian = build_curvature(Exact(), problem, here.point, start=here.grad_weights).hessian.to_dense()
    mixed = here.mixed.to_dense()
    exact = here.grad_hyper - mixed.T @ torch.linalg.solve(hessian, here.grad_weights)
    direction = only_direction(ImplicitHypergradient(iterations=50, damping=0.0), problem)
    torch.testing.assert_close(direction.d_hyper, -exact / exact.abs().max(), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(hessian @ direction.d_weights, -mixed @ direction.d_hyper, rtol=1e-8, atol=1e-10)
    assert direction.slope == pytest.approx(float(exact @ direction.d_hyper))
    assert direction.slope < 0


@pytest.mark.parametrize(("make", "share"), [(Network, 1.0), (Network, 0.1), (DataCleaning, 1.0)])
@pytest.mark.parametrize("splits", [("train",), ("train", "direction")])
@pytest.mark.parametrize("kind", [ImplicitDescent, TorchOptDescent])
def test_implicit_differentiation_descends_within_its_budget(
    make: type[BilevelProblem], share: float, splits: tuple[Split, ...], kind: type[ImplicitDescent]
) -> None:
    """A tenth of a single batch is all of it, and costs that."""
    metered = Metered(make())
    here = situation(metered, budget=60.0, trainer=Trainer(learning_rate=1e-2))
    spent = metered.cost.gradient_equivalents
    best, described = kind(share=share, splits=splits).best(metered, here)
    assert best.selection_loss < here.selection_loss and len(described) > 3
    evaluations = len(described) / 3
    assert metered.cost.gradient_equivalents - spent <= 60.0 + evaluations
    assert not torch.equal(best.training.point.hyper, here.point.hyper)


@pytest.mark.parametrize("make", [Quadratic, Network])
def test_torchopt_finds_the_same_hypergradient_at_the_same_cost(make: type) -> None:
    ours, theirs = Metered(make()), Metered(make())
    state = TrainingState.fresh(ours.initial_point())
    for _ in range(50):  # to where no negative curvature stops our conjugate gradients
        state, _ = Trainer(learning_rate=1e-2).epoch(ours.inner, state, seed=0)
    settings = {"iterations": 4, "damping": 1e-12}
    expected = ImplicitDescent(**settings).hypergradient(ours, replace(situation(ours), training=state))
    found = TorchOptDescent(**settings).hypergradient(theirs, replace(situation(theirs), training=state))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)
    assert expected.norm() > 0 and ours.cost.gradients == theirs.cost.gradients
    assert ours.cost.hvps <= theirs.cost.hvps <= ours.cost.hvps + 1  # it starts from a product with zero
