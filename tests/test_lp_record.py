"""The LP record: bad arguments, and the explicit form of its matrix."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from lift_core import (
    Dense,
    DirectionMatrix,
    LinearProgram,
    LowRankPlusDiagonal,
    MatrixFree,
)
from lift_core.lp import kkt_residuals
from lift_core.testing import closed_form_direction_lp

NAN, INF = math.nan, math.inf


GOOD: dict[str, object] = {"c": [1.0, 1.0], "A": [[1.0, 2.0]]}
BAD: list[tuple[dict[str, object], str]] = [
    ({"c": [1.0]}, "c: expected shape"),
    ({"c": [[1.0, 1.0]]}, "c: expected shape"),
    ({"c": [NAN, 1.0]}, "c: "),
    ({"c": [INF, 1.0]}, "c: "),
    ({"A": [[NAN, 2.0]]}, "finite"),
    ({"A": [[1.0, -INF]]}, "finite"),
    ({"A": [1.0, 2.0]}, "two dimensions"),
    ({"A": sp.csr_array([[NAN, 2.0]])}, "finite"),
    ({"A": [[1.0, 2.0, 3.0]]}, "c: expected shape"),
    ({"row_lower": [0.0, 0.0]}, "row_lower: expected shape"),
    ({"row_upper": [0.0, 0.0]}, "row_upper: expected shape"),
    ({"col_lower": [0.0]}, "col_lower: expected shape"),
    ({"col_upper": [0.0, 0.0, 0.0]}, "col_upper: expected shape"),
    ({"row_lower": NAN}, "row_lower: NaN"),
    ({"row_upper": [NAN]}, "row_upper: NaN"),
    ({"col_lower": [NAN, 0.0]}, "col_lower: NaN at index 0"),
    ({"col_upper": [0.0, NAN]}, "col_upper: NaN at index 1"),
    ({"row_lower": 2.0, "row_upper": 1.0}, "row_lower, row_upper: .*index 0"),
    ({"col_lower": [0.0, 2.0], "col_upper": 1.0}, "col_lower, col_upper: .*index 1"),
    ({"row_lower": INF}, "row_lower"),
    ({"row_upper": -INF}, "row_upper"),
    ({"col_lower": INF}, "col_lower"),
    ({"col_upper": -INF}, "col_upper"),
    ({"offset": NAN}, "offset"),
    ({"offset": INF}, "offset"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[str(changes) for changes, _ in BAD])
def test_bad_programs_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LinearProgram(**(GOOD | changes))  # pyright: ignore[reportArgumentType]


def test_a_matrix_of_no_known_kind_is_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"A: .*str"):
        LinearProgram(c=[1.0], A="x")


# -- the explicit form -------------------------------------------------------------------------------------------------


def test_explicit_form_of_a_factored_program_has_the_same_solution() -> None:
    known = closed_form_direction_lp(12, 3, delta=0.1, curvature="low rank", seed=5)
    explicit = known.lp.explicit()
    hessian = known.lp.A.hessian  # pyright: ignore[reportAttributeAccessIssue]
    assert isinstance(hessian, LowRankPlusDiagonal)
    k = hessian.factor.shape[1]
    assert explicit.A.shape == (12 + k, 15 + k)
    z = hessian.factor.T @ known.x[3:]
    # stationarity in z fixes the duals of its defining rows
    auxiliary = explicit.A[:12, 15:].T @ known.y.numpy()
    lifted = LinearProgram(**explicit._asdict())
    x, y = torch.cat([known.x, z]), torch.cat([known.y, torch.from_numpy(np.asarray(auxiliary))])
    objective, _, kkt = kkt_residuals(lifted, x, y)
    assert kkt.worst < 1e-12
    assert objective == pytest.approx(known.objective)


@pytest.mark.parametrize(
    "make_matrix", [lambda: np.eye(3), lambda: sp.eye_array(3), lambda: MatrixFree(3, lambda x: x)]
)
def test_explicit_form_of_any_matrix(make_matrix: Callable[[], object]) -> None:
    lp = LinearProgram(c=[1.0, 2.0, 3.0], A=make_matrix(), row_lower=[0.0, -INF, 2.0], col_upper=5.0, offset=4.0)
    explicit = lp.explicit()
    assert np.array_equal(explicit.A.toarray(), np.eye(3))
    assert explicit.c.tolist() == [1.0, 2.0, 3.0] and explicit.offset == 4.0
    assert explicit.row_lower.tolist() == [0.0, -INF, 2.0] and explicit.row_upper.tolist() == [INF] * 3
    assert explicit.col_lower.tolist() == [-INF] * 3 and explicit.col_upper.tolist() == [5.0] * 3


def test_explicit_form_refuses_what_does_not_fit() -> None:
    lp = LinearProgram(c=[1.0] * 100, A=MatrixFree(100, lambda x: x))
    with pytest.raises(ValueError, match="10,000 entries, more than limit=9,999"):
        lp.explicit(limit=9_999)


def test_explicit_form_of_rows_of_a_direction_matrix() -> None:
    matrix = DirectionMatrix(Dense([[1.0], [2.0], [3.0]]), Dense(torch.eye(3)), torch.tensor([0, 2]))
    lp = LinearProgram(c=[0.0] * 4, A=matrix, row_lower=-1.0, row_upper=1.0)
    assert lp.explicit().A.toarray().tolist() == [[1.0, 1.0, 0.0, 0.0], [3.0, 0.0, 0.0, 1.0]]
