"""What probing costs: losses per probe, and the time of lazy probing over that of the training around it.

The bundled GPT-2 with the 48 tensors of its blocks as groups, full tuning in steps of 8 blocks of 64 tokens, a probe on
one such batch every 8 steps. Probes and steps run in turn, so that both see the same load; the ratio is the median over
the stretches.

Example:
    python benchmarks/adapeft_cost.py --out runs/adapeft-cost
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from lift_core.allocation import tune_allocator
from lift_core.metering import Metered
from lift_core.records import write_atomically
from lift_core.selection import (
    ExactInfluence,
    ForwardInfluence,
    InfluenceEstimator,
    Probing,
    make_groups,
)
from lift_core.training import TrainingState
from problems import GPT2WikiText2

EVERY = 8


def stretch_ratios(estimator: InfluenceEstimator, stretches: int) -> dict[str, object]:
    """Overheads of some stretches of 8 steps and one probe."""
    problem = GPT2WikiText2(
        trainable="transformer.h.*", block_length=64, batch_blocks=8, max_tokens={"train": 16_384}, device="cpu"
    )
    groups = make_groups(problem)
    probing = Probing(estimator=estimator, every=EVERY)
    training, probes = Metered(problem), Metered(problem)
    start = TrainingState.fresh(problem.initial_point())
    steps = probing.trainer.steps(training, start, seed=0)
    next(steps)  # the first step builds what later ones find
    ratios, evaluations = [], 0
    for stretch in range(stretches):
        began = time.perf_counter()
        for _ in range(EVERY):
            state = next(steps)
        middle = time.perf_counter()
        measured = estimator.estimate(probes, probing.probe(probes, state, seed=stretch), groups)
        ratios.append((time.perf_counter() - middle) / (middle - began))
        evaluations = measured.evaluations
    return {
        "estimator": estimator.name,
        "groups": len(groups),
        "forward passes per probe": evaluations,
        "allowed": 4 * len(groups) + 1,
        "Hessian products per probe": measured.products,
        "overhead in time": statistics.median(ratios),
        "overhead in gradients": probes.cost.gradient_equivalents / stretches
        / (training.cost.gradient_equivalents / (EVERY * stretches + 1) * EVERY),
        "rejected": sum(bool(reason) for reason in measured.rejected),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stretches", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    tune_allocator()
    rows = [
        stretch_ratios(estimator, args.stretches)
        for estimator in (ForwardInfluence(first_step=1e-3), ExactInfluence(at_once=1))
    ]
    table = Table(title=f"one probe every {EVERY} steps")
    for head in ("", *(str(row["estimator"]) for row in rows)):
        table.add_column(head, justify="right")
    for key in rows[0]:
        table.add_row(key, *(f"{row[key]:.3g}" if isinstance(row[key], float) else str(row[key]) for row in rows))
    Console().print(table)
    write_atomically(args.out / "adapeft_cost.json", json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
