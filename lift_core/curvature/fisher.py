"""Curvature from gradients of single examples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lift_core.curvature.model import Budget, Curvature, CurvatureModel, CurvatureView
from lift_core.operators import LowRankPlusDiagonal


@dataclass(frozen=True, kw_only=True)
class Fisher(CurvatureModel):
    """``G Gᵀ``, its columns ``sqrt(N_i² / (m_i N)) ∇ℓ_i`` with labels drawn from the model: its Fisher information.

    ℓ_i is the mean loss of example i (a sequence, say) over its N_i terms, m_i says how many times its labels are
    drawn, each time for a column of its own, and N is the sum of the N_i over the examples used. As the labels are
    drawn, the cross terms within an example vanish in expectation, and ``G Gᵀ`` is an unbiased estimate of the
    Gauss-Newton matrix of the training loss on these examples. Its ``rank`` leading eigenpairs are kept; the trace of
    the others is spread evenly.

    Attributes:
        samples: columns, one gradient of one example each. Examples are taken in order from the chosen batches; where
            there are fewer than ``samples``, in several rounds, the last of which may end early. Further rounds reduce
            the noise of the labels, not that of having few examples; where `BilevelProblem.sampled` leaves nothing to
            chance, they repeat the columns and change nothing.
        rank: eigenpairs that are kept.

    Reference: Martens (2020), New insights and perspectives on the natural gradient method, sections 5 and 9.
    """

    name: ClassVar[str] = "fisher"
    uses_products: ClassVar[bool] = False
    samples: int = 400
    rank: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("samples", "rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a positive number, got {getattr(self, name)}")

    def budget(self, n: int) -> Budget:
        """The gradients (half as much where they are float32), twice while they are put together, or beside the
        eigenvectors kept, twice; one round's passes.
        """
        vectors = max(2 * self.samples, self.samples + 2 * min(self.rank, self.samples))
        return Budget(num_gradients=1, num_bytes=8 * n * vectors)

    def data_curvature(self, view: CurvatureView) -> Curvature:
        rows, scale, passes = self._columns(view)
        gram = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
        for part in rows.split(1 << 16, dim=1):  # summed in float64, a stretch of weights at a time
            gram.addmm_(part.double(), part.double().T)
        values, rotation = torch.linalg.eigh(scale[:, None] * gram * scale)
        kept = min(self.rank, int((values > 1e-12 * values[-1].clamp(min=1e-300)).sum()))
        top = values[len(values) - kept :]
        n = rows.shape[1]
        sigma = float(values[: len(values) - kept].clamp(min=0).sum() / max(1, n - kept))
        weights = scale[:, None] * rotation[:, len(values) - kept :] / top.sqrt()
        factor = torch.cat([part.T.double() @ weights for part in rows.split(1 << 16, dim=1)])
        built = LowRankPlusDiagonal(
            diagonal=torch.full((n,), sigma, dtype=torch.float64, device=rows.device), factor=factor, core=top - sigma
        )
        smallest = float(top[0]) if kept else 0.0
        return Curvature(built, smallest, float(values[-1]), sigma, num_gradients=passes)

    def _columns(self, view: CurvatureView) -> tuple[Tensor, Tensor, float]:
        """Gradients (samples, n), the factor of each that makes it a column of G, and the passes that they took."""
        rows, sizes = self._round(view, self.samples)
        examples = len(sizes)
        rounds = math.ceil(self.samples / examples)
        limits = [min(examples, self.samples - begun * examples) for begun in range(1, rounds)]
        drawn = [rows, *(self._round(view, limit)[0] for limit in limits)]
        times = [math.ceil((self.samples - place) / examples) for place in range(examples)]
        one = torch.tensor(sizes, dtype=torch.float64, device=rows.device)
        one = one / (one.sum() * torch.tensor(times).to(one)).sqrt()
        passes = sum(t * size for t, size in zip(times, sizes, strict=True))
        passes /= sum(map(view.problem.batch_size, view.batches))
        return torch.cat(drawn), one.repeat(rounds)[: self.samples], passes

    def _round(self, view: CurvatureView, limit: int) -> tuple[Tensor, list[int]]:
        """Gradients of the first ``limit`` examples, labels drawn anew, and the size of each example."""
        rows: list[Tensor] = []
        sizes: list[int] = []
        for batch in view.batches:
            if len(sizes) >= limit:
                break
            drawn = view.problem.sampled(view.point, batch, view.generator)
            gradients, counts = view.problem.example_gradients(view.point, drawn, limit=limit - len(sizes))
            rows.append(gradients)
            sizes.extend(counts)
        return torch.cat(rows), sizes
