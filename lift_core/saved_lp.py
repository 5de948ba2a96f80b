"""Linear programs in files: one safetensors file each, operators in the form that they have.

Arrays are tensors of the file, everything else is JSON in its metadata, so that a hard program can be mailed and read
without this package. Factored operators stay factored; an operator that is known through products only has no file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from scipy import sparse as sp
from torch import Tensor

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
from lift_core.records import write_atomically

SUFFIX = ".safetensors"
FORMAT, VERSION = "lift-lp", 1
_VECTORS = ("c", "row_lower", "row_upper", "col_lower", "col_upper")

Arrays = dict[str, Tensor]
Facts = Mapping[str, Any]


def save_lp(lp: LinearProgram, path: str | Path) -> None:
    """Write a program to a file, atomically.

    Args:
        lp: its matrix may be dense, sparse, diagonal, low-rank plus diagonal, grouped, or a `DirectionMatrix` of such.
        path: by convention ``*.safetensors``.

    Raises:
        ValueError: if the matrix, or a part of it, is known through products only.

    >>> import tempfile
    >>> lp = LinearProgram(c=[1.0, 1.0], A=[[1.0, 2.0]], row_lower=2.0, col_lower=0.0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_lp(lp, f"{folder}/small.safetensors")
    ...     load_lp(f"{folder}/small.safetensors")
    LinearProgram(rows=1, columns=2, A=Dense)
    """
    arrays: Arrays = {name: getattr(lp, name) for name in _VECTORS}
    if lp.integrality is not None:
        arrays["integrality"] = lp.integrality
    description = {"format": FORMAT, "version": VERSION, "offset": lp.offset, "A": _describe("A", lp.A, arrays)}
    plain = {name: array.detach().cpu().contiguous().numpy() for name, array in arrays.items()}
    write_atomically(Path(path), save(plain, {FORMAT: json.dumps(description)}))


def load_lp(path: str | Path, *, device: torch.device | str = "cpu") -> LinearProgram:
    """The program in a file that `save_lp` wrote, its operators in the same form.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, is something else, or was written by a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path: there is no file {path}")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except SafetensorError as error:
        raise ValueError(f"path: {path} is damaged, or no safetensors file ({error})") from error
    if FORMAT not in metadata:
        raise ValueError(f"path: {path} holds tensors, but no linear program; expected a file written by save_lp")
    try:
        description = json.loads(metadata[FORMAT])
        if description["version"] > VERSION:
            raise ValueError(f"its format {description['version']} is newer than {VERSION}; upgrade this package")
        vectors = {name: arrays[name] for name in _VECTORS}
        return LinearProgram(
            A=_build("A", description["A"], arrays),
            offset=description["offset"],
            integrality=arrays.get("integrality"),
            **vectors,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"path: {path} holds no valid linear program: {error}") from error


def _describe(name: str, operator: LinearOperator, arrays: Arrays) -> dict[str, Any]:
    """What JSON says of an operator; its arrays are added to ``arrays`` under names that begin with ``name``."""
    kind = type(operator)
    if kind is DirectionMatrix:
        assert isinstance(operator, DirectionMatrix)
        parts = {part: _describe(f"{name}.{part}", getattr(operator, part), arrays) for part in ("mixed", "hessian")}
        if operator.rows is not None:
            arrays[f"{name}.rows"] = operator.rows
        return {"kind": kind.__name__} | parts
    if kind not in _ARRAYS:
        raise ValueError(
            f"{name}: {kind.__name__} cannot be saved: only its products are known; pass Dense({name}.to_dense()) in "
            "its place, or use a factored curvature model (LowRank, SR1, Diagonal)"
        )
    arrays |= {f"{name}.{part}": array for part, array in _ARRAYS[kind](operator).items()}
    return {"kind": kind.__name__, "shape": list(operator.shape)}


def _build(name: str, description: Facts, arrays: Arrays) -> LinearOperator:
    """The operator that `_describe` described."""
    kind = description["kind"]
    if kind == DirectionMatrix.__name__:
        mixed, hessian = (_build(f"{name}.{part}", description[part], arrays) for part in ("mixed", "hessian"))
        return DirectionMatrix(mixed, hessian, arrays.get(f"{name}.rows"))
    if kind not in _BUILDERS:
        raise ValueError(f"{name}: no operator is called {kind!r}")
    prefix = f"{name}."
    own = {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
    return _BUILDERS[kind](own, tuple(description["shape"]))


def _sparse_arrays(operator: Sparse) -> Arrays:
    matrix = operator.matrix
    return {part: torch.from_numpy(getattr(matrix, part)) for part in ("data", "indices", "indptr")}


def _build_sparse(own: Arrays, shape: tuple[int, int]) -> Sparse:
    data, indices, indptr = (own[part].cpu().numpy() for part in ("data", "indices", "indptr"))
    return Sparse(sp.csr_matrix((data, indices, indptr), shape=shape), own["data"].device)


_ARRAYS: dict[type, Callable[[Any], Arrays]] = {
    Dense: lambda operator: {"matrix": operator.matrix},
    Sparse: _sparse_arrays,
    Diagonal: lambda operator: {"diagonal": operator.diagonal},
    LowRankPlusDiagonal: lambda operator: {part: getattr(operator, part) for part in ("diagonal", "factor", "core")},
    GroupColumns: lambda operator: {part: getattr(operator, part) for part in ("values", "group_of")},
}
_BUILDERS: dict[str, Callable[[Arrays, tuple[int, int]], LinearOperator]] = {
    Dense.__name__: lambda own, _: Dense(own["matrix"]),
    Sparse.__name__: _build_sparse,
    Diagonal.__name__: lambda own, _: Diagonal(own["diagonal"]),
    LowRankPlusDiagonal.__name__: lambda own, _: LowRankPlusDiagonal(
        diagonal=own["diagonal"], factor=own["factor"], core=own["core"]
    ),
    GroupColumns.__name__: lambda own, shape: GroupColumns(own["values"], own["group_of"], num_groups=shape[1]),
}
