"""What a search remembers and how it is written down: atomically, and readable without this package.

A checkpoint is one safetensors file: tensors beside the JSON of everything else. Results are JSON with the same fields.
"""

from __future__ import annotations

import enum
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lift_core.metering import Cost
from lift_core.moves import Facts
from lift_core.problem import BilevelProblem, Point, Split
from lift_core.training import TrainingState

CHECKPOINT = "checkpoint.safetensors"
SAME_LOSS = 1e-3
"""Relative difference of two losses that rounding on another machine may explain."""
_RECORDS = {
    "warmup": {"epoch", "selection", "seconds"},
    "steps": {"accepted", "label", "candidates", "refit_kept", "refit_curve", "before", "after", "cost", "seconds"},
    "controls": {"method", "label", "candidates", "cost", "seconds", *get_args(Split)},
}
"""What a search and its report read in the records of a checkpoint."""


class SearchStatus(enum.Enum):
    """Why a search ended; the value is the sentence a user reads."""

    ROUNDS_DONE = "all rounds were done"
    STATIONARY = "stationary: the direction LP promises no decrease beyond the tolerance"
    NO_DECREASE = "no candidate lowered the selection loss"
    DIVERGED = "training diverged during the warm-up: lower the learning rate"
    NO_DIRECTION = "the LP backend returned no direction; see the LP status"


@dataclass(frozen=True)
class SearchState:
    """Everything that a search has done so far; a checkpoint holds exactly this.

    Attributes:
        training: the current point, with the optimiser's state.
        warm: the point after the warm-up, where all controls start (None before).
        snapshots: weights along the warm-up, oldest first.
        warmup: one record per warm-up epoch.
        steps: one record per round of local search.
        controls: one record per control.
        cost: spent so far by the search itself, controls aside.
        status: None while the search goes on.
    """

    training: TrainingState
    warm: TrainingState | None = None
    snapshots: tuple[Tensor, ...] = ()
    warmup: tuple[Facts, ...] = ()
    steps: tuple[Facts, ...] = ()
    controls: tuple[Facts, ...] = ()
    cost: Cost = field(default_factory=Cost)
    status: SearchStatus | None = None


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, and why."""


def fingerprint(settings: Mapping[str, Any]) -> str:
    """A short hash of JSON-able settings: a checkpoint is only resumed by the search that wrote it."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]


def first_losses(problem: BilevelProblem) -> dict[str, float]:
    """The upper loss of the first batch of every split, which tells data apart that a problem's description does not.

    It is taken at weights that depend on their number alone: initial ones may be random, or zeros that see no data.
    """
    start = problem.initial_point()
    hyper = torch.zeros_like(start.hyper).clamp(problem.hyper_lower, problem.hyper_upper)
    drawn = torch.randn(len(start.weights), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = 0.1 * drawn.to(start.weights)
    with torch.no_grad():
        return {
            split: float(problem.upper_loss(hyper, weights, problem.batches(split)[0])) for split in get_args(Split)
        }


def save_state(folder: Path, state: SearchState, *, settings_hash: str, losses: Mapping[str, float]) -> None:
    """Write a checkpoint atomically: a crash leaves the previous one. ``losses`` are those of `first_losses`."""
    tensors = _training_tensors("training", state.training)
    if state.warm is not None:
        tensors |= _training_tensors("warm", state.warm)
    tensors |= {f"snapshot.{i}": snapshot for i, snapshot in enumerate(state.snapshots)}
    plain = {
        "settings_hash": settings_hash,
        "first_losses": dict(losses),
        "counters": _counters(state.training),
        "warm_counters": None if state.warm is None else _counters(state.warm),
        "warmup": state.warmup,
        "steps": state.steps,
        "controls": state.controls,
        "cost": vars(state.cost),
        "status": None if state.status is None else state.status.name,
    }
    copies, text = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}, json.dumps(plain)
    write_atomically(folder / CHECKPOINT, save(copies, {"state": text, "sha256": _digest(copies, text)}))


