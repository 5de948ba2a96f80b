"""Every program with every contender: cells that are judged, kept as they finish, and found again after a crash."""

from __future__ import annotations

import inspect
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lift_core.comparison.programs import Program, stored_entries
from lift_core.lp import LinearProgram, LPBackend, LPSolution, LPStatus, solve_lp
from lift_core.records import fingerprint, write_atomically

REFUSED = "REFUSED"
"""The status of a cell whose backend raised an error instead of answering."""
CELLS = "cells"

Facts = dict[str, Any]
OnCell = Callable[[int, int, Facts], None]
"""Called with the number of finished cells, the number of all cells, and the cell that was finished last."""
OnUnreadable = Callable[[Program, Exception], None]
"""Called with a program that cannot be loaded and the reason."""
_LOAD_ERRORS = (ValueError, RuntimeError, OSError, ImportError, ArithmeticError, MemoryError)


class Contender(NamedTuple):
    """A backend with its options, tolerance and time limit, under the name that tables call it by."""

    label: str
    backend: LPBackend


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Backends on programs, each answer judged by `solve_lp`.

    Attributes:
        programs, contenders: the rows and columns.
        repeats: solves of one cell, whose median time counts; none is begun after the cell has used its time limit.
        folder: keeps every finished cell in ``cells/``, one JSON file each; None: nowhere.
    """

    programs: Sequence[Program]
    contenders: Sequence[Contender]
    repeats: int = 1
    folder: Path | None = None

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"repeats: expected at least 1, got {self.repeats}")
        for name, entries in (("programs", [p.name for p in self.programs]), ("contenders", self._labels())):
            if len(set(entries)) < len(entries):
                raise ValueError(f"{name}: expected different names, got {', '.join(map(str, entries))}")

    def answers(self, on_cell: OnCell | None = None, *, on_unreadable: OnUnreadable | None = None) -> Iterator[Facts]:
        """One record per cell, program by program; what ``folder`` has is not solved again.

        A program that cannot be loaded is left out and told to ``on_unreadable``; without that its error ends all.
        """
        total = len(self.programs) * len(self.contenders)
        warm: set[str] = set()
        for number, program in enumerate(self.programs):
            stored, lp = [self._stored(program, contender) for contender in self.contenders], None
            if None in stored:
                try:
                    lp = program.load()
                except _LOAD_ERRORS as error:
                    if on_unreadable is None:
                        raise
                    on_unreadable(program, error)
                    continue
            for place, (contender, answer) in enumerate(zip(self.contenders, stored, strict=True), start=1):
                if answer is None:
                    assert lp is not None  # loaded, since a cell is missing
                    answer = self._solve(program, lp, contender, warm)
                if on_cell is not None:
                    on_cell(number * len(self.contenders) + place, total, answer)
                yield answer

    def _solve(self, program: Program, lp: LinearProgram, contender: Contender, warm: set[str]) -> Facts:
        """The first answer with the median time; a backend that cannot take the program says so in the record."""
        backend = contender.backend
        if contender.label not in warm:
            _warm_up(backend)
            warm.add(contender.label)
        record: Facts = {
            "lp": program.name,
            "rows": lp.num_rows,
            "columns": lp.num_columns,
            "entries": stored_entries(lp.A),
            "backend": contender.label,
            "options": repr(backend),
            "rtol": backend.rtol,
            "time_limit": _finite(backend.time_limit),
        }
        solutions: list[LPSolution] = []
        try:
            while len(solutions) < self.repeats and sum(s.seconds for s in solutions) <= backend.time_limit:
                solutions.append(solve_lp(lp, backend))
        except (ValueError, TypeError, RuntimeError, ImportError, ArithmeticError, MemoryError) as error:
            record |= _refusal(f"{type(error).__name__}: {error}")
        else:
            record |= _describe(solutions)
        self._store(program, contender, record)
        return record

    def _labels(self) -> list[tuple[str, float]]:
        return [(contender.label, contender.backend.rtol) for contender in self.contenders]

    def _path(self, program: Program, contender: Contender) -> Path | None:
        if self.folder is None:
            return None
        key = fingerprint(
            {
                "program": program.key,
                "backend": repr(contender.backend),
                "code": _source(contender.backend),
                "repeats": self.repeats,
            }
        )
        return self.folder / CELLS / f"{key}.json"

    def _stored(self, program: Program, contender: Contender) -> Facts | None:
        """The record of a finished cell, under the names of today; None where there is none or it is damaged."""
        path = self._path(program, contender)
        if path is None or not path.is_file():
            return None
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError):
            return None
        if not isinstance(record, dict) or not _refusal("").keys() <= record.keys() or None in _required(record):
            return None  # damaged, or of an earlier version, which judged less
        return record | {"lp": program.name, "backend": contender.label}

    def _store(self, program: Program, contender: Contender, answer: Facts) -> None:
        path = self._path(program, contender)
        if path is not None:
            write_atomically(path, json.dumps(answer, indent=2, sort_keys=True, allow_nan=False) + "\n")


def _source(backend: LPBackend) -> str:
    """The code of the module that defines a backend: who works on one wants its answers of today."""
    try:
        return inspect.getsource(sys.modules[type(backend).__module__])
    except (OSError, TypeError, KeyError):  # made in an interpreter
        return ""


def is_solved(answer: Mapping[str, Any]) -> bool:
    """Whether a record holds an optimum, or a proof that there is none, found within its time limit."""
    limit = math.inf if answer.get("time_limit") is None else answer["time_limit"]
    in_time = answer["seconds"] is not None and answer["seconds"] <= limit
    return in_time and (answer["status"] == LPStatus.OPTIMAL.name or answer["certified"])


def _describe(solutions: Sequence[LPSolution]) -> Facts:
    first = solutions[0]
    return {
        "status": first.status.name,
        "status_text": first.status.value,
        "objective": _finite(first.objective),
        "bound": _finite(first.bound),
        "primal_residual": _finite(first.kkt.primal),
        "dual_residual": _finite(first.kkt.dual),
        "gap": _finite(first.kkt.gap),
        "worst_residual": _finite(first.kkt.worst),
        "objective_error": _finite(first.kkt.objective_error),
        "iterations": first.iterations,
        "seconds": statistics.median(solution.seconds for solution in solutions),
        "certified": first.certified,
    }


def _refusal(reason: str) -> Facts:
    unknown = (
        "objective",
        "bound",
        "primal_residual",
        "dual_residual",
        "gap",
        "worst_residual",
        "objective_error",
        "iterations",
        "seconds",
    )
    return dict.fromkeys(unknown) | {"status": REFUSED, "status_text": reason, "certified": False}


def _required(record: Facts) -> list[Any]:
    """What no cell lacks, however it ended."""
    return [record.get(key) for key in ("rows", "columns", "options", "rtol", "status", "status_text", "certified")]


def _warm_up(backend: LPBackend) -> None:
    """One tiny solve: the first one of a process also imports the solver's packages."""
    tiny = LinearProgram(c=[1.0], A=[[1.0]], row_lower=0.0, col_lower=-1.0, col_upper=1.0)
    with suppress(
        ValueError, TypeError, RuntimeError, ImportError
    ):  # a backend that refuses will say so in its records
        solve_lp(tiny, backend)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
