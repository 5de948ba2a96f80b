"""Linear operators: what the core multiplies with, and never needs to store.

Every operator works in float64 on one device. Square symmetric operators stand for Hessians; `DirectionMatrix`
stands for the constraint matrix ``[J  H]`` of a direction LP. An operator that has one gives its explicit sparse form,
*lifted* by auxiliary variables where a product of factors would be dense (see `LinearOperator.lifted`).
"""

from lift_core.operators.base import DENSE_LIMIT, Lifted, LinearOperator, require_finite
from lift_core.operators.factored import DirectionMatrix, GroupColumns, LowRankPlusDiagonal, PlusDiagonal
from lift_core.operators.plain import Dense, Diagonal, MatrixFree, Sparse, as_operator
from lift_core.operators.tall import pull

__all__ = [
    "DENSE_LIMIT",
    "Dense",
    "Diagonal",
    "DirectionMatrix",
    "GroupColumns",
    "Lifted",
    "LinearOperator",
    "LowRankPlusDiagonal",
    "MatrixFree",
    "PlusDiagonal",
    "Sparse",
    "as_operator",
    "pull",
    "require_finite",
]
