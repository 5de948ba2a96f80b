"""Every operator against its contract and against NumPy."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st

from lift_core import (
    Dense,
    Diagonal,
    DirectionMatrix,
    GroupColumns,
    LinearOperator,
    LowRankPlusDiagonal,
    MatrixFree,
    Sparse,
)
from lift_core.operators import PlusDiagonal, as_operator, pull, tall
from lift_core.operators.base import DENSE_LIMIT
from lift_core.testing import check_operator

RNG = np.random.default_rng(0)
A = RNG.standard_normal((4, 6))
S = A @ A.T
D, V, C = RNG.standard_normal(4), RNG.standard_normal((4, 2)), np.array([2.0, -3.0])
FACTORED = LowRankPlusDiagonal(diagonal=D, factor=V, core=C)
GROUPS = GroupColumns([1.0, 2.0, 3.0, 4.0], [0, 2, -1, 0], num_groups=3)
GROUPS_MATRIX = np.array([[1.0, 0, 0], [0, 0, 2], [0, 0, 0], [4, 0, 0]])
ROWS = torch.tensor([1, 3])

OPERATORS: dict[str, tuple[LinearOperator, np.ndarray]] = {
    "dense": (Dense(A), A),
    "dense, no rows": (Dense(np.zeros((0, 3))), np.zeros((0, 3))),
    "dense, no columns": (Dense(np.zeros((3, 0))), np.zeros((3, 0))),
    "sparse": (
        Sparse(sp.random_array((5, 7), density=0.4, rng=1)),
        sp.random_array((5, 7), density=0.4, rng=1).toarray(),
    ),
    "sparse, all zero": (Sparse(sp.csr_array((2, 3))), np.zeros((2, 3))),
    "diagonal": (Diagonal(D), np.diag(D)),
    "low rank": (FACTORED, np.diag(D) + (V * C) @ V.T),
    "low rank, rank 0": (LowRankPlusDiagonal(diagonal=D, factor=np.zeros((4, 0)), core=[]), np.diag(D)),
    "matrix free, symmetric": (MatrixFree(4, lambda x: torch.from_numpy(S) @ x), S),
    "matrix free": (MatrixFree((4, 6), lambda x: torch.from_numpy(A) @ x, lambda y: torch.from_numpy(A).T @ y), A),
    "plus a diagonal": (PlusDiagonal(Sparse(sp.csr_array(S)), torch.from_numpy(D)), S + np.diag(D)),
    "plus a diagonal, lifted": (
        PlusDiagonal(FACTORED, torch.from_numpy(D)),
        2 * np.diag(D) + (V * C) @ V.T,
    ),
    "group columns": (GROUPS, GROUPS_MATRIX),
    "group columns, none": (GroupColumns([1.0, 2.0], [-1, -1], num_groups=0), np.zeros((2, 0))),
    "direction": (DirectionMatrix(GROUPS, Dense(S)), np.hstack([GROUPS_MATRIX, S])),
    "direction, factored": (
        DirectionMatrix(GROUPS, FACTORED),
        np.hstack([GROUPS_MATRIX, np.diag(D) + (V * C) @ V.T]),
    ),
    "direction, some rows": (
        DirectionMatrix(GROUPS, FACTORED, ROWS),
        np.hstack([GROUPS_MATRIX, np.diag(D) + (V * C) @ V.T])[[1, 3]],
    ),
    "direction, no hyperparameters": (DirectionMatrix(Dense(np.zeros((4, 0))), Diagonal(D)), np.diag(D)),
}
SYMMETRIC = {
    "plus a diagonal",
    "plus a diagonal, lifted",
    "diagonal",
    "low rank",
    "low rank, rank 0",
    "matrix free, symmetric",
}


@pytest.mark.parametrize("name", OPERATORS)
def test_contract(name: str) -> None:
    check_operator(OPERATORS[name][0], symmetric=name in SYMMETRIC)


@pytest.mark.parametrize("name", OPERATORS)
def test_products_equal_numpy(name: str) -> None:
    operator, matrix = OPERATORS[name]
    m, n = matrix.shape
    x, y, block = RNG.standard_normal(n), RNG.standard_normal(m), RNG.standard_normal((n, 3))
    assert operator.shape == (m, n)
    assert np.allclose(operator.to_dense().numpy(), matrix, atol=1e-14)
    assert np.allclose(operator.matvec(torch.from_numpy(x)).numpy(), matrix @ x)
    assert np.allclose(operator.rmatvec(torch.from_numpy(y)).numpy(), matrix.T @ y)
    assert np.allclose(operator.matmat(torch.from_numpy(block)).numpy(), matrix @ block)


@given(st.integers(1, 12), st.integers(0, 12), st.integers(0, 5), st.integers(0, 2**31), st.data())
def test_lifting_any_direction_matrix_preserves_it(n: int, k: int, p: int, seed: int, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(seed)
    hessian = LowRankPlusDiagonal(
        diagonal=torch.randn(n, generator=generator),
        factor=torch.randn(n, k, generator=generator),
        core=torch.randn(k, generator=generator),
    )
    rows = sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1)))
    check_operator(DirectionMatrix(Dense(torch.randn(n, p, generator=generator)), hessian, torch.tensor(rows)))


def test_lifted_form_is_sparse_where_factors_are() -> None:
    n, k = 1000, 3
    wide = LowRankPlusDiagonal(diagonal=np.ones(n), factor=np.ones((n, k)), core=np.ones(k))
    matrix, auxiliary = DirectionMatrix(GroupColumns([1.0] * n, [0] * n, num_groups=1), wide).lifted()
    assert auxiliary == k and matrix.nnz == n + n + 2 * n * k + k


def test_columns_of_no_group_are_lifted() -> None:
    assert GroupColumns(torch.ones(3), torch.zeros(3, dtype=torch.int64), num_groups=0).lifted().matrix.shape == (3, 0)


@pytest.mark.parametrize(
    "matrix",
    [A, A.tolist(), torch.from_numpy(A), sp.csc_array(A), sp.coo_array(A), torch.from_numpy(A).to_sparse(), Dense(A)],
    ids=["numpy", "list", "tensor", "csc", "coo", "sparse tensor", "operator"],
)
def test_as_operator_takes_any_matrix(matrix: object) -> None:
    assert np.allclose(as_operator(matrix).to_dense().numpy(), A)


NAN, INF = float("nan"), float("inf")
BAD: list[tuple[str, Callable[[], object], str]] = [
    ("NaN", lambda: Dense([[NAN]]), "matrix: .*finite"),
    ("inf", lambda: Dense([[INF]]), "matrix: .*finite"),
    ("one dimension", lambda: Dense([1.0]), "two dimensions"),  # pyright: ignore[reportArgumentType]
    ("sparse NaN", lambda: Sparse(sp.csr_array([[NAN]])), "must be finite"),
    ("diagonal NaN", lambda: Diagonal([1.0, NAN]), "diagonal"),
    ("diagonal of two dimensions", lambda: Diagonal(np.eye(2)), "one dimension"),
    ("factor shape", lambda: LowRankPlusDiagonal(diagonal=[1.0], factor=[[1.0], [1.0]], core=[1.0]), "factor"),
    ("factor NaN", lambda: LowRankPlusDiagonal(diagonal=[1.0], factor=[[NAN]], core=[1.0]), "factor"),
    ("core inf", lambda: LowRankPlusDiagonal(diagonal=[1.0], factor=[[1.0]], core=[INF]), "core"),
    ("rectangular without transpose", lambda: MatrixFree((1, 2), lambda x: x[:1]), "rmatvec"),
    ("group length", lambda: GroupColumns([1.0], [0, 1], num_groups=2), "group_of"),
    ("group values NaN", lambda: GroupColumns([NAN], [0], num_groups=1), "values"),
    ("rectangular Hessian", lambda: DirectionMatrix(Dense(A), Dense(A)), "hessian"),
    ("mixed rows", lambda: DirectionMatrix(Dense(A), Diagonal([1.0])), "mixed"),
    ("limit", lambda: Dense(A).to_dense(limit=5), "more than limit"),
    ("lifted limit", lambda: FACTORED.lifted(limit=5), "more than limit"),
]


@pytest.mark.parametrize(("build", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_arguments_are_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_as_operator_names_what_it_does_not_take() -> None:
    with pytest.raises(TypeError, match=r"hessian: .*str"):
        as_operator("identity", name="hessian")


@pytest.mark.parametrize("columns", [0, 1, 2, 11, 12, 13])
@pytest.mark.parametrize("rows", [0, 50, tall.FEWEST * tall.ROWS, tall.FEWEST * tall.ROWS + 7])
def test_blocks_of_any_width_are_pulled_through_a_tall_matrix(columns: int, rows: int) -> None:
    V, block = (torch.from_numpy(RNG.standard_normal((rows, width))) for width in (3, columns))  # noqa: N806
    expected = torch.einsum("nk,nb->kb", V, block)
    for laid_out in (block, block.T.contiguous().T):
        torch.testing.assert_close(pull(V, laid_out), expected, rtol=1e-12, atol=1e-11)


def test_rows_of_a_stored_matrix_are_had_at_any_size() -> None:
    stored = Dense(torch.ones(1, 1).double().expand(DENSE_LIMIT // 10, 11))
    assert torch.equal(stored.dense_rows(slice(2)), torch.ones(2, 11).double())
    with pytest.raises(ValueError, match="more than limit"):
        stored.to_dense()
