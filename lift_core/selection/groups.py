"""Groups of weights: disjoint, named index sets of θ, from whole blocks down to pieces of one tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from lift_core.problem import BilevelProblem

Members = str | Sequence[str] | Sequence[int] | slice | Tensor
"""What a user may put into a group: patterns of tensor names, a slice, or indices into θ."""


@dataclass(frozen=True)
class Groups:
    """K disjoint groups of the n weights; a weight may be in none.

    Attributes:
        names: one per group, all different.
        owner: shape (n,), the group of every weight, -1 for none.

    Raises:
        ValueError: if a group is empty, a name stands twice, or an owner is out of range.

    >>> Groups(("a", "b"), torch.tensor([0, 0, 1, -1])).sizes.tolist()
    [2, 1]
    """

    names: tuple[str, ...]
    owner: Int64[Tensor, " n"]

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("names: expected at least one group, got none")
        if len(set(self.names)) != len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise ValueError(f"names: expected every group to have its own, got {twice!r} twice")
        if self.owner.ndim != 1 or self.owner.dtype != torch.int64:
            raise ValueError(
                f"owner: expected a flat int64 tensor, got {self.owner.dtype} of shape {tuple(self.owner.shape)}"
            )
        if len(self.owner) and not -1 <= int(self.owner.min()) <= int(self.owner.max()) < len(self.names):
            raise ValueError(f"owner: expected entries in -1 ... {len(self.names) - 1} for {len(self.names)} groups")
        empty = (self.sizes == 0).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"owner: expected weights in every group, got none in {self.names[empty[0]]!r}")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def num_weights(self) -> int:
        """n, weights in no group included."""
        return len(self.owner)

    @property
    def sizes(self) -> Int64[Tensor, " K"]:
        """``|θ_k|``."""
        return torch.bincount(self.owner[self.owner >= 0], minlength=len(self.names))

    def index(self, chosen: Sequence[str] | None = None) -> Int64[Tensor, " m"]:
        """Sorted indices of the weights of some groups, of all groups by default.

        Raises:
            ValueError: if there is no group of a name.
        """
        if chosen is None:
            return (self.owner >= 0).nonzero().flatten()
        unknown = [name for name in chosen if name not in self.names]
        if unknown:
            raise ValueError(f"chosen: no group is called {unknown[0]!r}; there are {', '.join(self.names[:8])} ...")
        numbers = torch.tensor([self.names.index(name) for name in chosen], dtype=torch.int64)
        return torch.isin(self.owner, numbers.to(self.owner.device)).nonzero().flatten()

    def only(self, vector: Float64[Tensor, " n"], number: int) -> Float64[Tensor, " n"]:
        """A vector with all entries outside group ``number`` set to 0."""
        return torch.where(self.owner == number, vector, 0.0)

    def sums(self, vector: Float64[Tensor, "n ..."]) -> Float64[Tensor, "K ..."]:
        """Sums over the entries of every group, weights in no group left out."""
        total = vector.new_zeros(len(self.names) + 1, *vector.shape[1:])
        return total.index_add_(0, self.owner + 1, vector)[1:]

    def split(self, max_size: int) -> Groups:
        """Every group cut into runs of nearly equal size, of ``max_size`` weights at most: ``name/1of3`` ...

        Raises:
            ValueError: if the size is below 1.
        """
        if max_size < 1:
            raise ValueError(f"max_size: expected at least 1, got {max_size}")
        names: list[str] = []
        owner = torch.full_like(self.owner, -1)
        for number, name in enumerate(self.names):
            index = (self.owner == number).nonzero().flatten()
            parts = index.tensor_split(-(-len(index) // max_size))
            for position, part in enumerate(parts, start=1):
                owner[part] = len(names)
                names.append(name if len(parts) == 1 else f"{name}/{position}of{len(parts)}")
        return Groups(tuple(names), owner)


def make_groups(
    problem: BilevelProblem,
    by: str | Sequence[str] | Mapping[str, Members] = "tensor",
    *,
    max_size: int | None = None,
) -> Groups:
    """Groups of a problem's weights.

    Args:
        by: ``"tensor"``, or another way that the problem knows (a language model: ``"block"``, ``"kind"``,
            ``"block-kind"``, ``"lora"``), or the name of one tensor; or patterns of tensor names, one group each; or a
            mapping from group names to patterns, slices or indices into θ. Where two patterns fit a tensor, the first
            one has it.
        max_size: cut larger groups into pieces of at most so many weights, see `Groups.split`.

    Raises:
        ValueError: if a pattern fits nothing, groups overlap, or an index is out of range.

    >>> from problems import Network
    >>> make_groups(Network()).names
    ('hidden.weight', 'hidden.bias', 'output.weight', 'output.bias')
    >>> make_groups(Network(), {"all biases": "*.bias", "first": [0, 1]}).sizes.tolist()
    [18, 2]
    """
    start = problem.initial_point().weights
    count = len(start)
    if isinstance(by, str) and by in problem.groups and by != "tensor":
        by = [by]
    if isinstance(by, str):
        labels = {name: problem.group_label(name, by) for name in problem.groups}
        members: dict[str, list[str]] = {}
        for tensor, label in labels.items():
            members.setdefault(label, []).append(tensor)
        grouped = _assemble(problem, {label: _Exact(tensors) for label, tensors in members.items()}, count)
    elif isinstance(by, Mapping):
        grouped = _assemble(problem, by, count)
    elif not by:
        raise ValueError("by: expected at least one pattern of tensor names, got none")
    else:
        grouped = _assemble(problem, {pattern: pattern for pattern in by}, count)
    grouped = Groups(grouped.names, grouped.owner.to(start.device))
    return grouped if max_size is None else grouped.split(max_size)


class _Exact(tuple[str, ...]):
    """Tensor names that are no patterns."""

    __slots__ = ()


def _assemble(problem: BilevelProblem, members: Mapping[str, Any], count: int) -> Groups:
    owner = torch.full((count,), -1, dtype=torch.int64)
    for number, (name, what) in enumerate(members.items()):
        is_list = isinstance(what, Sequence) and len(what) > 0
        if isinstance(what, str) or (is_list and all(isinstance(entry, str) for entry in what)):
            index = _by_name(problem, name, what, owner, count)
        else:
            index = _by_index(name, what, count)
            if (owner[index] >= 0).any():
                raise ValueError(f"by: group {name!r} overlaps an earlier one; a weight may be in one group only")
        owner[index] = number
    return Groups(tuple(members), owner)


def _by_name(problem: BilevelProblem, name: str, what: Any, owner: Tensor, count: int) -> Tensor:
    patterns: Sequence[str] = [what] if isinstance(what, str) else what
    found = torch.zeros(count, dtype=torch.bool)
    for pattern in patterns:
        fitting = [
            part
            for tensor, part in problem.groups.items()
            if tensor == pattern or (not isinstance(what, _Exact) and fnmatchcase(tensor, pattern))
        ]
        if not fitting:
            some = ", ".join(list(problem.groups)[:6])
            raise ValueError(f"by: {pattern!r} of group {name!r} fits no tensor; tensors are called {some} ...")
        for part in fitting:
            found[part] = True
    free = (found & (owner < 0)).nonzero().flatten()
    if not len(free):
        raise ValueError(f"by: group {name!r} is left with no weights, since earlier groups have them all")
    return free


def _by_index(name: str, what: Any, count: int) -> Tensor:
    everything = torch.arange(count)
    if isinstance(what, slice):
        index = everything[what]
    else:
        try:
            index = torch.as_tensor(what)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            raise ValueError(
                f"by: group {name!r}: expected patterns, a slice or a flat list of whole numbers, got {what!r}"[:300]
            ) from None
        if not index.numel():
            raise ValueError(f"by: group {name!r} is empty")
        if index.dtype == torch.bool or index.is_floating_point() or index.ndim != 1:
            raise ValueError(
                f"by: group {name!r}: expected patterns, a slice or a flat list of whole numbers, got {index.dtype} "
                f"of shape {tuple(index.shape)}"
            )
        if not 0 <= int(index.min()) <= int(index.max()) < count:
            raise ValueError(f"by: group {name!r}: expected indices in 0 ... {count - 1}, got {what!r}"[:300])
    if not len(index):
        raise ValueError(f"by: group {name!r} is empty")
    return index.to(torch.int64)
