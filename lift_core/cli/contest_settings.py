"""The settings of ``lift compare``: from flags or ``config.json`` to a `Contest`."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import typer

from lift_core.cli.listing import missing_packages, require_packages
from lift_core.cli.options import load_backend_with, parse_pairs
from lift_core.comparison import Contender, Contest, Program, direction_family, program_files
from lift_core.plugins import Plugin, install_command, list_plugins, load_backend
from lift_core.records import CheckpointError, write_atomically

CONFIG = "config.json"
DENSE = "dense"


@dataclass(frozen=True, kw_only=True)
class ContestSettings:
    """Everything that decides what a comparison computes; names are those of the flags.

    Attributes:
        lps: files, folders, patterns.
        family: ``"direction"``, or None for files alone.
        ranks: of the generated programs; None stands for dense curvature.
        backends: ``NAME`` or ``LABEL=NAME``; None: all that are installed.
        backend_options: options by label.
    """

    lps: tuple[str, ...] = ()
    family: str | None = None
    sizes: tuple[int, ...] = (50, 200)
    ranks: tuple[int | None, ...] = (8,)
    conditions: tuple[float, ...] = (200.0,)
    slacks: tuple[float, ...] = (1e-2,)
    num_hyper: int = 4
    seed: int = 0
    backends: tuple[str, ...] | None = None
    backend_options: dict[str, dict[str, Any]]
    rtols: tuple[float, ...] = (1e-4, 1e-6)
    time_limit: float = 60.0
    repeats: int = 3

    def __post_init__(self) -> None:
        if not 0 < self.time_limit < math.inf:
            raise ValueError(
                "--time-limit: expected a finite number of seconds above 0, which unsolved LPs count, got "
                f"{self.time_limit}"
            )

    def contest(self, folder: Path | None) -> Contest:
        """The comparison that these settings describe.

        Raises:
            ValueError: for unknown names, options, files or values.
            ImportError: if a backend that was asked for lacks its package.
        """
        return Contest(
            programs=self._programs(), contenders=self._contenders(), repeats=self.repeats, folder=folder
        )  # fmt: skip

    def _programs(self) -> list[Program]:
        if not self.lps and self.family is None:
            raise ValueError("LP, --family: expected files, or a family to generate, or both")
        if self.family not in (None, "direction"):
            raise ValueError(f"--family: expected direction, got {self.family!r}")
        programs = program_files(self.lps, read_mps=import_module("backends").read_mps) if self.lps else []
        if self.family is not None:
            programs += direction_family(
                sizes=self.sizes, ranks=self.ranks, conditions=self.conditions, slacks=self.slacks,
                num_hyper=self.num_hyper, seed=self.seed,
            )  # fmt: skip
        return programs

    def _contenders(self) -> list[Contender]:
        """Every backend at every tolerance."""
        names = self._names()
        unused = self.backend_options.keys() - names.keys()
        if unused:
            raise ValueError(f"--backend-set: {', '.join(sorted(unused))} is not among the backends {', '.join(names)}")
        for rtol in self.rtols:
            if not 0 < rtol < 1:
                raise ValueError(f"--rtol: expected numbers in (0, 1), got {rtol}")
        for label, options in self.backend_options.items():
            taken = sorted(options.keys() & {"rtol", "time_limit"})
            if taken:
                raise ValueError(
                    f"--backend-set {label}.{taken[0]}: it is the same for all; use --{taken[0].replace('_', '-')}"
                )
        return [
            Contender(
                label,
                load_backend_with(
                    f"--backend-set {label}", name, rtol=rtol, time_limit=self.time_limit,
                    **self.backend_options.get(label, {}),
                ),
            )
            for label, name in names.items()
            for rtol in self.rtols
        ]  # fmt: skip

    def _names(self) -> dict[str, str]:
        """The chosen backends by label, or all that can be made."""
        if self.backends is None:
            return {plugin.name: plugin.name for plugin in list_plugins("backends") if _is_available(plugin)}
        pairs = [entry.strip().partition("=") for entry in self.backends]
        for entry, (label, equals, name) in zip(self.backends, pairs, strict=True):
            if not label or (equals and not name):
                raise ValueError(f"--backends: expected LABEL=NAME or NAME, got {entry!r}")
        names = {label if equals else entry_label(label): name or label for label, equals, name in pairs}
        if len(names) < len(pairs):
            raise ValueError(f"--backends: expected different labels, got {', '.join(self.backends)}")
        for name in names.values():
            require_packages(name)
        return names


def entry_label(name: str) -> str:
    """What tables call a backend that is given as NAME or MODULE:NAME.

    >>> entry_label("highs"), entry_label("my_package.solver:MySolver")
    ('highs', 'MySolver')
    """
    return name.rpartition(":")[2]


def options_by_label(pairs: Iterable[str]) -> dict[str, dict[str, Any]]:
    """``["highs.method=ipm", ...]`` as options by label.

    Raises:
        ValueError: where a pair is not LABEL.KEY=VALUE.
    """
    options: dict[str, dict[str, Any]] = {}
    for key, value in parse_pairs("--backend-set", pairs).items():
        label, dot, option = key.rpartition(".")
        if not dot:
            raise ValueError(f"--backend-set: expected NAME.KEY=VALUE, got {key}={value}")
        options.setdefault(label, {})[option] = value
    return options


def keep_settings(folder: Path, settings: ContestSettings) -> None:
    """Write ``config.json``; a folder holds one comparison, so one with other settings is refused.

    Raises:
        CheckpointError: naming what differs.
    """
    here = _to_json(settings)
    if (folder / CONFIG).exists():
        there = _to_json(read_settings(folder))
        different = [f"{key} is {there[key]} there and {here[key]} here" for key in here if there[key] != here[key]]
        if different:
            raise CheckpointError(
                f"--out: {folder} holds a comparison with other settings ({'; '.join(different)}); continue that one "
                f"with lift compare --resume {shlex.quote(str(folder))}, or choose another folder"
            )
    write_atomically(folder / CONFIG, json.dumps(here, indent=2, sort_keys=True) + "\n")


def read_settings(folder: Path) -> ContestSettings:
    """The settings of the comparison in a folder.

    Raises:
        CheckpointError: if there are none, or the file is damaged or of another command.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{path}: not found, so there is no comparison to resume")
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("command", "run") != "compare":
            raise TypeError("it belongs to another command")
        tuples: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return ContestSettings(**tuples)
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged or not written by lift compare ({error})") from error


def _to_json(settings: ContestSettings) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(settings) | {"command": "compare"}))


def _is_available(plugin: Plugin) -> bool:
    missing = missing_packages(plugin.value.partition(":")[0])
    if missing:
        typer.echo(f"lift: left out: {plugin.name}, which needs {install_command(*missing)}", err=True)
        return False
    try:
        load_backend(plugin.name)
    except (ImportError, ValueError) as error:  # an option has no default
        typer.echo(f"lift: left out: {error}", err=True)
        return False
    return True
