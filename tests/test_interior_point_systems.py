"""The linear systems of the interior-point method against explicit ones."""

from collections.abc import Callable

import pytest
import scipy.sparse as sp
import torch

from backends import chunks
from backends.interior_point.backend import choose_system
from backends.interior_point.dense import DenseSystem
from backends.interior_point.sparse import SparseSystem
from backends.interior_point.structured import StructuredSystem
from backends.interior_point.system import NewtonSystem, set_units
from lift_core.lp import LinearProgram, LPStatus, solve_lp
from lift_core.operators import Dense, Diagonal, DirectionMatrix, GroupColumns, LinearOperator, MatrixFree, Sparse
from tests.interior_point_cases import TIGHT, direction_program, factored, normal


def strengthened_dense(matrix: LinearOperator) -> NewtonSystem:
    system = DenseSystem(matrix)
    assert system.strengthen()
    assert not system.strengthen()
    return system


def sparse_from_dense(matrix: LinearOperator) -> NewtonSystem:
    return SparseSystem(Sparse(sp.csr_array(matrix.to_dense().numpy())))


def structured(matrix: LinearOperator) -> NewtonSystem:
    assert isinstance(matrix, DirectionMatrix)
    return StructuredSystem(matrix)


SYSTEMS = [DenseSystem, strengthened_dense, sparse_from_dense, structured]
HALF = torch.arange(0, 12, 2)
MATRICES = {
    "low rank": DirectionMatrix(Dense(normal(12, 3)), factored(12, 2)),
    "low rank, half of the rows": DirectionMatrix(Dense(normal(12, 3)), factored(12, 2), HALF),
    "low rank, no hyperparameters": DirectionMatrix(Dense(normal(12, 0)), factored(12, 2)),
    "diagonal": DirectionMatrix(Dense(normal(12, 3)), Diagonal(normal(12))),
    "diagonal with zeros, half of the rows": DirectionMatrix(Dense(normal(12, 1)), Diagonal([0.0, 2.0] * 6), HALF),
}


@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
@pytest.mark.parametrize("make", SYSTEMS)
@pytest.mark.parametrize("spread", [0, 4])
def test_every_system_solves_newton_equations(
    make: Callable[[LinearOperator], NewtonSystem], matrix: DirectionMatrix, spread: int
) -> None:
    """Against the explicit system, with Θ over eight orders of magnitude and a column that does not move."""
    m, n = matrix.shape
    system, lp = make(matrix), direction_program(matrix, 0.1)
    set_units(system, lp)
    theta, theta_rows = 10.0 ** (spread * normal(n, seed=5).sin()), 10.0 ** (spread * normal(m).sin())
    theta[1] = 0.0
    f, g = normal(n, seed=3), normal(m, seed=4)
    system.factorize(theta, theta_rows)
    dx, dy = system.solve(f, g)
    for _ in range(2):  # as the iteration refines
        left = torch.where(theta > 0, f - dx / theta.clamp(min=1e-300) + matrix.rmatvec(dy), 0.0)
        more_x, more_y = system.solve(left, g - matrix.matvec(dx) - theta_rows * dy)
        dx, dy = dx + more_x, dy + more_y
    assert dx[1] == 0
    torch.testing.assert_close(matrix.matvec(dx) + theta_rows * dy, g, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(dx, theta * (f + matrix.rmatvec(dy)), rtol=1e-8, atol=1e-8)


def test_systems_are_chosen_by_structure() -> None:
    sparse = sp.random_array((3_000, 50), density=0.01, rng=0) + sp.eye_array(3_000, 50)
    table = [
        (DirectionMatrix(Dense(normal(50, 2)), factored(50, 3)), StructuredSystem),
        (DirectionMatrix(Dense(normal(50, 2)), factored(50, 3), torch.arange(2)), StructuredSystem),
        (DirectionMatrix(Dense(normal(50, 2)), Diagonal(normal(50))), StructuredSystem),
        (DirectionMatrix(Dense(normal(6, 2)), factored(6, 3)), DenseSystem),
        (DirectionMatrix(Dense(normal(6, 2)), Dense(normal(6, 6))), DenseSystem),
        (LinearProgram(c=normal(50), A=sparse).A, SparseSystem),
        (LinearProgram(c=normal(50), A=sparse[:20]).A, DenseSystem),
        (MatrixFree(3, lambda x: 2 * x), DenseSystem),
    ]
    for matrix, expected in table:
        assert type(choose_system(matrix)) is expected


@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
def test_structured_products_are_those_of_the_operator(matrix: DirectionMatrix) -> None:
    m, n = matrix.shape
    x, y = normal(n, seed=1), normal(m, seed=2)
    activity, pullback = StructuredSystem(matrix).products(x, y)
    torch.testing.assert_close(activity, matrix.matvec(x))
    torch.testing.assert_close(pullback, matrix.rmatvec(y))


@pytest.mark.parametrize("groups", [True, False])
def test_chunks_change_nothing(groups: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same iterations and the same answer whether the program fits one chunk or needs many."""
    mixed = GroupColumns(normal(61), torch.arange(61) % 3, num_groups=3) if groups else Dense(normal(61, 3))
    lp = direction_program(DirectionMatrix(mixed, factored(61, 4)), 0.1)
    whole = solve_lp(lp, TIGHT)
    monkeypatch.setitem(chunks.ENTRIES, "cpu", 7)
    monkeypatch.setitem(chunks.ROWS, "cpu", 5)
    monkeypatch.setitem(chunks.GRAM_ROWS, "cpu", 3)
    parts = solve_lp(lp, TIGHT)
    assert whole.status is parts.status is LPStatus.OPTIMAL
    assert whole.iterations == parts.iterations
    torch.testing.assert_close(parts.x, whole.x, rtol=1e-6, atol=1e-7)
