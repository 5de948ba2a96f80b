"""What a bilevel problem is: two losses, four splits, and the derivatives the method needs.

    upper   min over (λ, θ)   F(λ, θ)                                    validation loss
    lower   θ ∈ argmin_θ      f(λ, θ) = L_train(λ, θ) + R(λ, θ)          regularised training loss

A problem describes its losses on one batch; every oracle below has an autodiff default that a closed form can override.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypeVar

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.func import grad, jacfwd, jvp, vjp, vmap

from lift_core.operators import Dense, LinearOperator, MatrixFree
from lift_core.regularizers import Regularizer

Split = Literal["train", "direction", "selection", "test"]
"""train: the lower loss; direction: gives ∇F; selection: line search and every choice; test: read once, at the end."""

Batch = Any
"""Whatever a problem's own losses take; the core only passes it on."""

T = TypeVar("T")


@dataclass(frozen=True)
class Point:
    """Hyperparameters λ, shape (p,), and weights θ, shape (n,): flat float64 vectors."""

    hyper: Float64[Tensor, " p"]
    weights: Float64[Tensor, " n"]

    def __post_init__(self) -> None:
        for name, vector in (("hyper", self.hyper), ("weights", self.weights)):
            if vector.ndim != 1 or vector.dtype != torch.float64:
                raise ValueError(
                    f"{name}: expected a flat float64 vector, got {vector.dtype} of shape {tuple(vector.shape)}"
                )
            if vector.requires_grad:
                raise ValueError(
                    f"{name}: expected a vector without a graph, got one that requires gradients; detach it"
                )

    def moved(self, d_hyper: Tensor, d_weights: Tensor, step_size: float) -> Point:
        """``(λ, θ) + t d``."""
        return Point(self.hyper + step_size * d_hyper, self.weights + step_size * d_weights)


