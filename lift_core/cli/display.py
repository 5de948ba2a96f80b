"""What the terminal shows: tables, and the progress of a search or a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from lift_core.metering import Cost
from lift_core.search import LocalSearch

_UNLIMITED = 100_000


def plain_console(*, stderr: bool = False, quiet: bool = False, width: int | None = None) -> Console:
    """A console that prints every text as it is: brackets and colons in names and messages are no markup."""
    return Console(stderr=stderr, quiet=quiet, width=width, markup=False, emoji=False)


def print_table(table: Table) -> None:
    """Print to the width of the terminal, folding long cells; into a file or a pipe, as wide as the content is."""
    console = plain_console()
    for column in table.columns:
        column.overflow = "fold"
    if not console.is_terminal:
        unlimited = plain_console(width=_UNLIMITED)
        console = plain_console(width=Measurement.get(unlimited, unlimited.options, table).maximum)
    console.print(table)


class SearchDisplay:
    """A bar on a terminal, one line per stage elsewhere: a context manager that is also a search's ``on_progress``.

    Args:
        search: whose stages are counted.
        console: where to write.
    """

    def __init__(self, search: LocalSearch, console: Console) -> None:
        self._before = {"warm-up": 0, "LP step": search.warmup_epochs}
        self._controls_from = search.warmup_epochs + search.rounds
        self._console, self._last = console, ""
        self._bar = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[spent]}"), TimeElapsedColumn(),
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        total = self._controls_from + len(search.controls)
        self._task = self._bar.add_task("starting", total=total, spent="")

    def __enter__(self) -> SearchDisplay:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, stage: str, done: int, total: int, cost: Cost) -> None:
        name = f"{stage} {done + 1}/{total}"
        spent = f"{cost.gradients:.4g} gradients, {cost.hvps:.4g} HVPs"
        if self._console.is_terminal:
            finished = self._before.get(stage, self._controls_from) + done
            self._bar.update(self._task, description=name, completed=finished, spent=spent)
        elif name != self._last:
            self._console.print(name, highlight=False)
        self._last = name


class CellDisplay:
    """A bar on a terminal, one line per cell elsewhere: a context manager that is also a contest's ``on_cell``.

    Args:
        console: where to write.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("starting", total=None)

    def __enter__(self) -> CellDisplay:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int, answer: Mapping[str, Any]) -> None:
        seconds = "" if answer["seconds"] is None else f" after {answer['seconds']:.2f} s"
        self.show(
            done, total, f"{answer['lp']}: {answer['backend']} at {answer['rtol']:g}: {answer['status']}{seconds}"
        )

    def show(self, done: int, total: int, name: str) -> None:
        """Say which cell was finished last."""
        if self._console.is_terminal:
            self._bar.update(self._task, description=name, completed=done, total=total)
        else:
            self._console.print(f"{done}/{total} {name}", highlight=False, soft_wrap=True)
