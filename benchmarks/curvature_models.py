"""One LP step with every curvature model, from one warm point per seed, beside the controls.

For each problem and seed the same warm-up is done once; every model then builds its curvature there, solves the
direction LP along a short path of slacks, and searches along the best direction on the selection split; the test split
is read at the end. Finished cells are kept in OUT/cells, so that an interrupted run goes on where it was.

Example:
    python benchmarks/curvature_models.py --problems digits --seeds 5 --out runs/curvature
    python benchmarks/curvature_models.py --problems "last block" --seeds 2 --models "low rank 16" "fisher 400"
    python benchmarks/curvature_models.py --problems digits --bulk --seeds 10
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import logging

from backends import PDLP, HiGHS, InteriorPoint
from lift_core import (
    SR1,
    BilevelProblem,
    CurvatureModel,
    Exact,
    Fisher,
    GaussNewton,
    GoldenSection,
    HessianDiagonal,
    LowRank,
    LPBackend,
    Trainer,
    TrustBox,
    standard_controls,
)
from lift_core.metering import Metered
from lift_core.moves import LPDirection, Move, Situation
from lift_core.records import write_atomically
from lift_core.training import TrainingState
from problems import GPT2WikiText2, Network


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A problem and how it is searched.

    Attributes:
        share: of the training batches that curvature sees.
        dense: whether the Hessian is stored (else exact models are products, for `PDLP`).
    """

    make: Callable[[int], BilevelProblem]
    box: TrustBox
    slacks: tuple[float, ...]
    warmup_epochs: int
    learning_rate: float
    share: float = 1.0
    dense: bool = False
    evaluations: int = 8


RELATIVE = TrustBox(relative=True, weights_radius=0.1)
SETTINGS = {
    "digits": Setting(
        make=lambda seed: Network(seed=seed),
        box=TrustBox(),
        slacks=(0.0, 1e-3, 1e-2),
        warmup_epochs=200,
        learning_rate=1e-2,
        dense=True,
        evaluations=16,
    ),
    "last block": Setting(
        make=lambda seed: GPT2WikiText2(seed=seed),
        box=RELATIVE,
        slacks=(1e-3, 1e-2),
        warmup_epochs=3,
        learning_rate=1e-3,
        share=0.25,
    ),
    "all blocks": Setting(
        make=lambda seed: GPT2WikiText2(seed=seed, blocks=range(4)),
        box=RELATIVE,
        slacks=(1e-2,),
        warmup_epochs=3,
        learning_rate=1e-3,
        share=0.25,
    ),
}


def models(setting: Setting) -> dict[str, tuple[CurvatureModel, TrustBox]]:
    """The compared models, and the rows that each must respect."""
    share, box = setting.share, setting.box
    few_rows = replace(box, rows=0.01)
    return {
        "exact": (Exact(share=share), box),
        "gauss-newton": (GaussNewton(share=share), box),
        "low rank 16": (LowRank(rank=16, share=share), box),
        "low rank 64": (LowRank(rank=64, share=share), box),
        "low rank 256": (LowRank(rank=256, share=share), box),
        "fisher 400": (Fisher(samples=400, share=1.0), box),
        "diagonal": (HessianDiagonal(share=share), box),
        "SR1, all rows": (SR1(memory=10, share=share), box),
        "SR1, 1 % of rows": (SR1(memory=10, share=share), few_rows),
    }


def bulks(setting: Setting) -> dict[str, tuple[CurvatureModel, TrustBox]]:
    """Ranks x what stands for the directions that were not seen."""
    table: dict[str, tuple[CurvatureModel, TrustBox]] = {"exact": (Exact(), setting.box)}
    for rank in (30, 100, 300):
        for name, bulk in (("trace", "trace"), ("λ", 0.0), ("groups", "groups"), ("diagonal", "diagonal")):
            table[f"rank {rank}, σ from {name}"] = (LowRank(rank=rank, bulk=bulk), setting.box)
    return table


def backend_for(setting: Setting, model: CurvatureModel, box: TrustBox) -> LPBackend:
    """Exact where the LP is small or factored; first order where only products exist."""
    if setting.dense:
        return HiGHS() if box.rows != "all" else InteriorPoint(rtol=1e-6)
    if isinstance(model, (Exact, GaussNewton)):
        return PDLP(rtol=1e-3, max_iterations=100)
    return InteriorPoint(rtol=1e-4)


def warm_situation(setting: Setting, problem: BilevelProblem, seed: int) -> Situation:
    """The point that every model starts from, with snapshots for SR1."""
    trainer = Trainer(learning_rate=setting.learning_rate)
    state = TrainingState.fresh(problem.initial_point())
    snapshots: list[torch.Tensor] = []
    for _ in range(setting.warmup_epochs):
        state, seen = trainer.epoch(problem, state, seed=seed, num_snapshots=4)
        snapshots = [*snapshots, *seen][-12:]
    return Situation(
        training=state,
        selection_loss=problem.loss(state.point, "selection"),
        snapshots=tuple(snapshots[:-1]),
        trainer=trainer,
        line_search=GoldenSection(max_evaluations=setting.evaluations),
        seed=seed,
    )


def run_cell(problem: BilevelProblem, move: Move, here: Situation) -> dict[str, Any]:
    """One move from the warm point: what it reached and what it spent."""
    metered, began = Metered(problem), time.perf_counter()
    best, candidates = move.best(metered, here)
    seconds = time.perf_counter() - began
    chosen = next((facts for facts in candidates if facts["label"] == best.label), {})
    return {
        "selection": problem.metric(best.selection_loss),
        "test": problem.metric(problem.loss(best.training.point, "test")),
        "label": best.label,
        "lp_objective": chosen.get("lp_objective"),
        "lp_status": chosen.get("lp_status"),
        "gradients": metered.cost.gradients,
        "hvps": metered.cost.hvps,
        "gradient_equivalents": metered.cost.gradient_equivalents,
        "seconds": seconds,
    }


