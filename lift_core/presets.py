"""Settings of ``lift run`` under one name, from what was published and from what the study found."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

ONE_BATCH = 1e-6
"""A share of the training batches that is one of them, however many there are."""

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "published": {
            "curvature": "sr1",
            "rows": 0.01,
            "delta": 1e-4,
            "hyper_radius": 1.0,
            "weights_radius": 1.0,
            "relative": False,
            "unit_norm": True,
            "line_search": "golden",
            "refit_epochs": 0,
        },
        "refit": {
            "curvature": "low_rank",
            "curvature_options": {"rank": 8, "num_probes": 1, "definiteness": "absolute", "share": ONE_BATCH},
            "slack": [0.0],
            "hyper_radius": 4.0,
            "weights_radius": 1e4,
            "relative": True,
            "controls_radius": 0.1,
            "averaging": 0.95,
            "warmup_epochs": 2,
            "refit_on": "train+direction",
            "refit_epochs": 3,
            "refit_all_in": True,
            "refit_patience": 2,
            "refit_reach": [1.0],
            "tolerance": 1e-3,
        },
    }
)
"""``published``: the recipe of Sinha & Pankaj (2024), arXiv 2407.00613, and of the published LiFT, arXiv 2606.16243:
SR1 from warm-up snapshots, a random hundredth of the rows, δ = 1e-4, the box ±1, directions of unit norm, golden
section, no refit.

``refit``: for language models with a log strength per tensor or a weight per article, the LiFT of `docs/results.md`.
λ's direction d comes from the LP at ρ = 0, where only p numbers are fitted to the direction data, and the weights from
a refit on train + direction data at λ + d, where a strength is e⁴ times as large or as small: as far as the searches
among the controls go. λ stays where the LP promises less than a thousandth of the loss. Direction and refit together
cost three epochs on that data, evaluations aside. The box on θ is too wide to bind, that of the gradient controls a
tenth of each tensor's size. Curvature comes from one training batch; negative eigenvalues count by their size: λ's
direction then depends less on the batch than with those set to zero (``benchmarks/hypergradient_signs.py``).
"""
