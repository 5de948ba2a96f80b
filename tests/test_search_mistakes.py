"""The search: fields, problems, losses and answers that are wrong, and what tells runs apart."""

import math
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

import lift_core as lift
from backends import HiGHS
from lift_core.metering import Metered
from lift_core.recorder import tell_apart
from lift_core.testing import check_problem
from lift_core.training import TrainingState
from problems import Network, Quadratic
from tests.test_search import SEARCH, Anonymous


@dataclass(frozen=True, kw_only=True)
class Stretched(HiGHS):
    """Answers that are too long, and said to be optimal."""

    factor: float = 1.0

    def solve_sequence(self, lps):
        for answer in super().solve_sequence(lps):
            yield answer._replace(x=self.factor * answer.x)


@pytest.mark.parametrize(("factor", "box", "usable"), [(1.001, True, True), (1e4, True, False), (1.0, False, True)])
def test_an_answer_outside_the_trust_box_is_cut_off_and_a_hopeless_one_makes_no_direction(
    factor: float, box: bool, usable: bool
) -> None:
    search = replace(SEARCH, backend=Stretched(factor=factor), slack=0.1, warmup_epochs=2, controls=(), rounds=1)
    problem = Network()
    training = TrainingState.fresh(problem.initial_point())
    here = lift.Situation(training=training, selection_loss=problem.loss(training.point, "selection"))
    (found,) = search.direction().directions(problem, here, lift.linearize(problem, here.point))
    assert found.facts["lp_status"] == ("INACCURATE" if box else "OPTIMAL")
    d = torch.cat([found.d_hyper, found.d_weights])
    assert float(d.abs().max()) == (1.0 if usable else 0.0) and (found.facts["lp_promise"] is not None) is usable
    known = problem.upper_gradient(here.point)
    assert found.slope == pytest.approx(float(torch.cat(known) @ d), rel=1e-9)
    if not usable:
        assert search.run(problem).status is lift.SearchStatus.NO_DIRECTION


@pytest.mark.parametrize("mistake", ["no_grad", "detach"])
def test_a_validation_loss_without_a_graph_is_named(mistake: str) -> None:
    class Cut(Network):
        def upper_loss(self, hyper, weights, batch):
            if mistake == "detach":
                return super().upper_loss(hyper, weights.detach(), batch)
            with torch.no_grad():
                return super().upper_loss(hyper, weights, batch)

        def training_loss(self, hyper, weights, batch):
            return super().upper_loss(hyper, weights, batch)

    with pytest.raises(ValueError, match=r"upper_gradient: expected .*, got zero in every weight.*no_grad, detach"):
        replace(SEARCH, warmup_epochs=1).run(Cut())


class Named(Network):
    """With an attribute, a metric and a gradient of its own."""

    metric_name, columns_at_once = "perplexity", 3
    num_things = 7

    def metric(self, loss: float) -> float:
        return math.exp(loss)

    def lower_gradient(self, point, batches=None):
        return 2 * super().lower_gradient(point, batches)

    def tuned(self, tensors):
        return self


def test_a_metered_problem_has_all_that_the_problem_has() -> None:
    problem = Named()
    metered, point, batch = Metered(problem), problem.initial_point(), problem.batches("train")[0]
    own = {name for name in vars(lift.BilevelProblem) if not name.startswith("_")} | set(
        lift.BilevelProblem.__annotations__
    )
    assert own <= set(vars(metered)) | set(vars(Metered)), "a default of the base class hides the problem's own"
    assert (metered.name, metered.metric_name, metered.columns_at_once) == ("network", "perplexity", 3)
    assert metered.num_things == 7 and metered.metric(0.0) == 1.0 and metered.describe() == problem.describe()
    outputs = metered.outputs(point.weights, batch)
    torch.testing.assert_close(
        metered.output_loss(point.hyper, outputs, batch), problem.training_loss(point.hyper, point.weights, batch)
    )
    torch.testing.assert_close(metered.lower_gradient(point), problem.lower_gradient(point))
    metered.upper_loss(point.hyper, point.weights, batch)
    assert metered.cost == lift.Cost(evaluations=2.0, gradients=1.0)
    part = metered.tuned(["hidden.weight"])
    assert part is not None
    part.training_hessian(point).matvec(point.weights)
    assert metered.cost.hvps == 1.0
    with pytest.raises(AttributeError, match=r"Named.*no attribute 'nothing'"):
        _ = metered.nothing
    assert copy(metered).inner is problem


class Nameless(lift.Move):
    def candidates(self, problem, here):
        yield from ()


