"""Linear programs from MPS files."""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from backends.explicit import import_package
from backends.highs import new_highs
from lift_core.lp import LinearProgram

_IGNORED = re.compile(r"(not defined|duplicate).*: ignored")  # HiGHS drops such entries and says that all is well


def read_mps(path: str | Path) -> LinearProgram:
    """The linear program in an MPS file (fixed or free format), read by HiGHS; names are dropped.

    The objective's constant becomes ``offset``. A maximisation becomes the minimisation of the negated objective.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if HiGHS cannot read it as MPS, or it holds integer variables or a quadratic objective.
        ModuleNotFoundError: if highspy is missing.

    >>> import tempfile
    >>> text = ["NAME t", "ROWS", " N cost", " G r", "COLUMNS", " x cost 1 r 2", "RHS", " rhs r 4", "ENDATA"]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "tiny.mps")
    ...     _ = file.write_text("\\n".join(text))
    ...     read_mps(file)
    LinearProgram(rows=1, columns=1, A=Sparse)
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path: there is no file {path}")
    if path.suffixes[-1:] != [".mps"] and path.suffixes[-2:] != [".mps", ".gz"]:
        raise ValueError(f"path: expected a file called *.mps or *.mps.gz, got {path.name}")
    if not _is_complete(path):
        raise ValueError(f"path: {path} is no complete MPS file: it has no line ENDATA")
    highs, ignored = new_highs(), list[str]()
    highs.setOptionValue("output_flag", True)
    highs.setOptionValue("log_to_console", False)
    highs.cbLogging += lambda event: ignored.append(event.message) if _IGNORED.search(event.message) else None
    if highs.readModel(str(path)).name == "kError" or highs.getNumCol() == 0:
        raise ValueError(f"path: HiGHS finds no linear program in {path}")
    if ignored:
        raise ValueError(f"path: {path} is no valid MPS file: {ignored[0].strip()}")
    return _to_linear_program(highs.getModel(), path)


def _is_complete(path: Path) -> bool:
    text = path.read_bytes()
    if path.suffix == ".gz":
        try:
            text = gzip.decompress(text)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"path: {path} is no complete gzip file ({error})") from error
    return re.search(rb"^ENDATA", text, re.MULTILINE) is not None


def _to_linear_program(model: Any, path: Path) -> LinearProgram:
    highspy, lp = import_package("highspy"), model.lp_
    integers = sum(kind != highspy.HighsVarType.kContinuous for kind in lp.integrality_)
    if integers:
        raise ValueError(
            f"path: {path} holds {integers} integer or semi-continuous variables; expected a linear program"
        )
    if model.hessian_.dim_:
        raise ValueError(f"path: {path} has a quadratic objective; expected a linear program")
    sign = -1.0 if lp.sense_ == highspy.ObjSense.kMaximize else 1.0
    return LinearProgram(
        c=sign * np.array(lp.col_cost_, dtype=np.float64),
        A=_to_scipy(lp.a_matrix_, (lp.num_row_, lp.num_col_), highspy),
        row_lower=np.array(lp.row_lower_, dtype=np.float64),
        row_upper=np.array(lp.row_upper_, dtype=np.float64),
        col_lower=np.array(lp.col_lower_, dtype=np.float64),
        col_upper=np.array(lp.col_upper_, dtype=np.float64),
        offset=sign * lp.offset_,
    )


def _to_scipy(matrix: Any, shape: tuple[int, int], highspy: Any) -> sp.csr_matrix:
    compressed = sp.csc_matrix if matrix.format_ == highspy.MatrixFormat.kColwise else sp.csr_matrix
    parts = (np.array(matrix.value_), np.array(matrix.index_), np.array(matrix.start_))
    return sp.csr_matrix(compressed(parts, shape=shape))
