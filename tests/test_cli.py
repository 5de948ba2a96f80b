"""The ``lift`` command: wrong arguments, help, version, values of options."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from rich.table import Table

import lift_core as lift
from lift_core.cli import main
from lift_core.cli.display import CellDisplay, plain_console, print_table
from lift_core.cli.listing import missing_packages
from lift_core.cli.options import check_options, parse_value

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
    (f"run {Q} --set condition=0.5", "condition: expected a finite number of at least 1, got 0.5"),
    (f"run {Q} --set condition=NaN", "--set condition=nan: Quadratic wants a number, got nan"),
    (f"run {Q} --set seed=99999999999999999999", "Quadratic wants a whole number of at most 64 bits"),
    ("run gpt2_wikitext2 --set blocks=3", "GPT2WikiText2 wants a list in brackets, each of it a whole number"),
    ("run gpt2_wikitext2 --set max_tokens=0", 'wants an object {"NAME": a whole number, ...} or null, got 0'),
    ('run gpt2_wikitext2 --set max_tokens={"test":0}', "expected at least 2 tokens for test, got 0"),
    ('run gpt2_wikitext2 --set max_tokens={"test":9}', "the split 'test' has"),
    ('run gpt2_wikitext2 --set max_tokens=null --set skip_tokens={"test":9000000}', "the split 'test' has 0 tokens"),
    (f"run {Q} --only-controls (", "--only-controls: expected a regular expression, got '('"),
    (f"run {Q} --only-controls nothing", "--only-controls: expected part of one of -gradient, "),
    (f"run {Q} --only-controls grid --no-controls", "--only-controls: expected together with controls"),
    ("run gpt2_wikitext2 --set strength_bounds=[1]", "wants a list of 2 in brackets: a number, a number, got [1]"),
    ("run gpt2_wikitext2 --set block_lenght=8", "--set block_lenght=8: gpt2_wikitext2 has no such option"),
    ("run gpt2_wikitext2 --set dtype=int64", "dtype: expected a floating-point dtype or its name, such as 'float32'"),
    ("run gpt2_wikitext2 --set model=./nowhere", "model: there is no folder ./nowhere"),
    ("run article_weights", "--set: article_weights cannot be made without"),
    (f"run {Q} --set condition=100000000000000000000", "Quadratic wants a whole number of at most 64 bits"),
    (f"run {Q} --set indefinite=100000000000000000000", "Quadratic wants true or false"),
    (f"run {Q} --select 0.5 --select-set by=3", "--select-set by=3: Selector wants a text or a list in brackets"),
    ("study small --first-seed 4294967295 --seeds 2", "--seeds: expected seeds up to 4294967295"),
    ("run gpt2_wikitext2 --set device=mars", "device: expected cpu, cuda, cuda:0, ... or None, got 'mars'"),
    ("run regression --set num_noise_features=-1", "num_noise_features: expected at least 0, got -1"),
    (f"run {Q} --select 0.5 --select-set max_size=abc", "max_size=abc: Selector wants a whole number or null"),
    (f"run {Q} --seed 99999999999999999999", "--seed"),
    ("compare --family direction --sizes inf", "--sizes: expected whole numbers from 1 to 1,000,000,000, got 'inf'"),
    (f"run {Q} --backend-set rtoll=1", "--backend-set rtoll=1: HiGHS has no such option"),
    (f"run {Q} --backend-set rtol=small", "--backend-set rtol=small: HiGHS wants a number, got 'small'"),
    (f"run {Q} --backend-set rtol=2", "rtol: expected a number in (0, 1), got 2"),
    (f"run {Q} --backend-set method=magic", "method: expected one of"),
    (f"run {Q} --curvature magic", "--curvature: expected one of exact, gauss_newton, low_rank, fisher, sr1, diagonal"),
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
    (f"run {Q} --controls-radius 0", "--controls-radius: expected a positive number, got 0.0"),
    (f"run {Q} --weights-radius inf", "weights_radius: expected a positive number, got inf"),
    (f"run {Q} --rows half", "rows: expected 'all' or a share in (0, 1], got 'half'"),
    (f"run {Q} --rows true", "rows: expected 'all' or a share in (0, 1], got True"),
    (f"run {Q} --refit-reach 0", "reach: expected positive multiples of the direction, got (0.0,)"),
    (f"run {Q} --refit-reach -1", "reach: expected positive multiples of the direction, got (-1.0,)"),
    (f"run {Q} --curvature-set bulk=-1", "bulk: expected 'trace', 'groups', 'diagonal' or a number of at least 0"),
    (f"run {Q} --backend-set threads=99999999999", "threads: expected a number from 0 (HiGHS decides) to"),
    (f"run {Q} --backend-set iteration_limit=99999999999", "iteration_limit: expected None or a number from 0 to"),
    ("select network --measure magnitude --learning-rate -1", "learning_rate: expected a positive number, got -1.0"),
    ("select network --measure forward --learning-rate -1", "learning_rate: expected a positive number, got -1.0"),
    (f"run {Q} --rows 0", "rows: expected 'all' or a share in (0, 1], got 0"),
    (f"run {Q} --kappa 2", "kappa: expected a number in [0, 1], got 2.0"),
    (f"run {Q} --line-search newton", "--line-search: expected golden or armijo, got 'newton'"),
    (f"run {Q} --max-evaluations 0", "max_evaluations: expected at least 1, got 0"),
    (f"run {Q} --learning-rate 0", "learning_rate: expected a positive number, got 0.0"),
    (f"run {Q} --averaging 1", "averaging: expected a number in [0, 1), got 1.0"),
    (f"run {Q} --warmup-epochs -1", "warmup_epochs: expected at least 0, got -1"),
    (f"run {Q} --rounds 0", "rounds: expected at least 1, got 0"),
    (f"run {Q} --rounds two", "--rounds"),
    (f"run {Q} --rounds two", "got 'two'"),
    (f"run {Q} --threads=0", "--threads"),
    (f"run {Q} --threads=100000", "--threads"),
    (f"run {Q} --threads=0", "got '0'"),
    (f"run {Q} --seed -1", "got '-1'"),
    ("run --resume nowhere", "nowhere/config.json: not found, so there is no run to resume"),
    (f"run {Q} --resume nowhere", "--resume: takes every setting from nowhere/config.json; leave out backend, problem"),
    (f"run {Q} --out file.txt", "file.txt"),
    ("compare", "LP, --family: expected files, or a family to generate, or both"),
    ("compare --family quadratic", "--family: expected direction, got 'quadratic'"),
    ("compare --family direction --sizes ten", "--sizes: expected one or more numbers separated by commas, got 'ten'"),
    ("compare --family direction --sizes 2.5", "--sizes: expected whole numbers from 1 to 1,000,000,000, got '2.5'"),
    ("compare --family direction --sizes 1e300", "--sizes: expected whole numbers from 1 to 1,000,000,000"),
    ("compare --family direction --sizes 5 --rank 8", "rank: expected at most the number of weights (5), got 8"),
    ("compare --family direction --rank low", "--rank: expected one or more numbers separated by commas, got 'low'"),
    ("compare --family direction --condition 1", "condition: expected a number of at least 2, got 1.0"),
    ("compare --family direction --slack 2", "slack: expected a ratio in [0, 1], got 2.0"),
    ("compare --family direction --backends a=highs,a=pdlp", "--backends: expected different labels, got a=highs, a="),
    ("compare --family direction --backends highs --time-limit inf", "--time-limit: expected a finite number of sec"),
    ("compare --family direction --backends highs --rtol 1e-4,1e-4", "contenders: expected different names"),
    ("compare --family direction --backends magic", "unknown name 'magic'"),
    ("compare --family direction --backends highs --rtol 0", "--rtol: expected numbers in (0, 1), got 0.0"),
    ("compare --family direction --backends highs --rtol nan", "--rtol: expected numbers in (0, 1), got nan"),
    (f"run {Q} --slack 0 --delta 0.1", "--delta: expected without --slack, which it stands for, got 0.1"),
    (f"run {Q} --select 0.5 --select-set seed=3", "expected one of by, max_size, measure, solver, backend, steps,"),
    ("study --check nowhere.json", "--check: expected a study.json of lift study, got nowhere.json"),
    ("compare --family direction --backends highs --time-limit 0", "--time-limit: expected a finite number of sec"),
    ("compare --family direction --backends highs --backend-set rtol=1", "--backend-set: expected NAME.KEY=VALUE"),
    ("compare --family direction --backends highs --backend-set pdlp.x=1", "pdlp is not among the backends highs"),
    ("compare nowhere.mps", "nowhere.mps, which is no file and matches none"),
    ("compare *.nowhere", "*.nowhere, which is no file and matches none"),
    ("compare . --backends highs", "a folder without such files"),
    ("compare file.txt --backends highs", "LP: expected a file called *.mps, *.mps.gz, *.safetensors, got file.txt"),
    ("compare --resume nowhere", "nowhere/config.json: not found, so there is no comparison to resume"),
    ("compare --resume nowhere --rtol 1e-4 --seed 0", "--resume: takes every setting from nowhere; leave out rtol"),
    ("list --frobnicate", "--frobnicate"),
    ("check", "plugin"),
    ("check quadratic --rtol nan", "--rtol: expected a number in (0, 1), got nan"),
    ("compare --family direction --backends =highs", "--backends: expected LABEL=NAME or NAME, got '=highs'"),
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


def test_a_problem_that_does_not_fit_into_memory_is_named_by_its_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--set", "num_weights=9223372036854775807", "--set=num_hyper=2"]
    assert main(["run", "quadratic", *options, "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("lift: out of memory (Storage size calculation overflowed") and error.count("\n") == 1
    assert "--set num_weights=9223372036854775807 --set=num_hyper=2" in error


def test_unexpected_errors_keep_their_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(lift.LocalSearch, "run", broken)
    with pytest.raises(ZeroDivisionError):
        main(["run", "quadratic", "--backend", "highs", "--out", str(tmp_path)])


def test_a_missing_package_is_named_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "needy.py").write_text("import no_such_package_at_all\n")
    monkeypatch.chdir(tmp_path)
    assert main(["run", "needy:Problem"]) == 2
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


# -- what is shown ------------------------------------------------------------------------------------------------


def test_names_and_messages_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("groups [a-w]", title="folder [/tmp/x]")
    table.add_row("got [nan, 1.0] for :key:")
    print_table(table)
    with CellDisplay(plain_console(stderr=True)) as display:
        display.show(1, 2, "[/tmp/x]: [a-w]")
    shown = capsys.readouterr()
    assert all(text in shown.out for text in ("groups [a-w]", "folder [/tmp/x]", "got [nan, 1.0] for :key:"))
    assert shown.err == "1/2 [/tmp/x]: [a-w]\n"


def test_characters_that_the_terminal_lacks_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", shown)
    assert main(["run", "--help"]) == 0
    print_table(Table("ρ=0.01"))
    shown.seek(0)
    text = shown.read()
    assert "Ratios ? in [0, 1]" in " ".join(text.split()) and "?=0.01" in text


# -- options ------------------------------------------------------------------------------------------------------


def test_values_are_json_or_text() -> None:
    texts = ("3", "0.5", "true", "False", "null", "None", "[1, 2]", '"3"', "gpt2", "a=b", "")
    assert [parse_value(text) for text in texts] == [3, 0.5, True, False, None, None, [1, 2], "3", "gpt2", "a=b", ""]


def test_options_of_any_keyword_are_left_to_the_class() -> None:
    def anything(**options: object) -> None:
        del options

    check_options("--set", anything, {"whatever": 1})


# -- options of plug-ins ------------------------------------------------------------------------------------------


class Base:
    def __init__(self, *, n: int = 1, sizes: Sequence[int] = (), loose: typing.List = (), missing: NotHere = None):  # noqa: F821, UP006  # pyright: ignore
        pass


class Derived(Base):
    def __init__(self, *, m: float = 1.0, pair: tuple[float, float] = (0, 1), **others: object) -> None:
        super().__init__(n=others.pop("size", 1))  # pyright: ignore


class Plain:
    def __init__(self, *, n: int = 1, sizes: Sequence[int] | None = None, by_name: Mapping[str, int] | None = None):
        pass


FITTING = (
    (Derived, {"m": 2, "pair": [1, 2.5], "size": 4, "unknown": "left to the class", "loose": [1], "missing": {}}),
    (Base, {"n": "hints that cannot be read hold nothing up"}),
    (Plain, {"n": 3, "sizes": [1, 2], "by_name": {"a": 1}}),
    (Plain, {"sizes": None, "by_name": {}}),
)
UNFITTING = (
    (Derived, {"m": "much"}, "Derived wants a number, got 'much'"),
    (Derived, {"pair": [1]}, "Derived wants a list of 2 in brackets: a number, a number, got [1]"),
    (Plain, {"m": 1}, "Plain has no such option; it has n, sizes, by_name"),
    (Plain, {"sizes": [1, "b"]}, "Plain wants a list in brackets, each of it a whole number or null"),
    (Plain, {"by_name": {"a": "b"}}, 'Plain wants an object {"NAME": a whole number, ...} or null'),
)


@pytest.mark.parametrize(("target", "options"), FITTING)
def test_options_that_fit_pass(target: type, options: dict[str, object]) -> None:
    check_options("--set", target, options)


@pytest.mark.parametrize(("target", "options", "sentence"), UNFITTING)
def test_options_that_do_not_fit_are_named(target: type, options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        check_options("--set", target, options)
