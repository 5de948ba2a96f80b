"""``lift compare``: LP backends side by side, every answer judged by the same recomputed residuals."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table

from lift_core.cli.display import print_table
from lift_core.cli.options import check_options, parse_numbers, parse_pairs, plugin_class
from lift_core.direction import assemble_direction_lp, slack_unit
from lift_core.lp import LinearProgram, LPBackend, LPStatus, solve_lp
from lift_core.operators import Diagonal, GroupColumns, LinearOperator, LowRankPlusDiagonal
from lift_core.plugins import list_plugins, load_backend
from lift_core.records import write_atomically

EXAMPLE = "Example: lift compare --family direction --sizes 50,200 --backends highs,pdlp --rtol 1e-4 --out runs/compare"
COMPARISON = "compare.json"
_SHIFT = 1.0
"""Seconds added before the geometric mean, so that milliseconds do not decide it (Mittelmann's benchmarks use 10)."""
_REFUSED = "REFUSED"

Facts = dict[str, Any]


def compare(
    lp: Annotated[Path | None, typer.Option(metavar="FILE.mps", help="A linear program in MPS format.")] = None,
    family: Annotated[str | None, typer.Option(metavar="direction", help="Generate direction LPs instead.")] = None,
    sizes: Annotated[str, typer.Option(help="Weights of the generated LPs.")] = "50,200",
    rank: Annotated[int, typer.Option(min=0, help="Rank of the generated curvature beside its diagonal.")] = 8,
    num_hyper: Annotated[int, typer.Option(min=0, help="Hyperparameters of the generated LPs.")] = 4,
    slack: Annotated[float, typer.Option(min=0, max=1, help="Slack ratio ρ of the generated LPs.")] = 1e-2,
    seed: Annotated[int, typer.Option(min=0, help="Of the generated LPs.")] = 0,
    backends: Annotated[
        str | None, typer.Option(help="Names of lift list, or MODULE:NAME.", show_default="all that are installed")
    ] = None,
    backend_options: Annotated[
        list[str] | None,
        typer.Option("--backend-set", metavar="NAME.KEY=VALUE", help="Option of one backend. Repeatable."),
    ] = None,
    rtol: Annotated[str, typer.Option(help="Relative KKT tolerances to ask for.")] = "1e-4,1e-6",
    time_limit: Annotated[float, typer.Option(help="Seconds per solve.")] = 60.0,
    repeats: Annotated[int, typer.Option(min=1, help="Solves of each LP; the median time counts.")] = 3,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help=f"Folder that receives {COMPARISON}.")] = None,
) -> None:
    """Solve linear programs with several backends; exit with 1 if two answers contradict each other."""
    programs = _programs(lp, family, sizes=sizes, rank=rank, num_hyper=num_hyper, slack=slack, seed=seed)
    tolerances = parse_numbers("--rtol", rtol)
    options = _options_by_backend(backend_options or [])
    names = _names(backends, options)
    judges = [
        _load(name, rtol=tolerance, time_limit=time_limit, **options.get(name, {}))
        for name in names
        for tolerance in tolerances
    ]
    for judge in judges:
        _warm_up(judge)
    answers = [_solve(name, program, judge, repeats) for name, program in programs for judge in judges]
    means = shifted_means(answers, time_limit)
    contradictions = disagreements(answers)
    sizes_of = [{"lp": name, "rows": program.num_rows, "columns": program.num_columns} for name, program in programs]
    record = {"lps": sizes_of, "answers": answers, "means": means, "disagreements": contradictions}
    if out is not None:
        write_atomically(out / COMPARISON, json.dumps(record, indent=2, sort_keys=True, allow_nan=False) + "\n")
    _show(record)
    raise typer.Exit(1 if contradictions else 0)


