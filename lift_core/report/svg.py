"""Matplotlib figures as inline SVG: deterministic, accessible, and coloured by the page's own light or dark theme."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType  # since matplotlib 3.11

INK, MUTED, GRID, PAPER = "#010203", "#040506", "#070809", "#0a0b0c"
"""Placeholders that `inline_svg` turns into CSS variables."""

VALIDATION, TEST, ACCENT = "#3b82f6", "#ea7317", "#0d9b84"
_RAMP = LinearSegmentedColormap.from_list("ramp", ["#0d9b84", "#3b82f6", "#8b5cf6", "#d946ef", "#f43f5e"])
_CATEGORIES = ("#3b82f6", "#ea7317", "#8b5cf6", "#d03f7a", "#7a9a01", "#0891b2", "#b45309")

_RC: dict[RcKeyType, Any] = {
    "svg.fonttype": "none",
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)", PAPER: "var(--paper)"}


def inline_svg(
    name: str, draw: Callable[[Figure], None], *, title: str, description: str, width: float = 6.0, height: float = 3.2
) -> str:
    """Draw a figure and return it as one ``<svg>`` element without prefixes, links or dates.

    Args:
        name: unique on the page: prefix of all ids.
        draw: fills an empty figure.
        title, description: read out by screen readers.
        width, height: in inches of 72 points; text has 9 points.
    """
    buffer = io.StringIO()
    with rc_context({**_RC, "svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    body = buffer.getvalue()
    body = body[body.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body).replace('xlink:href="#', f'href="#{name}-')
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, variable)
    labels = f'<title id="{name}-title">{html.escape(title)}</title><desc>{html.escape(description)}</desc>'
    head = f'<svg viewBox="0 0 {width * 72:g} {height * 72:g}" role="img" aria-labelledby="{name}-title">{labels}'
    return head + body[body.index(">") + 1 :].strip()


def ramp(count: int) -> list[str]:
    """Colours of an ordered family, readable on white and on black."""
    return [to_hex(_RAMP(i / max(count - 1, 1))) for i in range(count)]


def category(index: int) -> str:
    """Colours of an unordered family."""
    return _CATEGORIES[index % len(_CATEGORIES)]


def zoom(axes: Axes, values: Sequence[float | None], *references: float, room: float = 1.0) -> None:
    """Limit the y axis to the best value and the references, so that one far-off evaluation does not flatten the rest.

    Args:
        room: share of that range that is kept free above it.
    """
    seen = [value for value in values if value is not None]
    low, high = min([*seen, *references]), max(references)
    span = max(high - low, 1e-3 * abs(high), 1e-12)
    axes.set_ylim(low - 0.12 * span, min(high + room * span, max([*seen, high]) + 0.12 * span))


def plain_numbers(axes: Axes, which: str = "y") -> None:
    """Tick labels in short decimal notation, without offsets that must be added in one's head."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.5g}"))


def log_axis(axes: Axes, which: str, values: Sequence[float]) -> None:
    """A logarithmic axis whose labels stay readable when it spans less than two decades."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    (axes.set_yscale if which == "y" else axes.set_xscale)("log")
    positive = [value for value in values if value > 0]
    if positive and max(positive) < 100 * min(positive):
        narrow = max(positive) < 4 * min(positive)
        axis.set_major_locator(MaxNLocator(5) if narrow else LogLocator(subs=(1, 2, 5)))
        plain_numbers(axes, which)
    axis.set_minor_formatter(NullFormatter())


def shorten(text: str, length: int = 28) -> str:
    """At most ``length`` characters, cut in the middle: ends of parameter names tell most."""
    if len(text) <= length:
        return text
    left = (length - 1) // 2
    return f"{text[:left]}…{text[-(length - 1 - left) :]}"
