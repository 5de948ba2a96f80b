"""PDLP on direction LPs that once went wrong: wide slacks, equal hyperparameters, no curvature, infeasible ones."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch

from backends import HiGHS
from backends.pdlp import PDLP
from lift_core.direction import assemble_direction_lp, slack_unit
from lift_core.lp import LinearProgram, LPStatus, solve_lp
from lift_core.operators import (
    Dense,
    Diagonal,
    LowRankPlusDiagonal,
)
from lift_core.testing import known_direction_lp
from tests.test_pdlp import direction_program


def test_a_direction_without_feasible_point_is_certified() -> None:
    lp = direction_program("indefinite", n=10, p=2, rho=0.01, seed=1)
    shifted = LinearProgram(
        c=lp.c, A=lp.A, row_lower=lp.row_lower + 100, row_upper=lp.row_upper + 100, col_lower=-1.0, col_upper=1.0
    )
    solution = solve_lp(shifted, PDLP())
    assert (solution.status, solution.certified) == (LPStatus.INFEASIBLE, True)


@pytest.mark.parametrize("seed", range(4))
def test_directions_without_curvature(seed: int) -> None:
    """λ alone has rows, which may depend on each other."""
    generator, n, p = torch.Generator().manual_seed(seed), 1 + seed, 3 - seed % 3
    grad_hyper, grad_weights, mixed = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((p,), (n,), (n, p))
    )
    hessian = Diagonal(torch.zeros(n))
    lp = assemble_direction_lp(
        grad_hyper=grad_hyper, grad_weights=grad_weights, hessian=hessian, mixed=Dense(mixed), delta=0.0
    )
    found, wanted = solve_lp(lp, PDLP(max_iterations=5_000)), solve_lp(lp, HiGHS())
    assert found.status is LPStatus.OPTIMAL
    assert found.objective == pytest.approx(wanted.objective, rel=1e-3)
    projected = solve_lp(lp, PDLP(max_iterations=400, algorithm="douglas_rachford"))  # which "auto" does not take here
    assert projected.objective == pytest.approx(wanted.objective, rel=1e-2)


def test_weights_do_not_leave_their_box_for_large_rows() -> None:
    """Curvature in units of 1e6 makes the slack so wide that the closed form leaves the box a hundredfold."""
    hessian, ones = Diagonal(torch.tensor([1e6, 1e4], dtype=torch.float64)), torch.ones(2, dtype=torch.float64)
    lp = assemble_direction_lp(
        grad_hyper=torch.zeros(1, dtype=torch.float64), grad_weights=ones, hessian=hessian,
        mixed=Dense(torch.zeros(2, 1, dtype=torch.float64)), delta=slack_unit(hessian, ones, ones),
    )  # fmt: skip
    solution = solve_lp(lp, PDLP())
    assert solution.status is LPStatus.OPTIMAL
    assert solution.objective == pytest.approx(-2.0, rel=1e-3) and solution.x.abs().max() <= 1


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_hyperparameters_of_equal_effect(seed: int) -> None:
    """The small system of the factored projection is singular to rounding."""
    generator, n = torch.Generator().manual_seed(seed), 20
    column, factor = (torch.randn(n, k, generator=generator, dtype=torch.float64) for k in (1, 3))
    ones = torch.ones(n, dtype=torch.float64)
    lp = assemble_direction_lp(
        grad_hyper=torch.zeros(2, dtype=torch.float64),
        grad_weights=torch.randn(n, generator=generator, dtype=torch.float64),
        hessian=LowRankPlusDiagonal(diagonal=1e-9 * ones, factor=factor, core=ones[:3]),
        mixed=Dense(column.repeat(1, 2)), delta=0.0, weights_radius=ones,
    )  # fmt: skip
    assert solve_lp(lp, PDLP(time_limit=20)).objective == pytest.approx(solve_lp(lp, HiGHS()).objective, rel=1e-3)


def test_a_sequence_has_the_time_of_its_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    deadlines: list[float] = []
    monkeypatch.setattr(PDLP, "_run", lambda self, batch, starts, limits: deadlines.append(limits.deadline) or [])
    known = known_direction_lp(6, 2, seed=0)
    for lps in ([known.lp], [known.lp] * 100):
        with suppress(ValueError):
            PDLP(time_limit=1.0)._solve_together(lps, [None] * len(lps))
    assert 98 < deadlines[1] - deadlines[0] < 100
