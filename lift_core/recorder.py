"""What stands between a search and the outside: the folder of a run, and its display."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lift_core.metering import Cost, Metered
from lift_core.problem import BilevelProblem
from lift_core.records import CHECKPOINT, SearchState, fingerprint, first_losses, load_state, require_sizes, save_state

if TYPE_CHECKING:
    from lift_core.search import LocalSearch

OnProgress = Callable[[str, int, int, Cost], None]
"""Called with (stage, done, total, cost so far) whenever something was spent."""

_TELLS_NOTHING = re.compile(r"\bat 0x[0-9a-f]+|\b(?:tensor|array)\(.*\.\.\.", re.DOTALL)
"""An address, which differs in every process; entries that were left out, which may differ unseen."""


class Recorder:
    """The folder and the display of one run."""

    def __init__(
        self, search: LocalSearch, problem: BilevelProblem, folder: Path | None, on_progress: OnProgress | None
    ) -> None:
        self._search, self._problem, self._folder, self._on_progress = search, problem, folder, on_progress
        if folder is not None:  # settings that cannot be told apart say so before anything is spent
            self._settings = tell_apart("search", search)

    @cached_property
    def _identity(self) -> dict[str, Any]:
        settings = {"search": self._settings, "problem": self._problem.describe()}
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


def tell_apart(name: str, value: object) -> str:
    """The ``repr`` of a setting, field by field, with a hash in place of the entries of tensors and arrays.

    Where a class has a ``repr`` of its own, that is taken.

    Raises:
        ValueError: naming the field, if a ``repr`` holds an address or leaves entries out, and so tells nothing.
    """
    if isinstance(value, Tensor) or (isinstance(value, np.ndarray) and not value.dtype.hasobject):
        content = hashlib.sha256(_bytes(value)).hexdigest()[:16]
        return f"{type(value).__name__}({value.dtype}, {tuple(value.shape)}, {content})"
    whole, parts = repr(value), _parts(name, value)
    if parts and whole == _join(value, [repr(part) for _, part in parts]):
        return _join(value, [tell_apart(where, part) for where, part in parts])
    if _TELLS_NOTHING.search(whole):
        raise ValueError(
            f"{name}: expected a setting whose repr tells it from another, got {whole:.200}; make it a frozen "
            "dataclass of numbers, strings, tensors and the like, or run without a folder"
        )
    return whole


def _bytes(value: Tensor | np.ndarray) -> bytes:
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value).tobytes()
    return value.detach().to_dense().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()


def _parts(name: str, value: object) -> list[tuple[str, object]]:
    """What a value is made of, and how messages call it."""
    if is_dataclass(value):
        return [(f"{name}.{each.name}", getattr(value, each.name)) for each in fields(value) if each.repr]
    if isinstance(value, dict):
        return [(f"{name}[{key!r}]", part) for key, part in value.items()]
    return [(f"{name}[{i}]", part) for i, part in enumerate(value)] if isinstance(value, (tuple, list)) else []


def _join(value: object, parts: list[str]) -> str:
    """What ``repr`` makes of a dataclass, dictionary, list or tuple."""
    if is_dataclass(value):
        named = [f"{each.name}={part}" for each, part in zip((f for f in fields(value) if f.repr), parts, strict=True)]
        return f"{type(value).__qualname__}({', '.join(named)})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {part}' for key, part in zip(value, parts, strict=True))}}}"
    inside = ", ".join(parts)
    return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' * (len(parts) == 1)})"
