"""Which strengths the runs of ``lift study language`` raised, lowered and left: tensors by block, counted over seeds.

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
from typing import Any, NamedTuple

from rich.console import Console
from rich.markdown import Markdown

from lift_core.records import write_atomically
from lift_core.study.notes import LIFT


class Counts(NamedTuple):
    """In how many runs a strength went up, went down, and stayed."""

    raised: int = 0
    lowered: int = 0
    unchanged: int = 0

    def __str__(self) -> str:
        return " / ".join(map(str, self))


Place = tuple[int, str]
"""Block and tensor."""


def moves(results: Sequence[Mapping[str, Any]]) -> dict[Place, Counts]:
    """The counts of each tensor of each block.

    Raises:
        ValueError: if λ is not a strength for each tensor of a block, or not the same in all runs, or begins elsewhere.
    """
    for what, key in (("the same strengths", "name"), ("the same initial strengths", "before")):
        if len({tuple(row[key] for row in result["hyper"]) for result in results}) != 1:
            raise ValueError(f"study: expected runs with {what}; take one setting with --setting")
    counts: dict[Place, Counts] = {}
    for row in (row for result in results for row in result["hyper"]):
        found = re.fullmatch(r".*?\.(\d+)\.(.+)", row["name"])
        if found is None:
            raise ValueError(f"study: expected strengths of tensors of blocks, got {row['name']!r}")
        place, step = (int(found[1]), found[2]), row["after"] - row["before"]
        here = (step > 0, step < 0, step == 0)
        counts[place] = Counts(*(n + one for n, one in zip(counts.get(place, Counts()), here, strict=True)))
    return counts


def table(counts: Mapping[Place, Counts], runs: int) -> str:
    """A row for each tensor, a column for each block."""
    blocks, tensors = (list(dict.fromkeys(place[i] for place in counts)) for i in (0, 1))
    head = [f"strength raised / lowered / unchanged in, of {runs} runs", *(f"block {block + 1}" for block in blocks)]
    lines = [f"| {' | '.join(head)} |", "|---" + "|---:" * len(blocks) + "|"]
    lines += [f"| {name} | {' | '.join(str(counts.get((block, name), '')) for block in blocks)} |" for name in tensors]
    return "\n".join(lines) + "\n"


def read_results(folder: Path, setting: str, variant: str) -> list[dict[str, Any]]:
    """The results of the finished cells of a variant in whose setting the text stands."""
    results: list[dict[str, Any]] = []
    for path in sorted(folder.glob("cells/*/result.json")):
        cell = json.loads((path.parent / "cell.json").read_text(encoding="utf-8"))
        if setting in cell["setting"] and cell["variant"] == variant:
            results.append(json.loads(path.read_text(encoding="utf-8")))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder of lift study language")
    parser.add_argument("--setting", default="", help="part of the setting of the cells to count")
    parser.add_argument("--variant", default=LIFT, help="of the cells to count")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="for the table")
    parser.add_argument("--json", type=Path, metavar="FILE.json", help="for its entries")
    options = parser.parse_args()
    results = read_results(options.study, options.setting, options.variant)
    if not results:
        wanted = f"finished cells of lift study language, variant {options.variant!r}"
        parser.error(f"study: expected a folder with {wanted}, got {options.study}")
    try:
        counts = moves(results)
    except ValueError as error:
        parser.error(str(error))
    text = table(counts, len(results))
    if options.out is not None:
        write_atomically(options.out, text)
    if options.json is not None:
        entries = [{"block": block, "tensor": tensor, **n._asdict()} for (block, tensor), n in counts.items()]
        write_atomically(options.json, json.dumps({"runs": len(results), "entries": entries}, indent=2) + "\n")
    Console(width=120).print(Markdown(text))


if __name__ == "__main__":
    main()
