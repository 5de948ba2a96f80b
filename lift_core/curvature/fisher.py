"""Curvature from gradients of single examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lift_core.curvature.model import Budget, Curvature, CurvatureModel, CurvatureView
from lift_core.operators import LowRankPlusDiagonal


@dataclass(frozen=True, kw_only=True)
class Fisher(CurvatureModel):
    """``G Gᵀ``, column i being ``sqrt(N_i² / N) ∇ℓ_i``, with labels drawn from the model: its Fisher information.

    ℓ_i is the mean loss of example i (a sequence, say) over its N_i terms and N is their sum over the examples used. As
    the labels are drawn, the cross terms within an example vanish in expectation, and ``G Gᵀ`` estimates the
    Gauss-Newton matrix of the training loss from one pass over ``samples`` examples. Its ``rank`` leading eigenpairs
    are kept; the trace of the others is spread evenly.

    Attributes:
        samples: examples, taken in order from the chosen batches; fewer if there are fewer.
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
        """The gradients (half as much where they are float32) and the eigenvectors kept, twice."""
        return Budget(num_gradients=1, num_bytes=8 * n * (self.samples + 2 * min(self.rank, self.samples)))

    def data_curvature(self, view: CurvatureView) -> Curvature:
        rows, sizes = self._gradients(view)
        scale = sizes / sizes.sum().sqrt()
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
        return Curvature(built, smallest, float(values[-1]), sigma, num_gradients=1)

    def _gradients(self, view: CurvatureView) -> tuple[Tensor, Tensor]:
        """Gradients of single examples, (samples, n), and the size of each."""
        rows: list[Tensor] = []
        sizes: list[int] = []
        for batch in view.batches:
            wanted = self.samples - len(sizes)
            if wanted <= 0:
                break
            drawn = view.problem.sampled(view.point, batch, view.generator)
            gradients, counts = view.problem.example_gradients(view.point, drawn, limit=wanted)
            rows.append(gradients)
            sizes.extend(counts)
        return torch.cat(rows), torch.tensor(sizes, dtype=torch.float64, device=rows[0].device)
