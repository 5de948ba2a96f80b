"""``lift run``: one local search from problem to report, resumable at any moment."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from lift_core.cli import flags
from lift_core.cli.display import SearchDisplay, plain_console, print_table
from lift_core.cli.folders import alone_in
from lift_core.cli.listing import require_packages
from lift_core.cli.options import load_problem_with, parse_numbers, parse_pairs, parse_value
from lift_core.cli.saving import SavingBackend
from lift_core.cli.select import SELECTION, make_selector, selection_progress
from lift_core.cli.settings import CONFIG, RunSettings, read_config, resolve, write_config
from lift_core.problem import BilevelProblem
from lift_core.provenance import provenance
from lift_core.records import CHECKPOINT, CheckpointError, SearchStatus, write_atomically
from lift_core.selection import Selection, apply_selection

RESULT, REPORT = "result.json", "report.html"
LPS = "lps"
EXAMPLE = "Example: lift run network --out runs/network --backend highs --warmup-epochs 100 --learning-rate 0.01"


def run(
    context: typer.Context,
    problem: flags.Problem = None,
    problem_options: flags.ProblemSet = None,
    out: flags.Out = None,
    resume: flags.Resume = None,
    quiet: flags.Quiet = False,
    save_lp: flags.SaveLP = False,
    preset: flags.Preset = None,
    select: flags.Select = None,
    select_options: flags.SelectSet = None,
    backend: flags.Backend = None,
    backend_options: flags.BackendSet = None,
    curvature: flags.Curvature = None,
    curvature_options: flags.CurvatureSet = None,
    slack: flags.Slack = None,
    delta: flags.Delta = None,
    unit_norm: flags.UnitNorm = None,
    hyper_radius: flags.HyperRadius = None,
    weights_radius: flags.WeightsRadius = None,
    relative: flags.Relative = None,
    rows: flags.Rows = None,
    kappa: flags.Kappa = None,
    line_search: flags.LineSearch = None,
    max_evaluations: flags.MaxEvaluations = None,
    learning_rate: flags.LearningRate = None,
    averaging: flags.Averaging = None,
    warmup_epochs: flags.WarmupEpochs = None,
    refit_epochs: flags.RefitEpochs = None,
    refit_all_in: flags.RefitAllIn = None,
    refit_on: flags.RefitOn = None,
    refit_patience: flags.RefitPatience = None,
    refit_reach: flags.RefitReach = None,
    rounds: flags.Rounds = None,
    tolerance: flags.Tolerance = None,
    controls: flags.Controls = None,
    more_controls: flags.MoreControls = None,
    only_controls: flags.OnlyControls = None,
    controls_radius: flags.ControlsRadius = None,
    seed: flags.Seed = None,
    threads: flags.Threads = None,
) -> None:
    """Warm up, move hyperparameters and weights along the direction LP, and report it beside its controls.

    With --select, only a share of the weights that lift select would choose is tuned: selection.json names it.

    DIR receives config.json, checkpoint.safetensors (as the run goes), result.json and report.html; with --save-lp
    also lps/1.safetensors, lps/2.safetensors and so on, which `lift compare DIR/lps` solves again.
    """
    given = _given(context.params)
    if resume is not None:
        if given or out is not None or preset is not None:
            other = sorted(given) or ["out" if preset is None else "preset"]
            raise ValueError(f"--resume: takes every setting from {resume / CONFIG}; leave out {', '.join(other)}")
        folder, settings = resume, read_config(resume)
        built = load_problem_with("--set", settings.problem, **settings.problem_options)
    else:
        name = given.get("problem", RunSettings.problem)
        built = load_problem_with("--set", name, **given.get("problem_options", {}))
        settings = resolve({"threads": torch.get_num_threads()} | given, built, preset=preset)
        folder = out or Path("runs") / name.rpartition(":")[2]
    require_packages(settings.backend)
    with alone_in(folder):
        settings.search()  # refuses bad values before a folder is looked at
        if resume is None:
            _refuse_another_run(folder, settings)
        raise typer.Exit(_execute(folder, settings, built, quiet=quiet, save_lps=save_lp))


def _execute(folder: Path, settings: RunSettings, problem: BilevelProblem, *, quiet: bool, save_lps: bool) -> int:
    """Run to the end, or to an interruption; the exit code."""
    torch.set_num_threads(settings.threads)
    made_by = provenance()
    search = settings.search()
    if save_lps:
        search = replace(search, backend=SavingBackend(inner=search.backend, folder=folder / LPS))
    write_config(folder, settings)
    errors = plain_console(stderr=True, quiet=quiet)
    try:
        if settings.select is not None:
            problem = _selected(folder, settings, problem, errors)
        with SearchDisplay(search, errors) as display:
            result = search.run(problem, folder=folder, on_progress=None if quiet else display)
        from lift_core.report import render_report, report_document, to_json_text  # matplotlib takes a second to import

        document = report_document(result, problem, search, settings=settings.to_json(), provenance=made_by)
        write_atomically(folder / RESULT, to_json_text(document))
        write_atomically(folder / REPORT, render_report(document))
    except KeyboardInterrupt:
        go_on = f"lift run --resume {shlex.quote(str(folder))}{' --save-lp' if save_lps else ''}"
        typer.echo(f"lift: interrupted; continue with: {go_on}", err=True)
        return 130
    if not quiet:
        print_table(_methods_table(document))
        for sentence in document["warnings"]:
            typer.echo(f"Note: {sentence}")
        typer.echo(f"Outcome: {document['status_text']}.")
    typer.echo(f"Report: {folder / REPORT}")
    return 1 if result.status in (SearchStatus.DIVERGED, SearchStatus.NO_DIRECTION) else 0


def _selected(folder: Path, settings: RunSettings, problem: BilevelProblem, console: Console) -> BilevelProblem:
    """The problem with the selected weights alone; a selection that lies in the folder is taken as it is."""
    assert settings.select is not None
    selector = make_selector(settings.select_options, seed=settings.seed)
    path = folder / SELECTION
    if not path.exists():
        with selection_progress(console) as on_spend:
            outcome = selector.select(problem, settings.select, on_spend=on_spend)
        outcome.selection.save(path)
    selection = Selection.load(path)
    console.print(
        f"selected {selection.num_selected:,} of {selection.num_weights:,} weights in {len(selection.groups)} groups",
        highlight=False,
    )
    return apply_selection(selection, problem, depth="exact")


def _given(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the user gave, parsed."""
    given = {key: value for key, value in parameters.items() if value not in (None, [], ())}
    for key in ("out", "resume", "quiet", "save_lp", "preset"):
        given.pop(key, None)
    for key, flag in (
        ("problem", "--set"),
        ("select", "--select-set"),
        ("backend", "--backend-set"),
        ("curvature", "--curvature-set"),
    ):
        if f"{key}_options" in given:
            given[f"{key}_options"] = parse_pairs(flag, given[f"{key}_options"])
    for key in ("slack", "refit_reach"):
        if key in given:
            given[key] = parse_numbers(f"--{key.replace('_', '-')}", given[key])
    if "rows" in given:
        given["rows"] = parse_value(given["rows"])
    return given


