"""One self-contained HTML page from the JSON document of a run: no scripts, no links, nothing loaded."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from lift_core.problem import Split
from lift_core.report.plots import (
    LABELLED_ROWS,
    hyper_plot,
    line_search_plot,
    methods_plot,
    residual_plot,
    slack_path_plot,
    training_curves,
    training_plot,
)  # fmt: skip
from lift_core.report.style import STYLE
from lift_core.report.tables import hyper_table, lp_table, methods_table, number, seconds, settings_table, splits_table

Document = Mapping[str, Any]


def render_report(document: Document) -> str:
    """The page. Equal documents give equal pages.

    Args:
        document: see `lift_core.report.report_document`.
    """
    title = f"LiFT on {document['problem']['name']}"
    return page(title, "\n".join(_body(document, title)) + embedded(document))


def page(title: str, body: str) -> str:
    """A page in the house's style around its body, which is HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n{body}</main></body></html>\n"
    )


def embedded(document: Document) -> str:
    """The document as a script element of plain data, which it cannot close."""
    text = json.dumps(document, sort_keys=True, ensure_ascii=False, allow_nan=False)
    text = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return f'\n<script type="application/json" id="lift-result">{text}</script>\n'


def figure_block(title: str, svg: str, caption: str, *, wide: bool = False) -> str:
    """A plot with its heading and caption."""
    classes = ' class="wide"' if wide else ""
    note = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f"<figure{classes}><h3>{html.escape(title)}</h3>{svg}{note}</figure>"


def _body(document: Document, title: str) -> Iterator[str]:
    yield f"<h1>{html.escape(title)}</h1>"
    yield _introduction(document)
    yield _cards(document)
    if document["warnings"]:
        items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in document["warnings"])
        yield f'<ul class="warnings">{items}</ul>'
    yield "<h2>LiFT and its controls</h2>"
    yield methods_table(document)
    yield from _overview_plots(document)
    for index, step in enumerate(document["steps"], start=1):
        yield from _round(document, step, index)
    yield from _hyper(document)
    yield from _details(document)


def _introduction(document: Document) -> str:
    problem, search = document["problem"], document["search"]
    sizes = ", ".join(f"{split} {problem['num_examples'][split]:,}" for split in get_args(Split))
    coverage = document["row_coverage"]
    rows = "no LP was solved" if coverage is None else f"row coverage {coverage:.4g} of 1"
    lines = (
        f"{problem['num_weights']:,} tuned weights, {problem['num_hyper']:,} hyperparameters; examples: {sizes}.",
        f"Curvature {search['curvature']} on {search['curvature_share']:.3g} of the training batches "
        f"({search['definiteness']} eigenvalues), LP backend {search['backend']} at {search['rtol']:g}, {rows}.",
        f"Outcome: {document['status_text']}.",
    )
    paragraphs = "".join(f'<p class="muted">{html.escape(line)}</p>' for line in lines)
    return f'<div class="lead">{paragraphs}</div>'


def _cards(document: Document) -> str:
    before, lift, *controls = document["methods"]
    metric = document["problem"]["metric_name"]
    cards = [
        _change_card(f"Validation {metric}", before["metric"]["selection"], lift["metric"]["selection"]),
        _change_card(f"Test {metric}", before["metric"]["test"], lift["metric"]["test"]),
    ]
    ranked = [control for control in controls if control["metric"]["selection"] is not None]
    if ranked:
        best = min(ranked, key=lambda control: control["metric"]["selection"])
        value = f"{number(best['metric']['selection'])} <small>test {number(best['metric']['test'])}</small>"
        cards.append(_card("Best control by validation", value, best["method"]))
    spent = f"{number(lift['gradient_equivalents'])} <small>gradients</small>"
    cards.append(
        _card("LiFT's cost after the warm-up", spent, f"{seconds(lift['seconds'])}; accepted: {lift['label']}")
    )
    return f'<div class="cards">{"".join(cards)}</div>'


def _change_card(name: str, before: float | None, after: float | None) -> str:
    value = f"<small>{number(before)} →</small> {number(after)}"
    if before is None or after is None or before == 0:
        return _card(name, value, "")
    change = after / before - 1
    better = "good" if change < 0 else "bad" if change > 0 else ""
    return _card(name, value, f"{change:+.2%}".replace("-", "−"), better)


