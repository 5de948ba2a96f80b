"""Curvature from gradients along the warm-up."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from lift_core.curvature.model import Budget, Curvature, CurvatureModel, CurvatureView, Definiteness, make_definite
from lift_core.operators import LowRankPlusDiagonal
from lift_core.problem import Point


@dataclass(frozen=True, kw_only=True)
class SR1(CurvatureModel):
    """Symmetric rank-one updates of σI from gradient differences along the warm-up, in factored form.

        B ← B + (y − Bs)(y − Bs)ᵀ / (y − Bs)ᵀs,      s = Δθ,  y = Δ∇L_train,

    a pair being skipped where ``|(y − Bs)ᵀs| < skip ‖y − Bs‖ ‖s‖``. σ is ``sᵀy / sᵀs`` of the newest pair, at least 0.
    A point that is the same as the next one, as the last snapshot of a training without averaging is, makes no pair.

    Attributes:
        memory: pairs that are used at most, the newest.
        skip: threshold of the skip rule.

    Reference: Nocedal & Wright (2006), Numerical optimization, section 6.2.
    """

    name: ClassVar[str] = "sr1"
    uses_products: ClassVar[bool] = False
    memory: int = 10
    skip: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory < 1:
            raise ValueError(f"memory: expected at least one pair, got {self.memory}")

    @property
    def num_snapshots(self) -> int:
        return self.memory

    def budget(self, n: int) -> Budget:
        """Points, gradients, their differences, updates, and the orthonormal basis of these twice."""
        return Budget(num_gradients=self.memory + 1, num_bytes=8 * 8 * n * (self.memory + 1))

    def data_curvature(self, view: CurvatureView) -> Curvature:
        points = _without_repeats([*view.snapshots, view.point.weights])[-self.memory - 1 :]
        if len(points) < 2:
            raise ValueError(
                "snapshots: SR1 needs at least one earlier point; warm up for some epochs, or pass snapshots"
            )
        gradients = [view.problem.training_gradient(Point(view.point.hyper, w), view.batches) for w in points]
        pairs = [(points[i + 1] - points[i], gradients[i + 1] - gradients[i]) for i in range(len(points) - 1)]
        newest_s, newest_y = pairs[-1]
        sigma = max(0.0, float(newest_s @ newest_y / newest_s.square().sum().clamp(min=1e-300)))
        columns, core = self._updates(pairs, sigma)
        hessian, smallest, largest = _from_factor(columns, core, sigma, self.definiteness)
        return Curvature(hessian, smallest, largest, sigma, num_gradients=len(points))

    def _updates(self, pairs: list[tuple[Tensor, Tensor]], sigma: float) -> tuple[Tensor, Tensor]:
        columns = pairs[0][0].new_zeros(len(pairs), len(pairs[0][0]))
        core = columns.new_zeros(len(pairs))
        count = 0
        for s, y in pairs:
            seen = columns[:count]
            missing = y - sigma * s - seen.T @ (core[:count] * (seen @ s))
            denominator = missing @ s
            if abs(denominator) > self.skip * missing.norm() * s.norm():
                columns[count] = missing / missing.norm()
                core[count] = missing.square().sum() / denominator
                count += 1
        return columns[:count].T, core[:count]


def _without_repeats(points: list[Tensor]) -> list[Tensor]:
    """Without those that are equal to the one after them."""
    return [here for here, after in pairwise(points) if not torch.equal(here, after)] + points[-1:]


def _from_factor(
    factor: Tensor, core: Tensor, sigma: float, definiteness: Definiteness
) -> tuple[LowRankPlusDiagonal, float, float]:
    """``σI + V C Vᵀ`` for any V: orthonormalised, so that definiteness can act on true eigenvalues."""
    if not len(core):
        return (
            LowRankPlusDiagonal(diagonal=factor.new_full((len(factor),), sigma), factor=factor, core=core),
            sigma,
            sigma,
        )
    orthonormal, triangle = torch.linalg.qr(factor)
    shifts, rotation = torch.linalg.eigh(triangle @ torch.diag(core) @ triangle.T)
    values = shifts + sigma
    built = LowRankPlusDiagonal(
        diagonal=factor.new_full((len(factor),), sigma),
        factor=orthonormal @ rotation,
        core=make_definite(values, definiteness) - sigma,
    )
    return built, min(sigma, float(values[0])), max(sigma, float(values[-1]))
