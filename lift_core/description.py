"""What a problem says of itself, looked at before anything is spent on it: no loss is evaluated here."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from torch import Tensor

from lift_core.problem import Batch, BilevelProblem, Point, Split


def require_description(problem: BilevelProblem) -> Point:
    """Names, bounds, groups, regulariser and initial point fit each other; returns the initial point.

    Raises:
        ValueError: a sentence that says what is wrong and what is wanted.
    """
    who = type(problem).__name__
    for attribute in ("name", "hyper_names", "hyper_lower", "hyper_upper", "groups"):
        _require(hasattr(problem, attribute), f"{who}.{attribute}: missing; see lift_core.BilevelProblem")
    try:
        point = problem.initial_point()
    except ValueError as error:  # a `Point` says what is wrong with its vectors
        raise ValueError(f"{who}.initial_point: {error}") from error
    _require(isinstance(point, Point), f"{who}.initial_point: expected a Point, got {type(point).__name__}")
    p, n = len(point.hyper), len(point.weights)
    _require(n > 0, f"{who}.initial_point: expected at least one weight")
    finite = bool(torch.isfinite(point.hyper).all() and torch.isfinite(point.weights).all())
    _require(finite, f"{who}.initial_point: NaN or inf in λ or θ")
    _require_names(problem, p)
    _require_bounds(problem, point.hyper)
    _require_groups(problem, n)
    if problem.regularizer is not None:
        got = (len(problem.regularizer.group_of), problem.regularizer.num_hyper)
        _require(got == (n, p), f"{who}.regularizer: expected {n} weights and {p} hyperparameters, got {got}")
        try:
            problem.regularizer.require_finite_strengths(problem.hyper_upper)
        except ValueError as error:
            raise ValueError(f"{who}.{error}") from error
    return point


def require_batches(problem: BilevelProblem, split: Split) -> Sequence[Batch]:
    """The batches of a split, at least one of them, each of a size.

    Raises:
        ValueError: a sentence that says what is wrong and what is wanted.
    """
    who, batches = f"{type(problem).__name__}.batches({split!r})", problem.batches(split)
    listed = isinstance(batches, Sequence)  # pyright: ignore[reportUnnecessaryIsInstance]  (it is the user's)
    _require(listed, f"{who}: expected a list of batches, got {type(batches).__name__}")
    _require(len(batches) > 0, f"{who}: expected at least one example, got none; the split is empty")
    for batch in batches:
        _require_size(problem, batch)
    return batches


def _require_size(problem: BilevelProblem, batch: Batch) -> None:
    who = type(problem).__name__
    try:
        size = problem.batch_size(batch)
    except (TypeError, KeyError, IndexError) as error:
        raise ValueError(
            f"{who}.batch_size: {type(error).__name__} ({error}); by default it is len(batch[0]), override it for "
            "batches of another form"
        ) from error
    _require(type(size) is int and size > 0, f"{who}.batch_size: expected a positive int, got {size!r}")


def _require_names(problem: BilevelProblem, p: int) -> None:
    who, names = type(problem).__name__, problem.hyper_names
    named = isinstance(problem.name, str) and bool(problem.name)  # pyright: ignore[reportUnnecessaryIsInstance]
    _require(named, f"{who}.name: expected a string, got {problem.name!r}")
    _require(len(names) == p, f"{who}.hyper_names: expected one name for each of {p} hyperparameters, got {len(names)}")
    _require(len(set(names)) == p, f"{who}.hyper_names: names must differ from each other")
    try:
        json.dumps({"name": problem.name, "hyper_names": list(names), "groups": list(problem.groups)})
    except TypeError as error:
        raise ValueError(f"{who}: name, hyper_names and the keys of groups must be strings ({error})") from error
    strings = all(isinstance(name, str) for name in (*names, *problem.groups))  # pyright: ignore[reportUnnecessaryIsInstance]
    _require(strings, f"{who}: hyper_names and the keys of groups must be strings")


def _require_bounds(problem: BilevelProblem, hyper: Tensor) -> None:
    who, p = type(problem).__name__, len(hyper)
    for name in ("hyper_lower", "hyper_upper"):
        bound = getattr(problem, name)
        _require(isinstance(bound, Tensor), f"{who}.{name}: expected a tensor, got {type(bound).__name__}")
        _require(
            bound.dtype == torch.float64 and tuple(bound.shape) == (p,),
            f"{who}.{name}: expected float64 of shape ({p},), got {bound.dtype} of shape {tuple(bound.shape)}",
        )
        _require(not bool(bound.isnan().any()), f"{who}.{name}: NaN; use -inf or inf where there is no bound")
    lower, upper = (bound.to(hyper.device) for bound in (problem.hyper_lower, problem.hyper_upper))
    outside = ~((lower <= hyper) & (hyper <= upper))
    if outside.any():
        raise ValueError(f"{who}.initial_point: λ[{int(outside.nonzero()[0])}] lies outside its bounds")


def _require_groups(problem: BilevelProblem, n: int) -> None:
    """Together the slices cover every weight exactly once."""
    who, times = type(problem).__name__, torch.zeros(n)
    for name, part in problem.groups.items():
        sliced = isinstance(part, slice)  # pyright: ignore[reportUnnecessaryIsInstance]
        _require(sliced, f"{who}.groups[{name!r}]: expected a slice, got {type(part).__name__}")
        run = part.step in (None, 1) and part.start is not None and part.stop is not None
        _require(
            run and 0 <= (part.start or 0) < (part.stop or 0) <= n,
            f"{who}.groups[{name!r}]: expected slice(start, stop) with 0 <= start < stop <= {n}, got {part}",
        )
        times[part] += 1
    wrong = (times != 1).nonzero()
    if len(wrong):
        at = int(wrong[0])
        raise ValueError(f"{who}.groups: every weight must be in exactly one group; weight {at} is in {int(times[at])}")


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise ValueError(sentence)
