"""``lift compare`` end to end: files and families, marks of failure, interruptions, the page."""

import json
import math
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from backends import HiGHS
from lift_core import LinearProgram, MatrixFree, load_lp, save_lp, solve_lp
from lift_core.cli import main
from lift_core.cli.saving import SavingBackend
from lift_core.comparison import direction_program
from lift_core.comparison.contest import CELLS

NETLIB = Path(__file__).parent / "data" / "netlib"
FAMILY = ["--family", "direction", "--sizes", "5", "--rank", "0", "--rtol", "1e-6", "--repeats", "1"]

MPS = """NAME tiny
ROWS
 N cost
 G row
COLUMNS
 x cost 1 row 1
 y cost 1 row 2
RHS
 RHS row 2
ENDATA
"""


def compare(*words: str) -> int:
    return main(["compare", *words])


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "compare.json").read_text(encoding="utf-8"))


# -- what it compares ---------------------------------------------------------------------------------------------


def test_files_folders_and_patterns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiny.mps").write_text(MPS)
    (tmp_path / "lps").mkdir()
    save_lp(direction_program(4, rank=1), tmp_path / "lps" / "saved.safetensors")
    words = [str(tmp_path / "tiny.mps"), str(tmp_path / "lps"), str(NETLIB / "[ak]*.mps"), "--repeats", "1"]
    out = tmp_path / "out"
    assert compare(*words, "--rtol", "1e-6", "--backends", "highs,interior_point", "--out", str(out)) == 0
    record = read(out)
    assert [lp["lp"] for lp in record["lps"]] == ["tiny.mps", "saved.safetensors", "afiro.mps", "kb2.mps"]
    assert record["lps"][0] == {"lp": "tiny.mps", "rows": 1, "columns": 2, "entries": 2}
    assert {answer["status"] for answer in record["answers"]} == {"OPTIMAL"} and record["disagreements"] == []
    values = {answer["lp"]: answer["objective"] for answer in record["answers"] if answer["backend"] == "highs"}
    assert values["tiny.mps"] == pytest.approx(1.0) and values["afiro.mps"] == pytest.approx(-464.753142857)
    assert "tiny.mps" in capsys.readouterr().out


def test_one_backend_enters_under_two_labels(tmp_path: Path) -> None:
    words = ["--backends", "simplex=highs, ipm=highs", "--backend-set", "simplex.method=simplex"]
    words += ["--backend-set", "ipm.method=ipm", "--rtol", "1e-6", "--repeats", "1", "--out", str(tmp_path)]
    assert compare(str(NETLIB / "afiro.mps"), *words) == 0
    options = {answer["backend"]: answer["options"] for answer in read(tmp_path)["answers"]}
    assert "method='simplex'" in options["simplex"] and "method='ipm'" in options["ipm"]


def test_a_family_has_every_combination(tmp_path: Path) -> None:
    words = [
        "--family",
        "direction",
        "--sizes",
        "5,12",
        "--rank",
        "3,dense",
        "--condition",
        "20,400",
        "--num-hyper",
        "2",
    ]
    assert compare(*words, "--backends", "highs", "--rtol", "1e-6", "--repeats", "1", "--out", str(tmp_path)) == 0
    record = read(tmp_path)
    assert len(record["answers"]) == 8 and {answer["status"] for answer in record["answers"]} == {"OPTIMAL"}
    assert "direction-12, rank dense, condition 400" in {lp["lp"] for lp in record["lps"]}
    assert record["means"][0]["solved"] == record["means"][0]["of"] == 8


def test_long_names_are_not_cut_when_the_table_goes_to_a_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "a_program_with_a_name_that_is_much_longer_than_a_column_of_a_terminal_would_ever_want_to_be.mps"
    (tmp_path / name).write_text(MPS)
    monkeypatch.setenv("COLUMNS", "80")
    assert compare(str(tmp_path / name), "--backends", "highs", "--rtol", "1e-4") == 0
    shown = capsys.readouterr().out
    lines = [line for line in shown.splitlines() if name in line]
    assert len(lines) == 1 and "OPTIMAL" in lines[0] and "…" not in shown


# -- answers that are wrong or missing ----------------------------------------------------------------------------