@pytest.mark.parametrize(
    ("option", "value", "match"),
    [
        ("controls", (lift.NegativeGradient,), r"controls\[0\]: expected an instance of Move, got <class"),
        ("controls", lift.NegativeGradient(), "controls: expected a tuple of them"),
        ("controls", (Nameless(),), r"controls\[0\]\.name: expected a string, got None"),
        ("box", 1.0, "box: expected an instance of TrustBox, got 1.0"),
        ("line_search", "golden", "line_search: expected an instance of LineSearch, got 'golden'"),
        ("trainer", 1e-3, "trainer: expected an instance of Trainer"),
        ("refit", 3, "refit: expected an instance of Refit"),
        ("rounds", 1.5, "rounds: expected a whole number, got 1.5"),
        ("seed", "0", "seed: expected a whole number"),
        ("slack", "0.1", "slack: expected a number or a tuple of them"),
        ("slack", None, "slack: expected a number or a tuple of them"),
        ("tolerance", "small", "tolerance: expected a number"),
    ],
)
def test_fields_of_another_type_are_named(option: str, value: object, match: str) -> None:
    with pytest.raises(TypeError, match=match):
        replace(SEARCH, **{option: value})


@pytest.mark.parametrize(
    ("attribute", "value", "match"),
    [
        ("hyper_lower", [0.0] * 3, "Quadratic.hyper_lower: expected a tensor, got list"),
        ("hyper_upper", torch.ones(3), "Quadratic.hyper_upper: expected float64"),
        ("groups", {"a": slice(0, 5)}, "Quadratic.groups: every weight must be in exactly one group; weight 5 is in 0"),
        ("hyper_names", ("a",), "Quadratic.hyper_names: expected one name for each of 3"),
        ("batch_size", lambda batch: 0, "Quadratic.batch_size: expected a positive int, got 0"),
        ("batch_size", lambda batch: batch["x"], "Quadratic.batch_size: TypeError"),
        (
            "initial_point",
            lambda: lift.Point(torch.zeros(3).double(), torch.zeros(6).double().requires_grad_()),
            "Quadratic.initial_point: weights: expected a vector without a graph",
        ),
    ],
)
def test_a_wrong_description_is_named_before_anything_is_spent(attribute: str, value: object, match: str) -> None:
    problem, stages = Quadratic(), list[str]()
    setattr(problem, attribute, value)
    with pytest.raises(ValueError, match=match):
        SEARCH.run(problem, on_progress=lambda stage, *_: stages.append(stage))
    assert not stages
    with pytest.raises(AssertionError, match=match):
        check_problem(problem)


def test_batches_that_are_no_list_and_a_regulariser_of_another_size_are_named() -> None:
    problem = Anonymous(0)
    problem.batches = lambda split: iter(())
    with pytest.raises(ValueError, match=r"Anonymous\.batches\('train'\): expected a list of batches, got tuple_iter"):
        SEARCH.run(problem)
    problem = Anonymous(0)
    problem.regularizer = lift.L2([0, 0], num_hyper=1)
    with pytest.raises(ValueError, match=r"Anonymous\.regularizer: expected 3 weights and 1 hyper.*, got \(2, 1\)"):
        SEARCH.run(problem)


@dataclass(frozen=True, kw_only=True)
class Weighted(lift.NegativeGradient):
    """A control with a vector, and whatever else it is given."""

    scale: object = None
    name: str = "weighted"


def test_settings_are_told_apart_by_every_entry_and_else_by_their_repr() -> None:
    assert tell_apart("search", SEARCH) == repr(SEARCH), "checkpoints of such searches exist"
    mixed = {"a": [1, (2,), ()], "b": lift.Exact()}
    assert tell_apart("mixed", mixed) == repr(mixed)
    long, other = torch.zeros(2000), torch.zeros(2000)
    other[1000] = 1e-9
    for wrap in (lambda x: x, lambda x: x.bfloat16(), Tensor.numpy, lambda x: [{"x": x}], lambda x: (x.double(), x)):
        first, again, second = (
            tell_apart("move", Weighted(scale=wrap(scale))) for scale in (long, long.clone(), other)
        )
        assert first == again != second


@pytest.mark.parametrize(
    "scale", [object(), (lambda: 0,), np.array([object()]), {1: [SimpleNamespace(x=torch.zeros(2000))]}]
)
def test_a_setting_that_cannot_be_told_apart_is_refused_where_there_is_a_folder(scale: object, tmp_path: Path) -> None:
    search = replace(SEARCH, warmup_epochs=1, refit=lift.Refit(), controls=(lift.MoreTraining(), Weighted(scale=scale)))
    stages: list[str] = []
    with pytest.raises(ValueError, match=r"search\.controls\[1\]\.scale.*: expected a setting whose repr tells it"):
        search.run(Quadratic(), folder=tmp_path, on_progress=lambda stage, *_: stages.append(stage))
    assert not stages and not list(tmp_path.iterdir())
