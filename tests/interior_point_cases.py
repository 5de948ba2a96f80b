"""Random matrices and programs for the tests of the interior-point method."""

import torch
from torch import Tensor

from backends.interior_point import InteriorPoint
from lift_core.lp import LinearProgram
from lift_core.operators import DirectionMatrix, LowRankPlusDiagonal

TIGHT = InteriorPoint(rtol=1e-8)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def factored(n: int, k: int, seed: int = 0) -> LowRankPlusDiagonal:
    """Indefinite: cores of both signs."""
    return LowRankPlusDiagonal(
        diagonal=0.1 + normal(n, seed=seed).abs(), factor=normal(n, k, seed=seed + 1), core=normal(k, seed=seed + 2)
    )


def direction_program(matrix: DirectionMatrix, delta: float, seed: int = 0) -> LinearProgram:
    return LinearProgram(
        c=normal(matrix.shape[1], seed=seed), A=matrix, row_lower=-delta, row_upper=delta, col_lower=-1.0, col_upper=1.0
    )
