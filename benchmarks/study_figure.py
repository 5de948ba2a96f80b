"""A figure of a study. One setting: the test metric of every method, best one on top. Several: LiFT's lead in each.

Dots are means over seeds, bars sample standard deviations. Gradients count a Hessian product as two and leave
evaluations out.

Example:
    python benchmarks/study_figure.py docs/results/articles.json --out docs/figures/articles.svg
    python benchmarks/study_figure.py docs/results/language.json --out docs/figures/language.svg
"""

from __future__ import annotations

import argparse
import io
import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pool_studies import LIFT, read_studies

from lift_core.records import write_atomically
from lift_core.study import Row

OURS, OTHERS, BEHIND = "#0b7285", "#495057", "#c92a2a"
COLUMNS = 3
"""Settings side by side."""


def draw_setting(rows: Sequence[Row]) -> Figure:
    """Test metric by method."""
    rows = sorted(rows, key=lambda row: -row.test.mean)
    figure, axes = plt.subplots(figsize=(7, 0.8 + 0.28 * len(rows)))
    for place, row in enumerate(rows):
        colour = OURS if row.method == LIFT else OTHERS
        axes.errorbar(row.test.mean, place, xerr=row.test.deviation, fmt="o", ms=5, color=colour, capsize=2)
        spent = row.gradients.mean + 2 * row.products.mean
        axes.annotate(f"{spent:.1f}", (1.01, place), xycoords=("axes fraction", "data"), va="center", color=colour)
    axes.annotate("gradients", (1.01, len(rows) - 0.4), xycoords=("axes fraction", "data"), fontsize=8, color=OTHERS)
    axes.set_yticks(range(len(rows)), [row.method for row in rows])
    axes.set_xlabel(f"test {rows[0].metric}, mean ± standard deviation over seeds")
    _lighten(axes)
    return figure


def draw_leads(rows: Sequence[Row]) -> Figure:
    """How far LiFT is ahead of each method, a panel for each setting."""
    settings = list(dict.fromkeys(row.setting for row in rows))
    methods = [method for method in dict.fromkeys(row.method for row in rows) if method != LIFT]
    columns = min(COLUMNS, len(settings))
    lines = -(-len(settings) // columns)
    size = (2.2 + 2.4 * columns, lines * (1.0 + 0.2 * len(methods)))
    figure, grid = plt.subplots(lines, columns, figsize=size, squeeze=False, sharey=True, layout="constrained")
    for axes, setting in zip(grid.flat, settings, strict=False):
        here = [row for row in rows if row.setting == setting and row.ahead is not None]
        for row in here:
            assert row.ahead is not None
            place, colour = -methods.index(row.method), OURS if row.ahead.mean >= 0 else BEHIND
            axes.errorbar(row.ahead.mean, place, xerr=row.ahead.deviation, fmt="o", ms=4, color=colour, capsize=2)
        axes.axvline(0, color=OTHERS, lw=0.8)
        axes.set_title("\n".join(setting.split(", ", 1)), fontsize=8)
        axes.set_yticks([-place for place in range(len(methods))], methods)
        _lighten(axes)
    for axes in grid.flat[len(settings) :]:
        axes.set_visible(False)
    figure.supxlabel(f"LiFT ahead by: test {rows[0].metric}, mean ± standard deviation over seeds", fontsize=9)
    return figure


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
    draw = draw_setting if len(settings) == 1 else draw_leads
    write_atomically(options.out, as_svg(draw(rows)))
    print(f"{', '.join(settings)}: {options.out}")


if __name__ == "__main__":
    main()
