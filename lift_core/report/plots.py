"""The plots of a run. Each takes records of its JSON document and returns inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lift_core.report.svg import (
    ACCENT,
    GRID,
    INK,
    MUTED,
    TEST,
    VALIDATION,
    category,
    inline_svg,
    log_axis,
    plain_numbers,
    ramp,
    shorten,
    zoom,
)

Facts = Mapping[str, Any]
LABELLED_ROWS = 40
"""Up to so many hyperparameters are labelled one by one."""
_RESIDUAL_FLOOR = 1e-17


def methods_plot(methods: Sequence[Facts], metric_name: str) -> str:
    """Validation and test of every method; dashed lines mark the start."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for row, method in enumerate(methods):
            pair = [method["metric"][split] for split in ("selection", "test")]
            if None in pair:
                continue
            axes.plot(pair, [row, row], color=MUTED, linewidth=1.2, zorder=1)
            axes.scatter(pair, [row, row], c=[VALIDATION, TEST], s=34, zorder=2)
        for split, colour, label in (("selection", VALIDATION, "validation"), ("test", TEST, "test")):
            axes.scatter([], [], c=colour, s=34, label=label)
            start = methods[0]["metric"][split]
            if start is not None:
                axes.axvline(start, color=colour, linestyle=(0, (4, 3)), linewidth=1, zorder=0)
        axes.set_yticks(range(len(methods)), [shorten(method["method"]) for method in methods])
        axes.get_yticklabels()[1].set_fontweight("bold")
        axes.set_ylim(len(methods) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"{metric_name} (lower is better)")
        plain_numbers(axes, "x")
        figure.legend(loc="outside upper right", ncols=2)

    return inline_svg(
        "methods", draw, height=0.9 + 0.27 * len(methods), title=f"Validation and test {metric_name} of every method",
        description="One row per method with two dots; dashed lines mark the values before the search.",
    )  # fmt: skip


def line_search_plot(step: Facts, number: int) -> str:
    """Selection loss along each candidate direction, with the step that was taken."""
    candidates = step["candidates"]
    start = step["before"]["selection"]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axhline(start, color=MUTED, linestyle=(0, (4, 3)), linewidth=1, label="before")
        for candidate, colour in zip(candidates, ramp(len(candidates)), strict=True):
            curve = sorted((t, loss) for t, loss in candidate["curve"] if t > 0 and loss is not None)
            axes.plot([t for t, _ in curve], [loss for _, loss in curve], "o-", color=colour, markersize=3,
                      linewidth=1.2, label=candidate["label"])  # fmt: skip
            if candidate["label"] == step["label"]:
                axes.plot(candidate["step_size"], candidate["selection_loss"], "*", color=INK, markersize=13, zorder=5,
                          label="accepted" if step["accepted"] else "best")  # fmt: skip
        log_axis(axes, "x", [t for candidate in candidates for t, _ in candidate["curve"]])
        zoom(axes, [loss for candidate in candidates for _, loss in candidate["curve"]], start)
        _label(axes, "step size t", "selection loss")
        figure.legend(loc="outside right upper")

    return inline_svg(
        f"line-search-{number}", draw, title=f"Line searches of round {number}",
        description=f"Selection loss against step size for {len(candidates)} directions; before: {start:.5g}. "
        f"Chosen: {step['label']}.",
    )  # fmt: skip


