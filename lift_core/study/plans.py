"""The plans: which cells a study has. Everything a cell needs to be run again stands in it as JSON values."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from types import MappingProxyType
from typing import Any

from lift_core.presets import ONE_BATCH, PRESETS

Settings = Mapping[str, Any]

PRESET_DECIDES = (
    "curvature", "curvature_options", "slack", "delta", "unit_norm", "hyper_radius", "weights_radius", "relative",
    "rows", "kappa", "line_search", "refit_epochs", "tolerance",
)  # fmt: skip
"""Settings that a variant with a preset does not take from its plan."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run.

    Attributes:
        setting: what the table is about: problem, data, start.
        variant: how LiFT is run; one variant of a setting brings the controls along.
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
        words = (
            re.sub(r"[^a-z0-9.%]+", "-", text.lower().replace("ρ", "rho")).strip("-")
            for text in (self.setting, self.variant)
        )
        return "_".join((*words, str(self.seed))).replace("%", "pc")

    def without_controls(self) -> Cell:
        """The same run alone: controls start where LiFT does, and have no part in it."""
        kept = {key: value for key, value in self.settings.items() if key not in ("more_controls", "only_controls")}
        return replace(self, settings={**kept, "controls": False})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _cells(setting: str, base: Settings, variants: Mapping[str, Settings], seeds: range) -> Iterator[Cell]:
    """Every variant at every seed, the first one with controls; ``preset`` among the settings names a preset."""
    for number, (variant, changes) in enumerate(variants.items()):
        preset = changes.get("preset")
        left_to_preset = PRESET_DECIDES if preset else ()
        merged = {key: value for key, value in base.items() if key not in left_to_preset}
        merged |= {key: value for key, value in changes.items() if key != "preset"}
        merged |= {"controls": number == 0, "threads": 1}
        if not merged["controls"]:
            for key in ("more_controls", "only_controls"):
                merged.pop(key, None)
        for seed in seeds:
            options = {**merged.get("problem_options", {}), "seed": seed}
            settings = {**merged, "problem_options": options, "seed": seed}
            yield Cell(setting=setting, variant=variant, seed=seed, settings=settings, preset=preset)


_BOTH: Settings = {"refit_on": "train+direction"}
_MOVE: Settings = {"refit_epochs": 0, "rounds": 1}
_PUBLISHED: Settings = {"preset": "published", "rounds": 1}
_LIMITS: Settings = {"direction": 27_000, "selection": 15_000, "test": 30_000}
"""Tokens for evaluation that two cores can afford."""
_UNREAD: Settings = {
    "max_tokens": {split: _LIMITS[split] for split in ("direction", "selection")},
    "skip_tokens": {"test": _LIMITS["test"]},
}
"""The same for choosing, and all test tokens behind those."""


def small(seeds: range) -> Iterator[Cell]:
    """Problems with known answers: every control at LiFT's own budget.

    The exact Hessian where it is small, a Krylov space of 20 vectors where it would cost hundreds of products. The
    regressions start from zero weights, and stop before they have converged to the last digit: at the exact solution
    Adam would blow rounding up to steps of its full size, and the published recipe would take curvature from them.
    """
    common = {
        "backend": "interior_point",
        "backend_options": {"rtol": 1e-4},
        "slack": [0.0, 1e-3, 1e-2, 1e-1],
        "hyper_radius": 2.0,
        "more_controls": True,
        **_BOTH,
    }
    few: Settings = {"curvature": "low_rank", "curvature_options": {"rank": 20, "num_probes": 2}}
    exact: Settings = {"curvature": "exact"}
    regression: Settings = {
        "problem": "regression", "warmup_epochs": 200, "learning_rate": 0.05, "refit_epochs": 40, **exact,
    }  # fmt: skip
    breast_cancer = {"task": "logistic", "per": "feature", "num_noise_features": 30, "start": "zero"}
    diabetes = {"task": "ridge", "per": "feature", "start": "zero"}
    cleaning = {"rounds": 6, "hyper_radius": 1.0, "slack": [0.0, 1e-2, 1e-1, 1.0], "refit_epochs": 3}
    problems: dict[str, Settings] = {
        "data cleaning, digits": {
            "problem": "data_cleaning", "warmup_epochs": 200, "learning_rate": 0.05, **few, **cleaning,
        },
        "per-feature L2, breast cancer": {**regression, "problem_options": breast_cancer},
        "per-feature ridge, diabetes": {**regression, "problem_options": diabetes, "warmup_epochs": 60},
        "network, digits": {
            "problem": "network", "warmup_epochs": 150, "learning_rate": 0.01, **few, "rounds": 3, "refit_epochs": 20,
        },
    }  # fmt: skip
    for setting, base in problems.items():
        variants: dict[str, Settings] = {"LiFT": {}, "move only": _MOVE, "published recipe": _PUBLISHED}
        if base.get("rounds", 1) > 1:
            variants |= {
                "exact Hessian, one round": {**exact, "curvature_options": {}, "rounds": 1, "refit_epochs": 40}
            }
        yield from _cells(setting, {**common, **base}, variants, seeds)


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
    variants |= {"refit on train": {"refit_epochs": 40}, "refit on train + direction": {**_BOTH, "refit_epochs": 40}}
    variants |= {
        f"backend {name}": {"backend": name, "backend_options": options}
        for name, options in (("highs", {"rtol": 1e-6}), ("pyomo", {"rtol": 1e-6}), ("pdlp", {"rtol": 1e-4}))
    }
    yield from _cells("network, digits", base, variants, seeds)


