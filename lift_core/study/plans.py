"""The plans: which cells a study has. Everything a cell needs to be run again stands in it as JSON values."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

Settings = Mapping[str, Any]

PRESET_DECIDES = (
    "curvature", "curvature_options", "slack", "delta", "unit_norm", "hyper_radius", "weights_radius", "relative",
    "rows", "kappa", "line_search",
)  # fmt: skip
"""Settings that a variant with a preset does not take from its plan."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run.

    Attributes:
        setting: what the table is about: problem, data, start.
        variant: how LiFT is run; the first variant of a setting brings the controls along.
        seed: of the run, and of the problem where it draws data.
        settings: of ``lift run``, JSON values.
        preset: of ``lift run``.
    """

    setting: str
    variant: str
    seed: int
    settings: Settings = field(default_factory=dict)
    preset: str | None = None

    @property
    def name(self) -> str:
        """A file name.

        >>> Cell(setting="ridge, diabetes", variant="LiFT + refit", seed=3).name
        'ridge-diabetes_lift-refit_3'
        """
        words = (re.sub(r"[^a-z0-9.%]+", "-", text.lower()).strip("-") for text in (self.setting, self.variant))
        return "_".join((*words, str(self.seed))).replace("%", "pc")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _cells(setting: str, base: Settings, variants: Mapping[str, Settings], seeds: range) -> Iterator[Cell]:
    """Every variant at every seed; the first one with controls. ``preset`` among the settings names a preset."""
    for number, (variant, changes) in enumerate(variants.items()):
        preset = changes.get("preset")
        left_to_preset = PRESET_DECIDES if preset else ()
        merged = {key: value for key, value in base.items() if key not in left_to_preset}
        merged |= {key: value for key, value in changes.items() if key != "preset"}
        merged |= {"controls": number == 0, "threads": 1}
        if number > 0:
            merged.pop("more_controls", None)
        for seed in seeds:
            options = {**merged.get("problem_options", {}), "seed": seed}
            settings = {**merged, "problem_options": options, "seed": seed}
            yield Cell(setting=setting, variant=variant, seed=seed, settings=settings, preset=preset)


_REFIT: Settings = {"refit_epochs": 8, "refit_on": "train+direction"}
_MOVE: Settings = {"refit_epochs": 0}
_PUBLISHED: Settings = {"preset": "published", **_MOVE}


def small(seeds: range) -> Iterator[Cell]:
    """Problems with known answers, exact curvature: every control at LiFT's own budget."""
    exact = {
        "backend": "interior_point",
        "backend_options": {"rtol": 1e-4},
        "curvature": "exact",
        "slack": [0.0, 1e-3, 1e-2, 1e-1],
        "hyper_radius": 2.0,
        "more_controls": True,
    }
    cheap: Settings = {"curvature": "low_rank", "curvature_options": {"rank": 20, "num_probes": 2}}
    variants: dict[str, Settings] = {"LiFT": {"refit_epochs": 40, "refit_on": "train+direction"}, "move only": _MOVE}
    variants |= {"move only, rank 20": {**cheap, **_MOVE}, "published recipe": _PUBLISHED}
    problems: dict[str, Settings] = {
        "data cleaning, digits": {"problem": "data_cleaning", "warmup_epochs": 200, "learning_rate": 0.05},
        "per-feature L2, breast cancer": {
            "problem": "regression",
            "problem_options": {"task": "logistic", "per": "feature", "num_noise_features": 30},
            "warmup_epochs": 200,
            "learning_rate": 0.05,
        },
        "per-feature ridge, diabetes": {
            "problem": "regression",
            "problem_options": {"task": "ridge", "per": "feature"},
            "warmup_epochs": 200,
            "learning_rate": 0.05,
        },
        "network, digits": {"problem": "network", "warmup_epochs": 150, "learning_rate": 0.01},
    }
    for setting, base in problems.items():
        yield from _cells(setting, {**exact, **base}, variants, seeds)


