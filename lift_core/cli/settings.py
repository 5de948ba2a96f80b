"""The settings of ``lift run``: from flags or ``config.json`` to a `LocalSearch`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from lift_core.cli.options import MAX_THREADS, check_options, load_backend_with
from lift_core.controls import standard_controls
from lift_core.curvature import SR1, CurvatureModel, Exact, Fisher, GaussNewton, HessianDiagonal, LowRank
from lift_core.direction import Rows, TrustBox
from lift_core.implicit import ImplicitDescent
from lift_core.line_search import Armijo, GoldenSection, LineSearch
from lift_core.lp import LPBackend
from lift_core.moves import Move
from lift_core.presets import PRESETS
from lift_core.problem import BilevelProblem
from lift_core.records import CheckpointError, write_atomically
from lift_core.refit import Refit
from lift_core.search import LocalSearch
from lift_core.training import Trainer

CONFIG = "config.json"
CURVATURES = {model.name: model for model in (Exact, GaussNewton, LowRank, Fisher, SR1, HessianDiagonal)}
LineSearchName = Literal["golden", "armijo"]
RefitData = Literal["train", "train+direction"]


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Everything that decides what a run computes; names are those of the flags.

    Attributes:
        problem, problem_options: entry point or MODULE:NAME, and its keyword arguments.
        select, select_options: share of the weights to choose and tune alone, and the flags of ``lift select`` for it.
        backend, backend_options: same for the LP backend.
        curvature, curvature_options: same for the curvature model, one of `CURVATURES`.
        threads: of torch. Sums depend on it, so a resumed run uses the number it was started with.

    >>> RunSettings(problem="quadratic", slack=(0.0,)).seed
    0
    """

    problem: str = "gpt2_wikitext2"
    problem_options: dict[str, Any] = field(default_factory=dict)
    select: float | None = None
    select_options: dict[str, Any] = field(default_factory=dict)
    backend: str = "dual_newton"
    backend_options: dict[str, Any] = field(default_factory=dict)
    curvature: str = LowRank.name
    curvature_options: dict[str, Any] = field(default_factory=dict)
    slack: tuple[float, ...] = (0.0, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    delta: float | None = None
    unit_norm: bool = LocalSearch.unit_norm
    hyper_radius: float = TrustBox.hyper_radius
    weights_radius: float = TrustBox.weights_radius
    relative: bool = TrustBox.relative
    rows: Rows = "all"
    kappa: float = TrustBox.kappa
    line_search: LineSearchName = "golden"
    max_evaluations: int = LineSearch.max_evaluations
    learning_rate: float = Trainer.learning_rate
    averaging: float = Trainer.averaging
    warmup_epochs: int = LocalSearch.warmup_epochs
    refit_epochs: float = Refit.epochs
    refit_all_in: bool = Refit.all_in
    refit_on: RefitData = "train"
    refit_patience: int = Refit.patience
    refit_reach: tuple[float, ...] = Refit.reach
    rounds: int = LocalSearch.rounds
    tolerance: float = LocalSearch.tolerance
    controls: bool = True
    more_controls: bool = False
    only_controls: str = ""
    controls_radius: float | None = None
    seed: int = LocalSearch.seed
    threads: int = 1

    def __post_init__(self) -> None:
        if self.curvature not in CURVATURES:
            raise ValueError(f"--curvature: expected one of {', '.join(CURVATURES)}, got {self.curvature!r}")
        if self.line_search not in get_args(LineSearchName):
            raise ValueError(f"--line-search: expected golden or armijo, got {self.line_search!r}")
        if self.refit_on not in get_args(RefitData):
            raise ValueError(f"--refit-on: expected train or train+direction, got {self.refit_on!r}")
        if self.select is not None and not 0 < self.select <= 1:
            raise ValueError(f"--select: expected a share of the weights in (0, 1], got {self.select}")
        if self.select_options and self.select is None:
            raise ValueError("--select-set: expected together with --select BUDGET, got it alone")
        if self.only_controls and not self.controls:
            raise ValueError(f"--only-controls: expected together with controls, got {self.only_controls!r} without")
        try:
            re.compile(self.only_controls)
        except re.error as error:
            raise ValueError(
                f"--only-controls: expected a regular expression, got {self.only_controls!r} ({error})"
            ) from error
        if self.controls_radius is not None and not 0 < self.controls_radius < math.inf:
            raise ValueError(f"--controls-radius: expected a positive number, got {self.controls_radius}")
        if not 1 <= self.threads <= MAX_THREADS:
            raise ValueError(f"--threads: expected a number from 1 to {MAX_THREADS}, got {self.threads}")

    def search(self) -> LocalSearch:
        """The search that these settings describe.

        Raises:
            ValueError: for unknown names, options or values.
        """
        box = TrustBox(
            hyper_radius=self.hyper_radius,
            weights_radius=self.weights_radius,
            relative=self.relative,
            rows=self.rows,
            kappa=self.kappa,
        )
        curvature = self._curvature()
        line_search = Armijo if self.line_search == "armijo" else GoldenSection
        return LocalSearch(
            backend=self._backend(),
            curvature=curvature,
            slack=self.slack,
            delta=self.delta,
            unit_norm=self.unit_norm,
            box=box,
            line_search=line_search(max_evaluations=self.max_evaluations),
            trainer=Trainer(learning_rate=self.learning_rate, averaging=self.averaging),
            warmup_epochs=self.warmup_epochs,
            refit=self._refit(),
            rounds=self.rounds,
            tolerance=self.tolerance,
            controls=self._controls(self._controls_box(box), curvature.share),
            seed=self.seed,
        )

    def _refit(self) -> Refit:
        return Refit(
            epochs=float(self.refit_epochs),  # a whole number has one spelling in the fingerprint of a run
            all_in=self.refit_all_in,
            splits=("train", "direction") if self.refit_on == "train+direction" else ("train",),
            patience=self.refit_patience,
            reach=self.refit_reach,
        )

    def _controls_box(self, box: TrustBox) -> TrustBox:
        """The search's own, but for the radius of the weights where ``controls_radius`` gives another."""
        return box if self.controls_radius is None else replace(box, weights_radius=self.controls_radius)

    def _controls(self, box: TrustBox, share: float) -> tuple[Move, ...]:
        """Those whose name ``only_controls`` finds."""
        if not self.controls:
            return ()
        found = self._all_controls(box, share)
        chosen = tuple(control for control in found if re.search(self.only_controls, control.name))
        if not chosen:
            names = ", ".join(control.name for control in found)
            raise ValueError(f"--only-controls: expected part of one of {names}; got {self.only_controls!r}")
        return chosen

    def _all_controls(self, box: TrustBox, share: float) -> tuple[Move, ...]:
        if not self.more_controls:
            return standard_controls(box, share=share)
        try:
            from lift_core.parzen import ParzenSearch
            from lift_core.torchopt_descent import TorchOptDescent
        except ImportError as error:
            raise ImportError(f"--more-controls: {error}; pip install 'lift-bilevel[controls]'") from error
        implicit = [ImplicitDescent(share=share), TorchOptDescent(share=share)]
        if len(splits := self._refit().splits) > 1:  # no control sees less data than the search
            name = f"{ImplicitDescent.name} on train + direction"
            implicit.append(ImplicitDescent(share=share, splits=splits, name=name))
        return (*standard_controls(box, share=share), *implicit, ParzenSearch())

    def _backend(self) -> LPBackend:
        return load_backend_with("--backend-set", self.backend, **self.backend_options)

    def _curvature(self) -> CurvatureModel:
        model = CURVATURES[self.curvature]
        check_options("--curvature-set", model, self.curvature_options)
        return model(**self.curvature_options)

    def to_json(self) -> dict[str, Any]:
        """JSON values, slacks as a list."""
        return asdict(self) | {"slack": list(self.slack), "refit_reach": list(self.refit_reach)}


def resolve(given: Mapping[str, Any], problem: BilevelProblem, *, preset: str | None = None) -> RunSettings:
    """What the user gave, else what the preset says, else what the problem suggests, else the defaults.

    Options of a backend or curvature model are merged in the same order, and dropped where another one is chosen.

    Raises:
        ValueError: for an unknown preset, or where the problem suggests something that is no setting.
    """
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"--preset: expected one of {', '.join(PRESETS)}, got {preset!r}")
    suggested: dict[str, Any] = dict(getattr(problem, "suggested_search", {}))
    unknown = suggested.keys() - {setting.name for setting in fields(RunSettings)}
    if unknown:
        raise ValueError(f"{type(problem).__name__}.suggested_search: no such settings: {', '.join(sorted(unknown))}")
    if "slack" in given and given.get("delta") is not None:
        raise ValueError(f"--delta: expected without --slack, which it stands for, got {given['delta']} and --slack")
    layers = (suggested, {} if preset is None else PRESETS[preset], given)
    merged = {name: value for layer in layers for name, value in layer.items()}
    if "slack" in given:
        merged["delta"] = None
    for choice in ("backend", "curvature"):
        merged[f"{choice}_options"] = _options(choice, layers)
    return _from_mapping(merged)


