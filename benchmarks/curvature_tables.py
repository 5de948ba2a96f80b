"""Finished cells of the comparison of curvature models, and their tables."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lift_core.records import write_atomically


@dataclass(frozen=True)
class Cells:
    """The finished cells of a problem, one file for each row and seed, and the steps where they were kept."""

    out: Path
    problem: str

    def path(self, row: str, seed: int) -> Path:
        return self.out / "cells" / self.problem / f"{row}.{seed}.json"

    def write(self, row: str, seed: int, cell: dict[str, Any], step: Tensor | None = None) -> None:
        path = self.path(row, seed)
        if step is not None:
            write_atomically(path.with_suffix(".step"), step.float().cpu().numpy().tobytes())
        write_atomically(path, json.dumps(cell, indent=2))

    def spent(self, row: str, seed: int) -> float:
        """Gradients of a finished cell, 0 if there is none."""
        path = self.path(row, seed)
        return json.loads(path.read_text())["gradient_equivalents"] if path.exists() else 0.0

    def summary(self, order: Sequence[str]) -> list[dict[str, Any]]:
        """Means and standard deviations over the seeds that there are, in this order."""
        rows = []
        for row in ("before", *order):
            found = [self._read(path) for path in sorted(self.path(row, 0).parent.glob(f"{row}.*.json"))]
            if found:
                rows.append({"problem": self.problem, "row": row, **_spread(found)})
        return rows

    def _read(self, path: Path) -> dict[str, Any]:
        """A cell, its gains on the test split over the point before and over sign descent, and its step's cosine."""
        seed = int(path.name.split(".")[-2])
        cell, before = (json.loads(file.read_text()) for file in (path, self.path("before", seed)))
        cell["gain"] = before["test"] - cell["test"]
        sign = self.path("-sign(gradient)", seed)
        if sign.exists():
            cell["over_sign"] = json.loads(sign.read_text())["test"] - cell["test"]
        step, whole = path.with_suffix(".step"), self.path("share 1", seed).with_suffix(".step")
        if step.exists() and whole.exists():
            one, other = (np.fromfile(file, np.float32).astype(float) for file in (step, whole))
            cell["cosine"] = float(one @ other / max(1e-300, np.linalg.norm(one) * np.linalg.norm(other)))
        return cell


PAIRED = {"gain": "test gain", "over_sign": "over -sign(gradient)"}
EXTRA = {"cosine": "cosine to share 1", "smallest_curvature": "smallest Ritz value"}
"""Columns by key: differences within a seed, with their spread; and what only some tables have."""


def _spread(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    def of(key: str) -> list[float]:
        return [cell[key] for cell in cells if cell.get(key) is not None]

    keys = ("selection", "test", *PAIRED, *EXTRA, "lp_objective", "gradient_equivalents", "hvps", "seconds")
    means = {key: statistics.fmean(of(key)) if of(key) else None for key in keys}
    spreads = {f"{key}_std": statistics.stdev(of(key)) if len(of(key)) > 1 else None for key in PAIRED}
    return {"seeds": len(cells)} | spreads | means


def _known(rows: Sequence[dict[str, Any]], columns: dict[str, str]) -> list[str]:
    return [key for key in columns if all(row[key] is not None for row in rows if row["row"] != "before")]


def _lines(rows: Sequence[dict[str, Any]], metric: str) -> list[list[str]]:
    """The head and the rows of a table as texts."""
    paired, extra = _known(rows, PAIRED), _known(rows, EXTRA)
    lines = [["row", "seeds", f"selection {metric}", f"test {metric}", *(PAIRED[key] for key in paired)]]
    lines[0] += ["LP value", "gradients", "seconds", *(EXTRA[key] for key in extra)]
    for row in rows:
        gains = ["" if row["row"] == "before" else _with_spread(row, key) for key in paired]
        rest = [_short(row[key]) for key in ("lp_objective", "gradient_equivalents", "seconds", *extra)]
        lines.append([row["row"], str(row["seeds"]), _short(row["selection"]), _short(row["test"]), *gains, *rest])
    return lines


def _with_spread(row: dict[str, Any], key: str) -> str:
    return f"{row[key]:.3g}" + ("" if row[f"{key}_std"] is None else f" ± {row[f'{key}_std']:.2g}")


def show(rows: Sequence[dict[str, Any]], metric: str, console: Console) -> None:
    head, *lines = _lines(rows, metric)
    table = Table(*head, title=rows[0]["problem"])
    for line in lines:
        table.add_row(*line)
    console.print(table)


def markdown(rows: Sequence[dict[str, Any]], metric: str) -> str:
    """The table as the documentation shows it."""
    head, *lines = _lines(rows, metric)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *lines]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
