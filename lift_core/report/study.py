"""What a study says of itself: one JSON document, and one page made from nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lift_core.report.document import finite, lift_version
from lift_core.report.parts import figure, lead, page, warning_list
from lift_core.report.svg import ACCENT, INK, MUTED, inline_svg, log_axis, plain_numbers
from lift_core.report.tables import Cell, number, seconds, table, text_cell
from lift_core.study import Outcome, Row, Spread, summarize
from lift_core.study.notes import remarks
from lift_core.study.summary import interval, lead_seeds, measures, method_label

Document = Mapping[str, Any]


def study_document(outcomes: Sequence[Outcome], *, plan: str) -> dict[str, Any]:
    """Everything that is known about a study, as JSON values.

    Args:
        outcomes: of `run_study`, in the order of the plan.
        plan: its name.
    """
    cells = [
        outcome.cell.to_json()
        | {"name": outcome.cell.name, "error": outcome.error}
        | measures(outcome.document)
        | {
            "provenance": {} if outcome.document is None else outcome.document.get("provenance", {}),
            "seconds": _seconds(outcome.document),
            "seconds_without_controls": _seconds(outcome.document, methods=2),
        }
        for outcome in outcomes
    ]
    return finite(
        {
            "plan": plan,
            "rows": [row.to_json() for row in summarize(outcomes)],
            "cells": cells,
            "versions": {"lift-bilevel": lift_version(), "torch": torch.__version__},
        }
    )


def render_study(document: Document) -> str:
    """The page. Equal documents give equal pages."""
    return page(f"Study: {document['plan']}", _body(document), document)


def _seconds(document: Mapping[str, Any] | None, methods: int | None = None) -> float | None:
    """What a cell took, warm-up included, for all methods or for the first few: before, LiFT, then the controls."""
    if document is None:
        return None
    return sum(record["seconds"] for record in (*document["warmup"], *document["methods"][:methods]))


def _body(document: Document) -> Iterator[str]:
    rows, cells = document["rows"], document["cells"]
    common = lead_seeds([Row.from_json(row) for row in rows], cells)
    yield lead(
        [
            f"{len(cells)} runs. Means over seeds ± sample standard deviations; lower is better.",
            "Gradients and Hessian products are passes over the training split; cost is both, a product counted as two "
            "gradients and an evaluation as a third. The warm-up, which all methods share, is not counted. Test data "
            "chose nothing.",
            "“LiFT ahead by” is the mean, over seeds, of a method's test metric less LiFT's in the same run; “95 %” is "
            "the confidence interval of that mean.",
        ]
    )
    yield warning_list(f"{cell['name']} failed: {cell['error']}" for cell in cells if cell["error"])
    for number_of, setting in enumerate(dict.fromkeys(row["setting"] for row in rows)):
        here = [row for row in rows if row["setting"] == setting]
        yield f"<h2>{setting}</h2>{_table([Row.from_json(row) for row in here], common)}"
        shown_seeds = {row["method"]: row["seeds"] for row in here}
        yield warning_list(remarks([cell for cell in cells if cell["setting"] == setting], shown_seeds))
        caption = "Means, numbered as the rows of the table; bars: one standard deviation. LiFT in colour."
        shown = figure("Test against cost", _cost_plot(here, number_of), caption)
        caption = "Low on the left and high at the same time: the validation data, which choose, are over-fitted."
        shown += figure("Validation against test", _fit_plot(here, number_of), caption)
        yield f'<div class="plots">{shown}</div>'
    yield "<p class='muted'>All numbers of this page are in study.json and in this file, element lift-result.</p>"


def _table(rows: Sequence[Row], common: Mapping[tuple[str, str], tuple[int, ...]]) -> str:
    head = ["#", "Method", "Test", "LiFT ahead by", "95 %", "Validation"]
    head += ["Gradients", "Products", "Cost", "Time", "Train"]
    body = [
        [
            Cell(str(place)),
            text_cell(method_label(row, rows[0])),
            Cell(str(row.test)),
            *((Cell("–"), Cell("–")) if row.ahead is None else _lead(row.ahead, common[row.setting, row.method])),
            Cell(str(row.validation)),
            *(Cell(number(kind.mean)) for kind in (row.gradients, row.products, row.cost)),
            Cell(seconds(row.seconds.mean)),
            Cell(str(row.train)),
        ]
        for place, row in enumerate(rows, start=1)
    ]
    counts = sorted({len(row.seeds) for row in rows})
    seeds = f"{'–'.join(map(str, (counts[0], counts[-1])[: len(counts)]))} seeds"
    return table(head, body, caption=f"{rows[0].metric}, mean ± standard deviation of {seeds}")


def _lead(ahead: Spread, seeds: Sequence[int]) -> tuple[Cell, Cell]:
    return Cell(str(ahead)), Cell(interval(ahead, len(seeds)))


def _cost_plot(rows: Sequence[Document], index: int) -> str:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        spent = [max(row["cost"]["mean"], 0.5) for row in rows]
        for x, row in zip(spent, rows, strict=True):
            axes.errorbar(x, row["test"]["mean"], yerr=row["test"]["deviation"], fmt="none", ecolor=MUTED, alpha=0.5)
        _numbered(axes, rows, spent)
        log_axis(axes, "x", spent)
        axes.set_xlabel("cost after the warm-up, in gradients")

    return inline_svg(
        f"cost-{index}", draw, title="Test metric against cost",
        description="One numbered dot per method with an error bar; LiFT in the accent colour.",
    )  # fmt: skip


def _fit_plot(rows: Sequence[Document], index: int) -> str:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _numbered(axes, rows, [row["validation"]["mean"] for row in rows])
        axes.set_xlabel(f"validation {rows[0]['metric']}")
        plain_numbers(axes, "x")

    return inline_svg(
        f"fit-{index}", draw, title="Test metric against validation metric",
        description="One numbered dot per method; LiFT in the accent colour.",
    )  # fmt: skip


def _numbered(axes: Axes, rows: Sequence[Document], places: Sequence[float]) -> None:
    """The test metric of every row at its place, with the row's number beside the dot."""
    for number_of, (x, row) in enumerate(zip(places, rows, strict=True), start=1):
        colour = ACCENT if row["ahead"] is None and row["method"] != "before" else INK
        axes.scatter(x, row["test"]["mean"], c=[colour], s=18, zorder=3)
        side = 4 if number_of % 2 else -11
        axes.annotate(
            str(number_of), (x, row["test"]["mean"]), xytext=(side, 3), textcoords="offset points", fontsize=7,
            color=colour,
        )  # fmt: skip
    axes.set_ylabel(f"test {rows[0]['metric']}")
    plain_numbers(axes, "y")