def _refuse_another_run(folder: Path, settings: RunSettings) -> None:
    """A folder holds one run: nothing is overwritten by a run with other settings."""
    if (folder / CONFIG).exists():
        there, here = read_config(folder).to_json(), settings.to_json()
        different = [f"{key} is {there[key]} there and {here[key]} here" for key in here if there[key] != here[key]]
        if different and any((folder / name).exists() for name in (CHECKPOINT, RESULT, SELECTION)):
            raise CheckpointError(
                f"--out: {folder} holds a run with other settings ({'; '.join(different)}); continue that one with "
                f"lift run --resume {shlex.quote(str(folder))}, or choose another folder"
            )
    elif (folder / CHECKPOINT).exists():
        raise CheckpointError(f"--out: {folder} holds a checkpoint without {CONFIG}; choose another folder")
    elif (folder / SELECTION).exists():
        raise CheckpointError(f"--out: {folder} holds a selection of lift select; choose another folder")


def _methods_table(document: Mapping[str, Any]) -> Table:
    from lift_core.report.tables import number, seconds

    metric = document["problem"]["metric_name"]
    title, caption = f"LiFT on {document['problem']['name']}", "costs in passes over the training split"
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD)
    table.add_column("method", no_wrap=True)
    for head in (f"validation {metric}", f"test {metric}", f"train {metric}", "gradients", "HVPs", "time"):
        table.add_column(head, justify="right")
    table.add_column("accepted")
    for method in document["methods"]:
        losses = (number(method["metric"][split]) for split in ("selection", "test", "train"))
        spent = (number(method["cost"]["gradients"]), number(method["cost"]["hvps"]), seconds(method["seconds"]))
        style = "bold" if method["method"] == "LiFT" else ""
        table.add_row(method["method"], *losses, *spent, method["label"], style=style)
    return table
