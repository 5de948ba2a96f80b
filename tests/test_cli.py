"""The ``lift`` command end to end at toy size: results, refusals, interruptions."""

import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest

import lift_core as lift
from lift_core.cli import main
from lift_core.cli.compare import direction_program, disagreements, shifted_means
from lift_core.cli.listing import missing_packages
from lift_core.cli.options import check_options, parse_value
from lift_core.cli.settings import RunSettings, resolve
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


# -- lift run -----------------------------------------------------------------------------------------------------


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
    }  # fmt: skip
    search = resolve(given, Quadratic()).search()
    box = lift.TrustBox(hyper_radius=2.0, weights_radius=3.0, relative=True, rows=0.5, kappa=0.25)
    assert (search.backend.rtol, search.curvature, search.box) == (1e-5, lift.LowRank(rank=3, share=0.5), box)
    assert (search.line_search, search.trainer) == (lift.Armijo(max_evaluations=5), lift.Trainer(learning_rate=0.1))
    numbers = (search.slack, search.warmup_epochs, search.refit_epochs, search.rounds, search.controls, search.seed)
    assert numbers == ((0.0, 0.5), 7, 6, 4, (), 9)


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


def test_a_wrong_suggestion_is_refused() -> None:
    problem = Quadratic()
    problem.suggested_search = {"slak": 0.1}  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match=r"Quadratic\.suggested_search: no such settings: slak"):
        resolve({}, problem)


def test_divergence_is_reported_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*QUADRATIC, "--learning-rate", "1e200", "--out", str(tmp_path)) == 1
    assert "training diverged" in capsys.readouterr().out
    assert read(tmp_path)["status"] == "DIVERGED"


# -- interruptions ------------------------------------------------------------------------------------------------


def start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lift_core.cli", "run", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


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


