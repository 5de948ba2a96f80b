"""What a study amounts to: means and spreads over seeds, every method of a setting beside LiFT."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from scipy.special import stdtrit

from lift_core.study.notes import CellFacts, notes, reference, seeds_text
from lift_core.study.running import Outcome


class Spread(NamedTuple):
    """Mean and sample standard deviation; the latter None for a single value."""

    mean: float
    deviation: float | None

    def __str__(self) -> str:
        return f"{self.mean:.4g}" if self.deviation is None else f"{self.mean:.4g} ± {self.deviation:.2g}"


SPREADS = ("test", "validation", "train", "gradients", "products", "cost", "seconds", "ahead")
"""The columns of a row that are means over seeds."""


@dataclass(frozen=True)
class Row:
    """One method in one setting.

    Attributes:
        setting, method: of the table and of the row.
        metric: what is measured (``"perplexity"``, ``"loss"``).
        seeds: that the row averages over.
        test, validation, train: the metric on the test, selection and training split.
        gradients, products: passes over the training split behind it, by kind; warm-up not counted: every method
            starts after it.
        cost: both together, a Hessian product counted as two gradients and an evaluation as a third.
        seconds: of the method alone.
        ahead: by how much LiFT's test metric is lower, seed by seed; None for LiFT itself, or without common seeds.
    """

    setting: str
    method: str
    metric: str
    seeds: tuple[int, ...]
    test: Spread
    validation: Spread
    train: Spread
    gradients: Spread
    products: Spread
    cost: Spread
    seconds: Spread
    ahead: Spread | None

    def to_json(self) -> dict[str, Any]:
        values = {name: None if (one := getattr(self, name)) is None else one._asdict() for name in SPREADS}
        return {"setting": self.setting, "method": self.method, "metric": self.metric, "seeds": self.seeds} | values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Row:
        """The row that `to_json` wrote."""
        known: dict[str, Any] = {**values, "seeds": tuple(values["seeds"])}
        known |= {name: None if (one := values[name]) is None else Spread(**one) for name in SPREADS}
        return cls(**known)


def summarize(outcomes: Iterable[Outcome]) -> list[Row]:
    """Rows in the order of settings and methods as they come; the first variant of a setting is its LiFT.

    Also where it failed: then there is nothing to be ahead of, and no other variant takes its place.
    """
    records: dict[str, dict[str, dict[int, dict[str, Any]]]] = {}
    metrics: dict[str, str] = {}
    first: dict[str, str] = {}
    for outcome in outcomes:
        first.setdefault(outcome.cell.setting, outcome.cell.variant)
        if outcome.document is None:
            continue
        cell, document = outcome.cell, outcome.document
        metrics[cell.setting] = document["problem"]["metric_name"]
        methods = records.setdefault(cell.setting, {})
        for record in document["methods"]:
            if record["method"] == "before" and not cell.settings.get("controls", True):
                continue
            label = cell.variant if record["method"] == "LiFT" else record["method"]
            if None not in record["metric"].values():
                methods.setdefault(label, {})[cell.seed] = record
    return [
        _row(setting, label, metrics[setting], by_seed, (first[setting], methods.get(first[setting], {})))
        for setting, methods in records.items()
        for label, by_seed in methods.items()
    ]


def measures(document: Mapping[str, Any] | None) -> dict[str, dict[str, float | None]]:
    """What a run gives again on any machine: metrics and counted passes, by method; empty for a run that failed."""
    methods = [] if document is None else document["methods"]
    return {
        "test": {record["method"]: record["metric"]["test"] for record in methods},
        "validation": {record["method"]: record["metric"]["selection"] for record in methods},
        "gradients": {record["method"]: record["cost"]["gradients"] for record in methods},
        "products": {record["method"]: record["cost"]["hvps"] for record in methods},
    }


def difference(row: Row) -> str:
    """``ahead`` with its sign; empty where there is none."""
    if row.ahead is None:
        return ""
    return f"{'+' if row.ahead.mean >= 0 else ''}{row.ahead}"


def lead_seeds(rows: Sequence[Row], cells: Sequence[CellFacts] = ()) -> dict[tuple[str, str], tuple[int, ...]]:
    """The seeds that a row, by setting and method, has in common with LiFT's."""
    lift = {row.setting: row.seeds for row in rows if row.method == reference(cells, row.setting)}
    return {
        (row.setting, row.method): tuple(seed for seed in row.seeds if seed in lift.get(row.setting, ()))
        for row in rows
    }


COLUMNS = ("method", "test", "LiFT ahead by", "95 %", "validation", "gradients", "products", "cost", "seconds")


