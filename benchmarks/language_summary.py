"""One row for every setting of language studies: LiFT beside its warm start, its best control, the published recipe.

Reads ``study.json`` files as `lift study language` writes them; a setting's variants may stand in several. The lead
over a method is the mean, over the seeds that both have, of its test perplexity less the variant's, with the sample
standard deviation. Gradients count a Hessian product as two and leave evaluations out.

Example:
    python benchmarks/language_summary.py docs/results/language_5_strong_*.json --out docs/results/language_summary.md
    python benchmarks/language_summary.py docs/results/language_5_strong_*.json --variant "two epochs of refit"
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pool_studies import LIFT, Study, lead, pooled, test_metrics
from rich.console import Console
from rich.markdown import Markdown

from lift_core.records import write_atomically
from lift_core.study import Spread

PUBLISHED = "published recipe"
COLUMNS = (
    "setting", "seeds", "warm start", "{variant}", "ahead of the warm start", "best control", "ahead of it",
    "gradients: {variant}, control", "ahead of the published recipe",
)  # fmt: skip


def summary_rows(study: Study, variant: str) -> Iterable[tuple[str, ...]]:
    """A row for each setting that has the variant and controls."""
    tests, variants = test_metrics(study["cells"]), {cell["variant"] for cell in study["cells"]}
    table = {(row["setting"], row["method"]): row for row in study["rows"]}
    for setting in dict.fromkeys(cell["setting"] for cell in study["cells"]):
        lift = tests.get((setting, variant), {})
        means = {
            method: row["test"]["mean"]
            for (of, method), row in table.items()
            if of == setting and method not in variants and method != "before"
        }
        if not lift or not means:
            continue
        best = min(means, key=lambda method: means[method])
        spent = [_gradients(table[setting, method]) for method in (variant, best)]
        yield (
            setting,
            ", ".join(map(str, sorted(lift))),
            _test(table[setting, "before"]),
            _test(table[setting, variant]),
            _signed(lead(tests[setting, "before"], lift)),
            best,
            _signed(lead(tests[setting, best], lift)),
            f"{spent[0]:.1f}, {spent[1]:.1f}",
            _signed(lead(tests.get((setting, PUBLISHED), {}), lift)),
        )


def _gradients(row: Mapping[str, Any]) -> float:
    return row["gradients"]["mean"] + 2 * row["products"]["mean"]


def _test(row: Mapping[str, Any]) -> str:
    return str(Spread(row["test"]["mean"], row["test"]["deviation"]))


def _signed(value: Spread | None) -> str:
    if value is None:
        return ""
    return f"{value.mean:+.2f}" + ("" if value.deviation is None else f" ± {value.deviation:.2f}")


def summarize(studies: Sequence[Study], variant: str) -> str:
    """The table as Markdown."""
    lines = [f"| {' | '.join(COLUMNS).format(variant=variant)} |", "|---" * len(COLUMNS) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in summary_rows(pooled(studies), variant)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", type=Path, metavar="STUDY.json")
    parser.add_argument("--variant", default=LIFT, help="of LiFT, which the row is about")
    parser.add_argument("--out", type=Path, help="file of the table")
    options = parser.parse_args()
    missing = [str(path) for path in options.studies if not path.is_file()]
    if missing:
        parser.error(f"STUDY.json: not found: {', '.join(missing)}")
    try:
        text = summarize([json.loads(path.read_text()) for path in options.studies], options.variant)
    except ValueError as error:
        parser.error(str(error))
    if options.out is not None:
        write_atomically(options.out, text)
    Console(width=200).print(Markdown(text))


if __name__ == "__main__":
    main()
