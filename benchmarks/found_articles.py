"""Which corrupted articles the runs of ``lift study articles`` found: their weights went down, those of the others up.

Builds each run's problem again from its settings, to know which training articles were corrupted.

Example:
    lift study articles --seeds 3 --only " 5% .*LiFT" --out runs/articles
    python benchmarks/found_articles.py runs/articles --out found.md --json found.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from transformers import logging

from lift_core.records import write_atomically
from problems.article_weights import NoisyWikiText2

COLUMNS = ("setting", "variant", "seed", "corrupted articles", "weight lowered", "other articles", "weight raised")


def found(folder: Path) -> tuple[Any, ...]:
    """A row of the table for the cell in ``folder``."""
    cell, result = (json.loads((folder / name).read_text(encoding="utf-8")) for name in ("cell.json", "result.json"))
    problem = NoisyWikiText2(**cell["settings"]["problem_options"], device="cpu")
    moved = [row["after"] - row["before"] for row in result["hyper"]]
    corrupted = problem.corrupted.tolist()
    lowered = sum(step < 0 for step, is_corrupted in zip(moved, corrupted, strict=True) if is_corrupted)
    raised = sum(step > 0 for step, is_corrupted in zip(moved, corrupted, strict=True) if not is_corrupted)
    counts = (sum(corrupted), lowered, len(corrupted) - sum(corrupted), raised)
    return cell["setting"], cell["variant"], cell["seed"], *counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder of lift study articles")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="for the table")
    parser.add_argument("--json", type=Path, metavar="FILE.json", help="for its rows")
    options = parser.parse_args()
    folders = sorted(path.parent for path in options.study.glob("cells/*/result.json"))
    if not folders:
        parser.error(f"study: expected a folder with finished cells of lift study articles, got {options.study}")
    logging.disable_progress_bar()
    rows = [found(folder) for folder in folders]
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    text = "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)]) + "\n"
    if options.out is not None:
        write_atomically(options.out, text)
    if options.json is not None:
        records = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
        write_atomically(options.json, json.dumps(records, indent=2, ensure_ascii=False) + "\n")
    Console(width=160).print(Markdown(text))


if __name__ == "__main__":
    main()
