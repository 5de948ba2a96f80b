# %% [markdown]
# A bilevel problem around any `torch.nn.Module`: a small network on two interleaved moons, with one weight-decay
# strength per layer. The module stays as it is; `ModuleProblem` makes one flat float64 vector of its parameters.

# %%
from __future__ import annotations

import os
from typing import get_args

import torch
from sklearn.datasets import make_moons
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

import lift_core as lift
from backends import HiGHS
from problems import ModuleProblem

TOY = os.environ.get("LIFT_TOY") == "1"


# %% [markdown]
# It needs the module, batches for the four splits, and a loss of outputs and targets. Derivatives follow by autodiff.


# %%
def moons(num_samples: int = 60, noise: float = 0.3, *, seed: int) -> tuple[Tensor, Tensor]:
    inputs, labels = make_moons(num_samples, noise=noise, random_state=seed)
    return torch.from_numpy(inputs), torch.from_numpy(labels)[:, None].double()


torch.manual_seed(0)
num_hidden = 4 if TOY else 16
problem = ModuleProblem(
    nn.Sequential(nn.Linear(2, num_hidden), nn.Tanh(), nn.Linear(num_hidden, 1)).double(),
    {split: [moons(seed=number)] for number, split in enumerate(get_args(lift.Split))},
    loss=binary_cross_entropy_with_logits,
    regularize_by="module",
)

# %% [markdown]
# The contract compares every derivative with finite differences and says in a sentence what is wrong.

# %%
from lift_core.testing import check_problem  # noqa: E402  (a cell of its own)

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

# %% [markdown]
# The found weights, in a module of the same kind.

# %%
found = problem.module_at(result.point)
inputs, labels = problem.batches("test")[0]
print(f"test accuracy {float(((found(inputs) > 0) == labels).double().mean()):.3f}")
