"""One step along the whole ρ-path: what the LP promises, what selection and test data say at the end of each search.

At ρ = 0 the weights stay optimal for training to first order, at ρ = 1 the step is sign descent on validation data; the
path shows what lies between, on the network on digits (exact Hessian) and on the bundled GPT-2's last block (5 % of the
articles, strengths of 1e-2, rank 16). Every ρ starts from the same warm point and has a line search of its own on the
selection split; test data are only reported. *Promised* is the decrease of the validation loss at the full step.

Example:
    python benchmarks/slack_path.py --seeds 3 --out runs/slack
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from rich.console import Console
from rich.progress import track
from study_figure import as_svg
from transformers import logging

from backends import DualNewton, InteriorPoint
from lift_core import BilevelProblem, Exact, LowRank, LPDirection, Situation, Trainer, TrustBox
from lift_core.allocation import tune_allocator
from lift_core.records import write_atomically
from lift_core.study import Spread
from lift_core.study.summary import spread
from lift_core.training import TrainingState
from problems import GPT2WikiText2, Network

SLACKS = (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
VALIDATION, TEST = "#0b7285", "#c92a2a"

Row = dict[str, float]
Run = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A problem, how it is warmed up, and the move along the path."""

    problem: Callable[[int], BilevelProblem]
    trainer: Trainer
    epochs: int
    move: LPDirection


SETTINGS = {
    "network, digits": Setting(
        problem=lambda seed: Network(seed=seed),
        trainer=Trainer(learning_rate=1e-2),
        epochs=150,
        move=LPDirection(backend=InteriorPoint(rtol=1e-6), curvature=Exact(), slacks=SLACKS),
    ),
    "GPT-2, last block": Setting(
        problem=lambda seed: GPT2WikiText2(
            seed=seed, train_share=0.05, initial_strength=1e-2,
            max_tokens={"direction": 27_000, "selection": 15_000, "test": 30_000},
        ),
        trainer=Trainer(averaging=0.95),
        epochs=2,
        move=LPDirection(
            backend=DualNewton(), curvature=LowRank(rank=16, num_probes=1, share=0.1, definiteness="absolute"),
            slacks=SLACKS, box=TrustBox(relative=True, weights_radius=0.1, hyper_radius=4.0),
        ),
    ),
}  # fmt: skip


def path_of(setting: Setting, seed: int) -> tuple[str, list[Row]]:
    """The metric's name, and a row for the warm point and for every ρ."""
    problem = setting.problem(seed)
    state = TrainingState.fresh(problem.initial_point())
    for _ in range(setting.epochs):
        state, _ = setting.trainer.epoch(problem, state, seed=seed)
    before = problem.loss(state.point, "selection")
    here = Situation(state, before, trainer=setting.trainer, seed=seed)
    warm = {
        "slack": -1.0,
        "promised": 0.0,
        "step": 0.0,
        "validation": before,
        "test": problem.loss(state.point, "test"),
    }
    rows: list[Row] = [warm]
    rows += [
        {
            "slack": candidate.facts["slack"], "promised": -(candidate.facts["lp_objective"] or 0.0),
            "step": candidate.facts["step_size"], "validation": candidate.selection_loss,
            "test": problem.loss(candidate.training.point, "test"),
        }
        for candidate in setting.move.candidates(problem, here)
    ]  # fmt: skip
    for row in rows:
        row |= {split: problem.metric(row[split]) for split in ("validation", "test")}
    return problem.metric_name, rows


def over_seeds(runs: Sequence[Run]) -> list[dict[str, Spread]]:
    """A row for the warm point and for every ρ."""
    columns = zip(*(run["rows"] for run in runs), strict=True)
    return [{key: spread([row[key] for row in rows]) for key in rows[0]} for rows in columns]


def _bars(axes: Axes, places: Sequence[float], values: Sequence[Spread], **style: Any) -> None:
    means, deviations = [value.mean for value in values], [value.deviation or 0.0 for value in values]
    axes.errorbar(places, means, yerr=deviations, fmt="o-", ms=4, capsize=2, **style)


def table_of(name: str, runs: Sequence[Run]) -> str:
    """A Markdown table."""
    lines = [
        f"**{name}** ({runs[0]['metric']}; seeds {', '.join(str(run['seed']) for run in runs)})\n",
        "| ρ | promised | step | validation | test |",
        "|---:|---:|---:|---:|---:|",
    ]
    for row in over_seeds(runs):
        slack, *cells = row.values()
        shown = [str(cell) for cell in cells]
        first = ["warm start", "", "", *shown[2:]] if slack.mean < 0 else [f"{slack.mean:g}", *shown]
        lines.append(f"| {' | '.join(first)} |")
    return "\n".join(lines)


def draw(found: dict[str, list[Run]]) -> str:
    """A column for every setting: promises above, metrics below."""
    matplotlib.rcParams.update({"svg.hashsalt": "lift", "font.size": 9})
    figure, grid = plt.subplots(
        2, len(found), figsize=(4.2 * len(found), 5), squeeze=False, sharex="col", layout="constrained",
        height_ratios=(1, 2),
    )  # fmt: skip
    for (upper, lower), (name, runs) in zip(grid.T, found.items(), strict=True):
        warm, *path = over_seeds(runs)
        places, labels = range(len(path)), [f"{row['slack'].mean:g}" for row in path]
        _bars(upper, places, [row["promised"] for row in path], color="#495057")
        upper.set(yscale="log", title=name)
        for key, colour, shift in (("validation", VALIDATION, -0.08), ("test", TEST, 0.08)):
            _bars(lower, [place + shift for place in places], [row[key] for row in path], color=colour, label=key)
            lower.axhline(warm[key].mean, color=colour, ls=(0, (4, 3)), lw=0.9, label=f"{key}, warm start")
        lower.set_xticks(places, labels, rotation=45)
        lower.set(xlabel="slack ratio ρ (evenly spaced)", ylabel=runs[0]["metric"])
        for axes in (upper, lower):
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
    grid[0, 0].set_ylabel("decrease promised")
    figure.legend(*grid[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return as_svg(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--settings", nargs="+", choices=tuple(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/slack"), help="folder; finished seeds are not run again")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable_progress_bar()
    tune_allocator()
    store = options.out / "slack_path.json"
    found: dict[str, list[Run]] = json.loads(store.read_text()) if store.exists() else {}
    wanted = [(name, seed) for name in options.settings for seed in range(options.seeds)]
    for name, seed in track(wanted, description="ρ-paths"):
        runs = found.setdefault(name, [])
        if seed not in [run["seed"] for run in runs]:
            metric, rows = path_of(SETTINGS[name], seed)
            runs.append({"seed": seed, "metric": metric, "rows": rows})
            write_atomically(store, json.dumps(found, indent=1))
    tables = "\n\n".join(table_of(name, runs) for name, runs in found.items())
    Console(width=130).print(tables, markup=False)
    write_atomically(options.out / "slack_path.md", tables + "\n")
    write_atomically(options.out / "slack_path.svg", draw(found))


if __name__ == "__main__":
    main()
