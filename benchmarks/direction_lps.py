"""Direction LPs: `InteriorPoint` against the best method of HiGHS, `DualNewton` against it where few rows bind,
`PDLP` by size and along a path, memory by size.

Ratios are of medians of interleaved solves in one run; both sides meet the same recomputed residuals. HiGHS gets the
lifted form. Times are seconds of the clock: let nothing else run. A solve that misses the tolerance or the limit counts
with what it took until then and is not repeated; where the best method of HiGHS does so, the ratio is a lower bound.
Memory is the peak of a process, the program included.

Example:
    python benchmarks/direction_lps.py --sizes 1000 --dense 300 --repeats 3 --out runs/direction-lps
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from backends import PDLP, DualNewton, HiGHS, InteriorPoint
from backends.memory import direction_lp_bytes, dual_newton_bytes, interior_point_bytes, pdlp_bytes
from lift_core import LinearProgram, LPBackend, LPStatus, MatrixFree, solve_lp, solve_lps
from lift_core.operators import DirectionMatrix
from lift_core.records import write_atomically
from lift_core.testing.families import dense_direction_lp, factored_direction_lp, trained_direction_lp

RANK, NUM_HYPER = 32, 12
TRAINED_SLACKS = (1e-2, 1e-1)
SLACKS = (0.0, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
MEMORY_SIZES = ((7_087_872, 64, 12), (124_439_808, 16, 12))

Row = dict[str, object]


def timed(lp: LinearProgram, backend: LPBackend) -> tuple[float, int, str]:
    """Seconds, iterations, and the status."""
    began = time.perf_counter()
    solution = solve_lp(lp, backend)
    return time.perf_counter() - began, solution.iterations, solution.status.name


def against_highs(name: str, lp: LinearProgram, methods: list[str], repeats: int, limit: float) -> Row:
    """Medians of `InteriorPoint` and of every method of HiGHS, interleaved; the best method makes the ratio."""
    ours = InteriorPoint(rtol=1e-6, time_limit=limit)
    peers = {method: HiGHS(method=method, rtol=1e-6, time_limit=limit, presolve="off") for method in methods}
    seconds: dict[str, list[float]] = {"ours": [], **{method: [] for method in methods}}
    missed: dict[str, str] = {}
    iterations, status = 0, ""
    for _ in track(range(repeats), description=name):
        spent, iterations, status = timed(lp, ours)
        seconds["ours"].append(spent)
        for method, peer in peers.items():
            if method not in missed:
                spent, _, outcome = timed(lp, peer)
                seconds[method].append(spent)
                missed |= {} if outcome == LPStatus.OPTIMAL.name else {method: outcome}
    medians = {who: statistics.median(values) for who, values in seconds.items()}
    best = min(methods, key=medians.__getitem__)
    at_least = "≥ " if best in missed else ""
    return {
        "problem": name, "ours, s": medians["ours"], "iterations": iterations, "status": status, "best of HiGHS": best,
        "HiGHS, s": f"{at_least}{medians[best]:.3g}", "ratio": f"{at_least}{medians[best] / medians['ours']:.3g}",
        "missed": missed, "medians": medians,
    }  # fmt: skip


def alone(n: int, limit: float, threads: int) -> Row:
    """`InteriorPoint` on the factored family, with the peak memory of this process."""
    torch.set_num_threads(threads)
    lp, cpu = factored_direction_lp(n), time.process_time()
    clock, iterations, status = timed(lp, InteriorPoint(rtol=1e-6, time_limit=limit))
    cpu = time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
    return {
        "problem": f"factored, n = {n:,}", "seconds": clock, "CPU s": cpu, "iterations": iterations,
        "status": status, "peak, GiB": peak,
    }  # fmt: skip


def in_own_process(sizes: list[int], limit: float, threads: int) -> list[Row]:
    """`alone` for each size, in a fresh process each."""
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh, max_tasks_per_child=1) as pool:
        return [pool.submit(alone, n, limit, threads).result() for n in track(sizes, description="InteriorPoint alone")]


def first_order(sizes: list[int], limit: float) -> list[Row]:
    """`PDLP` at 1e-4 on the factored family, single and along a path of six slacks."""
    rows: list[Row] = []
    for n in track(sizes, description="PDLP, factored"):
        lp = factored_direction_lp(n, rank=RANK, num_hyper=NUM_HYPER, slack=1.0)
        unit = float(lp.row_upper[0])
        path = [_with_delta(lp, slack * unit) for slack in SLACKS]
        backend = PDLP(rtol=1e-4, time_limit=limit)
        iterations: list[int] = []
        seconds: list[float] = []
        for one in path:
            spent, taken, _ = timed(one, backend)
            seconds.append(spent)
            iterations.append(taken)
        began = time.perf_counter()
        together = list(solve_lps(path, backend))
        spent, single = time.perf_counter() - began, statistics.median(seconds)
        rows.append(
            {
                "problem": f"factored, n = {n:,}",
                "iterations": iterations,
                "single, s": single,
                "path, s": spent,
                "path / single": spent / single,
                "path / sum of singles": spent / sum(seconds),
                "solved": f"{sum(one.status.ok for one in together)} of {len(path)}",
            }
        )
    return rows


def trained(sizes: list[int], limit: float, repeats: int) -> list[Row]:
    """`DualNewton` and `InteriorPoint` at 1e-6 on programs like those of trained networks, interleaved."""
    rows: list[Row] = []
    for n in track(sizes, description="DualNewton, trained"):
        for slack in TRAINED_SLACKS:
            lp = trained_direction_lp(n, slack=slack)
            pair = (DualNewton(rtol=1e-6, time_limit=limit), InteriorPoint(rtol=1e-6, time_limit=limit))
            both = list(zip(*([timed(lp, backend) for backend in pair] for _ in range(repeats)), strict=True))
            seconds = [statistics.median(spent for spent, _, _ in runs) for runs in both]
            row: Row = {"problem": f"trained, n = {n:,}, ρ = {slack:g}"}
            for backend, median, runs in zip(pair, seconds, both, strict=True):
                who = type(backend).__name__
                row |= {f"{who}, s": median, f"{who}, iterations": runs[0][1], f"{who}, status": runs[0][2]}
            rows.append(row | {"ratio": seconds[1] / seconds[0]})
    return rows


def probing(n: int, limit: float) -> Row:
    """Iterations of r2HPDHG with products alone against those with entries, both without polishing."""
    lp = dense_direction_lp(n, slack=1e-1)
    assert isinstance(lp.A, DirectionMatrix)
    hessian = lp.A.hessian
    free = DirectionMatrix(lp.A.mixed, MatrixFree(n, hessian.matvec))
    backend = PDLP(rtol=1e-4, algorithm="halpern", polish=False, time_limit=limit)
    entries = solve_lp(lp, backend)
    products = solve_lp(_with_matrix(lp, free), backend)
    return {
        "problem": f"products alone, n = {n:,}",
        "by entries": entries.iterations,
        "by probing": products.iterations,
        "ratio": products.iterations / entries.iterations,
        "status": f"{entries.status.name}, {products.status.name}",
    }


def memory() -> list[Row]:
    return [
        {
            "n": n, "rank": rank, "hyperparameters": p, "program, GiB": direction_lp_bytes(n, rank, p) / 2**30,
            "InteriorPoint, GiB": interior_point_bytes(n, rank, p, device="cuda") / 2**30,
            "DualNewton, GiB": dual_newton_bytes(n, rank, p, device="cuda") / 2**30,
            "PDLP, GiB": pdlp_bytes(n, rank, p) / 2**30,
        }
        for n, rank, p in MEMORY_SIZES
    ]  # fmt: skip


def _with_delta(lp: LinearProgram, delta: float) -> LinearProgram:
    return LinearProgram(
        c=lp.c, A=lp.A, row_lower=-delta, row_upper=delta, col_lower=lp.col_lower, col_upper=lp.col_upper
    )


def _with_matrix(lp: LinearProgram, matrix: DirectionMatrix) -> LinearProgram:
    return LinearProgram(
        c=lp.c, A=matrix, row_lower=lp.row_lower, row_upper=lp.row_upper, col_lower=lp.col_lower, col_upper=lp.col_upper
    )


def show(title: str, rows: list[Row]) -> None:
    table = Table(title=title)
    columns = [key for key in rows[0] if key not in ("medians", "missed")] if rows else []
    for column in columns:
        table.add_column(column)
    for row in rows:
        cells = (row[column] for column in columns)
        table.add_row(*(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells))
    if rows:
        Console(width=140).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000], help="factored, against HiGHS")
    parser.add_argument("--dense", type=int, nargs="*", default=[1_000, 2_000], help="dense, against HiGHS")
    parser.add_argument("--alone", type=int, nargs="*", default=[100_000, 1_000_000], help="factored, without HiGHS")
    parser.add_argument("--first-order", type=int, nargs="*", default=[1_000, 10_000, 100_000], help="PDLP, factored")
    parser.add_argument("--trained", type=int, nargs="*", default=[100_000, 1_000_000], help="DualNewton")
    parser.add_argument("--probing", type=int, nargs="*", default=[300], help="PDLP, products alone")
    parser.add_argument("--methods", nargs="*", default=["simplex", "ipm"], help="of HiGHS")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=float, default=300.0, help="seconds of one solve")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    load = os.getloadavg()[0]
    compared = [
        against_highs(f"{kind}, n = {n:,}", make(n), args.methods, args.repeats, args.limit)
        for kind, make, sizes in (
            ("factored", factored_direction_lp, args.sizes),
            ("dense", dense_direction_lp, args.dense),
        )
        for n in sizes
    ]
    found = {
        "InteriorPoint against HiGHS, 1e-6": compared,
        "InteriorPoint, 1e-6": in_own_process(args.alone, args.limit, args.threads),
        "DualNewton against InteriorPoint, 1e-6": trained(args.trained, args.limit, args.repeats),
        "PDLP, 1e-4": first_order(args.first_order, args.limit),
        "PDLP by products alone, 1e-4": [probing(n, args.limit) for n in args.probing],
        "predicted memory": memory(),
    }
    for title, rows in found.items():
        show(title, rows)
    record = {"threads": args.threads, "load": load, **found}
    write_atomically(args.out / "direction_lps.json", json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
