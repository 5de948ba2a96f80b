"""Studies: plans that can be run, cells that are kept, and sums that are those of the cells."""

import json
import re
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from lift_core.cli import main
from lift_core.cli.folders import alone_in
from lift_core.cli.settings import RunSettings
from lift_core.cli.study import _agree
from lift_core.presets import PRESETS
from lift_core.provenance import cpu_name, describe_commit
from lift_core.records import without_times
from lift_core.report import render_study, study_document
from lift_core.study import PLANS, Cell, Outcome, make_plan, run_study, summarize, to_markdown
from lift_core.study.plans import PRESET_DECIDES

QUADRATIC = {
    "problem": "quadratic", "backend": "highs", "curvature": "exact", "slack": [0.0, 0.01], "warmup_epochs": 2,
    "threads": 1,
}  # fmt: skip


def cells(variants: tuple[str, ...] = ("LiFT", "published recipe"), seeds: range = range(2)) -> list[Cell]:
    return [
        Cell(
            setting="a quadratic",
            variant=variant,
            seed=seed,
            settings={**QUADRATIC, "controls": variant == "LiFT", "problem_options": {"seed": seed}, "seed": seed},
        )
        for seed in seeds
        for variant in variants
    ]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Outcome]]:
    folder = tmp_path_factory.mktemp("study")
    return folder, run_study(cells(), folder, jobs=2)


@pytest.mark.parametrize("plan", PLANS)
def test_every_cell_of_a_plan_is_a_run_with_a_name_of_its_own(plan: str) -> None:
    planned = make_plan(plan, seeds=range(2))
    assert len({cell.name for cell in planned}) == len(planned)
    assert all(re.fullmatch(r"[a-z0-9._-]+", cell.name) for cell in planned)
    for cell in planned:
        for one in (cell, cell.without_controls()):
            merged = {**(PRESETS[cell.preset] if cell.preset else {}), **one.settings}
            search = RunSettings(**merged | {"slack": tuple(merged.get("slack", (0.1,)))}).search()
        assert not search.controls
    with_controls = [(cell.setting, cell.seed) for cell in planned if cell.settings["controls"]]
    assert sorted(with_controls) == sorted({(cell.setting, cell.seed) for cell in planned})  # one variant each


def test_the_last_word_is_spoken_on_test_tokens_that_no_other_plan_reads() -> None:
    last, others = (list(make_plan(plan, seeds=range(1))) for plan in ("unread", "language"))
    others += make_plan("articles", seeds=range(1))
    same = {cell.setting: cell for cell in others if cell.variant == "LiFT"}
    read = max(cell.settings["problem_options"]["max_tokens"]["test"] for cell in others)
    assert len(last) == 3
    for cell in last:
        options = dict(cell.settings["problem_options"])
        assert options.pop("skip_tokens")["test"] >= read and "test" not in options.pop("max_tokens")
        other = same[cell.setting]
        assert options == {k: v for k, v in other.settings["problem_options"].items() if k != "max_tokens"}
        assert cell.settings | {"problem_options": None} == {
            **other.settings, "only_controls": cell.settings["only_controls"], "problem_options": None
        }  # fmt: skip


def test_another_model_is_tuned_on_whole_splits() -> None:
    options = [cell.settings["problem_options"] for cell in make_plan("language", seeds=range(1), model="gpt2")]
    assert {entry["model"] for entry in options} == {"gpt2"} and {entry["max_tokens"] for entry in options} == {None}
    assert {entry["train_share"] for entry in options} == {0.05, 0.25, 1.0}


def test_a_preset_decides_in_its_cells() -> None:
    published = [cell for plan in PLANS for cell in make_plan(plan, seeds=range(1)) if cell.preset == "published"]
    assert published and set(PRESETS["published"]) <= set(PRESET_DECIDES)
    assert all(not set(cell.settings) & set(PRESETS["published"]) for cell in published)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"name": "nope"}, "plan"),
        ({"seeds": range(0)}, "seeds"),
        ({"only": "("}, "only"),
        ({"only": "nowhere"}, "only"),
        ({"model": "gpt2"}, "model"),
    ],
)
def test_bad_plans_are_refused(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=f"^{match}: expected"):
        make_plan(**{"name": "small", "seeds": range(1), **options})


def test_rows_are_means_over_the_cells(study: tuple[Path, list[Outcome]]) -> None:
    rows = {row.method: row for row in summarize(study[1])}
    assert list(rows)[:2] == ["before", "LiFT"] and "published recipe" in rows and "train + direction data" in rows
    documents = [outcome.document for outcome in study[1] if outcome.cell.variant == "LiFT"]
    lift = [next(m for m in document["methods"] if m["method"] == "LiFT") for document in documents if document]
    control = [next(m for m in d["methods"] if m["method"] == "grid search") for d in documents if d]
    tests = [method["metric"]["test"] for method in lift]
    assert rows["LiFT"].test == (statistics.fmean(tests), statistics.stdev(tests)) and rows["LiFT"].ahead is None
    assert rows["LiFT"].cost.mean == statistics.fmean(method["gradient_equivalents"] for method in lift)
    assert rows["LiFT"].products.mean == statistics.fmean(method["cost"]["hvps"] for method in lift)
    ahead = rows["grid search"].ahead
    assert ahead is not None
    assert ahead.mean == statistics.fmean(c["metric"]["test"] - t for c, t in zip(control, tests, strict=True))


