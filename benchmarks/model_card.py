"""Zero-shot perplexities and fine-tuning curves of the bundled GPT-2: the figures of its model card.

All blocks are fine-tuned without regularisation on a small and a larger share of WikiText-2's training articles. The
small share must overfit (validation perplexity turns), the larger one must profit.

Example:
    python benchmarks/model_card.py --out runs/model-card
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lift_core import Point, Trainer
from lift_core.records import write_atomically
from lift_core.training import TrainingState
from problems import GPT2WikiText2

BLOCK_LENGTH = 256


def zero_shot() -> list[dict[str, object]]:
    """Perplexities of the bundled model as it is, on the whole validation and test parts."""
    rows = []
    for variant in ("tokens", "raw"):
        problem = GPT2WikiText2(
            variant=variant, block_length=BLOCK_LENGTH, train_share=0.01, max_tokens=None, keep_inputs=False
        )
        point = problem.initial_point()
        splits = ("direction", "selection")
        tokens = {split: problem.num_examples(split) for split in (*splits, "test")}
        mean = sum(problem.loss(point, split) * tokens[split] for split in splits) / sum(tokens[s] for s in splits)
        for part, loss, count in (
            ("validation", mean, sum(tokens[s] for s in splits)),
            ("test", problem.loss(point, "test"), tokens["test"]),
        ):
            rows.append(
                {
                    "variant": variant,
                    "part": part,
                    "perplexity": problem.metric(loss),
                    "predicted_tokens": count,
                    "block_length": BLOCK_LENGTH,
                    "stride": BLOCK_LENGTH,
                    "normaliser": "predicted tokens",
                }
            )
    return rows


def fine_tune(share: float, epochs: int, learning_rate: float, seed: int) -> dict[str, object]:
    """Perplexity after every epoch of plain training of all blocks on a share of the training articles."""
    problem = GPT2WikiText2(
        blocks=range(4), train_share=share, initial_strength=1e-8, block_length=BLOCK_LENGTH, seed=seed,
        max_tokens={"direction": 30_000, "selection": 30_000, "test": 30_000},
    )  # fmt: skip

    def perplexities(point: Point) -> dict[str, float]:
        return {split: problem.metric(problem.loss(point, split)) for split in ("train", "selection")}

    start = TrainingState.fresh(problem.initial_point())
    passes = Trainer(learning_rate=learning_rate).epochs(problem, start, seed=seed, count=epochs)
    shown = track(passes, total=epochs, description=f"{share:.0%} of the articles")
    curve = [{"epoch": 0} | perplexities(start.point)]
    curve += [{"epoch": state.epochs} | perplexities(state.point) for _, state in shown]
    return {
        "train_share": share,
        "train_tokens": problem.num_examples("train"),
        "selection_tokens": problem.num_examples("selection"),
        "learning_rate": learning_rate,
        "seed": seed,
        "curve": curve,
    }


def plot(curves: list[dict], path: Path) -> None:
    """Training (dashed) and validation (solid) perplexity against epochs, one colour per share."""
    matplotlib.rcParams["svg.hashsalt"] = "lift"
    figure, axes = plt.subplots(figsize=(6, 3.6))
    for colour, run in zip(("tab:red", "tab:blue"), curves, strict=True):
        epochs = [row["epoch"] for row in run["curve"]]
        label = f"{run['train_share']:.0%} of the articles"
        axes.plot(epochs, [row["selection"] for row in run["curve"]], "o-", ms=3, color=colour, label=label)
        axes.plot(epochs, [row["train"] for row in run["curve"]], "--", color=colour)
    axes.set(xlabel="epochs of fine-tuning all blocks", ylabel="perplexity", yscale="log")
    axes.set_title("validation (solid) and training (dashed)", fontsize=10)
    axes.legend(frameon=False)
    axes.grid(alpha=0.3, which="both")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = zero_shot()
    table = Table(title="zero-shot")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)
    curves = [fine_tune(share, epochs, args.learning_rate, args.seed) for share, epochs in ((0.01, 10), (0.1, 2))]
    for run in curves:
        table = Table(title=f"{run['train_share']:.0%} of the articles, {run['train_tokens']:,} tokens")
        for column in ("epoch", "train", "selection"):
            table.add_column(column, justify="right")
        for row in run["curve"]:
            table.add_row(str(row["epoch"]), f"{row['train']:.2f}", f"{row['selection']:.2f}")
        Console().print(table)
    plot(curves, args.out / "fine_tuning.svg")
    write_atomically(args.out / "figures.json", json.dumps({"zero_shot": rows, "fine_tuning": curves}, indent=2) + "\n")


if __name__ == "__main__":
    main()
