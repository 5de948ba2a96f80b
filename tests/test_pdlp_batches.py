"""PDLP: programs that share A side by side, polishing, logs, weights, and a callback that stops a solve."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from backends import HiGHS, InteriorPoint
from backends.pdlp import PDLP
from backends.pdlp.batch import make_batch
from backends.pdlp.equations import EntryEquations, SparseEquations, equations_of_entries, normal_matrix
from backends.pdlp.factored_equations import FactoredEquations, equations_of_factors
from backends.pdlp.iteration import Check
from backends.pdlp.polish import Attempt, run
from backends.pdlp.proximal import Point, ProximalPoints
from lift_core.lp import LinearProgram, LPStart, LPStatus, solve_lp, solve_lps
from lift_core.operators import (
    Dense,
    Diagonal,
    DirectionMatrix,
    GroupColumns,
    LowRankPlusDiagonal,
    MatrixFree,
    Sparse,
)
from lift_core.testing import known_lp
from lift_core.testing.families import dense_direction_lp, factored_direction_lp
from tests.test_pdlp import direction_program, product_only, randn, with_matrix, with_slack


@pytest.mark.parametrize("algorithm", ["halpern", "douglas_rachford"])
@pytest.mark.parametrize("kind", ["low rank", "indefinite"])
@pytest.mark.parametrize("polish", [False, True])
def test_a_batch_gives_the_answers_of_single_solves(algorithm: str, kind: str, polish: bool) -> None:
    lp = direction_program(kind, n=25, p=3, rho=0.1, seed=4)
    lps = [with_slack(lp, factor) for factor in (1.0, 0.1, 3.0)] + [with_slack(lp, 1.0, cost=randn(28, seed=7))]
    backend = PDLP(algorithm=algorithm, rtol=1e-5, polish=polish, max_iterations=200_000)
    for one, together in zip((solve_lp(lp, backend) for lp in lps), solve_lps(lps, backend), strict=True):
        assert one.status is together.status is LPStatus.OPTIMAL
        assert together.objective == pytest.approx(one.objective, rel=1e-4, abs=1e-4)


def test_closed_forms_of_a_batch_do_not_depend_on_its_other_programs() -> None:
    A = DirectionMatrix(Dense(randn(4, 1, seed=1)), Diagonal([1.0, 2.0, 3.0, 4.0]))  # noqa: N806
    lps = [
        LinearProgram(c=randn(5, seed=2), A=A, row_lower=-slack, row_upper=slack, col_lower=-9.0, col_upper=9.0)
        for slack in (0.1, math.inf, 0.01, 1e3)
    ]
    answers = list(solve_lps(lps, PDLP()))
    assert [answer.status for answer in answers] == [LPStatus.OPTIMAL] * 4
    assert [answer.iterations == 0 for answer in answers] == [True, False, True, False]
    for lp, answer in zip(lps, answers, strict=True):
        assert answer.objective == pytest.approx(solve_lp(lp, HiGHS()).objective, rel=1e-3)


def test_a_batch_costs_two_block_products_an_iteration() -> None:
    class Blocks(Dense):
        calls = 0

        def matmat(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().matmat(x)

        def rmatmat(self, y: Tensor) -> Tensor:
            self.calls += 1
            return super().rmatmat(y)

    class Free(MatrixFree):
        def matmat(self, x: Tensor) -> Tensor:
            return matrix.matmat(x)

        def rmatmat(self, y: Tensor) -> Tensor:
            return matrix.rmatmat(y)

    matrix = Blocks(randn(20, 30))
    free = Free((20, 30), matrix.matvec, matrix.rmatvec)
    lps = [
        LinearProgram(c=randn(30, seed=seed), A=free, row_lower=-1.0, row_upper=1.0, col_lower=-1.0, col_upper=1.0)
        for seed in range(3)
    ]

    def calls(iterations: int) -> int:
        matrix.calls = 0
        list(PDLP(rtol=1e-14, max_iterations=iterations).solve_sequence(lps))
        return matrix.calls

    assert calls(150) - calls(50) == 200


def test_statuses_of_a_batch_are_those_of_its_programs() -> None:
    """One is solved, one infeasible, one unbounded; each in its place."""
    matrix, inf = Dense([[1.0, 1.0]]), float("inf")
    lps = [
        LinearProgram(c=[1.0, 2.0], A=matrix, row_lower=1.0, row_upper=1.0, col_lower=0.0),
        LinearProgram(c=[1.0, 2.0], A=matrix, row_lower=3.0, col_lower=0.0, col_upper=1.0),
        LinearProgram(c=[-1.0, 0.0], A=matrix, row_lower=0.0, row_upper=inf, col_lower=0.0),
    ]
    statuses = [solution.status for solution in solve_lps(lps, PDLP(algorithm="halpern"))]
    assert statuses == [LPStatus.OPTIMAL, LPStatus.INFEASIBLE, LPStatus.UNBOUNDED]


# -- polishing ---------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**20), tau=st.sampled_from([1e-2, 1.0, 1e3]), sparse=st.booleans())
def test_entries_solve_the_equations_of_a_proximal_point(seed: int, tau: float, sparse: bool) -> None:
    dense = randn(6, 9, seed=seed)
    matrix = Sparse(sp.csr_array(dense.numpy())) if sparse else Dense(dense)
    inside_x, inside_s, right = randn(9, seed=seed + 1) > 0, randn(6, seed=seed + 2) > 0, randn(6, seed=seed + 3)
    lengths = torch.tensor(tau).double(), torch.tensor(2.0).double()
    found = EntryEquations(matrix).solve_one(inside_x, inside_s, *lengths, right)
    assert found is not None
    if isinstance(matrix, Sparse):
        by_sparse = SparseEquations(matrix).solve_one(inside_x, inside_s, *lengths, right)
        torch.testing.assert_close(by_sparse, found, rtol=1e-9, atol=1e-12)
    explicit = tau * (dense * inside_x) @ dense.T + torch.diag(tau * inside_s + 0.5)
    torch.testing.assert_close(normal_matrix(matrix, inside_x), (dense * inside_x) @ dense.T)
    torch.testing.assert_close(found, torch.linalg.solve(explicit, right), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rows", [None, torch.arange(0, 60, 2)], ids=["all rows", "half of the rows"])
@pytest.mark.parametrize("hyper", [3, 0])
@pytest.mark.parametrize("groups", [False, True])
def test_factors_solve_the_equations_of_proximal_points(hyper: int, rows: Tensor | None, groups: bool) -> None:
    """Of three programs, while their marks change little, much, and with their steps."""
    mixed = GroupColumns(randn(60), torch.arange(60) % hyper, num_groups=hyper) if groups and hyper else None
    hessian = LowRankPlusDiagonal(diagonal=randn(60, seed=1), factor=randn(60, 4, seed=2), core=randn(4, seed=3))
    A = DirectionMatrix(mixed or Dense(randn(60, hyper)), hessian, rows)  # noqa: N806
    dense, (m, n) = A.to_dense(), A.shape
    equations, generator = FactoredEquations(A), torch.Generator().manual_seed(0)
    inside_x, inside_s = (torch.rand(3, size, generator=generator) > 0.5 for size in (n, m))
    tau, sigma, followed = torch.full((3, 1), 2.0).double(), torch.full((3, 1), 5.0).double(), 0
    for step in range(40):
        inside_x, inside_s, right = inside_x.clone(), inside_s.clone(), randn(3, m, seed=step)
        inside_x[:, torch.randint(n, (2 if step % 10 else 30,), generator=generator)] ^= True
        inside_s[1, torch.randint(m, (3,), generator=generator)] ^= True
        tau[2, 0], sigma[0, 0] = 2.0 + step // 20, 5.0 - step // 30
        y, pulled = equations.solve(inside_x, inside_s, tau, sigma, right)
        assert equations._last is not None
        followed += sum(count > 0 for count in equations._last.updates)
        for row in range(3):
            explicit = tau[row] * ((dense * inside_x[row]) @ dense.T + torch.diag(inside_s[row].double()))
            expected = torch.linalg.solve(explicit + torch.eye(m) / sigma[row], right[row])
            torch.testing.assert_close(y[row], expected, rtol=1e-7, atol=1e-7 * float(expected.abs().max()))
            torch.testing.assert_close(pulled[row], dense.T @ y[row], rtol=1e-9, atol=1e-9 * float(pulled.abs().max()))
    assert 75 <= followed < 117


def test_the_cheaper_factorisation_is_taken() -> None:
    bands = Sparse(sp.diags_array([1.0, 2.0, -1.0], offsets=[0, 1, 5], shape=(400, 500), format="csr"))
    full = Sparse(sp.csr_array(randn(400, 500).numpy()))
    assert isinstance(equations_of_entries(bands), SparseEquations)
    assert isinstance(equations_of_entries(full), EntryEquations)
    many = Sparse(sp.diags_array([1.0, 2.0, -1.0], offsets=[0, 1, 5], shape=(2_500, 3_000), format="csr"))
    assert isinstance(equations_of_entries(many), SparseEquations)
    assert equations_of_entries(Sparse(sp.csr_array((3_001, 5)))) is None


@pytest.mark.parametrize("factored", [False, True])
def test_a_proximal_point_solves_its_equation(factored: bool) -> None:
    lp = factored_direction_lp(60, rank=2, num_hyper=1)
    batch = make_batch([lp, with_slack(lp, 10.0)])
    assert isinstance(lp.A, DirectionMatrix)
    equations = FactoredEquations(lp.A) if factored else EntryEquations(Dense(lp.A.to_dense()))
    x, y, tau, sigma = randn(61, 2).clamp(-1, 1), randn(60, 2, seed=1), [0.3, 0.1], [0.2, 0.4]
    given = x.mT.clone().mT, y.mT.clone().mT  # as columns lie in a batch
    points = ProximalPoints(batch, equations, *given, tau=tau, sigma=sigma)
    assert all(all(points.advance()) for _ in range(12))
    for row, (off, move) in enumerate(points.measure()):
        one, found = batch.program(row), points.point(row)
        s = one.A.matvec(x[:, row]).clamp(one.row_lower, one.row_upper)
        moved = x[:, row] - tau[row] * (one.c - one.A.rmatvec(found.y))
        torch.testing.assert_close(found.x, moved.clamp(one.col_lower, one.col_upper))
        torch.testing.assert_close(found.s, (s - tau[row] * found.y).clamp(one.row_lower, one.row_upper))
        left = one.A.matvec(found.x) - found.s + (found.y - y[:, row]) / sigma[row]
        assert off <= 1e-9 * move
        torch.testing.assert_close(left, torch.zeros_like(left), rtol=0, atol=1e-8)
    points.begin(0, points.point(0), 1.0, 1.0)
    assert torch.equal(given[0], x) and torch.equal(given[1], y)


def test_a_point_that_rounding_keeps_from_moving_counts_as_solved() -> None:
    lp = factored_direction_lp(300, slack=1e-4)
    at = solve_lp(lp, InteriorPoint(rtol=1e-10))
    equations = equations_of_factors(lp.A)
    assert equations is not None
    seen: list[Point] = []

    def judge(program: int, point: Point) -> float:
        seen.append(point)
        return float(program)

    attempt = Attempt(equations, 1.0, 10.0, 50)
    run(make_batch([lp]), at.x[:, None], at.y[:, None], [attempt], equations, judge=judge, goal=0.0)
    assert 0 < attempt.steps < 50
    torch.testing.assert_close(seen[0].x, at.x, rtol=0, atol=1e-4)


@pytest.mark.parametrize("sparse", [False, True])
def test_polishing_saves_iterations_where_accuracy_is_high(sparse: bool) -> None:
    matrix = randn(40, 60) * torch.logspace(-2, 2, 60).double()
    known = known_lp(matrix, ["at lower", "inside", "fixed", "at upper"] * 10, ["inside", "at upper", "at lower"] * 20)
    lp = with_matrix(known.lp, Sparse(sp.csr_array(matrix.numpy()))) if sparse else known.lp
    backend = PDLP(rtol=1e-9, max_iterations=50_000)
    polished, plain = solve_lp(lp, backend), solve_lp(lp, dataclasses.replace(backend, polish=False))
    assert polished.status is LPStatus.OPTIMAL
    assert polished.objective == pytest.approx(known.objective, abs=known.objective_tolerance(1e-9))
    assert polished.iterations < plain.iterations


def test_singular_newton_systems_cost_nothing_but_time(monkeypatch: pytest.MonkeyPatch) -> None:
    lp, backend = (
        known_lp(randn(20, 30), ["at lower", "inside"] * 10, ["inside", "at upper", "at lower"] * 10).lp,
        PDLP(),
    )
    plain = solve_lp(lp, dataclasses.replace(backend, rtol=1e-9, polish=False, max_iterations=50_000))
    monkeypatch.setattr(EntryEquations, "solve_one", lambda *_: None)
    stuck = solve_lp(lp, dataclasses.replace(backend, rtol=1e-9, max_iterations=50_000))
    assert plain.status is stuck.status is LPStatus.OPTIMAL
    assert stuck.iterations == plain.iterations


@pytest.mark.parametrize("slack", [0.0, 1e-3, 1e-1])
def test_factored_directions_take_few_iterations(slack: float) -> None:
    lp = factored_direction_lp(1_000, slack=slack)
    solution = solve_lp(lp, PDLP(rtol=1e-4))
    reference = solve_lp(lp, HiGHS(method="ipm", rtol=1e-6))
    assert solution.status is LPStatus.OPTIMAL
    assert solution.iterations <= 300
    assert solution.objective == pytest.approx(reference.objective, rel=2e-4)


def test_larger_factored_directions_take_hardly_more() -> None:
    """239 where proximal steps are longer at first, weigh x and y alike and are given up late."""
    lp = factored_direction_lp(30_000, slack=1e-2)
    solution, reference = solve_lp(lp, PDLP(rtol=1e-4)), solve_lp(lp, InteriorPoint(rtol=1e-7))
    assert solution.status is LPStatus.OPTIMAL
    assert solution.iterations <= 210
    assert solution.objective == pytest.approx(reference.objective, rel=2e-4)


def test_a_path_takes_fewer_newton_steps_than_its_programs() -> None:
    """Programs share more of an iteration than of a Newton step, so that a batch is polished later."""
    lp = factored_direction_lp(300, slack=1.0)
    path = [with_slack(lp, factor) for factor in (1e-4, 1e-3, 1e-2, 1e-1)]
    last: dict[int, int] = {}
    backend = PDLP(rtol=1e-4, callback=lambda check: last.update({check.program: check.iterations}))
    together = list(solve_lps(path, backend))
    assert all(solution.status is LPStatus.OPTIMAL for solution in together)
    in_batch = sum(solution.iterations - last[program] for program, solution in enumerate(together))
    alone = sum(solve_lp(one, backend).iterations - last[0] for one in path)
    assert in_batch < 0.8 * alone


def test_probing_is_as_good_as_reading_entries() -> None:
    lp = dense_direction_lp(80, num_hyper=4, slack=0.1)
    backend = PDLP(algorithm="halpern", polish=False)
    entries, products = solve_lp(lp, backend), solve_lp(with_matrix(lp, product_only(lp.A)), backend)
    assert entries.status is products.status is LPStatus.OPTIMAL
    assert products.iterations <= 1.5 * entries.iterations


# -- logs, weights, callbacks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["halpern", "douglas_rachford"])
def test_every_check_is_logged(algorithm: str) -> None:
    log: list[Check] = []
    lp = direction_program("indefinite", n=20, p=2, rho=0.1, seed=3)
    solution = solve_lp(lp, PDLP(algorithm=algorithm, check_interval=10, polish=False, callback=log.append))
    assert [check.iterations for check in log] == list(range(10, solution.iterations + 1, 10))
    assert log[-1].objective == pytest.approx(solution.objective, rel=1e-3)
    assert max(log[-1].primal, log[-1].dual, log[-1].gap) <= 1e-4
    assert all(later.seconds >= earlier.seconds for earlier, later in itertools.pairwise(log))
    assert all(check.weight > 0 for check in log)


@pytest.mark.parametrize("algorithm", ["halpern", "douglas_rachford"])
def test_a_callback_stops_a_solve_with_a_valid_bound(algorithm: str) -> None:
    lp = direction_program("indefinite", n=20, p=2, rho=0.1, seed=3)
    reference = solve_lp(lp, HiGHS(method="simplex", rtol=1e-7)).objective
    stopped = solve_lp(lp, PDLP(algorithm=algorithm, rtol=1e-9, callback=lambda check: check.iterations >= 80))
    assert (stopped.status, stopped.iterations) == (LPStatus.INTERRUPTED, 80)
    assert stopped.bound <= reference + 1e-9


def test_the_weight_of_a_start_is_used() -> None:
    lp = direction_program("indefinite", n=20, p=2, rho=0.1, seed=3)
    log: list[Check] = []
    backend = PDLP(algorithm="halpern", max_iterations=40, polish=False, callback=log.append)
    solve_lp(lp, backend, start=LPStart(torch.zeros(22).double(), torch.zeros(20).double(), weight=7.0))
    assert log[0].weight == 7.0
    with pytest.raises(ValueError, match="expected a positive weight or None, got -1"):
        solve_lp(lp, backend, start=LPStart(torch.zeros(22).double(), torch.zeros(20).double(), weight=-1.0))
