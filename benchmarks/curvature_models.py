"""One LP step with every curvature model, from one warm point per seed, beside the controls.

For each problem and seed the same warm-up is done once; every model then builds its curvature there, solves the
direction LP along a short path of slacks, and searches along the best direction on the selection split; the test split
is read at the end. Finished cells are kept in OUT/cells, so that an interrupted run goes on where it was.

Example:
    python benchmarks/curvature_models.py --problems digits --seeds 5 --out runs/curvature
    python benchmarks/curvature_models.py --problems "last block" --seeds 2 --models "low rank 16" "fisher 400"
    python benchmarks/curvature_models.py --compare bulks --seeds 10
    python benchmarks/curvature_models.py --problems "last block" --compare shares --seeds 3
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from curvature_tables import Cells, markdown, show
from rich.console import Console
from rich.progress import track
from transformers import logging

from backends import PDLP, DualNewton, HiGHS, InteriorPoint
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
from lift_core.allocation import tune_allocator
from lift_core.curvature import Definiteness
from lift_core.lp_move import LPDirection
from lift_core.metering import Metered
from lift_core.moves import Move, Situation
from lift_core.problem import Split
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
TOKENS: dict[Split, int] = {"train": 4096, "direction": 3072, "selection": 3072, "test": 8192}
"""Small enough for all rows and five seeds in an hour of one core; 8 training batches of 2 sequences of 256."""


def language(seed: int, blocks: Sequence[int] | None = None) -> BilevelProblem:
    """The bundled GPT-2 on a little of WikiText-2."""
    return GPT2WikiText2(seed=seed, blocks=blocks, batch_blocks=2, max_tokens=TOKENS)


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
        make=language,
        box=RELATIVE,
        slacks=(1e-2,),
        warmup_epochs=3,
        learning_rate=1e-3,
        share=0.125,
        evaluations=6,
    ),
    "all blocks": Setting(
        make=lambda seed: language(seed, range(4)),
        box=RELATIVE,
        slacks=(1e-2,),
        warmup_epochs=3,
        learning_rate=1e-3,
        share=0.125,
        evaluations=6,
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


def shares(setting: Setting) -> dict[str, tuple[CurvatureModel, TrustBox]]:
    """Shares of the training batches that curvature sees, smallest first."""
    return {f"share {share:g}": (LowRank(rank=16, share=share), setting.box) for share in (0.125, 0.25, 0.5, 1.0)}


def signs(setting: Setting) -> dict[str, tuple[CurvatureModel, TrustBox]]:
    """What is done with negative eigenvalues."""
    treatments = get_args(Definiteness)
    return {name: (LowRank(rank=16, definiteness=name, share=setting.share), setting.box) for name in treatments}


COMPARED = {"models": models, "bulks": bulks, "shares": shares, "signs": signs}


def backend_for(setting: Setting, model: CurvatureModel, box: TrustBox) -> LPBackend:
    """Exact where the LP is small or factored; first order where only products exist."""
    if setting.dense:
        return HiGHS() if box.rows != "all" else InteriorPoint(rtol=1e-6)
    if isinstance(model, (Exact, GaussNewton)):
        return PDLP(rtol=1e-2, max_iterations=300, check_interval=10)
    return DualNewton(rtol=1e-4)


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


def run_cell(problem: BilevelProblem, move: Move, here: Situation) -> tuple[dict[str, Any], torch.Tensor]:
    """One move from the warm point: what it reached and what it spent, and the step of the weights."""
    metered, began = Metered(problem), time.perf_counter()
    best, candidates = move.best(metered, here)
    seconds = time.perf_counter() - began
    chosen = next((facts for facts in candidates if facts["label"] == best.label), {})
    cell = {
        "selection": problem.metric(best.selection_loss),
        "test": problem.metric(problem.loss(best.training.point, "test")),
        "label": best.label,
        "lp_objective": chosen.get("lp_objective"),
        "lp_status": chosen.get("lp_status"),
        "lp_bound": chosen.get("lp_bound"),
        "lp_primal_residual": chosen.get("lp_primal_residual"),
        "lp_gap": chosen.get("lp_gap"),
        "smallest_curvature": chosen.get("smallest_curvature"),
        "gradients": metered.cost.gradients,
        "hvps": metered.cost.hvps,
        "gradient_equivalents": metered.cost.gradient_equivalents,
        "seconds": seconds,
    }
    return cell, best.training.point.weights - here.point.weights


def run_seed(name: str, seed: int, options: argparse.Namespace) -> None:
    """All cells of a problem and a seed that are not there yet."""
    setting, cells = SETTINGS[name], Cells(options.out, name)
    moves: dict[str, Move] = {
        row: LPDirection(backend=backend_for(setting, model, box), curvature=model, slacks=setting.slacks, box=box)
        for row, (model, box) in COMPARED[options.compare](setting).items()
        if not options.models or row in options.models
    }
    if options.compare == "models" and options.controls:
        moves |= {control.name: control for control in standard_controls(setting.box, share=setting.share)}
    wanted = {row: move for row, move in moves.items() if not cells.path(row, seed).exists()}
    if not wanted:
        return
    problem = setting.make(seed)
    here = warm_situation(setting, problem, seed)
    before = {
        "selection": problem.metric(here.selection_loss),
        "test": problem.metric(problem.loss(here.point, "test")),
    }
    cells.write("before", seed, before)
    budget = max((cells.spent(row, seed) for row in options.budget_of), default=0.0)
    for row, move in track(list(wanted.items()), description=f"{name}, seed {seed}"):
        start = here if isinstance(move, LPDirection) else replace(here, budget=budget or 30.0)
        result, step = run_cell(problem, move, start)
        budget = max(budget, result["gradient_equivalents"]) if row in options.budget_of else budget
        cells.write(row, seed, result, step if options.compare == "shares" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/curvature"))
    parser.add_argument("--problems", nargs="+", choices=tuple(SETTINGS), default=["digits"])
    parser.add_argument("--models", nargs="+", help="rows of the table; all by default")
    parser.add_argument(
        "--compare",
        choices=tuple(COMPARED),
        default="models",
        help="curvature models (default), ranks and bulks, shares of the training batches, or signs of the eigenvalues",
    )
    parser.add_argument("--no-controls", dest="controls", action="store_false")
    parser.add_argument("--budget-of", nargs="+", default=["low rank 64"], help="models whose cost the controls get")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    if options.compare == "bulks" and options.problems != ["digits"]:
        parser.error("--compare bulks: compares with the exact Hessian, so it needs --problems digits")
    if options.compare == "shares" and "digits" in options.problems:
        parser.error("--compare shares: the digits network has one training batch; choose a language problem")
    torch.set_num_threads(options.threads)
    logging.disable_progress_bar()
    tune_allocator()
    if options.compare != "models":
        options.out = options.out / options.compare
    for name in options.problems:
        for seed in range(options.seeds):
            run_seed(name, seed, options)
    console = Console(width=130)
    tables: dict[str, list[dict[str, Any]]] = {}
    for name in options.problems:
        order = [*COMPARED[options.compare](SETTINGS[name]), *(move.name for move in standard_controls(TrustBox()))]
        tables[name] = Cells(options.out, name).summary(order)
        metric = "loss" if name == "digits" else "perplexity"
        show(tables[name], metric, console)
        write_atomically(options.out / f"{name}.md", markdown(tables[name], metric))
    results = {"torch": torch.__version__, "tables": tables}
    write_atomically(options.out / "results.json", json.dumps(results, indent=2))
    console.print(
        f"costs in gradients of the training split, one product counted as two; wrote {options.out / 'results.json'}"
    )


if __name__ == "__main__":
    main()
