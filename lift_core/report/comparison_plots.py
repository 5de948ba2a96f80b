"""The plots of a comparison of backends. Each takes records of its JSON document and returns inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lift_core.comparison import is_solved
from lift_core.report.svg import INK, MUTED, category, inline_svg, log_axis, shorten

Facts = Mapping[str, Any]
_FLOOR = 1e-17
_SHORTEST = 1e-4
_MARKERS = "osD^vP*"
_DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))


def profile_plot(profiles: Sequence[Facts], backends: Sequence[str], rtol: float) -> str:
    """Share of programs solved within a factor of the fastest time, one step curve per backend."""
    largest = max((step[0] for profile in profiles for step in profile["steps"]), default=1.0)

    def draw(canvas: Figure) -> None:
        axes = canvas.subplots()
        for profile in profiles:
            index = backends.index(profile["backend"])
            ratios, shares = [1.0], [0.0]
            for ratio, share in profile["steps"]:
                ratios.append(ratio)
                shares.append(share)
            axes.step([*ratios, 1.3 * largest], [*shares, shares[-1]], where="post", color=category(index),
                      linestyle=_DASHES[index // 7 % len(_DASHES)], label=shorten(profile["backend"], 22))  # fmt: skip
        log_axis(axes, "x", [1.0, 1.3 * largest])
        axes.set_xlim(1.0, 1.3 * largest)
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        _label(axes, "τ: times the fastest time", "programs solved")
        canvas.legend(loc="outside right upper")

    return inline_svg(
        _name("profile", rtol), draw, title=f"Performance profile at {rtol:g}",
        description=f"For {len(profiles)} backends, the share of programs solved within a factor of the fastest time.",
    )  # fmt: skip


def size_plot(answers: Sequence[Facts], backends: Sequence[str], rtol: float, time_limit: float) -> str:
    """Time of each program against its size; crosses at the time limit where it was not solved."""

    def draw(canvas: Figure) -> None:
        axes = canvas.subplots()
        for index, backend in enumerate(backends):
            own = [answer for answer in answers if answer["backend"] == backend]
            solved = [(_size(answer), _time(answer)) for answer in own if is_solved(answer)]
            missed = [(_size(answer), time_limit) for answer in own if not is_solved(answer)]
            axes.plot([size for size, _ in solved], [time for _, time in solved], _MARKERS[index // 7 % len(_MARKERS)],
                      color=category(index), label=shorten(backend, 22), markersize=4.5, alpha=0.85)  # fmt: skip
            axes.plot([size for size, _ in missed], [time for _, time in missed], "x", color=category(index))
        axes.axhline(time_limit, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="time limit")
        log_axis(axes, "x", [_size(answer) for answer in answers])
        log_axis(axes, "y", [_time(answer) for answer in answers if is_solved(answer)] + [time_limit])
        _label(axes, "size of the program", "seconds")
        canvas.legend(loc="outside right upper")

    return inline_svg(
        _name("size", rtol), draw, title=f"Time against size at {rtol:g}",
        description=f"Seconds against the numbers stored, {len(answers)} answers of {len(backends)} backends.",
    )  # fmt: skip


def residual_time_plot(answers: Sequence[Facts], backends: Sequence[str], rtols: Sequence[float]) -> str:
    """Worst relative residual of every answer against its time, one marker per tolerance."""
    points = [a for a in answers if a["worst_residual"] is not None and a["seconds"] is not None]

    def draw(canvas: Figure) -> None:
        axes = canvas.subplots()
        for index, backend in enumerate(backends):
            axes.plot([], [], "o", color=category(index), label=shorten(backend, 22), markersize=4.5)
            for marker, rtol in zip(_MARKERS * len(rtols), rtols, strict=False):
                own = [a for a in points if (a["backend"], a["rtol"]) == (backend, rtol)]
                axes.plot([_time(a) for a in own], [max(a["worst_residual"], _FLOOR) for a in own], marker,
                          color=category(index), markersize=4.5, alpha=0.85)  # fmt: skip
        for marker, rtol in zip(_MARKERS * len(rtols), rtols, strict=False):
            axes.axhline(rtol, color=INK, linewidth=1, linestyle=(0, (4, 3)))
            axes.plot([], [], marker, color=INK, fillstyle="none", label=f"asked: {rtol:g}", markersize=4.5)
        log_axis(axes, "x", [_time(answer) for answer in points])
        axes.set_yscale("log")
        _label(axes, "seconds", "worst relative residual")
        canvas.legend(loc="outside right upper")

    return inline_svg(
        "residual-time", draw, title="Residual against time", width=12.0, height=3.8,
        description=f"Worst recomputed residual and seconds of {len(points)} answers of {len(backends)} backends.",
    )  # fmt: skip


def _name(plot: str, rtol: float) -> str:
    """An id: tolerances of one page differ."""
    return f"{plot}-{rtol:g}".replace(".", "-").replace("+", "")


def _size(answer: Facts) -> float:
    return float(answer["entries"] or answer["columns"])


def _time(answer: Facts) -> float:
    return max(answer["seconds"], _SHORTEST)


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
