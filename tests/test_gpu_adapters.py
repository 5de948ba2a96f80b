"""The adapters to cuPDLPx and cuOpt: what goes in and what comes out, and the contract where a GPU is at hand."""

import importlib.util
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from backends import CuOpt, CuPDLPx
from backends import cuopt as cuopt_adapter
from backends import cupdlpx as cupdlpx_adapter
from lift_core import LinearProgram, LPBackend, LPStatus
from lift_core.testing import check_backend

INF = math.inf
ADAPTERS: dict[str, LPBackend] = {"cupdlpx": CuPDLPx(), "cuopt": CuOpt()}
LP = LinearProgram(
    c=[1.0, -2.0, 0.5], A=[[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]], row_lower=[-INF, 1.0], row_upper=[4.0, 1.0],
    col_lower=[0.0, -INF, -1.0], col_upper=[INF, INF, 1.0], offset=7.0,
)  # fmt: skip


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("package", ADAPTERS)
def test_the_contract_on_a_gpu(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    check_backend(ADAPTERS[package])


@pytest.mark.parametrize("package", ADAPTERS)
def test_an_absent_package_is_named_with_its_command(package: str) -> None:
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed here")
    with pytest.raises(ModuleNotFoundError, match=f"this needs the package {package}: pip install {package}"):
        ADAPTERS[package].solve(LP)


@pytest.mark.parametrize(
    ("backend", "options", "message"),
    [
        (
            CuOpt(),
            {"method": "simplex"},
            "method: expected one of concurrent, pdlp, dual_simplex, barrier, got 'simplex'",
        ),
        (CuOpt(), {"iteration_limit": -1}, "iteration_limit: expected None or at least 0, got -1"),
        (CuPDLPx(), {"iteration_limit": -1}, "iteration_limit: expected None or at least 0, got -1"),
    ],
)
def test_bad_options_are_named(backend: LPBackend, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(backend, **options)


# -- cuPDLPx ------------------------------------------------------------------------------------------------------


def test_cupdlpx_gets_every_array_in_full() -> None:
    given = cupdlpx_adapter.arrays(LP.explicit())
    matrix = given.pop("constraint_matrix")
    assert matrix.format == "csr" and matrix.toarray().tolist() == LP.A.to_dense().tolist()
    assert matrix.indptr.dtype == matrix.indices.dtype == np.int32
    assert given.pop("objective_constant") == 7.0
    wanted = {
        "objective_vector": LP.c, "constraint_lower_bound": LP.row_lower, "constraint_upper_bound": LP.row_upper,
        "variable_lower_bound": LP.col_lower, "variable_upper_bound": LP.col_upper,
    }  # fmt: skip
    assert {name: array.tolist() for name, array in given.items()} == {n: array.tolist() for n, array in wanted.items()}


def test_cupdlpx_parameters_follow_the_options() -> None:
    assert CuPDLPx(rtol=1e-6).parameters() == {
        "OutputFlag": False, "Presolve": True, "OptimalityTol": 5e-7, "FeasibilityTol": 5e-7, "TimeLimit": 1e9,
    }  # fmt: skip
    limited = CuPDLPx(time_limit=9.0, iteration_limit=5, presolve=False).parameters()
    assert (limited["TimeLimit"], limited["IterationLimit"], limited["Presolve"]) == (9.0, 5, False)


def test_both_spellings_of_the_status_are_read() -> None:
    old = SimpleNamespace(Status="PRIMAL_INFEASIBLE")
    new = SimpleNamespace(Status=1, StatusName="PRIMAL_INFEASIBLE")
    names = [cupdlpx_adapter.status_name(model) for model in (old, new)]
    assert [cupdlpx_adapter.STATUSES[name] for name in names] == [LPStatus.INFEASIBLE] * 2


# -- cuOpt --------------------------------------------------------------------------------------------------------


def test_cuopt_gets_every_array_in_full() -> None:
    given = cuopt_adapter.arrays(LP.explicit())
    values, indices, offsets = given.pop("set_csr_constraint_matrix")
    assert (values.tolist(), indices.tolist(), offsets.tolist()) == ([1.0, 2.0, 3.0], [0, 2, 1], [0, 2, 3])
    assert indices.dtype == offsets.dtype == np.int32
    assert given.pop("set_objective_offset") == (7.0,)
    vectors = {
        "set_objective_coefficients": LP.c, "set_constraint_lower_bounds": LP.row_lower,
        "set_constraint_upper_bounds": LP.row_upper, "set_variable_lower_bounds": LP.col_lower,
        "set_variable_upper_bounds": LP.col_upper,
    }  # fmt: skip
    assert {name: array.tolist() for name, (array,) in given.items()} == {n: v.tolist() for n, v in vectors.items()}


def test_cuopt_parameters_follow_the_options() -> None:
    given = CuOpt(rtol=1e-6, method="barrier", time_limit=9.0, iteration_limit=5).parameters()
    assert (given["method"], given["time_limit"], given["iteration_limit"]) == (3, 9.0, 5)
    tolerances = {value for name, value in given.items() if name.endswith("_tolerance")}
    assert tolerances == {5e-7} and sum(name.endswith("_tolerance") for name in given) == 6
    assert "time_limit" not in CuOpt().parameters()


def test_cuopt_answers_leave_auxiliaries_out() -> None:
    found = cuopt_adapter.answer(LP, "Optimal", np.array([1.0, 2.0, 3.0, 9.0]), np.array([3.0, 4.0, 9.0]), 12.0)
    assert found.x is not None and found.y is not None
    assert (found.x.tolist(), found.y.tolist()) == ([1.0, 2.0, 3.0], [3.0, 4.0])
    assert (found.status, found.iterations) == (LPStatus.OPTIMAL, 12)


@pytest.mark.parametrize(
    ("reason", "status", "has_x", "has_y"),
    [
        ("PrimalInfeasible", LPStatus.INFEASIBLE, False, True),
        ("DualInfeasible", LPStatus.INFEASIBLE_OR_UNBOUNDED, True, False),
        ("TimeLimit", LPStatus.TIME_LIMIT, True, True),
        ("Something new", LPStatus.FAILED, True, True),
    ],
)
def test_cuopt_reasons_are_statuses(reason: str, status: LPStatus, has_x: bool, has_y: bool) -> None:
    found = cuopt_adapter.answer(LP, reason, np.ones(3), np.ones(2), 1.0)
    assert (found.status, found.x is not None, found.y is not None) == (status, has_x, has_y)


@pytest.mark.parametrize("nothing", [None, np.array([])])
def test_cuopt_without_a_point(nothing: object) -> None:
    assert cuopt_adapter.answer(LP, "TimeLimit", nothing, nothing, 0)[:2] == (None, None)
