"""Optuna's tree-structured Parzen estimator as a control; importing this module needs Optuna."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import optuna
import torch
from jaxtyping import Float64
from torch import Tensor

from lift_core.controls import HyperSearch


@dataclass(frozen=True, kw_only=True)
class ParzenSearch(HyperSearch):
    """One shift per hyperparameter, proposed by an estimator that is told the best selection loss of each trial.

    Reference: Bergstra et al. (2011), Algorithms for hyper-parameter optimization, NeurIPS 24.
    """

    trials: int = 10
    name: str = "TPE"

    def shifts(self, p: int, seed: int) -> Generator[Float64[Tensor, " p"], float, None]:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        startup = max(2, self.trials // 3)
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup))
        while True:
            trial = study.ask()
            values = [trial.suggest_float(f"shift_{j}", -self.reach, self.reach) for j in range(p)]
            loss = yield torch.tensor(values, dtype=torch.float64)
            study.tell(trial, min(loss, 1e30))
