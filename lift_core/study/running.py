"""Runs the cells of a study: one process per cell, several side by side, each kept and resumed by itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lift_core.records import CHECKPOINT, write_atomically
from lift_core.study.plans import Cell

CELLS, CELL, CONFIG, RESULT, LOG = "cells", "cell.json", "config.json", "result.json", "log.txt"
_OPTIONS = {"problem_options": "--set", "backend_options": "--backend-set", "curvature_options": "--curvature-set"}
_SWITCHES = {"relative": ("--relative", "--absolute"), "refit_all_in": ("--refit-all-in", "--refit-beside")}


@dataclass(frozen=True)
class Outcome:
    """A cell with the JSON document of its run, or with the last line that it printed before it failed."""

    cell: Cell
    document: Mapping[str, Any] | None
    error: str = ""


OnOutcome = Callable[[int, int, Outcome], None]
"""Called with the number of finished cells, the number of all cells, and the outcome that came last."""


def command_words(cell: Cell) -> list[str]:
    """The cell as words behind ``lift run``.

    >>> command_words(Cell(setting="", variant="", seed=0, settings={"problem": "network", "slack": [0.1], "seed": 1}))
    ['network', '--slack', '0.1', '--seed', '1']
    """
    settings = dict(cell.settings)
    words = [settings.pop("problem")]
    words += [] if cell.preset is None else ["--preset", cell.preset]
    for key, value in settings.items():
        flag = f"--{key.replace('_', '-')}"
        if key in _OPTIONS:
            words += [word for name, entry in value.items() for word in (_OPTIONS[key], f"{name}={json.dumps(entry)}")]
        elif isinstance(value, bool):
            on, off = _SWITCHES.get(key, (flag, f"--no-{flag[2:]}"))
            words.append(on if value else off)
        elif isinstance(value, (list, tuple)):
            words += [flag, ",".join(f"{entry:g}" for entry in value)]
        else:
            words += [flag, str(value)]
    return words


def run_study(cells: Sequence[Cell], folder: Path, *, jobs: int, on_outcome: OnOutcome | None = None) -> list[Outcome]:
    """Run what ``folder`` does not hold yet; a failed cell is tried again by the next call.

    Args:
        cells: of a plan.
        folder: receives ``cells/NAME/`` with cell.json, config.json, result.json, report.html and log.txt each.
        jobs: processes side by side, one thread each.

    Raises:
        ValueError: if a folder of a cell was made by a plan in which the cell was another one.
    """
    for cell in cells:
        _claim(cell, folder / CELLS / cell.name)
    outcomes: dict[str, Outcome] = {}
    running: set[subprocess.Popen[bytes]] = set()
    with ThreadPoolExecutor(jobs) as pool:
        waiting: set[Future[Outcome]] = {
            pool.submit(_run_cell, cell, folder / CELLS / cell.name, running) for cell in cells
        }
        try:
            while waiting:
                finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in finished:
                    outcome = future.result()
                    outcomes[outcome.cell.name] = outcome
                    if on_outcome is not None:
                        on_outcome(len(outcomes), len(cells), outcome)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in tuple(running):
                process.send_signal(signal.SIGINT)  # a run keeps what it has and ends
            raise
    return [outcomes[cell.name] for cell in cells]


def _claim(cell: Cell, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(cell.to_json(), indent=2) + "\n"
    if (folder / CELL).exists() and (folder / CELL).read_text(encoding="utf-8") != text:
        raise ValueError(f"out: {folder} holds the cell of another plan; remove it, or choose another folder")
    write_atomically(folder / CELL, text)


def _result(folder: Path) -> dict[str, Any] | None:
    """The document of a finished cell; None where there is none or it is damaged."""
    try:
        document = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    return document if isinstance(document, dict) and "methods" in document else None


def _run_cell(cell: Cell, folder: Path, running: set[subprocess.Popen[bytes]]) -> Outcome:
    document = _result(folder)
    if document is None:
        words = (
            ["--resume", str(folder)] if (folder / CONFIG).exists() else [*command_words(cell), "--out", str(folder)]
        )
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        begins = (folder / LOG).stat().st_size if (folder / LOG).exists() else 0
        with (folder / LOG).open("a", encoding="utf-8") as log:
            command = [sys.executable, "-m", "lift_core.study.child", "run", *words]
            with subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=environment
            ) as process:
                running.add(process)
                process.wait()
            running.remove(process)
        document = _result(folder)
        if document is None:
            said = (folder / LOG).read_bytes()[begins:].decode("utf-8", "replace").strip().splitlines()
            complaints = [line for line in said if line.startswith("lift: ")] or said
            return Outcome(cell, None, complaints[-1] if complaints else "it printed nothing")
    (folder / CHECKPOINT).unlink(missing_ok=True)  # as large as the weights, and of no more use
    return Outcome(cell, document)
