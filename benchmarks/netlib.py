"""The Netlib table: this package's solvers beside HiGHS's on general linear programs, judged alike.

Every backend gets every program at every tolerance. A cell is solved if the residuals recomputed in float64 meet the
tolerance within the time limit, and wrong if it is called optimal while its objective is off the known value by more
than max(10 x tolerance, 1e-6), relative to max(1, |value|). Programs without an optimum must be proved to have none.
PDLP and InteriorPoint run without presolve, HiGHS with its default one. Finished cells are kept: run the same command
again to go on after an interruption.

Example:
    python benchmarks/netlib.py --data netlib --seconds 60 --tolerance 1e-4 1e-8 --out runs/netlib
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from backends import PDLP, HiGHS, InteriorPoint, read_mps
from lift_core import LPBackend
from lift_core.cli.display import CellDisplay, print_table
from lift_core.comparison import Contender, Contest, Program, is_solved, program_files, shifted_means
from lift_core.records import write_atomically

VALUES, STATUSES = "optimal_values.csv", "infeasible/status.csv"
OPTIMAL = "OPTIMAL"

Facts = dict[str, Any]


def contenders(rtol: float, seconds: float) -> dict[str, LPBackend]:
    """By the name that the table uses."""
    shared = {"rtol": rtol, "time_limit": seconds}
    return {
        "PDLP": PDLP(**shared),
        "InteriorPoint": InteriorPoint(**shared),
        "HiGHS simplex": HiGHS(method="simplex", **shared),
        "HiGHS ipm": HiGHS(method="ipm", **shared),
        "HiGHS pdlp": HiGHS(method="pdlp", **shared),
        "HiGHS hipdlp": HiGHS(method="hipdlp", **shared),
    }


def read_table(path: Path) -> dict[str, dict[str, str]]:
    """The rows of a CSV file by their name; empty where there is no file."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def programs(data: Path, only: Sequence[str]) -> list[Program]:
    """The programs that the two tables name and that lie in the folder."""
    paths = [data / f"{name}.mps" for name in read_table(data / VALUES)]
    paths += [data / "infeasible" / f"{name}.mps" for name in read_table(data / STATUSES)]
    chosen = [path for path in paths if path.is_file() and (not only or path.stem in only)]
    if not chosen:
        raise SystemExit(f"--data: {data} holds none of the programs that {VALUES} and {STATUSES} in it name")
    return program_files(chosen, read_mps=read_mps)


def verdict(answer: Facts, values: dict[str, dict[str, str]], statuses: dict[str, dict[str, str]]) -> str:
    """``"solved"``, ``"wrong"`` or ``"unsolved"``."""
    name = answer["lp"].removesuffix(".mps")
    if name in statuses:
        expected = statuses[name]["expected_status"].upper()
        if answer["status"] == expected and is_solved(answer):
            return "solved"
        claims_other = answer["status"] in {OPTIMAL, "INFEASIBLE", "UNBOUNDED"} - {expected}
        return "wrong" if claims_other else "unsolved"
    if answer["status"] in ("INFEASIBLE", "UNBOUNDED"):
        return "wrong"
    if answer["status"] != OPTIMAL:
        return "unsolved"
    value = float(values[name]["optimal_objective"])
    off = abs(answer["objective"] - value) / max(1.0, abs(value))
    if off > max(10 * answer["rtol"], 1e-6):
        return "wrong"
    return "solved" if is_solved(answer) else "unsolved"


def summarise(answers: list[Facts], seconds: float) -> list[Facts]:
    """One row per backend and tolerance."""
    feasible = [answer for answer in answers if not answer["has_no_optimum"]]
    rows = shifted_means(feasible or answers, seconds)
    for row in rows:
        own = [a for a in answers if (a["backend"], a["rtol"]) == (row["backend"], row["rtol"])]
        with_optimum = [a for a in own if not a["has_no_optimum"]]
        without = [a for a in own if a["has_no_optimum"]]
        row["of"] = len(with_optimum)
        row["solved"] = sum(a["verdict"] == "solved" for a in with_optimum)
        row["wrong"] = sum(a["verdict"] == "wrong" for a in with_optimum)
        row["proved"] = sum(a["verdict"] == "solved" for a in without)
        row["falsely_claimed"] = sum(a["verdict"] == "wrong" for a in without)
        row["without_optimum"] = len(without)
    return rows


