"""Direction LPs of the sizes of GPT-2 Small on a GPU: `InteriorPoint` and `DualNewton` at 1e-6, `PDLP` at 1e-4.

Two families: *random*, of which many rows bind, and *trained*, of which few do; `DualNewton` gets the second alone. The
programs are drawn on the device, and each is solved by one backend after the other. Time per iteration is compared with
a floor: the program and the iterate read once, the iterate written once, at the bandwidth that a large copy reaches. No
method can iterate faster; all pass over the factors several times an iteration. Memory is the peak of what torch has
allocated, the program included; polishing is left out where its memory is short.

Example:
    python benchmarks/direction_lps_gpu.py --out runs/direction-lps-gpu
    python benchmarks/direction_lps_gpu.py --device cpu --sizes 10000,16,12 --out runs/direction-lps-cpu
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import product
from pathlib import Path

import torch
from device_rates import bandwidth, device_name, synchronize
from rich.console import Console
from rich.progress import track
from rich.table import Table

from backends import PDLP, DualNewton, InteriorPoint
from backends.memory import direction_lp_bytes, dual_newton_bytes, interior_point_bytes, pdlp_bytes
from lift_core import LinearProgram, LPBackend, solve_lp
from lift_core.records import write_atomically
from lift_core.testing.families import factored_direction_lp, trained_direction_lp

SIZES = ("7087872,64,12", "124439808,16,12")
"""GPT-2 Small's last block, and all of it."""
ITERATES = {"interior_point": 11, "dual_newton": 3, "pdlp": 2}
"""Vectors of the weights' length: w, y, gaps and duals; x, y and reduced costs; z."""
FAMILIES = {"random": factored_direction_lp, "trained": trained_direction_lp}

Row = dict[str, object]


def solved(lp: LinearProgram, backend: LPBackend, size: tuple[int, int, int], device: str, rate: float) -> Row:
    """One solve beside its floor."""
    n, rank, p = size
    floor = (direction_lp_bytes(n, rank, p) + 2 * 8 * ITERATES[backend.name] * n) / rate
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    synchronize(device)
    began = time.perf_counter()
    solution = solve_lp(lp, backend)
    synchronize(device)
    seconds = time.perf_counter() - began
    each = seconds / max(solution.iterations, 1)
    return {
        "rtol": backend.rtol, "status": solution.status.name, "iterations": solution.iterations, "seconds": seconds,
        "s / iteration": each, "floor, s": floor, "of the floor": each / floor,
        "worst residual": solution.kkt.worst,
        "peak, GiB": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None,
        "objective": solution.objective,
    }  # fmt: skip


def rows_of(family: str, size: tuple[int, int, int], args: argparse.Namespace, rate: float) -> list[Row]:
    n, rank, p = size
    lp = FAMILIES[family](n, rank=rank, num_hyper=p, device=args.device)
    solvers: dict[str, tuple[LPBackend, int]] = {
        "interior_point": (
            InteriorPoint(rtol=1e-6, time_limit=args.limit), interior_point_bytes(n, rank, p, device=args.device)
        ),
        "dual_newton": (
            DualNewton(rtol=1e-6, time_limit=args.limit), dual_newton_bytes(n, rank, p, device=args.device)
        ),
        "pdlp": (PDLP(rtol=1e-4, time_limit=args.limit), pdlp_bytes(n, rank, p)),
    }  # fmt: skip
    found: list[Row] = []
    for name in args.backends:
        if name == "dual_newton" and family == "random":
            continue
        backend, working = solvers[name]
        row: Row = {"family": family, "weights": f"{n:,}", "rank": rank, "backend": name}
        try:
            row |= solved(lp, backend, size, args.device, rate)
        except (ValueError, torch.OutOfMemoryError) as error:  # too large for this device: the next one may fit
            row |= {"status": str(error).splitlines()[0]}
        found.append(row | {"predicted, GiB": (direction_lp_bytes(n, rank, p) + working) / 2**30})
    return found


def parse_size(text: str) -> tuple[int, int, int]:
    try:
        n, rank, p = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected WEIGHTS,RANK,HYPERPARAMETERS, got {text!r}") from None
    return n, rank, p


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=parse_size, nargs="+", default=[parse_size(size) for size in SIZES])
    parser.add_argument("--families", nargs="+", choices=tuple(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--backends", nargs="+", choices=tuple(ITERATES), default=list(ITERATES))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds of one solve")
    parser.add_argument("--out", type=Path, default=Path("runs/direction-lps-gpu"))
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: torch sees no CUDA device; --device cpu and small --sizes run anywhere")
    rate = bandwidth(args.device)
    for warm_up in (InteriorPoint(), DualNewton(), PDLP()):  # libraries load at their first use
        solve_lp(trained_direction_lp(10_000, rank=8, device=args.device), warm_up)
    programs = list(product(args.families, args.sizes))
    rows = [row for pair in track(programs, description="direction LPs") for row in rows_of(*pair, args, rate)]
    columns = max(rows, key=len)
    table = Table(*columns, title=f"{device_name(args.device)}, {rate / 1e9:,.0f} GB/s")
    for row in rows:
        cells = (row.get(column, "") for column in columns)
        table.add_row(*(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells))
    Console(width=200).print(table)
    record = {
        "device": device_name(args.device),
        "torch": torch.__version__,
        "bytes_per_second": rate,
        "direction_lps": rows,
    }
    write_atomically(args.out / "direction_lps_gpu.json", json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
