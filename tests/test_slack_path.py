"""The benchmark of the ρ-path: what it measures, and the table and figure that it makes of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import slack_path

from backends import InteriorPoint
from lift_core import Exact, LPDirection, Trainer
from problems import Quadratic


def test_a_row_for_the_warm_point_and_for_every_slack() -> None:
    move = LPDirection(backend=InteriorPoint(rtol=1e-6), curvature=Exact(), slacks=(0.0, 0.1, 1.0))
    setting = slack_path.Setting(problem=lambda seed: Quadratic(seed=seed), trainer=Trainer(), epochs=3, move=move)
    metric, rows = slack_path.path_of(setting, 0)
    assert metric == "loss" and [row["slack"] for row in rows] == [-1.0, 0.0, 0.1, 1.0]
    promised = [row["promised"] for row in rows]
    assert promised == sorted(promised), "a wider slack can only promise more"
    assert all(row["validation"] <= rows[0]["validation"] for row in rows)


def test_the_table_has_means_over_seeds_and_the_figure_every_setting() -> None:
    def run(seed: int) -> slack_path.Run:
        row = {"promised": 1.0 + seed, "step": 0.5, "validation": 2.0, "test": 3.0 + 2 * seed}
        return {"seed": seed, "metric": "loss", "rows": [{"slack": slack, **row} for slack in (-1.0, 0.0, 1.0)]}

    runs = [run(0), run(1)]
    assert "| 1 | 1.5 ± 0.71 | 0.5 ± 0 | 2 ± 0 | 4 ± 1.4 |" in slack_path.table_of("toy", runs)
    drawn = slack_path.draw({"toy": runs, "other": runs[:1]})
    assert drawn.startswith("<?xml") and drawn == slack_path.draw({"toy": runs, "other": runs[:1]})


@pytest.mark.parametrize("name", slack_path.SETTINGS)
def test_settings_walk_the_whole_path(name: str) -> None:
    assert slack_path.SETTINGS[name].move.slacks == slack_path.SLACKS
    assert (slack_path.SLACKS[0], slack_path.SLACKS[-1]) == (0.0, 1.0)