DAMAGES = (
    (CHECKPOINT, damage_half, "damaged or not a LiFT checkpoint"),
    (CHECKPOINT, empty, "damaged or not a LiFT checkpoint"),
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


def test_half_written_files_of_a_crash_do_no_harm(finished: Path, tmp_path: Path) -> None:
    for name in ("config.json", CHECKPOINT):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
        (tmp_path / f"{name}.partial").write_bytes(b"{")
    assert run("--resume", str(tmp_path), "--quiet") == 0
    assert without_times(read(tmp_path)) == without_times(read(finished))


# -- wrong arguments ----------------------------------------------------------------------------------------------

Q = "quadratic --backend highs"
BAD_ARGUMENTS = (
    ("frobnicate", "No such command 'frobnicate'"),
    ("run quadratic --frobnicate", "--frobnicate"),
    ("run quadratick", "unknown name 'quadratick', did you mean 'quadratic'?"),
    ("run no_such_module:Problem", "there is no module 'no_such_module'"),
    ("run problems:NoSuch", "'NoSuch'"),
    ("run backends:HiGHS", "expected a subclass of BilevelProblem"),
    ("run quadratic --backend higs", "did you mean 'highs'?"),
    ("run quadratic --backend problems:Quadratic", "expected a subclass of LPBackend"),
    (f"run {Q} --set num_weights", "--set: expected KEY=VALUE, got 'num_weights'"),
    (f"run {Q} --set num_wieghts=3", "--set num_wieghts=3: Quadratic has no such option"),
    (f"run {Q} --set num_weights=many", "--set num_weights=many: Quadratic wants a whole number, got 'many'"),
    (f"run {Q} --set num_weights=2.5", "wants a whole number, got 2.5"),
    (f"run {Q} --set indefinite=1", "wants true or false, got 1"),
    (f"run {Q} --set strength=loud", "wants one of 'log', 'raw', got 'loud'"),
    (f"run {Q} --set condition=0.5", "condition: expected a number of at least 1, got 0.5"),
    (f"run {Q} --backend-set rtoll=1", "--backend-set rtoll=1: HiGHS has no such option"),
    (f"run {Q} --backend-set rtol=small", "--backend-set rtol=small: HiGHS wants a number, got 'small'"),
    (f"run {Q} --backend-set rtol=2", "rtol: expected a number in (0, 1), got 2"),
    (f"run {Q} --backend-set method=magic", "method: expected one of"),
    (f"run {Q} --curvature magic", "--curvature: expected one of exact, gauss_newton, low_rank, sr1, diagonal"),
    (f"run {Q} --curvature-set rnk=3", "--curvature-set rnk=3: LowRank has no such option; it has"),
    (f"run {Q} --curvature-set rank=0", "rank: expected a positive number, got 0"),
    (f"run {Q} --curvature-set share=2", "share: expected a number in (0, 1], got 2"),
    (f"run {Q} --curvature-set definiteness=odd", "wants one of 'raw', 'clamped', 'absolute', got 'odd'"),
    (f"run {Q} --curvature sr1 --warmup-epochs 0", "snapshots: SR1 needs at least one earlier point"),
    (f"run {Q} --set indefinite=true --curvature gauss_newton", "has no Gauss-Newton matrix"),
    (f"run {Q} --slack a,b", "--slack: expected one or more numbers separated by commas, got 'a,b'"),
    (f"run {Q} --slack 2", "slacks: expected one or more ratios in [0, 1], got (2.0,)"),
    (f"run {Q} --slack nan", "slacks: expected one or more ratios in [0, 1], got (nan,)"),
    (f"run {Q} --hyper-radius -1", "hyper_radius: expected a positive number, got -1.0"),
    (f"run {Q} --weights-radius inf", "weights_radius: expected a positive number, got inf"),
    (f"run {Q} --rows half", "rows: expected 'all' or a share in (0, 1], got 'half'"),
    (f"run {Q} --rows 0", "rows: expected 'all' or a share in (0, 1], got 0"),
    (f"run {Q} --kappa 2", "kappa: expected a number in [0, 1], got 2.0"),
    (f"run {Q} --line-search newton", "--line-search: expected golden or armijo, got 'newton'"),
    (f"run {Q} --max-evaluations 0", "max_evaluations: expected at least 1, got 0"),
    (f"run {Q} --learning-rate 0", "learning_rate: expected a positive number, got 0.0"),
    (f"run {Q} --warmup-epochs -1", "warmup_epochs: expected at least 0, got -1"),
    (f"run {Q} --rounds 0", "rounds: expected at least 1, got 0"),
    (f"run {Q} --rounds two", "--rounds"),
    (f"run {Q} --rounds two", "got 'two'"),
    (f"run {Q} --threads=0", "--threads"),
    (f"run {Q} --threads=0", "got '0'"),
    (f"run {Q} --seed -1", "got '-1'"),
    ("run --resume nowhere", "nowhere/config.json: not found, so there is no run to resume"),
    (f"run {Q} --resume nowhere", "--resume: takes every setting from nowhere/config.json; leave out backend, problem"),
    (f"run {Q} --out file.txt", "file.txt"),
    ("compare", "--lp, --family: expected exactly one of the two"),
    ("compare --family quadratic", "--family: expected direction, got 'quadratic'"),
    ("compare --family direction --sizes ten", "--sizes: expected one or more numbers separated by commas, got 'ten'"),
    ("compare --family direction --sizes 2.5", "--sizes: expected whole numbers of at least 1, got '2.5'"),
    ("compare --family direction --sizes 5 --rank 8", "--rank: expected at most the number of weights (5), got 8"),
    ("compare --family direction --backends magic", "unknown name 'magic'"),
    ("compare --family direction --backends highs --rtol 0", "rtol: expected a number in (0, 1), got 0.0"),
    ("compare --family direction --backends highs --time-limit 0", "time_limit: expected positive seconds, got 0.0"),
    ("compare --family direction --backends highs --backend-set rtol=1", "--backend-set: expected NAME.KEY=VALUE"),
    ("compare --family direction --backends highs --backend-set pdlp.x=1", "pdlp is not among the backends highs"),
    ("compare --lp nowhere.mps", "--lp: expected an MPS file, got nowhere.mps, which is no file"),
    ("compare --lp file.txt --backends highs", "file.txt"),
    ("list --frobnicate", "--frobnicate"),
    ("check", "plugin"),
    ("check nothing", "plugin: expected a name of lift list or MODULE:NAME"),
    ("check json:loads", "plugin: expected a name of lift list or MODULE:NAME"),
    ("check problems:Quadratic --set nonsense=1", "--set nonsense=1: Quadratic has no such option"),
)  # fmt: skip


@pytest.mark.parametrize(("line", "sentence"), BAD_ARGUMENTS, ids=[line for line, _ in BAD_ARGUMENTS])
def test_wrong_arguments_end_in_one_clear_line(
    line: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file.txt").write_text("not a folder, and not an MPS file\n")
    code, shown = main(line.split()), capsys.readouterr()
    assert code == 2, shown
    message = shown.err.splitlines()[-1]
    assert message.startswith("lift: ") and sentence in message
    assert "Traceback" not in shown.err
    assert not list(tmp_path.rglob("result.json"))


def test_a_traceback_can_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_hyper"):
        main(["--traceback", "run", "quadratic", "--set", "num_hyper=99", "--out", str(tmp_path)])


def test_unexpected_errors_keep_their_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(lift.LocalSearch, "run", broken)
    with pytest.raises(ZeroDivisionError):
        run(*QUADRATIC, "--out", str(tmp_path))


def test_a_missing_package_is_named_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "needy.py").write_text("import no_such_package_at_all\n")
    monkeypatch.chdir(tmp_path)
    assert run("needy:Problem") == 2
    assert "pip install no_such_package_at_all" in capsys.readouterr().err
    assert missing_packages("needy") == ["no_such_package_at_all"]
    assert missing_packages("no_such_module_at_all.part") == ["no_such_module_at_all"]
    sys.path.remove(str(tmp_path))


# -- help, version ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ("run", "compare", "list", "check"))
def test_help_ends_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"Example: lift {command}" in text[-160:]


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in ("run", "compare", "list", "check"))


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"lift (\d+\.\d+.*|not installed)\n", capsys.readouterr().out)


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "lift_core.cli", "rum"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip() == "lift: No such command 'rum'. Did you mean 'run'?" and not done.stdout