def to_markdown(rows: Sequence[Row], cells: Sequence[CellFacts] = ()) -> str:
    """One table per setting, lowest mean test metric in bold, and below it what the ``cells`` of study.json tell.

    A row of other seeds than the first names them, and is not in bold; so does a lead that stands on fewer seeds than
    its row. In the column "95 %" is the confidence interval of the mean lead.

    >>> to_markdown([])
    ''
    """
    common, parts = lead_seeds(rows, cells), []
    for setting in dict.fromkeys([*(row.setting for row in rows), *(cell["setting"] for cell in cells)]):
        here = [row for row in rows if row.setting == setting]
        measured = f"{here[0].metric}; {seeds_text(here[0].seeds)}" if here else "no run finished"
        parts.append(f"**{setting[0].upper()}{setting[1:]}** ({measured})")
        if here:
            parts.append(_table(here, common))
        told = notes([cell for cell in cells if cell["setting"] == setting], {row.method: row.seeds for row in here})
        if told:
            parts.append("\n".join(f"* {line}" for line in told))
    return "\n\n".join(parts)


def _table(here: Sequence[Row], common: Mapping[tuple[str, str], tuple[int, ...]]) -> str:
    best = min((row for row in here if row.seeds == here[0].seeds), key=lambda row: row.test.mean)
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for row in here:
        test = f"**{row.test}**" if row is best else str(row.test)
        spent = (f"{kind.mean:.3g}" for kind in (row.gradients, row.products, row.cost, row.seconds))
        seeds = common[row.setting, row.method]
        ahead = difference(row) + (f" ({seeds_text(seeds)})" if row.ahead and seeds != row.seeds else "")
        within = "" if row.ahead is None else interval(row.ahead, len(seeds))
        words = (method_label(row, here[0]), test, ahead, within, str(row.validation), *spent)
        lines.append("| " + " | ".join(words) + " |")
    return "\n".join(lines)


def method_label(row: Row, first: Row) -> str:
    """The method, and its seeds where they are not those of the first row of the table."""
    return row.method if row.seeds == first.seeds else f"{row.method} ({seeds_text(row.seeds)})"


def _row(
    setting: str,
    label: str,
    metric: str,
    by_seed: dict[int, dict[str, Any]],
    lift: tuple[str, dict[int, dict[str, Any]]],
) -> Row:
    seeds = tuple(sorted(by_seed))
    found = [by_seed[seed] for seed in seeds]
    over, own = ({seed: record["metric"]["test"] for seed, record in one.items()} for one in (by_seed, lift[1]))
    splits = {split: spread([record["metric"][split] for record in found]) for split in ("test", "selection", "train")}
    return Row(
        setting=setting,
        method=label,
        metric=metric,
        seeds=seeds,
        test=splits["test"],
        validation=splits["selection"],
        train=splits["train"],
        gradients=spread([record["cost"]["gradients"] for record in found]),
        products=spread([record["cost"]["hvps"] for record in found]),
        cost=spread([record["gradient_equivalents"] for record in found]),
        seconds=spread([record["seconds"] for record in found]),
        ahead=None if label == lift[0] else lead(over, own),
    )


def lead(over: Mapping[int, float], lift: Mapping[int, float]) -> Spread | None:
    """How far LiFT is below a method, over the seeds that both have; None without one.

    >>> str(lead({0: 4.0, 1: 6.0, 2: 9.0}, {0: 3.0, 1: 3.0}))
    '2 ± 1.4'
    """
    differences = [over[seed] - lift[seed] for seed in sorted(over.keys() & lift.keys())]
    return spread(differences) if differences else None


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value.

    >>> str(spread([1.0, 3.0]))
    '2 ± 1.4'
    """
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def half_width(values: Spread, count: int) -> float | None:
    """Of the 95 % confidence interval of the mean of ``count`` values, by Student's t; None for a single value.

    >>> f"{half_width(Spread(2.0, 1.0), 3):.3f}"
    '2.484'
    """
    if values.deviation is None or count < 2:
        return None
    return float(stdtrit(count - 1, 0.975)) * values.deviation / math.sqrt(count)


def interval(values: Spread, count: int) -> str:
    """The 95 % confidence interval, two digits of its half-width shown; empty for a single value.

    >>> interval(Spread(0.9, 0.58), 3), interval(Spread(0.9, None), 1)
    ('[-0.5, 2.3]', '')
    """
    half = half_width(values, count)
    if half is None:
        return ""
    digits = max(0, 1 - math.floor(math.log10(half))) if half > 0 else 4
    return f"[{values.mean - half:.{digits}f}, {values.mean + half:.{digits}f}]"