def direction_program(num_weights: int, *, rank: int, num_hyper: int, slack: float, seed: int) -> LinearProgram:
    """A random direction LP with curvature ``D + V C Vᵀ``: C falls from 10 to 0.1, D lies between 0.05 and 0.15.

    Raises:
        ValueError: if rank or num_hyper exceeds the number of weights.
    """
    for name, value in (("--rank", rank), ("--num-hyper", num_hyper)):
        if value > num_weights:
            raise ValueError(f"{name}: expected at most the number of weights ({num_weights}), got {value}")
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    grad, weights = draw(num_weights), draw(num_weights)
    diagonal = 0.05 + 0.1 * draw(num_weights).sigmoid()
    hessian: LinearOperator = Diagonal(diagonal)
    if rank:
        factor = torch.linalg.qr(draw(num_weights, rank))[0]
        core = torch.logspace(1, -1, rank, dtype=torch.float64)
        hessian = LowRankPlusDiagonal(diagonal=diagonal, factor=factor, core=core)
    groups = torch.arange(num_weights) % num_hyper if num_hyper else torch.full((num_weights,), -1)
    return assemble_direction_lp(
        grad_hyper=torch.zeros(num_hyper, dtype=torch.float64),
        grad_weights=grad,
        hessian=hessian,
        mixed=GroupColumns(0.1 * weights, groups, num_groups=num_hyper),
        delta=slack * slack_unit(hessian, grad, torch.ones_like(grad)),
    )


def disagreements(answers: Sequence[Facts]) -> list[str]:
    """Sentences about pairs of answers to one LP that cannot both be right.

    Two optimal objectives may differ by ten times the sum of what their tolerances allow, relative to 1 + |objective|.
    """
    found: list[str] = []
    for index, first in enumerate(answers):
        for second in answers[index + 1 :]:
            if first["lp"] == second["lp"] and _contradict(first, second):
                pair = " and ".join(f"{a['backend']} at {a['rtol']:g}: {_verdict(a)}" for a in (first, second))
                found.append(f"{first['lp']}: {pair}")
    return found


def shifted_means(answers: Sequence[Facts], time_limit: float) -> list[Facts]:
    """Per backend and tolerance: ``(Π (t_i + 1))^{1/N} − 1`` seconds, an unsolved LP counting the whole time limit."""
    keys = dict.fromkeys((answer["backend"], answer["rtol"]) for answer in answers)
    means: list[Facts] = []
    for backend, rtol in keys:
        own = [answer for answer in answers if (answer["backend"], answer["rtol"]) == (backend, rtol)]
        times = [answer["seconds"] if answer["status"] == LPStatus.OPTIMAL.name else time_limit for answer in own]
        mean = math.exp(sum(math.log(time + _SHIFT) for time in times) / len(times)) - _SHIFT
        solved = sum(answer["status"] == LPStatus.OPTIMAL.name for answer in own)
        means.append({"backend": backend, "rtol": rtol, "solved": solved, "of": len(own), "mean_seconds": mean})
    return means


def _contradict(first: Facts, second: Facts) -> bool:
    statuses = {first["status"], second["status"]}
    if statuses == {LPStatus.OPTIMAL.name}:
        allowed = 10 * (first["rtol"] + second["rtol"])
        scale = 1 + max(abs(first["objective"]), abs(second["objective"]))
        return abs(first["objective"] - second["objective"]) > allowed * scale
    verdicts = {LPStatus.OPTIMAL.name, LPStatus.INFEASIBLE.name, LPStatus.UNBOUNDED.name}
    return len(statuses & verdicts) == 2 and all(a["certified"] or a["objective"] is not None for a in (first, second))


def _verdict(answer: Facts) -> str:
    return answer["status"] if answer["objective"] is None else f"{answer['objective']:.10g}"


def _programs(lp: Path | None, family: str | None, *, sizes: str, **shape: Any) -> list[tuple[str, LinearProgram]]:
    if (lp is None) == (family is None):
        raise ValueError("--lp, --family: expected exactly one of the two")
    if lp is not None:
        if not lp.is_file():
            raise ValueError(f"--lp: expected an MPS file, got {lp}, which is no file")
        return [(lp.name, import_module("backends").read_mps(lp))]  # the core itself knows no solver
    if family != "direction":
        raise ValueError(f"--family: expected direction, got {family!r}")
    counts = parse_numbers("--sizes", sizes)
    if not all(count >= 1 and count == int(count) for count in counts):
        raise ValueError(f"--sizes: expected whole numbers of at least 1, got {sizes!r}")
    return [(f"direction-{int(count)}", direction_program(int(count), **shape)) for count in counts]


