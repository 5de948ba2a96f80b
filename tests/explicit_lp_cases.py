"""Small linear programs with answers worked out by hand, for the adapters to explicit solvers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch

from lift_core.lp import LinearProgram
from lift_core.operators import Dense, DirectionMatrix, LowRankPlusDiagonal

INF = float("inf")


@dataclass(frozen=True)
class Case:
    """A program with its optimal value and, where it is unique, its row dual."""

    lp: LinearProgram
    objective: float
    dual: tuple[float, ...] | None = None


CASES = {
    "row at its lower bound": Case(
        LinearProgram(c=[1.0, 1.0], A=[[1.0, 2.0]], row_lower=2.0, col_lower=0.0), 1.0, (0.5,)
    ),
    "row at its upper bound": Case(LinearProgram(c=[-2.0], A=[[4.0]], row_upper=8.0), -4.0, (-0.5,)),
    "range row at its lower bound": Case(
        LinearProgram(c=[3.0], A=[[1.0]], row_lower=-1.0, row_upper=5.0), -3.0, (3.0,)
    ),
    "range row at its upper bound": Case(
        LinearProgram(c=[-3.0], A=[[1.0]], row_lower=-1.0, row_upper=5.0), -15.0, (-3.0,)
    ),
    "range row that does not bind": Case(
        LinearProgram(c=[1.0], A=[[1.0]], row_lower=-9.0, row_upper=9.0, col_lower=-1.0, col_upper=1.0), -1.0, (0.0,)
    ),
    "equality": Case(
        LinearProgram(c=[1.0, 3.0], A=[[1.0, 1.0]], row_lower=2.0, row_upper=2.0, col_lower=0.0), 2.0, (1.0,)
    ),
    "two equalities in free variables": Case(
        LinearProgram(c=[1.0, 0.0], A=[[1.0, 1.0], [1.0, -1.0]], row_lower=[2.0, 4.0], row_upper=[2.0, 4.0]),
        3.0,
        (0.5, 0.5),
    ),
    "fixed variable": Case(
        LinearProgram(c=[1.0, 1.0], A=[[1.0, 1.0]], row_lower=3.0, col_lower=[2.0, 0.0], col_upper=[2.0, 9.0]),
        3.0,
        (1.0,),
    ),
    "empty row": Case(
        LinearProgram(c=[1.0], A=[[0.0], [1.0]], row_lower=[-1.0, 2.0], row_upper=[1.0, INF]), 2.0, (0.0, 1.0)
    ),
    "row without bounds": Case(LinearProgram(c=[1.0], A=[[5.0], [1.0]], row_lower=[-INF, 2.0]), 2.0, (0.0, 1.0)),
    "no rows": Case(LinearProgram(c=[1.0, -1.0], A=np.zeros((0, 2)), col_lower=-2.0, col_upper=3.0), -5.0, ()),
    "a column that nothing touches": Case(
        LinearProgram(c=[0.0, 1.0], A=[[0.0, 1.0]], row_lower=1.0, col_lower=[4.0, 0.0], col_upper=[7.0, 9.0]),
        1.0,
        (1.0,),
    ),
    "zero costs": Case(LinearProgram(c=[0.0, 0.0], A=[[1.0, 1.0]], row_lower=1.0, row_upper=2.0, col_lower=0.0), 0.0),
    "offset": Case(LinearProgram(c=[1.0], A=[[1.0]], row_lower=1.0, offset=41.0), 42.0, (1.0,)),
    "duplicate entries": Case(
        LinearProgram(c=[1.0], A=sp.csr_matrix((np.ones(2), np.zeros(2), np.array([0, 2]))), row_lower=4.0), 2.0, (0.5,)
    ),
}

INFEASIBLE = {
    "rows against columns": LinearProgram(c=[1.0, 1.0], A=[[1.0, 1.0]], row_lower=3.0, col_lower=0.0, col_upper=1.0),
    "rows against rows": LinearProgram(
        c=[0.0, 1.0], A=[[1.0, 1.0], [2.0, 2.0]], row_lower=[3.0, -INF], row_upper=[INF, 5.0]
    ),
    "empty row above zero": LinearProgram(c=[1.0], A=[[1.0], [0.0]], row_lower=[0.0, 1.0]),
    "empty row below zero": LinearProgram(c=[1.0], A=[[1.0], [0.0]], row_lower=[0.0, -2.0], row_upper=[1.0, -1.0]),
}

UNBOUNDED = {
    "along a ray of the rows": LinearProgram(
        c=[-1.0, -1.0], A=[[1.0, -1.0]], row_lower=0.0, row_upper=0.0, col_lower=0.0
    ),
    "a free variable": LinearProgram(c=[1.0, 0.0], A=[[0.0, 1.0]], row_lower=0.0, row_upper=1.0),
}


def direction_program(
    n: int, slack: float, *, costs: float = 1.0, rank: int | None = None, seed: int = 0
) -> LinearProgram:
    """A direction LP with three hyperparameters: dense H with eigenvalues 1e-2 .. 10, or low rank plus diagonal."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(n, n)))[0]
    mixed, gradient = Dense(rng.normal(size=(n, 3))), costs * rng.normal(size=n)
    if rank is None:
        hessian = Dense((basis * np.geomspace(1e-2, 10.0, n)) @ basis.T)
    else:
        hessian = LowRankPlusDiagonal(
            diagonal=np.full(n, 0.1), factor=basis[:, :rank].copy(), core=np.geomspace(1.0, 10.0, rank)
        )
    delta = slack * float(hessian.matvec(torch.tensor(np.sign(gradient))).abs().max())
    return LinearProgram(
        c=np.concatenate([np.zeros(3), gradient]),
        A=DirectionMatrix(mixed, hessian),
        row_lower=-delta,
        row_upper=delta,
        col_lower=-1.0,
        col_upper=1.0,
    )
