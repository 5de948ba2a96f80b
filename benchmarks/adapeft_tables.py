"""The tables of the AdaPEFT study, from its cells: perplexities, rank correlations, agreement of the estimators."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr


def summarise(cells: Sequence[dict[str, Any]], metric: Callable[[float], float] = math.exp) -> list[dict]:
    """Mean and deviation of the perplexities over the seeds, one row per method and budget."""
    rows: dict[tuple[float, str], list[dict[str, Any]]] = {}
    for cell in cells:
        rows.setdefault((cell["budget"], cell["key"]), []).append(cell)
    table = []
    for (budget, _), own in sorted(rows.items(), key=lambda item: item[0][0]):
        row = {"budget": budget, "method": own[0]["method"], "seeds": len(own), "steps": own[0]["steps"],
               "share": statistics.mean(cell["share"] for cell in own)}  # fmt: skip
        for name, when, stage in (("tuned", "charged", "trained"), ("LiFT", "charged", "lift"),
                                  ("free", "uncharged", "trained")):  # fmt: skip
            for split in ("selection", "test"):
                values = [metric(cell[when][stage][split]) for cell in own if stage in cell[when]]
                row[f"{name}_{split}"] = statistics.mean(values) if values else None
                row[f"{name}_{split}_sd"] = statistics.stdev(values) if len(values) > 1 else None
        table.append(row)
    return table


def correlations(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Spearman's ρ, over the sets of one seed, of the predicted and the achieved reduction of the training loss."""
    found = []
    for seed in sorted({cell["seed"] for cell in cells}):
        own = {tuple(c["groups"]): c for c in cells if c["seed"] == seed and c["predicted"] is not None}.values()
        if len(own) > 2:
            achieved = [c["start"]["train"] - c["uncharged"]["trained"]["train"] for c in own]
            rho = spearmanr([c["predicted"] for c in own], achieved).statistic
            sizes = spearmanr([c["share"] for c in own], achieved).statistic
            found.append(
                {"seed": seed, "sets": len(own), "predicted_achieved": float(rho), "size_achieved": float(sizes)}
            )
    return found


def agreement(out: Path, seeds: Sequence[str]) -> list[dict[str, Any]]:
    """The two estimators against each other, and how far the sum over all groups is from what the pair terms allow."""
    found = []
    for seed in seeds:
        paths = [out / "scores" / f"{name}-{seed}.json" for name in ("exact", "forward")]
        if not all(path.exists() for path in paths):
            continue
        exact, forward = (json.loads(path.read_text()) for path in paths)
        ratios = [b / a for a, b in zip(exact["values"], forward["values"], strict=True) if a and b]
        found.append({
            "seed": seed, "groups": len(exact["values"]), "exact rejected": len(exact["facts"]["rejections"]),
            "forward rejected": len(forward["facts"]["rejections"]), "both accepted": len(ratios),
            "within 5 %": sum(abs(ratio - 1) <= 0.05 for ratio in ratios),
            "worst": max((abs(ratio - 1) for ratio in ratios), default=None), "sum of v": sum(exact["values"]),
            "pair terms": sum(map(sum, exact["cross"])) / 2,
        })  # fmt: skip
    return found


def show(console: Console, title: str, rows: Sequence[dict[str, Any]]) -> None:
    table = Table(title=title)
    columns = [column for column in rows[0] if not column.endswith("_sd")] if rows else []
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        shown = (f"{row[c]:.4g}" if isinstance(row[c], float) else str(row[c]) for c in columns)
        table.add_row(*shown)
    console.print(table)
