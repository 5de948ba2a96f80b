"""The interior-point method: its answers against known optima and HiGHS."""

from pathlib import Path

import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from torch import Tensor

from backends import HiGHS, read_mps
from backends.interior_point import InteriorPoint
from backends.interior_point.backend import choose_system
from backends.interior_point.dense import DenseSystem
from backends.interior_point.sparse import SparseSystem
from backends.interior_point.structured import StructuredSystem
from lift_core.lp import LinearProgram, LPStatus, proves_infeasible, solve_lp
from lift_core.operators import Dense, Diagonal, DirectionMatrix, LowRankPlusDiagonal
from lift_core.testing import KnownLP, LPCase, check_backend, known_direction_lp, known_lp, lp_cases
from lift_core.testing.known import BOUND_KINDS, CURVATURES, Curvature
from lift_core.testing.strategies import closed_form_direction_lps, direction_lps, known_lps
from tests.interior_point_cases import TIGHT, direction_program, factored, normal

INF = float("inf")


def test_contract() -> None:
    check_backend(TIGHT)


@pytest.mark.parametrize("case", lp_cases(), ids=lambda case: case.name)
def test_every_case_gets_the_status_it_deserves(case: LPCase) -> None:
    solution = solve_lp(case.lp, TIGHT)
    assert solution.status is case.status
    assert solution.certified == (case.known is None)
    assert solution.iterations <= 30


@given(known=known_lps())
def test_finds_known_optima(known: KnownLP) -> None:
    solution = solve_lp(known.lp, TIGHT)
    assert solution.status is LPStatus.OPTIMAL, solution.kkt
    assert abs(solution.objective - known.objective) <= known.objective_tolerance(TIGHT.rtol)


@given(known=direction_lps())
def test_finds_known_directions(known: KnownLP) -> None:
    solution = solve_lp(known.lp, TIGHT)
    assert solution.status is LPStatus.OPTIMAL, solution.kkt
    assert abs(solution.objective - known.objective) <= known.objective_tolerance(TIGHT.rtol)
    assert solution.bound <= known.objective + 1e-9 * (1 + abs(known.objective))


@given(known=closed_form_direction_lps(max_weights=25))
def test_row_duals_are_the_adjoint(known: KnownLP) -> None:
    solution = solve_lp(known.lp, InteriorPoint(rtol=1e-9))
    assert solution.status is LPStatus.OPTIMAL, solution.kkt
    assert abs(solution.objective - known.objective) <= 1e-7 * (1 + abs(known.objective))
    torch.testing.assert_close(solution.y, known.y, rtol=1e-4, atol=1e-4 * float(known.y.abs().max()))


