"""Transfer: what is chosen on a small model, tuned in a larger one of the same family, by name.

Both models are trained here, briefly, on WikiText-2's training articles in lower case with the bundled tokenizer:
GPT-2s of 2 layers of width 64 and 4 layers of width 96. They are fine-tuned to the text as it is, on articles that
pre-training left out. The selection of the small model goes over by relative depth and is compared with one made on the
large model itself, with random sets of the same budget, and with no tuning.

Example:
    python benchmarks/adapeft_transfer.py --out runs/adapeft-transfer
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

import lift_core as lift
from backends import HiGHS
from lift_core.allocation import tune_allocator
from lift_core.records import write_atomically
from lift_core.selection import (
    ExactInfluence,
    Measure,
    Probing,
    Random,
    Selection,
    apply_selection,
    make_selection,
    transfer_pieces,
)
from lift_core.selection.record import index_of
from lift_core.selection.selector import Selector
from lift_core.training import TrainingState
from problems import LanguageModel
from problems.gpt2_wikitext2 import BUNDLED_MODEL, wikitext2
from problems.token_batches import token_blocks

BLOCK = 64
BUDGETS = (0.05, 0.2)
SIZES = ((2, 64), (4, 96))
"""Layers and width of the small and the large model."""
HELD_OUT = 40
"""Training articles that pre-training does not see."""


def pretrain(layers: int, width: int, steps: int, tokenizer: object, seed: int) -> GPT2LMHeadModel:
    """A GPT-2 trained with AdamW and cosine decay, 8 blocks a step, as `examples/pretrain_gpt2.py` does at size."""
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=8192, n_positions=BLOCK, n_embd=width, n_layer=layers, n_head=4, resid_pdrop=0.0,
                   embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0)
    )  # fmt: skip
    articles = [article.lower() for article in wikitext2("train")[HELD_OUT:140]]
    ids = token_blocks(articles, tokenizer, block_length=BLOCK, split="pre-training")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    generator = torch.Generator().manual_seed(seed)
    for step in track(range(steps), description=f"{layers} layers of width {width}"):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, (step + 1) / 20) * (0.05 + 0.95 * (1 + math.cos(math.pi * step / steps)) / 2)
        batch = ids[torch.randint(len(ids), (8,), generator=generator)]
        logits = model(batch).logits[:, :-1]
        optimizer.zero_grad()
        cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


def fine_tuning(model: GPT2LMHeadModel, tokenizer: object, seed: int) -> LanguageModel:
    """The blocks and last norm of a model on articles it has not seen."""
    return LanguageModel(
        model=model, tokenizer=tokenizer, trainable=["transformer.h.*", "transformer.ln_f.*"], block_length=BLOCK,
        batch_blocks=4,
        texts={"train": wikitext2("train")[:HELD_OUT]} | {part: wikitext2(part) for part in ("validation", "test")},
        max_tokens={"train": 8_192, "direction": 2_048, "selection": 2_048, "test": 4_096}, device="cpu", seed=seed,
    )  # fmt: skip


def tuned(problem: lift.BilevelProblem, steps: int, seed: int) -> dict[str, float]:
    """Perplexities after some steps of training."""
    state = TrainingState.fresh(problem.initial_point())
    path = lift.Trainer(learning_rate=3e-3).steps(problem, state, seed=seed)
    for _ in range(steps):
        state = next(path)
    return {split: math.exp(problem.loss(state.point, split)) for split in ("selection", "test")}


def one_seed(seed: int, args: argparse.Namespace) -> list[dict[str, object]]:
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED_MODEL)
    small, large = (
        fine_tuning(pretrain(layers, width, args.pretraining, tokenizer, seed), tokenizer, seed)
        for layers, width in SIZES
    )
    probing = Probing(estimator=ExactInfluence(at_once=1), steps=0)
    chosen = {
        name: selections(model, measure, width, seed)
        for name, measure, model, (_, width) in (("from the small model", probing, small, SIZES[0]),
                                                 ("from itself", probing, large, SIZES[1]),
                                                 ("random", Random(), large, SIZES[1]))
    }  # fmt: skip
    rows: list[dict[str, object]] = []
    for budget in BUDGETS:
        for name, (by_budget, seconds) in chosen.items():
            selection = by_budget[budget]
            problem = apply_selection(selection, large)
            n = len(problem.initial_point().weights)
            row = {"seed": seed, "budget": budget, "chosen": name, "seconds": seconds}
            row["share"] = n / len(large.initial_point().weights)
            row["overlap"] = overlap_on(large, selection, chosen["from itself"][0][budget])
            rows.append(row | tuned(problem, args.steps, seed))
    before = large.initial_point()
    rows.append(
        {"seed": seed, "budget": 0.0, "chosen": "before", "seconds": 0.0, "share": 0.0, "overlap": 0.0}
        | {split: math.exp(large.loss(before, split)) for split in ("selection", "test")}
    )
    return rows


def selections(problem: LanguageModel, measure: Measure, width: int, seed: int) -> tuple[dict[float, Selection], float]:
    """What one measurement chooses at every budget, and the processor's seconds that it took.

    Matrices are cut into squares, so that both models have pieces of the same names.
    """
    began = time.process_time()
    selector = Selector(max_size=width**2, measure=measure, backend=HiGHS(), seed=seed)
    outcome = selector.select(problem, BUDGETS[0], others=BUDGETS[1:])
    seconds = time.process_time() - began
    found = {
        budget: make_selection(problem, outcome.groups, outcome.scores, choice, budget=budget)
        for budget, choice in outcome.budgets.items()
    }
    return found, seconds


def overlap_on(problem: LanguageModel, first: Selection, second: Selection) -> float:
    """Weights that two selections share over those that either has, as they come out on one problem."""
    tensors = problem.groups
    sets = [set(index_of(tensors, transfer_pieces(each, tensors)).tolist()) for each in (first, second)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pretraining", type=int, default=100, help="steps of pre-training, each model")
    parser.add_argument("--steps", type=int, default=20, help="steps of fine-tuning")
    parser.add_argument("--seeds", default="0,1,2")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tune_allocator()
    rows = []
    for seed in args.seeds.split(","):
        path = args.out / f"seed-{seed}.json"
        if not path.exists():
            write_atomically(path, json.dumps(one_seed(int(seed), args), indent=1))
        rows += json.loads(path.read_text())
    table = Table(title="perplexity of the large model, mean over the seeds; overlap with the choice on itself")
    for column in ("budget", "chosen", "probe, s", "share", "overlap", "selection", "test"):
        table.add_column(column, justify="right")
    for budget, name in dict.fromkeys((row["budget"], row["chosen"]) for row in rows):
        own = [row for row in rows if (row["budget"], row["chosen"]) == (budget, name)]
        means = [
            sum(row[key] for row in own) / len(own) for key in ("seconds", "share", "overlap", "selection", "test")
        ]
        cells = (f"{means[0]:.3g}", f"{means[1]:.2%}", *(f"{value:.4g}" for value in means[2:]))
        table.add_row(f"{budget:.0%}", name, *cells)
    Console(width=120).print(table)
    write_atomically(args.out / "adapeft_transfer.json", json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
