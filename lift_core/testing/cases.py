"""A table of tiny linear programs with known answers, one for each thing that a solver adapter can get wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import scipy.sparse as sp
import torch

from lift_core.lp import LinearProgram, LPStatus
from lift_core.testing.known import CURVATURES, KnownLP, closed_form_direction_lp, known_direction_lp

INF = math.inf


@dataclass(frozen=True)
class LPCase:
    """A named program and the status it deserves.

    Attributes:
        known: the optimal pair, for programs that have one.
        hard: whether a backend may give up on it, as long as it says so.
    """

    name: str
    lp: LinearProgram
    status: LPStatus
    known: KnownLP | None = None
    hard: bool = False


def lp_cases() -> list[LPCase]:
    """All cases: solvable by hand, direction LPs, infeasible, unbounded.

    >>> [case.name for case in lp_cases() if case.hard]
    ['badly scaled rows and columns']
    """
    hand = [_solvable(name, build()) for name, build in _BY_HAND.items()]
    scaled = _known(_BADLY_SCALED, x=[1e4, 2e-4], y=[1.001e-4, 1e3])
    hard = LPCase("badly scaled rows and columns", scaled.lp, LPStatus.OPTIMAL, scaled, hard=True)
    return [*hand, hard, *_direction_cases(), *_without_optimum()]


def _solvable(name: str, known: KnownLP) -> LPCase:
    return LPCase(name, known.lp, LPStatus.OPTIMAL, known)


def _known(lp: LinearProgram, *, x: list[float], y: list[float]) -> KnownLP:
    return KnownLP(lp, torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64))


_BADLY_SCALED = LinearProgram(c=[1.0, 1e6], A=[[1e4, 0.0], [-1e-6, 1e3]], row_lower=[1e8, 0.19], col_lower=0.0)

_BY_HAND: dict[str, Callable[[], KnownLP]] = {
    "row at its lower bound": lambda: _known(
        LinearProgram(c=[1.0, 1.0], A=[[1.0, 2.0]], row_lower=2.0, col_lower=0.0), x=[0.0, 1.0], y=[0.5]
    ),
    "row at its upper bound, column at its upper bound": lambda: _known(
        LinearProgram(c=[-1.0, -1.0], A=[[1.0, 2.0]], row_upper=4.0, col_lower=0.0, col_upper=3.0),
        x=[3.0, 0.5],
        y=[-0.5],
    ),
    "range row at its lower bound": lambda: _known(
        LinearProgram(c=[1.0], A=[[1.0]], row_lower=2.0, row_upper=5.0), x=[2.0], y=[1.0]
    ),
    "range row at its upper bound": lambda: _known(
        LinearProgram(c=[-1.0], A=[[1.0]], row_lower=2.0, row_upper=5.0), x=[5.0], y=[-1.0]
    ),
    "range row that does not bind": lambda: _known(
        LinearProgram(c=[1.0], A=[[1.0]], row_lower=-5.0, row_upper=5.0, col_lower=-1.0), x=[-1.0], y=[0.0]
    ),
    "equality": lambda: _known(
        LinearProgram(c=[1.0, 2.0], A=[[1.0, 1.0]], row_lower=3.0, row_upper=3.0, col_lower=0.0), x=[3.0, 0.0], y=[1.0]
    ),
    "equalities with one feasible point": lambda: _known(
        LinearProgram(c=[1.0, 3.0], A=[[1.0, 1.0], [1.0, -1.0]], row_lower=[2.0, 0.0], row_upper=[2.0, 0.0]),
        x=[1.0, 1.0],
        y=[2.0, -1.0],
    ),
    "fixed column": lambda: _known(
        LinearProgram(c=[2.0, 1.0], A=[[1.0, 1.0]], row_lower=3.0, col_lower=[1.0, 0.0], col_upper=[1.0, INF]),
        x=[1.0, 2.0],
        y=[1.0],
    ),
    "free columns": lambda: _known(
        LinearProgram(c=[1.0, 0.0], A=[[1.0, 1.0], [1.0, -1.0]], row_lower=[1.0, 0.0]), x=[0.5, 0.5], y=[0.5, 0.5]
    ),
    "column with an upper bound only, free row": lambda: _known(
        LinearProgram(c=[-1.0], A=[[1.0]], col_upper=-2.0), x=[-2.0], y=[0.0]
    ),
    "negative column bounds": lambda: _known(
        LinearProgram(c=[1.0, -1.0], A=[[1.0, -1.0]], row_lower=-3.0, col_lower=[-7.0, -6.0], col_upper=[-5.0, -1.0]),
        x=[-5.0, -2.0],
        y=[1.0],
    ),
    "no rows": lambda: _known(
        LinearProgram(c=[1.0, -1.0], A=torch.zeros(0, 2), col_lower=-1.0, col_upper=2.0), x=[-1.0, 2.0], y=[]
    ),
    "empty row": lambda: _known(
        LinearProgram(
            c=[1.0, 1.0], A=[[0.0, 0.0], [1.0, 1.0]], row_lower=[-1.0, 1.0], row_upper=[1.0, INF], col_lower=0.0
        ),
        x=[0.25, 0.75],
        y=[0.0, 1.0],
    ),
    "empty equality row": lambda: _known(
        LinearProgram(
            c=[1.0, 2.0], A=[[0.0, 0.0], [1.0, 1.0]], row_lower=[0.0, 1.0], row_upper=[0.0, 1.0], col_lower=0.0
        ),
        x=[1.0, 0.0],
        y=[0.0, 1.0],
    ),
    "empty column": lambda: _known(
        LinearProgram(c=[1.0, -1.0], A=[[1.0, 0.0]], row_lower=1.0, col_lower=0.0, col_upper=4.0),
        x=[1.0, 4.0],
        y=[1.0],
    ),
    "zero cost": lambda: _known(
        LinearProgram(c=[0.0, 0.0], A=[[1.0, 1.0]], row_lower=1.0, row_upper=1.0, col_lower=0.0), x=[1.0, 0.0], y=[0.0]
    ),
    "degenerate vertex": lambda: _known(
        LinearProgram(
            c=[-1.0, -1.0],
            A=[[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 2.0]],
            row_upper=[1.0, 1.0, 1.0, 2.0],
            col_lower=0.0,
        ),
        x=[0.0, 1.0],
        y=[-1.0, 0.0, 0.0, 0.0],
    ),
    "redundant equalities": lambda: _known(
        LinearProgram(
            c=[1.0, 2.0],
            A=[[1.0, 1.0], [1.0, 1.0], [2.0, 2.0]],
            row_lower=[1.0, 1.0, 2.0],
            row_upper=[1.0, 1.0, 2.0],
            col_lower=0.0,
        ),
        x=[1.0, 0.0],
        y=[1.0, 0.0, 0.0],
    ),
    "many optimal points": lambda: _known(
        LinearProgram(c=[1.0, 1.0], A=[[1.0, 1.0]], row_lower=1.0, col_lower=0.0), x=[0.5, 0.5], y=[1.0]
    ),
    "objective offset": lambda: _known(LinearProgram(c=[1.0], A=[[1.0]], row_lower=2.0, offset=10.0), x=[2.0], y=[1.0]),
    "sparse matrix": lambda: _known(
        LinearProgram(c=[1.0, 1.0, 1.0], A=sp.eye_array(3, format="csc"), row_lower=[1.0, 2.0, 3.0]),
        x=[1.0, 2.0, 3.0],
        y=[1.0, 1.0, 1.0],
    ),
}


def _direction_cases() -> list[LPCase]:
    closed = {
        f"direction LP, {curvature} curvature, delta {delta}": closed_form_direction_lp(
            8, 2, delta=delta, curvature=curvature, seed=1
        )
        for curvature in ("definite", "indefinite", "low rank", "diagonal")
        for delta in (0.0, 0.1)
    }
    backwards = {
        f"direction LP in a unit box, {curvature} curvature": known_direction_lp(8, 2, curvature=curvature, seed=2)
        for curvature in CURVATURES
    }
    more = {
        "direction LP without slack, singular": known_direction_lp(8, 2, curvature="singular", exact=True, seed=3),
        "direction LP without hyperparameters": closed_form_direction_lp(8, 0, delta=0.1, seed=4),
        "direction LP, 3 of 8 rows": known_direction_lp(8, 2, num_rows=3, seed=5),
        "direction LP, 3 of 8 rows, low rank": known_direction_lp(8, 2, num_rows=3, curvature="low rank", seed=6),
    }
    return [_solvable(name, known) for name, known in {**closed, **backwards, **more}.items()]


def _without_optimum() -> list[LPCase]:
    infeasible = {
        "infeasible: rows contradict each other": LinearProgram(
            c=[1.0, 1.0], A=[[1.0, 1.0], [1.0, 1.0]], row_lower=[2.0, -INF], row_upper=[INF, 1.0], col_lower=0.0
        ),
        "infeasible: equalities contradict each other": LinearProgram(
            c=[1.0, 1.0], A=[[1.0, -1.0], [1.0, -1.0]], row_lower=[0.0, 1.0], row_upper=[0.0, 1.0]
        ),
        "infeasible: the box is too small for the row": LinearProgram(
            c=[0.0, 0.0], A=[[1.0, 1.0]], row_lower=3.0, col_lower=0.0, col_upper=1.0
        ),
        "infeasible: empty row that must be one": LinearProgram(
            c=[1.0], A=[[0.0]], row_lower=1.0, col_lower=0.0, col_upper=1.0
        ),
    }
    unbounded = {
        "unbounded: along a column": LinearProgram(c=[-1.0, 0.0], A=[[1.0, 1.0]], row_lower=0.0, col_lower=0.0),
        "unbounded: along an equality": LinearProgram(c=[1.0, 0.0], A=[[1.0, 1.0]], row_lower=0.0, row_upper=0.0),
        "unbounded: empty column": LinearProgram(c=[1.0, -1.0], A=[[1.0, 0.0]], row_lower=1.0, col_lower=0.0),
    }
    return [
        LPCase(name, lp, status)
        for status, group in ((LPStatus.INFEASIBLE, infeasible), (LPStatus.UNBOUNDED, unbounded))
        for name, lp in group.items()
    ]
