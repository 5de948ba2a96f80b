"""A diagonal in place of the Hessian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from lift_core.curvature.model import Budget, Curvature, CurvatureModel, CurvatureView, make_definite
from lift_core.operators import Diagonal


@dataclass(frozen=True, kw_only=True)
class HessianDiagonal(CurvatureModel):
    """A diagonal: ``mean(z ⊙ Hz)`` over random signs z (Hutchinson), or mean squared gradients of the batches.

    Attributes:
        method: ``"hutchinson"``, or ``"squared_gradients"``: Σ_b (N_b² / N) g_b², an empirical Fisher by batch.
        num_probes: random sign vectors for Hutchinson.

    Reference: Bekas, Kokiopoulou, Saad (2007), An estimator for the diagonal of a matrix.
    """

    name: ClassVar[str] = "diagonal"
    method: Literal["hutchinson", "squared_gradients"] = "hutchinson"
    num_probes: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in ("hutchinson", "squared_gradients"):
            raise ValueError(f"method: expected 'hutchinson' or 'squared_gradients', got {self.method!r}")
        if self.num_probes < 1:
            raise ValueError(f"num_probes: expected a positive number, got {self.num_probes}")

    def budget(self, n: int) -> Budget:
        if self.method == "squared_gradients":
            return Budget(num_gradients=1, num_bytes=3 * 8 * n)
        return Budget(num_hvps=self.num_probes, num_bytes=4 * 8 * n)

    def data_curvature(self, view: CurvatureView) -> Curvature:
        estimate = torch.zeros_like(view.point.weights)
        if self.method == "squared_gradients":
            sizes = [view.problem.batch_size(batch) for batch in view.batches]
            for batch, size in zip(view.batches, sizes, strict=True):
                estimate += size**2 / sum(sizes) * view.problem.training_gradient(view.point, [batch]).square()
        else:
            hessian = view.problem.training_hessian(view.point, view.batches)
            for _ in range(self.num_probes):
                sign = view.probe()
                estimate += sign * hessian.matvec(sign) / self.num_probes
        definite, spent = make_definite(estimate, self.definiteness), self.budget(len(estimate))
        return Curvature(
            Diagonal(definite),
            float(estimate.min()),
            float(estimate.max()),
            num_hvps=spent.num_hvps,
            num_gradients=spent.num_gradients,
        )
