"""Random linear programs with known optima against every backend: no wrong answer, and every early stop with a bound.

Degenerate and redundant rows, empty rows, fixed variables, infinite bounds, scales over eight decades; and direction
LPs with any curvature. Counts of statuses are printed; a wrong answer ends the run with an error. Finished rows are
kept: the same command goes on after an interruption.

Example:
    python benchmarks/random_lps.py --examples 1000 --out runs/random-lps
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections import Counter
from pathlib import Path

import torch
from hypothesis import HealthCheck, Phase, given, settings
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from backends import PDLP, DualNewton, HiGHS, InteriorPoint
from lift_core import LPBackend
from lift_core.records import write_atomically
from lift_core.testing import KnownLP
from lift_core.testing.random_checks import check_answer, early_stop
from lift_core.testing.strategies import direction_lps, known_lps, nasty_lps

FAMILIES = {"quarters": known_lps(), "nasty": nasty_lps(), "direction": direction_lps(max_weights=25)}


def backends(limit: float) -> dict[str, LPBackend]:
    return {
        "HiGHS": HiGHS(method="simplex", rtol=1e-7, time_limit=limit),
        "InteriorPoint": InteriorPoint(rtol=1e-8, time_limit=limit),
        "DualNewton": DualNewton(rtol=1e-8, time_limit=limit),
        "PDLP": PDLP(rtol=1e-4, time_limit=limit),
    }


def run(name: str, backend: LPBackend, family: str, examples: int, progress: Progress) -> Counter[str]:
    counts: Counter[str] = Counter()
    task = progress.add_task(f"{name}, {family}", total=examples)

    @settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )  # fmt: skip
    @given(known=FAMILIES[family])
    def solve(known: KnownLP) -> None:
        counts[check_answer(known, backend).name] += 1
        counts["early stops with a valid bound"] += early_stop(known, backend)
        progress.advance(task)

    solve()
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=1_000, help="in all, for each backend")
    parser.add_argument("--limit", type=float, default=5.0, help="seconds of one solve")
    parser.add_argument("--backends", nargs="*", choices=list(backends(1.0)), default=list(backends(1.0)))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    path, asked = args.out / "random_lps.json", {"examples": args.examples, "limit": args.limit}
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    rows: list[dict[str, object]] = kept["rows"] if kept.get("asked") == asked else []
    done = {(row["backend"], row["family"]) for row in rows}
    with Progress() as progress:
        for name, family in itertools.product(args.backends, FAMILIES):
            if (name, family) in done:
                continue
            counts = run(name, backends(args.limit)[name], family, args.examples // len(FAMILIES), progress)
            rows.append({"backend": name, "family": family, **counts})
            write_atomically(path, json.dumps({"asked": asked, "rows": rows}, indent=2) + "\n")
    table = Table(title="random LPs")
    columns = ["backend", "family", *sorted({key for row in rows for key in row} - {"backend", "family"})]
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(str(row.get(column, 0)) for column in columns))
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
