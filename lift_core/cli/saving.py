"""``lift run --save-lp``: a backend that writes down what it is given to solve."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import typer

from lift_core.lp import BackendAnswer, LinearProgram, LPBackend, LPStart
from lift_core.saved_lp import SUFFIX, save_lp


@dataclass(frozen=True, kw_only=True)
class SavingBackend(LPBackend):
    """Another backend, behind one that saves each program to a numbered file before it is solved.

    A program that has no file, because its curvature is known by products alone, is solved without, and said so.

    Its ``repr`` is the other one's, so that a checkpoint does not depend on whether programs are saved.

    Attributes:
        inner: solves.
        folder: receives ``1.safetensors``, ``2.safetensors`` and so on, after those that it holds already.
    """

    name: ClassVar[str] = "saving"
    inner: LPBackend
    folder: Path
    rtol: float = field(init=False)
    time_limit: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.inner.name)  # reports name the one that solves
        object.__setattr__(self, "rtol", self.inner.rtol)
        object.__setattr__(self, "time_limit", self.inner.time_limit)

    def solve(self, lp: LinearProgram, start: LPStart | None = None) -> BackendAnswer:
        self._save(lp)
        return self.inner.solve(lp, start)

    def solve_sequence(self, lps: Iterable[LinearProgram]) -> Iterator[BackendAnswer]:
        programs = list(lps)
        for lp in programs:
            self._save(lp)
        return self.inner.solve_sequence(programs)

    def _save(self, lp: LinearProgram) -> None:
        count = len(list(self.folder.glob(f"*{SUFFIX}")))
        try:
            save_lp(lp, self.folder / f"{count + 1}{SUFFIX}")
        except ValueError as error:
            typer.echo(f"lift: --save-lp: a program was not saved: {error}", err=True)

    def __repr__(self) -> str:
        return repr(self.inner)
