"""What a method spends: a problem that counts its own oracles.

The unit is one pass over the training split: a gradient on a tenth of its examples counts 0.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lift_core.operators import LinearOperator, MatrixFree
from lift_core.problem import Batch, BilevelProblem, Point, Split


@dataclass(frozen=True)
class Cost:
    """Passes over (as many examples as) the training split, by kind."""

    evaluations: float = 0.0
    gradients: float = 0.0
    hvps: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.evaluations + other.evaluations, self.gradients + other.gradients, self.hvps + other.hvps)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.evaluations - other.evaluations, self.gradients - other.gradients, self.hvps - other.hvps)

    @property
    def differentiation(self) -> float:
        """Gradients, one Hessian product counted as two."""
        return self.gradients + 2 * self.hvps

    @property
    def gradient_equivalents(self) -> float:
        """Gradients, one Hessian product counted as two and one evaluation as a third."""
        return self.differentiation + self.evaluations / 3


_ATTRIBUTES = (
    "name", "regularizer", "hyper_names", "hyper_lower", "hyper_upper", "groups", "hyper_in_training",
    "columns_at_once", "metric_name", "suggested_search",
)  # fmt: skip


class Metered(BilevelProblem):
    """A problem whose oracles add up in ``cost``; everything else is the problem's own, attributes of its class too.

    Args:
        inner: the problem.
        on_spend: called after every oracle call, for progress displays.
    """

    def __init__(self, inner: BilevelProblem, on_spend: Callable[[Cost], None] | None = None) -> None:
        self.inner, self.cost, self._on_spend = inner, Cost(), on_spend
        for name in _ATTRIBUTES:
            setattr(self, name, getattr(inner, name))
        self._pass = inner.num_examples("train")

    def __getattr__(self, name: str) -> Any:
        if name == "inner" or name.startswith("__"):  # asked for while a copy is made, which is none of the problem's
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self.inner, name)

    def group_label(self, tensor: str, by: str) -> str:
        return self.inner.group_label(tensor, by)

    def describe(self) -> str:
        return self.inner.describe()

    def metric(self, loss: float) -> float:
        return self.inner.metric(loss)

    def tuned(self, tensors: Sequence[str]) -> BilevelProblem | None:
        part = self.inner.tuned(tensors)
        return None if part is None else _Part(part, self)

    def initial_point(self) -> Point:
        return self.inner.initial_point()

    def batches(self, split: Split) -> Sequence[Batch]:
        return self.inner.batches(split)

    def batch_size(self, batch: Batch) -> int:
        return self.inner.batch_size(batch)

    def num_examples(self, split: Split) -> int:
        return self.inner.num_examples(split)

    def upper_loss(self, hyper: Tensor, weights: Tensor, batch: Batch) -> Tensor:
        self._spend(Cost(evaluations=self._share([batch])))
        return self.inner.upper_loss(hyper, weights, batch)

    def training_loss(self, hyper: Tensor, weights: Tensor, batch: Batch) -> Tensor:
        self._spend(Cost(evaluations=self._share([batch])))
        return self.inner.training_loss(hyper, weights, batch)

    def outputs(self, weights: Tensor, batch: Batch) -> Tensor:
        self._spend(Cost(evaluations=self._share([batch])))
        return self.inner.outputs(weights, batch)

    def output_loss(self, hyper: Tensor, outputs: Tensor, batch: Batch) -> Tensor:
        return self.inner.output_loss(hyper, outputs, batch)

    def loss(self, point: Point, split: Split) -> float:
        self._spend(Cost(evaluations=self._share(self.batches(split))))
        return self.inner.loss(point, split)

    def lower_loss(self, point: Point, batches: Sequence[Batch] | None = None) -> float:
        self._spend(Cost(evaluations=1.0 if batches is None else self._share(batches)))
        return self.inner.lower_loss(point, batches)

    def upper_gradient(self, point: Point, split: Split = "direction") -> tuple[Tensor, Tensor]:
        self._spend(Cost(gradients=self._share(self.batches(split))))
        return self.inner.upper_gradient(point, split)

    def training_gradient(self, point: Point, batches: Sequence[Batch] | None = None) -> Tensor:
        self._spend(Cost(gradients=1.0 if batches is None else self._share(batches)))
        return self.inner.training_gradient(point, batches)

    def lower_gradient(self, point: Point, batches: Sequence[Batch] | None = None) -> Tensor:
        self._spend(Cost(gradients=1.0 if batches is None else self._share(batches)))
        return self.inner.lower_gradient(point, batches)

    @property
    def mixed_passes(self) -> float:
        return self.inner.mixed_passes

    def mixed(self, point: Point) -> LinearOperator:
        self._spend(Cost(gradients=self.mixed_passes))
        return self.inner.mixed(point)

    def training_mixed(self, point: Point) -> LinearOperator:
        self._spend(Cost(gradients=self.mixed_passes))
        return self.inner.training_mixed(point)

    def training_hessian(self, point: Point, batches: Sequence[Batch] | None = None) -> LinearOperator:
        return self._counting(self.inner.training_hessian(point, batches), batches)

    def training_gauss_newton(self, point: Point, batches: Sequence[Batch] | None = None) -> LinearOperator:
        return self._counting(self.inner.training_gauss_newton(point, batches), batches)

    def sampled(self, point: Point, batch: Batch, generator: torch.Generator) -> Batch:
        self._spend(Cost(evaluations=self._share([batch])))
        return self.inner.sampled(point, batch, generator)

    def example_gradients(self, point: Point, batch: Batch, *, limit: int | None = None) -> tuple[Tensor, list[int]]:
        gradients, sizes = self.inner.example_gradients(point, batch, limit=limit)
        self._spend(Cost(gradients=sum(sizes) / self._pass))
        return gradients, sizes

    def spend_at_least(self, declared: Cost, *, since: Cost) -> None:
        """Count gradients and products that were taken without this meter.

        Args:
            declared: what was spent since, by the word of the one who spent it.
            since: ``cost`` before. Where more was metered than ``declared``, the word changes nothing.
        """
        metered = self.cost - since
        if declared.differentiation > metered.differentiation * (1 + 1e-9):  # equal up to rounding is equal
            self._spend(replace(declared, evaluations=metered.evaluations) - metered)

    def _counting(self, operator: LinearOperator, batches: Sequence[Batch] | None) -> LinearOperator:
        share = 1.0 if batches is None else self._share(batches)

        def matmat(columns: Tensor) -> Tensor:
            self._spend(Cost(hvps=share * columns.shape[1]))
            return operator.matmat(columns)

        return MatrixFree(operator.shape, lambda x: matmat(x[:, None])[:, 0], matmat=matmat, device=operator.device)

    def _share(self, batches: Sequence[Batch]) -> float:
        return sum(self.batch_size(batch) for batch in batches) / self._pass

    def _spend(self, cost: Cost) -> None:
        self.cost += cost
        if self._on_spend is not None:
            self._on_spend(self.cost)


class _Part(Metered):
    """A cheaper form of a metered problem, on whose account it spends."""

    def __init__(self, inner: BilevelProblem, whole: Metered) -> None:
        super().__init__(inner)
        self._whole = whole

    def _spend(self, cost: Cost) -> None:
        super()._spend(cost)
        self._whole._spend(cost)
