"""What many answers amount to: means, performance profiles, contradictions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lift_core.comparison.contest import is_solved
from lift_core.lp import LPStatus

SHIFT = 1.0
"""Seconds added before the geometric mean, so that milliseconds do not decide it (Mittelmann's benchmarks use 10)."""
_SHORTEST = 1e-4
"""Times below this many seconds count as equal to it in ratios: they are noise."""

Facts = Mapping[str, Any]


class Profile(NamedTuple):
    """Share of all programs that a backend solves within ``ratio`` times the time of the fastest: steps, ascending."""

    backend: str
    rtol: float
    steps: tuple[tuple[float, float], ...]


def shifted_mean(values: Sequence[float], shift: float = SHIFT) -> float:
    """``(Π (v_i + s))^{1/N} − s``.

    >>> round(shifted_mean([0.0, 3.0]), 12)
    1.0
    """
    return math.exp(math.fsum(math.log(value + shift) for value in values) / len(values)) - shift


def shifted_means(answers: Sequence[Facts], time_limit: float) -> list[dict[str, Any]]:
    """Per backend and tolerance: solved programs, and the shifted geometric mean of seconds and of iterations.

    An unsolved program counts as the whole time limit; iterations are averaged over the solved ones alone.
    """
    means: list[dict[str, Any]] = []
    for backend, rtol in _contenders(answers):
        own = [answer for answer in answers if (answer["backend"], answer["rtol"]) == (backend, rtol)]
        solved = [answer for answer in own if is_solved(answer)]
        seconds = [answer["seconds"] if is_solved(answer) else time_limit for answer in own]
        counts = [float(answer["iterations"]) for answer in solved]
        means.append(
            {
                "backend": backend,
                "rtol": rtol,
                "solved": len(solved),
                "of": len(own),
                "mean_seconds": shifted_mean(seconds),
                "mean_iterations": shifted_mean(counts) if counts else None,
            }
        )
    return means


def performance_profiles(answers: Sequence[Facts]) -> list[Profile]:
    """For every backend and tolerance, ``ρ(τ)`` = share of the programs with ``t ≤ τ · min over backends t``.

    Backends compete with those of the same tolerance; a program that nobody solved counts for nobody.

    Reference: Dolan & Moré (2002), Benchmarking optimization software with performance profiles, Math. Prog. 91.
    """
    times = {
        (answer["backend"], answer["rtol"], answer["lp"]): max(answer["seconds"], _SHORTEST)
        for answer in answers
        if is_solved(answer)
    }
    programs = list(dict.fromkeys(answer["lp"] for answer in answers))
    contenders = _contenders(answers)
    profiles: list[Profile] = []
    for backend, rtol in contenders:
        rivals = [name for name, tolerance in contenders if tolerance == rtol]
        ratios = sorted(
            times[backend, rtol, lp] / min(times.get((rival, rtol, lp), math.inf) for rival in rivals)
            for lp in programs
            if (backend, rtol, lp) in times
        )
        steps = tuple((ratio, (rank + 1) / len(programs)) for rank, ratio in enumerate(ratios))
        profiles.append(Profile(backend, rtol, steps))
    return profiles


def disagreements(answers: Sequence[Facts]) -> list[str]:
    """Sentences about pairs of answers to one program that cannot both be right.

    Two optimal objectives may differ by ten times the sum of what their tolerances allow, relative to 1 + |objective|.
    """
    found: list[str] = []
    for index, first in enumerate(answers):
        for second in answers[index + 1 :]:
            if first["lp"] == second["lp"] and _contradict(first, second):
                pair = " and ".join(f"{a['backend']} at {a['rtol']:g}: {_verdict(a)}" for a in (first, second))
                found.append(f"{first['lp']}: {pair}")
    return found


def _contenders(answers: Sequence[Facts]) -> list[tuple[str, float]]:
    return list(dict.fromkeys((answer["backend"], answer["rtol"]) for answer in answers))


def _contradict(first: Facts, second: Facts) -> bool:
    statuses = {first["status"], second["status"]}
    if statuses == {LPStatus.OPTIMAL.name}:
        allowed = 10 * (first["rtol"] + second["rtol"])
        scale = 1 + max(abs(first["objective"]), abs(second["objective"]))
        return abs(first["objective"] - second["objective"]) > allowed * scale
    if statuses == {LPStatus.OPTIMAL.name, LPStatus.INFEASIBLE_OR_UNBOUNDED.name}:
        return first["certified"] or second["certified"]
    verdicts = {LPStatus.OPTIMAL.name, LPStatus.INFEASIBLE.name, LPStatus.UNBOUNDED.name}
    return len(statuses & verdicts) == 2 and all(a["certified"] or a["objective"] is not None for a in (first, second))


def _verdict(answer: Facts) -> str:
    return answer["status"] if answer["objective"] is None else f"{answer['objective']:.10g}"
