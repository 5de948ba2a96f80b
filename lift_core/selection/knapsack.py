"""The knapsack: which groups to tune when only so many weights may be.

    max Σ z_k v_k    s.t.  Σ z_k |θ_k| ≤ capacity,   z ∈ {0, 1}^K

Greedy by density (the published chain), exact by any backend that takes integer programs, and bounded from above by the
linear relaxation, whose optimum has a closed form.

Reference: Xu & Bu (2025), AdaPEFT, arXiv 2505.12579, section 3; Dantzig (1957), Discrete-variable extremum problems.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from lift_core.lp import LinearProgram, LPBackend, LPStatus, solve_lp
from lift_core.selection.scores import Scores


@dataclass(frozen=True)
class Chosen:
    """A choice of groups and what is known about it.

    Attributes:
        numbers: of the chosen groups, increasing.
        value: ``Σ v_k`` over them (less pair terms, where the choice was made with them).
        bound: no choice within the capacity has a larger value.
        size: ``Σ |θ_k|`` over them.
        capacity: weights that were allowed.
        solver: how the choice was made.
        optimal: whether it is known to be the best one.
    """

    numbers: tuple[int, ...]
    value: float
    bound: float
    size: int
    capacity: int
    solver: str
    optimal: bool

    @property
    def gap(self) -> float:
        """``(bound − value) / bound``, at least 0; 0 where the bound is 0."""
        return max(self.bound - self.value, 0.0) / self.bound if self.bound > 0 else 0.0


class ParetoPoint(NamedTuple):
    """One set of the chain: the best ``len(numbers)`` groups by density."""

    numbers: tuple[int, ...]
    size: int
    value: float


def capacity_of(budget: float, num_weights: int) -> int:
    """Weights that a budget ε allows: ``⌊ε n⌋``.

    Raises:
        ValueError: if ε is not in (0, 1].
    """
    if not 0 < budget <= 1:
        raise ValueError(f"budget: expected a share of the weights in (0, 1], got {budget}")
    return math.floor(budget * num_weights * (1 + 1e-12))


def greedy_knapsack(scores: Scores, capacity: int) -> Chosen:
    """Groups by falling density, each if it still fits; groups without value never.

    >>> scores = Scores("example", ("a", "b", "c"), torch.tensor([2, 3, 4]), torch.tensor([2.0, 4.0, 4.0]).double())
    >>> greedy_knapsack(scores, 6).numbers, greedy_knapsack(scores, 6).bound
    ((0, 1), 7.0)
    """
    _check(scores, capacity)
    chosen: list[int] = []
    room = capacity
    for k in _by_density(scores):
        if int(scores.sizes[k]) <= room:
            chosen.append(k)
            room -= int(scores.sizes[k])
    bound = relaxation_bound(scores, capacity)
    value = _value(scores, chosen)
    return Chosen(tuple(sorted(chosen)), value, bound, capacity - room, capacity, "greedy", value >= bound)


def exact_knapsack(scores: Scores, capacity: int, backend: LPBackend) -> Chosen:
    """The best choice, by a backend that takes integer programs; its answer is checked here.

    Where greedy is better than the answer, greedy's choice is returned, as one that is not known to be optimal.

    Raises:
        ArithmeticError: if the backend ends otherwise than optimal, or its answer does not fit or exceeds the bound.
    """
    greedy = greedy_knapsack(scores, capacity)
    if greedy.optimal:
        return Chosen(greedy.numbers, greedy.value, greedy.value, greedy.size, capacity, "exact", True)
    solution = solve_lp(knapsack_program(scores, capacity), backend)
    if solution.status is not LPStatus.OPTIMAL:
        raise ArithmeticError(
            f"{backend.name}: the knapsack ended with {solution.status.name}: {solution.status.value}"
        )
    numbers = tuple((solution.x > 0.5).nonzero().flatten().tolist())
    size, value = int(scores.sizes[list(numbers)].sum()), _value(scores, numbers)
    rounding = 1e-9 * max(greedy.bound, 1e-300)
    if size > capacity or value > greedy.bound + rounding:
        raise ArithmeticError(
            f"{backend.name}: expected a knapsack of at most {capacity} weights worth at most {greedy.bound:.6g}, "
            f"got {size} weights worth {value:.6g}"
        )
    if value < greedy.value - rounding:
        return greedy
    if value < greedy.value:  # equal up to rounding
        return Chosen(greedy.numbers, greedy.value, greedy.value, greedy.size, capacity, "exact", True)
    return Chosen(numbers, value, value, size, capacity, "exact", True)


def choose(scores: Scores, capacity: int, *, backend: LPBackend | None = None) -> Chosen:
    """The exact choice where a backend is given, else the greedy one."""
    return greedy_knapsack(scores, capacity) if backend is None else exact_knapsack(scores, capacity, backend)


def knapsack_program(scores: Scores, capacity: int, *, relaxed: bool = False) -> LinearProgram:
    """The knapsack as an integer program, or its linear relaxation.

    Groups that are larger than the capacity, or worth nothing, are held at 0 and have no entries: the largest of the
    other values is the unit of all, so that none of them falls below a solver's tolerance for the sake of a group that
    cannot be chosen. Sizes and capacity are whole numbers and stay so, divided by what all sizes have in common: half a
    weight of room then keeps a solver's tolerance from shutting a full knapsack out or letting an overfull one in.
    """
    _check(scores, capacity)
    fits = (scores.sizes <= capacity) & (scores.values > 0)
    values, sizes = torch.where(fits, scores.values, 0.0), torch.where(fits, scores.sizes, 0)
    unit = max(math.gcd(*sizes.tolist()), 1)
    return LinearProgram(
        c=-values / values.max().clamp(min=1e-300),
        A=sp.csr_matrix((sizes // unit).double().numpy()[None, :]),
        row_upper=capacity / unit if relaxed else capacity // unit + 0.5,
        col_lower=0.0,
        col_upper=fits.double(),
        integrality=None if relaxed else [True] * len(fits),
    )


def relaxation_bound(scores: Scores, capacity: int) -> float:
    """Value of the linear relaxation ``z ∈ [0, 1]^K``: whole groups by density, and a share of the first that fails.

    Groups that are larger than the capacity are left out.
    """
    _check(scores, capacity)
    room, total = float(capacity), 0.0
    for k in _by_density(scores):
        size, value = float(scores.sizes[k]), float(scores.values[k])
        if size > capacity:
            continue
        if size > room:
            return total + value * room / size
        room, total = room - size, total + value
    return total


def pareto_chain(scores: Scores) -> tuple[ParetoPoint, ...]:
    """The published Pareto front: nested sets by falling density, from the empty one on; groups without value left out.

    >>> scores = Scores("example", ("a", "b"), torch.tensor([2, 3]), torch.tensor([2.0, 9.0]).double())
    >>> [(point.size, point.value) for point in pareto_chain(scores)]
    [(0, 0.0), (3, 9.0), (5, 11.0)]
    """
    order = _by_density(scores)
    sizes = accumulate((int(scores.sizes[k]) for k in order), initial=0)
    values = accumulate((float(scores.values[k]) for k in order), initial=0.0)
    return tuple(
        ParetoPoint(tuple(sorted(order[:count])), size, value)
        for count, (size, value) in enumerate(zip(sizes, values, strict=True))
    )


def pareto_front(scores: Scores, capacities: Int64[Tensor, " B"] | list[int], backend: LPBackend) -> list[Chosen]:
    """The best choice for every capacity: on or above the chain everywhere."""
    return [exact_knapsack(scores, int(capacity), backend) for capacity in capacities]


def enumerate_knapsack(values: Float64[Tensor, " K"], sizes: Int64[Tensor, " K"], capacity: int) -> float:
    """The best value by trying all ``2^K`` sets: the twin of the exact solver, for K up to about 20."""
    count = len(values)
    if count > 22:
        raise ValueError(f"values: expected at most 22 groups to enumerate, got {count}")
    bits = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
    fits = bits @ sizes.numpy() <= capacity
    return float((bits @ values.numpy())[fits].max())


def _by_density(scores: Scores) -> list[int]:
    """Groups of positive value by falling density; ties by number."""
    density = scores.density
    order = torch.sort(-density, stable=True).indices.tolist()
    return [k for k in order if float(scores.values[k]) > 0]


def _value(scores: Scores, numbers: list[int] | tuple[int, ...]) -> float:
    return math.fsum(float(scores.values[k]) for k in numbers)


def _check(scores: Scores, capacity: int) -> None:
    if capacity < 0:
        raise ValueError(f"capacity: expected a number of weights of at least 0, got {capacity}")
    if (scores.sizes < 1).any():
        raise ValueError(f"sizes: expected at least one weight in every group, got {int(scores.sizes.min())}")
