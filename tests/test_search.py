"""The local search end to end on small problems: it descends, counts, repeats, and survives interruptions."""

import json
import math
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import lift_core as lift
from backends import PDLP, HiGHS, InteriorPoint
from lift_core.metering import Metered
from lift_core.recorder import tell_apart
from lift_core.records import CHECKPOINT, CheckpointError, load_state, save_state, without_times, write_atomically
from lift_core.search import SearchState
from lift_core.testing import check_problem
from lift_core.training import Trainer, TrainingDivergedError, TrainingState
from problems import Network, Quadratic

SEARCH = lift.LocalSearch(
    backend=HiGHS(), curvature=lift.LowRank(rank=20), slack=(0.0, 1e-2, 1e-1),
    trainer=Trainer(learning_rate=1e-2, averaging=0.5),
    warmup_epochs=40, refit=lift.Refit(epochs=3), controls=lift.standard_controls(lift.TrustBox()),
)  # fmt: skip


@pytest.fixture(scope="module")
def result() -> lift.SearchResult:
    return SEARCH.run(Network())


def test_the_lp_step_lowers_the_selection_loss_and_every_control_stands_beside_it(result: lift.SearchResult) -> None:
    before, moved, *controls = result.methods
    assert moved["selection"] < before["selection"]
    assert [control["method"] for control in controls] == [control.name for control in SEARCH.controls]
    assert all(control["selection"] <= before["selection"] for control in controls)
    assert all({"train", "direction", "selection", "test"} <= set(method) for method in result.methods)


def test_reported_losses_are_those_of_the_reported_point(result: lift.SearchResult) -> None:
    problem = Network()
    for split in ("train", "direction", "selection", "test"):
        assert result.methods[1][split] == pytest.approx(problem.loss(result.point, split), rel=1e-12)
    assert result.point.hyper.tolist() == list(result.hyper_after)


def test_two_runs_with_one_seed_give_one_result(result: lift.SearchResult) -> None:
    again = SEARCH.run(Network())
    assert json.dumps(without_times(again.to_json())) == json.dumps(without_times(result.to_json()))


