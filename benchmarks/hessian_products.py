"""Time and memory of one exact Hessian product at the size of GPT-2 Small, against a gradient and plain autodiff.

The network has GPT-2 Small's architecture (12 x 768, 124 M weights) with random weights; the text is WikiText-2. All
rows of a table are measured in one run, interleaved, and the medians are compared. The floor is the larger of two
times: counted operations of matrix products at the rate of a large one, and the weights of the part that runs, its
input, the vector and the result, each moved once at the rate of a large copy. Memory is the growth of the peak resident
set of a process that does nothing else; on a GPU, of the peak of what torch has allocated.

Example:
    python benchmarks/hessian_products.py --out runs/hessian-products
    python benchmarks/hessian_products.py --device cuda --sequences 8 --length 1024 --keep-graphs 40
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from device_rates import bandwidth, device_name, matrix_rate, synchronize
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel, logging

from lift_core.allocation import tune_allocator
from lift_core.records import write_atomically
from problems import LanguageModel
from problems.causal_lm import load_tokenizer
from problems.gpt2_wikitext2 import BUNDLED_MODEL, wikitext2

TUNED = {"last block": {"blocks": (-1,)}, "all blocks": {"blocks": range(12)}, "all weights": {"trainable": "*"}}
MEMORY_ROWS = ("plain gradient", "plain product", "gradient", "product", "product, no graph kept")


def gpt2_small(attention: str = "eager") -> GPT2LMHeadModel:
    """GPT-2 Small with seeded random weights."""
    torch.manual_seed(0)
    config = GPT2Config(attn_implementation=attention, use_cache=False, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    return GPT2LMHeadModel(config).eval()


def tuned_problem(tuned: str, sequences: int, length: int, options: argparse.Namespace) -> LanguageModel:
    """One batch of WikiText-2 through GPT-2 Small."""
    return LanguageModel(
        model=gpt2_small(),
        tokenizer=load_tokenizer(BUNDLED_MODEL, BUNDLED_MODEL),
        texts={part: wikitext2(part)[:60] for part in ("train", "validation", "test")},
        **TUNED[tuned],
        block_length=length,
        batch_blocks=sequences,
        max_tokens={"train": sequences * length},
        keep_graphs=int(options.keep_graphs * 2**30),
        device=options.device,
        dtype=getattr(torch, options.dtype),
    )


def full_gradient(model: nn.Module, ids: Tensor) -> Callable[[], object]:
    """The ordinary gradient of all 124 M weights, as a training loop computes it."""
    weights = [value.requires_grad_() for value in model.parameters()]

    def run() -> object:
        logits = model(input_ids=ids).logits[:, :-1].float()
        return torch.autograd.grad(cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()), weights)

    return run


def plain_loss(problem: LanguageModel, model: nn.Module, ids: Tensor) -> Callable[[dict[str, Tensor]], Tensor]:
    """The loss as a function of the tuned weights, nothing cached and nothing in chunks."""
    mask = torch.ones_like(ids)

    def loss(named: dict[str, Tensor]) -> Tensor:
        options = {"input_ids": ids, "attention_mask": mask}
        logits = functional_call(model, named, (), options).logits[:, :-1].float()
        return cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    return loss


def oracle_rows(problem: LanguageModel) -> dict[str, Callable[[], object]]:
    """What is measured, by name."""
    device, dtype = problem.device, next(problem.model.parameters()).dtype
    point, batches = problem.initial_point(), list(problem.batches("train"))
    vector = torch.randn(len(point.weights), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vector = (vector / vector.norm()).to(device)
    forgetful = copy(problem)
    forgetful.keep_graphs = 0
    hessian = cache(lambda of: of.training_hessian(point, batches))

    def plain(of: Callable[[Any, Any, Any], object]) -> Callable[[], object]:
        model = gpt2_small().to(device=device, dtype=dtype).requires_grad_(False)
        loss = plain_loss(problem, model, batches[0].ids)
        here, tangent = problem.named_weights(point.weights), problem.named_weights(vector)
        return lambda: of(loss, here, tangent)

    return {
        "product": lambda: hessian(problem).matvec(vector),
        "product, no graph kept": lambda: hessian(forgetful).matvec(vector),
        "gradient": lambda: problem.training_gradient(point, batches),
        "plain product": plain(lambda loss, here, tangent: jvp(grad(loss), (here,), (tangent,))[1]),
        "plain gradient": plain(lambda loss, here, _: grad(loss)(here)),
    }


def timed(run: Callable[[], object], device: str) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    result = run()
    synchronize(device)
    del result
    return time.perf_counter() - began


def time_table(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Medians of interleaved calls, per tuned set."""
    dtype, rows = getattr(torch, options.dtype), []
    rates = matrix_rate(options.device, dtype), bandwidth(options.device)
    for tuned in options.tuned:
        problem = tuned_problem(tuned, options.sequences, options.length, options)
        calls = oracle_rows(problem)
        if tuned != "last block":
            calls.pop("plain gradient")
        for left_out in options.without:
            calls.pop(left_out, None)
        full = gpt2_small("sdpa").to(device=options.device, dtype=dtype)
        calls["full gradient"] = full_gradient(full, problem.batches("train")[0].ids)
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for repeat in track(range(options.repeats + 1), description=tuned):
            for name, call in calls.items():
                value = timed(call, options.device)
                if repeat:  # the first round warms up
                    seconds[name].append(value)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        plain = medians.get("plain product")
        counted = {name: operations(calls[name]) for name in ("product", "gradient") if name in calls}
        counted["full gradient"] = counted_full_gradient(problem)
        for name, median in medians.items():
            least = floor(counted[name], problem, rates) if name in ("product", "gradient") else None
            rows.append(
                {
                    "tuned": tuned, "what": name, "seconds": median,
                    "per_full_gradient": median / medians["full gradient"],
                    "operations": counted[name] / counted["full gradient"] if name in counted else None,
                    "per_plain_product": median / plain if plain else None,
                    "floor": least, "over_floor": least and median / least,
                }
            )  # fmt: skip
        del problem, calls, full
    return rows


