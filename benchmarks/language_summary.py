"""One row for every setting of language studies: LiFT beside its warm start, its best control, the published recipe.

Reads ``study.json`` files of `lift study language` or pool_studies.py. The lead over a method is the mean, over the
seeds that both have, of its test perplexity less the variant's, with the sample standard deviation; the best control
is the one with the smallest lead. Gradients count a Hessian product as two and leave evaluations out.

Example:
    python benchmarks/language_summary.py docs/results/language.json --out docs/results/language_summary.md
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pool_studies import LIFT, Study, pooled, read_studies, test_metrics
from rich.console import Console
from rich.markdown import Markdown

from lift_core.records import write_atomically
from lift_core.study import Spread
from lift_core.study.summary import lead, spread

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
        leads = {
            method: ahead
            for (of, method), over in tests.items()
            if of == setting and method not in variants and (ahead := lead(over, lift)) is not None
        }
        before, controls = leads.pop("before", None), leads
        if before is None or not controls:
            continue
        best = min(controls, key=lambda method: controls[method].mean)
        spent = [_gradients(table[setting, method]) for method in (variant, best)]
        warm = tests[setting, "before"]
        yield (
            setting,
            ", ".join(map(str, sorted(lift))),
            str(spread([warm[seed] for seed in lift if seed in warm])),
            str(spread(list(lift.values()))),
            _signed(before),
            best,
            _signed(controls[best]),
            f"{spent[0]:.1f}, {spent[1]:.1f}",
            _signed(lead(tests.get((setting, PUBLISHED), {}), lift)),
        )


def _gradients(row: Mapping[str, Any]) -> float:
    return row["gradients"]["mean"] + 2 * row["products"]["mean"]


def _signed(value: Spread | None) -> str:
    if value is None:
        return ""
    return f"{value.mean:+.2f}" + ("" if value.deviation is None else f" ± {value.deviation:.2f}")


def summarize(study: Study, variant: str) -> str:
    """The table as Markdown."""
    lines = [f"| {' | '.join(COLUMNS).format(variant=variant)} |", "|---" * len(COLUMNS) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in summary_rows(study, variant)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", type=Path, metavar="STUDY.json")
    parser.add_argument("--variant", default=LIFT, help="of LiFT, which the row is about")
    parser.add_argument("--out", type=Path, help="file of the table")
    options = parser.parse_args()
    try:
        studies = read_studies(options.studies)
        text = summarize(studies[0] if len(studies) == 1 else pooled(studies), options.variant)
    except ValueError as error:
        parser.error(str(error))
    if options.out is not None:
        write_atomically(options.out, text)
    Console(width=200).print(Markdown(text))


if __name__ == "__main__":
    main()
