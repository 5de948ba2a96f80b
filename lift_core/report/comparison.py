"""What a comparison of backends says of itself: one JSON document, and one page made from nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch

from lift_core.comparison import disagreements, is_solved, performance_profiles, shifted_means
from lift_core.report.comparison_plots import profile_plot, residual_time_plot, size_plot
from lift_core.report.document import finite, lift_version
from lift_core.report.parts import card, card_row, figure, lead, page, warning_list
from lift_core.report.tables import Cell, number, number_cell, seconds, settings_table, table, text_cell

Document = Mapping[str, Any]


def comparison_document(
    answers: Sequence[Document], *, time_limit: float, unreadable: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """Everything that is known about a comparison, as JSON values; NaN and inf become null.

    Args:
        answers: of `Contest.answers`.
        time_limit: what an unsolved program counts in means.
        unreadable: programs that were left out, with the reason.
    """
    programs = {answer["lp"]: {key: answer[key] for key in ("lp", "rows", "columns", "entries")} for answer in answers}
    return finite(
        {
            "answers": list(answers),
            "lps": list(programs.values()),
            "means": shifted_means(answers, time_limit),
            "profiles": [profile._asdict() for profile in performance_profiles(answers)],
            "disagreements": disagreements(answers),
            "unreadable": dict(unreadable),
            "time_limit": time_limit,
            "versions": {"lift-bilevel": lift_version(), "torch": torch.__version__},
        }
    )


def render_comparison(document: Document) -> str:
    """The page. Equal documents give equal pages.

    Args:
        document: see `comparison_document`.
    """
    return page("LP backends side by side", _body(document), document)


def _body(document: Document) -> Iterator[str]:
    backends = list(dict.fromkeys(mean["backend"] for mean in document["means"]))
    rtols = list(dict.fromkeys(mean["rtol"] for mean in document["means"]))
    yield lead(
        [
            f"{len(document['lps'])} linear programs, {len(backends)} backends, relative tolerances "
            f"{', '.join(f'{rtol:g}' for rtol in rtols)}, {seconds(document['time_limit'])} each.",
            "Solved means that within the time limit the residuals, recomputed in float64, meet the tolerance, or that "
            "a proof that there is no optimum was verified.",
        ]
    )
    yield card_row(_best_card(document["means"], rtol) for rtol in rtols)
    yield warning_list(
        [f"Contradiction: {sentence}" for sentence in document["disagreements"]]
        + [f"Left out: {name}: {reason}" for name, reason in document["unreadable"].items()]
    )
    yield "<h2>Means</h2>"
    yield _means_table(document["means"])
    for rtol in rtols:
        yield f'<h2>At {rtol:g}</h2><div class="plots">{"".join(_figures(document, backends, rtol))}</div>'
    shown = residual_time_plot(document["answers"], backends, rtols)
    caption = "Recomputed in float64 from x and y; dashed: what was asked for. Only answers with a point."
    yield f'<h2>Accuracy</h2><div class="plots">{figure("Residual against time", shown, caption, wide=True)}</div>'
    yield f"<h2>Answers</h2><details open><summary>Every cell</summary>{_answers_table(document['answers'])}</details>"
    yield from _details(document)


def _best_card(means: Sequence[Document], rtol: float) -> str:
    own = [mean for mean in means if mean["rtol"] == rtol]
    best = min(own, key=lambda mean: (-mean["solved"], mean["mean_seconds"]))
    value = f"{best['solved']} <small>of {best['of']} solved, mean {seconds(best['mean_seconds'])}</small>"
    return card(f"Most solved, then fastest, at {rtol:g}", value, best["backend"])


def _figures(document: Document, backends: Sequence[str], rtol: float) -> Iterator[str]:
    profiles = [profile for profile in document["profiles"] if profile["rtol"] == rtol]
    caption = "Share of the programs solved within τ times the fastest backend's time (Dolan and Moré)."
    yield figure("Performance profile", profile_plot(profiles, backends, rtol), caption)
    answers = [answer for answer in document["answers"] if answer["rtol"] == rtol]
    caption = "Size: numbers that the matrix is stored in. Crosses: not solved, drawn at the time limit."
    yield figure("Time against size", size_plot(answers, backends, rtol, document["time_limit"]), caption)


def _means_table(means: Sequence[Document]) -> str:
    head = ["Backend", "Tolerance", "Solved", "Of", "Mean time", "Mean iterations"]
    rows = [
        [
            text_cell(mean["backend"]),
            Cell(f"{mean['rtol']:g}"),
            Cell(str(mean["solved"])),
            Cell(str(mean["of"])),
            Cell(seconds(mean["mean_seconds"])),
            number_cell(mean["mean_iterations"]),
        ]
        for mean in sorted(means, key=lambda mean: -mean["rtol"])
    ]
    caption = (
        "Geometric means shifted by 1 s and by 1 iteration. An unsolved program counts as the whole time limit; "
        "iterations are averaged over solved programs, so that they compare only where the same ones are solved."
    )
    return table(head, rows, caption=caption)


def _answers_table(answers: Sequence[Document]) -> str:
    head = ["LP", "Rows", "Columns", "Backend", "Tolerance", "Status", "Objective", "Objective error",
            "Primal", "Dual", "Gap", "Iterations", "Time"]  # fmt: skip
    rows = [
        [
            text_cell(answer["lp"]),
            Cell(f"{answer['rows']:,}"),
            Cell(f"{answer['columns']:,}"),
            text_cell(answer["backend"]),
            Cell(f"{answer['rtol']:g}"),
            Cell(_status(answer), "text" if is_solved(answer) else "text bad"),
            Cell("–" if answer["objective"] is None else f"{answer['objective']:.9g}"),
            *(Cell(_power(answer[key])) for key in ("objective_error", "primal_residual", "dual_residual", "gap")),
            Cell(number(answer["iterations"])),
            Cell(seconds(answer["seconds"])),
        ]
        for answer in answers
    ]
    caption = (
        "Objective error: how far the objective may be from the optimal value, relative: the gap, and what the "
        "violations that are left are worth at the answer's own prices. It decides no status."
    )
    return table(head, rows, caption=caption)


def _status(answer: Document) -> str:
    return f"{answer['status']}, proved" if answer["certified"] else answer["status"]


def _details(document: Document) -> Iterator[str]:
    options = {f"{answer['backend']} at {answer['rtol']:g}": answer["options"] for answer in document["answers"]}
    versions = ", ".join(f"{name} {value}" for name, value in sorted(document["versions"].items()))
    settings = settings_table(options | {"Versions": versions})
    yield f"<details><summary>Options of the backends</summary>{settings}</details>"
    yield "<p class='muted'>All numbers of this page are in compare.json and in this file, element lift-result.</p>"


def _power(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}"
