"""A quadratic bilevel problem in which everything has a closed form: the workhorse of the tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, get_args

import torch
from jaxtyping import Float64
from torch import Tensor

from lift_core.operators import Dense, LinearOperator
from lift_core.problem import Batch, BilevelProblem, Point, Split
from lift_core.regularizers import L2, Strength
from problems.exact import implicit_hypergradient

_BATCH_SIZES = (3, 2)


class Quadratic(BilevelProblem):
    """``F = mean_i ½ (θ − a_i)ᵀ P (θ − a_i) + cᵀλ``,  ``L_train = ½ θᵀQθ − mean_i b_iᵀθ``,  L2 over groups of weights.

    A batch is the pair of rows ``(a_i, b_i)``; every split draws its own around a common centre.

    Args:
        num_weights, num_hyper: n and p; the weights are cut into p groups of nearly equal size.
        condition: condition number of P and Q.
        indefinite: give every second eigenvalue of Q the other sign; the lower level then has a stationary point only.
        hyper_cost: draw c instead of c = 0, so that λ enters F directly.
        strength: how λ enters the regulariser.
        seed: of everything that is drawn.

    >>> problem = Quadratic(num_weights=4, num_hyper=2)
    >>> point = problem.initial_point()
    >>> bool(problem.lower_gradient(point).norm() < 1e-12)
    True
    """

    name: ClassVar[str] = "quadratic"

    def __init__(
        self,
        *,
        num_weights: int = 6,
        num_hyper: int = 3,
        condition: float = 10.0,
        indefinite: bool = False,
        hyper_cost: bool = False,
        strength: Strength = "log",
        seed: int = 0,
    ) -> None:
        if not 0 <= num_hyper <= num_weights or num_weights < 1:
            raise ValueError(f"num_hyper: expected 0 to num_weights={num_weights} (at least 1), got {num_hyper}")
        if not 1 <= condition < math.inf:
            raise ValueError(f"condition: expected a finite number of at least 1, got {condition}")
        self._options = f"condition {condition}, indefinite {indefinite}, hyper_cost {hyper_cost}, seed {seed}"
        generator = torch.Generator().manual_seed(seed)
        spectrum = torch.logspace(0, 1, num_weights, base=condition, dtype=torch.float64) / condition
        self.P: Float64[Tensor, "n n"] = _symmetric(spectrum, generator)
        self.indefinite = indefinite
        if indefinite:
            spectrum[num_weights % 2 :: 2] *= -1  # never the last, 1: with a strength of 1 it would be singular
        self.Q: Float64[Tensor, "n n"] = _symmetric(spectrum, generator)
        self.hyper_cost = _normal(num_hyper, generator=generator) if hyper_cost else torch.zeros(num_hyper).double()
        centre = _normal(2, num_weights, generator=generator)
        self._batches: dict[Split, list[Batch]] = {
            split: [
                tuple(centre[:, None] + 0.3 * _normal(2, size, num_weights, generator=generator))
                for size in _BATCH_SIZES
            ]
            for split in get_args(Split)
        }
        self._name_groups(num_weights, num_hyper, strength)

    def _name_groups(self, n: int, p: int, strength: Strength) -> None:
        edges = [i * n // max(p, 1) for i in range(max(p, 1) + 1)]
        self.groups = {f"group{j}": slice(*pair) for j, pair in enumerate(pairwise(edges))}
        group_of = torch.full((n,), -1)
        for j in range(p):
            group_of[edges[j] : edges[j + 1]] = j
        self.regularizer = L2(group_of, num_hyper=p, strength=strength)
        self.hyper_names = tuple(f"strength.group{j}" for j in range(p))
        low, high = (-6.0, 6.0) if strength == "log" else (0.0, 400.0)
        self.hyper_lower = torch.full((p,), low, dtype=torch.float64)
        self.hyper_upper = torch.full((p,), high, dtype=torch.float64)

    # -- the description ----------------------------------------------------------------------------------------

    def initial_point(self) -> Point:
        """Strength 1 for every group, and the weights that solve the lower level there."""
        assert self.regularizer is not None
        start = 0.0 if self.regularizer.strength == "log" else 1.0
        hyper = torch.full((self.regularizer.num_hyper,), start, dtype=torch.float64)
        return Point(hyper, self.lower_solution(hyper))

    def batches(self, split: Split) -> Sequence[Batch]:
        return self._batches[split]

    def upper_loss(self, hyper: Tensor, weights: Tensor, batch: Batch) -> Tensor:
        off = weights - batch[0]
        return ((off @ self.P) * off).sum(1).mean() / 2 + self.hyper_cost @ hyper

    def training_loss(self, hyper: Tensor, weights: Tensor, batch: Batch) -> Tensor:
        return self.output_loss(hyper, weights, batch)

    def outputs(self, weights: Tensor, batch: Batch) -> Tensor:
        """The weights themselves.

        Raises:
            TypeError: if Q is indefinite, because the loss is then not convex in any outputs.
        """
        if self.indefinite:
            raise TypeError("Quadratic(indefinite=True) has no Gauss-Newton matrix: its training loss is not convex")
        return weights

    def output_loss(self, hyper: Tensor, outputs: Tensor, batch: Batch) -> Tensor:
        return outputs @ self.Q @ outputs / 2 - batch[1].mean(0) @ outputs

    def describe(self) -> str:
        return f"{super().describe()}, {self._options}"

    # -- closed forms -------------------------------------------------------------------------------------------

    def upper_gradient(self, point: Point, split: Split = "direction") -> tuple[Tensor, Tensor]:
        return self.hyper_cost, self.P @ (point.weights - _mean_rows(self.batches(split), 0))

    def training_gradient(self, point: Point, batches: Sequence[Batch] | None = None) -> Tensor:
        chosen = self.batches("train") if batches is None else batches
        return self.Q @ point.weights - _mean_rows(chosen, 1)

    def training_hessian(self, point: Point, batches: Sequence[Batch] | None = None) -> LinearOperator:
        return Dense(self.Q)

    def training_gauss_newton(self, point: Point, batches: Sequence[Batch] | None = None) -> LinearOperator:
        self.outputs(point.weights, self.batches("train")[0])  # refuses an indefinite Q
        return Dense(self.Q)

    def lower_solution(self, hyper: Float64[Tensor, " p"]) -> Float64[Tensor, " n"]:
        """``θ(λ) = (Q + diag w(λ))⁻¹ mean b``: where the lower gradient is zero."""
        assert self.regularizer is not None
        mean = _mean_rows(self.batches("train"), 1)
        return torch.linalg.solve(self.Q + self.regularizer.hessian(hyper, mean).to_dense(), mean)

    def implicit_hypergradient(self, point: Point, split: Split = "direction") -> Float64[Tensor, " p"]:
        """``h = g_λ − Jᵀ H⁻¹ g``, exactly."""
        return implicit_hypergradient(self, point, split)


def _mean_rows(batches: Sequence[Batch], part: int) -> Tensor:
    return torch.cat([batch[part] for batch in batches]).mean(0)


def _normal(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def _symmetric(spectrum: Float64[Tensor, " n"], generator: torch.Generator) -> Float64[Tensor, "n n"]:
    basis = torch.linalg.qr(_normal(len(spectrum), len(spectrum), generator=generator))[0]
    matrix = (basis * spectrum) @ basis.T
    return (matrix + matrix.T) / 2
