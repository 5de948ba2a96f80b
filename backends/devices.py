"""Moves a program to the device it is to be solved on."""

from __future__ import annotations

import torch

from lift_core.lp import LinearProgram
from lift_core.operators import (
    Dense,
    Diagonal,
    DirectionMatrix,
    GroupColumns,
    LinearOperator,
    LowRankPlusDiagonal,
    Sparse,
)


def move_program(
    lp: LinearProgram,
    device: str | torch.device | None,
    *,
    A: LinearOperator | None = None,  # noqa: N803
) -> LinearProgram:
    """The same program on ``device``; itself if it is there already or ``device`` is None.

    Args:
        A: the matrix, if it has been moved already.

    Raises:
        ValueError: if A is known only through functions that compute on another device.
    """
    if device is None or _same(lp.A.device, torch.device(device)):
        return lp
    vectors = ("c", "row_lower", "row_upper", "col_lower", "col_upper")
    moved = {name: getattr(lp, name).to(device) for name in vectors}
    matrix = move_operator(lp.A, torch.device(device)) if A is None else A
    return LinearProgram(A=matrix, offset=lp.offset, **moved)


def move_operator(operator: LinearOperator, device: torch.device) -> LinearOperator:
    """The same operator on ``device``."""
    if _same(operator.device, device):
        return operator
    if isinstance(operator, Dense):
        return Dense(operator.matrix.to(device))
    if isinstance(operator, Sparse):
        return Sparse(operator.matrix, device)
    if isinstance(operator, Diagonal):
        return Diagonal(operator.diagonal.to(device))
    if isinstance(operator, LowRankPlusDiagonal):
        parts = (operator.diagonal, operator.factor, operator.core)
        diagonal, factor, core = (part.to(device) for part in parts)
        return LowRankPlusDiagonal(diagonal=diagonal, factor=factor, core=core)
    if isinstance(operator, GroupColumns):
        return GroupColumns(operator.values.to(device), operator.group_of.to(device), num_groups=operator.shape[1])
    if isinstance(operator, DirectionMatrix):
        rows = None if operator.rows is None else operator.rows.to(device)
        return DirectionMatrix(move_operator(operator.mixed, device), move_operator(operator.hessian, device), rows)
    raise ValueError(
        f"device: {type(operator).__name__} computes on {operator.device} and cannot be moved to {device}; "
        "build it there, or leave device=None"
    )


def _same(here: torch.device, there: torch.device) -> bool:
    return here == there or (here.type == there.type and (there.type == "cpu" or str(there) == there.type))
