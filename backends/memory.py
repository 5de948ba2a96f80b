"""How many bytes a solve takes, counted before it starts, and how many there are.

What counts are vectors as long as the weights (all float64), the factors, and chunks; the constants are the vectors
that are alive at once at the busiest moment, and tests compare them with what a process really takes.
"""

from __future__ import annotations

import os

import torch

from backends.chunks import GRAM_ROWS, ROWS, SMALL_FACTORS
from lift_core.allocation import free_bytes_of_gpu
from lift_core.operators import Diagonal, DirectionMatrix, LinearOperator, LowRankPlusDiagonal, Sparse

_NUMBER = 8
PROGRAM_VECTORS = 9
"""Of a direction LP: costs, bounds, and the diagonal of H and values of J."""
INTERIOR_POINT_VECTORS = 110
"""Of the weights' length in the interior-point method: iterate, directions, residuals, bounds, Theta."""
DUAL_NEWTON_VECTORS = 21
"""Of the weights' length in proximal Newton on the dual: box, margins, costs, x and y, activities, line search."""
SYSTEM_MATRICES = 14
"""Of its systems' size, those among them that allocators have not yet given back: up to 13 were seen."""
PDLP_VECTORS = 56
"""Of the weights' length in Douglas-Rachford splitting, per program."""
POLISH_VECTORS = 56
"""More of them for each program that is polished."""


def direction_lp_bytes(num_weights: int, rank: int, num_hyper: int) -> int:
    """Bytes of a direction LP with factored curvature and a mixed partial of one entry a row.

    >>> direction_lp_bytes(1_000_000, 32, 12) // 2**20
    312
    """
    return _NUMBER * (num_weights * (PROGRAM_VECTORS + rank) + num_hyper)


def interior_point_bytes(num_weights: int, rank: int, num_hyper: int, *, device: str = "cpu") -> int:
    """Working bytes of `InteriorPoint` on a direction LP with factored curvature, without the program itself.

    >>> interior_point_bytes(1_000_000, 32, 12) // 2**20
    846
    """
    rows = min(GRAM_ROWS.get(device, GRAM_ROWS["cpu"]), num_weights)
    core = (3 * (2 * rank + num_hyper)) ** 2
    chunk = rows * (7 * rank + 5 * num_hyper)
    kept = num_weights * (rank + 2 * num_hyper) if num_weights * (rank + num_hyper) <= SMALL_FACTORS else 0
    return _NUMBER * (INTERIOR_POINT_VECTORS * (num_weights + num_hyper) + kept + chunk + 6 * core)


def dual_newton_bytes(
    num_weights: int, rank: int, num_hyper: int, *, max_rows: int = 1_000, device: str = "cpu"
) -> int:
    """Working bytes of `DualNewton` on a direction LP that it does not hand over, without the program itself.

    >>> dual_newton_bytes(1_000_000, 32, 12) // 2**20
    283
    """
    rows = min(ROWS.get(device, ROWS["cpu"]), num_weights)
    system = min(max_rows, num_weights) * (SYSTEM_MATRICES * min(max_rows, num_weights) + 3 * rank + num_hyper)
    return _NUMBER * (DUAL_NEWTON_VECTORS * (num_weights + num_hyper) + 2 * rows * rank + system)


def pdlp_bytes(num_weights: int, rank: int, num_hyper: int, *, programs: int = 1) -> int:
    """Working bytes of `PDLP` on direction LPs that share factored curvature, without the programs themselves.

    For the projection the factors are scaled, beside the mixed partial, and once more while that is prepared.
    """
    vectors = ((PDLP_VECTORS + POLISH_VECTORS) * programs + 2 * rank + num_hyper) * num_weights
    return _NUMBER * (vectors + 6 * programs * (2 * rank + num_hyper) ** 2)


def operator_bytes(A: LinearOperator) -> int:  # noqa: N803
    """Working bytes of `InteriorPoint` for a program over A, whichever system it takes."""
    m, n = A.shape
    hessian = A.hessian if isinstance(A, DirectionMatrix) else A
    if isinstance(A, DirectionMatrix) and isinstance(hessian, (LowRankPlusDiagonal, Diagonal)):
        rank = hessian.factor.shape[1] if isinstance(hessian, LowRankPlusDiagonal) else 0
        return interior_point_bytes(hessian.shape[0], rank, A.num_hyper, device=A.device.type)
    if isinstance(hessian, Sparse):
        return _NUMBER * (INTERIOR_POINT_VECTORS // 2 * (m + n) + 40 * hessian.matrix.nnz)
    return _NUMBER * (2 * m * n + 4 * m * m + INTERIOR_POINT_VECTORS // 2 * (m + n))


def check_memory_limit(limit: int | None) -> None:
    """Refuse what is no number of bytes.

    Raises:
        ValueError: if it is not positive.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"memory_limit: expected a positive number of bytes, got {limit}")


def require_memory(
    A: LinearOperator,  # noqa: N803
    needed: int,
    device: str | torch.device | None,
    limit: int | None,
    *,
    remedy: str = "tune fewer weights",
) -> int:
    """The bytes that are left; a solve that needs more than are allowed, or without a limit than there are, is refused.

    Args:
        A: the program's matrix.
        needed: working bytes.
        device: where it is to be solved; None: where A lives.
        limit: bytes that are allowed.
        remedy: what else the user can change.

    Raises:
        ValueError: with both numbers, and what to change.
    """
    where = A.device if device is None else torch.device(device)
    allowed = available_bytes(where) if limit is None else limit
    if needed > allowed:
        raise ValueError(
            f"memory_limit: a program of shape {A.shape} needs about {needed:,} bytes of working memory on {where}, "
            f"but {allowed:,} are allowed; raise memory_limit, lower the rank of the curvature model, "
            f"{remedy}, or use PDLP"
        )
    return allowed - needed


def most_to_polish(num_weights: int, device: torch.device) -> int:
    """Programs of `PDLP` that there is room to polish side by side."""
    return available_bytes(device) // max(_NUMBER * POLISH_VECTORS * num_weights, 1)


def available_bytes(device: torch.device) -> int:
    """All memory of this machine, or what is free on a GPU."""
    if device.type == "cuda":
        return free_bytes_of_gpu(device)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
