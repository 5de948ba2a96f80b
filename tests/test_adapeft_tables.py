"""The tables of the study of what to tune, from cells whose answers are known."""

import math
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from adapeft_tables import correlations, markdown, summarise


def cell(method: str, seed: int, test: float, *, predicted: float = 1.0, share: float = 0.1, **more: Any) -> Any:
    """One cell: ``test`` is the loss within the budget, one less without the measure's cost."""
    reached = {"selection": test, "test": test}
    return {
        "budget": 0.1, "key": method, "method": method, "seed": seed, "steps": 4, "share": share,
        "groups": [method], "predicted": predicted, "start": {"train": 9.0}, "charged": {"trained": reached} | more,
        "uncharged": {"trained": dict.fromkeys(("train", "selection", "test"), test - 1)},
    }  # fmt: skip


def test_a_measure_is_compared_with_random_groups_of_its_own_seed() -> None:
    cells = [cell("random", 0, 4.0), cell("random", 1, 6.0), cell("mine", 0, 3.5), cell("mine", 1, 5.3)]
    rows = {row["method"]: row for row in summarise(cells)}
    assert rows["mine"]["tuned_of_random"] == pytest.approx(math.exp(-(0.5 + 0.7) / 2))
    assert rows["random"]["tuned_of_random"] == rows["random"]["free_of_random"] == 1.0
    assert rows["mine"]["tuned_test"] == pytest.approx((math.exp(3.5) + math.exp(5.3)) / 2)
    assert rows["mine"]["LiFT_seeds"] == 0 and rows["mine"]["tuned_first"] == 2 and rows["random"]["tuned_first"] == 0
    lines = markdown(list(rows.values())).splitlines()
    assert len(lines) == 4 and "mine" in lines[2] and f"**{rows['mine']['tuned_test']:.1f}**" in lines[2]
    assert "**" not in lines[3]


def test_lift_is_compared_with_the_same_seeds_before_it() -> None:
    lifted = cell("mine", 0, 3.0, lift={"selection": 2.0, "test": 2.5}, lift_steps=7.0)
    (row,) = summarise([lifted, cell("mine", 1, 8.0)])
    assert (row["LiFT_seeds"], row["LiFT_steps"]) == (1, 7.0)
    assert row["LiFT_before"] == pytest.approx(math.exp(3.0)) and row["LiFT_test"] == pytest.approx(math.exp(2.5))
    assert row["tuned_of_random"] is None


def test_correlations_count_equal_sets_once_and_leave_size_out_within_a_budget() -> None:
    # achieved: 9 - (test - 1); larger sets reach more, predictions within a budget run the other way
    cells = [cell(f"m{k}", 0, 5.0 - k, predicted=3.0 - k, share=0.1 + k / 10) for k in range(3)]
    (row,) = correlations([*cells, cells[0] | {"key": "the same set again"}])
    assert row["sets"] == 3 and row["budgets"] == 1
    assert row["size, achieved"] == pytest.approx(1.0)
    assert row["predicted, achieved"] == row["predicted, achieved, within budgets"] == pytest.approx(-1.0)
    assert correlations(cells[:2]) == []
