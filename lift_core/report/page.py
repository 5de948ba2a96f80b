"""One self-contained HTML page from the JSON document of a run: no scripts, no links, nothing loaded."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from lift_core.problem import Split
from lift_core.report.parts import card, card_row, figure, lead, page, warning_list
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
from lift_core.report.tables import hyper_table, lp_table, methods_table, number, seconds, settings_table, splits_table

Document = Mapping[str, Any]


def render_report(document: Document) -> str:
    """The page. Equal documents give equal pages.

    Args:
        document: see `lift_core.report.report_document`.
    """
    return page(f"LiFT on {document['problem']['name']}", _body(document), document)


def _body(document: Document) -> Iterator[str]:
    yield _introduction(document)
    yield _cards(document)
    yield warning_list(document["warnings"])
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
    return lead(lines)


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
        cards.append(card("Best control by validation", value, best["method"]))
    spent = f"{number(lift['gradient_equivalents'])} <small>gradients</small>"
    cards.append(card("LiFT's cost after the warm-up", spent, f"{seconds(lift['seconds'])}; accepted: {lift['label']}"))
    return card_row(cards)


def _change_card(name: str, before: float | None, after: float | None) -> str:
    value = f"<small>{number(before)} →</small> {number(after)}"
    if before is None or after is None or before == 0:
        return card(name, value, "")
    change = after / before - 1
    better = "good" if change < 0 else "bad" if change > 0 else ""
    return card(name, value, f"{change:+.2%}".replace("-", "−"), better)


def _overview_plots(document: Document) -> Iterator[str]:
    overview = methods_plot(document["methods"], document["problem"]["metric_name"])
    caption = "Dashed: before the search. The test split was read once, after every choice was made."
    plots = [figure("Validation and test", overview, caption)]
    if document["warmup"] or training_curves(document):
        caption = "Every control that trains stops early on the selection split; the line is where LiFT ends."
        plots.append(figure("Training", training_plot(document), caption))
    yield f'<h2>Overview</h2><div class="plots">{"".join(plots)}</div>'


def _round(document: Document, step: Document, index: int) -> Iterator[str]:
    if not step["candidates"]:
        yield f"<h2>Round {index}</h2><p>The LP backend returned no direction.</p>"
        return
    outcome = f"accepted {step['label']}" if step["accepted"] else "not accepted: no candidate was better"
    if step["refit_kept"]:
        outcome += ", and the refit at the new λ was kept"
    yield f"<h2>Round {index}: {html.escape(outcome)}</h2>"
    figures = [figure("Line searches", line_search_plot(step, index), "Points above the frame are cut off.")]
    if len(step["candidates"]) > 1:
        caption = "ρ = 0: exact tangent; ρ = 1: sign descent on direction data."
        figures.append(figure("Slack path", slack_path_plot(step, index), caption))
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
    yield f"<p class='muted'>Eigenvalues seen: {curvature}. Norm of the training gradient: about {norm}.</p>"
    tables = splits_table(step, index) + lp_table(step)
    yield f"<details><summary>Losses and LPs of round {index}</summary>{tables}</details>"


def _hyper(document: Document) -> Iterator[str]:
    rows, figures = document["hyper"], list[str]()
    if rows:
        figures.append(figure("Before and after", hyper_plot(rows), "", wide=len(rows) > LABELLED_ROWS))
    if any(step["candidates"] for step in document["steps"]):
        caption = "Recomputed in float64 from x and y; zero is drawn at 1e-17."
        figures.append(figure("LP residuals", residual_plot(document["steps"], document["search"]["rtol"]), caption))
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
