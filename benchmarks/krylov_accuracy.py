"""How accurate the leading eigenvalues of `LowRank` are on the last block of a GPT-2, and what they cost.

The reference is a Krylov space of more than twice the rank from another start, whose own Ritz residuals are printed: by
the residual bound of symmetric matrices an eigenvalue lies within the residual of every Ritz value.

Example:
    python benchmarks/krylov_accuracy.py --out runs/krylov
    python benchmarks/krylov_accuracy.py --block 1 --rank 64 --reference 200
    python benchmarks/krylov_accuracy.py --size small --reference 128 --tokens 1024   # 16 GB of memory
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from hessian_products import gpt2_small
from rich.console import Console
from rich.table import Table
from transformers import logging

from lift_core import LowRank, Trainer, build_curvature
from lift_core.allocation import tune_allocator
from lift_core.krylov import block_lanczos
from lift_core.metering import Metered
from lift_core.records import write_atomically
from lift_core.training import TrainingState
from problems import GPT2WikiText2
from problems.causal_lm import load_tokenizer
from problems.gpt2_wikitext2 import BUNDLED_MODEL


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/krylov"))
    parser.add_argument(
        "--size",
        choices=("bundled", "small"),
        default="bundled",
        help="the bundled model, or GPT-2 Small's architecture with random weights",
    )
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--block", nargs="+", type=int, default=[1, 4], help="block sizes of the Krylov space")
    parser.add_argument("--reference", type=int, default=160, help="rank of the reference")
    parser.add_argument("--tokens", type=int, default=2048, help="training tokens that curvature is sampled on")
    parser.add_argument("--warmup-epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable_progress_bar()
    tune_allocator()
    problem = make_problem(options.size, options.tokens)
    state = TrainingState.fresh(problem.initial_point())
    for _ in range(options.warmup_epochs):
        state, _ = Trainer().epoch(problem, state, seed=0)
    start = problem.upper_gradient(state.point)[1]
    generator = torch.Generator().manual_seed(1)
    other = torch.randn(len(start), generator=generator, dtype=torch.float64)
    reference = block_lanczos(problem.training_hessian(state.point), other, options.reference, generator)
    reference = reference._replace(vectors=start[:0])  # gigabytes
    results: dict[str, Any] = {"reference": {"values": top(reference.values), "residuals": top(reference.residuals)}}
    console, table = Console(width=110), Table(title=f"10 largest eigenvalues, {len(start):,} weights")
    for head in ("model", "products", "largest error", "largest residual", "bulk σ", "± error", "smallest"):
        table.add_column(head)
    table.add_row(
        f"reference, rank {options.reference}", str(options.reference), "", f"{reference.residuals[-10:].max():.2g}"
    )
    for block in options.block:
        metered = Metered(problem)
        model = LowRank(rank=options.rank, block=block, check=False)
        built = build_curvature(model, metered, state.point, start=start)
        assert built.ritz_residuals is not None and built.bulk is not None and built.bulk_error is not None
        values = built.hessian.core[-10:] + built.bulk  # pyright: ignore[reportAttributeAccessIssue]
        errors = ((values - reference.values[-10:]) / reference.values[-10:]).abs()
        name = f"LowRank(rank={options.rank}, block={block})"
        results[name] = {"values": values.tolist(), "relative_errors": errors.tolist(), "products": metered.cost.hvps}
        row = [f"{metered.cost.hvps:.0f}", f"{errors.max():.2g}", f"{built.ritz_residuals[:10].max():.2g}"]
        table.add_row(name, *row, f"{built.bulk:.3g}", f"{built.bulk_error:.1g}", f"{built.smallest:.3g}")
    console.print(table)
    write_atomically(options.out / "results.json", json.dumps(results, indent=2))
    console.print(f"errors relative to the reference; wrote {options.out / 'results.json'}")


def make_problem(size: str, tokens: int) -> GPT2WikiText2:
    """The last block of one of the two models."""
    options: dict[str, Any] = {"max_tokens": {"train": tokens, "direction": 8192, "selection": 2048, "test": 2048}}
    if size == "small":
        options.update(model=gpt2_small(), tokenizer=load_tokenizer(BUNDLED_MODEL, BUNDLED_MODEL))
    return GPT2WikiText2(**options)


def top(values: torch.Tensor) -> list[float]:
    """The last ten."""
    return values[-10:].tolist()


if __name__ == "__main__":
    main()
