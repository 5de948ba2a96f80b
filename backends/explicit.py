"""What the adapters to solvers share: finding the solver's package, scaling, tolerances, unchanged matrices."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float64
from torch import Tensor

from lift_core.lp import ExplicitLP
from lift_core.plugins import install_command


def import_package(module: str) -> Any:
    """A solver's module, imported when it is needed.

    Raises:
        ModuleNotFoundError: with the command that installs it.
    """
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise _missing(package) from error


def require_package(package: str) -> None:
    """Make sure that a package which another process imports is there.

    Raises:
        ModuleNotFoundError: with the command that installs it.
    """
    if find_spec(package) is None:
        raise _missing(package)


def _missing(package: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"this needs the package {package}: {install_command(package)}", name=package)


def cost_scale(c: np.ndarray) -> float:
    """The power of two that brings the largest cost into [1, 2) if all are smaller, else 1.

    The gradients that direction LPs have for costs can be smaller than the 1e-7 below which solvers read a reduced cost
    as zero. Multiplying by a power of two is exact; the row duals come out multiplied by it too.

    >>> cost_scale(np.array([3.0, 0.25])), cost_scale(np.array([0.25, -0.3])), cost_scale(np.zeros(2))
    (1.0, 4.0, 1.0)
    """
    largest = float(np.abs(c).max(initial=0.0))
    if largest == 0 or largest >= 1:
        return 1.0
    _, exponent = np.frexp(largest)  # largest = mantissa * 2^exponent with mantissa in [1/2, 1)
    return float(np.ldexp(1.0, min(1 - int(exponent), 1000)))


def feasibility_tolerance(rtol: float) -> float:
    """HiGHS's tolerance for each entry that keeps the norm of n of them below ``rtol``, for n up to about a million.

    >>> feasibility_tolerance(1e-6), feasibility_tolerance(1e-9), feasibility_tolerance(0.1)
    (1e-09, 1e-10, 1e-07)
    """
    return min(max(1e-3 * rtol, 1e-10), 1e-7)  # HiGHS accepts nothing below 1e-10


def same_matrix(a: sp.csr_matrix, b: sp.csr_matrix) -> bool:
    """Whether two matrices store the same entries at the same places."""
    return a.shape == b.shape and all(
        np.array_equal(getattr(a, part), getattr(b, part)) for part in ("indptr", "indices", "data")
    )


def nonempty_rows(matrix: sp.csr_matrix) -> np.ndarray:
    """Which rows have a nonzero entry."""
    return np.asarray(abs(matrix).sum(axis=1)).ravel() > 0


def contradiction(program: ExplicitLP) -> Float64[Tensor, " m"] | None:
    """The Farkas ray of an empty row whose bounds exclude 0, if there is one."""
    wrong = ~nonempty_rows(program.A) & ((program.row_lower > 0) | (program.row_upper < 0))
    if not wrong.any():
        return None
    ray = torch.zeros(len(wrong), dtype=torch.float64)
    i = int(wrong.argmax())
    ray[i] = 1.0 if program.row_lower[i] > 0 else -1.0
    return ray


def small_matrix_value(matrix: sp.csr_matrix) -> float:
    """From which size on HiGHS is to keep entries: its own default unless the matrix has smaller ones.

    A smaller one than needed makes it miss proofs that a program is infeasible.
    """
    sizes = np.abs(matrix.data[matrix.data != 0])
    return 1e-12 if len(sizes) and sizes.min() <= 1e-9 else 1e-9
