"""What a reader must know before believing a run's numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lift_core.lp_move import is_usable
from lift_core.metering import Cost

Document = Mapping[str, Any]
NEAR_ZERO = 1e-3
"""Slack ratios up to here ask for training optimality in earnest, so curvature must be trustworthy."""


def find_warnings(document: Document) -> list[str]:
    """Sentences, most severe first; none where all is well.

    Args:
        document: of a run, see `report_document`; the key ``warnings`` itself aside.
    """
    return [sentence for check in _CHECKS for sentence in check(document)]


def _ending(document: Document) -> Iterator[str]:
    if document["status"] in ("DIVERGED", "NO_DIRECTION", "NO_DECREASE"):
        yield f"The search ended early: {document['status_text']}."


def _no_numbers(document: Document) -> Iterator[str]:
    for split in ("selection", "test"):
        lost = [method["method"] for method in document["methods"] if not _is_number(method[split])]
        if lost:
            yield f"The {split} loss is no finite number for {', '.join(lost)}: look at the data of that split."


def _is_number(loss: float | None) -> bool:
    return loss is not None and math.isfinite(loss)


def _shared_splits(document: Document) -> Iterator[str]:
    if document["problem"]["selection_is_direction"]:
        yield (
            "Direction and selection data are the same: the validation numbers are fitted to the data that chose "
            "them. Judge by the test numbers."
        )


def _overfitting(document: Document) -> Iterator[str]:
    before, lift = document["methods"][:2]
    if lift["selection"] < before["selection"] and lift["test"] > before["test"]:
        yield "LiFT lowered the validation loss and raised the test loss: the direction data were over-fitted."


def _stronger_control(document: Document) -> Iterator[str]:
    _, lift, *controls = document["methods"]
    better = [control["method"] for control in controls if control["test"] < lift["test"]]
    if better:
        yield f"Lower test loss than LiFT: {', '.join(better)}."


def _row_coverage(document: Document) -> Iterator[str]:
    coverage = document["row_coverage"]
    if coverage is not None and coverage < 1:
        yield (
            f"Only {coverage:.3g} of the optimality rows were kept: most weights are then free of the training "
            "condition, and the direction comes close to sign descent on the direction data."
        )


def _lp_statuses(document: Document) -> Iterator[str]:
    solves = _solves(document)
    missed = [(number, c) for number, c in solves if c["lp_status"] != "OPTIMAL"]
    for usable, meaning in (
        (True, "their directions miss the program's rows by as much, relative to its size"),
        (False, "they gave no direction"),
    ):
        own = [f"round {n} {c['label']}: {_outcome(c)}" for n, c in missed if _is_usable(c) is usable]
        if own:
            yield f"{len(own)} of {len(solves)} LPs did not end OPTIMAL ({'; '.join(own)}): {meaning}."


def _is_usable(candidate: Document) -> bool:
    return candidate["lp_objective"] is not None and is_usable(candidate["lp_primal_residual"])


def _outcome(candidate: Document) -> str:
    residual = candidate["lp_primal_residual"]
    return candidate["lp_status"] + ("" if residual is None else f", primal residual {residual:.1e}")


def _negative_curvature(document: Document) -> Iterator[str]:
    if document["search"]["definiteness"] != "raw":
        return
    solves = _solves(document)
    tight = [(number, c) for number, c in solves if _is_tight(c) and _is_negative(c)]
    if tight:
        worst = min(candidate["smallest_curvature"] for _, candidate in tight)
        where = "; ".join(f"round {number} {candidate['label']}" for number, candidate in tight)
        yield (
            f"Negative curvature (down to {worst:.2g}) at {where}. Near ρ = 0 it can flip the sign of the "
            "hypergradient; compare with definiteness=clamped."
        )


def _far_from_trained(document: Document) -> Iterator[str]:
    solves = _solves(document)
    far = [(number, c) for number, c in solves if _is_tight(c) and c["lower_gradient_norm"] > c["upper_gradient_norm"]]
    if far:
        where = "; ".join(f"round {number} {candidate['label']}" for number, candidate in far)
        yield (
            f"At {where} the training gradient is larger than the validation gradient: the point is not near training "
            "optimality, which a ρ near 0 means to keep. Warm up longer, or raise ρ."
        )


def _nothing_left(document: Document) -> Iterator[str]:
    """Only where direction and refit share a budget."""
    budget, steps = document["search"]["refit_budget"], document["steps"]
    without = [step for step in steps if not step["refit_curve"] and any(c["lp_objective"] for c in step["candidates"])]
    if budget and without:
        spent = max(Cost(**step["cost"]).differentiation for step in without)
        yield (
            f"No refit after {len(without)} of {len(steps)} directions: both may cost {budget:.3g} gradients, a "
            f"product counted as two; up to {spent:.3g} were spent. Raise --refit-epochs, or take curvature from "
            "fewer batches."
        )


def _held_back(document: Document) -> Iterator[str]:
    """Where λ alone is what a refit takes from the LP, the box on θ must not decide it."""
    if not document["search"]["refit_reach"]:
        return
    solves = _solves(document)
    held = [(n, c) for n, c in solves if c["slack"] == 0 and c["weights_on_box"] and c["row_coverage"] == 1]
    if held:
        where = "; ".join(f"round {number} {candidate['label']}" for number, candidate in held)
        yield (
            f"At {where} some weights reach the trust box, which then decides the direction of λ along with the "
            "hypergradient. Raise --weights-radius until none do; where it never ends, take definite curvature."
        )


def _solves(document: Document) -> list[tuple[int, Document]]:
    """Every candidate with the number of its round."""
    return [(number, c) for number, step in enumerate(document["steps"], start=1) for c in step["candidates"]]


def _is_tight(candidate: Document) -> bool:
    """Whether the slack is so small a ratio that training optimality binds; an absolute δ says nothing of it."""
    return candidate["slack"] is not None and candidate["slack"] <= NEAR_ZERO


def _is_negative(candidate: Document) -> bool:
    """Below zero by more than rounding."""
    smallest, largest = candidate["smallest_curvature"] or 0.0, candidate["largest_curvature"] or 0.0
    return smallest < -1e-9 * abs(largest)


_CHECKS: tuple[Callable[[Document], Iterator[str]], ...] = (
    _ending,
    _no_numbers,
    _shared_splits,
    _overfitting,
    _stronger_control,
    _row_coverage,
    _lp_statuses,
    _negative_curvature,
    _far_from_trained,
    _nothing_left,
    _held_back,
)
