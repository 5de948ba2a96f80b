"""The judge of LP answers: what residuals do not tell, and answers that are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backends import PDLP, DualNewton, HiGHS, InteriorPoint
from lift_core.lp import BackendAnswer, LinearProgram, LPBackend, LPStatus, judge, solve_lp, solve_lps
from lift_core.testing import known_direction_lp
from tests.test_lp import scripted, vector


@pytest.mark.parametrize("backend", [InteriorPoint(), InteriorPoint(rtol=1e-4), DualNewton(), PDLP(), HiGHS()])
def test_one_huge_cost_does_not_hide_the_others(backend: LPBackend) -> None:
    """``min −x + 1e9 w  s.t.  x <= 10``: at zero the dual residual, relative to the costs, is 1e-9."""
    lp = LinearProgram(c=[-1.0, 1e9], A=[[1.0, 0.0]], row_upper=10.0, col_lower=0.0)
    start = solve_lp(lp, scripted(vector(0.0, 0.0), vector(0.0)))
    assert start.kkt.worst < 2e-9 and start.kkt.objective_error >= 1
    assert solve_lp(lp, backend).objective == pytest.approx(-10.0, rel=1e-3)


def test_columns_are_measured_by_their_own_bounds() -> None:
    """Rows in units of 1e6 excuse no weight a hundred times outside its box."""
    lp = LinearProgram(c=[1.0], A=[[1e6]], row_lower=-1e8, row_upper=1e8, col_lower=-1.0, col_upper=1.0)
    solution = solve_lp(lp, scripted(vector(-100.0), vector(1e-6)))
    assert solution.status is LPStatus.INACCURATE and solution.kkt.primal > 10


@pytest.mark.parametrize("count", [1.5, None])
def test_iterations_that_are_no_count_are_named(count: Any) -> None:
    known = known_direction_lp(6, 2, seed=0)
    with pytest.raises(TypeError, match="iterations: expected an integer in the answer"):
        judge(known.lp, BackendAnswer(known.x, known.y, LPStatus.OPTIMAL, count), scripted(known.x, known.y), 0.0)
    whole = BackendAnswer(known.x, known.y, LPStatus.OPTIMAL, np.int64(3))  # pyright: ignore[reportArgumentType]
    assert type(judge(known.lp, whole, scripted(known.x, known.y), 0.0).iterations) is int


@pytest.mark.parametrize("answer", [None, (1, 2)])
def test_what_is_no_answer_is_blamed_on_solve(answer: Any) -> None:
    known = known_direction_lp(6, 2, seed=0)
    backend = scripted(known.x, known.y)
    object.__setattr__(backend, "solve", lambda lp, start=None: answer)
    for programs in ([known.lp], [known.lp, known.lp]):
        with pytest.raises(TypeError, match="expected a BackendAnswer with an LPStatus from solve"):
            list(solve_lps(programs, backend))
