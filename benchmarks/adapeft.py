"""What to tune: AdaPEFT beside simple measures, on the bundled GPT-2 and WikiText-2, at equal gradients.

Every cell chooses groups of weights for a budget by one measure, trains them from the bundled model for what the
gradient budget leaves after the measure's own cost, reads validation and test perplexity, and goes on with one step of
LiFT. The weights to choose from are all blocks and the last layer norm (1.78 million; the embeddings, also the head,
stay); groups are tensors, matrices cut into pieces: 90 groups. LoRA adds factors of its own to the attention.

Each cell is one file, written when it is done: an interrupted study goes on where it stopped. Sets that two measures
agree on are trained once.

Example:
    python benchmarks/adapeft.py --out runs/adapeft --budgets 0.01 --methods exact,random --seeds 0
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from adapeft_tables import agreement, correlations, markdown, show, summarise
from rich.console import Console

import lift_core as lift
from backends import HiGHS, InteriorPoint
from lift_core.allocation import tune_allocator
from lift_core.metering import Metered
from lift_core.problem import BilevelProblem
from lift_core.records import write_atomically
from lift_core.selection import (
    Everything,
    ExactInfluence,
    FisherScore,
    ForwardInfluence,
    GradientNorm,
    Groups,
    LastLayers,
    Magnitude,
    Measure,
    Probing,
    Random,
    Restricted,
    Scores,
    bitfit,
    capacity_of,
    exact_knapsack,
    greedy_knapsack,
    layer_norms,
    make_groups,
)
from lift_core.training import TrainingState
from problems import GPT2WikiText2
from problems.adapters import with_lora
from problems.causal_lm import load_model
from problems.gpt2_wikitext2 import BUNDLED_MODEL

TUNED = ["transformer.h.*", "transformer.ln_f.*"]
BUDGETS = (0.001, 0.01, 0.05, 0.2)
MEASURES: dict[str, Measure] = {
    "exact": Probing(estimator=ExactInfluence(cross=True, at_once=1), steps=8, every=8),
    "forward": Probing(estimator=ForwardInfluence(first_step=1e-3), steps=8, every=8),
    "exact-large": Probing(estimator=ExactInfluence(cross=True, at_once=1), steps=8, every=8, num_batches=2),
    "gradient": GradientNorm(num_batches=8),
    "fisher": FisherScore(num_batches=8),
    "magnitude": Magnitude(),
    "random": Random(),
    "bitfit": bitfit(),
    "layernorm": layer_norms(),
    "last": LastLayers(),
    "all": Everything(),
}
METHODS = (*MEASURES, "lora")
LARGE = "exact-large"
"""Looks at two training batches instead of one short block: beyond the budget, to see what noise does to the others."""
BLOCK, BATCH_BLOCKS, PROBE_BLOCK = 64, 4, 32
"""Tokens of a block, blocks of a training batch, and tokens of the one block that measures look at a time."""
TOKENS = {"train": 4_096, "direction": 2_048, "selection": 2_048, "test": 4_096}
STEPS = 40
"""The gradient budget: steps of 4 blocks, 252 predicted tokens each."""
LEARNING_RATE = 3e-3
PER_STEP = BATCH_BLOCKS * (BLOCK - 1)
LIFT = lift.LPDirection(
    backend=InteriorPoint(rtol=1e-4), curvature=lift.LowRank(rank=4, num_probes=1, share=0.05), slacks=(1e-2,),
    box=lift.TrustBox(relative=True, weights_radius=0.1),
)  # fmt: skip


@dataclass(frozen=True)
class Study:
    """One seed's data and model, and the folder of the whole study."""

    seed: int
    out: Path
    steps: int
    with_lift: bool

    def problem(self, **options: Any) -> GPT2WikiText2:
        defaults = {"trainable": TUNED, "block_length": BLOCK, "batch_blocks": BATCH_BLOCKS}
        return GPT2WikiText2(
            **(defaults | options), train_share=0.05, max_tokens=TOKENS, regularize_by="block", initial_strength=1e-3,
            seed=self.seed, device="cpu",
        )  # fmt: skip

    def probed(self) -> GPT2WikiText2:
        """The same problem in small bites."""
        return self.problem(block_length=PROBE_BLOCK, batch_blocks=1)


