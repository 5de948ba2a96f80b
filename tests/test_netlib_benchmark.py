"""The Netlib benchmark on the bundled programs: it runs, keeps its cells, and knows a wrong answer."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
DATA = ROOT / "tests" / "data" / "netlib"
SCRIPT = ROOT / "benchmarks" / "netlib.py"
WORDS = ["--data", str(DATA), "--seconds", "20", "--only", "afiro", "kb2", "galenet"]


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["netlib", *WORDS, *words])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_the_table_and_its_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ["--backends", "InteriorPoint", "HiGHS simplex", "--tolerance", "1e-4", "1e-8", "--out", str(tmp_path)]
    run(monkeypatch, *chosen)
    record = json.loads((tmp_path / "netlib.json").read_text())
    assert len(record["answers"]) == 12 and {answer["verdict"] for answer in record["answers"]} == {"solved"}
    assert len(record["rows"]) == 4
    for row in record["rows"]:
        assert (row["solved"], row["of"], row["wrong"], row["falsely_claimed"]) == (2, 2, 0, 0)
        assert (row["proved"], row["without_optimum"]) == (1, 1)
    shown = capsys.readouterr().out
    assert "InteriorPoint" in shown and "2 of 2" in shown and "galenet" in shown
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    run(monkeypatch, *chosen)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()} == before


VALUES = {"a": {"optimal_objective": "-200.0"}, "b": {"optimal_objective": "0.1"}}
STATUSES = {"i": {"expected_status": "infeasible"}}


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({}, "solved"),
        ({"objective": -200.3}, "wrong"),
        ({"objective": -200.3, "rtol": 1e-3}, "solved"),
        ({"objective": -200.001, "rtol": 1e-8}, "wrong"),
        ({"objective": -200.0001, "rtol": 1e-8}, "solved"),
        ({"lp": "b.mps", "objective": 0.1005}, "solved"),
        ({"lp": "b.mps", "objective": 0.102}, "wrong"),
        ({"seconds": 99.0}, "unsolved"),
        ({"status": "TIME_LIMIT"}, "unsolved"),
        ({"status": "INFEASIBLE"}, "wrong"),
        ({"status": "REFUSED", "objective": None, "seconds": None}, "unsolved"),
        ({"lp": "i.mps", "status": "INFEASIBLE", "certified": True}, "solved"),
        ({"lp": "i.mps", "status": "INFEASIBLE"}, "unsolved"),
        ({"lp": "i.mps", "status": "OPTIMAL"}, "wrong"),
        ({"lp": "i.mps", "status": "INFEASIBLE_OR_UNBOUNDED", "certified": True}, "unsolved"),
    ],
)
def test_verdicts(more: dict[str, Any], wanted: str) -> None:
    answer = {
        "lp": "a.mps", "status": "OPTIMAL", "objective": -200.0, "rtol": 1e-4, "seconds": 1.0, "time_limit": 60.0,
        "certified": False,
    }  # fmt: skip
    verdict = runpy.run_path(str(SCRIPT))["verdict"]
    assert verdict(answer | more, VALUES, STATUSES) == wanted


def test_a_folder_without_the_programs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["netlib", "--data", str(tmp_path)])
    with pytest.raises(SystemExit, match="holds none of the programs"):
        runpy.run_path(str(SCRIPT), run_name="__main__")