def slack_path_plot(step: Facts, number: int) -> str:
    """Best selection loss and LP value along the ρ-path."""
    candidates = step["candidates"]
    positions = range(len(candidates))

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, sharex=True)
        losses = [candidate["selection_loss"] for candidate in candidates]
        upper.plot(positions, [_or_nan(loss) for loss in losses], "o-", color=VALIDATION)
        upper.axhline(step["before"]["selection"], color=MUTED, linestyle=(0, (4, 3)), linewidth=1)
        chosen = [i for i, candidate in enumerate(candidates) if candidate["label"] == step["label"]]
        upper.plot(chosen, [losses[i] for i in chosen], "*", color=INK, markersize=13)
        zoom(upper, losses, step["before"]["selection"])
        _label(upper, "", "selection loss")
        values = [max(-(candidate["lp_objective"] or 0.0), 1e-16) for candidate in candidates]
        lower.plot(positions, values, "o-", color=ACCENT)
        log_axis(lower, "y", values)
        lower.set_ylabel("−LP value")
        every = -(-len(candidates) // 10)
        lower.set_xticks(positions[::every], [_slack(candidate) for candidate in candidates[::every]])
        lower.set_xlabel("slack ratio ρ (evenly spaced)")

    return inline_svg(
        f"slack-path-{number}", draw, title=f"Slack path of round {number}",
        description="Above: best selection loss for each slack ratio; below: the decrease that its LP predicts.",
    )  # fmt: skip


def residual_plot(steps: Sequence[Facts], rtol: float) -> str:
    """Relative KKT residuals of every LP against the tolerance."""
    solves = [(number, c) for number, step in enumerate(steps, start=1) for c in step["candidates"]]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for key, marker, colour in (("primal", "o", VALIDATION), ("dual", "s", TEST), ("gap", "D", ACCENT)):
            name = "lp_gap" if key == "gap" else f"lp_{key}_residual"
            heights = [_or_nan(candidate[name]) for _, candidate in solves]
            axes.plot([max(h, _RESIDUAL_FLOOR) for h in heights], marker, color=colour, label=key, markersize=4)
        axes.axhline(rtol, color=INK, linewidth=1, linestyle=(0, (4, 3)), label=f"asked: {rtol:g}")
        axes.set_yscale("log")
        axes.set_ylim(bottom=_RESIDUAL_FLOOR / 3)
        every = -(-len(solves) // 12)
        many = len(steps) > 1
        labels = [f"{number}: {_slack(c)}" if many else _slack(c) for number, c in solves]
        axes.set_xticks(range(0, len(solves), every), labels[::every], rotation=45 if many else 0)
        _label(axes, "round: slack ratio ρ" if many else "slack ratio ρ", "relative residual", plain=False)
        figure.legend(loc="outside right upper")

    return inline_svg(
        "residuals", draw, title="KKT residuals of every LP",
        description=f"Primal, dual and gap residual of {len(solves)} solves; the tolerance is {rtol:g}.",
    )  # fmt: skip


def hyper_plot(rows: Sequence[Facts]) -> str:
    """Hyperparameters before and after: labelled one by one up to `LABELLED_ROWS`, by number beyond."""
    kind = "strength" if "strength_before" in rows[0] else "λ"
    before, after = (
        [_or_nan(row[f"strength_{when}" if kind == "strength" else when]) for row in rows]
        for when in ("before", "after")
    )
    logarithmic = kind == "strength" and min(*before, *after) > 0
    labelled = len(rows) <= LABELLED_ROWS

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        if labelled:
            axes.hlines(range(len(rows)), before, after, color=MUTED, linewidth=1.4, zorder=1)
            axes.scatter(before, range(len(rows)), facecolors="none", edgecolors=MUTED, s=30, label="before", zorder=2)
            axes.scatter(after, range(len(rows)), c=ACCENT, s=30, label="after", zorder=3)
            axes.set_yticks(range(len(rows)), [shorten(row["name"]) for row in rows])
            axes.set_ylim(len(rows) - 0.4, -0.6)
        else:
            axes.vlines(range(1, len(rows) + 1), before, after, color=GRID, linewidth=1, zorder=1)
            axes.scatter(range(1, len(rows) + 1), before, c=MUTED, s=5, label="before", zorder=2)
            axes.scatter(range(1, len(rows) + 1), after, c=ACCENT, s=9, label="after", zorder=3)
            axes.set_xlabel("hyperparameter, in the order of the table below")
        (axes.set_xlabel if labelled else axes.set_ylabel)("strength w(λ)" if kind == "strength" else "λ")
        if logarithmic:
            log_axis(axes, "x" if labelled else "y", [*before, *after])
        figure.legend(loc="outside upper right", ncols=2)

    return inline_svg(
        "hyper", draw, title="Hyperparameters before and after", width=6.0 if labelled else 12.0,
        height=0.9 + 0.22 * max(len(rows), 4) if labelled else 3.6,
        description=f"{kind} of {len(rows)} hyperparameters before and after the search.",
    )  # fmt: skip


def training_plot(document: Facts) -> str:
    """Selection loss during warm-up, refits and the controls that train."""
    warmup = [(float(epoch["epoch"]), epoch["selection"]) for epoch in document["warmup"]]
    start = document["methods"][0]["selection"]
    offset = warmup[-1][0] if warmup else 0.0
    curves = training_curves(document)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        if warmup:
            axes.plot(*zip(*warmup, strict=True), "o-", color=MUTED, label="warm-up")
        for index, (name, trials) in enumerate(curves.items()):
            for trial, curve in enumerate(trials):
                xs = [offset + epoch for epoch, loss in curve if loss is not None]
                axes.plot(xs, [loss for _, loss in curve if loss is not None], ".-", color=category(index),
                          linewidth=1.2, label=None if trial else shorten(name, 22))  # fmt: skip
        lift = document["methods"][1]["selection"]
        axes.axhline(lift, color=ACCENT, linewidth=1.6, label="LiFT (no epochs)" if not _refits(document) else "LiFT")
        seen = [loss for trials in curves.values() for curve in trials for _, loss in curve]
        zoom(axes, [*seen, lift], start, room=1.5)
        longest = max((curve[-1][0] for trials in curves.values() for curve in trials), default=offset)
        axes.set_xlim(left=max(-0.5, offset - 2 * longest))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _label(axes, "epochs from the initial point", "selection loss")
        figure.legend(loc="outside right upper")

    return inline_svg(
        "training", draw, title="Training curves",
        description="Selection loss by epoch of the warm-up, of refits and of every control that trains.",
    )  # fmt: skip


def training_curves(document: Facts) -> dict[str, list[list[tuple[float, float | None]]]]:
    """By method, the curves of its trials: the longest of each, since every epoch carries the curve up to then."""
    curves: dict[str, list[list[tuple[float, float | None]]]] = {}
    for control in document["methods"][2:]:
        trials: dict[str, list[tuple[float, float | None]]] = {}
        for candidate in control["candidates"]:
            if "step_size" not in candidate:  # a line search has one, training has not
                trials[candidate["label"].rpartition("epoch")[0]] = candidate["curve"]
        if trials:
            curves[control["method"]] = list(trials.values())
    refits = _refits(document)
    return curves | ({"LiFT's refit": refits} if refits else {})


def _refits(document: Facts) -> list[list[tuple[float, float | None]]]:
    return [step["refit_curve"] for step in document["steps"] if step["refit_curve"]]


def _label(axes: Axes, x: str, y: str, *, plain: bool = True) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if plain:
        plain_numbers(axes)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _slack(candidate: Facts) -> str:
    """The ratio ρ, or the absolute δ as the label has it."""
    return candidate["label"] if candidate["slack"] is None else f"{candidate['slack']:g}"