def _options_by_backend(pairs: Iterable[str]) -> dict[str, dict[str, Any]]:
    options: dict[str, dict[str, Any]] = {}
    for key, value in parse_pairs("--backend-set", pairs).items():
        backend, dot, option = key.rpartition(".")
        if not dot:
            raise ValueError(f"--backend-set: expected NAME.KEY=VALUE, got {key}={value}")
        options.setdefault(backend, {})[option] = value
    return options


def _names(backends: str | None, options: Mapping[str, Any]) -> list[str]:
    """The chosen backends, or all that can be made."""
    if backends is not None:
        names = [name.strip() for name in backends.split(",")]
    else:
        names = [plugin.name for plugin in list_plugins("backends") if _is_available(plugin.name)]
    unused = options.keys() - set(names)
    if unused:
        raise ValueError(f"--backend-set: {', '.join(sorted(unused))} is not among the backends {', '.join(names)}")
    return names


def _is_available(name: str) -> bool:
    try:
        load_backend(name)
    except (ImportError, ValueError) as error:  # a package is missing, or an option has no default
        typer.echo(f"lift: left out: {error}", err=True)
        return False
    return True


def _load(name: str, **options: Any) -> LPBackend:
    found = plugin_class("backends", name)
    if found is not None:
        check_options(f"--backend-set {name}", found, options)
    return load_backend(name, **options)


def _warm_up(backend: LPBackend) -> None:
    """One tiny solve: the first one of a process also imports the solver's packages."""
    with suppress(ValueError):  # a backend that refuses will say so in its rows
        solve_lp(LinearProgram(c=[1.0], A=[[1.0]], row_lower=0.0, col_lower=-1.0, col_upper=1.0), backend)


def _solve(name: str, lp: LinearProgram, backend: LPBackend, repeats: int) -> Facts:
    """One row: the first answer with the median time; a backend that cannot take the LP says so in its row."""
    row: Facts = {"lp": name, "backend": backend.name, "rtol": backend.rtol}
    try:
        solutions = [solve_lp(lp, backend) for _ in range(repeats)]
    except ValueError as error:
        blank = dict.fromkeys(("objective", "bound", "worst_residual", "iterations", "seconds"))
        return row | blank | {"status": _REFUSED, "status_text": str(error), "certified": False}
    solution = solutions[0]
    return row | {
        "status": solution.status.name,
        "status_text": solution.status.value,
        "objective": _finite(solution.objective),
        "bound": _finite(solution.bound),
        "worst_residual": _finite(solution.kkt.worst),
        "iterations": solution.iterations,
        "seconds": statistics.median(each.seconds for each in solutions),
        "certified": solution.certified,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _show(record: Mapping[str, Any]) -> None:
    table = Table(caption="worst residual: recomputed in float64; time: median of the repeats")
    for head in ("LP", "backend", "rtol", "status"):
        table.add_column(head)
    for head in ("objective", "worst residual", "iterations", "seconds"):
        table.add_column(head, justify="right")
    for answer in record["answers"]:
        solved = answer["status"] == LPStatus.OPTIMAL.name
        status = answer["status"] if solved else f"✗ {answer['status']}"
        numbers = (
            _text(answer["objective"], ".8g"),
            _text(answer["worst_residual"], ".1e"),
            _text(answer["iterations"], ",d"),
            _text(answer["seconds"], ".3f"),
        )
        table.add_row(
            answer["lp"], answer["backend"], f"{answer['rtol']:g}", status, *numbers, style="" if solved else "yellow"
        )
    table.add_section()
    for mean in record["means"]:
        solved = f"{mean['solved']} of {mean['of']} solved"
        table.add_row(
            "shifted mean", mean["backend"], f"{mean['rtol']:g}", solved, "", "", "", f"{mean['mean_seconds']:.3f}"
        )
    print_table(table)
    for answer in record["answers"]:
        if answer["status"] == _REFUSED:
            typer.echo(f"{answer['backend']} on {answer['lp']}: {answer['status_text']}")
    for sentence in record["disagreements"]:
        typer.echo(f"Disagreement: {sentence}")


def _text(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
