"""A figure of one setting of a study: the test metric of every method, mean and standard deviation, best one on top.

Example:
    python benchmarks/study_figure.py docs/results/long/articles_5.json --out docs/figures/articles_5.svg
"""

from __future__ import annotations

import argparse
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt

from lift_core.records import write_atomically

OURS, OTHERS = "#0b7285", "#495057"


def draw(rows: Sequence[Mapping[str, Any]], lift: str) -> str:
    """The figure as SVG. Equal rows give equal text."""
    matplotlib.rcParams.update({"svg.hashsalt": "lift", "font.size": 9})
    rows = sorted(rows, key=lambda row: -row["test"]["mean"])
    figure, axes = plt.subplots(figsize=(7, 0.8 + 0.28 * len(rows)))
    for place, row in enumerate(rows):
        spread = row["test"]["deviation"] or 0.0
        colour = OURS if row["method"] == lift else OTHERS
        axes.errorbar(row["test"]["mean"], place, xerr=spread, fmt="o", ms=5, color=colour, capsize=2)
        spent = row["gradients"]["mean"] + 2 * row["products"]["mean"]
        axes.annotate(f"{spent:.1f}", (1.01, place), xycoords=("axes fraction", "data"), va="center", color=colour)
    axes.annotate("gradients", (1.01, len(rows) - 0.4), xycoords=("axes fraction", "data"), fontsize=8, color=OTHERS)
    axes.set_yticks(range(len(rows)), [row["method"] for row in rows])
    axes.set_xlabel(f"test {rows[0]['metric']}, mean ± standard deviation over seeds")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    return text.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, metavar="STUDY.json", help="of lift study")
    parser.add_argument("--setting", default="", metavar="REGEX", help="which, where there are several")
    parser.add_argument("--highlight", default="LiFT", metavar="METHOD", help="the method in colour")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.svg")
    options = parser.parse_args()
    if not options.study.is_file():
        parser.error(f"STUDY.json: not found: {options.study}")
    rows = json.loads(options.study.read_text(encoding="utf-8"))["rows"]
    settings = [name for name in dict.fromkeys(row["setting"] for row in rows) if re.search(options.setting, name)]
    if len(settings) != 1:
        parser.error(f"--setting: expected one of the settings, got {options.setting!r}, which finds {settings}")
    write_atomically(options.out, draw([row for row in rows if row["setting"] == settings[0]], options.highlight))
    print(f"{settings[0]}: {options.out}")


if __name__ == "__main__":
    main()