def operations(call: Callable[[], object]) -> int:
    """Of the matrix products of a call, counted."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def counted_full_gradient(problem: LanguageModel) -> int:
    """With attention in elementary operations: fused kernels are not counted on every device."""
    model = gpt2_small().to(device=problem.device, dtype=next(problem.model.parameters()).dtype)
    return operations(full_gradient(model, problem.batches("train")[0].ids))


def floor(operations: int, problem: LanguageModel, rates: tuple[float, float]) -> float:
    """Seconds that so many operations, or the bytes that a call must move, take at best."""
    batch, width = problem.batches("train")[0], problem.model.config.n_embd
    network = next(problem.model.parameters())
    tuned = len(problem.initial_point().weights)
    head = 0 if "transformer.wte.weight" in problem.groups else problem.model.lm_head.weight.numel()
    moved = (batch.ids.numel() * width + tuned + head) * network.element_size() + 2 * 8 * tuned
    return max(operations / rates[0], moved / rates[1])


def memory_row(options: argparse.Namespace) -> dict[str, Any]:
    """Growth of the peak memory by one call, in this process."""
    tuned, what = options.measure
    calls = oracle_rows(tuned_problem(tuned, options.sequences, options.length, options))
    if options.device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        calls[what]()
        return {"bytes": torch.cuda.max_memory_allocated() - before}
    before = _reset_peak()
    calls[what]()
    return {"bytes": _peak() - before}


def _reset_peak() -> int:
    """Resident bytes now; Linux restarts the high-water mark from here."""
    with contextlib.suppress(OSError):  # elsewhere the peak of the set-up counts too
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory_table(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One process per row."""
    rows: list[dict[str, Any]] = []
    wanted = [(tuned, what) for tuned in options.memory_tuned for what in MEMORY_ROWS if what not in options.without]
    for tuned, what in track(wanted, description="memory"):
        command = [sys.executable, __file__, "--measure", tuned, what, "--device", options.device]
        command += ["--keep-graphs", str(options.keep_graphs)]
        command += ["--sequences", str(options.memory_sequences), "--length", str(options.memory_length)]
        command += ["--dtype", options.dtype, "--threads", str(options.threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            failed = done.stderr.strip().splitlines()[-1:] or done.returncode
            rows.append({"tuned": tuned, "what": what, "bytes": None, "failed": failed})
            continue
        rows.append({"tuned": tuned, "what": what} | json.loads(done.stdout.splitlines()[-1]))
    return rows


def shown_times(rows: list[dict[str, Any]], device: str) -> Table:
    columns = "tuned", "what", "seconds", "/ full gradient", "its operations", "/ plain product", "/ floor"
    table = Table(*columns, title=f"One call, median; {device_name(device)}")
    for row in rows:
        ratios = (row[key] for key in ("per_full_gradient", "operations", "per_plain_product", "over_floor"))
        cells = ("" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
        table.add_row(row["tuned"], row["what"], f"{row['seconds']:.4f}", *cells)
    return table


def shown_memory(rows: list[dict[str, Any]]) -> Table:
    table = Table("tuned", "what", "GiB", "/ gradient", title="Growth of peak memory")
    gradients = {row["tuned"]: row["bytes"] for row in rows if row["what"] == "gradient"}
    for row in rows:
        if row["bytes"] is None:
            table.add_row(row["tuned"], row["what"], "failed", str(row["failed"]))
            continue
        gradient = gradients.get(row["tuned"])
        ratio = f"{row['bytes'] / gradient:.2f}" if gradient else ""
        table.add_row(row["tuned"], row["what"], f"{row['bytes'] / 2**30:.2f}", ratio)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/hessian-products"))
    parser.add_argument("--part", choices=("time", "memory", "all"), default="all")
    parser.add_argument("--tuned", nargs="+", choices=tuple(TUNED), default=["last block", "all blocks"])
    parser.add_argument("--memory-tuned", nargs="+", choices=tuple(TUNED), default=["last block"])
    parser.add_argument("--without", nargs="*", choices=MEMORY_ROWS, default=[], help="rows to leave out")
    parser.add_argument("--keep-graphs", type=float, default=4.0, help="GiB of graphs that products may keep")
    parser.add_argument("--sequences", type=int, default=2)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--memory-sequences", type=int, default=8)
    parser.add_argument("--memory-length", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float64"), default="float32")
    parser.add_argument("--measure", nargs=2, metavar=("TUNED", "ROW"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable_progress_bar()
    if options.measure:
        print(json.dumps(memory_row(options)))
        return
    tune_allocator()  # not where memory is measured: the peak would include what is kept
    results: dict[str, Any] = {
        "device": device_name(options.device),
        "torch": torch.__version__,
        "options": {k: str(v) for k, v in vars(options).items()},
    }
    console = Console()
    if options.part != "memory":
        results["time"] = time_table(options)
        console.print(shown_times(results["time"], options.device))
    if options.part != "time":
        results["memory"] = memory_table(options)
        console.print(shown_memory(results["memory"]))
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out / "results.json", json.dumps(results, indent=2))
    console.print(f"wrote {options.out / 'results.json'}")


if __name__ == "__main__":
    main()
