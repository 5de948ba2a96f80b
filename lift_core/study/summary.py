"""What a study amounts to: means and spreads over seeds, every method of a setting beside LiFT."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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


def difference(row: Row) -> str:
    """``ahead`` with its sign; empty where there is none."""
    if row.ahead is None:
        return ""
    return f"{'+' if row.ahead.mean >= 0 else ''}{row.ahead}"


def to_markdown(rows: Sequence[Row]) -> str:
    """One table per setting, lowest mean test metric in bold.

    A row of other seeds than the first names them, and is not in bold.

    >>> to_markdown([])
    ''
    """
    parts = []
    for setting in dict.fromkeys(row.setting for row in rows):
        here = [row for row in rows if row.setting == setting]
        best = min((row for row in here if row.seeds == here[0].seeds), key=lambda row: row.test.mean)
        head = f"**{setting[0].upper()}{setting[1:]}** ({here[0].metric}; {_seeds(here[0])})"
        columns = ("method", "test", "LiFT ahead by", "validation", "gradients", "products", "cost", "seconds")
        lines = [head, "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        for row in here:
            test = f"**{row.test}**" if row is best else str(row.test)
            spent = (f"{kind.mean:.3g}" for kind in (row.gradients, row.products, row.cost, row.seconds))
            method = row.method if row.seeds == here[0].seeds else f"{row.method} ({_seeds(row)})"
            lines.append("| " + " | ".join((method, test, difference(row), str(row.validation), *spent)) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _seeds(row: Row) -> str:
    return f"seed{'s' if len(row.seeds) > 1 else ''} {', '.join(map(str, row.seeds))}"


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
