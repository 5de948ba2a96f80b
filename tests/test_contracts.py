"""The shipped contracts pass for everything built in, and fail, with a sentence, for plug-ins broken on purpose."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from backends import HiGHS
from lift_core import (
    BilevelProblem,
    Dense,
    LinearOperator,
    LPBackend,
    LPStatus,
    MatrixFree,
    solve_lp,
)
from lift_core.operators import Lifted
from lift_core.testing import KnownLP, check_backend, check_operator, check_problem, lp_cases
from lift_core.testing.strategies import direction_lps, known_lps
from problems import DataCleaning, Network, Quadratic, Regression

PROBLEMS: dict[str, Callable[[], BilevelProblem]] = {
    "quadratic": Quadratic,
    "quadratic, indefinite": lambda: Quadratic(indefinite=True, hyper_cost=True, strength="raw"),
    "quadratic, no hyperparameters": lambda: Quadratic(num_hyper=0),
    "ridge": Regression,
    "logistic": lambda: Regression(task="logistic", per="group"),
    "data cleaning": lambda: DataCleaning(num_train=40),
    "network": lambda: Network(num_train=50),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_built_in_problems_keep_the_contract(name: str) -> None:
    check_problem(PROBLEMS[name]())


def test_built_in_backends_keep_the_contract(backend: LPBackend) -> None:
    check_backend(backend)


@settings(max_examples=15)
@given(known=st.one_of(known_lps(), direction_lps(max_weights=12, max_hyper=5)))
def test_simplex_solves_what_is_drawn(known: KnownLP) -> None:
    backend = HiGHS()
    solution = solve_lp(known.lp, backend)
    assert solution.status is LPStatus.OPTIMAL
    assert abs(solution.objective - known.objective) <= known.objective_tolerance(backend.rtol)


def test_case_names_differ() -> None:
    names = [case.name for case in lp_cases()]
    assert len(names) == len(set(names)) > 40


# -- broken operators --------------------------------------------------------------------------------------------------

M = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)


class WrongLift(Dense):
    def lifted(self, limit: int = 0) -> Lifted:
        right = super().lifted()
        return Lifted(2 * right.matrix, 0)


class WrongBatch(Dense):
    def matmat(self, x: Tensor) -> Tensor:
        return self.matrix.T @ x


class NoLimit(Dense):
    def to_dense(self, limit: int = 0) -> Tensor:
        return self.matrix


class InPlace(Dense):
    def matvec(self, x: Tensor) -> Tensor:
        return x.copy_(self.matrix @ x)


class Forgetful(Dense):
    """The second product with the same vector differs from the first."""

    calls = 0

    def matvec(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.matrix @ x * (1 + 1e-3 * (self.calls > 2))


BROKEN_OPERATORS: dict[str, tuple[LinearOperator, str]] = {
    "transpose": (MatrixFree((2, 2), lambda x: M @ x, lambda y: M @ y), "not the transpose"),
    "not linear": (MatrixFree(2, lambda x: x.square()), "not linear"),
    "affine": (MatrixFree(2, lambda x: x + 1), "not linear"),
    "shape": (MatrixFree((3, 2), lambda x: M @ x, lambda y: M @ y[:2]), r"matvec: expected a result of shape \(3,\)"),
    "float32": (MatrixFree(2, lambda x: x.float()), "float64"),
    "NaN": (MatrixFree(2, lambda x: x / 0), "NaN or inf"),
    "in place": (InPlace(M), "changed its argument"),
    "forgetful": (Forgetful(M), "two products with the same vector differ"),
    "matmat": (WrongBatch(M), "matmat"),
    "limit": (NoLimit(M), "limit"),
    "lifted": (WrongLift(M), "lifted"),
}


@pytest.mark.parametrize("name", BROKEN_OPERATORS)
def test_broken_operators_are_found(name: str) -> None:
    operator, sentence = BROKEN_OPERATORS[name]
    with pytest.raises(AssertionError, match=sentence):
        check_operator(operator)


def test_an_operator_that_should_be_symmetric() -> None:
    with pytest.raises(AssertionError, match="not symmetric"):
        check_operator(Dense(M), symmetric=True)
