"""Studies that were run apart give one table: that of all runs together."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lift_core.report import study_document
from lift_core.study import Cell, Outcome, Row, summarize, to_markdown

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import pool_studies

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
            "gradient_equivalents": 5.0,
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


def test_files_of_other_seeds_and_variants_give_the_table_of_all_runs() -> None:
    (expected,) = studies([*OUTCOMES, PUBLISHED])
    pooled = pool_studies.pooled(studies(OUTCOMES[:2], [PUBLISHED], OUTCOMES[2:]))
    assert pooled["cells"] == [expected["cells"][i] for i in (0, 1, 3, 2)]
    rows = {row["method"]: Row.from_json(row) for row in pooled["rows"]}
    for row in summarize([*OUTCOMES, PUBLISHED]):
        found = rows[row.method]
        assert found.seeds == row.seeds and found.metric == row.metric
        assert found.test == pytest.approx(row.test) and found.cost.mean == pytest.approx(row.cost.mean)
        assert (found.ahead is None) == (row.ahead is None)
        if row.ahead is not None and found.ahead is not None:
            assert found.ahead == pytest.approx(row.ahead)


def test_a_row_of_other_seeds_names_them() -> None:
    rows = summarize([*OUTCOMES, PUBLISHED])
    assert "| published recipe (seed 1) | 7 | +3.5 |" in to_markdown(rows)
    assert "(loss; seeds 0, 1, 4)" in to_markdown(rows) and "| grid search | 4.5" in to_markdown(rows)


def test_a_row_comes_back_from_json() -> None:
    rows = summarize(OUTCOMES)
    assert [Row.from_json(json.loads(json.dumps(row.to_json()))) for row in rows] == rows


def test_a_cell_of_two_files_is_refused() -> None:
    with pytest.raises(ValueError, match="s_lift_0 stands in two"):
        pool_studies.pooled(studies(OUTCOMES, OUTCOMES[:1]))


def test_the_script_writes_json_and_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, study in enumerate(studies(OUTCOMES[:2], OUTCOMES[2:])):
        (tmp_path / f"{number}.json").write_text(json.dumps(study))
    out = tmp_path / "all.json"
    words = [str(tmp_path / "0.json"), str(tmp_path / "1.json"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["pool_studies", *words])
    pool_studies.main()
    assert (tmp_path / "all.md").read_text() == capsys.readouterr().out
    assert len(json.loads(out.read_text())["cells"]) == 3
    monkeypatch.setattr(sys, "argv", ["pool_studies", "nowhere.json", "--out", str(out)])
    with pytest.raises(SystemExit):
        pool_studies.main()
    assert "not found: nowhere.json" in capsys.readouterr().err
