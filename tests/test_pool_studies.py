"""Studies that were run apart give one table: that of all runs together."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lift_core.report import study_document
from lift_core.study import Cell, Outcome, Row, summarize, to_markdown
from lift_core.study.summary import SPREADS, spread

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import found_strengths
import language_summary
import pool_studies
import study_figure

SPENT = {"gradients": 1.0, "hvps": 2.0}


def outcome(seed: int, *, variant: str = "LiFT", lift: float = 3.0, control: float = 4.0) -> Outcome:
    """A run whose metric on the test split is known, and four less on the others."""
    with_controls = variant == "LiFT"
    tests = {"before": 9.0 + seed, "LiFT": lift} | ({"grid search": control} if with_controls else {})
    methods = [
        {
            "method": method,
            "metric": {"test": test, "selection": test - 4, "train": test - 4},
            "cost": SPENT,
            "gradient_equivalents": 5.0 + test,
            "seconds": 10.0 + seed,
        }
        for method, test in tests.items()
    ]
    document = {"problem": {"metric_name": "loss"}, "methods": methods, "warmup": [{"seconds": 1.0}]}
    return Outcome(Cell(setting="s", variant=variant, seed=seed, settings={"controls": with_controls}), document)


OUTCOMES = [outcome(0, lift=3.0), outcome(1, lift=3.5), outcome(4, lift=2.0, control=5.5)]
PUBLISHED = outcome(1, variant="published recipe", lift=7.0)


def studies(*parts: list[Outcome]) -> list[Any]:
    return [json.loads(json.dumps(study_document(part, plan="small"))) for part in parts]


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
def test_files_of_other_seeds_and_variants_give_the_table_of_all_runs(order: tuple[int, ...]) -> None:
    parts = studies(OUTCOMES[:2], [PUBLISHED], OUTCOMES[2:])
    pooled = pool_studies.pooled([parts[place] for place in order])
    assert len(pooled["cells"]) == 4 and pooled["cells"][-1]["variant"] == "published recipe"
    rows = [Row.from_json(row) for row in pooled["rows"]]
    expected = summarize([*OUTCOMES, PUBLISHED])
    assert [row.method for row in rows] == [row.method for row in expected]
    for found, row in zip(rows, expected, strict=True):
        assert found.seeds == row.seeds and found.metric == row.metric
        assert (found.ahead is None) == (row.ahead is None)
        for name in SPREADS:
            one, other = getattr(found, name), getattr(row, name)
            assert one is other is None or one.mean == pytest.approx(other.mean)
            assert (
                one is None
                or one.deviation is other.deviation is None
                or one.deviation == pytest.approx(other.deviation)
            )


def test_a_row_of_other_seeds_names_them() -> None:
    rows = summarize([*OUTCOMES, PUBLISHED])
    assert "| published recipe (seed 1) | 7 | +3.5 |" in to_markdown(rows)
    assert "(loss; seeds 0, 1, 4)" in to_markdown(rows) and "| grid search | 4.5" in to_markdown(rows)


def test_a_row_comes_back_from_json() -> None:
    rows = summarize(OUTCOMES)
    assert [Row.from_json(json.loads(json.dumps(row.to_json()))) for row in rows] == rows


def test_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(ValueError, match="s_lift_0 stands in two"):
        pool_studies.pooled(studies(OUTCOMES, OUTCOMES[:1]))
    first, second = studies(OUTCOMES[:1], OUTCOMES[1:])
    with pytest.raises(ValueError, match="equal plan"):
        pool_studies.pooled([first, second | {"plan": "ablations"}])
    with pytest.raises(ValueError, match="equal versions"):
        pool_studies.pooled([first, second | {"versions": {"torch": "1"}}])
    second["cells"][0]["settings"]["kappa"] = 0.5
    with pytest.raises(ValueError, match="s_lift_1 differs from other seeds in kappa"):
        pool_studies.pooled([first, second])
    both = pool_studies.pooled([first, second], ["kappa"])
    assert "commits" not in both
    first["cells"][0]["provenance"], second["cells"][0]["provenance"] = {"commit": "b"}, {"commit": "a"}
    assert pool_studies.pooled([first, second], ["kappa"])["commits"] == ["a", "b"]
    assert both["ignored"] == ["kappa"] and pool_studies.pooled([both])["ignored"] == ["kappa"]
    told = to_markdown([Row.from_json(row) for row in both["rows"]], both["cells"])
    assert told.endswith("* A setting of LiFT that differs by seed: kappa, not set (seeds 0, 4), 0.5 (seed 1)")


def test_a_control_that_diverged_has_no_lead() -> None:
    first, second = studies(OUTCOMES[:1], OUTCOMES[1:2])
    second["cells"][0]["test"]["grid search"] = None
    second["rows"] = [row for row in second["rows"] if row["method"] != "grid search"]
    rows = {row["method"]: Row.from_json(row) for row in pool_studies.pooled([first, second])["rows"]}
    assert rows["grid search"].seeds == (0,) and rows["grid search"].ahead == (1.0, None)


def test_a_run_that_failed_and_a_method_without_a_number_are_named_under_the_table() -> None:
    failed = Outcome(outcome(5).cell, None, "it diverged | badly\nmore")
    rows, (study,) = summarize([*OUTCOMES, failed]), studies([*OUTCOMES, failed])
    study["cells"][0]["test"]["grid search"] = None
    rows = [replace(row, seeds=(1, 4)) if row.method == "grid search" else row for row in rows]
    table, told = to_markdown(rows, study["cells"]).split("\n\n* ")
    assert "seeds 0, 1, 4" in table and told.splitlines() == [
        "Failed: LiFT, seed 5: `it diverged | badly`",
        "* No finite metric, and not in the means: grid search, seed 0",
    ]
    assert (
        to_markdown([], study["cells"][3:])
        == "**S** (no run finished)\n\n* Failed: LiFT, seed 5: `it diverged | badly`"
    )


def test_a_lead_on_fewer_seeds_than_its_row_names_them() -> None:
    without = Outcome(outcome(4).cell, None, "it failed")
    rows = summarize([*OUTCOMES[:2], without, outcome(1, variant="another"), outcome(4, variant="another")])
    assert "| another (seeds 1, 4) | 3 ± 0 | -0.5 (seed 1) |  |" in to_markdown(rows)


def test_the_script_writes_json_and_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, study in enumerate(studies(OUTCOMES[:2], OUTCOMES[2:])):
        (tmp_path / f"{number}.json").write_text(json.dumps(study))
    out = tmp_path / "all.json"
    words = [str(tmp_path / "0.json"), str(tmp_path / "1.json"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["pool_studies", *words])
    with pytest.raises(SystemExit, match="0"):
        pool_studies.main()
    assert (tmp_path / "all.md").read_text() == capsys.readouterr().out
    assert len(json.loads(out.read_text())["cells"]) == 3
    (failed,) = studies([Outcome(outcome(7).cell, None, "it failed")])
    (tmp_path / "0.json").write_text(json.dumps(failed))
    with pytest.raises(SystemExit, match="1"):
        pool_studies.main()
    assert "Failed: LiFT, seed 7: `it failed`" in capsys.readouterr().out
    (tmp_path / "list.json").write_text("[]")
    for bad, named in (("nowhere.json", "nowhere.json: No such file"), (str(tmp_path / "list.json"), "list.json")):
        monkeypatch.setattr(sys, "argv", ["pool_studies", bad, "--out", str(out)])
        with pytest.raises(SystemExit):
            pool_studies.main()
        assert named in capsys.readouterr().err


def test_the_best_control_is_the_one_with_the_smallest_lead() -> None:
    parts = [outcome(0, lift=3.0), outcome(1, lift=8.0, control=8.5)]
    assert parts[0].document is not None
    more = {**parts[0].document["methods"][2], "method": "halving", "metric": {"test": 3.9, "selection": 1, "train": 1}}
    parts[0].document["methods"].append(more)  # on the easier seed alone
    (study,) = studies(parts)
    (row,) = language_summary.summary_rows(study, "LiFT")
    assert row[:2] == ("s", "0, 1") and row[2] == str(spread([9.0, 10.0])) and row[4] == "+4.00 ± 2.83 [-21, 29]"
    assert row[5:7] == ("grid search", "+0.75 ± 0.35 [-2.4, 3.9]")


def test_a_summary_names_the_seeds_of_a_lead_and_what_has_no_number() -> None:
    (study,) = studies([*OUTCOMES, PUBLISHED, Outcome(outcome(5).cell, None, "it failed")])
    study["cells"][0]["test"]["grid search"] = None
    (grid,) = (row for row in study["rows"] if row["method"] == "grid search")
    grid["seeds"] = [1, 4]
    table, told = language_summary.summarize(study, "LiFT").split("\n\n")
    (row,) = table.splitlines()[2:]
    assert "| grid search | +2.00 ± 2.12 [-17, 21] (seeds 1, 4) |" in row and "| +3.50 (seed 1) |" in row
    assert told.splitlines() == [
        "* s: failed: LiFT, seed 5: `it failed`",
        "* s: no finite metric, and not in the means: grid search, seed 0",
    ]


def test_moved_strengths_are_counted_by_block_and_tensor(tmp_path: Path) -> None:
    def run(*after: float, before: float = 0.0) -> dict[str, Any]:
        names = ("h.0.attn.bias", "h.0.mlp.bias", "h.1.mlp.bias")
        return {"hyper": [{"name": n, "before": before, "after": value} for n, value in zip(names, after, strict=True)]}

    counts = found_strengths.moves([run(1.0, -1.0, 0.0), run(2.0, 1.0, -1.0)])
    assert counts == {(0, "attn.bias"): (2, 0, 0), (0, "mlp.bias"): (1, 1, 0), (1, "mlp.bias"): (0, 1, 1)}
    assert "| attn.bias | 2 / 0 / 0 |  |" in found_strengths.table(counts, 2) and "of 2 runs" in found_strengths.table(
        counts, 2
    )
    other = {"hyper": [{"name": "weight 0", "before": 0.0, "after": 1.0}]}
    with pytest.raises(ValueError, match="same strengths"):
        found_strengths.moves([run(1.0, 1.0, 1.0), other])
    with pytest.raises(ValueError, match="same initial strengths"):
        found_strengths.moves([run(1.0, 1.0, 1.0), run(1.0, 1.0, 1.0, before=0.5)])
    with pytest.raises(ValueError, match="tensors of blocks"):
        found_strengths.moves([other])
    for number, variant in enumerate(("LiFT", "published recipe")):
        folder = tmp_path / "cells" / variant
        folder.mkdir(parents=True)
        (folder / "cell.json").write_text(json.dumps({"setting": "all blocks", "variant": variant}))
        (folder / "result.json").write_text(json.dumps(run(number, number, number)))
    assert found_strengths.read_results(tmp_path, "all", "published recipe") == [run(1, 1, 1)]
    assert not found_strengths.read_results(tmp_path, "last", "LiFT")


@pytest.mark.parametrize("what", ["gradients", "validation"])
def test_every_method_stands_at_what_it_spent_or_at_its_validation_metric(what: str) -> None:
    rows = summarize([*OUTCOMES, PUBLISHED])
    drawn = study_figure.draw_against([*rows, *(replace(row, setting="other") for row in rows)], what)
    assert [axes.get_title() for axes in drawn.axes if axes.get_visible()] == ["s", "other"]
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == [
        *(row.method for row in rows),
        "hollow: one seed",
    ]
    for row, bars in zip(rows, drawn.axes[0].containers, strict=True):
        spent = SPENT["gradients"] + 2 * SPENT["hvps"]
        expected = row.validation.mean if what == "validation" else spent
        assert bars.get_label() == row.method
        assert bars[0].get_xydata().tolist() == [[expected, row.test.mean]]
    study_figure.plt.close(drawn)


def test_leads_are_grey_where_their_interval_holds_0_and_hollow_with_one_seed() -> None:
    rows = summarize([*OUTCOMES, PUBLISHED])
    drawn = study_figure.draw_leads([*rows, *(replace(row, setting="other") for row in rows if row.seeds != (1,))])
    before, grid, published = drawn.axes[0].containers
    assert before[0].get_color() == study_figure.OURS and before[0].get_markerfacecolor() == study_figure.OURS
    assert grid[0].get_color() == study_figure.OPEN and published[0].get_markerfacecolor() == "white"
    assert [text.get_text() for text in drawn.axes[1].texts] == ["not run"]
    study_figure.plt.close(drawn)
