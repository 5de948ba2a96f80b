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


def summarise(cells: Sequence[dict[str, Any]], metric: Callable[[float], float] = math.exp) -> list[dict[str, Any]]:
    """Mean and deviation of the perplexities over the seeds, one row per method and budget.

    Seeds draw other articles, which moves all perplexities together; ``of_random`` is therefore the geometric mean of a
    method's test perplexity over that of the random groups of the same seed and budget, and ``first`` counts the seeds
    in which nothing else of the budget reached a lower one. LiFT's columns are over the
    seeds in which its step was made: test before and after, and its cost in training steps.
    """
    rows: dict[tuple[float, str], list[dict[str, Any]]] = {}
    for cell in cells:
        rows.setdefault((cell["budget"], cell["key"]), []).append(cell)
    table = []
    for (budget, _), own in sorted(rows.items(), key=lambda item: item[0][0]):
        row = {"budget": budget, "method": own[0]["method"], "seeds": len(own),
               "steps": statistics.mean(cell["steps"] for cell in own),
               "share": statistics.mean(cell["share"] for cell in own)}  # fmt: skip
        random = {cell["seed"]: cell for cell in rows.get((budget, "random"), [])}
        for name, when in (("tuned", "charged"), ("free", "uncharged")):
            for split in ("selection", "test"):
                values = [metric(cell[when]["trained"][split]) for cell in own]
                row[f"{name}_{split}"] = statistics.mean(values)
                row[f"{name}_{split}_sd"] = statistics.stdev(values) if len(values) > 1 else None
            ratios = [_test_loss(cell, when) - _test_loss(random[cell["seed"]], when) for cell in own
                      if cell["seed"] in random]  # fmt: skip
            row[f"{name}_first"] = sum(
                _test_loss(cell, when) <= min(_test_loss(other, when) for other in cells if _same(other, cell))
                for cell in own
            )
            row[f"{name}_of_random"] = math.exp(statistics.mean(ratios)) if ratios else None
        row |= _lifted([cell["charged"] for cell in own if "lift" in cell["charged"]], metric)
        table.append(row)
    return table


def _test_loss(cell: dict[str, Any], when: str) -> float:
    return cell[when]["trained"]["test"]


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return (one["seed"], one["budget"]) == (other["seed"], other["budget"])


def _lifted(cells: Sequence[dict[str, Any]], metric: Callable[[float], float]) -> dict[str, Any]:
    if not cells:
        return {"LiFT_seeds": 0}
    return {
        "LiFT_seeds": len(cells),
        "LiFT_before": statistics.mean(metric(cell["trained"]["test"]) for cell in cells),
        "LiFT_test": statistics.mean(metric(cell["lift"]["test"]) for cell in cells),
        "LiFT_steps": statistics.mean(cell["lift_steps"] for cell in cells),
    }


def correlations(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Spearman's ρ, over the sets of one seed, of the predicted and the achieved reduction of the training loss.

    Over all budgets, where larger sets are worth more by either; and its mean over the budgets, which leaves size out.
    """
    found = []
    for seed in sorted({cell["seed"] for cell in cells}):
        own = [cell for cell in cells if cell["seed"] == seed and cell["predicted"] is not None]
        everywhere = list({tuple(cell["groups"]): cell for cell in own}.values())
        if len(everywhere) < 3:
            continue
        within = []
        for budget in sorted({cell["budget"] for cell in own}):
            sets = list({tuple(cell["groups"]): cell for cell in own if cell["budget"] == budget}.values())
            if len(sets) > 2:
                within.append(_rho(sets, "predicted"))
        found.append({
            "seed": seed, "sets": len(everywhere), "predicted, achieved": _rho(everywhere, "predicted"),
            "size, achieved": _rho(everywhere, "share"),
            "predicted, achieved, within budgets": statistics.mean(within) if within else None, "budgets": len(within),
        })  # fmt: skip
    return found


def _rho(cells: Sequence[dict[str, Any]], of: str) -> float:
    achieved = [cell["start"]["train"] - cell["uncharged"]["trained"]["train"] for cell in cells]
    return float(spearmanr([cell[of] for cell in cells], achieved).statistic)


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
    columns = [column for column in dict.fromkeys(c for row in rows for c in row) if not column.endswith("_sd")]
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        shown = (
            f"{row[c]:.4g}" if isinstance(row.get(c), float) else str(row.get(c, "")).replace("None", "")
            for c in columns
        )
        table.add_row(*shown)
    console.print(table)


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table of `summarise`: means, ± deviation over the seeds; by budget and test perplexity, the best in bold."""
    heads = ("budget", "measure", "seeds", "used", "steps", "validation", "test", "of random", "first",
             "free: test", "free: of random", "free: first", "LiFT: seeds", "before", "after")  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|---|---|" + "---:|" * (len(heads) - 2)]
    columns = (
        "tuned_selection",
        *(f"{when}_{what}" for when in ("tuned", "free") for what in ("test", "of_random", "first")),
    )
    for budget in sorted({row["budget"] for row in rows}):
        own = sorted((row for row in rows if row["budget"] == budget), key=lambda row: row["tuned_test"])
        for row in own:
            cells = [f"{budget:.1%}".replace(".0", ""), row["method"], str(row["seeds"]), f"{row['share']:.2%}"]
            cells.append(f"{row['steps']:.0f}")
            for column in columns:
                best = min((other[column] for other in own if other[column] is not None), default=None)
                cells.append(_number(row, column, bold=row[column] == best))
            cells.append(str(row["LiFT_seeds"] or "–"))
            cells += [f"{row[name]:.1f}" if name in row else "–" for name in ("LiFT_before", "LiFT_test")]
            lines.append("| " + " | ".join(cells).replace("%", " %") + " |")
    return "\n".join(lines) + "\n"


def _number(row: dict[str, Any], column: str, *, bold: bool) -> str:
    if row[column] is None:
        return "–"
    if column.endswith("first"):
        return str(row[column])
    text = f"{row[column]:.2f}" if column.endswith("random") else f"{row[column]:.1f}"
    deviation = row.get(f"{column}_sd")
    return (f"**{text}**" if bold else text) + ("" if deviation is None else f" ± {deviation:.0f}")
