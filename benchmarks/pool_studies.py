"""Several ``study.json`` files of one plan as one: settings, variants and seeds that were run apart.

A method that stands in several files is pooled over its seeds, exactly: mean and sample standard deviation are those of
all runs together. "LiFT ahead by" is taken anew over the seeds that a method and the variant with the controls have in
common, whichever files they came from. Runs of one setting and variant must agree in all their settings but the seed
and those of ``--ignore``, which the pooled file names, as it does the commits where runs know them. Exits with 1 if a
run failed; the tables name it.

Example:
    python benchmarks/pool_studies.py runs/a/study.json runs/b/study.json --out docs/results/language.json
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lift_core.records import write_atomically
from lift_core.report import to_json_text
from lift_core.study import Row, Spread, to_markdown
from lift_core.study.notes import comparable, has_controls, labelled_tests, reference
from lift_core.study.summary import lead

Study = Mapping[str, Any]


def read_studies(paths: Sequence[Path]) -> list[Study]:
    """The documents.

    Raises:
        ValueError: if a file is missing or was not written by ``lift study``.
    """
    studies: list[Study] = []
    for path in paths:
        try:
            study = json.loads(path.read_text(encoding="utf-8"))
            [Row.from_json(row) for row in study["rows"]], study["plan"], study["versions"]
            [(cell["name"], cell["setting"], cell["variant"], cell["test"]) for cell in study["cells"]]
        except OSError as error:
            raise ValueError(f"STUDY.json: {path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"STUDY.json: expected a study.json of lift study, got {path} ({error!r})") from error
        studies.append(study)
    return studies


def pooled(studies: Sequence[Study], ignore: Sequence[str] = ()) -> dict[str, Any]:
    """One document of all cells and rows, those with controls first.

    Args:
        studies: of one plan, made by one version.
        ignore: settings in which runs of one variant may differ nevertheless, beside those that the studies name.

    Raises:
        ValueError: if plans, versions or settings differ, or a cell stands in two files.
    """
    for key in ("plan", "versions"):
        found = [study[key] for study in studies]
        if any(value != found[0] for value in found):
            raise ValueError(f"STUDY.json: expected studies of equal {key}, got {found}")
    ignored = sorted({*ignore, *(key for study in studies for key in study.get("ignored", ()))})
    studies = sorted(studies, key=lambda study: not any(has_controls(cell) for cell in study["cells"]))
    cells = [cell for study in studies for cell in study["cells"]]
    _require_one_of_each(cells, ignored)
    commits = sorted({made["commit"] for cell in cells if "commit" in (made := cell.get("provenance", {}))})
    rows = list(_pooled_rows(Row.from_json(row) for study in studies for row in study["rows"]))
    settings = list(dict.fromkeys(row.setting for row in rows))
    together = sorted(_with_leads(rows, cells), key=lambda row: settings.index(row.setting))
    return {
        "plan": studies[0]["plan"],
        "rows": [row.to_json() for row in together],
        "cells": cells,
        "versions": studies[0]["versions"],
        "ignored": ignored,
        **({"commits": commits} if commits else {}),
    }


def _require_one_of_each(cells: Sequence[Study], ignore: Sequence[str]) -> None:
    names: set[str] = set()
    known: dict[tuple[str, str], dict[str, Any]] = {}
    for cell in cells:
        if cell["name"] in names:
            raise ValueError(f"STUDY.json: the cell {cell['name']} stands in two of the files")
        names.add(cell["name"])
        here = {key: value for key, value in comparable(cell).items() if key not in ignore}
        there = known.setdefault((cell["setting"], cell["variant"]), here)
        different = sorted(key for key in here | there if here.get(key) != there.get(key))
        if different:
            raise ValueError(f"STUDY.json: {cell['name']} differs from other seeds in {', '.join(different)}")


def test_metrics(rows: Iterable[Row], cells: Iterable[Study]) -> dict[tuple[str, str], dict[int, float]]:
    """Test metric by setting and row, then seed, of the runs that the row averages over."""
    seeds = {(row.setting, row.method): row.seeds for row in rows}
    found: dict[tuple[str, str], dict[int, float]] = {}
    for cell in cells:
        for label, value in labelled_tests(cell).items():
            place = cell["setting"], label
            if value is not None and cell["seed"] in seeds.get(place, ()):
                found.setdefault(place, {})[cell["seed"]] = value
    return found


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
    """Mean and sample standard deviation of samples together, from those of each."""
    count = sum(sizes)
    mean = sum(size * part.mean for part, size in zip(parts, sizes, strict=True)) / count
    squares = sum(
        (size - 1) * (part.deviation or 0.0) ** 2 + size * (part.mean - mean) ** 2
        for part, size in zip(parts, sizes, strict=True)
    )
    return Spread(mean, math.sqrt(squares / (count - 1)) if count > 1 else None)


def _with_leads(rows: Sequence[Row], cells: Sequence[Study]) -> Iterator[Row]:
    tests = test_metrics(rows, cells)
    for row in rows:
        lift = reference(cells, row.setting)
        over = tests.get((row.setting, row.method), {})
        ahead = None if row.method == lift else lead(over, tests.get((row.setting, lift), {}))
        yield replace(row, ahead=ahead)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", type=Path, metavar="STUDY.json")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json", help="receives the pooled study")
    parser.add_argument("--ignore", nargs="+", default=[], metavar="KEY", help="settings that may differ by seed")
    options = parser.parse_args()
    if options.out.suffix != ".json":
        parser.error(f"--out: expected a name that ends in .json, got {options.out}")
    try:
        document = pooled(read_studies(options.studies), options.ignore)
    except ValueError as error:
        parser.error(str(error))
    text = to_markdown([Row.from_json(row) for row in document["rows"]], document["cells"])
    write_atomically(options.out, to_json_text(document))
    write_atomically(options.out.with_suffix(".md"), text + "\n")
    print(text)
    sys.exit(1 if any(cell.get("error") for cell in document["cells"]) else 0)


if __name__ == "__main__":
    main()
