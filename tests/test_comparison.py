"""Comparisons: generated programs, cells, means, performance profiles, contradictions."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from backends import HiGHS, read_mps
from lift_core import Dense, Diagonal, DirectionMatrix, GroupColumns, LowRankPlusDiagonal, MatrixFree, Sparse
from lift_core.comparison import (
    Contender,
    Contest,
    direction_family,
    direction_program,
    disagreements,
    is_solved,
    performance_profiles,
    program_files,
    shifted_mean,
    shifted_means,
)
from lift_core.comparison.programs import stored_entries
from lift_core.lp import BackendAnswer, LinearProgram

NETLIB = Path(__file__).parent / "data" / "netlib"


def answer(backend: str, status: str, objective: float | None = None, **more: Any) -> dict[str, Any]:
    return {
        "lp": "a", "backend": backend, "rtol": 1e-6, "status": status, "objective": objective, "certified": False,
        "seconds": 1.0, "iterations": 1, "time_limit": None,
    } | more  # fmt: skip


# -- programs -----------------------------------------------------------------------------------------------------


def test_generated_programs_are_repeatable_direction_lps() -> None:
    shape = {"rank": 2, "num_hyper": 2, "slack": 0.1}
    first, again, other = (direction_program(6, seed=seed, **shape) for seed in (1, 1, 2))
    assert first.c.equal(again.c) and not first.c.equal(other.c)
    assert first.is_boxed and (first.num_rows, first.num_columns) == (6, 8)


@pytest.mark.parametrize("condition", [20.0, 1e4])
@pytest.mark.parametrize("rank", [0, 5, None])
def test_generated_hessians_have_about_the_condition_number_that_is_asked_for(
    rank: int | None, condition: float
) -> None:
    matrix = direction_program(40, rank=rank, condition=condition).A
    assert isinstance(matrix, DirectionMatrix)
    spectrum = torch.linalg.eigvalsh(matrix.hessian.to_dense())
    assert spectrum.min() > 0
    if rank == 0:
        assert spectrum.max() / spectrum.min() < 3
    else:
        assert condition / 4 < spectrum.max() / spectrum.min() < 1.1 * condition


def test_names_tell_what_varies_and_keys_what_a_program_is() -> None:
    one = direction_family(sizes=[9])
    many = direction_family(sizes=[5, 6], ranks=[0, 2], slacks=[0.0, 0.1])
    assert [program.name for program in one] == ["direction-9"]
    assert [program.name for program in many][:2] == ["direction-5, rank 0, slack 0", "direction-5, rank 0, slack 0.1"]
    assert len({program.key for program in many}) == 8
    assert direction_family(sizes=[9])[0].key == one[0].key != direction_family(sizes=[9], seed=1)[0].key


def test_files_of_one_name_keep_their_paths(tmp_path: Path) -> None:
    text = (NETLIB / "afiro.mps").read_text()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.mps").write_text(text)
    paths = [tmp_path / "a", tmp_path / "b" / "same.mps", tmp_path / "a" / "same.mps"]
    programs = program_files(paths, read_mps=read_mps)
    assert [program.name for program in programs] == [str(tmp_path / folder / "same.mps") for folder in ("a", "b")]
    assert programs[0].key == programs[1].key
    assert programs[0].load().num_rows == 27


def test_sizes_count_what_is_stored() -> None:
    low_rank = LowRankPlusDiagonal(diagonal=torch.ones(4), factor=torch.ones(4, 2), core=torch.ones(2))
    groups = GroupColumns([1.0] * 4, [0] * 4, num_groups=1)
    sizes = [
        (Dense(torch.ones(2, 3)), 6),
        (Sparse(Diagonal(torch.ones(4)).lifted().matrix), 4),
        (low_rank, 14),
        (DirectionMatrix(groups, low_rank), 18),
        (DirectionMatrix(groups, MatrixFree(4, lambda x: x)), None),
    ]
    assert [stored_entries(operator) for operator, _ in sizes] == [size for _, size in sizes]


# -- cells --------------------------------------------------------------------------------------------------------


def test_a_contest_judges_every_pair_and_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = direction_family(sizes=[4, 6], ranks=[2])
    contest = Contest(
        programs=programs, contenders=[Contender("h", HiGHS()), Contender("h", HiGHS(rtol=1e-4))], folder=tmp_path
    )
    seen: list[tuple[int, int]] = []
    answers = list(contest.answers(lambda done, total, _: seen.append((done, total))))
    assert [(a["lp"], a["rtol"], a["status"]) for a in answers] == [
        (name, rtol, "OPTIMAL") for name in ("direction-4", "direction-6") for rtol in (1e-6, 1e-4)
    ]
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(a["worst_residual"] <= a["rtol"] and is_solved(a) for a in answers)
    renamed = Contest(programs=programs, contenders=[Contender("other", HiGHS())], folder=tmp_path)
    again = list(renamed.answers())
    assert [a["backend"] for a in again] == ["other"] * 2
    assert [a["seconds"] for a in again] == [a["seconds"] for a in answers if a["rtol"] == 1e-6], "it was solved again"
    monkeypatch.setattr("inspect.getsource", lambda module: "changed")
    assert list(renamed.answers()) != again, "the answers of code that has changed since"


@dataclass(frozen=True, kw_only=True)
class Wordy(HiGHS):
    def solve_sequence(self, lps: Iterable[LinearProgram]) -> Iterator[BackendAnswer]:
        return (answer._replace(status="OPTIMAL") for answer in super().solve_sequence(lps))  # pyright: ignore[reportArgumentType]


def test_a_wrong_answer_fills_its_own_cell() -> None:
    contenders = [Contender("wordy", Wordy()), Contender("h", HiGHS())]
    wordy, highs = Contest(programs=direction_family(sizes=[9]), contenders=contenders).answers()
    assert (wordy["status"], highs["status"]) == ("REFUSED", "OPTIMAL") and "LPStatus" in wordy["status_text"]


def test_without_anyone_to_tell_an_unreadable_program_ends_the_contest(tmp_path: Path) -> None:
    (tmp_path / "bad.mps").write_text("no MPS file")
    contest = Contest(programs=program_files([tmp_path], read_mps=read_mps), contenders=[Contender("h", HiGHS())])
    with pytest.raises(ValueError, match="ENDATA"):
        list(contest.answers())


def test_a_file_that_cannot_even_be_opened_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "gone.mps").symlink_to(tmp_path / "nowhere")
    (tmp_path / "afiro.mps").write_bytes((NETLIB / "afiro.mps").read_bytes())
    programs, told = program_files([tmp_path], read_mps=read_mps), []
    contest = Contest(programs=programs, contenders=[Contender("h", HiGHS())], folder=tmp_path / "out")
    answers = list(contest.answers(on_unreadable=lambda program, error: told.append((program.name, str(error)))))
    assert [answer["lp"] for answer in answers] == ["afiro.mps"]
    ((name, reason),) = told
    assert name == "gone.mps" and "there is no file" in reason


def test_names_must_differ() -> None:
    with pytest.raises(ValueError, match="contenders: expected different names"):
        Contest(programs=[], contenders=[Contender("h", HiGHS()), Contender("h", HiGHS())])
    with pytest.raises(ValueError, match="programs: expected different names"):
        Contest(programs=direction_family(sizes=[9, 9]), contenders=[])
    with pytest.raises(ValueError, match="repeats: expected at least 1, got 0"):
        Contest(programs=[], contenders=[], repeats=0)


SOLVED = (
    (answer("x", "OPTIMAL", 1.0), True),
    (answer("x", "OPTIMAL", 1.0, seconds=5.0, time_limit=4.0), False),
    (answer("x", "TIME_LIMIT", 1.0), False),
    (answer("x", "INFEASIBLE"), False),
    (answer("x", "INFEASIBLE", certified=True), True),
    (answer("x", "REFUSED", seconds=None), False),
)


@pytest.mark.parametrize(("row", "solved"), SOLVED)
def test_solved_is_an_optimum_or_a_proof_in_time(row: dict[str, Any], solved: bool) -> None:
    assert is_solved(row) is solved


# -- summaries ----------------------------------------------------------------------------------------------------


def test_shifted_means() -> None:
    rows = [
        answer("x", "OPTIMAL", seconds=0.0, iterations=3),
        answer("x", "OPTIMAL", seconds=3.0, iterations=0, lp="b"),
        answer("y", "TIME_LIMIT"),
        answer("y", "REFUSED", seconds=None, iterations=None, lp="b"),
    ]
    means = {mean["backend"]: mean for mean in shifted_means(rows, time_limit=9.0)}
    assert means["x"]["mean_seconds"] == pytest.approx(1.0) and means["x"]["mean_iterations"] == pytest.approx(1.0)
    assert means["y"]["mean_seconds"] == pytest.approx(9.0) and means["y"]["solved"] == 0
    assert means["y"]["mean_iterations"] is None
    assert shifted_mean([2.0, 2.0]) == pytest.approx(2.0)


def test_performance_profiles_by_hand() -> None:
    rows = [
        answer("x", "OPTIMAL", lp="a", seconds=1.0),
        answer("y", "OPTIMAL", lp="a", seconds=4.0),
        answer("x", "OPTIMAL", lp="b", seconds=6.0),
        answer("y", "OPTIMAL", lp="b", seconds=2.0),
        answer("x", "TIME_LIMIT", lp="c"),
        answer("y", "OPTIMAL", lp="c", seconds=7.0),
        answer("x", "REFUSED", lp="d", seconds=None),
        answer("y", "TIME_LIMIT", lp="d"),
        answer("x", "OPTIMAL", lp="a", seconds=50.0, rtol=1e-8),
    ]
    profiles = {(profile.backend, profile.rtol): profile.steps for profile in performance_profiles(rows)}
    assert profiles["x", 1e-6] == ((1.0, 0.25), (3.0, 0.5))
    assert profiles["y", 1e-6] == ((1.0, 0.25), (1.0, 0.5), (4.0, 0.75))
    assert profiles["x", 1e-8] == ((1.0, 0.25),), "tolerances do not compete with each other"


DISAGREEMENTS = (
    (answer("x", "OPTIMAL", 1.0), answer("y", "OPTIMAL", 1.0 + 1e-5), False),
    (answer("x", "OPTIMAL", 1.0), answer("y", "OPTIMAL", 1.001), True),
    (answer("x", "OPTIMAL", 1.0), answer("y", "OPTIMAL", 1.001, rtol=1e-3), False),
    (answer("x", "OPTIMAL", 1.0), answer("y", "OPTIMAL", 2.0, lp="b"), False),
    (answer("x", "OPTIMAL", 1.0), answer("y", "TIME_LIMIT", 2.0), False),
    (answer("x", "OPTIMAL", 1.0), answer("y", "INFEASIBLE", certified=True), True),
    (answer("x", "OPTIMAL", 1.0), answer("y", "INFEASIBLE"), False),
    (answer("x", "OPTIMAL", 1.0), answer("y", "INFEASIBLE_OR_UNBOUNDED", certified=True), True),
    (answer("x", "OPTIMAL", 1.0), answer("y", "INFEASIBLE_OR_UNBOUNDED"), False),
    (answer("x", "UNBOUNDED", certified=True), answer("y", "INFEASIBLE", certified=True), True),
)


@pytest.mark.parametrize(("first", "second", "contradict"), DISAGREEMENTS)
def test_only_answers_that_cannot_both_be_right_disagree(first: Any, second: Any, contradict: bool) -> None:
    assert bool(disagreements([first, second])) is contradict
