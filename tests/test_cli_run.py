"""``lift run`` end to end at toy size: results, refusals, interruptions."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import lift_core as lift
from lift_core.cli import main
from lift_core.cli.settings import RunSettings, read_config, resolve, write_config
from lift_core.presets import PRESETS
from lift_core.records import CHECKPOINT, without_times
from problems import Quadratic

QUADRATIC = ["quadratic", "--backend", "highs", "--curvature", "exact", "--slack", "0,0.01", "--warmup-epochs", "2"]
NETWORK = [
    "network", "--set", "num_hidden=4", "--backend", "highs", "--curvature-set", "rank=12", "--slack", "0.01,0.1",
    "--warmup-epochs", "60", "--learning-rate", "0.01", "--refit-epochs", "2", "--rounds", "2", "--threads", "1",
]  # fmt: skip


def run(*words: str) -> int:
    return main(["run", *words])


def read(folder: Path, name: str = "result.json") -> dict[str, Any]:
    return json.loads((folder / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    assert run(*QUADRATIC, "--out", str(folder), "--quiet") == 0
    return folder


def test_run_writes_config_checkpoint_result_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*QUADRATIC, "--out", str(tmp_path)) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", CHECKPOINT, "result.json", "report.html"}
    result, shown = read(tmp_path), capsys.readouterr()
    assert result["settings"] == read(tmp_path, "config.json")
    for method in result["methods"]:
        assert method["method"] in shown.out
        assert f"{method['metric']['test']:.4g}" in shown.out
    assert f"Report: {tmp_path}/report.html" in shown.out
    assert "warm-up 2/2" in shown.err and "LP step 1/1" in shown.err
    before, moved = result["methods"][:2]
    assert moved["metric"]["selection"] < before["metric"]["selection"]


def test_options_come_back_in_the_order_they_were_given_in(tmp_path: Path) -> None:
    settings = RunSettings(problem_options={"limits": {"z": 1, "a": 2}})
    write_config(tmp_path, settings)
    assert repr(read_config(tmp_path)) == repr(settings)


def test_quiet_prints_one_line(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*QUADRATIC, "--no-controls", "--out", str(tmp_path), "--quiet") == 0
    shown = capsys.readouterr()
    assert shown.out == f"Report: {tmp_path}/report.html\n" and not shown.err
    assert len(read(tmp_path)["methods"]) == 2 < len(read(finished)["methods"])


def test_one_seed_gives_one_result_and_another_seed_another_file(finished: Path, tmp_path: Path) -> None:
    def result_of(name: str, *words: str) -> str:
        assert run(*QUADRATIC, *words, "--out", str(tmp_path / name), "--quiet") == 0
        return json.dumps(without_times(read(tmp_path / name)))

    first = json.dumps(without_times(read(finished)))
    assert result_of("again") == first
    assert result_of("other", "--seed", "1") != first


def test_a_finished_run_may_be_repeated_or_resumed_but_not_overwritten(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = without_times(read(finished))
    assert run(*QUADRATIC, "--out", str(finished), "--quiet") == 0
    assert run("--resume", str(finished), "--quiet") == 0
    assert without_times(read(finished)) == before
    capsys.readouterr()
    assert run(*QUADRATIC, "--kappa", "0.5", "--out", str(finished)) == 2
    error = capsys.readouterr().err
    assert "kappa is 0.0 there and 0.5 here" in error and f"--resume {finished}" in error
    assert without_times(read(finished)) == before


def test_every_flag_reaches_the_search() -> None:
    given = {
        "problem": "quadratic", "backend": "highs", "backend_options": {"rtol": 1e-5}, "curvature": "low_rank",
        "curvature_options": {"rank": 3, "share": 0.5}, "slack": (0.0, 0.5), "hyper_radius": 2.0, "weights_radius": 3.0,
        "relative": True, "rows": 0.5, "kappa": 0.25, "line_search": "armijo", "max_evaluations": 5, "rounds": 4,
        "learning_rate": 0.1, "warmup_epochs": 7, "refit_epochs": 6, "controls": False, "seed": 9,
        "refit_on": "train+direction", "unit_norm": True, "averaging": 0.5,
        "refit_patience": 3, "refit_reach": (1.0, 2.0), "refit_all_in": True,
        "tolerance": 1e-5,
    }  # fmt: skip
    search = resolve(given, Quadratic()).search()
    box = lift.TrustBox(hyper_radius=2.0, weights_radius=3.0, relative=True, rows=0.5, kappa=0.25)
    assert (search.backend.rtol, search.curvature, search.box) == (1e-5, lift.LowRank(rank=3, share=0.5), box)
    assert resolve(given | {"controls": True}, Quadratic()).search().controls[1] == lift.SignGradient(box=box)
    narrow = resolve(given | {"controls": True, "controls_radius": 0.1}, Quadratic()).search()
    assert narrow.box == box and narrow.controls[1] == lift.SignGradient(box=replace(box, weights_radius=0.1))
    assert search.line_search == lift.Armijo(max_evaluations=5)
    assert search.trainer == lift.Trainer(learning_rate=0.1, averaging=0.5)
    both = ("train", "direction")
    assert search.refit == lift.Refit(epochs=6, splits=both, patience=3, reach=(1.0, 2.0), all_in=True)
    assert search.unit_norm
    assert resolve({"problem": "quadratic", "delta": 0.5}, Quadratic()).search().delta == 0.5
    numbers = (search.slack, search.warmup_epochs, search.rounds, search.controls, search.seed, search.tolerance)
    assert numbers == ((0.0, 0.5), 7, 4, (), 9, 1e-5)


class Suggesting(Quadratic):
    """A problem with opinions."""

    suggested_search: ClassVar = {
        "curvature": "low_rank",
        "curvature_options": {"rank": 2, "share": 0.5},
        "relative": True,
    }


SUGGESTIONS = (
    ({}, {"relative": True, "curvature_options": {"rank": 2, "share": 0.5}}),
    ({"relative": False}, {"relative": False}),
    ({"curvature_options": {"rank": 3}}, {"curvature_options": {"rank": 3, "share": 0.5}}),
    ({"curvature": "exact"}, {"curvature": "exact", "curvature_options": {}}),
)


@pytest.mark.parametrize(("given", "wanted"), SUGGESTIONS)
def test_a_problem_suggests_what_the_user_did_not_give(given: dict[str, Any], wanted: dict[str, Any]) -> None:
    settings = resolve(given, Suggesting()).to_json()
    assert {key: settings[key] for key in wanted} == wanted


def test_a_preset_stands_between_flags_and_suggestions() -> None:
    settings = resolve({"rows": 0.5}, Suggesting(), preset="published")
    assert (settings.curvature, settings.curvature_options, settings.relative) == ("sr1", {}, False)
    assert (settings.rows, settings.delta, settings.unit_norm) == (0.5, 1e-4, True)
    chosen = resolve({"curvature_options": {"rank": 4}}, Suggesting(), preset="refit")
    assert chosen.curvature_options == {**PRESETS["refit"]["curvature_options"], "rank": 4}
    other = resolve({"curvature": "fisher"}, Suggesting(), preset="refit")
    assert (other.curvature_options, other.refit_reach) == ({}, (1.0,))
    slack = resolve({"slack": [0.5]}, Suggesting(), preset="published")
    assert (slack.slack, slack.delta) == ((0.5,), None)
    with pytest.raises(ValueError, match="--preset: expected one of published, refit, got 'best'"):
        resolve({}, Quadratic(), preset="best")


def test_a_wrong_suggestion_is_refused() -> None:
    problem = Quadratic()
    problem.suggested_search = {"slak": 0.1}  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match=r"Quadratic\.suggested_search: no such settings: slak"):
        resolve({}, problem)


def test_divergence_is_reported_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*QUADRATIC, "--learning-rate", "1e200", "--out", str(tmp_path)) == 1
    assert "training diverged" in capsys.readouterr().out
    assert read(tmp_path)["status"] == "DIVERGED"


def test_settings_survive_json() -> None:
    settings = RunSettings(slack=(0.0, 0.1), problem_options={"a": [1, 2]}, rows=0.5)
    again = json.loads(json.dumps(settings.to_json()))
    assert resolve(again, Quadratic()) == settings


# -- interruptions ------------------------------------------------------------------------------------------------


def start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lift_core.cli", "run", *words]
    hear = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a suite run in the background is deaf to Ctrl-C
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists() and process.poll() is None:
        time.sleep(0.01)


def test_a_killed_run_resumes_to_the_result_of_an_uninterrupted_one(tmp_path: Path) -> None:
    assert run(*NETWORK, "--out", str(tmp_path / "whole"), "--quiet") == 0
    moments = random.Random(0)
    words = [*NETWORK, "--out", str(tmp_path / "killed")]
    for stage in ("warm-up 1/", f"warm-up {moments.randint(10, 59)}/", "LP step 1/", "LP step 2/", "more training"):
        process = start(*words)
        assert process.stderr is not None
        assert any(line.startswith(stage) for line in process.stderr), f"{stage} was not reached"
        time.sleep(moments.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        words = ["--resume", str(tmp_path / "killed")]
    assert not (tmp_path / "killed" / "result.json").exists(), "it was never killed at work"
    assert run(*words, "--quiet") == 0
    assert without_times(read(tmp_path / "killed")) == without_times(read(tmp_path / "whole"))


def test_ctrl_c_says_how_to_resume(tmp_path: Path) -> None:
    process = start(*NETWORK, "--warmup-epochs", "100000", "--out", str(tmp_path))
    wait_for(tmp_path / CHECKPOINT, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"continue with: lift run --resume {tmp_path}" in errors and "Traceback" not in errors


def damage_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def rewritten(path: Path, *, change: Callable[[torch.Tensor], torch.Tensor] = torch.clone, **facts: Any) -> None:
    """As a version before there was a hash would have written it."""
    with safe_open(path, "pt") as file:
        tensors, plain = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()["state"]  # noqa: SIM118
    changed = {name: change(tensor) for name, tensor in tensors.items()}
    save_file(changed, path, {"state": json.dumps(json.loads(plain) | facts)})


def settled(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


DAMAGES = (
    (CHECKPOINT, damage_half, "damaged or not a LiFT checkpoint"),
    (CHECKPOINT, empty, "damaged or not a LiFT checkpoint"),
    (CHECKPOINT, flipped, "damaged or not a LiFT checkpoint (its content does not have the hash"),
    (CHECKPOINT, partial(rewritten, change=lambda t: t[:-1].clone()), "hyperparameters, got another number"),
    (CHECKPOINT, partial(rewritten, change=lambda t: t[None].clone()), "damaged or not a LiFT checkpoint ("),
    (CHECKPOINT, partial(rewritten, first_losses=[]), "damaged or not a LiFT checkpoint ("),
    (CHECKPOINT, partial(rewritten, steps=[{}]), "damaged or not a LiFT checkpoint (steps: a record lacks accepted"),
    (CHECKPOINT, partial(rewritten, warmup=[{}]), "damaged or not a LiFT checkpoint (warmup: a record lacks epoch"),
    (CHECKPOINT, partial(rewritten, steps="abc"), "damaged or not a LiFT checkpoint ("),
    (CHECKPOINT, partial(rewritten, cost={"hvps": "x"}), "damaged or not a LiFT checkpoint ("),
    (CHECKPOINT, partial(rewritten, counters={"steps": "x"}), "damaged or not a LiFT checkpoint ("),
    ("config.json", partial(settled, threads=1.5), "threads=1.5: RunSettings wants a whole number, got 1.5"),
    ("config.json", partial(settled, threads=99999), "--threads: expected a number from 1 to 1024, got 99999"),
    ("config.json", partial(settled, problem=5), "problem=5: RunSettings wants a text, got 5"),
    ("config.json", partial(settled, rounds="x"), "rounds=x: RunSettings wants a whole number, got 'x'"),
    ("config.json", partial(settled, slack=["x"]), "slack=['x']: RunSettings wants a list in brackets"),
    ("config.json", partial(settled, problem_options=[1]), 'RunSettings wants an object {"NAME": any value, ...}'),
    ("config.json", damage_half, "damaged or not written by lift run"),
    ("config.json", Path.unlink, "there is no run to resume"),
)


@pytest.mark.parametrize(("name", "damage", "sentence"), DAMAGES)
def test_damaged_files_are_refused(
    name: str, damage: Any, sentence: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in finished.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    damage(tmp_path / name)
    assert run("--resume", str(tmp_path)) == 2
    error = capsys.readouterr().err
    assert sentence in error and str(tmp_path / name) in error and "Traceback" not in error


def test_a_checkpoint_without_a_config_is_not_overwritten(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / CHECKPOINT).write_bytes((finished / CHECKPOINT).read_bytes())
    assert run(*QUADRATIC, "--out", str(tmp_path)) == 2
    assert "holds a checkpoint without config.json" in capsys.readouterr().err


def test_the_config_of_something_else_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert run(*QUADRATIC, "--out", str(tmp_path)) == 2
    assert "config.json: damaged or not written by lift run" in capsys.readouterr().err
    assert (tmp_path / "config.json").read_text() == '{"model_type": "gpt2"}'


def test_a_folder_in_which_nothing_was_computed_is_free(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*QUADRATIC, "--curvature", "fisher", "--warmup-epochs", "0", "--out", str(tmp_path)) == 2
    assert "Fisher" in capsys.readouterr().err
    assert (tmp_path / "config.json").exists() and not (tmp_path / CHECKPOINT).exists()
    assert run(*QUADRATIC, "--out", str(tmp_path)) == 0


def test_a_checkpoint_without_a_hash_is_resumed(finished: Path, tmp_path: Path) -> None:
    for name in ("config.json", CHECKPOINT):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    rewritten(tmp_path / CHECKPOINT)
    assert run("--resume", str(tmp_path), "--quiet") == 0
    assert without_times(read(tmp_path)) == without_times(read(finished))


def test_half_written_files_of_a_crash_do_no_harm(finished: Path, tmp_path: Path) -> None:
    for name in ("config.json", CHECKPOINT):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
        (tmp_path / f"{name}.partial").write_bytes(b"{")
    assert run("--resume", str(tmp_path), "--quiet") == 0
    assert without_times(read(tmp_path)) == without_times(read(finished))