LIARS = '''
from dataclasses import dataclass
from typing import ClassVar
import torch
from lift_core import BackendAnswer, LPBackend, LPStatus

@dataclass(frozen=True, kw_only=True)
class Liar(LPBackend):
    """Claims that zero is optimal."""
    name: ClassVar[str] = "liar"
    def solve(self, lp, start=None):
        x, y = torch.zeros(lp.num_columns).double(), torch.ones(lp.num_rows).double()
        return BackendAnswer(x, y, LPStatus.OPTIMAL, 1)

@dataclass(frozen=True, kw_only=True)
class Refuser(LPBackend):
    name: ClassVar[str] = "refuser"
    def solve(self, lp, start=None):
        raise ValueError("A: too large for me")

@dataclass(frozen=True, kw_only=True)
class Crasher(LPBackend):
    name: ClassVar[str] = "crasher"
    def solve(self, lp, start=None):
        raise RuntimeError("CUDA out of memory")

@dataclass(frozen=True, kw_only=True)
class Contrarian(LPBackend):
    """Calls everything infeasible, with a ray that proves it if A has a row of zeros."""
    name: ClassVar[str] = "contrarian"
    def solve(self, lp, start=None):
        return BackendAnswer(None, None, LPStatus.INFEASIBLE)

@dataclass(frozen=True, kw_only=True)
class Needy(LPBackend):
    name: ClassVar[str] = "needy"
    def solve(self, lp, start=None):
        import no_such_solver_package
'''


@pytest.fixture
def liars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "liars.py").write_text(LIARS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "liars", raising=False)
    return tmp_path / "out"


def test_wrong_refusing_and_crashing_backends_are_marked_and_slow_the_mean(
    liars: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (liars.parent / "liars.py").write_text(LIARS.split("@dataclass(frozen=True, kw_only=True)\nclass Contrarian")[0])
    words = ["--backends", "highs,liars:Liar,liars:Refuser,liars:Crasher"]
    assert compare(*FAMILY, *words, "--out", str(liars)) == 0
    record = read(liars)
    statuses = {answer["backend"]: answer["status"] for answer in record["answers"]}
    assert statuses == {"highs": "OPTIMAL", "Liar": "INACCURATE", "Refuser": "REFUSED", "Crasher": "REFUSED"}
    means = {mean["backend"]: mean["mean_seconds"] for mean in record["means"]}
    assert means["highs"] < means["Liar"] == means["Refuser"] == pytest.approx(60.0)
    shown = capsys.readouterr().out
    assert "Refuser on direction-5: ValueError: A: too large for me" in shown
    assert "Crasher on direction-5: RuntimeError: CUDA out of memory" in shown


def test_a_contradiction_ends_with_one_and_stands_on_the_page(
    liars: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lift_core.lp.verdict.proves_infeasible", lambda *_: True)
    (liars.parent / "liars.py").write_text(LIARS.split("@dataclass(frozen=True, kw_only=True)\nclass Needy")[0])
    assert compare(*FAMILY, "--backends", "highs,liars:Contrarian", "--out", str(liars)) == 1
    shown = capsys.readouterr().out
    assert re.search(r"Disagreement: direction-5: highs at 1e-06: -\d.* and Contrarian at 1e-06: INFEASIBLE", shown)
    assert "Contradiction: direction-5: highs at 1e-06" in (liars / "compare.html").read_text(encoding="utf-8")


def test_a_backend_without_its_package_is_refused_with_the_command(
    liars: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(*FAMILY, "--backends", "liars:Needy", "--out", str(liars)) == 2
    assert "pip install no_such_solver_package" in capsys.readouterr().err
    assert not liars.exists()


# -- interruptions ------------------------------------------------------------------------------------------------

MANY = ["--family", "direction", "--sizes", "60,70,80,90,100,110", "--rank", "dense", "--rtol", "1e-4"]
PAIR = ["--backends", "highs,interior_point", "--repeats", "1"]


def start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lift_core.cli", "compare", *words]
    hear = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a suite run in the background is deaf to Ctrl-C
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear)


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_comparison_resumes_with_the_cells_that_it_has(tmp_path: Path, stop: signal.Signals) -> None:
    process, cells = start(*MANY, *PAIR, "--out", str(tmp_path)), tmp_path / CELLS
    while process.poll() is None and len(list(cells.glob("*.json"))) < 2:
        time.sleep(0.005)
    process.send_signal(stop)
    _, errors = process.communicate(timeout=60)
    kept = {path: path.stat().st_mtime_ns for path in cells.glob("*.json")}
    assert 2 <= len(kept) < 12, "it was not interrupted at work"
    if stop == signal.SIGINT:
        assert process.returncode == 130 and "Traceback" not in errors
        assert f"continue with: lift compare --resume {tmp_path}" in errors
    assert not (tmp_path / "compare.json").exists()
    assert compare("--resume", str(tmp_path), "--quiet") == 0
    assert len(read(tmp_path)["answers"]) == 12 == len(list(cells.glob("*.json")))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_tolerances_are_the_same_for_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(*FAMILY, "--backends", "highs", "--backend-set", "highs.rtol=1e-3") == 2
    assert "--backend-set highs.rtol: it is the same for all; use --rtol" in capsys.readouterr().err


def test_damaged_cells_are_solved_again_and_another_comparison_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*FAMILY, "--backends", "highs", "--out", str(tmp_path)]
    assert compare(*words) == 0
    before = read(tmp_path)["answers"]
    (cell,) = (tmp_path / CELLS).iterdir()
    nothing = json.dumps(dict.fromkeys(json.loads(cell.read_bytes()))).encode()
    for damaged in (cell.read_bytes()[:20], b"null", nothing):
        cell.write_bytes(damaged)
        assert compare(*words) == 0
    assert [answer["objective"] for answer in read(tmp_path)["answers"]] == [answer["objective"] for answer in before]
    capsys.readouterr()
    assert compare(*words, "--seed", "7") == 2
    error = capsys.readouterr().err
    assert "seed is 0 there and 7 here" in error and f"lift compare --resume {tmp_path}" in error


def test_a_program_that_cannot_be_read_is_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.mps").write_text("NAME bad\nROWS\n N cost\n")
    out = tmp_path / "out"
    words = [str(tmp_path / "bad.mps"), str(NETLIB / "afiro.mps"), "--backends", "highs", "--rtol", "1e-6"]
    assert compare(*words, "--out", str(out)) == 1
    shown = capsys.readouterr().out
    assert "Left out: bad.mps: path:" in shown and "ENDATA" in shown
    record = read(out)
    assert [answer["lp"] for answer in record["answers"]] == ["afiro.mps"] and list(record["unreadable"]) == ["bad.mps"]
    assert "Left out: bad.mps" in (out / "compare.html").read_text(encoding="utf-8")
    assert compare(str(tmp_path / "bad.mps"), "--backends", "highs") == 2
    assert "LP: none could be read; path:" in capsys.readouterr().err


def test_cells_of_a_version_that_judged_less_are_solved_again(tmp_path: Path) -> None:
    words = [*FAMILY, "--backends", "highs", "--out", str(tmp_path)]
    assert compare(*words) == 0
    (cell,) = (tmp_path / CELLS).iterdir()
    record = json.loads(cell.read_text())
    del record["objective_error"]
    cell.write_text(json.dumps(record))
    assert compare(*words) == 0
    assert read(tmp_path)["answers"][0]["objective_error"] <= 1e-4


def test_the_folder_of_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"problem": "quadratic"}')
    assert compare("--resume", str(tmp_path)) == 2
    assert "belongs to another command" in capsys.readouterr().err