@pytest.mark.parametrize("delta", [0.0, 1e-3, 0.1])
@pytest.mark.parametrize("rows", [None, torch.arange(0, 60, 3)], ids=["all rows", "a third"])
@pytest.mark.parametrize("rank", [0, 4])
def test_structured_and_dense_agree(delta: float, rows: Tensor | None, rank: int) -> None:
    hessian = factored(60, rank) if rank else Diagonal(normal(60))
    matrix = DirectionMatrix(Dense(normal(60, 3)), hessian, rows)
    twin = DirectionMatrix(matrix.mixed, Dense(hessian.to_dense()), rows)
    assert type(choose_system(matrix)) is StructuredSystem
    assert type(choose_system(twin)) is DenseSystem
    one, other = (solve_lp(direction_program(A, delta), InteriorPoint(rtol=1e-10)) for A in (matrix, twin))
    assert one.status is other.status is LPStatus.OPTIMAL
    assert one.objective == pytest.approx(other.objective, rel=1e-8)
    torch.testing.assert_close(one.x, other.x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("exact", [False, True])
def test_agrees_with_the_simplex(curvature: Curvature, exact: bool) -> None:
    known = known_direction_lp(80, 10, curvature=curvature, exact=exact, seed=11)
    solution, reference = solve_lp(known.lp, TIGHT), solve_lp(known.lp, HiGHS(method="simplex", rtol=1e-7))
    assert solution.status is reference.status is LPStatus.OPTIMAL
    assert solution.objective == pytest.approx(reference.objective, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("delta", [0.0, 1e-5])
def test_condition_number_of_a_hundred_million(delta: float) -> None:
    """The normal matrix squares it, so that pivoting has to take over."""
    basis = torch.linalg.qr(normal(120, 120))[0]
    hessian = (basis * torch.logspace(-8, 0, 120).double()) @ basis.T
    matrix = DirectionMatrix(Dense(normal(120, 5)), Dense((hessian + hessian.T) / 2))
    lp = direction_program(matrix, delta)
    solution, reference = solve_lp(lp, InteriorPoint(rtol=1e-7)), solve_lp(lp, HiGHS(method="simplex", rtol=1e-7))
    assert solution.status is LPStatus.OPTIMAL, solution.kkt
    assert solution.objective == pytest.approx(reference.objective, rel=1e-6)


@pytest.mark.parametrize("seed", range(12))
def test_badly_scaled_factors(seed: int) -> None:
    """Entries of D, V, J and the box over several orders of magnitude: a few blocks per vertex dwarf all others."""
    n, k, p = 300, 12, 10
    hessian = LowRankPlusDiagonal(
        diagonal=10 ** (1.5 * normal(n, seed=seed) - 2),
        factor=normal(n, k, seed=seed) * 10 ** normal(k, seed=seed + 1),
        core=normal(k, seed=seed) * 10 ** normal(k, seed=seed + 2),
    )
    mixed = Dense(normal(n, p, seed=seed + 3) * 10 ** (2 * normal(p, seed=seed + 4)))
    box = 10 ** normal(p + n, seed=seed + 5)
    c = normal(p + n, seed=seed + 6) / box
    delta = 10.0 ** -(1 + 2 * (seed % 3)) * float(hessian.matvec(box[p:] * c[p:].sign()).abs().max())
    matrix = DirectionMatrix(mixed, hessian)
    lp = LinearProgram(c=c, A=matrix, row_lower=-delta, row_upper=delta, col_lower=-box, col_upper=box)
    solution = solve_lp(lp, TIGHT)
    assert solution.status is LPStatus.OPTIMAL, solution.kkt


@pytest.mark.parametrize("delta", [0.0, 1e-7])
@pytest.mark.parametrize("seed", range(4))
def test_singular_low_rank_curvature(delta: float, seed: int) -> None:
    """Half of D is zero: almost all rows of H depend on a few, and the regularisation must not show."""
    diagonal = torch.where(torch.arange(100) % 2 == 0, 0.0, 1e-3 * normal(100, seed=seed))
    hessian = LowRankPlusDiagonal(diagonal=diagonal, factor=normal(100, 8, seed=seed), core=normal(8, seed=seed))
    matrix = DirectionMatrix(Dense(normal(100, 4, seed=seed)), hessian)
    assert type(choose_system(matrix)) is StructuredSystem
    lp = direction_program(matrix, delta, seed)
    solution, reference = solve_lp(lp, TIGHT), solve_lp(lp, HiGHS(method="simplex", rtol=1e-7))
    assert solution.status is LPStatus.OPTIMAL, solution.kkt
    assert solution.objective == pytest.approx(reference.objective, rel=1e-6)


def test_large_structured_program_forms_no_matrix() -> None:
    """n² entries would be more than `DENSE_LIMIT` allows."""
    matrix = DirectionMatrix(Dense(normal(20_000, 3)), factored(20_000, 4))
    with pytest.raises(ValueError, match="limit"):
        matrix.to_dense()
    solution = solve_lp(direction_program(matrix, 0.1), InteriorPoint(rtol=1e-6))
    assert solution.status is LPStatus.OPTIMAL
    assert solution.iterations <= 40


def test_short_affine_steps_do_not_spoil_the_correctors() -> None:
    """With shares of the second-order part even after short affine steps it takes more than 40."""
    lp = read_mps(Path(__file__).parent / "data" / "netlib" / "vtp.base.mps")
    solution = solve_lp(lp, InteriorPoint(rtol=1e-8))
    assert solution.status is LPStatus.OPTIMAL
    assert solution.objective == pytest.approx(129831.46246136137, rel=1e-7)
    assert solution.iterations <= 36


def test_sparse_program_with_many_rows() -> None:
    n = 2_500
    matrix = sp.diags_array([2.0, -1.0, -1.0], offsets=[0, 1, -1], shape=(n, n), format="csr")
    lp = LinearProgram(c=normal(n), A=matrix, row_lower=-1.0, row_upper=2.0, col_lower=-3.0, col_upper=3.0)
    assert type(choose_system(lp.A)) is SparseSystem
    solution, reference = solve_lp(lp, TIGHT), solve_lp(lp, HiGHS())
    assert solution.status is LPStatus.OPTIMAL
    assert solution.objective == pytest.approx(reference.objective, rel=1e-6)


def test_redundant_and_degenerate_rows() -> None:
    """Every row three times, equalities among them, and all of them through one vertex."""
    rows = normal(4, 8).repeat(3, 1)
    x = torch.rand(8, dtype=torch.float64)
    lp = LinearProgram(
        c=normal(8, seed=5),
        A=rows,
        row_lower=rows @ x,
        row_upper=torch.where(torch.arange(12) % 4 == 0, rows @ x, INF),
        col_lower=0.0,
        col_upper=2.0,
    )
    solution, reference = solve_lp(lp, TIGHT), solve_lp(lp, HiGHS())
    assert solution.status is LPStatus.OPTIMAL
    assert solution.objective == pytest.approx(reference.objective, rel=1e-6)


@pytest.mark.parametrize("kind", BOUND_KINDS)
def test_every_kind_of_bound(kind: str) -> None:
    known = known_lp(normal(5, 6), [kind] * 5, [kind] * 6, seed=3)  # pyright: ignore[reportArgumentType]
    solution = solve_lp(known.lp, TIGHT)
    assert solution.status is LPStatus.OPTIMAL
    assert solution.objective == pytest.approx(known.objective, abs=known.objective_tolerance(TIGHT.rtol))


def test_units_do_not_matter() -> None:
    """Rows and columns in other units: the same objective in about as many steps."""
    known = known_direction_lp(20, 3, seed=6)
    plain = known.lp
    rows, columns = 10.0 ** (3 * normal(20, seed=1)), 10.0 ** (3 * normal(23, seed=2))
    scaled = LinearProgram(
        c=plain.c * columns,
        A=rows[:, None] * plain.A.to_dense() * columns,
        row_lower=rows * plain.row_lower,
        row_upper=rows * plain.row_upper,
        col_lower=plain.col_lower / columns,
        col_upper=plain.col_upper / columns,
    )
    one, other = solve_lp(plain, TIGHT), solve_lp(scaled, InteriorPoint(rtol=1e-10))
    assert one.objective == pytest.approx(other.objective, rel=1e-6)
    assert other.iterations <= 2 * one.iterations + 10


def test_rounding_proves_nothing() -> None:
    """Parallel rows at their bounds, where the gain of a Farkas ray is a rounding error and its residual is zero."""
    lp = LinearProgram(
        c=[0.0, -1.5],
        A=[[-1.0, -1.0], [-1.0, -1.0]],
        row_lower=[-2.25, -2.25],
        row_upper=[-1.0, -1.5],
        col_lower=[1.75, 0.5],
        col_upper=[4.5, 3.0],
    )
    shares = torch.rand(1000, generator=torch.Generator().manual_seed(0)).double()
    assert not any(proves_infeasible(lp, torch.stack([share.new_ones(()), share])) for share in shares)
    assert solve_lp(lp, TIGHT).status is LPStatus.OPTIMAL
