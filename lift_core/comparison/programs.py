"""The linear programs of a comparison: files, and generated direction LPs."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lift_core.direction import assemble_direction_lp, slack_unit
from lift_core.lp import LinearProgram
from lift_core.operators import (
    Dense,
    Diagonal,
    DirectionMatrix,
    GroupColumns,
    LinearOperator,
    LowRankPlusDiagonal,
    Sparse,
)
from lift_core.records import fingerprint
from lift_core.saved_lp import SUFFIX, load_lp

MPS_SUFFIXES = (".mps", ".mps.gz")
_SUFFIXES = (*MPS_SUFFIXES, SUFFIX)

Reader = Callable[[Path], LinearProgram]


@dataclass(frozen=True)
class Program:
    """A linear program that is loaded when its turn comes.

    Attributes:
        name: what tables call it.
        key: changes whenever its content does.
        load: makes it.
    """

    name: str
    key: str
    load: Callable[[], LinearProgram]


def program_files(paths: Iterable[str | Path], *, read_mps: Reader) -> list[Program]:
    """Programs of MPS files and saved ones; a folder stands for all of them in it, a pattern for all that match.

    Args:
        paths: files (``*.mps``, ``*.mps.gz``, ``*.safetensors``), folders, or patterns with ``*``, ``?`` and ``[]``.
        read_mps: reads an MPS file; `backends.read_mps`.

    Raises:
        ValueError: for a path that is no such file, or a folder or pattern without any.
    """
    files = list(dict.fromkeys(file for path in paths for file in _files(str(path))))
    names = [file.name for file in files]
    return [
        Program(
            file.name if names.count(file.name) == 1 else str(file),
            _digest(file),
            lambda file=file: load_lp(file) if file.suffix == SUFFIX else read_mps(file),
        )
        for file in files
    ]


def direction_family(
    *,
    sizes: Sequence[int],
    ranks: Sequence[int | None] = (8,),
    conditions: Sequence[float] = (200.0,),
    slacks: Sequence[float] = (1e-2,),
    num_hyper: int = 4,
    seed: int = 0,
) -> list[Program]:
    """Every combination as one `direction_program`; names tell what varies."""
    programs: list[Program] = []
    for size, rank, condition, slack in itertools.product(sizes, ranks, conditions, slacks):
        shape: dict[str, Any] = {
            "rank": rank, "condition": condition, "slack": slack, "num_hyper": num_hyper, "seed": seed,
        }  # fmt: skip
        _check_shape(size, **shape)
        varying = (("rank", ranks, rank), ("condition", conditions, condition), ("slack", slacks, slack))
        parts = [
            f"{name} {'dense' if value is None else f'{value:g}'}" for name, all_, value in varying if len(all_) > 1
        ]
        programs.append(
            Program(
                ", ".join([f"direction-{size}", *parts]),
                fingerprint({"family": "direction", "size": size} | shape),
                lambda size=size, shape=shape: direction_program(size, **shape),
            )
        )
    return programs


def direction_program(
    num_weights: int,
    *,
    rank: int | None = 8,
    condition: float = 200.0,
    slack: float = 1e-2,
    num_hyper: int = 4,
    seed: int = 0,
) -> LinearProgram:
    """A random direction LP with a positive definite Hessian of about this condition number.

    With a rank, ``H = D + V C Vᵀ``: D between 10 / κ and 30 / κ, C falling from 10 to 20 / κ, V orthonormal. Without,
    H is dense, with eigenvalues falling from 10 to 10 / κ.

    Args:
        num_weights: n.
        rank: k; 0 for a diagonal H, None for a dense one.
        condition: κ.
        slack: ρ, see `slack_unit`.
        num_hyper: p; J has one nonzero in each row.
        seed: of everything.

    Raises:
        ValueError: if rank or num_hyper exceeds the number of weights, or the condition number is below 2.
    """
    _check_shape(num_weights, rank=rank, condition=condition, slack=slack, num_hyper=num_hyper, seed=seed)
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    grad, weights = draw(num_weights), draw(num_weights)
    hessian = _hessian(num_weights, rank, condition, draw)
    groups = torch.arange(num_weights) % num_hyper if num_hyper else torch.full((num_weights,), -1)
    return assemble_direction_lp(
        grad_hyper=torch.zeros(num_hyper, dtype=torch.float64),
        grad_weights=grad,
        hessian=hessian,
        mixed=GroupColumns(0.1 * weights, groups, num_groups=num_hyper),
        delta=slack * slack_unit(hessian, grad, torch.ones_like(grad)),
    )


def stored_entries(operator: LinearOperator) -> int | None:
    """How many numbers an operator is made of: the size of a program; None for one that is known by products only."""
    match operator:
        case Dense():
            return operator.shape[0] * operator.shape[1]
        case Sparse():
            return int(operator.matrix.nnz)
        case Diagonal() | GroupColumns():
            return operator.shape[0]
        case LowRankPlusDiagonal():
            return operator.diagonal.numel() + operator.factor.numel() + operator.core.numel()
        case DirectionMatrix():
            parts = [stored_entries(part) for part in (operator.mixed, operator.hessian)]
            return None if None in parts else sum(part or 0 for part in parts)
        case _:
            return None


def _files(text: str) -> Iterator[Path]:
    path = Path(text)
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.name.endswith(_SUFFIXES))
    elif path.is_file():
        if not path.name.endswith(_SUFFIXES):
            raise ValueError(f"LP: expected a file called {_wanted()}, got {path.name}")
        found = [path]
    else:
        parts = Path(path.anchor) if path.is_absolute() else Path()
        found = sorted(file for file in parts.glob(str(path.relative_to(parts))) if file.name.endswith(_SUFFIXES))
    if not found:
        what = "a folder without such files" if path.is_dir() else "which is no file and matches none"
        raise ValueError(f"LP: expected {_wanted()}, a folder or a pattern, got {text}, {what}")
    yield from found


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError:  # loading it will say why
        return f"unreadable {path}"


def _wanted() -> str:
    return ", ".join(f"*{suffix}" for suffix in _SUFFIXES)


def _check_shape(num_weights: int, **shape: Any) -> None:
    for name in ("rank", "num_hyper"):
        value = shape[name]
        if value is not None and not 0 <= value <= num_weights:
            raise ValueError(f"{name}: expected at most the number of weights ({num_weights}), got {value}")
    if not shape["condition"] >= 2:
        raise ValueError(f"condition: expected a number of at least 2, got {shape['condition']}")
    if not 0 <= shape["slack"] <= 1:
        raise ValueError(f"slack: expected a ratio in [0, 1], got {shape['slack']}")


def _hessian(n: int, rank: int | None, condition: float, draw: Callable[..., torch.Tensor]) -> LinearOperator:
    if rank is None:
        basis = torch.linalg.qr(draw(n, n))[0]
        eigenvalues = 10 * torch.logspace(0, -1, n, base=condition, dtype=torch.float64)
        return Dense((basis * eigenvalues) @ basis.T)
    diagonal = 10 / condition * (1 + 2 * draw(n).sigmoid())
    if rank == 0:
        return Diagonal(diagonal)
    factor = torch.linalg.qr(draw(n, rank))[0]
    core = 10 * torch.logspace(0, -1, rank, base=condition / 2, dtype=torch.float64)
    return LowRankPlusDiagonal(diagonal=diagonal, factor=factor, core=core)
