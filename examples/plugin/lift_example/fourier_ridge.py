"""Fit a noisy curve with sines and cosines, and learn how strongly to damp each frequency."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lift_core import L2, Batch, BilevelProblem, Point, Split


class FourierRidge(BilevelProblem):
    """Half squared error of ``Σ_k a_k cos(kx) + b_k sin(kx)``, with one L2 strength per frequency k.

    Args:
        num_frequencies: K; there are 2 K weights and K hyperparameters.
        num_samples: points per split.
        noise: standard deviation of the observations around ``sin(x) + cos(2x) / 2``.
        seed: of the points and the noise.
    """

    name = "fourier_ridge"

    def __init__(self, *, num_frequencies: int = 8, num_samples: int = 20, noise: float = 0.3, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._frequencies = torch.arange(1, num_frequencies + 1).double()
        self._batches: dict[Split, list[Batch]] = {}
        for split in ("train", "direction", "selection", "test"):
            x = 6.3 * torch.rand(num_samples, generator=generator, dtype=torch.float64)
            y = x.sin() + (2 * x).cos() / 2
            y += noise * torch.randn(num_samples, generator=generator, dtype=torch.float64)
            self._batches[split] = [(self._features(x), y)]
        self.hyper_names = tuple(f"strength.frequency{k}" for k in range(1, num_frequencies + 1))
        self.hyper_lower = torch.full((num_frequencies,), -12.0, dtype=torch.float64)
        self.hyper_upper = torch.full((num_frequencies,), 6.0, dtype=torch.float64)
        self.groups = {f"frequency{k}": slice(2 * k - 2, 2 * k) for k in range(1, num_frequencies + 1)}
        self.regularizer = L2(
            torch.arange(num_frequencies).repeat_interleave(2), num_hyper=num_frequencies, strength="log"
        )

    def initial_point(self) -> Point:
        p = len(self.hyper_names)
        return Point(torch.full((p,), -5.0).double(), torch.zeros(2 * p).double())

    def batches(self, split: Split) -> Sequence[Batch]:
        return self._batches[split]

    def upper_loss(self, hyper: Tensor, weights: Tensor, batch: Batch) -> Tensor:
        features, y = batch
        return (features @ weights - y).square().mean() / 2

    def _features(self, x: Tensor) -> Tensor:
        angles = x[:, None] * self._frequencies
        return torch.stack([angles.cos(), angles.sin()], dim=2).flatten(1)
