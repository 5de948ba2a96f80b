"""The JSON document of a run: the search's own records, joined by everything that their reader needs to judge them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, get_args

import torch

from lift_core.curvature import CurvatureModel
from lift_core.metering import Cost
from lift_core.moves import Facts
from lift_core.problem import BilevelProblem, Split
from lift_core.report.warnings import find_warnings
from lift_core.search import LocalSearch, SearchResult


def report_document(
    result: SearchResult,
    problem: BilevelProblem,
    search: LocalSearch,
    *,
    settings: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that is known about a run, as JSON values; NaN and inf become null.

    Args:
        settings: what the user asked for, as JSON values; shown as it is.
        provenance: of `lift_core.provenance`, taken when the run began.
    """
    document = result.to_json() | {
        "problem": _describe_problem(problem),
        "search": _describe_search(search, problem),
        "settings": dict(settings or {}),
        "provenance": dict(provenance or {}),
        "versions": {"lift-bilevel": lift_version(), "torch": torch.__version__},
        "hyper": _hyper_rows(result, problem),
        "methods": [_with_metric(method, problem) for method in result.methods],
        "row_coverage": _row_coverage(result),
    }
    for key in ("hyper_names", "hyper_before", "hyper_after"):
        del document[key]
    document["warnings"] = find_warnings(document)
    return finite(document)


def to_json_text(document: Mapping[str, Any]) -> str:
    """The text of ``result.json``: keys sorted, so that equal runs give equal files."""
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def lift_version() -> str:
    """The installed version of this package."""
    try:
        return version("lift-bilevel")
    except PackageNotFoundError:
        return "not installed"


def _describe_problem(problem: BilevelProblem) -> Facts:
    point = problem.initial_point()
    return {
        "name": problem.name,
        "description": problem.describe(),
        "metric_name": problem.metric_name,
        "num_weights": len(point.weights),
        "num_hyper": len(point.hyper),
        "num_examples": {split: problem.num_examples(split) for split in get_args(Split)},
        "selection_is_direction": _same_data(problem, "direction", "selection"),
    }


def _describe_search(search: LocalSearch, problem: BilevelProblem) -> Facts:
    curvature: CurvatureModel = search.curvature
    return {
        "backend": search.backend.name,
        "rtol": search.backend.rtol,
        "curvature": curvature.name,
        "definiteness": curvature.definiteness,
        "curvature_share": curvature.share,
        "warmup_epochs": search.warmup_epochs,
        "refit_budget": search.refit.budget(problem),
        "refit_reach": list(search.refit.reach),
        "description": repr(search),
    }


def _hyper_rows(result: SearchResult, problem: BilevelProblem) -> list[Facts]:
    """λ, and the strength w(λ) where a regulariser says what that is, before and after."""
    rows: list[Facts] = [
        {"name": name, "before": before, "after": after}
        for name, before, after in zip(result.hyper_names, result.hyper_before, result.hyper_after, strict=True)
    ]
    if problem.regularizer is not None:
        for when in ("before", "after"):
            hyper = torch.tensor([row[when] for row in rows], dtype=torch.float64)
            for row, strength in zip(rows, problem.regularizer.strengths(hyper).tolist(), strict=True):
                row[f"strength_{when}"] = strength
    return rows


def _with_metric(method: Facts, problem: BilevelProblem) -> Facts:
    """A method's row with its losses in the problem's metric, and its cost in one number."""
    metric = {split: _metric(problem, method[split]) for split in get_args(Split)}
    return method | {
        "metric": metric,
        "gradient_equivalents": Cost(**method["cost"]).gradient_equivalents,
    }


def _metric(problem: BilevelProblem, loss: float) -> float:
    try:
        return problem.metric(loss)
    except OverflowError:  # exp of a diverged loss
        return math.inf


def _row_coverage(result: SearchResult) -> float | None:
    """Smallest share of optimality rows that any LP kept."""
    shares = [candidate["row_coverage"] for step in result.steps for candidate in step["candidates"]]
    return min(shares, default=None)


def _same_data(problem: BilevelProblem, first: Split, second: Split) -> bool:
    """Whether two splits hold the same batches, by identity or by their tensors."""
    pairs = (problem.batches(first), problem.batches(second))
    return len(pairs[0]) == len(pairs[1]) and all(map(_same_batch, *pairs))


def _same_batch(first: object, second: object) -> bool:
    if first is second:
        return True
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, (tuple, list)) and isinstance(second, (tuple, list)):
        return len(first) == len(second) and all(map(_same_batch, first, second))
    return False


def finite(value: Any) -> Any:
    """JSON has neither NaN nor inf."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    return [finite(entry) for entry in value] if isinstance(value, (list, tuple)) else value
