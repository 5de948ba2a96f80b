"""Ridge and logistic regression on scikit-learn's bundled tables, one strength per feature or group of features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from lift_core.operators import Dense, LinearOperator
from lift_core.problem import Batch, BilevelProblem, Point, Split
from lift_core.regularizers import L2
from problems.exact import implicit_hypergradient, newton_solution
from problems.sklearn_data import breast_cancer, diabetes, random_splits, standardize

Task = Literal["ridge", "logistic"]
Per = Literal["feature", "group"]
Start = Literal["solution", "zero"]

_DIABETES_GROUPS = {"age": "person", "sex": "person", "bmi": "body", "bp": "body"}  # the rest is blood serum


class Regression(BilevelProblem):
    """Linear model with ``½ Σ_j exp(λ_j) ‖θ_(j)‖²``: squared error on diabetes, or logistic loss on breast_cancer.

    Inputs (and ridge's target) are standardised with training statistics. The last weight is a free intercept.
    The samples are split at random: ``train_share`` for training, the rest in thirds for direction, selection and test.

    Args:
        task: ``"ridge"`` (442 x 10) or ``"logistic"`` (569 x 30).
        per: one strength per ``"feature"``, or per ``"group"`` of features that belong together.
        num_noise_features: standard normal columns added to the inputs; by default 0 for ridge, 30 for logistic.
        train_share: share of the samples that train the model.
        initial_strength: where every strength starts.
        start: weights to start from: the ``"solution"`` of the lower level there, which a warm-up cannot improve, or
            ``"zero"``.
        seed: of the split and of the noise features.

    >>> problem = Regression()
    >>> point = problem.initial_point()
    >>> len(point.hyper), len(point.weights), problem.num_examples("train")
    (10, 11, 220)
    """

    name: ClassVar[str] = "regression"

    def __init__(
        self,
        *,
        task: Task = "ridge",
        per: Per = "feature",
        num_noise_features: int | None = None,
        train_share: float = 0.5,
        initial_strength: float = 1e-2,
        start: Start = "solution",
        seed: int = 0,
    ) -> None:
        for name, value, known in (
            ("task", task, get_args(Task)), ("per", per, get_args(Per)), ("start", start, get_args(Start)),
        ):  # fmt: skip
            if value not in known:
                raise ValueError(f"{name}: expected one of {known}, got {value!r}")
        if not initial_strength > 0:
            raise ValueError(f"initial_strength: expected a positive number, got {initial_strength}")
        if not 0 < train_share < 1:
            raise ValueError(f"train_share: expected a number between 0 and 1, got {train_share}")
        if num_noise_features is not None and num_noise_features < 0:
            raise ValueError(f"num_noise_features: expected at least 0, got {num_noise_features}")
        self.task, self.initial_strength, self.start = task, initial_strength, start
        self._options = (
            f"{task} per {per}, {train_share} for training, initial strength {initial_strength}, seed {seed}"
            + ("" if start == "solution" else f", start {start}")
        )
        if num_noise_features is None:
            num_noise_features = 30 if task == "logistic" else 0
        features = self._read(num_noise_features, train_share, seed)
        owners = features if per == "feature" else [_group(task, feature) for feature in features]
        hyper = list(dict.fromkeys(owners))
        self.hyper_names = tuple(f"strength.{name}" for name in hyper)
        self.hyper_lower = torch.full((len(hyper),), -12.0, dtype=torch.float64)
        self.hyper_upper = torch.full((len(hyper),), 6.0, dtype=torch.float64)
        self.groups = {name: slice(i, i + 1) for i, name in enumerate([*features, "intercept"])}
        self.regularizer = L2([*(hyper.index(owner) for owner in owners), -1], num_hyper=len(hyper))

    def _read(self, num_noise_features: int, train_share: float, seed: int) -> list[str]:
        """Fill the splits; the names of the features."""
        table = diabetes() if self.task == "ridge" else breast_cancer()
        num = len(table.inputs)
        held_out = round((1 - train_share) * num / 3)
        sizes: dict[Split, int] = {"train": num - 3 * held_out, "direction": held_out, "selection": held_out}
        splits = random_splits(num, sizes, seed=seed)
        noise = torch.randn(
            num, num_noise_features, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1)
        )
        inputs = standardize(torch.cat([table.inputs, noise], 1), splits["train"])
        inputs = torch.cat([inputs, torch.ones(num, 1, dtype=torch.float64)], 1)
        targets = standardize(table.targets, splits["train"]) if self.task == "ridge" else table.targets
        self._batches: dict[Split, list[Batch]] = {
            split: [(inputs[index], targets[index])] for split, index in splits.items()
        }
        return [*(name.replace(" ", "_") for name in table.feature_names), *_noise_names(num_noise_features)]

    # -- the description ----------------------------------------------------------------------------------------

    def initial_point(self) -> Point:
        """Every strength at ``initial_strength``, and the weights that minimise the lower loss there, or zeros."""
        hyper = torch.full((len(self.hyper_names),), self.initial_strength, dtype=torch.float64).log()
        if self.start == "zero":
            return Point(hyper, torch.zeros(len(self.groups), dtype=torch.float64))
        return Point(hyper, self.lower_solution(hyper))

    def batches(self, split: Split) -> Sequence[Batch]:
        return self._batches[split]

    def upper_loss(self, hyper: Tensor, weights: Tensor, batch: Batch) -> Tensor:
        return self.output_loss(hyper, self.outputs(weights, batch), batch)

    def outputs(self, weights: Tensor, batch: Batch) -> Tensor:
        return batch[0] @ weights

    def output_loss(self, hyper: Tensor, outputs: Tensor, batch: Batch) -> Tensor:
        if self.task == "ridge":
            return (outputs - batch[1]).square().mean() / 2
        return binary_cross_entropy_with_logits(outputs, batch[1])

    def describe(self) -> str:
        return f"{super().describe()}, {self._options}"

    # -- closed forms -------------------------------------------------------------------------------------------

    def training_hessian(self, point: Point, batches: Sequence[Batch] | None = None) -> LinearOperator:
        """``Xᵀ diag(v) X / N``, with v = 1 for ridge and the variance of the predicted class for logistic."""
        chosen = self.batches("train") if batches is None else batches
        inputs = torch.cat([batch[0] for batch in chosen])
        if self.task == "ridge":
            return Dense(inputs.T @ inputs / len(inputs))
        probability = (inputs @ point.weights).sigmoid()
        return Dense(inputs.T @ ((probability * (1 - probability))[:, None] * inputs) / len(inputs))

    def training_gauss_newton(self, point: Point, batches: Sequence[Batch] | None = None) -> LinearOperator:
        """The Hessian: the outputs are linear in the weights."""
        return self.training_hessian(point, batches)

    def lower_solution(self, hyper: Float64[Tensor, " p"]) -> Float64[Tensor, " n"]:
        """The weights that minimise the lower loss: one Newton step for ridge, a few for logistic."""
        return newton_solution(self, Point(hyper, torch.zeros(len(self.groups), dtype=torch.float64)))

    def implicit_hypergradient(self, point: Point, split: Split = "direction") -> Float64[Tensor, " p"]:
        """``h = −Jᵀ H⁻¹ g``; at a lower solution the gradient of the upper loss along it."""
        return implicit_hypergradient(self, point, split)


def _noise_names(count: int) -> list[str]:
    return [f"noise{i}" for i in range(count)]


def _group(task: Task, feature: str) -> str:
    if feature.startswith("noise"):
        return "noise"
    if task == "ridge":
        return _DIABETES_GROUPS.get(feature, "serum")
    return next((group for group in ("worst", "error") if group in feature), "mean")
