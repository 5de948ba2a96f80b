"""Which strengths the runs of ``lift study language`` raised: a table of tensors by block, counted over seeds.

Example:
    lift study language --seeds 3 --only "all blocks, 5% .*strength 0.01 . LiFT" --out runs/language
    python benchmarks/found_strengths.py runs/language --out found.md --json found.json
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from lift_core.records import write_atomically


def raised(results: Sequence[Mapping[str, Any]]) -> dict[tuple[int, str], int]:
    """In how many runs the strength of (block, tensor) went up.

    Raises:
        ValueError: if λ is not a strength for each tensor of a block, or not the same in all runs.
    """
    if len({tuple(row["name"] for row in result["hyper"]) for result in results}) != 1:
        raise ValueError("study: expected runs with the same strengths; take one setting with --setting")
    counts: dict[tuple[int, str], int] = {}
    for row in (row for result in results for row in result["hyper"]):
        found = re.fullmatch(r".*?\.(\d+)\.(.+)", row["name"])
        if found is None:
            raise ValueError(f"study: expected strengths of tensors of blocks, got {row['name']!r}")
        place = int(found[1]), found[2]
        counts[place] = counts.get(place, 0) + (row["after"] > row["before"])
    return counts


def table(counts: Mapping[tuple[int, str], int], runs: int) -> str:
    """A row for each tensor, a column for each block."""
    blocks, tensors = (list(dict.fromkeys(place[i] for place in counts)) for i in (0, 1))
    head = [f"strength raised in, of {runs} runs", *(f"block {block + 1}" for block in blocks)]
    lines = [f"| {' | '.join(head)} |", "|---" + "|---:" * len(blocks) + "|"]
    lines += [f"| {name} | {' | '.join(str(counts.get((block, name), '')) for block in blocks)} |" for name in tensors]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder of lift study language")
    parser.add_argument("--setting", default="", help="part of the setting of the cells to count")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="for the table")
    parser.add_argument("--json", type=Path, metavar="FILE.json", help="for its entries")
    options = parser.parse_args()
    results = [
        json.loads((folder / "result.json").read_text(encoding="utf-8"))
        for folder in sorted(path.parent for path in options.study.glob("cells/*/result.json"))
        if options.setting in json.loads((folder / "cell.json").read_text(encoding="utf-8"))["setting"]
    ]
    if not results:
        parser.error(f"study: expected a folder with finished cells of lift study language, got {options.study}")
    try:
        counts = raised(results)
    except ValueError as error:
        parser.error(str(error))
    text = table(counts, len(results))
    if options.out is not None:
        write_atomically(options.out, text)
    if options.json is not None:
        entries = [{"block": block, "tensor": tensor, "raised": n} for (block, tensor), n in counts.items()]
        write_atomically(options.json, json.dumps({"runs": len(results), "entries": entries}, indent=2) + "\n")
    Console(width=120).print(Markdown(text))


if __name__ == "__main__":
    main()