def test_markdown_marks_the_lowest_test(study: tuple[Path, list[Outcome]]) -> None:
    rows = summarize(study[1])
    best = min(rows, key=lambda row: row.test.mean)
    (bold,) = [line for line in to_markdown(rows).splitlines() if "| **" in line]
    assert bold.startswith(f"| {best.method} | **{best.test}**")


def test_finished_cells_are_not_run_again(study: tuple[Path, list[Outcome]]) -> None:
    folder, outcomes = study
    results = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/result.json")}
    assert len(results) == len(outcomes) == 4
    again = run_study(cells(), folder, jobs=1)
    assert [outcome.document for outcome in again] == [outcome.document for outcome in outcomes]
    assert all(path.stat().st_mtime_ns == before for path, before in results.items())
    assert not list(folder.glob("cells/*/checkpoint.safetensors"))


@pytest.mark.parametrize("content", ["", "[]"])
def test_a_cell_whose_result_is_damaged_is_run_again(content: str, study: tuple[Path, list[Outcome]]) -> None:
    folder, outcomes = study
    (folder / "cells" / outcomes[0].cell.name / "result.json").write_text(content)
    again = run_study(cells(), folder, jobs=1)
    assert without_times(again[0].document) == without_times(outcomes[0].document)


def test_another_cell_of_the_same_name_is_refused(study: tuple[Path, list[Outcome]]) -> None:
    changed = [replace(cell, settings={**cell.settings, "kappa": 0.5}) for cell in cells()]
    with pytest.raises(ValueError, match="another plan"):
        run_study(changed, study[0], jobs=1)


def test_a_failed_cell_says_why_and_the_others_stand(tmp_path: Path) -> None:
    (broken,) = [replace(cell, settings={**cell.settings, "problem": "nope"}) for cell in cells(("LiFT",), range(1))]
    good = replace(cells(("LiFT",), range(1))[0], setting="another")
    failed, finished = run_study([broken, good], tmp_path, jobs=2)
    assert failed.document is None and "nope" in failed.error
    assert finished.document is not None
    document = study_document([failed, finished], plan="mixed")
    assert {row["setting"] for row in document["rows"]} == {"another"}
    assert "failed" in render_study(document)


def test_no_other_variant_takes_the_place_of_a_lift_that_failed(study: tuple[Path, list[Outcome]]) -> None:
    outcomes = [
        Outcome(outcome.cell, None, "it failed") if outcome.cell.variant == "LiFT" else outcome for outcome in study[1]
    ]
    rows = summarize(outcomes)
    assert rows and all(row.ahead is None for row in rows)


@pytest.fixture
def tiny_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = {"tiny": lambda seeds: iter(cells(("LiFT",), seeds))}
    monkeypatch.setattr("lift_core.study.plans.PLANS", tiny)


