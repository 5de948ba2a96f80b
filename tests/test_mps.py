"""Reading MPS files."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from backends import HiGHS, read_mps
from lift_core.lp import LPStatus, solve_lp

TINY = """NAME tiny
ROWS
 N cost
 G low
 L high
 E same
COLUMNS
 x cost 1 low 2
 x high 1
 y cost -1 high 1
 y same 1
RHS
 rhs cost -10 low 4
 rhs high 9 same 3
RANGES
 rng high 5
BOUNDS
 UP bnd x 6
 FR bnd y
ENDATA
"""

INF = float("inf")


def _write(folder: Path, text: str, name: str = "tiny.mps") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_every_part_of_a_program_is_read(tmp_path: Path) -> None:
    lp = read_mps(_write(tmp_path, TINY))
    assert lp.c.tolist() == [1.0, -1.0]
    assert lp.A.to_dense().tolist() == [[2.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
    assert lp.row_lower.tolist() == [4.0, 4.0, 3.0]
    assert lp.row_upper.tolist() == [INF, 9.0, 3.0]
    assert lp.col_lower.tolist() == [0.0, -INF]
    assert lp.col_upper.tolist() == [6.0, INF]
    assert lp.offset == 10.0
    solution = solve_lp(lp, HiGHS())
    assert (solution.status, solution.objective) == (LPStatus.OPTIMAL, 9.0)


def test_a_maximisation_becomes_the_minimisation_of_the_negated_objective(tmp_path: Path) -> None:
    lp = read_mps(_write(tmp_path, TINY.replace("ROWS", "OBJSENSE\n MAX\nROWS", 1)))
    assert lp.c.tolist() == [-1.0, 1.0]
    assert lp.offset == -10.0
    assert solve_lp(lp, HiGHS()).objective == pytest.approx(-13.0)


def test_numbers_for_names_and_names_with_spaces_are_read(tmp_path: Path) -> None:
    numbers = TINY.replace(" x ", " 3 ").replace(" y ", " 5 ").replace("UP bnd 3 6", "UP 3 6").replace("bnd y", "5")
    assert read_mps(_write(tmp_path, numbers)).col_upper[0] == 6.0
    two = f"    {{:<10}}{'1 A':<10}{{:>12}}   {'2 A':<10}{{:>12}}\n"  # the columns of the fixed format
    rows = "NAME\nROWS\n N  COST\n L  1 A\n G  2 A\n"
    spaced = f"{rows}COLUMNS\n{two.format('COL 1', 3.0, 4.0)}RHS\n{two.format('RHS', 9.0, 2.0)}ENDATA\n"
    assert read_mps(_write(tmp_path, spaced)).A.to_dense().tolist() == [[3.0], [4.0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no complete MPS file"),
        ("hello\nworld 1 2 3\n", "no complete MPS file"),
        (TINY[: len(TINY) // 2], "no complete MPS file"),
        ("hello\nworld 1 2 3\nENDATA\n", "HiGHS finds no linear program"),
        ("NAME nothing\nENDATA\n", "HiGHS finds no linear program"),
        (TINY.replace("x cost 1 low", "x cost 1 lo"), '"lo" in COLUMNS section is not defined'),
        (TINY.replace(" x high 1", " x high 1 high 2"), "duplicate"),
        (TINY.replace("x cost 1 low 2", "x cost abc"), "line 8.*expected a number, got 'abc'"),
        (TINY.replace("x cost 1 low 2", "x cost 1 low nan"), "expected a number, got 'nan'"),
        (TINY.replace("x cost 1 low 2", "x cost 1 low"), "expected a number, got 'low'"),
        (TINY.replace("high 9 same 3", "high 9 same 3,5"), "expected a number, got '3,5'"),
        (TINY.replace("UP bnd x 6", "UP bnd x many"), "expected a number, got 'many'"),
        (TINY.replace("UP bnd x 6", "UP bnd z 6"), "a bound on a variable that no column names"),
        (TINY.replace("UP bnd x 6", "UP bnd x -6"), "tiny.mps: col_lower, col_upper: bounds cross"),
        (TINY.replace("RHS\n", "RANGES\n rng low 2\nRHS\n"), "right-hand sides after the ranges"),
        (TINY.replace("ROWS", "OBJSENSE\n BIG\nROWS"), "expected one of MAX, MAXIMIZE, MIN, MINIMIZE"),
        (TINY.replace("ROWS", "OBJSENSE MAXIMIZE\nROWS"), "expected MAX or MIN, or the sense on a line of its own"),
        (TINY.replace("ROWS", "MAX\nROWS"), "expected a section, got a sense"),
        (TINY.replace("x cost 1 low 2", "x cost abc low 2"), "expected a number, got 'abc'"),
        (TINY.replace("rhs cost -10 low 4", "rhs cost x low 4"), "expected a number, got 'x'"),
        (TINY.replace("UP bnd x 6", "UP bnd x 1_0"), "expected a number, got '1_0'"),
        (TINY.replace(" G low", " N other\n G low").replace("rhs high", "rhs other 3\n rhs high"), "not the first"),
        (TINY.replace(" y same 1", " y same 1\n x same 1"), "the same name"),
        (TINY.replace("rhs cost -10 low 4", "rhs cost -10 low 4 same 3"), "expected at most two entries on a line"),
        (TINY.replace("UP bnd x 6", "UP x y 6"), "a set of bounds that is named like a variable"),
        (TINY.replace("ROWS", "OBJNAME\n other\nROWS").replace(" G low", " N other\n G low"), "another objective than"),
        (TINY.replace(" E same", " E same\n E low"), "the same name"),
        (TINY.replace("UP bnd x 6", "UP bnd x 6 y 4"), "expected one bound on a line"),
    ],
    ids=[
        "empty",
        "garbage",
        "cut in half",
        "garbage to the end",
        "no columns",
        "unknown row",
        "duplicate entry",
        "a cost that is no number",
        "an entry that is NaN",
        "a row without its number",
        "a comma",
        "a bound in words",
        "a bound on nothing",
        "bounds that cross",
        "ranges first",
        "an unknown sense",
        "a sense behind its section",
        "a sense alone",
        "the first of two costs",
        "the first of two constants",
        "an underscore",
        "another constant",
        "a column in two places",
        "three entries on a line",
        "a set named like a column",
        "the second of two objectives",
        "two rows of one name",
        "two bounds on a line",
    ],
)
def test_files_that_are_no_program(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_mps(_write(tmp_path, text))


def test_compressed_files_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "tiny.mps.gz"
    path.write_bytes(gzip.compress(TINY.encode()))
    assert read_mps(path).c.tolist() == [1.0, -1.0]
    for damaged in (gzip.compress(TINY.encode())[:20], TINY.encode(), gzip.compress(TINY.encode())[:-20] + bytes(20)):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"tiny\.mps\.gz is no complete gzip file"):
            read_mps(path)


def test_integer_variables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 integer or semi-continuous variable"):
        read_mps(_write(tmp_path, TINY.replace(" UP bnd x 6", " UI bnd x 6")))


def test_quadratic_objectives_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="quadratic objective"):
        read_mps(_write(tmp_path, TINY.replace("ENDATA", "QUADOBJ\n x x 2\nENDATA")))


def test_missing_files_folders_and_other_formats(tmp_path: Path) -> None:
    for missing in (tmp_path / "none.mps", tmp_path):
        with pytest.raises(FileNotFoundError, match="there is no file"):
            read_mps(missing)
    with pytest.raises(ValueError, match=r"expected a file called \*\.mps or \*\.mps\.gz, got tiny\.txt"):
        read_mps(_write(tmp_path, TINY, "tiny.txt"))


@pytest.mark.parametrize("name", ["xÅ", "xà", "x…", "x"])
@pytest.mark.parametrize("sense", ["OBJSENSE MAX\n", "OBJSENSE\n MAXIMIZE\n"])
def test_names_of_any_alphabet_and_both_places_of_a_sense_are_read(tmp_path: Path, name: str, sense: str) -> None:
    text = TINY.replace(" x ", f" {name} ").replace("ROWS\n", f"{sense}ROWS\n", 1)
    path = tmp_path / "named.mps"
    path.write_text(text, encoding="utf-8")
    assert read_mps(path).c.tolist() == [-1.0, 1.0]


def test_fixed_fields_with_blanks_in_names_are_read(tmp_path: Path) -> None:
    text = """NAME          T
ROWS
 N  COST
 G  ROW ONE
COLUMNS
    X ONE     COST               1.0   ROW ONE            2.0
RHS
    RHS       ROW ONE            4.0
BOUNDS
 UP BND       X ONE              9.0
ENDATA
"""
    lp = read_mps(_write(tmp_path, text))
    assert (lp.row_lower.tolist(), lp.col_upper.tolist()) == ([4.0], [9.0])
    for right, wrong in (
        ("   ROW ONE            2.0", "  ROW ONE            2.0"),
        ("COST               1", "COST       1"),
    ):
        with pytest.raises(ValueError, match="expected fields in their columns"):  # or entries are lost
            read_mps(_write(tmp_path, text.replace(right, wrong)))
