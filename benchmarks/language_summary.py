"""One row for every stored language study: LiFT beside its warm start, its best control, the published recipe.

Reads ``study.json`` files as `lift study language` writes them. The lead over a method is the mean, over the seeds that
both have, of its test perplexity less LiFT's, with the sample standard deviation. Gradients count a Hessian product as
two and leave evaluations out. The published recipe may stand in a file of its own, for the same setting and seeds.

Example:
    python benchmarks/language_summary.py docs/results/language_5_strong_*.json --out docs/results/language_summary.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from lift_core.records import write_atomically
from lift_core.study.summary import Spread, spread

Study = dict[str, Any]
LIFT, PUBLISHED = "LiFT", "published recipe"
COLUMNS = (
    "setting", "seeds", "warm start", "LiFT", "ahead of the warm start", "best control", "ahead of it",
    "gradients: LiFT, control", "ahead of the published recipe",
)  # fmt: skip


def test_metrics(study: Study) -> dict[tuple[str, str], dict[int, float]]:
    """Test perplexity by setting and method, then seed; a variant of LiFT under its own name."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for cell in study["cells"]:
        for method, value in cell["test"].items():
            label = cell["variant"] if method == LIFT else method
            if method == LIFT or cell["settings"].get("controls", True):
                found.setdefault((cell["setting"], label), {})[cell["seed"]] = value
    return found


def lead(over: Mapping[int, float], lift: Mapping[int, float]) -> Spread | None:
    """Mean and deviation over common seeds; None without one."""
    differences = [over[seed] - lift[seed] for seed in sorted(over.keys() & lift.keys())]
    return spread(differences) if differences else None


def summary_rows(study: Study, published: Mapping[str, Mapping[int, float]]) -> Iterable[tuple[str, ...]]:
    """A row for each setting of a study that has LiFT and controls."""
    tests, variants = test_metrics(study), {cell["variant"] for cell in study["cells"]}
    table = {(row["setting"], row["method"]): row for row in study["rows"]}
    for setting in dict.fromkeys(cell["setting"] for cell in study["cells"]):
        lift = tests.get((setting, LIFT), {})
        means = {
            method: row["test"]["mean"]
            for (of, method), row in table.items()
            if of == setting and method not in variants and method != "before"
        }
        if not lift or not means:
            continue
        best = min(means, key=lambda method: means[method])
        recipe = tests.get((setting, PUBLISHED), {}) or published.get(setting, {})
        spent = [_gradients(table[setting, method]) for method in (LIFT, best)]
        yield (
            setting,
            ", ".join(map(str, sorted(lift))),
            _test(table[setting, "before"]),
            _test(table[setting, LIFT]),
            _signed(lead(tests[setting, "before"], lift)),
            best,
            _signed(lead(tests[setting, best], lift)),
            f"{spent[0]:.1f}, {spent[1]:.1f}",
            _signed(lead(recipe, lift)),
        )


def _gradients(row: Mapping[str, Any]) -> float:
    return row["gradients"]["mean"] + 2 * row["products"]["mean"]


def _test(row: Mapping[str, Any]) -> str:
    return str(Spread(row["test"]["mean"], row["test"]["deviation"]))


def _signed(value: Spread | None) -> str:
    return (
        "" if value is None else f"{value.mean:+.2f}" + ("" if value.deviation is None else f" ± {value.deviation:.2f}")
    )


def summarize(studies: Sequence[Study]) -> str:
    """The table as Markdown."""
    published: dict[str, dict[int, float]] = {}
    for study in studies:
        for (setting, method), by_seed in test_metrics(study).items():
            if method == PUBLISHED:
                published.setdefault(setting, {}).update(by_seed)
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    lines += [f"| {' | '.join(row)} |" for study in studies for row in summary_rows(study, published)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", type=Path, metavar="STUDY.json")
    parser.add_argument("--out", type=Path, help="file of the table")
    options = parser.parse_args()
    missing = [str(path) for path in options.studies if not path.is_file()]
    if missing:
        parser.error(f"STUDY.json: not found: {', '.join(missing)}")
    text = summarize([json.loads(path.read_text()) for path in options.studies])
    if options.out is not None:
        write_atomically(options.out, text)
    Console(width=200).print(Markdown(text))


if __name__ == "__main__":
    main()