def language(seeds: range, model: str | None = None) -> Iterator[Cell]:
    """GPT-2 on WikiText-2: training share x tuned blocks x initial strength, L2-SP per tensor.

    LiFT is the preset ``refit``, see `lift_core.presets`.

    For the bundled model, pruned to what two cores can do: shares of 1, 5 and 25 % of the training articles; last, last
    two and all blocks; evaluation on parts of the validation and test articles. Another ``model`` gets 5, 25 and 100 %,
    its last block, whole splits and blocks of 1,024 tokens.
    """
    variants: dict[str, Settings] = {
        "LiFT": {},
        "λ moves in any case": {"tolerance": 0.0},
        "move only, ρ = 0.01": {**_MOVE, "slack": [1e-2], "weights_radius": 0.1},
        "published recipe": _PUBLISHED,
    }
    common: Settings = {"max_tokens": _LIMITS}
    if model is not None:
        common = {"model": model, "max_tokens": None, "block_length": 1024, "batch_blocks": 2}
    tuned: dict[str, Settings] = {"last block": {}}
    tuned |= {} if model is not None else {"last 2 blocks": {"blocks": [2, 3]}, "all blocks": {"blocks": [0, 1, 2, 3]}}
    for share, (label, blocks), strength in product(
        (0.01, 0.05, 0.25) if model is None else (0.05, 0.25, 1.0), tuned.items(), (1e-4, 1e-2)
    ):
        base = {
            "problem": "gpt2_wikitext2",
            "problem_options": {"train_share": share, "initial_strength": strength, **common, **blocks},
            **PRESETS["refit"],
        }
        setting = f"{label}, {share:.0%} of the articles, strength {strength:g}"
        yield from _cells(setting if model is None else f"{model}, {setting}", base, variants, seeds)


def articles(seeds: range) -> Iterator[Cell]:
    """The bundled GPT-2's last block with a weight per training article, half of which are corrupted.

    LiFT is the preset ``refit``. Where a multiple of the identity stands in for the Hessian along ∇F, a weight goes up
    if the gradient of its article points with that of the direction data, and down if against it.
    """
    identity: Settings = {"curvature_options": {"rank": 1, "bulk": 1.0, "definiteness": "absolute", "share": ONE_BATCH}}
    variants: dict[str, Settings] = {
        "LiFT": {},
        "the identity for the Hessian": identity,
        "published recipe": _PUBLISHED,
    }
    for share in (0.05, 0.25):
        options = {"train_share": share, "max_tokens": _LIMITS, "sampled_blocks": 4}
        base = {"problem": "noisy_wikitext2", "problem_options": options, **PRESETS["refit"]}
        yield from _cells(f"last block, {share:.0%} of the articles, half of them noisy", base, variants, seeds)


def unread(seeds: range) -> Iterator[Cell]:
    """The last word on the language model: test tokens that no other plan reads, beside the strongest controls alone.

    The settings are those of the plans ``articles`` and ``language``, last block. Of the controls there, all that train
    on train + direction data stay: in each table one of them is the best.
    """
    chosen: Settings = {"only_controls": r"train \+ direction"}
    for cell in (*articles(seeds), *language(seeds)):
        if cell.variant == "LiFT" and re.search(r"last block, (5% .*noisy|2?5% .*strength 0\.01)", cell.setting):
            options = {**cell.settings["problem_options"], **_UNREAD}
            yield replace(cell, settings={**cell.settings, **chosen, "problem_options": options})


PLANS: Mapping[str, Callable[..., Iterator[Cell]]] = MappingProxyType(
    {"small": small, "ablations": ablations, "language": language, "articles": articles, "unread": unread}
)


def make_plan(name: str, *, seeds: range, only: str = "", model: str | None = None) -> list[Cell]:
    """The cells of a plan, all variants of one seed before the next seed.

    Args:
        name: one of `PLANS`.
        seeds: of the runs.
        only: regular expression; cells whose ``"setting | variant"`` it does not find are left out.
        model: hub name or folder in place of the bundled GPT-2, for the plan ``language``.

    Raises:
        ValueError: for an unknown plan, no seed, a bad expression, or one that leaves nothing.

    >>> len(make_plan("small", seeds=range(2), only="ridge.*LiFT"))
    2
    """
    if name not in PLANS:
        raise ValueError(f"plan: expected one of {', '.join(PLANS)}, got {name!r}")
    if model is not None and name != "language":
        raise ValueError(f"model: expected none for the plan {name!r}, got {model!r}; only language takes one")
    if not seeds:
        raise ValueError(f"seeds: expected at least one, got {seeds}")
    try:
        wanted = re.compile(only)
    except re.error as error:
        raise ValueError(f"only: expected a regular expression, got {only!r} ({error})") from error
    options = {} if model is None else {"model": model}
    cells = [cell for cell in PLANS[name](seeds, **options) if wanted.search(f"{cell.setting} | {cell.variant}")]
    if not cells:
        raise ValueError(f"only: expected part of a 'setting | variant' of the plan, got {only!r}, which is in none")
    return sorted(cells, key=lambda cell: cell.seed)
