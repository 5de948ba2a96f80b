"""``lift check``: the contract suite for one plug-in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from lift_core.cli.display import print_table
from lift_core.cli.options import MAX_SEED, load_backend_with, load_problem_with, parse_pairs, plugin_class
from lift_core.lp import LPBackend
from lift_core.problem import BilevelProblem
from lift_core.records import write_atomically

EXAMPLE = "Example: lift check my_package.solver:MySolver --set rtol=1e-4"
CHECKS = "check.json"


@dataclass(frozen=True)
class Check:
    """A named part of a contract."""

    name: str
    run: Callable[[], None]


def check(
    plugin: Annotated[str, typer.Argument(help="MODULE:NAME, or a name of lift list.")],
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Option to make the plug-in with. Repeatable."),
    ] = None,
    rtol: Annotated[
        float, typer.Option(help="Agreement of a problem's derivatives; about 1e-2 where it computes in float32.")
    ] = 1e-4,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of the random directions of a problem's checks.")] = 0,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help=f"Folder that receives {CHECKS}.")] = None,
) -> None:
    """Hold a problem or a backend to its contract; exit with 1 if any check fails."""
    if not 0 < rtol < 1:
        raise ValueError(f"--rtol: expected a number in (0, 1), got {rtol}")
    made = _make(plugin, parse_pairs("--set", options or []))
    checks = backend_checks(made) if isinstance(made, LPBackend) else problem_checks(made, rtol=rtol, seed=seed)
    rows = [_outcome(each) for each in checks]
    if out is not None:
        write_atomically(out / CHECKS, json.dumps({"plugin": plugin, "checks": rows}, indent=2) + "\n")
    _show(plugin, rows)
    raise typer.Exit(0 if all(row["passed"] for row in rows) else 1)


def backend_checks(backend: LPBackend) -> Iterator[Check]:
    """Options, every named program, and then what concerns no single program."""
    from lift_core.testing import backends, lp_cases

    yield Check("options", lambda: backends.check_options(backend))
    for case in lp_cases():
        yield Check(f"program: {case.name}", lambda case=case: backends.check_case(backend, case))
    yield Check("broken data, warm start, sequence, time limit", lambda: backends.check_backend(backend, cases=()))


def problem_checks(problem: BilevelProblem, *, rtol: float, seed: int) -> Iterator[Check]:
    """Description, data, and then every derivative."""
    from lift_core.testing import problems

    yield Check("names, bounds, groups, initial point", lambda: problems.check_description(problem))
    yield Check("splits and losses", lambda: problems.check_data(problem))
    yield Check("derivatives", lambda: problems.check_problem(problem, rtol=rtol, seed=seed))


def _make(plugin: str, options: Mapping[str, Any]) -> LPBackend | BilevelProblem:
    """The plug-in, made with its options.

    Raises:
        ValueError: if there is nothing of that name, or it is neither a problem nor a backend.
    """
    backend, problem = plugin_class("backends", plugin), plugin_class("problems", plugin)
    if backend is not None and issubclass(backend, LPBackend):
        return load_backend_with("--set", plugin, **options)
    if problem is not None and issubclass(problem, BilevelProblem):
        return load_problem_with("--set", plugin, **options)
    raise ValueError(
        f"plugin: expected a name of lift list or MODULE:NAME of a BilevelProblem or LPBackend class, got {plugin!r}"
    )


def _outcome(check: Check) -> dict[str, Any]:
    try:
        check.run()
    except AssertionError as error:
        return {"check": check.name, "passed": False, "message": str(error)}
    except Exception as error:  # whatever a plug-in raises is what is wrong with it
        return {"check": check.name, "passed": False, "message": f"{type(error).__name__}: {error}"}
    return {"check": check.name, "passed": True, "message": ""}


def _show(plugin: str, rows: list[dict[str, Any]]) -> None:
    table = Table(title=plugin)
    for head in ("check", "result", "message"):
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(
            row["check"], "pass" if row["passed"] else "FAIL", row["message"], style="" if row["passed"] else "red"
        )
    print_table(table)
    typer.echo(f"{sum(row['passed'] for row in rows)} of {len(rows)} checks passed")
