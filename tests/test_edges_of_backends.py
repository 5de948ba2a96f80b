"""Programs on which backends once went wrong: nearly infeasible, nearly unbounded, far bounds, unlucky starts."""

import math
from pathlib import Path

import highspy
import numpy as np
import pytest
import torch

from backends import PDLP, HiGHS, InteriorPoint, Pyomo, highs
from backends.mps import read_mps
from backends.pdlp import douglas_rachford, halpern
from backends.pdlp.batch import make_batch
from backends.pdlp.iteration import Check
from backends.pdlp.scaling import scale, spectral_norm
from backends.pdlp.units import fit_projection
from lift_core import Diagonal, LPBackend
from lift_core.lp import LinearProgram, LPStatus, proves_infeasible, proves_unbounded, solve_lp, solve_lps
from lift_core.operators import Dense
from lift_core.testing.families import factored_direction_lp

KLEIN1 = Path(__file__).parent / "data" / "netlib" / "infeasible" / "klein1.mps"
BACKENDS = (HiGHS(method="simplex"), InteriorPoint(), PDLP(time_limit=1.0))


def nearly_infeasible(gap: float) -> LinearProgram:
    """Two lines that meet at (-1, 1) / gap."""
    return LinearProgram(c=[0.0, 1.0], A=[[1.0, 1.0], [1.0, 1.0 + gap]], row_lower=[1.0, 2.0], row_upper=[1.0, 2.0])


def nearly_unbounded(gap: float) -> LinearProgram:
    """Of value -1 / gap."""
    return LinearProgram(c=[-1.0, 0.0], A=[[1.0, -1.0], [-1.0, 1.0 + gap]], row_upper=[0.0, 1.0], col_lower=0.0)


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
@pytest.mark.parametrize("gap", [1e-6, 1e-8])
@pytest.mark.parametrize("make", [nearly_infeasible, nearly_unbounded])
def test_a_program_with_a_far_solution_is_not_certified_to_have_none(make, gap: float, backend: LPBackend) -> None:
    solution = solve_lp(make(gap), backend)
    assert not solution.certified
    assert solution.status in (LPStatus.OPTIMAL, LPStatus.TIME_LIMIT, LPStatus.NUMERICAL_ERROR, LPStatus.INACCURATE)


