"""A selection by name: saved as JSON, applied to the problem it was made on, or to a larger model of the family."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Int64
from torch import Tensor

from lift_core.problem import BilevelProblem
from lift_core.records import write_atomically
from lift_core.selection.groups import Groups
from lift_core.selection.knapsack import Chosen
from lift_core.selection.restricted import Restricted
from lift_core.selection.scores import Scores

FORMAT = "lift-selection-1"
Depth = Literal["relative", "exact"]
"""How blocks of another depth are matched: by relative position, or by number, which must then exist."""


class Piece(NamedTuple):
    """A run of the entries of one tensor, ``start`` to ``stop`` of ``size``: the whole tensor, mostly.

    >>> str(Piece("h.0.mlp.weight", 0, 64, 64)), str(Piece("h.0.mlp.weight", 16, 32, 64))
    ('h.0.mlp.weight', 'h.0.mlp.weight[16:32/64]')
    """

    tensor: str
    start: int
    stop: int
    size: int

    @property
    def is_whole(self) -> bool:
        return self.start == 0 and self.stop == self.size

    def __str__(self) -> str:
        return self.tensor if self.is_whole else f"{self.tensor}[{self.start}:{self.stop}/{self.size}]"


@dataclass(frozen=True)
class Selection:
    """Which weights to tune, and how they were chosen.

    Attributes:
        groups: names of the chosen groups.
        pieces: what they consist of: tensor names, ``"name[start:stop/size]"`` for a part of one.
        method, solver: the measure, and greedy or exact.
        budget: share of the weights that was allowed.
        num_selected, num_weights: chosen weights, and all that there were to choose from.
        predicted: what the measure promises; in units of the training loss for influence.
        bound: no set within the budget has a larger promise.
        problem: the name of the problem it was made on.
        depth: number of blocks, by the names of its tensors.

    Raises:
        ValueError: if there is nothing in it, or a piece cannot be read.
    """

    groups: tuple[str, ...]
    pieces: tuple[str, ...]
    method: str
    solver: str
    budget: float
    num_selected: int
    num_weights: int
    predicted: float
    bound: float
    problem: str
    depth: int

    def __post_init__(self) -> None:
        if not self.pieces:
            raise ValueError(
                f"pieces: expected something to tune, got nothing; no group fits the budget of {self.budget:g}, or "
                "none has any value"
            )
        for piece in self.pieces:
            parse_piece(piece)

    @property
    def share(self) -> float:
        """Chosen share of the weights."""
        return self.num_selected / self.num_weights

    @property
    def tensors(self) -> tuple[str, ...]:
        """The chosen tensors, as ``trainable=`` of a language model takes them.

        Raises:
            ValueError: if only a part of some tensor was chosen; `apply_selection` takes such selections.
        """
        parts = [piece for piece in self.pieces if not parse_piece(piece).is_whole]
        if parts:
            raise ValueError(
                f"pieces: expected whole tensors, got {parts[0]!r}; use apply_selection, or choose groups of tensors"
            )
        return self.pieces

    def save(self, path: Path) -> None:
        """Write JSON, atomically."""
        write_atomically(path, json.dumps({"format": FORMAT} | asdict(self), indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> Selection:
        """Read what `save` wrote.

        Raises:
            ValueError: if the file is no selection.
        """
        try:
            content: Any = json.loads(Path(path).read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']!r}")
            values: dict[str, Any] = {field.name: content[field.name] for field in fields(cls)}
            values.update(groups=tuple(values["groups"]), pieces=tuple(values["pieces"]))
            return cls(**values)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not a selection that lift wrote ({error})") from error


def make_selection(
    problem: BilevelProblem, groups: Groups, scores: Scores, chosen: Chosen, *, budget: float
) -> Selection:
    """The record of a choice.

    Raises:
        ValueError: if nothing was chosen.
    """
    names = tuple(groups.names[k] for k in chosen.numbers)
    index = groups.index(names) if names else torch.empty(0, dtype=torch.int64)
    return Selection(
        groups=names,
        pieces=tuple(map(str, pieces_of(problem.groups, index))),
        method=scores.method,
        solver=chosen.solver,
        budget=budget,
        num_selected=chosen.size,
        num_weights=groups.num_weights,
        predicted=chosen.value,
        bound=chosen.bound,
        problem=problem.name,
        depth=depth_of(problem.groups),
    )


def apply_selection(selection: Selection, problem: BilevelProblem, *, depth: Depth = "relative") -> BilevelProblem:
    """The problem with the selected weights as its only ones; the others stay where they start.

    On another model of the family, the selection is transferred first, see `transfer_pieces`.

    Raises:
        ValueError: if nothing of the selection is found in the problem.
    """
    pieces = transfer_pieces(selection, problem.groups, depth=depth)
    if all(piece.is_whole for piece in pieces):
        cheaper = problem.tuned([piece.tensor for piece in pieces])
        if cheaper is not None:
            return cheaper
    return Restricted(problem, index_of(problem.groups, pieces))


def transfer_pieces(
    selection: Selection, tensors: Mapping[str, slice], *, depth: Depth = "relative"
) -> tuple[Piece, ...]:
    """What a selection means for other tensors: same names, relative depth, relative place within a tensor.

    With ``depth="relative"``, block i of D takes what was chosen in block ``round(i (d − 1) / (D − 1))`` of the d
    blocks of the source. Blocks are the first whole number in a name (``transformer.h.3.attn...``).

    Raises:
        ValueError: if nothing is found, or with ``depth="exact"`` if anything is missing.
    """
    if depth not in get_args(Depth):
        raise ValueError(f"depth: expected one of {get_args(Depth)}, got {depth!r}")
    wanted: dict[str, list[Piece]] = {}
    for text in selection.pieces:
        piece = parse_piece(text)
        wanted.setdefault(piece.tensor, []).append(piece)
    missing = [name for name in wanted if name not in tensors]
    if depth == "exact" and missing:
        raise ValueError(f"selection: {missing[0]!r} is no tensor of this problem ({len(missing)} of {len(wanted)})")
    here = depth_of(tensors)
    found: list[Piece] = []
    for name, part in tensors.items():
        size = part.stop - (part.start or 0)
        source = name if depth == "exact" else _in_source(name, here, selection.depth)
        for piece in wanted.get(source, ()):
            start, stop = (edge * size // piece.size for edge in (piece.start, piece.stop))
            found.append(Piece(name, start, stop, size))
    if not found:
        raise ValueError(
            f"selection: none of its {len(wanted)} tensors, such as {next(iter(wanted))!r}, is in this problem, whose "
            f"tensors are called {', '.join(list(tensors)[:4])} ..."
        )
    return tuple(found)


def pieces_of(tensors: Mapping[str, slice], index: Int64[Tensor, " m"]) -> Iterable[Piece]:
    """An index set as runs within tensors."""
    for name, part in tensors.items():
        offset, size = part.start or 0, part.stop - (part.start or 0)
        inside = index[(index >= offset) & (index < part.stop)] - offset
        if not len(inside):
            continue
        breaks = (inside.diff() != 1).nonzero().flatten() + 1
        for run in inside.tensor_split(breaks.cpu()):
            yield Piece(name, int(run[0]), int(run[-1]) + 1, size)


def index_of(tensors: Mapping[str, slice], pieces: Sequence[Piece]) -> Int64[Tensor, " m"]:
    """Sorted indices of pieces."""
    runs = [
        torch.arange(piece.start, piece.stop, dtype=torch.int64) + (tensors[piece.tensor].start or 0)
        for piece in pieces
    ]
    return torch.cat(runs).sort().values


def parse_piece(text: str) -> Piece:
    """Read ``"name"`` (size 1: the whole, whatever its size) or ``"name[start:stop/size]"``.

    Raises:
        ValueError: if the numbers are out of order.
    """
    found = re.fullmatch(r"(.+)\[(\d+):(\d+)/(\d+)\]", text)
    if found is None:
        return Piece(text, 0, 1, 1)
    piece = Piece(found[1], *map(int, found.groups()[1:]))
    if not 0 <= piece.start < piece.stop <= piece.size:
        raise ValueError(f"pieces: expected [start:stop/size] with start < stop <= size, got {text!r}")
    return piece


def depth_of(tensors: Iterable[str]) -> int:
    """Number of blocks by the names of tensors: one more than the largest first number in a name; 0 without numbers."""
    numbers = [int(found[2]) for name in tensors if (found := _BLOCK.match(name))]
    return max(numbers, default=-1) + 1


_BLOCK = re.compile(r"((?:[^.]*[^.\d][^.]*\.)*)(\d+)(\..*)")
"""What stands before the first component that is a whole number, the number, the rest."""


def _in_source(name: str, here: int, there: int) -> str:
    found = _BLOCK.match(name)
    if found is None or not there:
        return name
    position = there - 1 if here == 1 else round(int(found[2]) * (there - 1) / (here - 1))
    return f"{found[1]}{position}{found[3]}"
