"""The data sets that scikit-learn bundles, as float64 tensors, and seeded splits of them.

scikit-learn is imported only when a table is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from lift_core.problem import Split


class Table(NamedTuple):
    """Inputs, targets (float64 values, or int64 classes) and the names of the input columns."""

    inputs: Float64[Tensor, "samples features"]
    targets: Tensor
    feature_names: tuple[str, ...]


def diabetes() -> Table:
    """442 patients, 10 features; the target is disease progression after a year."""
    from sklearn.datasets import load_diabetes

    return _table(load_diabetes(scaled=False), np.float64)


def breast_cancer() -> Table:
    """569 tumours, 30 features in three families (mean, error, worst); the target is 0 or 1."""
    from sklearn.datasets import load_breast_cancer

    return _table(load_breast_cancer(), np.float64)


def digits() -> Table:
    """1,797 images of 8 x 8 pixels scaled to [0, 1]; the target is the digit."""
    from sklearn.datasets import load_digits

    table = _table(load_digits(), np.int64)
    return table._replace(inputs=table.inputs / 16)


def random_splits(num_samples: int, sizes: Mapping[Split, int], *, seed: int) -> dict[Split, Int64[Tensor, " size"]]:
    """Disjoint random index sets; the test split gets what ``sizes`` (of the other three) leaves over.

    Raises:
        ValueError: if a split would be empty.
    """
    order = torch.randperm(num_samples, generator=torch.Generator().manual_seed(seed))
    named: list[Split] = ["train", "direction", "selection"]
    counts = [sizes[split] for split in named]
    counts.append(num_samples - sum(counts))
    if min(counts) < 1:
        raise ValueError(
            f"sizes: every split needs at least one of the {num_samples} samples, got "
            + ", ".join(f"{split} {count}" for split, count in zip(get_args(Split), counts, strict=True))
        )
    return dict(zip(get_args(Split), order.split(counts), strict=True))


def standardize(values: Float64[Tensor, "samples ..."], training: Int64[Tensor, " size"]) -> Tensor:
    """Zero mean and unit variance **on the training samples**; constant columns are only centred."""
    mean, scale = values[training].mean(0), values[training].std(0, correction=0)
    return (values - mean) / torch.where(scale > 0, scale, 1.0)


def _table(bunch: Any, target_dtype: type[np.generic]) -> Table:
    return Table(
        torch.from_numpy(np.asarray(bunch.data, dtype=np.float64)),
        torch.from_numpy(np.asarray(bunch.target, dtype=target_dtype)),
        tuple(str(name) for name in bunch.feature_names),
    )
