"""One row for every setting of language studies: LiFT beside its warm start, its best control, the published recipe.

Reads ``study.json`` files of `lift study language` or pool_studies.py. The lead over a method is the mean, over the
seeds that both have, of its test perplexity less the variant's, with the sample standard deviation and the 95 %
confidence interval of the mean (Student's t); where these are fewer than the variant's own, they are named. The best
control is the one with the smallest lead. Gradients count a Hessian product as two and leave evaluations out.

Example:
    python benchmarks/language_summary.py docs/results/language.json --out docs/results/language_summary.md
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path

from pool_studies import Study, pooled, read_studies, test_metrics
from rich.console import Console
from rich.markdown import Markdown

from lift_core.records import write_atomically
from lift_core.study import Row
from lift_core.study.notes import LIFT, notes, seeds_text
from lift_core.study.summary import interval, lead, spread

PUBLISHED = "published recipe"
COLUMNS = (
    "setting", "seeds", "warm start", "{variant}", "ahead of the warm start [95 %]", "best control",
    "ahead of it [95 %]", "gradients: {variant}, control", "ahead of the published recipe",
)  # fmt: skip


def summary_rows(study: Study, variant: str) -> Iterable[tuple[str, ...]]:
    """A row for each setting that has the variant and controls."""
    rows, variants = [Row.from_json(row) for row in study["rows"]], {cell["variant"] for cell in study["cells"]}
    tests = test_metrics(rows, study["cells"])
    table = {(row.setting, row.method): row for row in rows}
    for setting in dict.fromkeys(cell["setting"] for cell in study["cells"]):
        lift = tests.get((setting, variant), {})
        leads = {
            method: ahead
            for (of, method), over in tests.items()
            if of == setting and method not in variants and (ahead := lead(over, lift)) is not None
        }
        if "before" not in leads or len(leads) == 1:
            continue
        best = min((method for method in leads if method != "before"), key=lambda method: leads[method].mean)
        spent = [_gradients(table[setting, method]) for method in (variant, best)]
        warm = tests[setting, "before"]
        yield (
            setting,
            ", ".join(map(str, sorted(lift))),
            str(spread([warm[seed] for seed in lift if seed in warm])),
            str(spread(list(lift.values()))),
            _signed(warm, lift),
            best,
            _signed(tests[setting, best], lift),
            f"{spent[0]:.1f}, {spent[1]:.1f}",
            _signed(tests.get((setting, PUBLISHED), {}), lift),
        )


def _gradients(row: Row) -> float:
    return row.gradients.mean + 2 * row.products.mean


def _signed(over: Mapping[int, float], lift: Mapping[int, float]) -> str:
    """The lead with its spread and interval, and its seeds where they are fewer than the variant's."""
    ahead, seeds = lead(over, lift), over.keys() & lift.keys()
    if ahead is None:
        return ""
    spreads = "" if ahead.deviation is None else f" ± {ahead.deviation:.2f} {interval(ahead, len(seeds))}"
    return f"{ahead.mean:+.2f}{spreads}" + (f" ({seeds_text(seeds)})" if len(seeds) < len(lift) else "")


def summarize(study: Study, variant: str) -> str:
    """The table as Markdown, and what the runs of each setting tell below it."""
    lines = [f"| {' | '.join(COLUMNS).format(variant=variant)} |", "|---" * len(COLUMNS) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in summary_rows(study, variant)]
    told: list[str] = []
    for setting in dict.fromkeys(cell["setting"] for cell in study["cells"]):
        shown = {row["method"]: row["seeds"] for row in study["rows"] if row["setting"] == setting}
        here = notes([cell for cell in study["cells"] if cell["setting"] == setting], shown)
        told += [f"* {setting}: {line[0].lower()}{line[1:]}" for line in here]
    return "\n".join([*lines, *([""] if told else []), *told]) + "\n"


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
