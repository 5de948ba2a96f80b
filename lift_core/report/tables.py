"""HTML tables and number formats. Every piece of text passes through `html.escape` here."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

Facts = Mapping[str, Any]


class Cell(NamedTuple):
    """A table cell: text to be escaped, and CSS classes."""

    text: str
    classes: str = ""


def text_cell(text: object) -> Cell:
    return Cell(str(text), "text")


def number_cell(value: float | None, *, classes: str = "") -> Cell:
    return Cell(number(value), classes)


def number(value: float | None) -> str:
    """Four significant digits, thousands separated; a dash where there is no number.

    >>> [number(value) for value in (74.7123, 0.00012346, 12345.6, 3, None)]
    ['74.71', '0.0001235', '12,346', '3', '–']
    """
    if value is None:
        return "–"
    if value and (abs(value) >= 1e7 or abs(value) < 1e-4):
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def seconds(value: float | None) -> str:
    """Seconds with a unit that suits them."""
    if value is None:
        return "–"
    if value >= 120:
        return f"{value / 60:.1f} min"
    return f"{value:.1f} s" if value >= 1 else f"{1000 * value:.0f} ms"


def table(
    head: Sequence[str], rows: Iterable[Sequence[Cell]], *, row_classes: Sequence[str] = (), caption: str = ""
) -> str:
    """A table whose head cells are aligned like the cells of the first row."""
    body = [list(row) for row in rows]
    shown = [cell.classes for cell in body[0]] if body else [""] * len(head)
    headings = "".join(
        f'<th scope="col"{_class("text" if "text" in classes else "")}>{html.escape(title)}</th>'
        for title, classes in zip(head, shown, strict=True)
    )
    lines = []
    for index, row in enumerate(body):
        cells = "".join(f"<td{_class(cell.classes)}>{html.escape(cell.text)}</td>" for cell in row)
        lines.append(f"<tr{_class(row_classes[index] if row_classes else '')}>{cells}</tr>")
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    content = f"{title}<thead><tr>{headings}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<div class="scroll"><table>{content}</table></div>'


def methods_table(document: Facts) -> str:
    """Losses in the problem's metric and cost, one row per method; the best of a column is marked."""
    methods, metric = document["methods"], document["problem"]["metric_name"]
    best = {
        split: min((m["metric"][split] for m in methods if m["metric"][split] is not None), default=None)
        for split in ("selection", "test")
    }

    def row(method: Facts) -> list[Cell]:
        values = method["metric"]
        marks = {split: "best" if values[split] is not None and values[split] == best[split] else "" for split in best}
        return [
            text_cell(method["method"]),
            number_cell(values["selection"], classes=marks["selection"]),
            number_cell(values["test"], classes=marks["test"]),
            number_cell(values["train"]),
            number_cell(method["cost"]["gradients"]),
            number_cell(method["cost"]["hvps"]),
            number_cell(method["gradient_equivalents"]),
            Cell(seconds(method["seconds"])),
            Cell(method["label"], "text wrap"),
        ]

    head = ["Method", f"Validation {metric}", f"Test {metric}", f"Train {metric}", "Gradients", "HVPs", "All cost",
            "Time", "Accepted"]  # fmt: skip
    caption = (
        "All methods start from the same point. Costs are passes over the training split; all cost is in gradients, "
        "where a Hessian product (HVP) counts as two and an evaluation as a third."
    )
    classes = ["", "lift", *[""] * (len(methods) - 2)]
    return table(head, map(row, methods), row_classes=classes, caption=caption)


def lp_table(step: Facts) -> str:
    """Everything that is known about the LPs of one round."""
    head = ["ρ", "Status", "LP value", "Promise", "Proved bound", "Primal", "Dual", "Gap", "Iterations", "Time",
            "Step size", "Selection loss", "Predicted decrease", "Weights on box", "Rows kept"]  # fmt: skip
    rows = [
        [
            Cell(c["label"] if c["slack"] is None else f"{c['slack']:g}"),
            Cell(c["lp_status"], "text" if c["lp_status"] == "OPTIMAL" else "text bad"),
            number_cell(c["lp_objective"]),
            number_cell(c["lp_promise"]),
            number_cell(c["lp_bound"]),
            *(Cell(_power(c[key])) for key in ("lp_primal_residual", "lp_dual_residual", "lp_gap")),
            Cell(f"{c['lp_iterations']:,}"),
            Cell(seconds(c["lp_seconds"])),
            number_cell(c["step_size"]),
            number_cell(c["selection_loss"], classes="best" if c["label"] == step["label"] else ""),
            number_cell(c["predicted_decrease"]),
            Cell(f"{c['weights_on_box']:.1%}"),
            Cell(f"{c['row_coverage']:.1%}"),
        ]
        for c in step["candidates"]
    ]
    return table(head, rows)


def splits_table(step: Facts, number_of_round: int) -> str:
    """Losses of one round before, after the move and at the end, on the splits that may be looked at."""
    head = [f"Round {number_of_round}: loss", "Train", "Direction", "Selection"]
    rows = [
        [text_cell(name), *(number_cell(step[key][split]) for split in ("train", "direction", "selection"))]
        for key, name in (("before", "before"), ("moved", "moved"), ("after", "kept"))
    ]
    return table(head, rows)


def hyper_table(rows: Sequence[Facts]) -> str:
    has_strength = "strength_before" in rows[0]
    head = ["#", "Hyperparameter", "λ before", "λ after", *(["w(λ) before", "w(λ) after"] if has_strength else [])]
    keys = ["before", "after", *(["strength_before", "strength_after"] if has_strength else [])]
    body = [
        [Cell(str(index)), text_cell(row["name"]), *(number_cell(row[key]) for key in keys)]
        for index, row in enumerate(rows, start=1)
    ]
    return table(head, body)


def settings_table(settings: Facts) -> str:
    rows = [[text_cell(name), Cell(str(value), "text wrap")] for name, value in sorted(settings.items())]
    return table(["Setting", "Value"], rows)


def _power(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}"


def _class(classes: str) -> str:
    return f' class="{html.escape(classes)}"' if classes else ""
