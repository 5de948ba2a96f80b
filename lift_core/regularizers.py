"""Regularisers ``sum_j w(λ_j) sum_{i in group j} φ_i(θ_i)`` with closed-form derivatives.

Every regulariser here is separable: one hyperparameter per group of weights and one scalar function per weight. So its
Hessian is diagonal, its mixed partial has at most one entry per row, and both cost O(n).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from copy import copy
from typing import Literal, cast, get_args

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from lift_core.operators import Diagonal, GroupColumns, require_finite

Strength = Literal["log", "raw"]
"""``"log"``: w(λ) = exp(λ), never negative; ``"raw"``: w(λ) = λ, as in the papers."""


class Regularizer(ABC):
    """``R(λ, θ) = sum_i w(λ_{g(i)}) φ_i(θ_i)``, where g(i) is the group, and hyperparameter, of weight i.

    Args:
        group_of: g, shape (n,), entries in -1 ... num_hyper - 1; -1 leaves a weight unregularised.
        num_hyper: p, the number of hyperparameters of the problem.
        strength: how λ enters, see `Strength`.

    Subclasses give φ and its two derivatives, elementwise. One whose φ has data of each weight (an anchor, a scale)
    overrides `restricted`, too, and takes the data of the chosen weights along, as `L2SP` does; one that overrides
    `strengths` overrides `mixed` with its derivative. `lift_core.testing.check_problem` looks at both.
    """

    def __init__(
        self, group_of: Int64[Tensor, " n"] | list[int], *, num_hyper: int, strength: Strength = "log"
    ) -> None:
        self.group_of = torch.as_tensor(group_of, dtype=torch.int64)
        if self.group_of.ndim != 1:
            raise ValueError(f"group_of: expected one dimension, got shape {tuple(self.group_of.shape)}")
        if len(self.group_of) and not -1 <= int(self.group_of.min()) <= int(self.group_of.max()) < num_hyper:
            raise ValueError(f"group_of: expected entries in -1 ... {num_hyper - 1} (num_hyper={num_hyper})")
        if strength not in get_args(Strength):
            raise ValueError(f"strength: expected one of {get_args(Strength)}, got {strength!r}")
        self.num_hyper, self.strength = num_hyper, strength
        self._covered = self.group_of >= 0
        self._column = self.group_of.clamp(min=0)

    @abstractmethod
    def penalty(self, weights: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
        """``φ_i(θ_i)``."""

    @abstractmethod
    def slope(self, weights: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
        """``φ_i'(θ_i)``."""

    @abstractmethod
    def curvature(self, weights: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
        """``φ_i''(θ_i)``."""

    def value(self, hyper: Float64[Tensor, " p"], weights: Float64[Tensor, " n"]) -> Float64[Tensor, ""]:
        """``R(λ, θ)``."""
        return (self._per_weight(self.strengths(hyper)) * self.penalty(weights)).sum()

    def gradient(self, hyper: Float64[Tensor, " p"], weights: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
        """``∇_θ R``."""
        return self._per_weight(self.strengths(hyper)) * self.slope(weights)

    def hessian(self, hyper: Float64[Tensor, " p"], weights: Float64[Tensor, " n"]) -> Diagonal:
        """``∇²_θθ R``, a diagonal."""
        return Diagonal(self._per_weight(self.strengths(hyper)) * self.curvature(weights))

    def mixed(self, hyper: Float64[Tensor, " p"], weights: Float64[Tensor, " n"]) -> GroupColumns:
        """``∇²_θλ R``: column j is w'(λ_j) φ'(θ) on group j and 0 elsewhere."""
        derivative = self.strengths(hyper) if self.strength == "log" else torch.ones_like(hyper)
        return GroupColumns(
            self._per_weight(derivative) * self.slope(weights), self.group_of, num_groups=self.num_hyper
        )

    def strengths(self, hyper: Float64[Tensor, " p"]) -> Float64[Tensor, " p"]:
        """``w(λ)``."""
        return hyper.exp() if self.strength == "log" else hyper

    def require_finite_strengths(self, hyper_upper: Float64[Tensor, " p"]) -> None:
        """Refuse upper bounds of λ at which a log strength in use is infinite, as a step may go that far.

        Raises:
            ValueError: naming the first of them.
        """
        if self.strength != "log":
            return
        used = self._column[self._covered].unique()
        infinite = used[~torch.isfinite(self.strengths(hyper_upper)[used])]
        if len(infinite):
            j = int(infinite[0])
            raise ValueError(
                f"hyper_upper: expected bounds at which every strength is finite, but that of λ[{j}] is infinite at "
                f"{float(hyper_upper[j]):g}"
            )

    def restricted(self, index: Int64[Tensor, " m"]) -> Regularizer:
        """The same penalty on some of the weights, with all hyperparameters."""
        return self._regrouped(self.group_of[index], self.num_hyper)

    def renumbered(self, kept: Int64[Tensor, " q"]) -> Regularizer:
        """The same penalty with the sorted hyperparameters ``kept`` alone: those of all weights that have one."""
        place = torch.full((self.num_hyper + 1,), -1, device=kept.device)  # the last entry serves weights without one
        place[kept] = torch.arange(len(kept), device=kept.device)
        return self._regrouped(place[self.group_of], len(kept))

    def _regrouped(self, group_of: Tensor, num_hyper: int) -> Regularizer:
        part = copy(self)
        part.group_of, part.num_hyper = group_of, num_hyper
        part._covered, part._column = group_of >= 0, group_of.clamp(min=0)
        return part

    def _per_weight(self, values: Tensor) -> Tensor:
        """Spread one value per hyperparameter over the weights of its group; 0 where a weight has none."""
        if self.num_hyper == 0:
            return torch.zeros(len(self.group_of), dtype=torch.float64, device=values.device)
        return torch.where(self._covered, values[self._column], 0.0)


class L2(Regularizer):
    """``φ(θ) = ½ θ²``: weight decay.

    >>> L2([0, 0], num_hyper=1).value(torch.zeros(1).double(), torch.tensor([1.0, 2.0]).double()).item()
    2.5
    """

    def penalty(self, weights: Tensor) -> Tensor:
        return weights.square() / 2

    def slope(self, weights: Tensor) -> Tensor:
        return weights

    def curvature(self, weights: Tensor) -> Tensor:
        return torch.ones_like(weights)


class L2SP(Regularizer):
    """``φ_i(θ_i) = ½ (θ_i − θ⁰_i)²``: towards the pretrained weights θ⁰.

    Reference: Li, Grandvalet, Davoine (2018), Explicit inductive bias for transfer learning, eq. 3.

    >>> start = torch.tensor([1.0, 1.0]).double()
    >>> L2SP([0, 0], num_hyper=1, anchor=start).value(torch.zeros(1).double(), start).item()
    0.0
    """

    def __init__(
        self,
        group_of: Int64[Tensor, " n"] | list[int],
        *,
        num_hyper: int,
        anchor: Float64[Tensor, " n"],
        strength: Strength = "log",
    ) -> None:
        super().__init__(group_of, num_hyper=num_hyper, strength=strength)
        if anchor.shape != self.group_of.shape:
            raise ValueError(f"anchor: expected shape {tuple(self.group_of.shape)}, got {tuple(anchor.shape)}")
        require_finite(anchor=anchor)
        self.anchor = anchor.to(torch.float64)

    def restricted(self, index: Int64[Tensor, " m"]) -> L2SP:
        part = cast(L2SP, super().restricted(index))
        part.anchor = self.anchor[index]
        return part

    def penalty(self, weights: Tensor) -> Tensor:
        return (weights - self.anchor).square() / 2

    def slope(self, weights: Tensor) -> Tensor:
        return weights - self.anchor

    def curvature(self, weights: Tensor) -> Tensor:
        return torch.ones_like(weights)


class SmoothedL1(Regularizer):
    """``φ(θ) = sqrt(θ² + ε²) − ε``: the absolute value, rounded over a width ``smoothing`` = ε.

    >>> SmoothedL1([0], num_hyper=1).value(torch.zeros(1).double(), torch.zeros(1).double()).item()
    0.0
    """

    def __init__(
        self,
        group_of: Int64[Tensor, " n"] | list[int],
        *,
        num_hyper: int,
        strength: Strength = "log",
        smoothing: float = 1e-2,
    ) -> None:
        super().__init__(group_of, num_hyper=num_hyper, strength=strength)
        if not (smoothing > 0 and math.isfinite(smoothing)):
            raise ValueError(f"smoothing: expected a positive number, got {smoothing}")
        self.smoothing = smoothing

    def penalty(self, weights: Tensor) -> Tensor:
        return (weights.square() + self.smoothing**2).sqrt() - self.smoothing

    def slope(self, weights: Tensor) -> Tensor:
        return weights / (weights.square() + self.smoothing**2).sqrt()

    def curvature(self, weights: Tensor) -> Tensor:
        return self.smoothing**2 / (weights.square() + self.smoothing**2).pow(1.5)
