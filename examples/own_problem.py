# %% [markdown]
# A bilevel problem around any `torch.nn.Module`: a small network on two interleaved moons, with one weight-decay
# strength per layer. The module stays as it is; its parameters become one flat float64 vector.

# %%
from __future__ import annotations

import os
from collections.abc import Sequence
from typing import get_args

import torch
from sklearn.datasets import make_moons
from torch import Tensor, nn
from torch.func import functional_call

import lift_core as lift
from backends import HiGHS

TOY = os.environ.get("LIFT_TOY") == "1"


# %% [markdown]
# A problem states where the search starts, the batches of the four splits, and one loss. Derivatives follow by
# autodiff. `outputs` and `output_loss` are optional: with them Gauss-Newton curvature is available.


# %%
class Moons(lift.BilevelProblem):
    """Binary classification of two moons by a small network, one L2 strength per layer."""

    name = "moons"

    def __init__(self, *, num_hidden: int = 16, num_samples: int = 60, noise: float = 0.3, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.module = nn.Sequential(nn.Linear(2, num_hidden), nn.Tanh(), nn.Linear(num_hidden, 1)).double()
        parameters = dict(self.module.named_parameters())
        ends = torch.tensor([value.numel() for value in parameters.values()]).cumsum(0).tolist()
        self.groups = {name: slice(start, end) for name, start, end in zip(parameters, [0, *ends], ends, strict=False)}
        self.hyper_names = ("strength.hidden", "strength.output")
        self.hyper_lower = torch.full((2,), -12.0, dtype=torch.float64)
        self.hyper_upper = torch.full((2,), 4.0, dtype=torch.float64)
        layer = [0 if name.startswith("0.") else 1 for name, value in parameters.items() for _ in range(value.numel())]
        self.regularizer = lift.L2(layer, num_hyper=2)
        self._batches = {
            split: [_moons(num_samples, noise, seed=4 * seed + number)]
            for number, split in enumerate(get_args(lift.Split))
        }

    def initial_point(self) -> lift.Point:
        weights = torch.cat([value.detach().flatten() for value in self.module.parameters()])
        return lift.Point(torch.full((2,), -9.0, dtype=torch.float64), weights)

    def batches(self, split: lift.Split) -> Sequence[lift.Batch]:
        return self._batches[split]

    def upper_loss(self, hyper: Tensor, weights: Tensor, batch: lift.Batch) -> Tensor:
        return self.output_loss(hyper, self.outputs(weights, batch), batch)

    def outputs(self, weights: Tensor, batch: lift.Batch) -> Tensor:
        shapes = {name: value.shape for name, value in self.module.named_parameters()}
        named = {name: weights[part].view(shapes[name]) for name, part in self.groups.items()}
        return functional_call(self.module, named, (batch[0],))[:, 0]

    def output_loss(self, hyper: Tensor, outputs: Tensor, batch: lift.Batch) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(outputs, batch[1])


def _moons(num_samples: int, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    inputs, labels = make_moons(num_samples, noise=noise, random_state=seed)
    return torch.from_numpy(inputs), torch.from_numpy(labels).double()


# %% [markdown]
# The contract compares every derivative with finite differences and says in a sentence what is wrong.

# %%
from lift_core.testing import check_problem  # noqa: E402  (a cell of its own)

problem = Moons(num_hidden=4 if TOY else 16)
check_problem(problem)

# %% [markdown]
# Gauss-Newton curvature is positive semi-definite, which keeps the sign of the hypergradient right away from a minimum.

# %%
search = lift.LocalSearch(
    backend=HiGHS(),
    curvature=lift.GaussNewton(),
    slack=(0.0, 1e-2, 1e-1),
    warmup_epochs=20 if TOY else 500,
    trainer=lift.Trainer(learning_rate=2e-2),
    rounds=1 if TOY else 3,
    controls=lift.standard_controls(lift.TrustBox()),
)
result = search.run(problem)
for row in result.methods:
    print(f"{row['method']:<40}{row['label']:<22}selection {row['selection']:.4f}   test {row['test']:.4f}")
for name, before, after in zip(result.hyper_names, result.hyper_before, result.hyper_after, strict=True):
    print(f"{name:<24}log strength {before:+.2f} -> {after:+.2f}")
