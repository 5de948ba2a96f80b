"""A figure of a study. One setting: the test metric of every method, best one on top. Several: LiFT's lead in each.

With ``--against`` the test metric of every method against its gradients, or against its validation metric, a panel for
each setting. Dots are means over seeds, hollow where there is one seed; bars are sample standard deviations, of leads
95 % confidence intervals, grey where they hold 0. Gradients count a Hessian product as two and leave evaluations out.

Example:
    python benchmarks/study_figure.py docs/results/articles.json --out docs/figures/articles.svg
    python benchmarks/study_figure.py docs/results/language.json --out docs/figures/language.svg
    python benchmarks/study_figure.py docs/results/language.json --against gradients --out runs/cost.svg
"""

from __future__ import annotations

import argparse
import io
import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pool_studies import read_studies

from lift_core.records import write_atomically
from lift_core.study import Row
from lift_core.study.notes import LIFT, CellFacts
from lift_core.study.summary import half_width, lead_seeds

OURS, OTHERS, BEHIND, OPEN = "#0b7285", "#495057", "#c92a2a", "#adb5bd"
COLUMNS = 3
"""Settings side by side."""
FEW, MANY = (0, 0.3, 1, 3, 10, 30), (0, 1, 10, 100, 1_000, 10_000)
"""Ticks of gradients, which are linear below 0.3, then logarithmic."""
MARKERS = "os^vD<>pPXhd8"
COLOURS = (*(f"C{turn}" for turn in range(10)), "#212529", "#e64980", "#fab005")


def draw_setting(rows: Sequence[Row]) -> Figure:
    """Test metric by method."""
    rows = sorted(rows, key=lambda row: -row.test.mean)
    figure, axes = plt.subplots(figsize=(7, 0.8 + 0.28 * len(rows)))
    for place, row in enumerate(rows):
        colour = OURS if row.method == LIFT else OTHERS
        axes.errorbar(
            row.test.mean,
            place,
            xerr=row.test.deviation,
            fmt="o",
            ms=5,
            color=colour,
            capsize=2,
            mfc=_fill(row, colour),
        )
        axes.annotate(
            f"{_spent(row):.1f}", (1.01, place), xycoords=("axes fraction", "data"), va="center", color=colour
        )
    axes.annotate("gradients", (1.01, len(rows) - 0.4), xycoords=("axes fraction", "data"), fontsize=8, color=OTHERS)
    axes.set_yticks(range(len(rows)), [row.method for row in rows])
    axes.set_xlabel(f"test {rows[0].metric}, mean ± standard deviation over seeds{_about_hollow(rows)}")
    _lighten(axes)
    return figure


def draw_leads(rows: Sequence[Row], cells: Sequence[CellFacts] = ()) -> Figure:
    """How far LiFT is ahead of each method, a panel for each setting; with the ``cells`` of the study."""
    common = lead_seeds(rows, cells)
    methods = [method for method in dict.fromkeys(row.method for row in rows) if method != LIFT]
    figure, panels = _panels(rows, height=1.0 + 0.2 * len(methods), left=2.2, sharey=True)
    for axes, here in panels:
        for row in here:
            if row.ahead is not None:
                half = half_width(row.ahead, len(common[row.setting, row.method]))
                sure = half is not None and abs(row.ahead.mean) > half
                colour = (OURS if row.ahead.mean >= 0 else BEHIND) if sure else OPEN
                axes.errorbar(
                    row.ahead.mean, -methods.index(row.method), xerr=half, fmt="o", ms=4, color=colour, capsize=2,
                    mfc="white" if half is None else colour,
                )  # fmt: skip
        for method in set(methods) - {row.method for row in here}:
            axes.annotate(
                "not run", (0.98, -methods.index(method)), xycoords=("axes fraction", "data"), fontsize=6, color=OPEN,
                ha="right", va="center",
            )  # fmt: skip
        axes.axvline(0, color=OTHERS, lw=0.8, zorder=0)
        axes.set_yticks([-place for place in range(len(methods))], methods)
        _lighten(axes)
    about = "grey: the interval holds 0, or there is none"
    figure.supxlabel(
        f"LiFT ahead by: test {rows[0].metric}, mean over seeds with its 95 % confidence interval; {about}"
        f"{_about_hollow(rows)}",
        fontsize=9,
    )
    return figure


