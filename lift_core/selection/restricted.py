"""A problem in which only some of the weights may move: what a selection makes of any problem."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from lift_core.operators import Dense, LinearOperator, MatrixFree
from lift_core.problem import Batch, BilevelProblem, Point, Split


class Restricted(BilevelProblem):
    """``θ = θ⁰`` but for the entries at ``index``, which are the weights of this problem, in that order.

    Losses and derivatives are the inner problem's, restricted. Hyperparameters that no weight is left for drop out,
    unless λ enters the training loss itself.

    Args:
        inner: the problem.
        index: sorted indices into its weights, each once.

    Raises:
        ValueError: if an index is out of range or stands twice, or there is none.

    >>> from problems import Network
    >>> part = Restricted(Network(), torch.arange(8))
    >>> len(part.initial_point().weights), part.hyper_names, list(part.groups)
    (8, ('strength.hidden.weight',), ['hidden.weight'])
    """

    def __init__(self, inner: BilevelProblem, index: Int64[Tensor, " m"]) -> None:
        start = inner.initial_point()
        n = len(start.weights)
        if index.ndim != 1 or not len(index) or not 0 <= int(index.min()) <= int(index.max()) < n:
            raise ValueError(f"index: expected one or more indices in 0 ... {n - 1}, got {index.tolist()[:8]} ...")
        if len(index) > 1 and not bool((index.diff() > 0).all()):
            raise ValueError("index: expected increasing indices, each once")
        self.inner, self.index = inner, index.to(start.weights.device)
        self.name, self.metric_name = inner.name, inner.metric_name  # pyright: ignore[reportAttributeAccessIssue]  (the inner problem's, seen from outside)
        self.suggested_search = inner.suggested_search  # pyright: ignore[reportAttributeAccessIssue]
        self.hyper_in_training = inner.hyper_in_training
        self._base, self._kept = start, torch.arange(len(start.hyper), device=start.hyper.device)
        if inner.regularizer is not None:
            part = inner.regularizer.restricted(self.index)
            if not inner.hyper_in_training:
                self._kept = part.group_of[part.group_of >= 0].unique()
                part = part.renumbered(self._kept)
            self.regularizer = part
        self.hyper_names = tuple(inner.hyper_names[j] for j in self._kept.tolist())
        self.hyper_lower, self.hyper_upper = inner.hyper_lower[self._kept], inner.hyper_upper[self._kept]
        self.groups = _remaining_groups(inner, self.index)

    def full(self, point: Point) -> Point:
        """The inner problem's point."""
        return Point(self._full_hyper(point.hyper), self._full_weights(point.weights))

    def part(self, point: Point) -> Point:
        """The part of one of the inner problem's points that belongs to this problem."""
        return Point(point.hyper[self._kept], point.weights[self.index])

    def initial_point(self) -> Point:
        return self.part(self._base)

    def batches(self, split: Split) -> Sequence[Batch]:
        return self.inner.batches(split)

    def batch_size(self, batch: Batch) -> int:
        return self.inner.batch_size(batch)

    def num_examples(self, split: Split) -> int:
        return self.inner.num_examples(split)

    def upper_loss(self, hyper: Tensor, weights: Tensor, batch: Batch) -> Tensor:
        return self.inner.upper_loss(self._full_hyper(hyper), self._full_weights(weights), batch)

    def training_loss(self, hyper: Tensor, weights: Tensor, batch: Batch) -> Tensor:
        return self.inner.training_loss(self._full_hyper(hyper), self._full_weights(weights), batch)

    def outputs(self, weights: Tensor, batch: Batch) -> Tensor:
        return self.inner.outputs(self._full_weights(weights), batch)

    def output_loss(self, hyper: Tensor, outputs: Tensor, batch: Batch) -> Tensor:
        return self.inner.output_loss(self._full_hyper(hyper), outputs, batch)

    def sampled(self, point: Point, batch: Batch, generator: torch.Generator) -> Batch:
        return self.inner.sampled(self.full(point), batch, generator)

    def example_gradients(self, point: Point, batch: Batch, *, limit: int | None = None) -> tuple[Tensor, list[int]]:
        rows, sizes = self.inner.example_gradients(self.full(point), batch, limit=limit)
        return rows[:, self.index], sizes

    def metric(self, loss: float) -> float:
        return self.inner.metric(loss)

    def describe(self) -> str:
        which = hashlib.sha256(self.index.cpu().numpy().tobytes()).hexdigest()[:16]
        return f"{len(self.index)} weights ({which}) of: {self.inner.describe()}"

    def upper_gradient(self, point: Point, split: Split = "direction") -> tuple[Tensor, Tensor]:
        hyper, weights = self.inner.upper_gradient(self.full(point), split)
        return hyper[self._kept], weights[self.index]

    def training_gradient(self, point: Point, batches: Sequence[Batch] | None = None) -> Tensor:
        return self.inner.training_gradient(self.full(point), batches)[self.index]

    def training_hessian(self, point: Point, batches: Sequence[Batch] | None = None) -> LinearOperator:
        return self._block(self.inner.training_hessian(self.full(point), batches))

    def training_gauss_newton(self, point: Point, batches: Sequence[Batch] | None = None) -> LinearOperator:
        return self._block(self.inner.training_gauss_newton(self.full(point), batches))

    @property
    def mixed_passes(self) -> float:
        return self.inner.mixed_passes

    def training_mixed(self, point: Point) -> LinearOperator:
        return Dense(self.inner.training_mixed(self.full(point)).dense_rows(self.index)[:, self._kept])

    def _block(self, operator: LinearOperator) -> MatrixFree:
        """``A[index, index]``."""

        def matmat(columns: Tensor) -> Tensor:
            wide = columns.new_zeros(operator.shape[1], columns.shape[1])
            return operator.matmat(wide.index_copy(0, self.index, columns))[self.index]

        def matvec(vector: Tensor) -> Tensor:
            wide = vector.new_zeros(operator.shape[1])
            return operator.matvec(wide.index_copy(0, self.index, vector))[self.index]

        return MatrixFree(len(self.index), matvec, matmat=matmat, device=operator.device)

    def _full_hyper(self, hyper: Tensor) -> Tensor:
        return self._base.hyper.index_copy(0, self._kept, hyper)

    def _full_weights(self, weights: Tensor) -> Tensor:
        return self._base.weights.index_copy(0, self.index, weights)


def _remaining_groups(inner: BilevelProblem, index: Tensor) -> dict[str, slice]:
    """The slices of what is left of every tensor, tensors in the order of θ."""
    position = torch.full((len(inner.initial_point().weights),), -1, device=index.device)
    position[index] = torch.arange(len(index), device=index.device)
    groups: dict[str, slice] = {}
    for name, part in inner.groups.items():
        left = position[part]
        left = left[left >= 0]
        if len(left):
            groups[name] = slice(int(left[0]), int(left[-1]) + 1)
    return groups
