"""The leading curvature of a Krylov space, and something simple for the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lift_core.curvature.model import Budget, Curvature, CurvatureModel, CurvatureView, make_definite
from lift_core.krylov import block_lanczos, complement_probes
from lift_core.operators import LowRankPlusDiagonal


@dataclass(frozen=True, kw_only=True)
class LowRank(CurvatureModel):
    """``V Θ Vᵀ + D``: Ritz pairs of a Lanczos process started at ∇_θ F, and a diagonal D for the rest.

    D is one value, ``σ (I - V Vᵀ)`` with the mean curvature of the complement by random probes; or one value per group
    of weights; or one per weight. With random signs z, ``E[z ∘ (H - V Θ Vᵀ) z]`` is the diagonal of what is left over.

    Attributes:
        rank: size of the Krylov space, one Hessian product for each dimension.
        bulk: ``"trace"`` (one σ), ``"groups"`` (one per group), ``"diagonal"`` (one per weight), or a number for σ.
        num_probes: products for the estimate of the bulk.
        block: products that are formed at once; the Krylov space starts from ∇_θ F and ``block - 1`` random vectors.

    Reference: Golub & Van Loan (2013), section 10.3 (block Lanczos, full reorthogonalisation); Hutchinson (1990).
    """

    name: ClassVar[str] = "low_rank"
    rank: int = 64
    bulk: Literal["trace", "groups", "diagonal"] | float = "trace"
    num_probes: int = 8
    block: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rank", "num_probes", "block"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a positive number, got {getattr(self, name)}")
        number = isinstance(self.bulk, (int, float)) and 0 <= self.bulk < math.inf
        if self.bulk not in ("trace", "groups", "diagonal") and not number:
            raise ValueError(
                f"bulk: expected 'trace', 'groups', 'diagonal' or a number of at least 0, got {self.bulk!r}"
            )

    def budget(self, n: int) -> Budget:
        """The Krylov basis, its rotation into Ritz vectors, a block or the probes with their images, a few vectors."""
        rank, probes = min(self.rank, n), 0 if self._known_bulk else self.num_probes
        vectors = 2 * rank + max(7 * self.block, 4 * probes) + 8
        return Budget(num_hvps=rank + probes, num_bytes=8 * n * vectors)

    def data_curvature(self, view: CurvatureView) -> Curvature:
        hessian = view.problem.training_hessian(view.point, view.batches)
        n = len(view.start)
        space = block_lanczos(hessian, view.start, min(self.rank, n), view.generator, block=self.block)
        vectors, values = space.vectors, make_definite(space.values, self.definiteness)
        if self._known_bulk:
            rest, sigma, error, probes = torch.full_like(view.start, float(self.bulk)), float(self.bulk), None, 0
        else:
            signs, products = complement_probes(hessian, vectors, [view.probe() for _ in range(self.num_probes)])
            sizes = signs.square().sum(0)
            means = (signs * products).sum(0) / sizes.clamp(min=1e-300)
            sigma, probes = float((means * sizes).sum() / sizes.sum().clamp(min=1e-300)), self.num_probes
            error = float(means.std() / math.sqrt(probes)) if probes > 1 else None
            rest = self._rest(view, (signs * products).mean(1), sigma)
        rest = make_definite(rest, self.definiteness)
        core = values - rest[0] if self.bulk in ("trace",) or self._known_bulk else values
        return Curvature(
            LowRankPlusDiagonal(diagonal=rest, factor=vectors, core=core),
            float(space.values.min()),
            float(space.values.max()),
            sigma,
            bulk_error=error,
            ritz_residuals=space.residuals.flip(0),
            num_hvps=len(values) + (probes if len(values) < n else 0),  # nothing is left over, and nothing multiplied
        )

    @property
    def _known_bulk(self) -> bool:
        return not isinstance(self.bulk, str)

    def _rest(self, view: CurvatureView, left_over: Tensor, sigma: float) -> Tensor:
        """D, from an estimate of the diagonal of ``H - V Θ Vᵀ``."""
        if self.bulk == "trace":
            return torch.full_like(view.start, sigma)
        if self.bulk == "diagonal":
            return left_over
        rest = torch.empty_like(left_over)
        for part in view.problem.groups.values():
            rest[part] = left_over[part].mean()
        return rest
