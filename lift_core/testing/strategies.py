"""Hypothesis strategies for linear programs whose optimum is known by construction."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from lift_core.lp import LinearProgram
from lift_core.testing.known import (
    BOUND_KINDS,
    CURVATURES,
    Curvature,
    KnownLP,
    closed_form_direction_lp,
    known_direction_lp,
    known_lp,
)

_SEEDS = st.integers(0, 2**31 - 1)


@st.composite
def known_lps(draw: Any, *, max_rows: int = 6, max_columns: int = 6) -> KnownLP:
    """Small LPs of quarters with any mix of bound types, each row and column binding or slack as drawn.

    >>> isinstance(known_lps(), st.SearchStrategy)
    True
    """
    m, n = draw(st.integers(0, max_rows)), draw(st.integers(1, max_columns))
    quarters = st.integers(-12, 12).map(lambda number: number / 4)
    entries = draw(st.lists(quarters, min_size=m * n, max_size=m * n))
    kinds = st.sampled_from(BOUND_KINDS)
    return known_lp(
        torch.tensor(entries, dtype=torch.float64).reshape(m, n),
        draw(st.lists(kinds, min_size=m, max_size=m)),
        draw(st.lists(kinds, min_size=n, max_size=n)),
        seed=draw(_SEEDS),
    )


@st.composite
def nasty_lps(draw: Any, *, max_rows: int = 6, max_columns: int = 6, decades: int = 8) -> KnownLP:
    """`known_lps` with empty, repeated and opposite rows, and rows and columns in units between 10^±decades.

    >>> isinstance(nasty_lps(), st.SearchStrategy)
    True
    """
    plain = draw(known_lps(max_rows=max_rows, max_columns=max_columns))
    matrix, m = plain.lp.A.to_dense(), plain.lp.num_rows
    picked = draw(st.lists(st.sampled_from(range(m)), max_size=3)) if m else []
    factors = torch.tensor(
        draw(st.lists(st.sampled_from([0.0, 1.0, -1.0]), min_size=len(picked), max_size=len(picked)))
    )
    extra = factors.double()[:, None] * matrix[picked]
    activity = extra @ plain.x
    room = torch.tensor(
        draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=len(picked), max_size=len(picked)))
    ).double()
    powers = st.integers(-decades // 2, decades // 2).map(lambda power: 10.0**power)
    size = m + len(picked)
    rows = torch.tensor(draw(st.lists(powers, min_size=size, max_size=size)), dtype=torch.float64)
    columns = torch.tensor(
        draw(st.lists(powers, min_size=plain.lp.num_columns, max_size=plain.lp.num_columns)), dtype=torch.float64
    )
    lp = LinearProgram(
        c=plain.lp.c * columns,
        A=rows[:, None] * torch.cat([matrix, extra]) * columns,
        row_lower=rows * torch.cat([plain.lp.row_lower, activity - room]),
        row_upper=rows * torch.cat([plain.lp.row_upper, activity + room]),
        col_lower=plain.lp.col_lower / columns,
        col_upper=plain.lp.col_upper / columns,
    )
    y = torch.cat([plain.y, torch.zeros(len(picked), dtype=torch.float64)]) / rows
    return KnownLP(lp, plain.x / columns, y)


@st.composite
def direction_lps(
    draw: Any, *, max_weights: int = 40, max_hyper: int = 20, curvatures: tuple[Curvature, ...] = CURVATURES
) -> KnownLP:
    """Direction LPs in a unit box with any curvature, with and without slack, over all rows or some.

    >>> isinstance(direction_lps(), st.SearchStrategy)
    True
    """
    n = draw(st.integers(1, max_weights))
    return known_direction_lp(
        n,
        draw(st.integers(0, max_hyper)),
        curvature=draw(st.sampled_from(curvatures)),
        exact=draw(st.booleans()),
        num_rows=draw(st.none() | st.integers(1, n)),
        seed=draw(_SEEDS),
    )


@st.composite
def closed_form_direction_lps(
    draw: Any,
    *,
    max_weights: int = 40,
    max_hyper: int = 20,
    curvatures: tuple[Curvature, ...] = tuple(c for c in CURVATURES if c != "singular"),
) -> KnownLP:
    """Direction LPs whose row duals are the adjoint ``H⁻¹g``: all rows, and weights far from their box.

    >>> isinstance(closed_form_direction_lps(), st.SearchStrategy)
    True
    """
    return closed_form_direction_lp(
        draw(st.integers(1, max_weights)),
        draw(st.integers(0, max_hyper)),
        delta=draw(st.sampled_from([0.0, 1e-4, 1e-2, 1.0])),
        curvature=draw(st.sampled_from(curvatures)),
        hyper_radius=draw(st.sampled_from([0.1, 1.0, 2.0])),
        seed=draw(_SEEDS),
    )
