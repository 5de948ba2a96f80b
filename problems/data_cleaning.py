"""Hyper-data-cleaning: one weight per training sample finds the wrong labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, get_args

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn.functional import cross_entropy

from lift_core.operators import Dense, LinearOperator
from lift_core.problem import Batch, BilevelProblem, Point, Split
from problems.sklearn_data import digits, random_splits

_CLASSES = 10


class DataCleaning(BilevelProblem):
    """``L_train = mean_i sigmoid(λ_i) ℓ_i(θ) + ½ ridge ‖θ‖²`` on digits, some of whose training labels are random.

    ℓ is the cross-entropy of a linear softmax classifier (n = 650); F is the plain mean of ℓ over clean samples. Where
    training takes in other splits, their samples are clean and weigh one.

    Args:
        num_train: training samples, and hyperparameters.
        num_validation: samples in direction and selection together, half each; the rest is the test split.
        corrupted_share: share of the training labels that are replaced by random ones.
        ridge: fixed strength that keeps the lower level strongly convex.
        seed: of the split and of the labels.

    Attributes:
        corrupted: which training samples got a random label.

    Reference: Franceschi et al. (2017), Forward and reverse gradient-based hyperparameter optimization, section 5.1.

    >>> problem = DataCleaning(num_train=20, num_validation=10)
    >>> len(problem.hyper_names), int(problem.corrupted.sum())
    (20, 10)
    """

    name: ClassVar[str] = "data_cleaning"
    hyper_in_training = True

    def __init__(
        self,
        *,
        num_train: int = 500,
        num_validation: int = 400,
        corrupted_share: float = 0.5,
        ridge: float = 1e-3,
        seed: int = 0,
    ) -> None:
        if not 0 <= corrupted_share <= 1:
            raise ValueError(f"corrupted_share: expected a number from 0 to 1, got {corrupted_share}")
        if not ridge >= 0:
            raise ValueError(f"ridge: expected a number of at least 0, got {ridge}")
        self.ridge = ridge
        self._options = f"corrupted share {corrupted_share}, ridge {ridge}, seed {seed}"
        table = digits()
        half = num_validation // 2
        sizes: dict[Split, int] = {"train": num_train, "direction": half, "selection": num_validation - half}
        splits = random_splits(len(table.inputs), sizes, seed=seed)
        labels = table.targets.clone()
        generator = torch.Generator().manual_seed(seed + 1)
        random_labels = torch.randint(_CLASSES, (num_train,), generator=generator)
        rank = torch.randperm(num_train, generator=generator)
        self.corrupted: Bool[Tensor, " p"] = rank < round(corrupted_share * num_train)
        train = splits["train"]
        labels[train] = torch.where(self.corrupted, random_labels, labels[train])
        inputs = torch.cat([table.inputs, torch.ones(len(labels), 1, dtype=torch.float64)], 1)
        self._num_inputs = inputs.shape[1]
        self._batches: dict[Split, list[Batch]] = {}
        for split, index in splits.items():
            samples = torch.arange(num_train) if split == "train" else torch.full_like(index, num_train)
            self._batches[split] = [(inputs[index], labels[index], samples)]
        self.hyper_names = tuple(f"sample{i}" for i in range(num_train))
        self.hyper_lower = torch.full((num_train,), -10.0, dtype=torch.float64)
        self.hyper_upper = torch.full((num_train,), 10.0, dtype=torch.float64)
        pixels = (self._num_inputs - 1) * _CLASSES
        self.groups = {"weight": slice(0, pixels), "bias": slice(pixels, pixels + _CLASSES)}

    def initial_point(self) -> Point:
        """Every sample weighs one half, and the classifier is zero."""
        n = self._num_inputs * _CLASSES
        return Point(torch.zeros(len(self.hyper_names)).double(), torch.zeros(n).double())

    def batches(self, split: Split) -> Sequence[Batch]:
        return self._batches[split]

    def upper_loss(self, hyper: Tensor, weights: Tensor, batch: Batch) -> Tensor:
        return cross_entropy(self._logits(weights, batch), batch[1])

    def training_loss(self, hyper: Tensor, weights: Tensor, batch: Batch) -> Tensor:
        return self.output_loss(hyper, self.outputs(weights, batch), batch)

    def outputs(self, weights: Tensor, batch: Batch) -> Tensor:
        """The logits, followed by the weights: the fixed ridge is a squared loss of the latter."""
        return torch.cat([self._logits(weights, batch).flatten(), weights])

    def output_loss(self, hyper: Tensor, outputs: Tensor, batch: Batch) -> Tensor:
        _, labels, samples = batch
        logits, weights = outputs.split([len(labels) * _CLASSES, self._num_inputs * _CLASSES])
        losses = cross_entropy(logits.view(-1, _CLASSES), labels, reduction="none")
        weights_of = torch.cat([hyper.sigmoid(), hyper.new_ones(1)])  # the last one is that of the other splits
        return (weights_of[samples] * losses).mean() + self.ridge / 2 * (weights @ weights)

    def describe(self) -> str:
        sizes = [self.num_examples(split) for split in get_args(Split)]
        return f"{super().describe()}, split {sizes}, {self._options}"

    @property
    def mixed_passes(self) -> float:
        """One: `training_mixed` passes over the samples once."""
        return 1.0

    def training_mixed(self, point: Point) -> LinearOperator:
        """Column i is ``sigmoid'(λ_i) ∇ℓ_i(θ) / N``, ∇ℓ_i an outer product of inputs and probability errors."""
        inputs, labels, _ = self.batches("train")[0]
        errors = self._logits(point.weights, (inputs,)).softmax(1)
        errors[torch.arange(len(labels)), labels] -= 1
        share = point.hyper.sigmoid()
        errors *= (share * (1 - share) / len(labels))[:, None]
        return Dense((inputs[:, :, None] * errors[:, None, :]).flatten(1).T)

    def _logits(self, weights: Tensor, batch: Batch) -> Tensor:
        return batch[0] @ weights.view(self._num_inputs, _CLASSES)