class BilevelProblem(ABC):
    """A bilevel problem. Subclasses give `initial_point`, `batches` and `upper_loss`; the rest has defaults.

    Attributes:
        name: what tables and files call it.
        regularizer: R, or None where the training loss carries its own hyperparameters.
        hyper_names: one name per hyperparameter.
        hyper_lower, hyper_upper: bounds on λ, shape (p,); upper ones of log strengths finite.
        groups: named slices of θ (blocks, tensors, ...): what reports and radii speak of.
        metric_name: what `metric` turns a loss into.
        columns_at_once: Hessian products that are formed at once by vmap; 1 where the loss has operations that vmap
            does not know.
        suggested_search: settings of `lift run` that suit the problem, by flag name (``slack``, ``relative``, ...).
        hyper_in_training: whether L_train itself depends on λ (then `mixed` differentiates it).
    """

    name: ClassVar[str]
    regularizer: Regularizer | None = None
    hyper_names: tuple[str, ...]
    hyper_lower: Float64[Tensor, " p"]
    hyper_upper: Float64[Tensor, " p"]
    groups: Mapping[str, slice]
    hyper_in_training: bool = False
    columns_at_once: ClassVar[int] = 16
    metric_name: ClassVar[str] = "loss"
    suggested_search: ClassVar[Mapping[str, object]] = MappingProxyType({})

    # -- what a problem describes -------------------------------------------------------------------------------

    @abstractmethod
    def initial_point(self) -> Point:
        """Where the search starts: the pretrained weights and the first guess at λ."""

    @abstractmethod
    def batches(self, split: Split) -> Sequence[Batch]:
        """The batches of a split: the same ones, in the same order, at every call."""

    @abstractmethod
    def upper_loss(self, hyper: Tensor, weights: Tensor, batch: Batch) -> Float64[Tensor, ""]:
        """Mean loss F on one batch, differentiable in both arguments."""

    def training_loss(self, hyper: Tensor, weights: Tensor, batch: Batch) -> Float64[Tensor, ""]:
        """Mean training loss L_train on one batch, without R; by default the upper loss."""
        return self.upper_loss(hyper, weights, batch)

    def batch_size(self, batch: Batch) -> int:
        """Number of examples that a batch averages over: its weight in the split's mean."""
        return len(batch[0])

    def outputs(self, weights: Tensor, batch: Batch) -> Tensor:
        """Model outputs on a batch; with `output_loss` they define the Gauss-Newton matrix. Optional."""
        raise TypeError(
            f"{type(self).__name__} does not describe outputs and output_loss, which Gauss-Newton curvature needs"
        )

    def output_loss(self, hyper: Tensor, outputs: Tensor, batch: Batch) -> Float64[Tensor, ""]:
        """Training loss as a function of the outputs, convex in them. Optional."""
        raise TypeError(
            f"{type(self).__name__} does not describe outputs and output_loss, which Gauss-Newton curvature needs"
        )

    def sampled(self, point: Point, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with its targets drawn from the model's own predictions, for Fisher curvature. Optional."""
        raise TypeError(f"{type(self).__name__} does not describe sampled, which Fisher curvature needs")

    def describe(self) -> str:
        """What tells this problem from another, its data included: a checkpoint is only resumed on the one that it was
        written for. The losses of a few batches are compared as well.
        """
        return f"{self.name}: {len(self.hyper_names)} hyperparameters, groups {dict(self.groups)}"

    def group_label(self, tensor: str, by: str) -> str:
        """The group of a tensor (a key of ``groups``) under a way of grouping; here ``"tensor"`` is the only one.

        Raises:
            ValueError: if the problem does not know the way.
        """
        if by != "tensor":
            raise ValueError(f"by: {type(self).__name__} groups its weights by 'tensor' only, got {by!r}")
        return tensor

    def tuned(self, tensors: Sequence[str]) -> BilevelProblem | None:
        """The same problem with some tensors as its only weights, where it has a cheaper form for that than a mask."""
        del tensors
        return None

    def metric(self, loss: float) -> float:
        """The loss in the unit that tables show, called `metric_name` there; lower is better."""
        return loss

    # -- oracles: autodiff defaults -----------------------------------------------------------------------------

    def num_examples(self, split: Split) -> int:
        """Examples in a split: what one full gradient costs."""
        return sum(self.batch_size(batch) for batch in self.batches(split))

    def loss(self, point: Point, split: Split) -> float:
        """Mean upper loss over a split."""
        with torch.no_grad():
            return float(
                self._mean(
                    lambda batch: self.upper_loss(point.hyper, point.weights, batch).double(), self.batches(split)
                )
            )

    def lower_loss(self, point: Point, batches: Sequence[Batch] | None = None) -> float:
        """``f(λ, θ)`` over the training split, or over the given batches."""
        chosen = self.batches("train") if batches is None else batches
        with torch.no_grad():
            data = self._mean(lambda batch: self.training_loss(point.hyper, point.weights, batch).double(), chosen)
        penalty = 0.0 if self.regularizer is None else self.regularizer.value(point.hyper, point.weights)
        return float(data + penalty)

    def upper_gradient(self, point: Point, split: Split = "direction") -> tuple[Tensor, Tensor]:
        """``(∇_λ F, ∇_θ F)`` over a split, shapes (p,) and (n,)."""
        both = grad(self.upper_loss, argnums=(0, 1))
        packed = self._mean(
            lambda batch: torch.cat(both(point.hyper, point.weights, batch)).detach(), self.batches(split)
        )
        return packed[: len(point.hyper)], packed[len(point.hyper) :]

    def training_gradient(self, point: Point, batches: Sequence[Batch] | None = None) -> Float64[Tensor, " n"]:
        """``∇_θ L_train`` (without R) over the training split, or over the given batches."""
        one = grad(self.training_loss, argnums=1)
        chosen = self.batches("train") if batches is None else batches
        return self._mean(lambda batch: one(point.hyper, point.weights, batch).detach(), chosen)

    def example_gradients(
        self, point: Point, batch: Batch, *, limit: int | None = None
    ) -> tuple[Float64[Tensor, "examples n"], list[int]]:
        """``∇_θ L_train`` of single examples, the first ``limit`` ones, and the size of each.

        This default, by vmap, takes a batch to be a tuple of tensors whose first axis counts examples.
        """
        one = grad(self.training_loss, argnums=1)
        few = tuple(part[:limit] for part in batch)
        each = vmap(lambda example: one(point.hyper, point.weights, tuple(part[None] for part in example)))(few)
        return each.detach(), [1] * len(each)

    def lower_gradient(self, point: Point, batches: Sequence[Batch] | None = None) -> Float64[Tensor, " n"]:
        """``r = ∇_θ f`` over the training split, or over the given batches."""
        data = self.training_gradient(point, batches)
        return data if self.regularizer is None else data + self.regularizer.gradient(point.hyper, point.weights)

    @property
    def mixed_passes(self) -> float:
        """Passes over the training split that `mixed` costs, in gradients.

        Where λ enters the training loss, two for each λ: a column of `training_mixed` is a Hessian product. A problem
        with a cheaper one says what that costs.
        """
        return 2.0 * len(self.hyper_names) if self.hyper_in_training else 0.0

    def mixed(self, point: Point) -> LinearOperator:
        """``J = ∇²_θλ f``, n x p: the regulariser's closed form plus, if λ enters it, that of the training loss."""
        parts: list[LinearOperator] = []
        if self.regularizer is not None:
            parts.append(self.regularizer.mixed(point.hyper, point.weights))
        if self.hyper_in_training:
            parts.append(self.training_mixed(point))
        if not parts:
            return Dense(torch.zeros(len(point.weights), len(point.hyper), dtype=torch.float64))
        return parts[0] if len(parts) == 1 else Dense(parts[0].to_dense() + parts[1].to_dense())

    def training_mixed(self, point: Point) -> LinearOperator:
        """``∇²_θλ L_train``, n x p, by forward over reverse."""
        columns = jacfwd(grad(self.training_loss, argnums=1), argnums=0)
        return Dense(
            self._mean(lambda batch: columns(point.hyper, point.weights, batch).detach(), self.batches("train"))
        )

    def training_hessian(self, point: Point, batches: Sequence[Batch] | None = None) -> LinearOperator:
        """``∇²_θθ L_train`` (without R) as products, differentiated once at the point."""
        chosen = self.batches("train") if batches is None else batches
        gradient = grad(self.training_loss, argnums=1)
        # the default argument lets each closure keep its own batch
        products = [_hessian_product(lambda w, b=batch: gradient(point.hyper, w, b), point.weights) for batch in chosen]
        return self._mean_operator(products, chosen, point.weights)

    def training_gauss_newton(self, point: Point, batches: Sequence[Batch] | None = None) -> LinearOperator:
        """``Jac^T (∇² output_loss) Jac`` over the outputs: the positive semi-definite part of the Hessian."""
        chosen = self.batches("train") if batches is None else batches
        return self._mean_operator(
            [self._gauss_newton_product(point, batch) for batch in chosen], chosen, point.weights
        )

    def _gauss_newton_product(self, point: Point, batch: Batch) -> Callable[[Tensor], Tensor]:
        def outputs(weights: Tensor) -> Tensor:
            return self.outputs(weights, batch)

        def loss_gradient(values: Tensor) -> Tensor:
            return grad(lambda v: self.output_loss(point.hyper, v, batch))(values)

        def product(vector: Tensor) -> Tensor:
            values, tangent = jvp(outputs, (point.weights,), (vector,))[:2]
            curved = jvp(loss_gradient, (values,), (tangent,))[1]
            return vjp(outputs, point.weights)[1](curved)[0]

        return product

    def _mean(self, of_batch: Callable[[Batch], Tensor], batches: Sequence[Batch]) -> Tensor:
        """Mean over batches, weighted by their sizes, accumulated in float64."""
        total, count = torch.zeros((), dtype=torch.float64), 0
        for batch in batches:
            size = self.batch_size(batch)
            total, count = total + size * of_batch(batch), count + size
        if count == 0:
            raise ValueError(f"{type(self).__name__}: a split has no examples; every split needs at least one batch")
        return total / count

    def _mean_operator(
        self, products: Sequence[Callable[[Tensor], Tensor]], batches: Sequence[Batch], like: Tensor
    ) -> MatrixFree:
        sizes = [self.batch_size(batch) for batch in batches]

        def matvec(vector: Tensor) -> Tensor:
            total = torch.zeros_like(vector)
            for product, size in zip(products, sizes, strict=True):
                total = total + size / sum(sizes) * product(vector).detach()
            return total

        matmat = vmap(matvec, in_dims=1, out_dims=1, chunk_size=self.columns_at_once)
        return MatrixFree(len(like), matvec, matmat=matmat, device=like.device)


def _hessian_product(gradient: Callable[[Tensor], Tensor], at: Tensor) -> Callable[[Tensor], Tensor]:
    """Products with the Jacobian of a gradient, which is symmetric: reverse over reverse, on one graph that is kept."""
    transposed = vjp(gradient, at)[1]
    return lambda vector: transposed(vector)[0]
