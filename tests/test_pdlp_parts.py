"""The parts of PDLP: residuals, scaling, projections, restarts, and what an iteration costs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from backends import chunks
from backends.certificates import certify
from backends.kkt import KKTCheck, Residuals
from backends.pdlp import PDLP, halpern, tall_factors
from backends.pdlp.batch import Batch, make_batch
from backends.pdlp.douglas_rachford import DouglasRachford
from backends.pdlp.factored_projection import FactoredProjection
from backends.pdlp.feasibility import Feasibility
from backends.pdlp.inexact import fit_inexact_projection
from backends.pdlp.limits import Limits
from backends.pdlp.projection import DenseProjection, Graph
from backends.pdlp.restarts import PrimalWeight, RestartRule
from backends.pdlp.scaling import equilibrate, ruiz_pock_chambolle, scale, spectral_norm
from backends.pdlp.units import fit_projection, make_projection
from lift_core.lp import BackendAnswer, LinearProgram, LPStart, LPStatus, kkt_residuals, proves_infeasible, solve_lp
from lift_core.operators import Dense, DirectionMatrix, GroupColumns, MatrixFree, Sparse
from lift_core.testing import KnownLP, known_lp
from lift_core.testing.families import factored_direction_lp
from lift_core.testing.strategies import known_lps
from tests.explicit_lp_cases import INFEASIBLE
from tests.test_pdlp import direction_program, make_hessian, product_only, randn, with_slack

LIMITS = Limits(rtol=1e-6, max_iterations=10_000, deadline=math.inf, check_interval=40)


def test_two_products_an_iteration() -> None:
    class Counting(Dense):
        products = 0

        def matvec(self, x: Tensor) -> Tensor:
            self.products += 1
            return super().matvec(x)

        def rmatvec(self, y: Tensor) -> Tensor:
            self.products += 1
            return super().rmatvec(y)

    matrix = Counting(randn(20, 30))
    free = MatrixFree((20, 30), matrix.matvec, matrix.rmatvec)
    lp = LinearProgram(c=randn(30, seed=1), A=free, row_lower=-1.0, row_upper=1.0, col_lower=-1.0, col_upper=1.0)

    def products(iterations: int) -> int:
        matrix.products = 0
        PDLP(rtol=1e-14, max_iterations=iterations).solve(lp)
        return matrix.products

    assert products(150) - products(50) == 200  # checks every 40 iterations and restarts included


@pytest.mark.parametrize("rows", [None, torch.tensor([1, 4, 5, 17])])
@pytest.mark.parametrize("kind", ["low rank", "diagonal"])
@pytest.mark.parametrize("slack", [0.0, 0.3])
@pytest.mark.parametrize("side_by_side", [True, False])
def test_the_factored_projection_equals_the_dense_one(
    kind: str, rows: Tensor | None, slack: float, side_by_side: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    n, p = 24, 5
    if not side_by_side:
        monkeypatch.setattr(tall_factors, "SMALL_FACTORS", 0)
    monkeypatch.setitem(chunks.ENTRIES, "cpu", 40)  # ten weights of two programs
    mixed = GroupColumns(randn(n), torch.arange(n) % p, num_groups=p)
    A = DirectionMatrix(mixed, make_hessian(kind, n, 6), rows)  # noqa: N806
    m = A.shape[0]
    widths = torch.tensor([slack, slack / 2]).double().expand(m, 2)  # two programs that share A
    graph = Graph(A, randn(n + p, 2), 0.5 + randn(n + p, 2).abs(), randn(m, 2), widths)
    factored, dense = make_projection(graph, densify_limit=0, accuracy=1e-9), DenseProjection(graph)
    assert isinstance(factored, FactoredProjection)
    assert factored.factors.has_both == side_by_side
    point = randn(n + p + m, 2, seed=7)
    torch.testing.assert_close(factored.project(point), dense.project(point), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(factored.multiplier(point), dense.multiplier(point), rtol=1e-6, atol=1e-8)
    assert float((point - factored.project(point)).norm()) > 0.1
    torch.testing.assert_close(factored.keep([1]).project(point[:, 1:]), factored.project(point)[:, 1:])
    expected, itself = factored.project(point), point.mT.clone().mT
    torch.testing.assert_close(factored.project(itself, out=itself), expected)
    torch.testing.assert_close(dense.keep([1]).project(point[:, 1:]), dense.project(point)[:, 1:])


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("programs", [1, 3])
def test_sweeps_are_iterations_in_one_pass(centred: bool, programs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(chunks.ENTRIES, "cpu", 50)
    lp = factored_direction_lp(60, rank=4, num_hyper=2)
    lps = [with_slack(lp, 10.0**-power) for power in range(programs)]
    batch = make_batch(lps)
    batch = batch if centred else batch._replace(row_upper=2 * batch.row_upper, col_lower=0.1 * batch.col_lower)
    found: list[DouglasRachford] = []
    for sweeps in (True, False):
        projection = fit_projection(batch, densify_limit=0, accuracy=1e-9)
        assert isinstance(projection, FactoredProjection) and projection.can_sweep
        assert (projection.offset is None) == centred
        projection.can_sweep = sweeps
        method = DouglasRachford(batch, projection, [None] * programs)
        method.advance(25)
        method.map()
        found.append(method)
    swept, plain = found
    assert swept.iterations == plain.iterations == 26
    assert swept.epoch == plain.epoch
    for name in ("z", "projected", "first_error"):
        torch.testing.assert_close(getattr(swept, name), getattr(plain, name), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("rows", [None, torch.arange(3, 40)])
def test_the_projection_by_products_tends_to_the_dense_one(rows: Tensor | None) -> None:
    n, p = 50, 3
    A = DirectionMatrix(Dense(randn(n, p)), product_only(make_hessian("indefinite", n, 6)), rows)  # noqa: N806
    zeros = torch.zeros(A.shape[0], 2).double()
    box = torch.ones(n + p, 2).double()
    bounds = (zeros - 0.1, zeros + torch.tensor([0.1, 0.3]).double(), -box, box)
    projection = fit_inexact_projection(Batch(A, randn(n + p, 2), *bounds, torch.zeros(2).double()))
    assert projection is not None
    exact, point = DenseProjection(projection.graph), randn(n + p + A.shape[0], 2, seed=7)
    distances = [float((projection.project(point) - exact.project(point)).norm()) for _ in range(10)]
    assert distances[0] > 1e-6  # not exact at once: the Hessian is not its Krylov model
    assert distances[-1] < 1e-5 * distances[0]
    torch.testing.assert_close(projection.multiplier(point), exact.multiplier(point), rtol=1e-4, atol=1e-5)
    kept = projection.keep([1])
    torch.testing.assert_close(kept.project(point[:, 1:]), exact.project(point)[:, 1:], rtol=1e-4, atol=1e-5)


@given(known=known_lps(), seed=st.integers(0, 99))
def test_residuals_from_products_are_those_of_the_core(known: KnownLP, seed: int) -> None:
    lp = known.lp
    x, y = randn(lp.num_columns, seed=seed), randn(lp.num_rows, seed=seed + 1)
    ours = Residuals(*KKTCheck(lp).evaluate(x, y, lp.A.matvec(x), lp.A.rmatvec(y)).tolist())
    objective, _, theirs = kkt_residuals(lp, x, y)
    assert (ours.primal, ours.dual, ours.gap) == pytest.approx((theirs.primal, theirs.dual, theirs.gap), rel=1e-9)
    assert ours.primal_objective == pytest.approx(objective, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("kind", ["dense", "sparse", "products"])
def test_scaling_evens_out_rows_and_columns(kind: str) -> None:
    matrix = (
        torch.logspace(-3, 3, 30, dtype=torch.float64)[:, None] * randn(30, 40) * torch.logspace(2, -2, 40).double()
    )
    if kind == "products":
        rows, columns = equilibrate(product_only(Dense(matrix)))
    else:
        rows, columns = ruiz_pock_chambolle(Dense(matrix) if kind == "dense" else Sparse(sp.csr_matrix(matrix.numpy())))
    scaled = rows[:, None] * matrix * columns
    for sizes in (scaled.norm(dim=0), scaled.norm(dim=1)):
        assert float(sizes.max() / sizes.min()) < 4
    assert spectral_norm(Dense(scaled)) == pytest.approx(float(torch.linalg.matrix_norm(scaled, 2)), rel=1e-3)


def test_a_scaled_program_is_the_same_program() -> None:
    known = known_lp(randn(5, 6), ["at lower", "fixed", "inside", "at upper", "free"], ["inside", "at upper"] * 3)
    scaled, A = scale(make_batch([known.lp])), known.lp.A  # noqa: N806
    pair = known.x[:, None], known.y[:, None]
    x, y = scaled.scale_primal(pair[0]), scaled.scale_dual(pair[1])
    torch.testing.assert_close(scaled.primal(x), pair[0])
    torch.testing.assert_close(scaled.dual(y), pair[1])
    torch.testing.assert_close(scaled.activity(scaled.batch.A.matmat(x)), A.matmat(pair[0]))
    torch.testing.assert_close(scaled.pullback(scaled.batch.A.rmatmat(y)), A.rmatmat(pair[1]))
    assert kkt_residuals(scaled.batch.program(0), x[:, 0], y[:, 0])[2].worst < 1e-12


def test_units_follow_what_the_constraints_let_the_weights_reach() -> None:
    narrow = direction_program("indefinite", n=8, p=2, rho=0.5, seed=1)
    box = torch.tensor([1.0, 1.0, *[1e6] * 8])
    wide = LinearProgram(c=narrow.c, A=narrow.A, row_lower=-1e-4, row_upper=1e-4, col_lower=-box, col_upper=box)
    fitted = [fit_projection(make_batch([lp]), densify_limit=0, accuracy=1e-9) for lp in (narrow, wide)]
    units = [projection.graph.scale_x for projection in fitted if projection is not None]
    assert (units[0] == 1).all()
    assert (units[1][:2] == 1).all()
    assert float(units[1][2:].max()) < 1e3


def test_the_fixed_point_error_is_the_norm_of_the_method() -> None:
    lp = known_lp(randn(4, 5), ["at lower", "fixed", "inside", "at upper"], ["inside"] * 5).lp
    scaled = scale(make_batch([lp]))
    run = halpern.PDHG(make_batch([lp]), scaled, 0.9 / spectral_norm(scaled.batch.A), [None], LIMITS)
    run.advance(1)
    run.map()
    move, matrix = torch.cat([run.mapped.x - run.at.x, run.mapped.y - run.at.y]), scaled.batch.A.to_dense()
    metric = torch.cat(
        [
            torch.cat([torch.eye(5).double() / run.tau, matrix.T], dim=1),
            torch.cat([matrix, torch.eye(4).double() / run.sigma], dim=1),
        ]
    )
    assert float(run.squared_error()) == pytest.approx(float(move.T @ metric @ move), rel=1e-9)
    assert float(torch.linalg.eigvalsh(metric).min()) > 0


def test_an_iteration_gone_astray_returns_once_to_its_best_pair_and_weight() -> None:
    known = known_lp(randn(4, 5), ["at lower", "fixed", "inside", "at upper"], ["inside"] * 5)
    batch = make_batch([known.lp])
    run = halpern.PDHG(batch, scale(batch), 0.01, [LPStart(known.x, known.y)], LIMITS)
    run.map()
    good = run.check()
    assert good[0].score <= halpern.HOME
    home, weight = run.mapped.x.clone(), run.weights[0].value
    for returns in (True, False):
        run.mapped = halpern.Pair(*(part + 10.0 for part in run.mapped))
        run.moves, run.weights[0].value = [[1.0, 1e5]], 1e6
        run.restart([True], [good[0]._replace(primal=1e3)])
        assert torch.allclose(run.at.x, home, atol=1e-9) is returns
        assert (run.weights[0].value == weight) is returns


def beside(lp: LinearProgram) -> tuple[Feasibility, list[halpern.PDHG]]:
    """What asks whether a program is feasible, and the methods that it has begun."""
    begun: list[halpern.PDHG] = []

    def begin() -> halpern.PDHG:
        batch = make_batch([lp]).without_costs()
        scaled = scale(batch)
        begun.append(halpern.PDHG(batch, scaled, 0.9 / spectral_norm(scaled.batch.A), [None], LIMITS))
        return begun[-1]

    return Feasibility(begin, LIMITS), begun


@pytest.mark.parametrize("name", INFEASIBLE)
def test_an_infeasible_program_is_disproved_without_its_costs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.pdlp.feasibility.FIRST", 40)
    asked, begun = beside(INFEASIBLE[name])
    for iterations in (39, 40, 60, 80, 160, 320):  # too few for a ray; the method goes on from where it was
        assert asked.disprove(iterations) is None
        assert sum(run.iterations for run in begun) == (0 if iterations < 40 else 40 if iterations < 80 else iterations)
    answer = asked.disprove(10_000)
    assert len(begun) == 1 and answer is not None and answer.status is LPStatus.INFEASIBLE and answer.y is not None
    assert answer.iterations == 10_000 + begun[0].iterations and proves_infeasible(INFEASIBLE[name], answer.y)


def test_a_feasible_program_is_asked_once() -> None:
    lp = known_lp(randn(4, 5), ["at lower", "fixed", "inside", "at upper"], ["inside"] * 5).lp
    asked, begun = beside(lp)
    assert asked.disprove(20_000) is None
    iterations = begun[0].iterations
    assert iterations < 10_000 and asked.disprove(1_000_000) is None
    assert [run.iterations for run in begun] == [iterations]


@pytest.mark.parametrize("name", INFEASIBLE)
def test_costs_do_not_hide_that_a_program_is_infeasible(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def only_without_costs(lp: LinearProgram, *rest: Any) -> BackendAnswer | None:
        return None if lp.c.any() else certify(lp, *rest)

    monkeypatch.setattr(halpern, "certify", only_without_costs)
    monkeypatch.setattr("backends.pdlp.feasibility.FIRST", 1_000)
    lp = INFEASIBLE[name]
    costly = LinearProgram(
        c=torch.ones(lp.num_columns), A=lp.A, row_lower=lp.row_lower, row_upper=lp.row_upper,
        col_lower=lp.col_lower, col_upper=lp.col_upper,
    )  # fmt: skip
    solution = solve_lp(costly, PDLP(algorithm="halpern", max_iterations=10_000))
    assert (solution.status, solution.certified) == (LPStatus.INFEASIBLE, True)
    assert solve_lp(costly, PDLP(algorithm="halpern", max_iterations=800)).status is LPStatus.ITERATION_LIMIT


def test_restarts_and_weight() -> None:
    rule = RestartRule()
    never = {"initial": 1.0, "epoch_iterations": 1, "iterations": 1000}
    assert [rule.due(error, **never) for error in (0.9, 0.95, 0.4, 0.3)] == [False] * 4
    assert rule.due(0.35, **never)  # below a half and no longer falling
    assert rule.due(0.19, **never)
    assert rule.due(2.0, initial=1.0, epoch_iterations=360, iterations=1000)
    weight = PrimalWeight(1.0)
    for _ in range(20):
        weight.update(primal_move=2.0, dual_move=6.0, residual_ratio=1.0)
    assert weight.value == pytest.approx(3.0, rel=1e-2)
    assert weight.update(primal_move=0.0, dual_move=1.0, residual_ratio=1.0) > 0
