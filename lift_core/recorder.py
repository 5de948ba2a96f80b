"""What stands between a search and the outside: the folder of a run, and its display."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lift_core.metering import Cost, Metered
from lift_core.problem import BilevelProblem
from lift_core.records import CHECKPOINT, SearchState, fingerprint, first_losses, load_state, require_sizes, save_state

if TYPE_CHECKING:
    from lift_core.search import LocalSearch

OnProgress = Callable[[str, int, int, Cost], None]
"""Called with (stage, done, total, cost so far) whenever something was spent."""


class Recorder:
    """The folder and the display of one run."""

    def __init__(
        self, search: LocalSearch, problem: BilevelProblem, folder: Path | None, on_progress: OnProgress | None
    ) -> None:
        self._search, self._problem, self._folder, self._on_progress = search, problem, folder, on_progress

    @cached_property
    def _identity(self) -> dict[str, Any]:
        settings = {"search": repr(self._search), "problem": self._problem.describe()}
        return {"settings_hash": fingerprint(settings), "losses": first_losses(self._problem)}

    def resume(self) -> SearchState | None:
        if self._folder is None:
            return None
        start = self._problem.initial_point()
        state = load_state(self._folder, **self._identity, device=start.weights.device)
        if state is not None:
            require_sizes(state, start, self._folder / CHECKPOINT)
        return state

    def keep(self, state: SearchState) -> SearchState:
        if self._folder is not None:
            save_state(self._folder, state, **self._identity)
        return state

    def meter(self, stage: str, done: int) -> Metered:
        """The problem with a fresh counter, announced to the display under ``stage``."""
        search, notify = self._search, self._on_progress
        totals = {"warm-up": search.warmup_epochs, "LP step": search.rounds}
        total = totals.get(stage, len(search.controls))
        return Metered(self._problem, None if notify is None else lambda cost: notify(stage, done, total, cost))
