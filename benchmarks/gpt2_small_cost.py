"""Seconds of one round of LiFT at the size of GPT-2 Small, stage by stage: measured, and what a run would take.

GPT-2 Small's architecture (12 x 768, 124 M weights) with random weights, WikiText-2 cut by the bundled tokenizer. One
batch of every kind of pass is measured, and one whole direction LP, whose time depends on the weights. The seconds of a
stage are those of one batch times the batches that the settings ask for; about 120,000 training tokens are 5 % of
WikiText-2's articles. Left out: the first pass of all, which also runs the blocks below the tuned ones; the checks of
the curvature's oracles, and its algebra; graphs beyond what `LanguageModel` keeps, which every product makes again.

Example:
    python benchmarks/gpt2_small_cost.py --rank 8 --out runs/gpt2-small-cost
    python benchmarks/gpt2_small_cost.py --device cuda --length 1024 --rank 64 --tuned "all blocks"
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from device_rates import device_name
from hessian_products import TUNED, gpt2_small, timed
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import logging

from backends import InteriorPoint
from backends.memory import direction_lp_bytes, interior_point_bytes
from lift_core import LinearProgram, LowRank, TrustBox, solve_lp
from lift_core.allocation import tune_allocator
from lift_core.curvature import build_curvature
from lift_core.direction import slack_path_lps
from lift_core.linearization import NORM_BATCHES, linearize
from lift_core.problem import Point
from lift_core.records import write_atomically
from lift_core.training import Trainer, TrainingState
from problems import LanguageModel
from problems.causal_lm import load_tokenizer
from problems.gpt2_wikitext2 import BUNDLED_MODEL, wikitext2

Row = dict[str, Any]


def make_problem(options: argparse.Namespace) -> LanguageModel:
    """Two batches of every split."""
    tokens = 2 * options.sequences * options.length
    return LanguageModel(
        model=gpt2_small(),
        tokenizer=load_tokenizer(BUNDLED_MODEL, BUNDLED_MODEL),
        texts={part: wikitext2(part) for part in ("train", "validation", "test")},
        train_share=0.05,
        **TUNED[options.tuned],
        regularizer="l2sp",
        regularize_by="tensor",
        block_length=options.length,
        batch_blocks=options.sequences,
        max_tokens={"train": tokens, "direction": tokens, "selection": tokens, "test": tokens},
        keep_graphs=int(options.keep_graphs * 2**30),
        device=options.device,
    )


def median_of(call: Callable[[], object], what: str, options: argparse.Namespace) -> float:
    """Seconds of a call, after one that does not count: later passes have the hidden states that the first one kept."""
    call()
    return statistics.median(
        timed(call, options.device) for _ in track(range(options.repeats), description=what, transient=True)
    )


def passes(problem: LanguageModel, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of one batch: an optimiser step, an evaluation, a gradient of the validation loss, Hessian products."""
    start, trainer = TrainingState.fresh(problem.initial_point()), Trainer()
    point, batch = start.point, problem.batches("train")[:1]
    train, direction, selection = (len(problem.batches(split)) for split in ("train", "direction", "selection"))
    hessian = problem.training_hessian(point, batch)
    vector = torch.randn(len(point.weights), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vector = vector.to(options.device)

    def first_product() -> object:
        return problem.training_hessian(point, batch).matvec(vector)

    return {
        "training": median_of(lambda: trainer.epoch(problem, start, seed=0), "training", options) / train,
        "evaluation": median_of(lambda: problem.loss(point, "selection"), "evaluation", options) / selection,
        "gradient": median_of(lambda: problem.upper_gradient(point), "gradient", options) / direction,
        "first product": median_of(first_product, "first product", options),
        "product": median_of(lambda: hessian.matvec(vector), "product", options),
    }


def warmed_up(problem: LanguageModel) -> Point:
    """A point off the anchor of the regulariser, whose mixed partial would be zero."""
    state = TrainingState.fresh(problem.initial_point())
    return Trainer().epoch(problem, state, seed=0)[0].point


def direction_program(problem: LanguageModel, options: argparse.Namespace) -> tuple[LinearProgram, int]:
    """A direction LP like those of the plan `language`, curvature from one batch, and the products that it took."""
    point = warmed_up(problem)
    known = linearize(problem, point)
    model = LowRank(rank=options.rank, num_probes=1, definiteness="absolute", share=0.5)
    built = build_curvature(model, problem, point, start=known.grad_weights, seed=0)
    box = TrustBox(hyper_radius=math.log(10), weights_radius=100.0, relative=True)
    (lp,) = slack_path_lps(problem, known, built.hessian, slacks=[options.slack], box=box)
    return lp, round(built.num_hvps)


def stages(seconds: dict[str, float], lp_seconds: float, products: int, options: argparse.Namespace) -> list[Row]:
    """The stages of a round, with as many batches as the settings ask for."""

    def batches(tokens: int) -> int:
        return math.ceil(tokens // options.length / options.sequences)

    train, direction, selection = (
        batches(tokens) for tokens in (options.train_tokens, options.direction_tokens, options.selection_tokens)
    )
    curvature = max(1, math.ceil(options.curvature_share * train))
    counted = (
        ("an epoch of warm-up", "training", train),
        ("an epoch of refit, train + direction data", "training", train + direction),
        ("gradient of F, size of f's", "gradient", direction + min(2 * NORM_BATCHES, train)),
        ("curvature, first product", "first product", curvature),
        (f"curvature, {products - 1} more products", "product", (products - 1) * curvature),
        (f"line search, {options.evaluations} evaluations", "evaluation", options.evaluations * selection),
    )
    rows: list[Row] = [
        {"stage": stage, "one batch": seconds[kind], "batches": count, "seconds": seconds[kind] * count}
        for stage, kind, count in counted
    ]
    lp = {"stage": f"direction LP, rank {options.rank}", "one batch": None, "batches": None, "seconds": lp_seconds}
    return [*rows[:-1], lp, rows[-1]]


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/gpt2-small-cost"))
    parser.add_argument("--tuned", choices=tuple(TUNED), default="last block")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--slack", type=float, default=0.0, help="ρ of the direction LP")
    parser.add_argument("--rtol", type=float, default=1e-4, help="tolerance of the direction LP")
    parser.add_argument("--sequences", type=int, default=2, help="sequences in a batch")
    parser.add_argument("--length", type=int, default=256, help="tokens in a sequence")
    parser.add_argument("--train-tokens", type=int, default=120_000)
    parser.add_argument("--direction-tokens", type=int, default=27_000)
    parser.add_argument("--selection-tokens", type=int, default=15_000)
    parser.add_argument("--curvature-share", type=float, default=0.0, help="of the training batches; one at least")
    parser.add_argument("--keep-graphs", type=float, default=4.0, help="GiB of graphs that products may keep")
    parser.add_argument("--evaluations", type=int, default=6, help="of the line search")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    for name in ("rank", "sequences", "length", "evaluations", "repeats", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: expected at least 1, got {getattr(options, name)}")
    for name in ("slack", "curvature_share"):
        if not 0 <= getattr(options, name) <= 1:
            parser.error(f"--{name.replace('_', '-')}: expected a number in [0, 1], got {getattr(options, name)}")
    return options


def main() -> None:
    options = parse_options()
    torch.set_num_threads(options.threads)
    logging.disable_progress_bar()
    tune_allocator()
    problem = make_problem(options)
    seconds = passes(problem, options)
    lp, products = direction_program(problem, options)
    n, p = len(problem.initial_point().weights), len(problem.hyper_names)
    solution = solve_lp(lp, InteriorPoint(rtol=options.rtol))
    rows = stages(seconds, solution.seconds, products, options)
    bytes_needed = direction_lp_bytes(n, options.rank, p) + interior_point_bytes(
        n, options.rank, p, device=options.device
    )
    table = Table(
        "stage",
        "one batch, s",
        "batches",
        "seconds",
        title=f"GPT-2 Small, {options.tuned}: {n:,} weights; {device_name(options.device)}",
    )
    for row in rows:
        batch = "" if row["one batch"] is None else f"{row['one batch']:.3g}"
        table.add_row(row["stage"], batch, str(row["batches"] or ""), f"{row['seconds']:.4g}")
    console = Console()
    console.print(table)
    console.print(f"direction LP: {solution.status.name} after {solution.iterations} iterations, rtol {options.rtol:g}")
    console.print(f"memory predicted for the direction LP: {bytes_needed / 2**30:.2f} GiB")
    record = {
        "device": device_name(options.device), "torch": torch.__version__,
        "options": {key: str(value) for key, value in vars(options).items()},
        "weights": n, "hyperparameters": p, "rows": rows, "lp_status": solution.status.name,
        "lp_worst_residual": solution.kkt.worst, "lp_iterations": solution.iterations, "lp_bytes": bytes_needed,
    }  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out / "gpt2_small_cost.json", json.dumps(record, indent=2) + "\n")
    console.print(f"wrote {options.out / 'gpt2_small_cost.json'}")


if __name__ == "__main__":
    main()
