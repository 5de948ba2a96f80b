"""The regulariser of a model with named parameters, and where its strengths start and end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from jaxtyping import Float64
from torch import Tensor

from lift_core.regularizers import L2, L2SP, Regularizer, SmoothedL1, Strength

Penalty = Literal["l2", "l2sp", "smoothed_l1"]
"""Weight decay, decay towards the pretrained weights, or a rounded absolute value."""


def build_regularizer(
    penalty: Penalty,
    group_names: Mapping[str, str],
    slices: Mapping[str, slice],
    *,
    strength: Strength,
    start: Float64[Tensor, " n"],
) -> tuple[Regularizer, tuple[str, ...]]:
    """A regulariser with one strength per group, and the groups' names.

    Args:
        penalty: which one.
        group_names: the group of every parameter.
        slices: the entries of every parameter among the n weights.
        strength: how λ enters, see `Strength`.
        start: the pretrained weights.

    >>> where = {"a": slice(0, 2), "b": slice(2, 3)}
    >>> build_regularizer("l2", {"a": "x", "b": "x"}, where, strength="log", start=torch.zeros(3).double())[1]
    ('x',)

    Raises:
        ValueError: if the penalty is unknown.
    """
    if penalty not in get_args(Penalty):
        raise ValueError(f"regularizer: expected one of {get_args(Penalty)}, got {penalty!r}")
    names = tuple(dict.fromkeys(group_names.values()))
    group_of = torch.empty(len(start), dtype=torch.int64, device=start.device)
    for parameter, group in group_names.items():
        group_of[slices[parameter]] = names.index(group)
    if penalty == "l2sp":
        return L2SP(group_of, num_hyper=len(names), strength=strength, anchor=start), names
    chosen = L2 if penalty == "l2" else SmoothedL1
    return chosen(group_of, num_hyper=len(names), strength=strength), names


def hyper_range(
    initial: float, bounds: tuple[float, float], *, strength: Strength, like: Float64[Tensor, " p"]
) -> tuple[Float64[Tensor, " p"], Float64[Tensor, " p"], Float64[Tensor, " p"]]:
    """λ at the start, at its lower and at its upper bound, from the strengths w(λ).

    Raises:
        ValueError: if the strengths are not finite and ordered, or one is 0 while λ is a logarithm.
    """
    lower, upper = bounds
    if not (0 <= lower <= initial <= upper < math.inf) or (strength == "log" and lower == 0):
        raise ValueError(
            "initial_strength, strength_bounds: expected 0 < lower <= initial <= upper (lower may be 0 with "
            f"strength='raw'), got initial_strength={initial} and strength_bounds={bounds}"
        )
    first, low, high = (math.log(value) if strength == "log" else value for value in (initial, lower, upper))
    return torch.full_like(like, first), torch.full_like(like, low), torch.full_like(like, high)
