"""Whether the signs of the hypergradient depend on which training batches curvature is sampled on.

At ρ = 0 and with a box on θ that does not bind, the direction LP moves λ by ``-Δ_λ sign(h)``, ``h = g_λ - Jᵀ H⁻¹ g``.
The script fine-tunes the bundled GPT-2's last block, draws batches for `LowRank` several times, and prints for two
treatments of negative eigenvalues how far the draws agree: the mean over strengths of ``|mean sign|``, 1 where all
draws agree and about 0.3 for coins and eight draws. Beside it, as means over draws, the decrease of F that the LP
promises at ``--radius``, with the step of λ in logarithms and in strengths (`promised_value`), as shares of F.

Example:
    python benchmarks/hypergradient_signs.py --strengths 1e-4 1e-2 --draws 8 --out runs/signs
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from transformers import logging

from lift_core import LowRank, Trainer, build_curvature, linearize
from lift_core.allocation import tune_allocator
from lift_core.krylov import conjugate_gradient
from lift_core.problem import Point
from lift_core.records import write_atomically
from lift_core.training import TrainingState
from problems import GPT2WikiText2

TREATMENTS = ("clamped", "absolute")
MATRICES = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def warm_point(problem: GPT2WikiText2, epochs: int, seed: int) -> Point:
    """Where the studies of the language model start LiFT."""
    trainer, state = Trainer(averaging=0.95), TrainingState.fresh(problem.initial_point())
    for _ in range(epochs):
        state, _ = trainer.epoch(problem, state, seed=seed)
    return state.point


def hypergradients(problem: GPT2WikiText2, point: Point, model: LowRank, draws: int) -> dict[str, Tensor]:
    """h by treatment, (draws, p)."""
    here, found = linearize(problem, point), {treatment: [] for treatment in TREATMENTS}
    for draw in track(range(draws), description=f"strength {float(point.hyper[0].exp()):.0e}, share {model.share:g}"):
        for treatment in TREATMENTS:
            chosen = replace(model, definiteness=treatment)
            hessian = build_curvature(chosen, problem, point, start=here.grad_weights, seed=draw).hessian
            # as many steps as the matrix has different eigenvalues, and some for rounding
            adjoint, _ = conjugate_gradient(hessian, here.grad_weights, 4 * model.rank, damping=0.0)
            found[treatment].append(here.grad_hyper - here.mixed.rmatvec(adjoint))
    return {treatment: torch.stack(rows) for treatment, rows in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/signs"))
    parser.add_argument("--strengths", nargs="+", type=float, default=[1e-4, 1e-2])
    parser.add_argument("--shares", nargs="+", type=float, default=[1e-6], help="of the training batches; at least one")
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--radius", type=float, default=4.0, help="of the box on λ, for the promises")
    parser.add_argument("--warmup-epochs", type=int, default=2)
    parser.add_argument("--train-share", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable_progress_bar()
    tune_allocator()
    rows: list[dict[str, object]] = []
    for strength in options.strengths:
        problem = GPT2WikiText2(
            train_share=options.train_share, initial_strength=strength, seed=options.seed,
            max_tokens={"direction": 27_000, "selection": 15_000, "test": 2_048},
        )  # fmt: skip
        point = warm_point(problem, options.warmup_epochs, options.seed)
        loss = problem.loss(point, "selection")
        places = [problem.hyper_names.index(f"transformer.h.3.{name}") for name in MATRICES]
        for share in options.shares:
            model = LowRank(rank=options.rank, num_probes=1, share=share)
            for treatment, found in hypergradients(problem, point, model, options.draws).items():
                mean, step = found.sign().mean(0), -options.radius * found.sign()
                promises = [float((found * change).sum(1).mean()) / -loss for change in (step, step.expm1())]
                rows.append(
                    {
                        "strength": strength, "share": share, "eigenvalues": treatment,
                        "agreement": float(mean.abs().mean()),
                        **dict(zip(("in logarithms", "in strengths"), promises, strict=True)),
                        **{name: float(mean[place]) for name, place in zip(MATRICES, places, strict=True)},
                    }
                )  # fmt: skip
    table = Table(title=f"mean sign of h over {options.draws} draws: +1 lowers the strength, -1 raises it")
    for head in rows[0]:
        table.add_column(head)
    for row in rows:
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=130).print(table)
    write_atomically(options.out / "signs.json", json.dumps({"torch": torch.__version__, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