def show(answers: list[Facts], rows: list[Facts]) -> None:
    """The programs with their times, and the counts with their means."""
    for rtol in dict.fromkeys(answer["rtol"] for answer in answers):
        own = [answer for answer in answers if answer["rtol"] == rtol]
        names = list(dict.fromkeys(answer["backend"] for answer in own))
        table = Table(title=f"seconds at {rtol:g}; – unsolved, ✗ wrong")
        for head in ("LP", *names):
            table.add_column(head, justify="left" if head == "LP" else "right")
        for lp in dict.fromkeys(answer["lp"] for answer in own):
            cells = {answer["backend"]: _cell(answer) for answer in own if answer["lp"] == lp}
            table.add_row(lp.removesuffix(".mps"), *(cells[name] for name in names))
        print_table(table)
    table = Table(
        title="Netlib", caption="means: shifted geometric, by 1 s and 1 iteration; iterations of solved programs"
    )
    heads = ("tolerance", "solved", "wrong", "mean seconds", "mean iterations", "no optimum: proved", "falsely claimed")
    for head in ("backend", *heads):
        table.add_column(head, justify="left" if head == "backend" else "right")
    for row in rows:
        iterations = "–" if row["mean_iterations"] is None else f"{row['mean_iterations']:,.0f}"
        proved = f"{row['proved']} of {row['without_optimum']}"
        table.add_row(
            row["backend"], f"{row['rtol']:g}", f"{row['solved']} of {row['of']}", str(row["wrong"]),
            f"{row['mean_seconds']:.3f}", iterations, proved, str(row["falsely_claimed"]),
        )  # fmt: skip
    print_table(table)


def _cell(answer: Facts) -> str:
    marks = {"solved": "", "wrong": "✗", "unsolved": "–"}
    return marks[answer["verdict"]] or f"{answer['seconds']:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help=f"folder with *.mps, {VALUES}, {STATUSES}")
    parser.add_argument("--out", type=Path, default=Path("runs/netlib"))
    parser.add_argument("--seconds", type=float, default=60.0, help="per solve")
    parser.add_argument("--tolerance", type=float, nargs="+", default=[1e-4, 1e-8])
    parser.add_argument("--only", nargs="+", default=[], help="names of programs")
    parser.add_argument("--backends", nargs="+", default=[], help="names of the table, all by default")
    args = parser.parse_args()
    entered = [
        Contender(name, backend)
        for rtol in args.tolerance
        for name, backend in contenders(rtol, args.seconds).items()
        if not args.backends or name in args.backends
    ]
    if not entered:
        raise SystemExit(f"--backends: expected some of {', '.join(contenders(1e-4, 1.0))}, got {args.backends}")
    contest = Contest(programs=programs(args.data, args.only), contenders=entered, folder=args.out)
    values, statuses = read_table(args.data / VALUES), read_table(args.data / STATUSES)
    try:
        with CellDisplay(Console(stderr=True)) as display:
            answers = [
                answer
                | {
                    "verdict": verdict(answer, values, statuses),
                    "has_no_optimum": answer["lp"].removesuffix(".mps") in statuses,
                }
                for answer in contest.answers(display)
            ]
    except KeyboardInterrupt:
        raise SystemExit(f"interrupted; {args.out} keeps the finished cells, the same command goes on") from None
    rows = summarise(answers, args.seconds)
    record = {"seconds": args.seconds, "rows": rows, "answers": answers}
    write_atomically(args.out / "netlib.json", json.dumps(record, indent=2, sort_keys=True) + "\n")
    show(answers, rows)


if __name__ == "__main__":
    main()