@pytest.mark.parametrize("stages", (1, 17, 40, 41, 44, 47))
def test_resuming_after_any_stage_ends_with_the_same_result(
    stages: int, result: lift.SearchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def crash_later(folder: Path, state: SearchState, **identity: Any) -> None:
        nonlocal calls
        calls += 1
        save_state(folder, state, **identity)
        if calls == stages:
            raise KeyboardInterrupt

    monkeypatch.setattr("lift_core.recorder.save_state", crash_later)
    with pytest.raises(KeyboardInterrupt):
        SEARCH.run(Network(), folder=tmp_path)
    monkeypatch.undo()
    resumed = SEARCH.run(Network(), folder=tmp_path)
    assert json.dumps(without_times(resumed.to_json())) == json.dumps(without_times(result.to_json()))
    assert torch.equal(resumed.point.weights, result.point.weights)


def test_several_rounds_go_on_from_where_the_last_one_ended() -> None:
    search = replace(SEARCH, rounds=3, controls=(), refit=lift.Refit())
    result = search.run(Network())
    assert 1 <= len(result.steps) <= 3
    for first, second in zip(result.steps, result.steps[1:], strict=False):
        assert second["before"] == first["after"]
    assert all(step["after"]["selection"] <= step["before"]["selection"] for step in result.steps)


def test_a_solved_problem_is_stationary_and_keeps_its_point() -> None:
    class Solved(Quadratic):
        def upper_gradient(self, point, split="direction"):
            return torch.zeros_like(point.hyper), torch.zeros_like(point.weights)

        def loss(self, point, split):
            return 1.0

    result = replace(SEARCH, warmup_epochs=0, controls=(), refit=lift.Refit()).run(Solved())
    assert result.status is lift.SearchStatus.STATIONARY
    assert torch.equal(result.point.weights, Solved().initial_point().weights)


def test_where_the_lp_promises_too_little_nothing_moves_and_a_refit_trains_on() -> None:
    refit = lift.Refit(epochs=3, reach=(0.5, 2.0))
    search = replace(SEARCH, slack=0.0, warmup_epochs=2, controls=(), rounds=2, refit=refit)
    network = Network()
    first = search.run(network).steps[0]
    share = -first["candidates"][0]["lp_promise"] / first["before"]["selection"]
    moves = replace(search, tolerance=0.99 * share, rounds=1).run(network)
    assert moves.status is not lift.SearchStatus.STATIONARY and moves.hyper_after != moves.hyper_before
    stays = replace(search, tolerance=1.01 * share).run(network)
    assert stays.status is lift.SearchStatus.STATIONARY and stays.hyper_after == stays.hyper_before
    (step,) = stays.steps
    assert step["label"] == "stay" and step["refit_label"].startswith("refit at λ, epoch")
    assert step["after"]["selection"] < step["before"]["selection"] and len(step["refit_curve"]) == 4


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf")])
def test_a_bad_tolerance_is_named(tolerance: float) -> None:
    with pytest.raises(ValueError, match="tolerance: expected"):
        replace(SEARCH, tolerance=tolerance)


def test_a_program_that_was_not_solved_makes_no_point_stationary() -> None:
    hurried = replace(SEARCH, backend=InteriorPoint(time_limit=1e-9), warmup_epochs=1, controls=())
    assert hurried.run(Network()).status is lift.SearchStatus.NO_DIRECTION


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


def test_controls_do_without_hyperparameters() -> None:
    result = replace(SEARCH, warmup_epochs=1, slack=(1e-1,)).run(Quadratic(num_hyper=0))
    assert {"grid search", "random search"} <= {row["method"] for row in result.methods}


def test_divergence_is_a_status_and_the_last_finite_point_is_kept() -> None:
    class Exploding(Network):
        def training_gradient(self, point, batches=None):
            return super().training_gradient(point, batches) * float("nan")

    with pytest.raises(TrainingDivergedError, match="learning_rate"):
        Trainer().epoch(Exploding(), TrainingState.fresh(Network().initial_point()), seed=0)
    result = replace(SEARCH, controls=()).run(Exploding())
    assert result.status is lift.SearchStatus.DIVERGED
    assert torch.isfinite(result.point.weights).all()


def test_the_meter_counts_passes_over_the_training_split() -> None:
    problem = Network()
    metered = Metered(problem)
    point = problem.initial_point()
    metered.training_gradient(point)
    metered.upper_gradient(point, "direction")
    hessian = metered.training_hessian(point)
    for _ in range(3):
        hessian.matvec(point.weights)
    metered.loss(point, "selection")
    share = problem.num_examples("direction") / problem.num_examples("train")
    assert metered.cost.gradients == pytest.approx(1 + share)
    metered.training_loss(point.hyper, point.weights, problem.batches("train")[0])
    assert metered.cost.hvps == 3
    evaluated = problem.num_examples("selection") + problem.batch_size(problem.batches("train")[0])
    assert metered.cost.evaluations == pytest.approx(evaluated / problem.num_examples("train"))
    assert metered.cost.gradient_equivalents == pytest.approx(1 + share + 6 + metered.cost.evaluations / 3)


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


def test_the_lp_step_spends_what_its_curvature_model_announces(result: lift.SearchResult) -> None:
    assert result.steps[0]["cost"]["hvps"] == 20 + 8 + 3  # the last three check that products can be trusted
    assert result.methods[0]["cost"] == {"evaluations": 0.0, "gradients": 0.0, "hvps": 0.0}


@pytest.mark.parametrize("damage", ["half", "empty", "text", "no weights", "no steps", "other settings"])
def test_a_checkpoint_that_cannot_be_used_says_why(damage: str, tmp_path: Path) -> None:
    search = replace(SEARCH, controls=(), warmup_epochs=1)
    search.run(Network(), folder=tmp_path)
    path = tmp_path / CHECKPOINT
    content = path.read_bytes()
    if damage == "other settings":
        search = replace(search, seed=1)
    elif damage.startswith("no "):
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            state = json.loads(file.metadata()["state"])
        (tensors if damage == "no weights" else state).pop("training.weights" if damage == "no weights" else "steps")
        save_file(tensors, path, metadata={"state": json.dumps(state)})
    else:
        path.write_bytes({"half": content[: len(content) // 2], "empty": b"", "text": b"not a checkpoint"}[damage])
    with pytest.raises(CheckpointError, match=str(CHECKPOINT)):
        search.run(Network(), folder=tmp_path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")

    def full_disk(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"


def test_state_survives_the_round_trip(tmp_path: Path) -> None:
    state = SearchState(TrainingState.fresh(Quadratic().initial_point()), snapshots=(torch.ones(6).double(),))
    identity = {"settings_hash": "x", "losses": {"train": 1.0, "test": math.nan}}
    save_state(tmp_path, state, **identity)
    loaded = load_state(tmp_path, **identity)
    assert loaded is not None
    assert torch.equal(loaded.training.point.weights, state.training.point.weights)
    assert torch.equal(loaded.snapshots[0], state.snapshots[0])
    assert all(part.data_ptr() % 64 == 0 for part in (loaded.training.point.weights, *loaded.snapshots))
    assert load_state(tmp_path / "nothing", **identity) is None


class Anonymous(lift.BilevelProblem):
    """Zero weights, under which logistic losses are log 2 whatever the data, and a name that says nothing of them."""

    name = "anonymous"

    def __init__(self, seed: int, *, start: float = 0.0) -> None:
        self._start = start
        generator = torch.Generator().manual_seed(seed)
        self._inputs = torch.randn(40, 3, generator=generator, dtype=torch.float64)
        self._labels = torch.randint(2, (40,), generator=generator).double()
        self.hyper_names = ("strength",)
        self.hyper_lower, self.hyper_upper = torch.tensor([-9.0]).double(), torch.tensor([3.0]).double()
        self.groups = {"weights": slice(0, 3)}
        self.regularizer = lift.L2(torch.zeros(3, dtype=torch.int64), num_hyper=1)

    def initial_point(self) -> lift.Point:
        return lift.Point(torch.tensor([-4.0]).double(), torch.full((3,), self._start).double())

    def batches(self, split: lift.Split) -> list[Any]:
        return [(self._inputs, self._labels)]

    def upper_loss(self, hyper: Tensor, weights: Tensor, batch: Any) -> Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(batch[0] @ weights, batch[1])


def test_a_folder_is_not_resumed_on_other_data(tmp_path: Path) -> None:
    search = replace(SEARCH, controls=(), warmup_epochs=1)
    search.run(Anonymous(0), folder=tmp_path)
    assert search.run(Anonymous(0, start=1.0), folder=tmp_path).steps, "where it began is in the checkpoint"
    with pytest.raises(CheckpointError, match=r"the loss of the first train batch was 0\.\d+ there and is 0\.\d+ here"):
        search.run(Anonymous(1), folder=tmp_path)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"slack": 2.0}, "slacks"),
        ({"slack": ()}, "slacks"),
        ({"rounds": 0}, "rounds"),
        ({"warmup_epochs": -1}, "warmup_epochs"),
        ({"delta": -1.0}, "delta"),
    ],
)
def test_bad_options_are_named(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        replace(SEARCH, **options)


def test_a_refit_on_all_that_was_tuned_on_costs_more_and_stops_early() -> None:
    search = replace(SEARCH, controls=(), refit=lift.Refit(epochs=60))
    few = search.run(Network()).steps[0]
    both = replace(search, refit=lift.Refit(epochs=60, splits=("train", "direction"))).run(Network()).steps[0]
    assert both["refit_kept"] and both["after"]["selection"] < both["moved"]["selection"]
    losses = [loss for _, loss in both["refit_curve"]]
    best = losses.index(min(losses))
    assert len(losses) - 1 - best <= search.refit.patience

    def per_epoch(step: dict) -> float:
        return (step["cost"]["gradients"] - 2) / (len(step["refit_curve"]) - 1)

    assert per_epoch(both) > 1.5 * per_epoch(few)


class Holes(Quadratic):
    """A split without examples, or a loss that is no number."""

    def __init__(self, *, empty: str = "", broken: str = "") -> None:
        super().__init__()
        self._empty, self._broken = empty, broken

    def batches(self, split):
        return () if split == self._empty else super().batches(split)

    def loss(self, point, split):
        return float("nan") if split == self._broken else super().loss(point, split)


@pytest.mark.parametrize("split", ["train", "direction", "selection", "test"])
def test_an_empty_split_is_named_before_anything_is_spent(split: str) -> None:
    stages: list[str] = []
    with pytest.raises(ValueError, match=rf"batches\('{split}'\): expected at least one example"):
        SEARCH.run(Holes(empty=split), on_progress=lambda stage, *_: stages.append(stage))
    assert stages == []


def test_training_data_that_are_no_numbers_are_not_blamed_on_the_learning_rate() -> None:
    problem = Anonymous(0)
    problem._inputs[0, 0] = math.nan
    with pytest.raises(
        ValueError, match=r"loss\('train'\): expected a finite number where training is to begin, got nan"
    ):
        SEARCH.run(problem)


def test_training_that_diverges_in_a_later_epoch_is_no_fault_of_the_data() -> None:
    search = replace(SEARCH, trainer=Trainer(learning_rate=1e200))
    assert search.run(Anonymous(0)).status is lift.SearchStatus.DIVERGED


def test_classes_in_place_of_instances_are_named() -> None:
    for options in ({"backend": HiGHS}, {"curvature": lift.Exact}):
        with pytest.raises(TypeError, match=f"{next(iter(options))}: expected an instance"):
            replace(SEARCH, **options)


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


def test_a_backend_with_a_callback_can_be_resumed(tmp_path: Path) -> None:
    for log in ([], []):  # each has another address
        search = lift.LocalSearch(backend=PDLP(callback=log.append), curvature=lift.Exact(), slack=0.1, warmup_epochs=1)
        search.run(Quadratic(), folder=tmp_path)
    assert not log, "the LP was solved again"


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


def test_a_selection_loss_that_is_no_number_is_named() -> None:
    with pytest.raises(ValueError, match=r"loss\('selection'\): expected a finite number"):
        SEARCH.run(Holes(broken="selection"))


def test_a_list_of_slacks_is_as_good_as_a_tuple() -> None:
    assert replace(SEARCH, slack=[0.0, 0.1]).direction().slacks == (0.0, 0.1)
