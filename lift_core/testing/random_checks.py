"""What an answer to a program with a known optimum must satisfy, whatever its status."""

from __future__ import annotations

import dataclasses
import math

from lift_core.lp import LPBackend, LPStatus, solve_lp
from lift_core.testing.known import KnownLP

_IMPOSSIBLE = (LPStatus.INFEASIBLE, LPStatus.UNBOUNDED)
_ROUNDING = 1e-9


def check_answer(known: KnownLP, backend: LPBackend) -> LPStatus:
    """Solve and hold the answer to what is known; returns its status.

    A backend may give up. But what it calls optimal has the known objective to its tolerance, a program with an
    optimum is never certified to have none, and a bound is a bound.

    Raises:
        AssertionError: for a wrong answer.

    >>> from backends import HiGHS
    >>> from lift_core.testing import closed_form_direction_lp
    >>> check_answer(closed_form_direction_lp(4, 1), HiGHS()).name
    'OPTIMAL'
    """
    solution = solve_lp(known.lp, backend)
    tolerance = known.objective_tolerance(backend.rtol)
    if solution.status is LPStatus.OPTIMAL:
        off = abs(solution.objective - known.objective)
        assert off <= tolerance, f"{backend.name}: {solution.objective} is called optimal, but {known.objective} is"
    assert not (solution.status in _IMPOSSIBLE and solution.certified), f"{backend.name}: certified {solution.status}"
    _check_bound(solution.bound, known, backend)
    return solution.status


def early_stop(known: KnownLP, backend: LPBackend) -> bool:
    """Solve with two iterations, or in a millisecond, and hold the bound to the optimum; whether it was an early stop.

    Raises:
        AssertionError: if the bound is above the optimal value.
    """
    options = {field.name for field in dataclasses.fields(backend)}
    hurried = {"max_iterations": 2} if "max_iterations" in options else {"time_limit": 1e-3}
    solution = solve_lp(known.lp, dataclasses.replace(backend, **hurried))
    _check_bound(solution.bound, known, backend)
    return solution.status in (LPStatus.ITERATION_LIMIT, LPStatus.TIME_LIMIT)


def _check_bound(bound: float, known: KnownLP, backend: LPBackend) -> None:
    lp = known.lp
    largest = [float(part.abs().sum()) for part in (lp.c * known.x, known.y * lp.A.matvec(known.x))]
    allowed = _ROUNDING * (1 + abs(known.objective) + sum(largest) + (abs(bound) if math.isfinite(bound) else 0.0))
    assert bound <= known.objective + allowed, f"{backend.name}: {bound} is no bound on {known.objective}"