# -- options ------------------------------------------------------------------------------------------------------


def test_values_are_json_or_text() -> None:
    texts = ("3", "0.5", "true", "False", "null", "None", "[1, 2]", '"3"', "gpt2", "a=b", "")
    assert [parse_value(text) for text in texts] == [3, 0.5, True, False, None, None, [1, 2], "3", "gpt2", "a=b", ""]


def test_options_of_any_keyword_are_left_to_the_class() -> None:
    def anything(**options: object) -> None:
        del options

    check_options("--set", anything, {"whatever": 1})


def test_settings_survive_json() -> None:
    settings = RunSettings(slack=(0.0, 0.1), problem_options={"a": [1, 2]}, rows=0.5)
    again = json.loads(json.dumps(settings.to_json()))
    assert resolve(again, Quadratic()) == settings


# -- lift list, lift check ----------------------------------------------------------------------------------------


def test_list_names_every_plugin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json", "--out", str(tmp_path)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows == json.loads((tmp_path / "list.json").read_text())
    names = {(row["kind"], row["name"]) for row in rows}
    assert {("backends", "highs"), ("backends", "interior_point"), ("problems", "gpt2_wikitext2")} <= names
    highs = next(row for row in rows if row["name"] == "highs")
    assert highs["missing"] == [] and highs["distribution"] == "lift-bilevel"
    assert main(["list"]) == 0
    assert "highs" in capsys.readouterr().out


def test_list_imports_no_plugin() -> None:
    code = "import sys; from lift_core.cli import main; main(['list']); print({'highspy', 'backends'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


PLUGIN = """
from dataclasses import dataclass
import torch
from backends import HiGHS
from lift_core import BackendAnswer
from problems import Quadratic

class WrongGradient(Quadratic):
    def upper_gradient(self, point, split="direction"):
        by_hyper, by_weights = super().upper_gradient(point, split)
        return by_hyper, 1.1 * by_weights

@dataclass(frozen=True, kw_only=True)
class WrongSign(HiGHS):
    def solve_sequence(self, lps):
        for answer in super().solve_sequence(lps):
            yield answer._replace(y=None if answer.y is None else -answer.y)
"""


@pytest.mark.parametrize(
    ("plugin", "code", "failing"),
    (
        ("quadratic", 0, None),
        ("highs", 0, None),
        ("problems:Quadratic", 0, None),
        ("plugged:WrongGradient", 1, "derivatives"),
        ("plugged:WrongSign", 1, "program: "),
    ),
)
def test_check_tells_right_from_wrong(
    plugin: str, code: int, failing: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plugged.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "plugged", raising=False)
    assert main(["check", plugin, "--out", str(tmp_path)]) == code
    checks = read(tmp_path, "check.json")["checks"]
    failed = [check for check in checks if not check["passed"]]
    assert bool(failed) == (failing is not None)
    assert all(check["message"] for check in failed)
    assert failing is None or any(check["check"].startswith(failing) for check in failed)


# -- lift compare -------------------------------------------------------------------------------------------------

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


def test_compare_reads_an_mps_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiny.mps").write_text(MPS)
    words = ["--lp", str(tmp_path / "tiny.mps"), "--backends", "highs,pyomo", "--repeats", "1", "--out", str(tmp_path)]
    assert main(["compare", *words, "--backend-set", "highs.method=simplex"]) == 0
    record = read(tmp_path, "compare.json")
    assert [answer["objective"] for answer in record["answers"]] == pytest.approx([1.0] * 4)
    assert record["lps"] == [{"lp": "tiny.mps", "rows": 1, "columns": 2}] and record["disagreements"] == []
    assert "tiny.mps" in capsys.readouterr().out


