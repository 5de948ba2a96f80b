"""The report: complete, self-contained, deterministic, honest, and readable for any number of hyperparameters."""

import copy
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

import lift_core as lift
from backends import HiGHS
from lift_core.records import without_times
from lift_core.report import render_report, report_document, to_json_text
from lift_core.report.plots import hyper_plot, training_curves
from lift_core.report.tables import number
from lift_core.report.warnings import find_warnings
from problems import Network, Quadratic

_VOID = {"meta", "br", "path", "use"}


class Page(HTMLParser):
    """Text, tags and ids of a page; refuses tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self._open and self._open[-1] == tag, f"</{tag}> closes {self._open[-3:]}"
            self._open.pop()

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    search = lift.LocalSearch(
        backend=HiGHS(), curvature=lift.LowRank(rank=8), slack=(0.0, 1e-2, 1.0),
        trainer=lift.Trainer(learning_rate=1e-2),
        warmup_epochs=30, refit=lift.Refit(epochs=2), rounds=2, controls=lift.standard_controls(lift.TrustBox()),
    )  # fmt: skip
    problem = Network(num_hidden=3)
    return report_document(search.run(problem), problem, search, settings={"note": "<b>&amp;</script>"})


@pytest.fixture(scope="module")
def page(document: dict[str, Any]) -> str:
    return render_report(document)


def test_every_method_and_number_is_on_the_page(document: dict[str, Any], page: str) -> None:
    words = Page(page).words
    for method in document["methods"]:
        assert method["method"] in words
        assert number(method["metric"]["test"]) in words
        assert number(method["metric"]["selection"]) in words
    text = " ".join(words)
    assert "row coverage 1 of 1" in text
    assert all(row["name"] in text for row in document["hyper"])


def test_the_page_carries_its_own_json(document: dict[str, Any], page: str) -> None:
    found = re.search(r'<script type="application/json" id="lift-result">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    assert json.loads(found[1]) == json.loads(to_json_text(document))


def test_the_page_loads_nothing_and_runs_nothing(page: str) -> None:
    assert "http" not in page
    assert not re.search(r"""(?:src|srcset|action)\s*=|@import|url\((?!#)|\shref="(?!#)""", page)
    parsed = Page(page)
    assert not {"link", "img", "iframe", "object", "image"} & set(parsed.tags)
    assert parsed.tags.count("script") == 1


def test_ids_are_unique_and_references_resolve(page: str) -> None:
    ids = Page(page).ids
    assert len(ids) == len(set(ids))
    referenced = set(re.findall(r'(?:href="#|url\(#|aria-labelledby=")([^")]+)', page))
    assert referenced <= set(ids)


def test_every_plot_has_a_title_and_a_description(page: str) -> None:
    plots = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(plots) == 2 + 2 * 2 + 2
    assert all("<title" in plot and "<desc>" in plot and 'role="img"' in plot for plot in plots)
    assert all("<text" in plot for plot in plots), "labels are text, not outlines"


def test_text_is_escaped(document: dict[str, Any]) -> None:
    nasty = "</script><img src=x onerror=alert(1)>&\"'"
    changed = copy.deepcopy(document)
    for record in (*changed["methods"], *changed["hyper"]):
        record["method" if "method" in record else "name"] = nasty
    changed["problem"] |= {"name": nasty, "metric_name": nasty, "description": nasty}
    changed["status_text"], changed["settings"] = nasty, {nasty: nasty}
    changed["warnings"], changed["methods"][1]["label"] = [nasty], nasty
    parsed = Page(render_report(changed))
    assert "img" not in parsed.tags and parsed.tags.count("script") == 1


def test_equal_documents_give_equal_pages(document: dict[str, Any], page: str) -> None:
    assert render_report(json.loads(to_json_text(document))) == page


def test_json_has_no_nan_and_hides_no_time(document: dict[str, Any]) -> None:
    changed = document | {"row_coverage": float("nan")}
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json_text(changed)
    text = json.dumps(without_times(document))
    assert "seconds" not in text and '"methods"' in text


def test_training_controls_are_told_from_line_searches(document: dict[str, Any]) -> None:
    curves = training_curves(document)
    on_both = {"train + direction data", "grid search on train + direction", "successive halving on train + direction"}
    assert set(curves) == {"more training", "grid search", "random search", "LiFT's refit", *on_both}
    assert len(curves["grid search"]) == 3 and len(curves["more training"]) == 1


@pytest.mark.parametrize("count", (1, 2, 40, 41, 200))
def test_hyperparameters_stay_readable(count: int) -> None:
    rows = [
        {"name": f"block{i}.a.very.long.parameter.name.indeed{i}", "before": -7.0, "after": -7.0 + i / count,
         "strength_before": 9e-4, "strength_after": 9e-4 * (1 + i / count)}
        for i in range(count)
    ]  # fmt: skip
    plot = hyper_plot(rows)
    _, _, width, height = map(float, re.findall(r'viewBox="([^"]+)"', plot)[0].split())
    assert height <= 72 * 10 and width <= 72 * 12
    labels = [text for text in re.findall(r"<text[^>]*>([^<]*)</text>", plot) if "…" in text]
    assert len(labels) == (count if count <= 40 else 0)
    assert all(len(label) <= 28 for label in labels)


def change(document: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy of the document with the entry at ``a.0.b`` replaced."""
    changed = copy.deepcopy(document)
    *parents, last = path.split(".")
    entry: Any = changed
    for key in parents:
        entry = entry[int(key)] if isinstance(entry, list | tuple) else entry[key]
    entry[last] = value
    return changed


WARNINGS = (
    ("row_coverage", 0.01, "Only 0.01 of the optimality rows"),
    ("steps.0.candidates.0.lp_status", "TIME_LIMIT", "round 1 ρ=0: TIME_LIMIT, primal residual "),
    ("steps.1.candidates.0.smallest_curvature", -0.5, "Negative curvature (down to -0.5)"),
    ("problem.selection_is_direction", True, "Direction and selection data are the same"),
    ("methods.1.test", 99.0, "over-fitted"),
    ("methods.2.test", -1.0, "Lower test loss than LiFT: -gradient"),
    ("status", "NO_DECREASE", "ended early"),
)


@pytest.mark.parametrize(("path", "value", "sentence"), WARNINGS, ids=[path for path, _, _ in WARNINGS])
def test_what_a_reader_must_know_is_said(document: dict[str, Any], path: str, value: object, sentence: str) -> None:
    changed = change(document, path, value)
    assert any(sentence in warning for warning in find_warnings(changed)), find_warnings(changed)
    quiet = {"row_coverage": 1.0, "steps": (), "status": "ROUNDS_DONE"}
    fine = {"selection": 1.0, "test": 1.0}
    assert not find_warnings(document | quiet | {"methods": [{"method": "a"} | fine, {"method": "b"} | fine]})


def test_what_keeps_a_refit_from_its_work_is_said(document: dict[str, Any]) -> None:
    changed = change(document, "search.refit_budget", 0.5)
    changed["steps"][0]["refit_curve"] = []
    changed["steps"][0]["cost"] = {"evaluations": 9.0, "gradients": 0.4, "hvps": 0.1}
    (sentence,) = (warning for warning in find_warnings(changed) if "No refit" in warning)
    assert sentence.startswith("No refit after 1 of 2 directions: both may cost 0.5 gradients")
    assert "up to 0.6 were spent" in sentence
    assert not any("No refit" in warning for warning in find_warnings(change(changed, "search.refit_budget", None)))
    held = change(document, "steps.0.candidates.0.weights_on_box", 0.01)
    assert not any("trust box" in warning for warning in find_warnings(held))
    held = change(held, "search.refit_reach", [1.0])
    held["steps"][1]["candidates"][0]["weights_on_box"] = 0.0
    (sentence,) = (warning for warning in find_warnings(held) if "trust box" in warning)
    assert sentence.startswith("At round 1 ρ=0 some weights")


def test_a_program_without_a_point_is_not_said_to_have_a_direction(document: dict[str, Any]) -> None:
    changed = change(document, "steps.0.candidates.0.lp_status", "INFEASIBLE")
    changed = change(changed, "steps.0.candidates.0.lp_objective", None)
    (sentence,) = (warning for warning in find_warnings(changed) if "INFEASIBLE" in warning)
    assert sentence.endswith("they gave no direction.") and "as much" not in sentence
    hopeless = change(document, "steps.0.candidates.0.lp_status", "INACCURATE")
    hopeless = change(hopeless, "steps.0.candidates.0.lp_primal_residual", 2e4)
    (sentence,) = (warning for warning in find_warnings(hopeless) if "INACCURATE" in warning)
    assert "INACCURATE, primal residual 2.0e+04" in sentence and sentence.endswith("they gave no direction.")


def test_rounding_below_zero_is_no_negative_curvature(document: dict[str, Any]) -> None:
    changed = copy.deepcopy(document)
    for step in changed["steps"]:
        for candidate in step["candidates"]:
            candidate |= {"smallest_curvature": -1e-17, "largest_curvature": 1.0}
    assert not any("Negative" in warning for warning in find_warnings(changed))


def test_a_search_without_hyperparameters_controls_or_warmup_has_a_report() -> None:
    search = lift.LocalSearch(backend=HiGHS(), curvature=lift.Exact(), slack=0.1, warmup_epochs=0)
    problem = Quadratic(num_hyper=0)
    page = render_report(report_document(search.run(problem), problem, search))
    assert "Before and after" not in page and "LP residuals" in page


def test_a_diverged_search_has_a_report() -> None:
    trainer = lift.Trainer(learning_rate=1e200)
    search = lift.LocalSearch(backend=HiGHS(), curvature=lift.Exact(), trainer=trainer, warmup_epochs=3)
    problem = Quadratic()
    document = report_document(search.run(problem), problem, search)
    assert document["status"] == "DIVERGED"
    assert "no LP was solved" in render_report(document)
    assert document["warnings"][0].startswith("The search ended early: training diverged")


@pytest.mark.parametrize("shared", (True, False))
def test_shared_direction_and_selection_data_are_noticed(shared: bool) -> None:
    problem = Quadratic()
    if shared:
        problem._batches["selection"] = [tuple(part.clone() for part in b) for b in problem._batches["direction"]]
    search = lift.LocalSearch(backend=HiGHS(), curvature=lift.Exact(), slack=0.1, warmup_epochs=0)
    document = report_document(search.run(problem), problem, search)
    assert document["problem"]["selection_is_direction"] is shared
