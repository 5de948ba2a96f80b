"""What the terminal shows: tables, and the progress of a search."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from lift_core.metering import Cost
from lift_core.search import LocalSearch

_WIDTH = 118  # of tables that go to a file or a pipe


def print_table(table: Table) -> None:
    """Print to the width of the terminal, or to one that fits every table where there is none."""
    terminal = Console()
    (terminal if terminal.is_terminal else Console(width=_WIDTH)).print(table)


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
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[spent]}"),
            TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal,
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