def _card(name: str, value_html: str, note: str, note_class: str = "muted") -> str:
    return (
        f'<div class="card"><div class="name">{html.escape(name)}</div><div class="value">{value_html}</div>'
        f'<div class="{note_class}">{html.escape(note)}</div></div>'
    )


def _overview_plots(document: Document) -> Iterator[str]:
    overview = methods_plot(document["methods"], document["problem"]["metric_name"])
    caption = "Dashed: before the search. The test split was read once, after every choice was made."
    plots = [figure_block("Validation and test", overview, caption)]
    if document["warmup"] or training_curves(document):
        caption = "Every control that trains stops early on the selection split; the line is where LiFT ends."
        plots.append(figure_block("Training", training_plot(document), caption))
    yield f'<h2>Overview</h2><div class="plots">{"".join(plots)}</div>'


def _round(document: Document, step: Document, index: int) -> Iterator[str]:
    if not step["candidates"]:
        yield f"<h2>Round {index}</h2><p>The LP backend returned no direction.</p>"
        return
    outcome = f"accepted {step['label']}" if step["accepted"] else "not accepted: no candidate was better"
    if step["refit_kept"]:
        outcome += ", and the refit at the new λ was kept"
    yield f"<h2>Round {index}: {html.escape(outcome)}</h2>"
    figures = [figure_block("Line searches", line_search_plot(step, index), "Points above the frame are cut off.")]
    if len(step["candidates"]) > 1:
        caption = "ρ = 0: exact tangent; ρ = 1: sign descent on direction data."
        figures.append(figure_block("Slack path", slack_path_plot(step, index), caption))
    yield f'<div class="plots">{"".join(figures)}</div>'
    first = step["candidates"][0]
    curvature = ", ".join(
        f"{name} {number(first[key])}"
        for name, key in (
            ("smallest", "smallest_curvature"),
            ("bulk σ", "bulk_curvature"),
            ("largest", "largest_curvature"),
        )
    )
    norm = number(first["lower_gradient_norm"])
    yield f"<p class='muted'>Eigenvalues seen: {curvature}. Norm of the training gradient: {norm}.</p>"
    tables = splits_table(step, index) + lp_table(step)
    yield f"<details><summary>Losses and LPs of round {index}</summary>{tables}</details>"


def _hyper(document: Document) -> Iterator[str]:
    rows, figures = document["hyper"], list[str]()
    if rows:
        figures.append(figure_block("Before and after", hyper_plot(rows), "", wide=len(rows) > LABELLED_ROWS))
    if any(step["candidates"] for step in document["steps"]):
        caption = "Recomputed in float64 from x and y; zero is drawn at 1e-17."
        figures.append(
            figure_block("LP residuals", residual_plot(document["steps"], document["search"]["rtol"]), caption)
        )
    yield f'<h2>Hyperparameters and LP accuracy</h2><div class="plots">{"".join(figures)}</div>'
    if rows:
        yield f"<details><summary>All {len(rows)} hyperparameters</summary>{hyper_table(rows)}</details>"


def _details(document: Document) -> Iterator[str]:
    cost = document["cost"]
    spent = ", ".join(f"{number(cost[key])} {key}" for key in ("evaluations", "gradients", "hvps"))
    warmup = seconds(sum(epoch["seconds"] for epoch in document["warmup"]))
    yield "<h2>Settings</h2>"
    yield f"<p class='muted'>Warm-up ({warmup}) and search together, controls aside: {html.escape(spent)}.</p>"
    if document["settings"]:
        yield f"<details><summary>Settings</summary>{settings_table(document['settings'])}</details>"
    described = {"Problem": document["problem"]["description"], "Search": document["search"]["description"]}
    versions = ", ".join(f"{name} {value}" for name, value in sorted(document["versions"].items()))
    yield f"<details><summary>In full</summary>{settings_table(described | {'Versions': versions})}</details>"
    yield "<p class='muted'>All numbers of this page are in result.json and in this file, element lift-result.</p>"