def load_state(
    folder: Path, *, settings_hash: str, losses: Mapping[str, float], device: torch.device | str = "cpu"
) -> SearchState | None:
    """The checkpoint of a folder, its vectors on ``device``, or None where there is none.

    Raises:
        CheckpointError: if the file is damaged, or was written by a search with other settings or on other data.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        tensors, plain = _read(path, device)
        if plain["settings_hash"] != settings_hash:
            raise CheckpointError(f"{path}: written with other settings; resume with those, or choose another folder")
        for split, there in plain.get("first_losses", {}).items():
            _require_same_loss(path, split, there, losses[split])
        return _search_state(plain, tensors)
    except CheckpointError:
        raise
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: damaged or not a LiFT checkpoint ({error}); delete it to start again"
        ) from error


def _read(path: Path, device: torch.device | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and the rest of a checkpoint; those of earlier versions have no hash."""
    with safe_open(path, framework="pt", device=str(device)) as file:
        # cloned: from memory that is not aligned, products differ in the last digit
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  (no mapping)
        metadata: dict[str, str] = file.metadata()
    if metadata.get("sha256") not in (None, _digest(tensors, metadata["state"])):
        raise ValueError("its content does not have the hash that was written with it")
    for name, tensor in tensors.items():
        if tensor.ndim != 1:
            raise ValueError(f"{name}: expected a flat tensor, got shape {tuple(tensor.shape)}")
    return tensors, json.loads(metadata["state"])


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """A hash of everything in a checkpoint; 50 ms for ten million numbers."""
    found = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.cpu().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _require_same_loss(path: Path, split: str, there: float, here: float) -> None:
    if not (math.isclose(there, here, rel_tol=SAME_LOSS, abs_tol=1e-9) or repr(there) == repr(here)):  # nan is nan
        raise CheckpointError(
            f"{path}: written for another problem, or for other data: the loss of the first {split} batch was "
            f"{there:.6g} there and is {here:.6g} here; choose another folder"
        )


def _search_state(plain: dict[str, Any], tensors: dict[str, torch.Tensor]) -> SearchState:
    """What `save_state` wrote."""
    count = sum(name.startswith("snapshot.") for name in tensors)
    return SearchState(
        training=_training_state("training", tensors, plain["counters"]),
        warm=None if plain["warm_counters"] is None else _training_state("warm", tensors, plain["warm_counters"]),
        snapshots=tuple(tensors[f"snapshot.{i}"] for i in range(count)),
        **{name: _records(name, plain[name]) for name in _RECORDS},
        cost=_cost(plain["cost"]),
        status=None if plain["status"] is None else SearchStatus[plain["status"]],
    )


def _records(name: str, records: Any) -> tuple[Facts, ...]:
    for record in records:
        missing = _RECORDS[name] - record.keys()
        if missing:
            raise ValueError(f"{name}: a record lacks {', '.join(sorted(missing))}")
        _cost(record.get("cost", {}))
    return tuple(records)


def _cost(spent: Mapping[str, Any]) -> Cost:
    return Cost(**{kind: float(passes) for kind, passes in spent.items()})


def require_sizes(state: SearchState, like: Point, path: Path) -> None:
    """Refuse a state whose points or vectors are not as long as those of ``like``.

    Raises:
        CheckpointError: naming ``path``.
    """
    n, p = len(like.weights), len(like.hyper)
    stages = [stage for stage in (state.training, state.warm) if stage is not None]
    vectors = [part for s in stages for part in (s.point.weights, s.first_moment, s.second_moment, s.iterate)]
    lengths = {len(part) for part in (*vectors, *state.snapshots) if part is not None}
    if lengths != {n} or any(len(stage.point.hyper) != p for stage in stages):
        raise CheckpointError(
            f"{path}: expected {n} weights and {p} hyperparameters, got another number; delete it to start again"
        )


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old or the new content and nothing between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as stream:
        stream.write(content.encode() if isinstance(content, str) else content)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def without_times(record: Any) -> Any:
    """A record without its timings (keys that end in ``seconds``): what two runs with one seed share."""
    if isinstance(record, dict):
        return {key: without_times(value) for key, value in record.items() if not key.endswith("seconds")}
    return [without_times(value) for value in record] if isinstance(record, (list, tuple)) else record


def _training_tensors(prefix: str, state: TrainingState) -> dict[str, Tensor]:
    tensors = {
        f"{prefix}.hyper": state.point.hyper,
        f"{prefix}.weights": state.point.weights,
        f"{prefix}.first_moment": state.first_moment,
        f"{prefix}.second_moment": state.second_moment,
    }
    return tensors if state.iterate is None else tensors | {f"{prefix}.iterate": state.iterate}


def _counters(state: TrainingState) -> dict[str, int]:
    return {"steps": state.steps, "epochs": state.epochs}


def _training_state(prefix: str, tensors: dict[str, Tensor], counters: dict[str, int]) -> TrainingState:
    hyper, weights, first, second = (
        tensors[f"{prefix}.{name}"].to(torch.float64) for name in ("hyper", "weights", "first_moment", "second_moment")
    )
    iterate = tensors.get(f"{prefix}.iterate")
    iterate = None if iterate is None else iterate.to(torch.float64)
    counts = {name: int(count) for name, count in counters.items()}
    return TrainingState(Point(hyper, weights), first, second, **counts, iterate=iterate)