def ablations(seeds: range) -> Iterator[Cell]:
    """One choice of the method at a time, on the network on digits."""
    base = {
        "problem": "network",
        "backend": "interior_point",
        "backend_options": {"rtol": 1e-6},
        "curvature": "exact",
        "slack": [1e-3],
        "warmup_epochs": 150,
        "learning_rate": 0.01,
        **_MOVE,
    }
    variants: dict[str, Settings] = {"LiFT": {}}
    variants |= {f"rows {share:.0%}": {"rows": share} for share in (0.1, 0.01)}
    models: dict[str, Settings] = {name: {} for name in ("gauss_newton", "diagonal", "sr1")}
    models |= {"low_rank": {"rank": 30, "definiteness": "raw"}, "fisher": {"samples": 300}}
    variants |= {
        f"curvature {name}": {"curvature": name, "curvature_options": options} for name, options in models.items()
    }
    variants |= {f"ρ = {slack:g}": {"slack": [slack]} for slack in (0.0, 1e-2, 1e-1, 1.0)}
    variants |= {"ρ by path": {"slack": [0.0, 1e-3, 1e-2, 1e-1]}, "three rounds": {"rounds": 3}}
    variants |= {"refit on train": {"refit_epochs": 40}, "refit on train + direction": {**_REFIT, "refit_epochs": 40}}
    variants |= {
        f"backend {name}": {"backend": name, "backend_options": options}
        for name, options in (("highs", {"rtol": 1e-6}), ("pyomo", {"rtol": 1e-6}), ("pdlp", {"rtol": 1e-4}))
    }
    yield from _cells("network, digits", base, variants, seeds)


def language(seeds: range) -> Iterator[Cell]:
    """The bundled GPT-2 on WikiText-2: training share x tuned blocks x initial strength.

    Pruned to what two cores can do: shares of 1 and 5 % of the training articles, last block and all blocks, L2-SP per
    tensor, evaluation on parts of the validation and test articles.
    """
    limits = {"direction": 27_000, "selection": 15_000, "test": 30_000}
    curvature = {"rank": 8, "num_probes": 1, "share": 0.125, "definiteness": "clamped"}
    variants = {"LiFT": _REFIT, "move only": _MOVE, "published recipe": _PUBLISHED}
    for share in (0.01, 0.05):
        for blocks, label in ((None, "last block"), ([0, 1, 2, 3], "all blocks")):
            for strength in (1e-4, 1e-2):
                options = {"train_share": share, "initial_strength": strength, "max_tokens": limits}
                options |= {} if blocks is None else {"blocks": blocks}
                base = {
                    "problem": "gpt2_wikitext2",
                    "problem_options": options,
                    "curvature_options": {**curvature, "share": curvature["share"] * min(1.0, 0.01 / share)},
                    "hyper_radius": 3.0,
                    "warmup_epochs": 2,
                }
                setting = f"{label}, {share:.0%} of the articles, strength {strength:g}"
                yield from _cells(setting, base, variants, seeds)


PLANS: Mapping[str, Callable[[range], Iterator[Cell]]] = MappingProxyType(
    {"small": small, "ablations": ablations, "language": language}
)


def make_plan(name: str, *, seeds: int, only: str = "") -> list[Cell]:
    """The cells of a plan, all variants of one seed before the next seed.

    Args:
        name: one of `PLANS`.
        seeds: how many, from 0 on.
        only: regular expression; cells whose ``"setting | variant"`` it does not find are left out.

    Raises:
        ValueError: for an unknown plan, fewer than one seed, a bad expression, or one that leaves nothing.

    >>> len(make_plan("small", seeds=2, only="ridge.*LiFT"))
    2
    """
    if name not in PLANS:
        raise ValueError(f"plan: expected one of {', '.join(PLANS)}, got {name!r}")
    if seeds < 1:
        raise ValueError(f"seeds: expected at least 1, got {seeds}")
    try:
        wanted = re.compile(only)
    except re.error as error:
        raise ValueError(f"only: expected a regular expression, got {only!r} ({error})") from error
    cells = [cell for cell in PLANS[name](range(seeds)) if wanted.search(f"{cell.setting} | {cell.variant}")]
    if not cells:
        raise ValueError(f"only: expected part of a 'setting | variant' of the plan, got {only!r}, which is in none")
    return sorted(cells, key=lambda cell: cell.seed)
