"""What the cells of a study say beside their means: which failed, what has no number, which settings differ by seed."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

LIFT = "LiFT"
CellFacts = Mapping[str, Any]
"""A cell of study.json."""


def has_controls(cell: CellFacts) -> bool:
    """Whether the run brought the controls along, and the warm start."""
    return cell["settings"].get("controls", True)


def reference(cells: Iterable[CellFacts], setting: str) -> str:
    """The variant of a setting that brings the controls: the one that is called LiFT there."""
    variants = {cell["variant"]: has_controls(cell) for cell in cells if cell["setting"] == setting}
    return next((variant for variant, controls in variants.items() if controls), next(iter(variants), LIFT))


def labelled_tests(cell: CellFacts) -> dict[str, float | None]:
    """Test metric by row of the summary: LiFT under the name of its variant, the rest from a run with controls."""
    tests = cell["test"].items()
    return {
        cell["variant"] if name == LIFT else name: test for name, test in tests if name == LIFT or has_controls(cell)
    }


def comparable(cell: CellFacts) -> dict[str, Any]:
    """The settings in which the runs of one variant should agree: all but the seed."""
    options = {**cell["settings"].get("problem_options", {}), "seed": None}
    return {**cell["settings"], "seed": None, "problem_options": options, "preset": cell["preset"]}


def notes(cells: Sequence[CellFacts], shown: Mapping[str, Collection[int]]) -> list[str]:
    """One line for each run that failed, method without a number, and setting that differs by seed.

    Args:
        cells: of one setting.
        shown: the seeds of each row of its table, by method or variant.
    """
    return [*_failed(cells), *remarks(cells, shown)]


def remarks(cells: Sequence[CellFacts], shown: Mapping[str, Collection[int]]) -> list[str]:
    """The `notes` of runs that finished."""
    return [*_without_number(cells, shown), *_differences(cells)]


def seeds_text(seeds: Iterable[int]) -> str:
    """
    >>> seeds_text([6]), seeds_text([7, 8])
    ('seed 6', 'seeds 7, 8')
    """
    words = [str(seed) for seed in sorted(seeds)]
    return f"seed{'' if len(words) == 1 else 's'} {', '.join(words)}"


def _failed(cells: Iterable[CellFacts]) -> Iterator[str]:
    for cell in cells:
        if not cell["test"]:
            error = (cell.get("error") or "it gave no reason").strip().splitlines()[0].replace("`", "'")
            yield f"Failed: {cell['variant']}, seed {cell['seed']}: `{error}`"


def _without_number(cells: Iterable[CellFacts], shown: Mapping[str, Collection[int]]) -> Iterator[str]:
    absent: dict[str, list[int]] = {}
    for cell in cells:
        for label in labelled_tests(cell):
            if cell["seed"] not in shown.get(label, ()):
                absent.setdefault(label, []).append(cell["seed"])
    for label, seeds in absent.items():
        yield f"No finite metric, and not in the means: {label}, {seeds_text(seeds)}"


def _differences(cells: Iterable[CellFacts]) -> Iterator[str]:
    by_variant: dict[str, dict[int, dict[str, Any]]] = {}
    for cell in cells:
        by_variant.setdefault(cell["variant"], {})[cell["seed"]] = comparable(cell)
    for variant, by_seed in by_variant.items():
        for key in sorted({key for settings in by_seed.values() for key in settings}):
            seeds: dict[str, list[int]] = {}
            for seed, settings in by_seed.items():
                value = json.dumps(settings[key], ensure_ascii=False) if key in settings else "not set"
                seeds.setdefault(value, []).append(seed)
            if len(seeds) > 1:
                values = ", ".join(f"{value} ({seeds_text(of)})" for value, of in seeds.items())
                yield f"A setting of {variant} that differs by seed: {key}, {values}"
