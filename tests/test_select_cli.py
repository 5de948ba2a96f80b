"""``lift select`` and ``lift run --select`` end to end at toy size."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import lift_core as lift
from lift_core.cli import main
from lift_core.records import without_times
from lift_core.selection import Selection
from lift_core.selection.selector import MEASURES
from problems import Network

TOY = ["network", "--set", "num_hidden=4", "--max-size", "32", "--budgets", "0.05,0.5"]
RUN = [
    "run", "network", "--set", "num_hidden=4", "--backend", "highs", "--curvature-set", "rank=4", "--slack", "0.01",
    "--warmup-epochs", "20", "--learning-rate", "0.01", "--no-controls", "--threads", "1",
]  # fmt: skip


def select(*words: str) -> int:
    return main(["select", *words])


def read(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def test_select_writes_names_numbers_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert select(*TOY, "--budget", "0.2", "--out", str(tmp_path)) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"selection.json", "select.json", "report.html"}
    selection, document, shown = (
        Selection.load(tmp_path / "selection.json"),
        read(tmp_path, "select.json"),
        capsys.readouterr(),
    )
    assert 0 < selection.share <= 0.2 and selection.num_weights == 310
    assert [row["budget"] for row in document["budgets"]] == [0.05, 0.2, 0.5]
    for row in document["budgets"]:
        assert 0 <= row["greedy"] <= row["value"] * (1 + 1e-12) and row["value"] <= row["bound"] * (1 + 1e-9)
        assert row["share"] <= row["budget"]
    chosen = [row["group"] for row in document["groups"] if row["chosen"]]
    assert sorted(chosen) == sorted(selection.groups)
    best = document["groups"][0]
    assert best["group"] in shown.out and "20.000%" in shown.out and f"Report: {tmp_path}/report.html" in shown.out
    assert "selecting" in shown.err
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'id="pareto-title"' in page and best["group"] in page
    embedded = re.search(r'id="lift-result">(.*?)</script>', page, re.DOTALL)
    assert embedded is not None and json.loads(embedded[1]) == document
    assert not re.search(r"https?://(?!www\.w3\.org)", page)


def test_one_seed_gives_one_selection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def document(name: str, *words: str) -> Any:
        assert (
            select(*TOY, "--measure", "random", "--budget", "0.2", *words, "--out", str(tmp_path / name), "--quiet")
            == 0
        )
        return without_times(read(tmp_path / name, "select.json"))

    first = document("first")
    assert document("again") == first != document("other", "--seed", "1")
    assert capsys.readouterr().out.splitlines() == [
        f"Report: {tmp_path / name}/report.html" for name in ("first", "again", "other")
    ]


@pytest.mark.parametrize("measure", [name for name in MEASURES if name not in ("lora", "layernorm")])
def test_every_measure_chooses(measure: str, tmp_path: Path) -> None:
    options = ["--learning-rate", "0.01", "--measure", measure, "--budget", "0.5", "--out", str(tmp_path), "--quiet"]
    assert select(*TOY, *options) == 0
    assert 0 < Selection.load(tmp_path / "selection.json").share <= 0.5


def test_groups_may_be_patterns_and_the_choice_greedy(tmp_path: Path) -> None:
    words = ["network", "--by", "*.bias,hidden.weight", "--solver", "greedy", "--budget", "0.5", "--steps", "0"]
    assert select(*words, "--out", str(tmp_path), "--quiet") == 0
    assert {row["group"] for row in read(tmp_path, "select.json")["groups"]} == {"*.bias", "hidden.weight"}
    assert Selection.load(tmp_path / "selection.json").tensors == ("hidden.bias", "output.bias")


@pytest.mark.parametrize("by", ["hidden.weight", "hidden.w?ight", "hidden.[w]eight", "hidden.weight,"])
def test_one_tensor_may_be_the_only_group(by: str, tmp_path: Path) -> None:
    words = ["network", "--set", "num_hidden=4", "--by", by, "--measure", "magnitude", "--budget", "1"]
    assert select(*words, "--out", str(tmp_path), "--quiet") == 0
    assert Selection.load(tmp_path / "selection.json").tensors == ("hidden.weight",)


def test_forward_probing_is_counted_and_its_rejections_listed(tmp_path: Path) -> None:
    words = [
        "--measure",
        "forward",
        "--steps",
        "16",
        "--every",
        "8",
        "--budget",
        "0.5",
        "--out",
        str(tmp_path),
        "--quiet",
    ]
    assert select(*TOY, *words) == 0
    document = read(tmp_path, "select.json")
    count = len(document["groups"])
    assert document["facts"]["evaluations"] == 2 * (4 * count + 1) and document["facts"]["probes"] == 2
    assert document["cost"]["hvps"] == 0
    rejected = {row["group"] for row in document["facts"]["rejections"] if row["probes"] == row["of"]}
    assert all(row["value"] == 0 for row in document["groups"] if row["group"] in rejected)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], "nothing"),
        (["network", "--budget", "0"], "budget: expected a share of the weights in (0, 1], got 0"),
        (["network", "--budgets", "a"], "--budgets: expected one or more numbers"),
        (["network", "--by", "block"], "by: Network groups its weights by 'tensor' only, got 'block'"),
        (["network", "--by", "*.x"], "'*.x' of group '*.x' fits no tensor"),
        (["network", "--by", "hidden.x?"], "'hidden.x?' of group 'hidden.x?' fits no tensor"),
        (["network", "--by", ","], "by: expected at least one pattern of tensor names, got none"),
        (["network", "--measure", "best"], "measure: expected one of exact, forward"),
        (["network", "--solver", "best"], "--solver: expected exact or greedy, got 'best'"),
        (["network", "--backend", "interior_point"], "expected one that takes integer programs"),
        (["network", "--preconditioner", "sgd"], "preconditioner"),
        (["network", "--steps", "3"], "steps >= every"),
        (["network", "--max-size", "0"], "--max-size"),
        (["network", "--measure", "layernorm"], "no tensor fits"),
        (["network", "--budget", "0.001"], "no group fits the budget of 0.001"),
        (["network", "--set", "nothing=1"], "--set nothing=1"),
        (["network", "--threads", "100000"], "--threads"),
    ],
)
def test_mistakes_end_with_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert select(*words, "--out", str(tmp_path / "out")) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("lift: ") and message in last
    assert not (tmp_path / "out").exists()


def test_training_that_diverges_is_a_failure_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["network", "--set", "num_hidden=2", "--budget", "0.5", "--learning-rate", "1e300"]
    assert select(*words, "--out", str(tmp_path / "out"), "--quiet") == 1
    assert capsys.readouterr().err == "lift: training diverged in step 2: lower learning_rate=1e+300\n"
    assert not (tmp_path / "out").exists()


class Interrupting(Network):
    """Ctrl-C arrives at the third Hessian product."""

    def training_hessian(self, point: Any, batches: Any = None) -> lift.LinearOperator:
        products = []

        def matvec(vector: torch.Tensor) -> torch.Tensor:
            products.append(vector)
            if len(products) == 3:
                raise KeyboardInterrupt
            return vector

        return lift.MatrixFree(len(point.weights), matvec)


def test_an_interruption_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert select(f"{__name__}:Interrupting", "--out", str(tmp_path / "out")) == 130
    assert "interrupted; nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert select("--help") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "lift select network --budget 0.1" in shown and "--measure" in shown


# -- lift run --select --------------------------------------------------------------------------------------------


def test_run_selects_first_and_tunes_that_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--select", "0.1", "--select-set", "max_size=16", "--select-set", "steps=0"]
    assert main([*RUN, *options, "--out", str(tmp_path)]) == 0
    selection, result = Selection.load(tmp_path / "selection.json"), read(tmp_path, "result.json")
    assert result["problem"]["num_weights"] == selection.num_selected <= 31
    assert f"selected {selection.num_selected:,} of 310 weights" in capsys.readouterr().err
    assert result["settings"]["select"] == 0.1 and result["settings"]["select_options"] == {"max_size": 16, "steps": 0}
    before, lifted = result["methods"][:2]
    assert lifted["selection"] <= before["selection"]
    # resuming takes the selection that lies there, and repeats the result
    assert main(["run", "--resume", str(tmp_path), "--quiet"]) == 0
    assert without_times(read(tmp_path, "result.json")) == without_times(result)


def test_a_selection_and_a_run_do_not_share_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen, ran = tmp_path / "chosen", tmp_path / "ran"
    assert main(["select", *RUN[1:2], "--budget", "0.1", "--out", str(chosen)]) == 0
    assert main([*RUN, "--select", "0.5", "--out", str(chosen)]) == 2
    assert "holds a selection of lift select" in capsys.readouterr().err
    assert main([*RUN, "--out", str(ran)]) == 0
    assert main(["select", *RUN[1:2], "--budget", "0.1", "--out", str(ran)]) == 2
    assert "holds a run of lift run" in capsys.readouterr().err


def test_a_selection_with_other_settings_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*TOY, "--measure", "magnitude", "--budget", "0.5", "--out", str(tmp_path), "--quiet"]
    assert select(*words) == 0 and select(*words) == 0
    before = read(tmp_path, "select.json")
    assert before["settings"]["problem_options"] == {"num_hidden": 4} and before["settings"]["budgets"] == [0.05, 0.5]
    assert select(*words, "--seed", "3") == 2
    assert "other settings (seed is 0 there and 3 here); choose another folder" in capsys.readouterr().err
    assert read(tmp_path, "select.json") == before
    (tmp_path / "select.json").write_text("{}")
    assert select(*words) == 2
    assert "select.json does not say its settings; delete it" in capsys.readouterr().err


def test_fisher_describes_the_selected_weights(tmp_path: Path) -> None:
    options = ["--select", "0.3", "--select-set", "max_size=16", "--curvature", "fisher"]
    assert main([*RUN, *options, "--out", str(tmp_path)]) == 0
    assert read(tmp_path, "result.json")["settings"]["curvature"] == "fisher"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--select", "2"], "--select: expected a share of the weights in (0, 1], got 2"),
        (["--select-set", "by=tensor"], "--select-set: expected together with --select BUDGET"),
        (["--select", "0.1", "--select-set", "nonsense=1"], "--select-set nonsense=1"),
        (["--select", "0.1", "--select-set", "measure=best"], "measure: expected one of"),
        (["--select", "0.1", "--select-set", "measure=5"], "measure: expected one of"),
        (["--select", "0.1", "--select-set", 'by={"a": null}'], "by: group 'a': expected patterns, a slice or a flat"),
    ],
)
def test_mistakes_in_a_selecting_run(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*RUN, *options, "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