def run_seed(name: str, seed: int, options: argparse.Namespace) -> None:
    """All cells of a problem and a seed that are not there yet."""
    setting = SETTINGS[name]
    table = bulks(setting) if options.bulk else models(setting)
    moves: dict[str, Move] = {
        row: LPDirection(backend=backend_for(setting, model, box), curvature=model, slacks=setting.slacks, box=box)
        for row, (model, box) in table.items()
        if not options.models or row in options.models
    }
    if not options.bulk and options.controls:
        moves |= {control.name: control for control in standard_controls(setting.box, share=setting.share)}
    wanted = {row: move for row, move in moves.items() if not cell_path(options.out, name, row, seed).exists()}
    if not wanted:
        return
    problem = setting.make(seed)
    here = warm_situation(setting, problem, seed)
    before = {
        "selection": problem.metric(here.selection_loss),
        "test": problem.metric(problem.loss(here.point, "test")),
    }
    write_cell(cell_path(options.out, name, "before", seed), before)
    budget = 0.0
    for row, move in track(list(wanted.items()), description=f"{name}, seed {seed}"):
        start = here if isinstance(move, LPDirection) else replace(here, budget=budget or 30.0)
        result = run_cell(problem, move, start)
        budget = max(budget, result["gradient_equivalents"]) if row in options.budget_of else budget
        write_cell(cell_path(options.out, name, row, seed), result)


def cell_path(out: Path, name: str, row: str, seed: int) -> Path:
    return out / "cells" / name / f"{row}.{seed}.json"


def write_cell(path: Path, cell: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(cell, indent=2))


def summary(out: Path, name: str, *, bulk: bool) -> list[dict[str, Any]]:
    """Means and standard deviations over the seeds that there are, in the order of the tables."""
    cells: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in sorted((out / "cells" / name).glob("*.json")):
        cells[path.name.rsplit(".", 2)[0]].append(json.loads(path.read_text()))
    setting = SETTINGS[name]
    order = ["before", *(bulks(setting) if bulk else models(setting))]
    if not bulk:
        order += [control.name for control in standard_controls(setting.box)]
    return [{"problem": name, "row": row, **_spread(cells[row])} for row in order if row in cells]


def _spread(cells: list[dict[str, Any]]) -> dict[str, Any]:
    def of(key: str) -> list[float]:
        return [cell[key] for cell in cells if cell.get(key) is not None]

    def mean(key: str) -> float | None:
        return statistics.fmean(of(key)) if of(key) else None

    spread = statistics.stdev(of("test")) if len(of("test")) > 1 else None
    keys = ("selection", "test", "lp_objective", "gradient_equivalents", "hvps", "seconds")
    return {"seeds": len(cells), "test_std": spread} | {key: mean(key) for key in keys}


def show(rows: list[dict[str, Any]], metric: str, console: Console) -> None:
    head = ("model", "seeds", f"selection {metric}", f"test {metric}", "LP value", "gradients", "seconds")
    table = Table(*head, title=rows[0]["problem"])
    for row in rows:
        spread = "" if row["test_std"] is None else f" ± {row['test_std']:.3g}"
        rest = [_short(row[key]) for key in ("lp_objective", "gradient_equivalents", "seconds")]
        table.add_row(row["row"], str(row["seeds"]), _short(row["selection"]), _short(row["test"]) + spread, *rest)
    console.print(table)


def markdown(rows: list[dict[str, Any]], metric: str) -> str:
    """The table as the documentation shows it."""
    lines = [
        f"| model | selection {metric} | test {metric} | LP value | gradients | seconds |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        spread = "" if row["test_std"] is None else f" ± {row['test_std']:.3g}"
        rest = [_short(row[key]) for key in ("lp_objective", "gradient_equivalents", "seconds")]
        cells = [row["row"], _short(row["selection"]), _short(row["test"]) + spread, *rest]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/curvature"))
    parser.add_argument("--problems", nargs="+", choices=tuple(SETTINGS), default=["digits"])
    parser.add_argument("--models", nargs="+", help="rows of the table; all by default")
    parser.add_argument("--bulk", action="store_true", help="compare ranks and bulks instead of models (digits)")
    parser.add_argument("--no-controls", dest="controls", action="store_false")
    parser.add_argument("--budget-of", nargs="+", default=["low rank 64"], help="models whose cost the controls get")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    if options.bulk and options.problems != ["digits"]:
        parser.error("--bulk: compares with the exact Hessian, so it needs --problems digits")
    torch.set_num_threads(options.threads)
    logging.disable_progress_bar()
    if options.bulk:
        options.out = options.out / "bulk"
    for name in options.problems:
        for seed in range(options.seeds):
            run_seed(name, seed, options)
    console = Console(width=130)
    tables = {name: summary(options.out, name, bulk=options.bulk) for name in options.problems}
    for name, rows in tables.items():
        metric = "loss" if name == "digits" else "perplexity"
        show(rows, metric, console)
        write_atomically(options.out / f"{name}.md", markdown(rows, metric))
    results = {"torch": torch.__version__, "tables": tables}
    write_atomically(options.out / "results.json", json.dumps(results, indent=2))
    console.print(
        f"costs in gradients of the training split, one product counted as two; wrote {options.out / 'results.json'}"
    )


if __name__ == "__main__":
    main()
