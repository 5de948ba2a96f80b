"""``lift select``: choose what to tune, and say what every budget would buy."""

from __future__ import annotations

import inspect
import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich import box
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from lift_core.cli import flags
from lift_core.cli.display import plain_console, print_table
from lift_core.cli.folders import alone_in
from lift_core.cli.options import MAX_SEED, check_options, parse_numbers, parse_pairs, plugin_class
from lift_core.cli.settings import CONFIG
from lift_core.metering import Cost
from lift_core.plugins import load_backend, load_problem
from lift_core.problem import BilevelProblem
from lift_core.records import CheckpointError, write_atomically
from lift_core.selection.selector import MEASURES, Outcome, Selector, named_measure, selection_document

EXAMPLE = "Example: lift select network --budget 0.1 --max-size 64 --out runs/select"
SELECTION, DOCUMENT, REPORT = "selection.json", "select.json", "report.html"
_OF_SELECTOR = ("by", "max_size", "measure", "solver", "backend")
SHOWN = 12
"""Groups that the terminal lists."""


def select(
    problem: Annotated[str, typer.Argument(help="A name of lift list, or MODULE:NAME.")] = "gpt2_wikitext2",
    problem_options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Option of the problem: a JSON value or text. Repeatable."),
    ] = None,
    budget: Annotated[float, typer.Option(help="Share of the weights that may be tuned, in (0, 1].")] = 0.01,
    budgets: Annotated[str, typer.Option(help="Other shares to compare with.")] = "0.001,0.01,0.05,0.2",
    by: Annotated[
        str,
        typer.Option(
            help="Groups: tensor, or what the problem knows (block, kind, block-kind, lora); or patterns of tensor "
            "names, separated by commas."
        ),
    ] = "tensor",
    max_size: Annotated[
        int | None, typer.Option(min=1, help="Cut larger groups into pieces of so many weights.")
    ] = None,
    measure: Annotated[str, typer.Option(help=f"What a group is worth: {', '.join(MEASURES)}.")] = "exact",
    solver: Annotated[str, typer.Option(help="exact (by --backend) or greedy.")] = "exact",
    backend: Annotated[str, typer.Option(help="Solves the knapsack: a backend that takes integers.")] = "highs",
    steps: Annotated[int, typer.Option(min=0, help="Steps of full tuning; 0 probes at the start.")] = 8,
    every: Annotated[int, typer.Option(min=1, help="Steps between two probes.")] = 8,
    num_batches: Annotated[int, typer.Option(min=1, help="Training batches of one probe.")] = 1,
    learning_rate: Annotated[float, typer.Option(help="Adam's; also the first step of forward probes.")] = 1e-3,
    preconditioner: Annotated[str, typer.Option(help="Step that is probed: adam or gradient.")] = "adam",
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of everything random but the problem.")] = 0,
    threads: flags.Threads = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", show_default="runs/select-PROBLEM")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the report's path alone.")] = False,
) -> None:
    """Choose which groups of weights to tune for a budget: influence, knapsack, Pareto front.

    DIR receives selection.json (names; for lift run, trainable= or peft), select.json (every number) and report.html.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    chosen: dict[str, Any] = {
        "by": by, "max_size": max_size, "measure": measure, "solver": solver, "backend": backend, "steps": steps,
        "every": every, "num_batches": num_batches, "learning_rate": learning_rate, "preconditioner": preconditioner,
    }  # fmt: skip
    others, selector = parse_numbers("--budgets", budgets), make_selector(chosen, seed=seed)
    options = parse_pairs("--set", problem_options or [])
    settings = {"problem": problem, "problem_options": options, "budget": budget, "budgets": others, "seed": seed}
    found = plugin_class("problems", problem)
    if found is not None:
        check_options("--set", found, options)
    folder = out or Path("runs") / f"select-{problem.rpartition(':')[2]}"
    try:
        with alone_in(folder):
            if (folder / CONFIG).exists():
                raise CheckpointError(f"--out: {folder} holds a run of lift run; choose another folder")
            _refuse_another_selection(folder, settings | chosen)
            raise typer.Exit(
                _execute(load_problem(problem, **options), selector, settings | chosen, folder, quiet=quiet)
            )
    except KeyboardInterrupt:
        typer.echo("lift: interrupted; nothing was written", err=True)
        raise typer.Exit(130) from None


def make_selector(options: Mapping[str, Any], *, seed: int) -> Selector:
    """The selector of options named like the flags; those left out have their defaults.

    Raises:
        ValueError: for unknown names or values.
    """
    chosen = dict(options)
    solver, backend = chosen.pop("solver", "exact"), chosen.pop("backend", "highs")
    if solver not in ("exact", "greedy"):
        raise ValueError(f"--solver: expected exact or greedy, got {solver!r}")
    by, max_size = chosen.pop("by", "tensor"), chosen.pop("max_size", None)
    if isinstance(by, str) and any(mark in by for mark in ",*?["):
        by = [part.strip() for part in by.split(",") if part.strip()]
    check_options("--select-set", Selector, {"by": by, "max_size": max_size})
    name = chosen.pop("measure", "exact")
    of_measure = [option for option in inspect.signature(named_measure).parameters if option != "name"]
    for option in chosen.keys() - of_measure:
        known = ", ".join((*_OF_SELECTOR, *of_measure))
        raise ValueError(f"--select-set {option}={chosen[option]}: there is no such option; expected one of {known}")
    check_options("--select-set", named_measure, chosen)
    return Selector(
        by=by, max_size=max_size, measure=named_measure(name, **chosen),
        backend=load_backend(str(backend)) if solver == "exact" else None, seed=seed,
    )  # fmt: skip


@contextmanager
def selection_progress(console: Console) -> Generator[Any]:
    """A spinner with what was spent so far; one line where there is no terminal. Gives an ``on_spend``."""
    bar = Progress(
        SpinnerColumn(), TextColumn("selecting: {task.fields[spent]}"), TimeElapsedColumn(), console=console,
        transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    task = bar.add_task("selecting", total=None, spent="")
    if not console.is_terminal:
        console.print("selecting", highlight=False)

    def on_spend(cost: Cost) -> None:
        spent = f"{cost.gradients:.4g} gradients, {cost.hvps:.4g} HVPs, {cost.evaluations:.4g} evaluations"
        bar.update(task, spent=spent)

    with bar:
        yield on_spend


def _refuse_another_selection(folder: Path, settings: Mapping[str, Any]) -> None:
    """A folder holds one selection: nothing is overwritten by one with other settings."""
    path = folder / DOCUMENT
    if not path.exists():
        return
    try:
        there = dict(json.loads(path.read_text(encoding="utf-8"))["settings"])
    except (KeyError, TypeError, ValueError):  # ValueError: no JSON
        raise CheckpointError(f"--out: {path} does not say its settings; delete it, or choose another folder") from None
    for key, here in json.loads(json.dumps(settings)).items():
        if there.get(key) != here:
            raise CheckpointError(
                f"--out: {folder} holds a selection with other settings ({key} is {there.get(key)} there and {here} "
                "here); choose another folder"
            )


def _execute(
    problem: BilevelProblem, selector: Selector, settings: Mapping[str, Any], folder: Path, *, quiet: bool
) -> int:
    with selection_progress(plain_console(stderr=True, quiet=quiet)) as on_spend:
        outcome = selector.select(problem, settings["budget"], others=settings["budgets"], on_spend=on_spend)
    document = selection_document(outcome) | {"settings": json.loads(json.dumps(settings))}
    write_selection(outcome, document, folder)
    if not quiet:
        print_table(_groups_table(document))
        print_table(_budgets_table(document))
        rejections = document["facts"].get("rejections", [])
        if rejections:
            typer.echo(f"Note: {len(rejections)} groups were rejected in some probe; {folder / DOCUMENT} says why.")
    typer.echo(f"Report: {folder / REPORT}")
    return 0


def write_selection(outcome: Outcome, document: Mapping[str, Any], folder: Path) -> None:
    """selection.json, select.json and report.html."""
    from lift_core.report.selection import render_selection  # matplotlib takes a second to import

    page = render_selection(document)
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    outcome.selection.save(folder / SELECTION)
    write_atomically(folder / DOCUMENT, text)
    write_atomically(folder / REPORT, page)


def _groups_table(document: Mapping[str, Any]) -> Table:
    from lift_core.report.tables import number

    rows = document["groups"]
    more = f"; {len(rows) - SHOWN} more in {DOCUMENT}" if len(rows) > SHOWN else ""
    table = Table(title=f"{document['method']} on {document['problem']}", box=box.SIMPLE_HEAD,
                  caption=f"by falling value per weight{more}")  # fmt: skip
    table.add_column("group")
    for head in ("weights", "value", "per weight", "chosen"):
        table.add_column(head, justify="right")
    for row in rows[:SHOWN]:
        marks = (f"{row['size']:,}", number(row["value"]), number(row["density"]), "yes" if row["chosen"] else "")
        table.add_row(row["group"], *marks)
    return table


def _budgets_table(document: Mapping[str, Any]) -> Table:
    from lift_core.report.tables import number

    table = Table(title="budgets", box=box.SIMPLE_HEAD, caption="bound: no set within the budget is worth more")
    for head in ("budget", "used", "groups", "value", "greedy", "bound"):
        table.add_column(head, justify="right")
    for row in document["budgets"]:
        style = "bold" if row["budget"] == document["budget"] else ""
        values = (number(row[key]) for key in ("value", "greedy", "bound"))
        table.add_row(f"{row['budget']:.3%}", f"{row['share']:.3%}", str(row["groups"]), *values, style=style)
    return table
