"""The page of a selection: Pareto plot, groups, budgets; self-contained like the page of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from matplotlib.figure import Figure

from lift_core.report.parts import figure as plot_block
from lift_core.report.parts import lead, page
from lift_core.report.svg import ACCENT, INK, MUTED, VALIDATION, inline_svg
from lift_core.report.tables import Cell, number, number_cell, table, text_cell

Document = Mapping[str, Any]
_SHOWN = 400
"""Groups that the table lists; JSON has them all."""


def render_selection(document: Document) -> str:
    """The page of a selection, from the document that ``select.json`` holds."""
    title = f"What to tune of {document['problem']}"
    return page(title, _body(document), document)


def _body(document: Document) -> Iterator[str]:
    yield lead(_introduction(document))
    yield f'<h2>Share against promise</h2><div class="plots">{_front(document)}</div>'
    yield "<h2>Budgets</h2>" + _budgets(document)
    rejections = document["facts"].get("rejections", [])
    if rejections:
        rows = [[text_cell(r["group"]), Cell(f"{r['probes']} of {r['of']}"), text_cell("; ".join(r["reasons"]))]
                for r in rejections]  # fmt: skip
        listed = table(["Group", "Probes", "Why"], rows)
        yield f"<details><summary>{len(rejections)} groups were rejected in some probe</summary>{listed}</details>"
    yield "<h2>Groups</h2>" + _groups(document)
    yield "<p class='muted'>All numbers of this page are in select.json and in this file, element lift-result.</p>"


def _introduction(document: Document) -> Iterator[str]:
    cost = ", ".join(f"{number(document['cost'][key])} {key}" for key in ("evaluations", "gradients", "hvps"))
    yield from (
        f"{document['num_selected']:,} of {document['num_weights']:,} weights ({document['share']:.3%}) for a budget "
        f"of {document['budget']:.3%}, by {document['method']}, knapsack {document['solver']}.",
        f"Value {number(document['predicted'])}; greedy {number(document['greedy'])}; no set exceeds "
        f"{number(document['bound'])}.",
        f"Spent, in passes over the training split: {cost}.",
    )


def _front(document: Document) -> str:
    chain, budgets = document["chain"], document["budgets"]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        points = [point for point in chain if point["share"] > 0]
        axes.plot([p["share"] for p in points], [p["value"] for p in points], ".-", color=VALIDATION, label="chain")
        axes.plot(
            [b["budget"] for b in budgets], [b["bound"] for b in budgets], "_", color=MUTED, markersize=12,
            label="bound",
        )  # fmt: skip
        axes.plot([b["share"] for b in budgets], [b["value"] for b in budgets], "o", color=ACCENT, label="chosen")
        axes.plot(document["share"], document["predicted"], "*", color=INK, markersize=13, label="selection")
        axes.set_xscale("log")
        axes.set_xlabel("share of the weights")
        axes.set_ylabel("value")
        figure.legend(loc="outside right upper")

    svg = inline_svg(
        "pareto", draw, title="Pareto front",
        description="Value of the best set against its share of the weights; the selection is marked.",
    )  # fmt: skip
    return plot_block("Pareto front", svg, "The chain adds groups by falling value per weight.", wide=True)


def _budgets(document: Document) -> str:
    rows = [
        [Cell(f"{b['budget']:.3%}"), Cell(f"{b['share']:.3%}"), Cell(f"{b['groups']:,}"), number_cell(b["value"]),
         number_cell(b["greedy"]), number_cell(b["bound"])]
        for b in document["budgets"]
    ]  # fmt: skip
    return table(["Budget", "Used", "Groups", "Value", "Greedy", "Bound"], rows)


def _groups(document: Document) -> str:
    rows = [
        [text_cell(g["group"]), Cell(f"{g['size']:,}"), number_cell(g["value"]), number_cell(g["density"]),
         Cell("yes" if g["chosen"] else "", "best" if g["chosen"] else "")]
        for g in document["groups"][:_SHOWN]
    ]  # fmt: skip
    more = len(document["groups"]) - _SHOWN
    caption = (
        f"By falling value per weight; {more} more in select.json." if more > 0 else "By falling value per weight."
    )
    return table(["Group", "Weights", "Value", "Per weight", "Chosen"], rows, caption=caption)
