"""``lift list`` and ``lift check``."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lift_core.cli import main


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
from lift_core import BackendAnswer, BilevelProblem, Point
from problems import Quadratic

class WrongGradient(Quadratic):
    def upper_gradient(self, point, split="direction"):
        by_hyper, by_weights = super().upper_gradient(point, split)
        return by_hyper, 1.1 * by_weights

class Raises(Quadratic):
    def upper_loss(self, hyper, weights, batch):
        raise RuntimeError("shapes do not fit")

class Plain(BilevelProblem):
    name, regularizer, hyper_in_training = "plain", None, False
    hyper_names, groups = (), {"w": slice(0, 2)}
    hyper_lower = hyper_upper = torch.zeros(0, dtype=torch.float64)

    def initial_point(self):
        return Point(torch.zeros(0, dtype=torch.float64), torch.ones(2, dtype=torch.float64))

    def batches(self, split):
        return ((torch.eye(2, dtype=torch.float64),),)

    def upper_loss(self, hyper, weights, batch):
        return (batch[0] @ weights - 2).square().mean()

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
        ("plugged:Raises", 1, "splits and losses"),
        ("plugged:Plain", 0, None),
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
    checks = json.loads((tmp_path / "check.json").read_text())["checks"]
    failed = [check for check in checks if not check["passed"]]
    assert bool(failed) == (failing is not None)
    assert all(check["message"] for check in failed)
    assert failing is None or any(check["check"].startswith(failing) for check in failed)
