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

_IGNORED = re.compile(r"(not defined|duplicate).*: ignored|the same name")  # HiGHS says that all is well
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_INFINITE = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE)
_VALUED = {"COLUMNS", "RHS", "RANGES", "BOUNDS"}
_WITHOUT_VALUE = {"MI", "PL", "FR", "BV"}
_SENSES = {"MIN", "MAX", "MINIMIZE", "MAXIMIZE"}


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
    text = _text(path)
    if re.search(r"^ENDATA", text, re.MULTILINE) is None:
        raise ValueError(f"path: {path} is no complete MPS file: it has no line ENDATA")
    fault = first_fault(text)
    if fault is not None:
        raise ValueError(f"path: {path} is no valid MPS file: {fault}")
    highs, ignored = new_highs(), list[str]()
    highs.setOptionValue("output_flag", True)
    highs.setOptionValue("log_to_console", False)
    highs.cbLogging += lambda event: ignored.append(event.message) if _IGNORED.search(event.message) else None
    if highs.readModel(str(path)).name == "kError" or highs.getNumCol() == 0:
        raise ValueError(f"path: HiGHS finds no linear program in {path}")
    if ignored:
        raise ValueError(f"path: {path} is no valid MPS file: {ignored[0].strip()}")
    try:
        return _to_linear_program(highs.getModel(), path)
    except ValueError as error:
        raise error if str(error).startswith("path:") else ValueError(f"path: {path}: {error}") from error


def first_fault(text: str) -> str | None:
    """The first line that HiGHS would misread without a word, and why; None if there is none.

    Numbers that are none, more than two entries, ranges before the right-hand sides they belong to, bounds on variables
    that no column names or in a set that is named like one, two bounds on a line, fields off their columns where names
    have blanks, another objective than the first or its constant, and an unknown sense.
    """
    section, rows, free, columns, seen = "", set[str](), list[str](), set[str](), set[str]()
    objective: tuple[str, str] | None = None
    for number, line in enumerate(text.split("\n"), start=1):
        tokens, fault = re.findall(r"[^ \t\r]+", line), None
        if not tokens or line.startswith("*"):
            continue
        if line[0] not in " \t":
            section, tokens = tokens[0].upper(), tokens[1:]
            seen.add(section)
            fault = _header_fault(section, tokens)
        elif section == "OBJSENSE" and (len(tokens) > 1 or tokens[0].upper() not in _SENSES):
            fault = f"expected one of {', '.join(sorted(_SENSES))}"
        elif section == "OBJNAME":
            objective = (f"line {number}, {line.strip()!r}", tokens[-1])
        elif section == "ROWS":
            rows.update(tokens[1:] if len(tokens) == 2 else [*tokens[1:], ""])  # "": some names have spaces
            free += tokens[-1:] if tokens[0].upper() == "N" else []
        elif section in _VALUED and "'MARKER'" not in tokens:
            fault = _value_fault(section, tokens, rows)
            if section == "COLUMNS":
                columns.add(tokens[0] if len(tokens) in (3, 5) else "")
            elif section == "RHS" and "RANGES" in seen:
                fault = fault or "right-hand sides after the ranges that belong to them"
            elif section == "RHS" and set(tokens[:-1]) & set(free[1:]) - set(free[:1]):
                fault = fault or "the constant of an objective that is not the first"
            elif section == "BOUNDS" and "" not in columns:
                fault = fault or _bound_fault(tokens, columns)
            if fault is None and "" in rows | columns and not _keeps_columns(line):
                fault = "expected fields in their columns (5, 15, 25, 40, 50), as some names have blanks"
        if fault is not None:
            return f"line {number}, {line.strip()!r}: {fault}"
    if objective is not None and objective[1] not in free[:1]:
        return f"{objective[0]}: another objective than the first"
    return None


def _header_fault(section: str, words: list[str]) -> str | None:
    """Of the line that begins a section: only MAX and MIN are read there, and nothing by themselves."""
    if section in _SENSES:
        return "expected a section, got a sense; it belongs into the section OBJSENSE"
    if section == "OBJSENSE" and words and [word.upper() for word in words] not in (["MAX"], ["MIN"]):
        return f"expected MAX or MIN, or the sense on a line of its own, got {' '.join(words)!r}"
    return None


def _value_fault(section: str, tokens: list[str], rows: set[str]) -> str | None:
    """Of the numbers of a line: its last word, and the one after an earlier row where two rows are named."""
    if len(tokens) > 5 and "" not in rows and _entries(tokens, rows) > 2:
        return "expected at most two entries on a line"
    if section == "BOUNDS" and tokens[0].upper() in _WITHOUT_VALUE:
        return None
    two = len(tokens) in (4, 5) and {tokens[-2], tokens[-4]} <= rows
    for token in tokens[-3::2] if two else tokens[-1:]:
        if _NUMBER.fullmatch(token) is None and (section == "COLUMNS" or _INFINITE.fullmatch(token) is None):
            return f"expected a number, got {token!r}"
    return None


def _keeps_columns(line: str) -> bool:
    """Whether what stands in the columns of the numbers are numbers, and nothing between the fields."""
    line = line.rstrip("\r").expandtabs()
    numbers, gaps = (line[24:36], line[49:61]), (line[:1], line[12:14], line[22:24], line[36:39], line[47:49])
    names, found = (line[14:22], line[39:47]), [number.strip() for number in numbers]
    wrong = any(_NUMBER.fullmatch(number) is None and _INFINITE.fullmatch(number) is None for number in found if number)
    unnamed = any(bool(number) and not name.strip() for number, name in zip(found, names, strict=True))
    return not (wrong or unnamed or any(gap.strip() for gap in gaps) or line[61:].strip())


def _entries(tokens: list[str], rows: set[str]) -> int:
    """How many rows are followed by a number."""
    count, place = 0, 0
    while place < len(tokens) - 1:
        found = tokens[place] in rows and _NUMBER.fullmatch(tokens[place + 1]) is not None
        count, place = count + found, place + 1 + found
    return count


def _bound_fault(tokens: list[str], columns: set[str]) -> str | None:
    """Of the variable: the third word, or the second where there is no name of a set. HiGHS tries the second first."""
    if len(tokens) > 4:
        return "expected one bound on a line"
    no_value = tokens[0].upper() in _WITHOUT_VALUE
    has_set = len(tokens) > 3 or (no_value and len(tokens) == 3 and tokens[2] in columns)
    if has_set and tokens[1] in columns:
        return "a set of bounds that is named like a variable"
    return None if set(tokens[1:3]) & columns else "a bound on a variable that no column names"


def _text(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"path: {path} is no complete gzip file ({error})") from error
    return content.decode("utf-8", "surrogateescape")


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
