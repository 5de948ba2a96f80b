"""``lift study``: a plan of many runs, one process per cell, resumable, summed up in one table."""

from __future__ import annotations

import json
import math
import os
import random
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from lift_core.cli.display import CellDisplay, plain_console
from lift_core.cli.folders import alone_in
from lift_core.cli.options import MAX_SEED
from lift_core.records import write_atomically
from lift_core.study import PLANS, Cell, Outcome, make_plan, run_study, summarize, to_markdown
from lift_core.study.notes import LIFT, has_controls
from lift_core.study.summary import measures

STUDY, TABLE, PAGE = "study.json", "study.md", "study.html"
EXAMPLE = "Example: lift study small --seeds 2 --only ridge --out runs/ridge"
_RUN = "Run and output"


def study(
    plan: Annotated[
        str | None, typer.Argument(help=f"One of {', '.join(PLANS)}.", show_default="required unless --check")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many.")] = 5,
    first_seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="The first of them.")] = 0,
    only: Annotated[str, typer.Option(metavar="REGEX", help="Cells whose 'setting | variant' it finds.")] = "",
    model: Annotated[
        str | None,
        typer.Option(help="For the plan language: hub name or folder.", show_default="the bundled GPT-2"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", show_default="runs/study-PLAN", rich_help_panel=_RUN,
            help="Folder of the cells and of the summary; the same command goes on where it was interrupted.",
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, show_default="one per core", help="Runs side by side.", rich_help_panel=_RUN)
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", rich_help_panel=_RUN, help=f"Run a cell of this {STUDY} again, drawn at random; compare."
        ),
    ] = None,
    rtol: Annotated[float, typer.Option(help="Of --check, relative.", rich_help_panel=_RUN)] = 5e-3,
    within: Annotated[
        float, typer.Option(
            help="Minutes that a cell of --check may have taken; without its controls, where it took longer with them.",
            rich_help_panel=_RUN,
        ),
    ] = 5.0,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.", rich_help_panel=_RUN)] = False,
) -> None:  # fmt: skip
    """Run a plan of many `lift run`s beside their controls and average over seeds; exit with 1 if a cell failed."""
    console = plain_console(stderr=True, quiet=quiet)
    if check is not None:
        if plan is not None:
            raise ValueError(f"--check: takes its cell from {check}; leave out the plan {plan!r}")
        raise typer.Exit(_check(check, rtol, within, console))
    if plan is None:
        raise ValueError(f"PLAN: expected one of {', '.join(PLANS)}, got nothing")
    folder = out or Path("runs") / f"study-{plan}"
    if first_seed + seeds - 1 > MAX_SEED:
        raise ValueError(f"--seeds: expected seeds up to {MAX_SEED}, got {first_seed} and {seeds - 1} more")
    cells = make_plan(plan, seeds=range(first_seed, first_seed + seeds), only=only, model=model)
    try:
        with alone_in(folder):
            outcomes = _run(cells, folder, jobs or os.cpu_count() or 1, console)
    except KeyboardInterrupt:
        typer.echo("lift: interrupted; the same command continues", err=True)
        raise typer.Exit(130) from None
    from lift_core.report import render_study, study_document, to_json_text  # matplotlib takes a second

    document = study_document(outcomes, plan=plan)
    markdown = to_markdown(summarize(outcomes), document["cells"])
    write_atomically(folder / STUDY, to_json_text(document))
    write_atomically(folder / TABLE, markdown + "\n")
    write_atomically(folder / PAGE, render_study(document))
    typer.echo(markdown)
    failed = [outcome for outcome in outcomes if outcome.document is None]
    for outcome in failed:
        typer.echo(f"Failed: {outcome.cell.name}: {outcome.error}", err=True)
    typer.echo(f"Page: {folder / PAGE}")
    raise typer.Exit(1 if failed else 0)


