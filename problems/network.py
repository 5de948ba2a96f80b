"""A one-hidden-layer network on scikit-learn's digits: the smallest problem with a non-convex lower level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lift_core.problem import Batch, BilevelProblem, Point, Split
from lift_core.regularizers import L2
from problems.sklearn_data import digits, random_splits

Per = Literal["tensor", "layer"]

_PIXELS, _CLASSES = 64, 10


class Network(BilevelProblem):
    """``logits = tanh(x W + b) V + c`` with cross-entropy, and one L2 strength per tensor or per layer.

    The 64 pixels are used as they are: 8 hidden units make 64·8 + 8 + 8·10 + 10 = 610 weights. The start is a seeded
    random initialisation, which a search must warm up.

    Args:
        num_hidden: hidden units.
        per: one strength per ``"tensor"`` (4) or per ``"layer"`` (2).
        num_train, num_direction, num_selection: samples per split; the rest of the 1,797 is the test split.
        initial_strength: where every strength starts.
        seed: of the split and of the initial weights.

    >>> problem = Network()
    >>> len(problem.initial_point().weights), problem.hyper_names[0]
    (610, 'strength.hidden.weight')
    """

    name: ClassVar[str] = "network"

    def __init__(
        self,
        *,
        num_hidden: int = 8,
        per: Per = "tensor",
        num_train: int = 300,
        num_direction: int = 300,
        num_selection: int = 300,
        initial_strength: float = 1e-3,
        seed: int = 0,
    ) -> None:
        if per not in get_args(Per):
            raise ValueError(f"per: expected one of {get_args(Per)}, got {per!r}")
        if num_hidden < 1:
            raise ValueError(f"num_hidden: expected at least 1, got {num_hidden}")
        if not initial_strength > 0:
            raise ValueError(f"initial_strength: expected a positive number, got {initial_strength}")
        self.num_hidden, self.initial_strength, self.seed = num_hidden, initial_strength, seed
        table = digits()
        sizes: dict[Split, int] = {"train": num_train, "direction": num_direction, "selection": num_selection}
        self._batches: dict[Split, list[Batch]] = {
            split: [(table.inputs[index], table.targets[index])]
            for split, index in random_splits(len(table.inputs), sizes, seed=seed).items()
        }
        tensors = {
            "hidden.weight": _PIXELS * num_hidden,
            "hidden.bias": num_hidden,
            "output.weight": num_hidden * _CLASSES,
            "output.bias": _CLASSES,
        }
        self._sizes = list(tensors.values())
        ends = torch.tensor(self._sizes).cumsum(0).tolist()
        self.groups = {name: slice(end - tensors[name], end) for name, end in zip(tensors, ends, strict=True)}
        owners = [name if per == "tensor" else name.split(".")[0] for name in tensors]
        hyper = list(dict.fromkeys(owners))
        self.hyper_names = tuple(f"strength.{name}" for name in hyper)
        self.hyper_lower = torch.full((len(hyper),), -16.0, dtype=torch.float64)
        self.hyper_upper = torch.full((len(hyper),), 3.0, dtype=torch.float64)
        columns = torch.tensor([hyper.index(owner) for owner in owners])
        self.regularizer = L2(columns.repeat_interleave(torch.tensor(self._sizes)), num_hyper=len(hyper))

    def initial_point(self) -> Point:
        """Normal weights of variance 1 / fan-in, zero biases."""
        generator = torch.Generator().manual_seed(self.seed)
        fan_in = {"hidden.weight": _PIXELS, "output.weight": self.num_hidden}
        weights = torch.zeros(sum(self._sizes), dtype=torch.float64)
        for name, inputs in fan_in.items():
            drawn = torch.randn(len(weights[self.groups[name]]), dtype=torch.float64, generator=generator)
            weights[self.groups[name]] = drawn / math.sqrt(inputs)
        hyper = torch.full((len(self.hyper_names),), math.log(self.initial_strength), dtype=torch.float64)
        return Point(hyper, weights)

    def batches(self, split: Split) -> Sequence[Batch]:
        return self._batches[split]

    def upper_loss(self, hyper: Tensor, weights: Tensor, batch: Batch) -> Tensor:
        return self.output_loss(hyper, self.outputs(weights, batch), batch)

    def outputs(self, weights: Tensor, batch: Batch) -> Tensor:
        """Logits, shape (samples, 10)."""
        hidden_weight, hidden_bias, output_weight, output_bias = weights.split(self._sizes)
        hidden = (batch[0] @ hidden_weight.view(_PIXELS, -1) + hidden_bias).tanh()
        return hidden @ output_weight.view(-1, _CLASSES) + output_bias

    def output_loss(self, hyper: Tensor, outputs: Tensor, batch: Batch) -> Tensor:
        return cross_entropy(outputs, batch[1])

    def sampled(self, point: Point, batch: Batch, generator: torch.Generator) -> Batch:
        """Classes drawn from the predicted probabilities."""
        probabilities = self.outputs(point.weights, batch).softmax(-1)
        return batch[0], torch.multinomial(probabilities, 1, generator=generator)[:, 0]

    def describe(self) -> str:
        sizes = [self.num_examples(split) for split in get_args(Split)]
        return f"{super().describe()}, split {sizes}, initial strength {self.initial_strength}, seed {self.seed}"
