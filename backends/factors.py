"""Direction LPs whose Hessian is given by factors: which they are, and the factors."""

from __future__ import annotations

from jaxtyping import Float64
from torch import Tensor

from lift_core.operators import Diagonal, DirectionMatrix, LinearOperator, LowRankPlusDiagonal


def has_factors(A: LinearOperator) -> bool:  # noqa: N803
    """Whether A is ``[J  H]`` with H given by factors."""
    return isinstance(A, DirectionMatrix) and isinstance(A.hessian, (LowRankPlusDiagonal, Diagonal))


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