def draw_against(rows: Sequence[Row], what: str) -> Figure:
    """The test metric of every method against its gradients or its validation metric, a panel for each setting."""
    methods = list(dict.fromkeys(row.method for row in rows))
    figure, panels = _panels(rows, height=2.6, left=2.4)
    for axes, here in panels:
        for row in here:
            x = _spent(row) if what == "gradients" else row.validation.mean
            ours, turn = row.method == LIFT, methods.index(row.method)
            colour = OURS if ours else COLOURS[turn % len(COLOURS)]
            axes.errorbar(
                x, row.test.mean, yerr=row.test.deviation, fmt="*" if ours else MARKERS[turn % len(MARKERS)],
                ms=15 if ours else 5, color=colour, mfc="none" if ours else _fill(row, colour), elinewidth=0.6,
                zorder=3 if ours else 2, label=row.method,
            )  # fmt: skip
        if what == "gradients":
            axes.set_xscale("symlog", linthresh=0.3, linscale=0.4)
            most = max(map(_spent, rows))
            ticks = FEW if most <= FEW[-1] else MANY
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.set_xlim(-0.05, 1.3 * max(most, FEW[1]))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    shown: dict[str, Artist] = {
        label: handle for axes, _ in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if any(len(row.seeds) == 1 for row in rows):
        shown["hollow: one seed"] = Line2D([], [], ls="", marker="o", ms=5, color=OTHERS, mfc="white")
    figure.legend(shown.values(), shown.keys(), loc="outside right upper", fontsize=8, frameon=False)
    shown_as = "gradients, a Hessian product counted as two" if what == "gradients" else f"validation {rows[0].metric}"
    figure.supxlabel(f"{shown_as}; means over seeds, bars one standard deviation", fontsize=9)
    figure.supylabel(f"test {rows[0].metric}", fontsize=9)
    return figure


def _panels(
    rows: Sequence[Row], *, height: float, left: float, sharey: bool = False
) -> tuple[Figure, list[tuple[Axes, list[Row]]]]:
    """A figure with a titled panel for each setting, and the rows that belong there; inches a line, and beside them."""
    settings = list(dict.fromkeys(row.setting for row in rows))
    columns = min(COLUMNS, len(settings))
    lines = -(-len(settings) // columns)
    size = (left + 2.4 * columns, lines * height)
    figure, grid = plt.subplots(lines, columns, figsize=size, squeeze=False, sharey=sharey, layout="constrained")
    for axes in grid.flat[len(settings) :]:
        axes.set_visible(False)
    for axes, setting in zip(grid.flat, settings, strict=False):
        axes.set_title("\n".join(setting.split(", ", 1)), fontsize=8)
    return figure, [
        (axes, [row for row in rows if row.setting == setting])
        for axes, setting in zip(grid.flat, settings, strict=False)
    ]


def _spent(row: Row) -> float:
    return row.gradients.mean + 2 * row.products.mean


def _fill(row: Row, colour: str) -> str:
    return "white" if len(row.seeds) == 1 else colour


def _about_hollow(rows: Sequence[Row]) -> str:
    return "; hollow: one seed" if any(len(row.seeds) == 1 for row in rows) else ""


def _lighten(axes: Axes) -> None:
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)


def as_svg(figure: Figure) -> str:
    """Equal figures give equal text."""
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    return text.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, metavar="STUDY.json", help="of lift study or of pool_studies.py")
    parser.add_argument("--setting", default="", metavar="REGEX", help="which, where there are several")
    parser.add_argument("--against", choices=["gradients", "validation"], help="what to draw the test metric against")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.svg")
    options = parser.parse_args()
    try:
        wanted = re.compile(options.setting)
        (study,) = read_studies([options.study])
    except re.error as error:
        parser.error(f"--setting: expected a regular expression, got {options.setting!r} ({error})")
    except ValueError as error:
        parser.error(str(error))
    matplotlib.rcParams.update({"svg.hashsalt": "lift", "font.size": 9})
    rows = [Row.from_json(row) for row in study["rows"] if wanted.search(row["setting"])]
    settings = list(dict.fromkeys(row.setting for row in rows))
    if not settings:
        parser.error(f"--setting: expected part of a setting of the study, got {options.setting!r}")
    if options.against:
        drawn = draw_against(rows, options.against)
    else:
        drawn = draw_setting(rows) if len(settings) == 1 else draw_leads(rows, study["cells"])
    write_atomically(options.out, as_svg(drawn))
    print(f"{', '.join(settings)}: {options.out}")


if __name__ == "__main__":
    main()