def test_compare_generates_a_family(tmp_path: Path) -> None:
    words = ["--family", "direction", "--sizes", "5,12", "--rank", "3", "--num-hyper", "2", "--backends", "highs"]
    assert main(["compare", *words, "--rtol", "1e-6", "--repeats", "1", "--out", str(tmp_path)]) == 0
    record = read(tmp_path, "compare.json")
    assert [answer["status"] for answer in record["answers"]] == ["OPTIMAL"] * 2
    assert record["means"][0]["solved"] == record["means"][0]["of"] == 2


LIAR = '''
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
'''


def test_wrong_and_refusing_backends_are_marked_and_slow_the_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "liars.py").write_text(LIAR)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["--family", "direction", "--sizes", "5", "--rank", "0", "--backends", "highs,liars:Liar,liars:Refuser"]
    assert main(["compare", *words, "--rtol", "1e-6", "--repeats", "1", "--out", str(tmp_path)]) == 0
    record = read(tmp_path, "compare.json")
    statuses = {answer["backend"]: answer["status"] for answer in record["answers"]}
    assert statuses == {"highs": "OPTIMAL", "liar": "INACCURATE", "refuser": "REFUSED"}
    means = {mean["backend"]: mean["mean_seconds"] for mean in record["means"]}
    assert means["highs"] < means["liar"] == means["refuser"] == pytest.approx(60.0)
    assert "refuser on direction-5: A: too large for me" in capsys.readouterr().out


def answer(backend: str, status: str, objective: float | None = None, **more: Any) -> dict[str, Any]:
    return {
        "lp": "a", "backend": backend, "rtol": 1e-6, "status": status, "objective": objective, "certified": False,
        "seconds": 1.0,
    } | more  # fmt: skip


DISAGREEMENTS = (
    (answer("x", "OPTIMAL", 1.0), answer("y", "OPTIMAL", 1.0 + 1e-5), False),
    (answer("x", "OPTIMAL", 1.0), answer("y", "OPTIMAL", 1.001), True),
    (answer("x", "OPTIMAL", 1.0), answer("y", "OPTIMAL", 1.001, rtol=1e-3), False),
    (answer("x", "OPTIMAL", 1.0), answer("y", "OPTIMAL", 2.0, lp="b"), False),
    (answer("x", "OPTIMAL", 1.0), answer("y", "TIME_LIMIT", 2.0), False),
    (answer("x", "OPTIMAL", 1.0), answer("y", "INFEASIBLE", certified=True), True),
    (answer("x", "OPTIMAL", 1.0), answer("y", "INFEASIBLE"), False),
    (answer("x", "UNBOUNDED", certified=True), answer("y", "INFEASIBLE", certified=True), True),
)


@pytest.mark.parametrize(("first", "second", "contradict"), DISAGREEMENTS)
def test_only_answers_that_cannot_both_be_right_disagree(first: Any, second: Any, contradict: bool) -> None:
    assert bool(disagreements([first, second])) is contradict


def test_a_disagreement_ends_with_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows = iter([answer("x", "OPTIMAL", 1.0), answer("y", "OPTIMAL", 2.0)])
    shape = {"iterations": 1, "worst_residual": 0.0, "bound": 1.0, "status_text": ""}
    monkeypatch.setattr("lift_core.cli.compare._solve", lambda *_: next(rows) | shape)
    words = ["--family", "direction", "--sizes", "3", "--rank", "0", "--num-hyper", "0", "--backends", "highs"]
    assert main(["compare", *words, "--rtol", "1e-4,1e-6"]) == 1
    assert "Disagreement: a: x at 1e-06: 1 and y at 1e-06: 2" in capsys.readouterr().out


def test_shifted_means() -> None:
    rows = [answer("x", "OPTIMAL", seconds=0.0), answer("x", "OPTIMAL", seconds=3.0), answer("y", "TIME_LIMIT")]
    means = {mean["backend"]: mean for mean in shifted_means(rows, time_limit=9.0)}
    assert means["x"]["mean_seconds"] == pytest.approx(1.0)
    assert means["y"]["mean_seconds"] == pytest.approx(9.0) and means["y"]["solved"] == 0


def test_generated_programs_are_repeatable_direction_lps() -> None:
    shape = {"rank": 2, "num_hyper": 2, "slack": 0.1}
    first, again, other = (direction_program(6, seed=seed, **shape) for seed in (1, 1, 2))
    assert first.c.equal(again.c) and not first.c.equal(other.c)
    assert first.is_boxed and (first.num_rows, first.num_columns) == (6, 8)
