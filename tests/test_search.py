"""The local search end to end on small problems: it descends, counts, repeats, and survives interruptions."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import lift_core as lift
from backends import PDLP, HiGHS, InteriorPoint
from lift_core.metering import Metered
from lift_core.records import CHECKPOINT, CheckpointError, load_state, save_state, without_times, write_atomically
from lift_core.search import SearchState
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


def test_a_backend_with_a_callback_can_be_resumed(tmp_path: Path) -> None:
    for log in ([], []):  # each has another address
        search = lift.LocalSearch(backend=PDLP(callback=log.append), curvature=lift.Exact(), slack=0.1, warmup_epochs=1)
        search.run(Quadratic(), folder=tmp_path)
    assert not log, "the LP was solved again"


def test_a_selection_loss_that_is_no_number_is_named() -> None:
    with pytest.raises(ValueError, match=r"loss\('selection'\): expected a finite number"):
        SEARCH.run(Holes(broken="selection"))


def test_a_list_of_slacks_is_as_good_as_a_tuple() -> None:
    assert replace(SEARCH, slack=[0.0, 0.1]).direction().slacks == (0.0, 0.1)
