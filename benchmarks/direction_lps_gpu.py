"""Direction LPs of the sizes of GPT-2 Small on a GPU: `InteriorPoint` at 1e-6 and `PDLP` at 1e-4, one after the other.

The program is drawn on the device. Time per iteration is compared with a floor: the program and the iterate read once,
the iterate written once, at the bandwidth that a large copy reaches. No method can iterate faster; both pass over the
factors several times an iteration. Memory is the peak of what torch has allocated, the program included; polishing is
left out where its memory is short.

Example:
    python benchmarks/direction_lps_gpu.py --out runs/direction-lps-gpu
    python benchmarks/direction_lps_gpu.py --device cpu --sizes 10000,16,12 --out runs/direction-lps-cpu
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from device_rates import bandwidth, device_name, synchronize
from rich.console import Console
from rich.progress import track
from rich.table import Table

from backends import PDLP, InteriorPoint
from backends.memory import direction_lp_bytes, interior_point_bytes, pdlp_bytes
from lift_core import LinearProgram, LPBackend, solve_lp
from lift_core.records import write_atomically
from lift_core.testing.families import factored_direction_lp

SIZES = ("7087872,64,12", "124439808,16,12")
"""GPT-2 Small's last block, and all of it."""
INTERIOR_POINT_ITERATE, PDLP_ITERATE = 11, 2
"""Vectors of the weights' length: w, y, gaps and duals; and z."""

Row = dict[str, object]


def solved(
    lp: LinearProgram, backend: LPBackend, size: tuple[int, int, int], device: str, rate: float, predicted: int
) -> Row:
    """One solve beside its floor."""
    n, rank, p = size
    iterate = INTERIOR_POINT_ITERATE if isinstance(backend, InteriorPoint) else PDLP_ITERATE
    floor = (direction_lp_bytes(n, rank, p) + 2 * 8 * iterate * n) / rate
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
        "weights": f"{n:,}", "rank": rank, "backend": backend.name, "rtol": backend.rtol,
        "status": solution.status.name, "iterations": solution.iterations, "seconds": seconds,
        "s / iteration": each, "floor, s": floor, "of the floor": each / floor,
        "worst residual": solution.kkt.worst,
        "peak, GiB": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None,
        "predicted, GiB": predicted / 2**30, "objective": solution.objective,
    }  # fmt: skip


def rows_of(size: tuple[int, int, int], args: argparse.Namespace, rate: float) -> list[Row]:
    n, rank, p = size
    lp = factored_direction_lp(n, rank=rank, num_hyper=p, device=args.device)
    program = direction_lp_bytes(n, rank, p)
    solvers: dict[str, tuple[LPBackend, int]] = {
        "interior_point": (
            InteriorPoint(rtol=1e-6, time_limit=args.limit),
            program + interior_point_bytes(n, rank, p, device=args.device),
        ),
        "pdlp": (PDLP(rtol=1e-4, time_limit=args.limit), program + pdlp_bytes(n, rank, p)),
    }
    found: list[Row] = []
    for name in args.backends:
        backend, predicted = solvers[name]
        try:
            found.append(solved(lp, backend, size, args.device, rate, predicted))
        except (ValueError, torch.OutOfMemoryError) as error:  # too large for this device: the next one may fit
            found.append({"weights": f"{n:,}", "rank": rank, "backend": name, "status": str(error).splitlines()[0]})
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
    parser.add_argument("--backends", nargs="+", choices=("interior_point", "pdlp"), default=["interior_point", "pdlp"])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds of one solve")
    parser.add_argument("--out", type=Path, default=Path("runs/direction-lps-gpu"))
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: torch sees no CUDA device; --device cpu and small --sizes run anywhere")
    rate = bandwidth(args.device)
    for warm_up in (InteriorPoint(), PDLP()):  # libraries load at their first use
        solve_lp(factored_direction_lp(10_000, rank=8, device=args.device), warm_up)
    rows = [row for size in track(args.sizes, description="direction LPs") for row in rows_of(size, args, rate)]
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
