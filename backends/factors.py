"""What a matrix is made of: whether a direction LP's Hessian is given by factors, and the factors."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float64
from torch import Tensor

from lift_core.operators import (
    Dense,
    Diagonal,
    DirectionMatrix,
    GroupColumns,
    LinearOperator,
    LowRankPlusDiagonal,
    Sparse,
)


def has_factors(A: LinearOperator) -> bool:  # noqa: N803
    """Whether A is ``[J  H]`` with H given by factors."""
    return isinstance(A, DirectionMatrix) and isinstance(A.hessian, (LowRankPlusDiagonal, Diagonal))


def knows_entries(A: LinearOperator) -> bool:  # noqa: N803
    """Whether products with A are arithmetic on its entries, and call nothing that may differentiate."""
    parts = (A.mixed, A.hessian) if isinstance(A, DirectionMatrix) else (A,)
    return all(isinstance(part, (Dense, Diagonal, GroupColumns, LowRankPlusDiagonal, Sparse)) for part in parts)


def is_zero(hessian: LinearOperator) -> bool:
    """Whether all entries are known to be 0."""
    if isinstance(hessian, Dense):
        return not hessian.matrix.any()
    if isinstance(hessian, (Diagonal, LowRankPlusDiagonal)):
        diagonal, _, core = factors(hessian)
        return not diagonal.any() and not core.any()
    return False


class SignedFactors(NamedTuple):
    """``H = diag(diagonal) + V diag(signs) V^T``; the strengths of the core are in V, and its zeros are gone."""

    diagonal: Float64[Tensor, " n"]
    V: Float64[Tensor, "n k"]
    signs: Float64[Tensor, " k"]


def signed_factors(hessian: LinearOperator) -> SignedFactors:
    """`factors` with cores of ±1.

    Raises:
        ValueError: if the Hessian is not given by factors.
    """
    diagonal, V, core = factors(hessian)  # noqa: N806
    used = core != 0
    return SignedFactors(diagonal, V[:, used] * core[used].abs().sqrt(), core[used].sign())


def factors(
    hessian: LinearOperator,
) -> tuple[Float64[Tensor, " n"], Float64[Tensor, "n k"], Float64[Tensor, " k"]]:
    """``(d, V, c)`` of ``diag(d) + V diag(c) Vᵀ``.

    Raises:
        ValueError: if the Hessian is not given by factors.
    """
    if isinstance(hessian, LowRankPlusDiagonal):
        return hessian.diagonal, hessian.factor, hessian.core
    if isinstance(hessian, Diagonal):
        return hessian.diagonal, hessian.diagonal.new_zeros(hessian.shape[0], 0), hessian.diagonal.new_zeros(0)
    raise ValueError(f"A: expected a Hessian given by factors, got {hessian!r}")
