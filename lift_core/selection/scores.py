"""What tuning each group is worth, by influence or by the simple measures that it is compared with.

Every measure answers with one `Scores` record, so that the same knapsack chooses by any of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from lift_core.problem import Batch, BilevelProblem
from lift_core.selection.groups import Groups
from lift_core.training import TrainingState

Facts = dict[str, Any]


@dataclass(frozen=True)
class Scores:
    """One value per group; only their ratios matter, except for influence, whose unit is the training loss.

    Attributes:
        method: what measured them.
        names, sizes, values: of the K groups; values are finite and at least 0.
        facts: for the report: rejections, probes, cost.
        cross: pair terms, K x K, zero diagonal: choosing j and k together is worth ``values_j + values_k − cross_jk``.

    Raises:
        ValueError: if the parts do not fit, or a value is negative or not finite.
    """

    method: str
    names: tuple[str, ...]
    sizes: Int64[Tensor, " K"]
    values: Float64[Tensor, " K"]
    facts: Facts = field(default_factory=dict)
    cross: Float64[Tensor, "K K"] | None = None

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.sizes) == len(self.values):
            counts = f"{len(self.names)} names, {len(self.sizes)} sizes, {len(self.values)} values"
            raise ValueError(f"values: expected one per group, got {counts}")
        wrong = ~(torch.isfinite(self.values) & (self.values >= 0))
        if wrong.any():
            k = int(wrong.nonzero()[0])
            raise ValueError(
                f"values: expected finite numbers of at least 0, got {float(self.values[k])} for {self.names[k]!r}"
            )

    @property
    def density(self) -> Float64[Tensor, " K"]:
        """Value per weight: PPI, or APPI, where the values are reductions."""
        return self.values / self.sizes


@dataclass(frozen=True, kw_only=True)
class Measure(ABC):
    """A way to score groups."""

    name: ClassVar[str]

    @abstractmethod
    def scores(self, problem: BilevelProblem, groups: Groups, start: TrainingState, *, seed: int) -> Scores:
        """Score the groups at ``start``; the seed draws whatever is random."""

    def _scores(self, groups: Groups, values: Tensor, **facts: Any) -> Scores:
        return Scores(self.name, groups.names, groups.sizes.cpu(), values.double().cpu(), facts)


@dataclass(frozen=True, kw_only=True)
class GradientNorm(Measure):
    """``‖G_k‖²``, of the gradient of f on ``num_batches`` training batches.

    >>> from problems import Network
    >>> from lift_core.selection.groups import make_groups
    >>> problem = Network()
    >>> start = TrainingState.fresh(problem.initial_point())
    >>> GradientNorm().scores(problem, make_groups(problem), start, seed=0).method
    'gradient norm'
    """

    name: ClassVar[str] = "gradient norm"
    num_batches: int = 1

    def scores(self, problem: BilevelProblem, groups: Groups, start: TrainingState, *, seed: int) -> Scores:
        gradient = problem.lower_gradient(start.point, draw_batches(problem, self.num_batches, seed))
        return self._scores(groups, groups.sums(gradient.square()))


@dataclass(frozen=True, kw_only=True)
class FisherScore(Measure):
    """``Σ_{i in k} mean_b g_{b,i}²``: the diagonal of the empirical Fisher matrix, over single batches b."""

    name: ClassVar[str] = "Fisher"
    num_batches: int = 4

    def scores(self, problem: BilevelProblem, groups: Groups, start: TrainingState, *, seed: int) -> Scores:
        batches = draw_batches(problem, self.num_batches, seed)
        total = torch.zeros_like(start.point.weights)
        for batch in batches:
            total += problem.training_gradient(start.point, [batch]).square() / len(batches)
        return self._scores(groups, groups.sums(total))


@dataclass(frozen=True, kw_only=True)
class Magnitude(Measure):
    """``‖θ_k‖²``."""

    name: ClassVar[str] = "magnitude"

    def scores(self, problem: BilevelProblem, groups: Groups, start: TrainingState, *, seed: int) -> Scores:
        del problem, seed
        return self._scores(groups, groups.sums(start.point.weights.square()))


@dataclass(frozen=True, kw_only=True)
class Random(Measure):
    """A value per weight drawn uniformly for every group."""

    name: ClassVar[str] = "random"

    def scores(self, problem: BilevelProblem, groups: Groups, start: TrainingState, *, seed: int) -> Scores:
        del problem, start
        drawn = torch.rand(len(groups), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return self._scores(groups, groups.sizes.cpu() * drawn)


@dataclass(frozen=True, kw_only=True)
class Everything(Measure):
    """Every weight counts the same: with the whole budget, full tuning."""

    name: ClassVar[str] = "all"

    def scores(self, problem: BilevelProblem, groups: Groups, start: TrainingState, *, seed: int) -> Scores:
        del problem, start, seed
        return self._scores(groups, groups.sizes.double())


@dataclass(frozen=True, kw_only=True)
class LastLayers(Measure):
    """Later weights first: the density of a group is the mean position of its weights in θ, cubed."""

    name: ClassVar[str] = "last layers"

    def scores(self, problem: BilevelProblem, groups: Groups, start: TrainingState, *, seed: int) -> Scores:
        del problem, seed
        count = groups.num_weights
        position = torch.arange(1, count + 1, dtype=torch.float64, device=start.point.weights.device) / count
        sizes = groups.sizes
        return self._scores(groups, sizes * (groups.sums(position) / sizes).pow(3))


@dataclass(frozen=True, kw_only=True)
class NamedTensors(Measure):
    """The weights of tensors whose names fit, and no others: BitFit, layer norms alone, the factors of adapters.

    Attributes:
        patterns: shell-style patterns of tensor names.
        label: what tables call it.

    Raises:
        ValueError: when scoring, if no tensor of the problem fits.
    """

    name: ClassVar[str] = "named tensors"
    patterns: tuple[str, ...]
    label: str = "named tensors"

    def scores(self, problem: BilevelProblem, groups: Groups, start: TrainingState, *, seed: int) -> Scores:
        del seed
        inside = torch.zeros_like(start.point.weights)
        for tensor, part in problem.groups.items():
            if any(fnmatchcase(tensor, pattern) for pattern in self.patterns):
                inside[part] = 1.0
        if not inside.any():
            some = ", ".join(list(problem.groups)[:4])
            raise ValueError(f"patterns: no tensor fits {', '.join(self.patterns)}; tensors are called {some} ...")
        # a group counts only if it lies inside altogether
        share = groups.sums(inside) / groups.sizes
        values = torch.where(share == 1, groups.sizes.double(), 0.0)
        return Scores(self.label, groups.names, groups.sizes.cpu(), values.cpu())


def bitfit() -> NamedTensors:
    """Biases alone, those of layer norms included.

    Reference: Ben Zaken, Ravfogel, Goldberg (2022), BitFit.
    """
    return NamedTensors(patterns=("*bias",), label="BitFit")


def layer_norms() -> NamedTensors:
    """Gains and biases of layer norms alone, by the names that Hugging Face's models give them."""
    return NamedTensors(patterns=("*ln_*", "*norm*"), label="layer norms")


def lora_factors() -> NamedTensors:
    """The low-rank factors of a `peft` model.

    Reference: Hu et al. (2022), LoRA, arXiv 2106.09685.
    """
    return NamedTensors(patterns=("*lora_*",), label="LoRA")


def draw_batches(problem: BilevelProblem, count: int, seed: int) -> Sequence[Batch]:
    """Some training batches, drawn without replacement; all of them if there are no more.

    Raises:
        ValueError: if none is asked for.
    """
    if count < 1:
        raise ValueError(f"num_batches: expected at least 1, got {count}")
    batches = problem.batches("train")
    order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(seed))[:count]
    return [batches[position] for position in sorted(order.tolist())]