@pytest.mark.usefixtures("tiny_plan")
def test_the_command_writes_table_json_and_page_and_check_repeats_a_cell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["study", "tiny", "--seeds", "1", "--first-seed", "4", "--jobs", "1", "--out", str(tmp_path)]
    assert main(words) == 0
    shown = capsys.readouterr()
    table, stored = (tmp_path / "study.md").read_text(), tmp_path / "study.json"
    assert table.strip() in shown.out and "1/1 a-quadratic_lift_4" in shown.err
    assert "<svg" in (tmp_path / "study.html").read_text()
    assert main(["study", "--check", str(stored), "--within", "0", "--quiet"]) == 1
    assert "nothing checked" in capsys.readouterr().err
    assert main(["study", "--check", str(stored), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "DIFFERS" not in said and "numbers compared: test, validation, gradients, products" in said
    document = json.loads(stored.read_text())
    assert document["cells"][0]["provenance"]["machine"]["threads"] == 1
    assert 0 < document["cells"][0]["seconds_without_controls"] < document["cells"][0]["seconds"]
    document["cells"][0] |= {"seconds": 3600.0, "seconds_without_controls": 60.0}
    stored.write_text(json.dumps(document))
    assert main(["study", "--check", str(stored), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "without its controls" in said and "LiFT  " in said and "grid search" not in said
    document["cells"][0] |= {"seconds": 1.0, "seconds_without_controls": 1.0}
    document["cells"][0]["test"]["LiFT"] *= 1.1
    del document["cells"][0]["test"]["random search"]  # a table from before there was this control
    stored.write_text(json.dumps(document))
    assert main(["study", "--check", str(stored), "--quiet"]) == 1
    said = capsys.readouterr().out
    assert "DIFFERS" in said and "random search" not in said


@pytest.mark.parametrize(
    ("stored", "now", "said"),
    [
        ({"LiFT": 1.0}, {"LiFT": 1.004, "newer": 9.0}, None),
        ({"LiFT": 1.0}, {"LiFT": 1.006}, "LiFT                     test stored 1, now 1.006  DIFFERS"),
        ({"LiFT": 1.0, "grid search": 2.0}, {"LiFT": 1.0}, "test stored 2, now none  MISSING"),
        ({"LiFT": 1.0, "grid search": None}, {"LiFT": 1.0}, "test stored none, now none  MISSING"),
        ({"LiFT": 1.0, "grid search": None}, {"LiFT": 1.0, "grid search": None}, None),
        ({"LiFT": 1.0, "grid search": None}, {"LiFT": 1.0, "grid search": 2.0}, "stored none, now 2  DIFFERS"),
        ({"LiFT": 1.0, "grid search": 2.0}, {"LiFT": 1.0, "grid search": None}, "stored 2, now none  DIFFERS"),
        ({"LiFT": None}, {"LiFT": None}, "no number to compare"),
        ({}, {"LiFT": 1.0}, "no number to compare"),
    ],
)
def test_a_check_finds_every_stored_number_again(
    stored: dict, now: dict, said: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _agree({"test": stored}, {"test": now}, 5e-3) == (said is None)
    assert said is None or said in "".join(capsys.readouterr())


def test_a_check_compares_costs_where_they_are_stored(capsys: pytest.CaptureFixture[str]) -> None:
    now = {"test": {"LiFT": 1.0}, "gradients": {"LiFT": 4.0}, "products": {"LiFT": 0.0}}
    assert _agree({"test": {"LiFT": 1.0}, "products": {"LiFT": 0.0}}, now, 0.0)
    assert not _agree({"test": {"LiFT": 1.0}, "gradients": {"LiFT": 3.0}}, now, 5e-3)
    assert "gradients stored 3, now 4  DIFFERS" in capsys.readouterr().out


def test_a_commit_is_that_of_the_checkout_itself(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a"]
    (tmp_path / "file").write_text("1")
    for words in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    commit = describe_commit(tmp_path)
    assert commit is not None and re.fullmatch("[0-9a-f]{7,}", commit)
    (tmp_path / "file").write_text("2")
    assert describe_commit(tmp_path) == f"{commit}-dirty"
    (tmp_path / "site-packages").mkdir()
    assert describe_commit(tmp_path / "site-packages") is None
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name : A 1 @ 2GHz\n")
    assert cpu_name(tmp_path / "cpuinfo") == "A 1 @ 2GHz" and cpu_name(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "PLAN: expected"),
        (["nope"], "plan: expected"),
        (["small", "--check", "x"], "--check"),
        (["--check", "README.md"], "--check: expected"),
        (["--check", "nowhere.json"], "nowhere.json"),
        (["small", "--seeds", "0"], "--seeds"),
        (["--check", "README.md", "--rtol", "nan"], "--rtol: expected a number of at least 0, got nan"),
        (["--check", "README.md", "--within", "nan"], "--within: expected a number of minutes of at least 0, got nan"),
    ],
)
def test_bad_commands_are_refused(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", *words]) == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    "cell",
    [
        {},
        {"test": {"a": 1}, "seconds": 1},
        {"test": {"a": 1}, "seconds": None, "settings": {"problem": "quadratic"}},
        {"test": {"a": 1}, "seconds": 1, "settings": {}, "setting": "", "variant": "", "seed": 0, "preset": None},
    ],
)
def test_a_study_of_other_make_is_refused(cell: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study.json").write_text(json.dumps({"cells": [cell]}))
    assert main(["study", "--check", str(tmp_path / "study.json")]) == 2
    assert "--check: expected a study.json" in capsys.readouterr().err


def test_a_killed_study_leaves_no_run_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lift_core.cli", "study", "small", "--seeds", "1", "--only", "network.*exact"]
    process = subprocess.Popen([*command, "--jobs", "1", "--out", str(tmp_path)])
    while not list(tmp_path.glob("cells/*/config.json")) and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    process.wait(timeout=60)
    (cell,) = tmp_path.glob("cells/*")
    began = time.monotonic()
    while _is_held(cell):
        assert time.monotonic() - began < 30, "the run outlives its study"
        time.sleep(0.05)
    assert not (cell / "result.json").exists(), "it was never killed at work"


def _is_held(folder: Path) -> bool:
    try:
        with alone_in(folder):
            return False
    except ValueError:
        return True


def test_ctrl_c_ends_the_study_and_the_same_command_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lift_core.cli", "study", "small", "--seeds", "1", "--only", "ridge.*published"]
    command += ["--jobs", "1", "--out", str(tmp_path)]
    hear = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear)
    while not list(tmp_path.glob("cells/*/config.json")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command continues" in error
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert (tmp_path / "study.json").exists()
