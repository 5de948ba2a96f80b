"""``lift compare``: LP backends side by side, every answer judged by the same recomputed residuals."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from lift_core.cli.contest_settings import (
    DENSE,
    ContestSettings,
    keep_settings,
    options_by_label,
    read_settings,
)
from lift_core.cli.display import CellDisplay, plain_console, print_table
from lift_core.cli.folders import alone_in
from lift_core.cli.options import MAX_SEED, parse_numbers
from lift_core.comparison import REFUSED, Contest, is_solved
from lift_core.records import write_atomically

EXAMPLE = "Example: lift compare --family direction --sizes 50,200 --backends highs,pdlp --rtol 1e-4 --out runs/compare"
COMPARISON, PAGE = "compare.json", "compare.html"

_LARGEST = 10**9
"""Weights of a generated LP: 8 GB for one vector."""
_FAMILY, _RUN = "Generated LPs", "Run and output"


def compare(
    context: typer.Context,
    lps: Annotated[
        list[str] | None,
        typer.Argument(metavar="[LP]...", help="MPS files, saved LPs, folders of them, quoted patterns."),
    ] = None,
    family: Annotated[
        str | None, typer.Option(metavar="direction", help="Generate direction LPs.", rich_help_panel=_FAMILY)
    ] = None,
    sizes: Annotated[str, typer.Option(help="Weights.", rich_help_panel=_FAMILY)] = "50,200",
    rank: Annotated[
        str, typer.Option(help="Ranks of the curvature beside its diagonal, or dense.", rich_help_panel=_FAMILY)
    ] = "8",
    condition: Annotated[str, typer.Option(help="Condition numbers.", rich_help_panel=_FAMILY)] = "200",
    slack: Annotated[str, typer.Option(help="Slack ratios ρ.", rich_help_panel=_FAMILY)] = "0.01",
    num_hyper: Annotated[int, typer.Option(min=0, help="Hyperparameters.", rich_help_panel=_FAMILY)] = 4,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of the generated LPs.", rich_help_panel=_FAMILY)] = 0,
    backends: Annotated[
        str | None,
        typer.Option(
            help="Names of lift list, or MODULE:NAME; LABEL=NAME enters one twice.", show_default="all installed"
        ),
    ] = None,
    backend_options: Annotated[
        list[str] | None,
        typer.Option("--backend-set", metavar="NAME.KEY=VALUE", help="Option of one backend or label. Repeatable."),
    ] = None,
    rtol: Annotated[str, typer.Option(help="Relative KKT tolerances to ask for.")] = "1e-4,1e-6",
    time_limit: Annotated[float, typer.Option(help="Seconds per solve.", rich_help_panel=_RUN)] = 60.0,
    repeats: Annotated[
        int, typer.Option(min=1, help="Solves of each LP; the median time counts.", rich_help_panel=_RUN)
    ] = 3,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", rich_help_panel=_RUN,
            help=f"Folder that receives {COMPARISON}, {PAGE} and every cell as it finishes.",
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Continue the comparison in this folder.", rich_help_panel=_RUN),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.", rich_help_panel=_RUN)] = False,
) -> None:  # fmt: skip
    """Solve linear programs with several backends; exit with 1 where answers contradict or an LP is unreadable."""
    if resume is not None:
        _refuse_other_settings(context, resume)
        settings, folder = read_settings(resume), resume
    else:
        folder = out
        settings = ContestSettings(
            lps=tuple(str(Path(path).resolve()) for path in lps or ()),
            family=family,
            sizes=_whole_numbers("--sizes", sizes),
            ranks=tuple(
                None if part == DENSE else _whole_numbers("--rank", part, smallest=0)[0] for part in rank.split(",")
            ),
            conditions=parse_numbers("--condition", condition),
            slacks=parse_numbers("--slack", slack),
            num_hyper=num_hyper,
            seed=seed,
            backends=None if backends is None else tuple(backends.split(",")),
            backend_options=options_by_label(backend_options or []),
            rtols=parse_numbers("--rtol", rtol),
            time_limit=time_limit,
            repeats=repeats,
        )
    contest = settings.contest(folder)
    with alone_in(folder):
        raise typer.Exit(_execute(contest, settings, quiet=quiet))


def _execute(contest: Contest, settings: ContestSettings, *, quiet: bool) -> int:
    """Run to the end, or to an interruption; the exit code."""
    folder, unreadable = contest.folder, dict[str, str]()
    if folder is not None:
        keep_settings(folder, settings)
    try:
        with CellDisplay(plain_console(stderr=True, quiet=quiet)) as display:
            answers = list(
                contest.answers(display, on_unreadable=lambda lp, error: unreadable.update({lp.name: str(error)}))
            )
    except KeyboardInterrupt:
        go_on = f"; continue with: lift compare --resume {shlex.quote(str(folder))}" if folder is not None else ""
        typer.echo(f"lift: interrupted{go_on}", err=True)
        return 130
    if unreadable and not answers:
        raise ValueError(f"LP: none could be read; {'; '.join(unreadable.values())}")
    from lift_core.report import comparison_document, render_comparison, to_json_text  # matplotlib takes a second

    document = comparison_document(answers, time_limit=settings.time_limit, unreadable=unreadable)
    if folder is not None:
        write_atomically(folder / COMPARISON, to_json_text(document))
        write_atomically(folder / PAGE, render_comparison(document))
    _show(document)
    if folder is not None:
        typer.echo(f"Page: {folder / PAGE}")
    return 1 if document["disagreements"] or unreadable else 0


def _refuse_other_settings(context: typer.Context, resume: Path) -> None:
    given = [
        name
        for name, value in context.params.items()
        if name not in ("resume", "quiet")
        and value not in (None, [], ())
        and getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]
    if given:
        raise ValueError(f"--resume: takes every setting from {resume}; leave out {', '.join(sorted(given))}")


def _whole_numbers(flag: str, text: str, *, smallest: int = 1) -> tuple[int, ...]:
    numbers = parse_numbers(flag, text)
    if not all(smallest <= number <= _LARGEST and number.is_integer() for number in numbers):
        raise ValueError(f"{flag}: expected whole numbers from {smallest} to {_LARGEST:,}, got {text!r}")
    return tuple(map(int, numbers))


def _show(document: Mapping[str, Any]) -> None:
    table = Table(
        caption="objective error: how far the objective may be from the optimum, relative; it and the worst residual "
        "are recomputed in float64; time: median of the repeats"
    )
    for head in ("LP", "backend", "rtol", "status"):
        table.add_column(head)
    for head in ("objective", "objective error", "worst residual", "iterations", "seconds"):
        table.add_column(head, justify="right")
    for answer in document["answers"]:
        solved = is_solved(answer)
        numbers = (
            _text(answer["objective"], ".8g"),
            _text(answer["objective_error"], ".1e"),
            _text(answer["worst_residual"], ".1e"),
            _text(answer["iterations"], ",d"),
            _text(answer["seconds"], ".3f"),
        )
        status = answer["status"] if solved else f"✗ {answer['status']}"
        style = "" if solved else "yellow"
        table.add_row(answer["lp"], answer["backend"], f"{answer['rtol']:g}", status, *numbers, style=style)
    table.add_section()
    for mean in document["means"]:
        solved = f"{mean['solved']} of {mean['of']} solved"
        iterations, seconds = _text(mean["mean_iterations"], ",.0f"), f"{mean['mean_seconds']:.3f}"
        table.add_row("shifted mean", mean["backend"], f"{mean['rtol']:g}", solved, "", "", "", iterations, seconds)
    print_table(table)
    for answer in document["answers"]:
        if answer["status"] == REFUSED:
            typer.echo(f"{answer['backend']} on {answer['lp']}: {answer['status_text']}")
    for name, reason in document["unreadable"].items():
        typer.echo(f"Left out: {name}: {reason}")
    for sentence in document["disagreements"]:
        typer.echo(f"Disagreement: {sentence}")


def _text(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
