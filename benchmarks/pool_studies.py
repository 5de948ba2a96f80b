"""Several ``study.json`` files of one plan as one: settings, variants and seeds that were run apart.

A method that stands in several files is pooled over its seeds, exactly: mean and sample standard deviation are those of
all runs together. "LiFT ahead by" is taken anew over the seeds that a method and the setting's first variant have in
common, whichever files they came from.

Example:
    python benchmarks/pool_studies.py runs/a/study.json runs/b/study.json --out docs/results/language.json
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lift_core.records import write_atomically
from lift_core.report import to_json_text
from lift_core.study import Row, Spread, to_markdown
from lift_core.study.summary import spread

Study = Mapping[str, Any]
LIFT = "LiFT"


def pooled(studies: Sequence[Study]) -> dict[str, Any]:
    """One document of all cells and rows.

    Raises:
        ValueError: if the plans differ, or a cell stands in two files.
    """
    plans = sorted({study["plan"] for study in studies})
    if len(plans) > 1:
        raise ValueError(f"STUDY.json: expected studies of one plan, got {', '.join(plans)}")
    cells = [cell for study in studies for cell in study["cells"]]
    names = [cell["name"] for cell in cells]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"STUDY.json: the cell {name} stands in two of the files")
    rows = [Row.from_json(row) for study in studies for row in study["rows"]]
    return {
        "plan": plans[0],
        "rows": [row.to_json() for row in _in_order(_with_leads(_pooled_rows(rows), cells))],
        "cells": cells,
        "versions": studies[0]["versions"],
    }


def test_metrics(cells: Iterable[Study]) -> dict[tuple[str, str], dict[int, float]]:
    """Test metric by setting and method, then seed; a variant of LiFT under its own name."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for cell in cells:
        for method, value in cell["test"].items():
            label = cell["variant"] if method == LIFT else method
            if method == LIFT or cell["settings"].get("controls", True):
                found.setdefault((cell["setting"], label), {})[cell["seed"]] = value
    return found


def lead(over: Mapping[int, float], lift: Mapping[int, float]) -> Spread | None:
    """Mean and deviation over common seeds; None without one."""
    differences = [over[seed] - lift[seed] for seed in sorted(over.keys() & lift.keys())]
    return spread(differences) if differences else None


def _pooled_rows(rows: Iterable[Row]) -> Iterator[Row]:
    by_key: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by_key.setdefault((row.setting, row.method), []).append(row)
    for same in by_key.values():
        columns = ("test", "validation", "train", "gradients", "products", "cost", "seconds")
        sizes = [len(row.seeds) for row in same]
        together = {name: _pooled_spread([getattr(row, name) for row in same], sizes) for name in columns}
        yield replace(same[0], seeds=tuple(sorted(seed for row in same for seed in row.seeds)), **together)


def _pooled_spread(parts: Sequence[Spread], sizes: Sequence[int]) -> Spread:
    """Mean and sample standard deviation of samples together, from those of each.

    >>> str(_pooled_spread([spread([1.0, 2.0]), spread([6.0])], [2, 1])) == str(spread([1.0, 2.0, 6.0]))
    True
    """
    count = sum(sizes)
    mean = sum(size * part.mean for part, size in zip(parts, sizes, strict=True)) / count
    squares = sum(
        (size - 1) * (part.deviation or 0.0) ** 2 + size * (part.mean - mean) ** 2
        for part, size in zip(parts, sizes, strict=True)
    )
    return Spread(mean, math.sqrt(squares / (count - 1)) if count > 1 else None)


def _with_leads(rows: Iterable[Row], cells: Sequence[Study]) -> Iterator[Row]:
    tests = test_metrics(cells)
    for row in rows:
        first = next(cell["variant"] for cell in cells if cell["setting"] == row.setting)
        over, lift = tests.get((row.setting, row.method), {}), tests.get((row.setting, first), {})
        yield replace(row, ahead=None if row.method == first else lead(over, lift))


def _in_order(rows: Iterable[Row]) -> list[Row]:
    """Settings as they come first, all rows of one together."""
    listed = list(rows)
    settings = list(dict.fromkeys(row.setting for row in listed))
    return sorted(listed, key=lambda row: settings.index(row.setting))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", type=Path, metavar="STUDY.json")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json", help="receives the pooled study")
    options = parser.parse_args()
    missing = [str(path) for path in options.studies if not path.is_file()]
    if missing:
        parser.error(f"STUDY.json: not found: {', '.join(missing)}")
    try:
        document = pooled([json.loads(path.read_text(encoding="utf-8")) for path in options.studies])
    except (ValueError, KeyError, TypeError) as error:
        parser.error(
            f"{error}" if isinstance(error, ValueError) else f"STUDY.json: not written by lift study ({error!r})"
        )
    text = to_markdown([Row.from_json(row) for row in document["rows"]])
    write_atomically(options.out, to_json_text(document))
    write_atomically(options.out.with_suffix(".md"), text + "\n")
    print(text)


if __name__ == "__main__":
    main()
