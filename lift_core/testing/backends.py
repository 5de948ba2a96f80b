"""The contract of a linear-programming backend."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import torch

from lift_core.lp import LinearProgram, LPBackend, LPSolution, LPStart, LPStatus, solve_lp, solve_lps
from lift_core.operators import MatrixFree
from lift_core.testing.cases import LPCase, lp_cases
from lift_core.testing.known import closed_form_direction_lp, known_lp

_HONEST_FAILURES = {
    LPStatus.ITERATION_LIMIT,
    LPStatus.TIME_LIMIT,
    LPStatus.INACCURATE,
    LPStatus.NUMERICAL_ERROR,
    LPStatus.INFEASIBLE_OR_UNBOUNDED,
}


def check_backend(backend: LPBackend, *, cases: Iterable[LPCase] | None = None) -> None:
    """Run a backend on a table of named programs and hold every answer to what is known about it.

    An optimum must be found to ``backend.rtol``; one without may be given up on, but never come back as optimal.
    Broken data must be refused before the backend sees it, the program must not be changed, a warm start must be
    accepted, a sequence must yield one answer per program, and a time limit must be reported as such.

    Args:
        backend: an instance, with the options that it is to be checked at.
        cases: by default `lp_cases`.

    Raises:
        AssertionError: a sentence that names the case, what came and what is wanted.

    >>> from backends import HiGHS
    >>> check_backend(HiGHS())
    """
    check_options(backend)
    for case in lp_cases() if cases is None else cases:
        check_case(backend, case)
    _check_refuses_broken_products(backend)
    _check_warm_start(backend)
    _check_sequence(backend)
    _check_time_limit(backend)


def check_options(backend: LPBackend) -> None:
    """A frozen dataclass with a name, whose `rtol` and `time_limit` can be replaced."""
    who = type(backend).__name__
    assert isinstance(backend, LPBackend), f"{who}: expected a subclass of lift_core.LPBackend"
    name = getattr(backend, "name", None)
    assert isinstance(name, str) and name, f"{who}.name: expected a non-empty string, got {name!r}"
    assert type(backend).__dataclass_params__.frozen, (  # pyright: ignore[reportAttributeAccessIssue]
        f"{who}: options are the fields of a frozen dataclass; decorate the class with @dataclass(frozen=True)"
    )
    changed = dataclasses.replace(backend, rtol=1e-3, time_limit=60.0)
    assert (changed.rtol, changed.time_limit) == (1e-3, 60.0), f"{who}: replacing rtol and time_limit had no effect"
    for options in ({"rtol": 0.0}, {"rtol": math.nan}, {"time_limit": 0.0}):
        try:
            dataclasses.replace(backend, **options)
        except ValueError:
            continue
        raise AssertionError(f"{who}: expected a ValueError for {options}; call super().__post_init__()")


def check_case(backend: LPBackend, case: LPCase) -> None:
    """One program: the status it deserves, the known objective, and data left as they were."""
    who, before = f"{type(backend).__name__} on {case.name!r}", _contents(case.lp)
    solution = solve_lp(case.lp, backend)
    for name, kept, now in zip(_FIELDS, before, _contents(case.lp), strict=True):
        assert torch.equal(kept, now), f"{who}: it changed {name} of the program; a backend must leave its input alone"
    if case.known is not None:
        if case.hard and solution.status in _HONEST_FAILURES:
            return
        _check_optimum(who, solution, case.known.objective, case.known.objective_tolerance(backend.rtol))
        return
    allowed = {case.status} | _HONEST_FAILURES
    assert solution.status in allowed, (
        f"{who}: expected {case.status.name} or an honest failure "
        f"({', '.join(sorted(status.name for status in _HONEST_FAILURES))}), got {solution.status.name}"
    )


_FIELDS = ("c", "row_lower", "row_upper", "col_lower", "col_upper", "A (seen through a product)")


def _contents(lp: LinearProgram) -> list[torch.Tensor]:
    probe = torch.linspace(1, 2, lp.num_columns, dtype=torch.float64, device=lp.A.device)
    vectors = (lp.c, lp.row_lower, lp.row_upper, lp.col_lower, lp.col_upper)
    return [*(vector.clone() for vector in vectors), lp.A.matvec(probe)]


def _check_optimum(who: str, solution: LPSolution, objective: float, tolerance: float) -> None:
    assert solution.status is LPStatus.OPTIMAL, (
        f"{who}: expected OPTIMAL, got {solution.status.name} with residuals primal {solution.kkt.primal:.1e}, "
        f"dual {solution.kkt.dual:.1e}, gap {solution.kkt.gap:.1e} (signs: z = c − Aᵀy, y ≥ 0 at a row's lower bound)"
    )
    assert abs(solution.objective - objective) <= tolerance, (
        f"{who}: expected the objective {objective:.10g} within {tolerance:.1e}, got {solution.objective:.10g}"
    )


def _check_refuses_broken_products(backend: LPBackend) -> None:
    who = type(backend).__name__
    for value in (math.nan, math.inf):
        broken = MatrixFree((1, 1), lambda x, value=value: x * value, lambda y, value=value: y * value)
        try:
            solution = solve_lp(LinearProgram(c=[1.0], A=broken, row_lower=0.0, col_lower=0.0), backend)
        except ValueError:
            continue
        raise AssertionError(f"{who}: expected a ValueError for a matrix with {value}, got {solution.status.name}")


def _check_warm_start(backend: LPBackend) -> None:
    known = closed_form_direction_lp(6, 2, delta=0.1, seed=7)
    tolerance = known.objective_tolerance(backend.rtol)
    starts = {
        "the optimal pair": LPStart(known.x, known.y),
        "zeros": LPStart(torch.zeros_like(known.x), torch.zeros_like(known.y)),
        "a point outside the bounds": LPStart(known.x + 5, -known.y),
    }
    for name, start in starts.items():
        solution = solve_lp(known.lp, backend, start=start)
        _check_optimum(f"{type(backend).__name__} started from {name}", solution, known.objective, tolerance)


def _check_sequence(backend: LPBackend) -> None:
    """Programs that share A and differ in their slack: one answer for each, in order."""
    deltas = (0.0, 0.01, 0.1)
    family = [closed_form_direction_lp(6, 2, delta=delta, seed=8) for delta in deltas]
    box = torch.stack([known.lp.col_upper for known in family]).max(0).values
    lps = [
        LinearProgram(c=known.lp.c, A=family[0].lp.A, row_lower=-delta, row_upper=delta, col_lower=-box, col_upper=box)
        for known, delta in zip(family, deltas, strict=True)
    ]
    who = f"{type(backend).__name__}.solve_sequence"
    for count in (0, len(lps)):
        answers = list(backend.solve_sequence(lps[:count]))
        assert len(answers) == count, f"{who}: expected one answer for each of {count} programs, got {len(answers)}"
    for index, (solution, known) in enumerate(zip(solve_lps(lps, backend), family, strict=True)):
        tolerance = dataclasses.replace(known, lp=lps[index]).objective_tolerance(backend.rtol)
        _check_optimum(f"{who}, program {index}", solution, known.objective, tolerance)


def _check_time_limit(backend: LPBackend) -> None:
    """With a millisecond, an LP is solved or the time limit is the reason that it is not."""
    matrix = torch.randn(60, 80, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    known = known_lp(matrix, ["at lower", "inside", "fixed"] * 20, ["inside", "at upper"] * 40, seed=9)
    solution = solve_lp(known.lp, dataclasses.replace(backend, time_limit=1e-3))
    assert solution.status in (LPStatus.OPTIMAL, LPStatus.TIME_LIMIT), (
        f"{type(backend).__name__} with time_limit=0.001: expected TIME_LIMIT (or OPTIMAL if it is that fast), "
        f"got {solution.status.name}"
    )
