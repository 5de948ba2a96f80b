"""`check_backend` finds backends that are broken on purpose, and says what is wrong."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from backends import HiGHS
from lift_core import (
    BackendAnswer,
    LinearProgram,
    LPBackend,
    LPStart,
    LPStatus,
)
from lift_core.testing import check_backend, lp_cases
from lift_core.testing.backends import check_case


@dataclass(frozen=True, kw_only=True)
class Broken(LPBackend):
    """HiGHS, whose program or answer is spoiled."""

    name: ClassVar[str] = "broken"

    def solve(self, lp: LinearProgram, start: LPStart | None = None) -> BackendAnswer:
        return self.spoil(HiGHS(rtol=self.rtol, time_limit=self.time_limit).solve(self.change(lp)))

    def change(self, lp: LinearProgram) -> LinearProgram:
        return lp

    def spoil(self, answer: BackendAnswer) -> BackendAnswer:
        return answer


class Liar(Broken):
    def spoil(self, answer: BackendAnswer) -> BackendAnswer:
        return BackendAnswer(torch.zeros_like(answer.x), torch.zeros_like(answer.y), LPStatus.OPTIMAL)  # pyright: ignore


class FlippedDuals(Broken):
    def spoil(self, answer: BackendAnswer) -> BackendAnswer:
        return answer._replace(y=None if answer.y is None else -answer.y)


class NoDuals(Broken):
    def spoil(self, answer: BackendAnswer) -> BackendAnswer:
        return answer._replace(y=None)


class CallsEverythingInfeasible(Broken):
    def spoil(self, answer: BackendAnswer) -> BackendAnswer:
        return BackendAnswer(None, None, LPStatus.INFEASIBLE)


class ConfusesInfeasibleAndUnbounded(Broken):
    def spoil(self, answer: BackendAnswer) -> BackendAnswer:
        swapped = {LPStatus.INFEASIBLE: LPStatus.UNBOUNDED, LPStatus.UNBOUNDED: LPStatus.INFEASIBLE}
        return answer._replace(status=swapped.get(answer.status, answer.status))


def rebuilt(lp: LinearProgram, **changes: object) -> LinearProgram:
    names = ("c", "A", "row_lower", "row_upper", "col_lower", "col_upper", "offset")
    return LinearProgram(**({name: getattr(lp, name) for name in names} | changes))


class IgnoresColumnBounds(Broken):
    def change(self, lp: LinearProgram) -> LinearProgram:
        return rebuilt(lp, col_lower=-10.0, col_upper=10.0)


class IgnoresUpperRowBounds(Broken):
    def change(self, lp: LinearProgram) -> LinearProgram:
        return rebuilt(lp, row_upper=torch.where(lp.row_lower == lp.row_upper, lp.row_upper, torch.inf))


class DropsRows(Broken):
    def change(self, lp: LinearProgram) -> LinearProgram:
        return rebuilt(lp, row_lower=-torch.inf, row_upper=torch.inf)


class Maximises(Broken):
    def change(self, lp: LinearProgram) -> LinearProgram:
        return rebuilt(lp, c=-lp.c)


class WritesIntoTheProgram(Broken):
    def change(self, lp: LinearProgram) -> LinearProgram:
        lp.c.mul_(2)
        return lp


class OneAnswerOnly(Broken):
    def solve_sequence(self, lps: Iterable[LinearProgram]) -> Iterator[BackendAnswer]:
        yield from (self.solve(lp) for lp in list(lps)[:1])


class AnyTolerance(Broken):
    def __post_init__(self) -> None:
        pass


class Nameless(Broken):
    name: ClassVar[str] = ""


@dataclass(kw_only=True, unsafe_hash=True)
class Thawed:
    """Not an `LPBackend` at all."""

    name = "thawed"
    rtol: float = 1e-6


BROKEN_BACKENDS: dict[str, tuple[Callable[[], object], str]] = {
    "liar": (Liar, "expected OPTIMAL, got INACCURATE"),
    "flipped duals": (FlippedDuals, "expected OPTIMAL, got INACCURATE.*signs"),
    "no duals": (NoDuals, "expected OPTIMAL, got NUMERICAL_ERROR"),
    "all infeasible": (CallsEverythingInfeasible, "expected OPTIMAL, got INFEASIBLE"),
    "infeasible and unbounded confused": (ConfusesInfeasibleAndUnbounded, "expected INFEASIBLE .*got UNBOUNDED"),
    "ignores column bounds": (IgnoresColumnBounds, "expected OPTIMAL"),
    "ignores upper row bounds": (IgnoresUpperRowBounds, "expected OPTIMAL"),
    "drops rows": (DropsRows, "expected OPTIMAL"),
    "maximises": (Maximises, "expected OPTIMAL"),
    "writes into the program": (WritesIntoTheProgram, "it changed c of the program"),
    "one answer for a sequence": (OneAnswerOnly, "solve_sequence"),
    "any tolerance": (AnyTolerance, "expected a ValueError for"),
    "nameless": (Nameless, "name: expected a non-empty string"),
    "not a backend": (Thawed, "expected a subclass"),
}


@pytest.mark.parametrize("name", BROKEN_BACKENDS)
def test_broken_backends_are_found(name: str) -> None:
    make, sentence = BROKEN_BACKENDS[name]
    with pytest.raises(AssertionError, match=sentence):
        check_backend(make())  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("case", [case for case in lp_cases() if case.known is None], ids=lambda case: case.name)
def test_a_program_without_optimum_may_be_given_up_on_but_not_solved(case: object) -> None:
    class GivesUp(Broken):
        def spoil(self, answer: BackendAnswer) -> BackendAnswer:
            return BackendAnswer(None, None, LPStatus.ITERATION_LIMIT)

    check_case(GivesUp(), case)  # pyright: ignore[reportArgumentType]
    with pytest.raises(AssertionError, match=r"expected (INFEASIBLE|UNBOUNDED)"):
        check_case(Failing(), case)  # pyright: ignore[reportArgumentType]


class Failing(Broken):
    def spoil(self, answer: BackendAnswer) -> BackendAnswer:
        return BackendAnswer(None, None, LPStatus.FAILED)


def test_the_unspoiled_backend_passes() -> None:
    check_backend(Broken())
    check_backend(replace(Broken(), rtol=1e-4))
