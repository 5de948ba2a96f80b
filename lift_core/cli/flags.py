"""The flags of ``lift run``. None of them has a default of its own: what is not given is left to `resolve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lift_core.cli.options import MAX_SEED, MAX_THREADS
from lift_core.cli.settings import CURVATURES, RunSettings
from lift_core.presets import PRESETS

_LP, _STEPS, _OUTPUT = "Direction LP", "Steps and training", "Output"


def _flag(help_text: str, *names: str, panel: str | None = None, default: object = None, **more: Any) -> Any:
    shown = {} if default is None else {"show_default": f"{default:g}" if isinstance(default, float) else str(default)}
    return typer.Option(*names, help=help_text, rich_help_panel=panel, **shown, **more)


Problem = Annotated[
    str | None, typer.Argument(help="A name of lift list, or MODULE:NAME.", show_default=RunSettings.problem)
]
ProblemSet = Annotated[
    list[str] | None,
    _flag("Option of the problem: a JSON value or text. Repeatable.", "--set", metavar="KEY=VALUE"),
]
Seed = Annotated[
    int | None, _flag("Of everything random but the problem.", default=RunSettings.seed, min=0, max=MAX_SEED)
]
Threads = Annotated[int | None, _flag("Threads of torch.", default="what torch chooses", min=1, max=MAX_THREADS)]

Out = Annotated[Path | None, _flag("Folder of the results.", default="runs/PROBLEM", metavar="DIR", panel=_OUTPUT)]
Resume = Annotated[
    Path | None, _flag("Continue the run in this folder, settings included.", metavar="DIR", panel=_OUTPUT)
]
SaveLP = Annotated[
    bool, _flag("Save every direction LP in DIR/lps, to be solved again or mailed.", "--save-lp", panel=_OUTPUT)
]
Quiet = Annotated[bool, _flag("Print the report's path alone.", "--quiet", panel=_OUTPUT)]

Preset = Annotated[str | None, _flag(f"Settings under one name, flags go first: {', '.join(PRESETS)}.", default="none")]

Select = Annotated[
    float | None,
    _flag("First choose this share of the weights, as lift select does, and tune it alone.", default="all of them",
          metavar="BUDGET"),
]  # fmt: skip
SelectSet = Annotated[
    list[str] | None,
    _flag("measure=forward, by=kind, max_size=4096, ...: flags of lift select. Repeatable.",
          "--select-set", metavar="KEY=VALUE"),
]  # fmt: skip

Backend = Annotated[
    str | None, _flag("A backend of lift list, or MODULE:NAME.", default=RunSettings.backend, panel=_LP)
]
BackendSet = Annotated[
    list[str] | None, _flag("Option of the backend. Repeatable.", "--backend-set", metavar="KEY=VALUE", panel=_LP)
]
Curvature = Annotated[
    str | None,
    _flag(f"Stands in for the training Hessian: {', '.join(CURVATURES)}.", default=RunSettings.curvature, panel=_LP),
]
CurvatureSet = Annotated[
    list[str] | None,
    _flag(
        "rank=64, share=0.25, definiteness=clamped, ... Repeatable.",
        "--curvature-set", metavar="KEY=VALUE", panel=_LP,
    ),
]  # fmt: skip
Slack = Annotated[
    str | None,
    _flag(
        "Ratios ρ in [0, 1]: 0 is the exact tangent, 1 is sign descent. The line search picks among them.",
        default=",".join(f"{slack:g}" for slack in RunSettings.slack), metavar="ρ,ρ,...", panel=_LP,
    ),
]  # fmt: skip
Delta = Annotated[
    float | None, _flag("One absolute δ, in units of the training gradient, in place of the ratios.",
          default="none", panel=_LP)
]  # fmt: skip
UnitNorm = Annotated[
    bool | None,
    _flag("Whether directions have unit norm before the line search.", "--unit-norm/--no-unit-norm",
          default="no-unit-norm", panel=_LP),
]  # fmt: skip
HyperRadius = Annotated[float | None, _flag("Δ_λ, in units of λ.", default=RunSettings.hyper_radius, panel=_LP)]
WeightsRadius = Annotated[float | None, _flag("Δ_θ, see --relative.", default=RunSettings.weights_radius, panel=_LP)]
Relative = Annotated[
    bool | None,
    _flag("Δ_θ in multiples of each tensor's rms.", "--relative/--absolute", default="absolute", panel=_LP),
]
Rows = Annotated[str | None, _flag("Kept optimality rows: all, or a share in (0, 1].", default="all", panel=_LP)]
Kappa = Annotated[
    float | None,
    _flag("Share of the training gradient that is removed as well.", default=RunSettings.kappa, panel=_LP),
]

LineSearch = Annotated[str | None, _flag("golden or armijo.", default=RunSettings.line_search, panel=_STEPS)]
MaxEvaluations = Annotated[
    int | None, _flag("Evaluations of one line search.", default=RunSettings.max_evaluations, panel=_STEPS)
]
LearningRate = Annotated[
    float | None, _flag("Adam's, in warm-up, refits and controls.", default=RunSettings.learning_rate, panel=_STEPS)
]
Averaging = Annotated[
    float | None,
    _flag(
        "Decay of the average of Adam's iterates in warm-up, refits and controls; 0: none.",
        default=RunSettings.averaging,
        panel=_STEPS,
    ),
]
WarmupEpochs = Annotated[
    int | None, _flag("Epochs before the first LP.", default=RunSettings.warmup_epochs, panel=_STEPS)
]
RefitEpochs = Annotated[
    float | None, _flag("Epochs that verify a move at its new λ.", default=RunSettings.refit_epochs, panel=_STEPS)
]
RefitAllIn = Annotated[
    bool | None,
    _flag("Whether --refit-epochs are the price of a whole round, evaluations aside: its direction is paid from them.",
          "--refit-all-in/--refit-beside", default="refit-beside", panel=_STEPS),
]  # fmt: skip
RefitOn = Annotated[
    str | None, _flag("Data of the refit: train or train+direction.", default=RunSettings.refit_on, panel=_STEPS)
]
RefitPatience = Annotated[
    int | None,
    _flag("Epochs without a new best that end a refit.", default=RunSettings.refit_patience, panel=_STEPS),
]
RefitReach = Annotated[
    str | None,
    _flag("One refit for each of these multiples of the direction of λ.", default="the move's own λ",
          metavar="s,s,...", panel=_STEPS),
]  # fmt: skip
Rounds = Annotated[int | None, _flag("LP steps, at most.", default=RunSettings.rounds, panel=_STEPS)]
Tolerance = Annotated[
    float | None,
    _flag("Share of the loss; where the LP promises no more, nothing moves.", default=RunSettings.tolerance,
          panel=_STEPS),
]  # fmt: skip
Controls = Annotated[
    bool | None,
    _flag("Whether to run the methods to compare with.", "--controls/--no-controls", default="controls", panel=_STEPS),
]
MoreControls = Annotated[
    bool | None,
    _flag("Also implicit differentiation from start to end, Optuna, TorchOpt.",
          "--more-controls/--no-more-controls",
          default="no-more-controls", panel=_STEPS),
]  # fmt: skip
OnlyControls = Annotated[
    str | None,
    _flag("Of these methods, those whose name it finds.", metavar="REGEX", default="(all)", panel=_STEPS),
]
ControlsRadius = Annotated[
    float | None,
    _flag("Δ_θ of the controls -gradient and -sign(gradient).", default="--weights-radius", panel=_STEPS),
]