def _run(cells: list[Cell], folder: Path, jobs: int, console: Console) -> list[Outcome]:
    with CellDisplay(console) as display:

        def show(done: int, total: int, outcome: Outcome) -> None:
            display.show(done, total, f"{outcome.cell.name}{': failed' if outcome.document is None else ''}")

        return run_study(cells, folder, jobs=jobs, on_outcome=show)


_OF_CELL = ("setting", "variant", "seed", "settings", "preset")
_SECONDS = ("seconds", "seconds_without_controls")


def _check(path: Path, rtol: float, within: float, console: Console) -> int:
    """Run one cell of a stored study again; 1 if a number differs by more than ``rtol``, is missing, or none is there.

    It is drawn from those that took at most ``within`` minutes, with their controls or, if these took longer, without
    them.
    """
    if not 0 <= rtol < math.inf:
        raise ValueError(f"--rtol: expected a number of at least 0, got {rtol}")
    if not within >= 0:
        raise ValueError(f"--within: expected a number of minutes of at least 0, got {within}")
    stored = _stored(path)
    whole, alone = _SECONDS
    quick = [cell for cell in stored if cell[alone] <= 60 * within]
    if not quick:
        fastest = min(cell[alone] for cell in stored) / 60
        wanted = f"the fastest cell took {fastest:.2g} minutes, --within is {within:g}"
        typer.echo(f"{path}: nothing checked; {wanted}", err=True)
        return 1
    chosen = random.SystemRandom().choice(quick)
    cell = Cell(**{key: chosen[key] for key in _OF_CELL})
    typer.echo(f"{path}: {cell.setting} | {cell.variant} | seed {cell.seed}")
    if chosen[whole] > 60 * within:
        typer.echo("  without its controls, with which it took longer")
        cell = cell.without_controls()
    with tempfile.TemporaryDirectory() as folder:
        (outcome,) = _run([cell], Path(folder), 1, console)
    if outcome.document is None:
        typer.echo(f"failed: {outcome.error}", err=True)
        return 1
    expected = {kind: dict(chosen["measures"][kind]) for kind in chosen["measures"]}
    if not has_controls(cell.to_json()):
        expected = {kind: {name: of[name] for name in ("before", LIFT) if name in of} for kind, of in expected.items()}
    return 0 if _agree(expected, measures(outcome.document), rtol) else 1


def _stored(path: Path) -> list[dict[str, Any]]:
    """The finished cells of a study.json, with the measures that they have."""
    try:
        cells = list(json.loads(path.read_text(encoding="utf-8"))["cells"])
        stored: list[dict[str, Any]] = [
            {key: cell[key] for key in _OF_CELL}
            | {key: float(cell.get(key, cell["seconds"])) for key in _SECONDS}
            | {"measures": {kind: dict(cell[kind]) for kind in measures(None) if kind in cell}}
            for cell in cells
            if cell["test"] and cell["settings"]["problem"]
        ]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ValueError(f"--check: expected a {STUDY} of lift study, got {path} ({error!r})") from error
    if not stored:
        raise ValueError(f"--check: expected at least one finished cell, got none in {path}")
    return stored


_Measures = Mapping[str, Mapping[str, float | None]]


def _agree(stored: _Measures, now: _Measures, rtol: float) -> bool:
    """Whether every stored number is there again; says which are not. A method that is newer than the table is none."""
    compared = wrong = 0
    for kind, by_method in stored.items():
        for method, before in by_method.items():
            found = now[kind].get(method)
            if method not in now[kind]:
                said = "  MISSING"
            elif before is None or found is None:
                said = "" if before is found else "  DIFFERS"
            else:
                compared += 1
                said = "  DIFFERS" if abs(found - before) > rtol * abs(before) else ""
            wrong += bool(said)
            if said or kind == "test":
                typer.echo(f"  {method:24} {kind} stored {_shown(before)}, now {_shown(found)}{said}")
    if not compared:
        typer.echo("nothing checked: there was no number to compare", err=True)
    else:
        typer.echo(f"  {compared} numbers compared: {', '.join(stored)}")
    return compared > 0 and wrong == 0


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"