def _options(choice: str, layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Options of a backend or curvature model, later layers first; those of another choice are dropped."""
    chosen, options = getattr(RunSettings, choice), {}
    for layer in layers:
        before, chosen = chosen, layer.get(choice, chosen)
        options = (options if chosen == before else {}) | layer.get(f"{choice}_options", {})
    return options


def write_config(folder: Path, settings: RunSettings) -> None:
    write_atomically(folder / CONFIG, json.dumps(settings.to_json(), indent=2) + "\n")


def read_config(folder: Path) -> RunSettings:
    """The settings of the run in a folder.

    Raises:
        CheckpointError: if there are none, or the file is damaged.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(
            f"{path}: not found, so there is no run to resume; start one with lift run --out {folder}"
        )
    try:
        values = dict(json.loads(path.read_text(encoding="utf-8")))
        check_options(CONFIG, RunSettings, values)
        return _from_mapping(values)
    except (UnicodeDecodeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged or not written by lift run ({error})") from error


def _from_mapping(mapping: Mapping[str, Any]) -> RunSettings:
    """Through JSON, so that settings read back from a file equal those that were written."""
    values: dict[str, Any] = json.loads(json.dumps(dict(mapping)))
    for name in ("slack", "refit_reach"):
        numbers = values.get(name, getattr(RunSettings, name))
        values[name] = tuple(numbers) if isinstance(numbers, (list, tuple)) else (float(numbers),)
    return RunSettings(**values)