# -- the page -----------------------------------------------------------------------------------------------------


def test_the_page_is_self_contained_and_has_every_plot(tmp_path: Path) -> None:
    words = [str(NETLIB), "--backends", "highs,interior_point", "--repeats", "1", "--time-limit", "5", "--rtol", "1e-6"]
    assert compare(*words, "--out", str(tmp_path)) == 0
    page = (tmp_path / "compare.html").read_text(encoding="utf-8")
    for title in ("Performance profile", "Time against size", "Residual against time"):
        assert title in page
    assert page.count("<svg") == 3
    assert not re.search(r'(?:src|href)="(?!#)', page) and "http" not in re.sub(r"https?://www\.w3\.org\S*", "", page)
    embedded = re.search(r'id="lift-result">(.*?)</script>', page, re.DOTALL)
    assert embedded is not None and json.loads(embedded[1]) == read(tmp_path)


# -- programs of a run --------------------------------------------------------------------------------------------


def test_a_run_saves_its_direction_lps_for_a_comparison(tmp_path: Path) -> None:
    words = ["quadratic", "--backend", "highs", "--curvature", "exact", "--slack", "0,0.01", "--warmup-epochs", "2"]
    assert main(["run", *words, "--no-controls", "--save-lp", "--quiet", "--out", str(tmp_path)]) == 0
    files = sorted((tmp_path / "lps").iterdir())
    assert [file.name for file in files] == ["1.safetensors", "2.safetensors"]
    tight, loose = (load_lp(file) for file in files)
    assert tight.row_upper.max() == 0 < loose.row_upper.max() and tight.c.equal(loose.c)
    result = json.loads((tmp_path / "result.json").read_text())
    wanted = [candidate["lp_objective"] for candidate in result["steps"][0]["candidates"]]
    out = tmp_path / "compared"
    assert compare(str(tmp_path / "lps"), "--backends", "highs", "--rtol", "1e-6", "--out", str(out)) == 0
    assert [answer["objective"] for answer in read(out)["answers"]] == pytest.approx(wanted)


def test_a_program_without_a_file_is_solved_all_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "lps"
    inner = HiGHS()
    products = MatrixFree(2, lambda x: 2 * x)
    lp = LinearProgram(c=[1.0, 1.0], A=products, row_lower=2.0, row_upper=math.inf, col_lower=0.0)
    assert solve_lp(lp, SavingBackend(inner=inner, folder=folder)).objective == pytest.approx(2.0)
    assert "--save-lp: a program was not saved: " in capsys.readouterr().err and not list(folder.glob("*"))