def pieces(problem: BilevelProblem) -> Groups:
    """Tensors, in runs of at most 36,864 weights; attention's output maps in thirds, which fit a budget of 1 %."""
    members: dict[str, slice] = {}
    for name, part in problem.groups.items():
        size, limit = part.stop - part.start, 12_288 if name.endswith("attn.c_proj.weight") else 36_864
        count = -(-size // limit)
        edges = [part.start + size * i // count for i in range(count + 1)]
        for i, run in enumerate(pairwise(edges), start=1):
            members[name if count == 1 else f"{name}/{i}of{count}"] = slice(*run)
    return make_groups(problem, members)


def measured(study: Study, method: str, groups: Groups, problem: BilevelProblem) -> tuple[Scores, dict[str, Any]]:
    """Scores of one measure, from its file where there is one, and what they cost in training tokens."""
    path = study.out / "scores" / f"{method}-{study.seed}.json"
    if not path.exists():
        metered, began = Metered(problem), time.perf_counter()
        start = TrainingState.fresh(problem.initial_point())
        scores = MEASURES[method].scores(metered, groups, start, seed=study.seed)
        tokens = metered.cost.gradient_equivalents * problem.num_examples("train")
        record = {
            "method": scores.method, "values": scores.values.tolist(), "facts": scores.facts,
            "cost_tokens": tokens, "seconds": time.perf_counter() - began,
            "cross": None if scores.cross is None else scores.cross.tolist(),
        }  # fmt: skip
        write_atomically(path, json.dumps(record))
    record = json.loads(path.read_text())
    cross = None if record["cross"] is None else torch.tensor(record["cross"], dtype=torch.float64)
    values = torch.tensor(record["values"], dtype=torch.float64)
    return Scores(record["method"], groups.names, groups.sizes, values, record["facts"], cross), record


def train_and_lift(study: Study, problem: BilevelProblem, key: str, charged: int) -> dict[str, Any]:
    """Train for the whole budget: losses where the measure's cost leaves off, LiFT's step from there, and at the end.

    Sets that were trained before are read from their file, but for a LiFT step that is still missing.
    """
    path = study.out / "trained" / f"{study.seed}-{key}-{charged}.json"
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if record and ("lift" in record["charged"] or not study.with_lift):
        return record
    state = TrainingState.fresh(problem.initial_point())
    steps = lift.Trainer(learning_rate=LEARNING_RATE).steps(problem, state, seed=study.seed)
    for step in range(1, (charged if record else study.steps) + 1):
        state = next(steps)
        if step == charged:
            reached = {split: problem.loss(state.point, split) for split in ("selection", "test")}
            after = lift_step(study, problem, state, reached["selection"]) if study.with_lift else {}
            record["charged"] = {"trained": reached} | after
        if step == study.steps:
            reached = record["charged"]["trained"] if step == charged else {}
            left = ("train",) if reached else ("train", "selection", "test")
            record["uncharged"] = {"trained": reached | {split: problem.loss(state.point, split) for split in left}}
    write_atomically(path, json.dumps(record))
    return record


def lift_step(study: Study, problem: BilevelProblem, state: TrainingState, selection_loss: float) -> dict[str, Any]:
    """One direction LP with its line search from a tuned point: losses after it, and its cost in training steps."""
    metered = Metered(problem)
    here = lift.Situation(
        training=state, selection_loss=selection_loss, seed=study.seed,
        line_search=lift.GoldenSection(max_evaluations=4),
    )  # fmt: skip
    best, _ = LIFT.best(metered, here)
    steps = metered.cost.gradient_equivalents * problem.num_examples("train") / PER_STEP
    losses = {split: problem.loss(best.training.point, split) for split in ("selection", "test")}
    return {"lift": losses, "lift_label": best.label, "lift_steps": steps}


def lora_problem(study: Study, capacity: int) -> GPT2WikiText2:
    """Adapters on the attention's input map, of as many weights as the budget allows: all blocks, or the last ones."""
    model = load_model(BUNDLED_MODEL, dtype=torch.float32, device=torch.device("cpu"))
    layers, each = model.config.n_layer, 4 * model.config.n_embd
    rank = max(1, min(capacity // (each * layers), model.config.n_embd))
    blocks = range(layers - min(layers, capacity // (each * rank)), layers)
    adapted = with_lora(model, rank=rank, target_modules=rf".*\.h\.({'|'.join(map(str, blocks))})\.attn\.c_attn")
    from transformers import AutoTokenizer

    return study.problem(model=adapted, tokenizer=AutoTokenizer.from_pretrained(BUNDLED_MODEL), trainable="*lora_*")


def run_cell(study: Study, problem: GPT2WikiText2, groups: Groups, method: str, budget: float) -> dict[str, Any]:
    """One cell: choose, train within the gradient budget, LiFT; where measuring cost something, train in full too."""
    capacity, n = capacity_of(budget, groups.num_weights), groups.num_weights
    if method == "lora":
        part, cost, names, predicted, label = lora_problem(study, capacity), 0.0, [], None, "LoRA"
        key, size = f"lora-{capacity}", len(part.initial_point().weights)
    else:
        scores, record = measured(study, method, groups, problem if method == LARGE else study.probed())
        # the simple measures choose as their papers do, by density
        is_influence = isinstance(MEASURES[method], Probing)
        chosen = exact_knapsack(scores, capacity, HiGHS()) if is_influence else greedy_knapsack(scores, capacity)
        names, cost, label = (
            [groups.names[k] for k in chosen.numbers],
            record["cost_tokens"],
            scores.method + ", large probe" * (method == LARGE),
        )
        if not names:
            raise SystemExit(f"{method} chooses nothing at {budget}")
        part, size = Restricted(problem, groups.index(names)), chosen.size
        key = hashlib.sha256(" ".join(names).encode()).hexdigest()[:12]
        reference = measured(study, "exact", groups, study.probed())[0]
        predicted = float(reference.values[list(chosen.numbers)].sum())
    steps = max(1, study.steps - round(cost / PER_STEP))
    reached = train_and_lift(study, part, key, steps)
    return {
        "method": label, "key": method, "budget": budget, "seed": study.seed, "share": size / n, "groups": names,
        "cost_tokens": cost, "steps": steps, "predicted": predicted,
    } | reached  # fmt: skip


def run_seed(study: Study, methods: Sequence[str], budgets: Sequence[float], console: Console) -> list[dict[str, Any]]:
    problem = study.problem()
    groups = pieces(problem)
    start: dict[str, float] = {}
    cells: list[dict[str, Any]] = []
    for method in methods:
        for budget in (1.0,) if method == "all" else budgets:
            path = study.out / "cells" / f"{method}-{budget:g}-{study.seed}.json"
            if not path.exists() or (study.with_lift and "lift" not in json.loads(path.read_text())["charged"]):
                began = time.perf_counter()
                for split in ("train", "selection", "test") if not start else ():
                    start[split] = problem.loss(problem.initial_point(), split)
                cell = run_cell(study, problem, groups, method, budget) | {"start": start}
                write_atomically(path, json.dumps(cell, indent=1))
                console.print(f"{path.stem}: {time.perf_counter() - began:.1f} s", highlight=False)
            cells.append(json.loads(path.read_text()))
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budgets", default=",".join(map(str, BUDGETS)), help="shares of the tuned weights")
    parser.add_argument("--methods", default=",".join(METHODS), help="out of " + ", ".join(METHODS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=STEPS, help="the gradient budget, in training steps")
    parser.add_argument("--lift", action=argparse.BooleanOptionalAction, default=True, help="go on with a LiFT step")
    parser.add_argument("--summary", action="store_true", help="show the cells that are done; run none")
    args = parser.parse_args()
    methods = args.methods.split(",")
    if unknown := set(methods) - set(METHODS):
        parser.error(f"--methods: expected some of {', '.join(METHODS)}, got {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    tune_allocator()
    console = Console(width=170)
    seeds, budgets = args.seeds.split(","), [float(budget) for budget in args.budgets.split(",")]
    if args.summary:
        cells = [json.loads(path.read_text()) for path in sorted((args.out / "cells").glob("*.json"))]
        cells = [cell for cell in cells if cell["key"] in methods and str(cell["seed"]) in seeds]
    else:
        studies = [Study(int(seed), args.out, args.steps, args.lift) for seed in seeds]
        cells = [cell for study in studies for cell in run_seed(study, methods, budgets, console)]
    rows, rhos, agreed = summarise(cells), correlations(cells), agreement(args.out, seeds)
    show(console, f"perplexity, mean over the seeds; budget {args.steps} steps", rows)
    show(console, "Spearman's rank correlation over the sets of a seed", rhos)
    show(console, "estimators and additivity", agreed)
    record = {"rows": rows, "correlations": rhos, "agreement": agreed, "start": [cell["start"] for cell in cells[:1]]}
    write_atomically(args.out / "adapeft.md", markdown(rows))
    write_atomically(args.out / "adapeft.json", json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