def test_rays_prove_nothing_of_programs_with_far_solutions() -> None:
    assert not proves_infeasible(nearly_infeasible(1e-7), torch.tensor([-1.0, 1.0], dtype=torch.float64))
    assert not proves_unbounded(nearly_unbounded(1e-7), torch.tensor([1.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize(
    "backend",
    [HiGHS(rtol=1e-8), HiGHS(method="ipm", rtol=1e-8), InteriorPoint(rtol=1e-8), PDLP(rtol=1e-4)],
    ids=["simplex", "ipm", "InteriorPoint", "PDLP"],
)
def test_a_program_whose_points_violate_less_the_farther_they_are_is_proved_infeasible(backend: LPBackend) -> None:
    solution = solve_lp(read_mps(KLEIN1), backend)
    assert solution.status is LPStatus.INFEASIBLE and solution.certified


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
@pytest.mark.parametrize("far", [1e20, 1e30])
def test_what_others_call_infinity_does_not_loosen_the_tolerance(far: float, backend: LPBackend) -> None:
    lp = LinearProgram(
        c=[1.0, 1.0], A=[[1.0, 1.0], [1.0, -1.0]], row_lower=[2.0, -far], row_upper=[far, far], col_lower=0.0
    )
    assert lp.row_lower.tolist() == [2.0, -math.inf] and lp.row_upper.tolist() == [math.inf, math.inf]
    assert solve_lp(lp, backend).objective == pytest.approx(2.0, rel=1e-3)


def test_the_far_side_of_a_range_does_not_loosen_the_tolerance() -> None:
    lp = LinearProgram(c=[1.0], A=[[1.0]], row_lower=2.0, row_upper=1e9, col_lower=0.0)
    for backend in BACKENDS:
        assert solve_lp(lp, backend).objective == pytest.approx(2.0, rel=1e-3)


@pytest.mark.parametrize("lower", [0.0, -math.inf])
@pytest.mark.parametrize("size", [1.0, 1e9])
def test_the_side_that_binds_sets_the_scale(size: float, lower: float) -> None:
    """A redundant bound of 0 changes neither verdict nor work."""
    generator = torch.Generator().manual_seed(0)
    matrix, costs = (torch.rand(*shape, generator=generator, dtype=torch.float64) for shape in ((20, 40), (40,)))
    right = size * (1 + torch.rand(20, generator=generator, dtype=torch.float64))
    lp = LinearProgram(c=-costs, A=matrix, row_lower=lower, row_upper=right, col_lower=0.0)
    for backend in BACKENDS:
        solution = solve_lp(lp, backend)
        assert solution.status is LPStatus.OPTIMAL
        assert solution.iterations <= 600


def test_rounding_of_far_bounds_is_no_proof() -> None:
    """A sum of bounds that equals the row's, as far as it can be told."""
    for seed in range(40):
        near = 1e9 * (1 + torch.rand(40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
        total = float(np.add.reduce(near.numpy()))
        lp = LinearProgram(c=torch.ones(40), A=torch.ones(1, 40), row_lower=0.0, row_upper=total, col_lower=near)
        assert not proves_infeasible(lp, torch.tensor([-1.0], dtype=torch.float64))


UNLUCKY = ([[-1.0, 1.0, 0.0], [2.0, 0.0, -2.0]], [[1.0, -2.0, -1.0, 1.0, 2.0], [-2.0, 0.0, 0.0, 2.0, 0.0]])
"""The first vector of the power method is nearly orthogonal to the leading singular vector of these."""


def unlucky(entries: list[list[float]]) -> LinearProgram:
    A = np.array(entries)  # noqa: N806
    return LinearProgram(c=A.T @ [1.0, -0.5], A=A, row_lower=[-1.0, -2.0], row_upper=[-1.0, -2.0])


@pytest.mark.parametrize("entries", UNLUCKY)
def test_the_norm_is_found_from_an_unlucky_start(entries: list[list[float]]) -> None:
    matrix = scale(make_batch([unlucky(entries)])).batch.A
    true = float(torch.linalg.matrix_norm(matrix.to_dense(), 2))
    assert spectral_norm(matrix, width=4) == pytest.approx(true, rel=1e-3)


@pytest.mark.parametrize("polish", [False, True])
@pytest.mark.parametrize("share", [1.0, 0.8, 0.3])
@pytest.mark.parametrize("entries", UNLUCKY)
def test_steps_that_are_too_long_are_shortened(
    entries: list[list[float]], share: float, polish: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the power method says of the norm."""
    monkeypatch.setattr(halpern, "spectral_norm", lambda *a, **k: share * spectral_norm(*a, **k))
    solution = solve_lp(unlucky(entries), PDLP(polish=polish, max_iterations=20_000))
    assert solution.status is LPStatus.OPTIMAL


def test_the_norm_of_a_matrix_without_columns_or_entries_is_zero() -> None:
    for shape in ((3, 0), (0, 3), (2, 2)):
        assert spectral_norm(Dense(torch.zeros(shape)), width=4) == 0.0


def test_programs_do_not_change_with_the_arrays_that_they_were_made_of() -> None:
    buffer, matrix = np.zeros(1), np.ones((1, 1))
    programs = []
    for bound in (1.0, 2.0, 3.0):
        buffer[0] = bound
        programs.append(LinearProgram(c=[-1.0], A=matrix, row_upper=buffer, col_lower=0.0))
    matrix[0, 0] = 100.0
    assert [solve_lp(lp, HiGHS()).objective for lp in programs] == [-1.0, -2.0, -3.0]


def test_a_callback_is_told_which_program_it_is_about() -> None:
    """Also where another one of the batch had a closed form and was never iterated."""
    wide, tight = (factored_direction_lp(30, rank=2, num_hyper=2, slack=slack) for slack in (0.0, 1e-2))
    easy = LinearProgram(
        c=0 * wide.c, A=wide.A, row_lower=wide.row_lower, row_upper=wide.row_upper,
        col_lower=wide.col_lower, col_upper=wide.col_upper,
    )  # fmt: skip
    log: list[Check] = []
    answers = list(solve_lps([easy, tight], PDLP(callback=log.append)))
    assert answers[0].iterations == 0 and answers[1].iterations > 0
    assert {check.program for check in log} == {1}


def test_a_stalled_solve_answers_with_the_pair_that_meets_the_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with one whose objective is more certain and whose residuals are not."""
    monkeypatch.setattr(douglas_rachford, "STALL_ITERATIONS", 0)
    lp = factored_direction_lp(20, rank=2, num_hyper=2, slack=1e-2)
    batch = make_batch([lp])
    projection = fit_projection(batch, densify_limit=100, accuracy=1e-9)
    assert projection is not None
    method = douglas_rachford.DouglasRachford(batch, projection, [None], rtol=1e-2)
    method.map()
    (found,) = method.check()
    method.iterations, method.best[0].score = 10, -1.0
    fine = found._replace(primal=0.0, dual=0.0, gap=8e-3, leak=1.0)
    assert method.is_done(0, fine)
    torch.testing.assert_close(method.best[0].x, method.x[:, 0], rtol=0, atol=0)


PATH = ((30, 1e-2), (30, 1e-1), (40, 1e-2), (40, 1e-1))
"""Sizes and slacks of a sequence whose matrix changes once."""


def test_every_program_of_a_sequence_has_the_same_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """HiGHS's pdlp counts the seconds of each solve, its other methods those of all of one instance."""
    limits: list[tuple[object, float]] = []
    set_option, run = highs.set_option, Pyomo._run

    def record(native: highspy.Highs, option: str, value: object) -> None:
        limits.extend([(value, 0.0)] if option == "time_limit" else [])
        set_option(native, option, value)

    def record_run(self: Pyomo, solver, model, time_limit: float):
        before = solver._solver_model
        counted = before.getRunTime() if before else 0.0
        answer = run(self, solver, model, time_limit)
        limits.append((time_limit, counted if solver._solver_model is before else 0.0))
        return answer

    monkeypatch.setattr(highs, "set_option", record)
    monkeypatch.setattr(Pyomo, "_run", record_run)
    for backend in (HiGHS(method="pdlp", time_limit=60), Pyomo(time_limit=60)):
        limits.clear()
        list(solve_lps([factored_direction_lp(n, rank=2, slack=slack) for n, slack in PATH], backend))
        assert [limit - counted for limit, counted in limits] == pytest.approx([60.0] * len(PATH), abs=1e-6)


def test_pyomo_takes_a_program_without_columns() -> None:
    lp = LinearProgram(c=[], A=torch.zeros(1, 0), row_lower=-1.0, row_upper=1.0)
    assert solve_lp(lp, Pyomo()).status is LPStatus.OPTIMAL


def test_a_diagonal_direction_program_of_one_weight_is_solved() -> None:
    hessian = Diagonal(torch.ones(1, dtype=torch.float64))
    lp = LinearProgram(c=[1.0], A=hessian, row_lower=-0.5, row_upper=0.5, col_lower=-1.0, col_upper=1.0)
    for backend in BACKENDS:
        assert solve_lp(lp, backend).objective == pytest.approx(-0.5, rel=1e-3)
