"""Choosing groups when their steps interact: the knapsack with pair terms.

    max  Σ z_k v_k − Σ_{j<k} z_j z_k c_jk    s.t.  Σ z_k |θ_k| ≤ capacity,   z ∈ {0, 1}^K

With each group going its own best step t_k, ``c_jk = t_j t_k u_jᵀ H u_k``: the loss that the second-order model adds
when j and k move together. Zero pair terms give the knapsack back.

Reference: Gallo, Hammer, Simeone (1980), Quadratic knapsack problems (upper planes).
"""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

from lift_core.selection.knapsack import Chosen, greedy_knapsack, relaxation_bound
from lift_core.selection.scores import Scores

ENUMERATED = 18
"""Up to so many groups all sets are tried."""


def quadratic_knapsack(scores: Scores, capacity: int) -> Chosen:
    """The best set with pair terms: exact up to `ENUMERATED` groups, beyond by exchanges, with a bound either way.

    Raises:
        ValueError: if the scores carry no pair terms.

    >>> pair = torch.tensor([[0.0, 3.0], [3.0, 0.0]]).double()
    >>> scores = Scores("example", ("a", "b"), torch.tensor([1, 1]), torch.tensor([2.0, 2.5]).double(), cross=pair)
    >>> quadratic_knapsack(scores, 2).numbers
    (1,)
    """
    cross = _pairs(scores)
    if len(scores.names) <= ENUMERATED:
        numbers, value = _enumerate(scores, cross, capacity)
        return _chosen(scores, capacity, numbers, value, value, "enumeration", optimal=True)
    bound = upper_planes_bound(scores, capacity)
    numbers, value = _exchange(scores, cross, capacity)
    return _chosen(scores, capacity, numbers, value, bound, "exchanges", optimal=value >= bound)


def joint_value(scores: Scores, numbers: list[int] | tuple[int, ...]) -> float:
    """``Σ v_k − Σ_{j<k} c_jk`` over a set."""
    chosen = list(numbers)
    pairs = _pairs(scores)[chosen][:, chosen]
    return float(scores.values[chosen].sum() - pairs.sum() / 2)


def upper_planes_bound(scores: Scores, capacity: int) -> float:
    """A value that no set exceeds: every group gets half of all the pair terms that could favour it."""
    favour = (-_pairs(scores)).clamp(min=0).sum(1) / 2
    return relaxation_bound(Scores(scores.method, scores.names, scores.sizes, scores.values + favour), capacity)


def _pairs(scores: Scores) -> Float64[Tensor, "K K"]:
    if scores.cross is None:
        raise ValueError("scores: expected pair terms (ExactInfluence(cross=True) measures them), got none")
    count = len(scores.names)
    if scores.cross.shape != (count, count) or scores.cross.diagonal().any():
        raise ValueError(f"cross: expected shape ({count}, {count}) with a zero diagonal, got {scores.cross.shape}")
    return (scores.cross + scores.cross.T) / 2


def _enumerate(scores: Scores, cross: Tensor, capacity: int) -> tuple[list[int], float]:
    count = len(scores.names)
    best, best_bits = 0.0, torch.zeros(count, dtype=torch.int64)
    for start in range(0, 2**count, 2**14):
        codes = torch.arange(start, min(start + 2**14, 2**count))
        bits = codes[:, None] >> torch.arange(count) & 1
        z = bits.double()
        values = z @ scores.values - ((z @ cross) * z).sum(1) / 2
        values[bits @ scores.sizes > capacity] = -torch.inf
        position = int(values.argmax())
        if float(values[position]) > best:
            best, best_bits = float(values[position]), bits[position]
    return best_bits.nonzero().flatten().tolist(), best


def _exchange(scores: Scores, cross: Tensor, capacity: int) -> tuple[list[int], float]:
    """Best single addition, removal or swap, from the greedy set, as long as one helps."""
    z = torch.zeros(len(scores.names), dtype=torch.float64)
    z[list(greedy_knapsack(scores, capacity).numbers)] = 1.0
    sizes = scores.sizes.double()
    while True:
        # flipping k adds flip_k; flipping j and k also changes their pair term
        sign = 1 - 2 * z
        flip = sign * (scores.values - cross @ z)
        room = capacity - float(sizes @ z)
        swap = flip[:, None] + flip - torch.outer(sign, sign) * cross
        swap[torch.outer(z, 1 - z) == 0] = -torch.inf  # one out (rows), one in (columns)
        swap[sizes - sizes[:, None] > room] = -torch.inf
        single = torch.where((z == 1) | (sizes <= room), flip, -torch.inf)
        gain, pair = max((float(single.max()), False), (float(swap.max()), True))
        if gain <= 1e-12 * (1 + float(scores.values.sum())):
            break
        flipped = divmod(int(swap.argmax()), len(z)) if pair else (int(single.argmax()),)
        for k in flipped:
            z[k] = 1 - z[k]
    numbers = z.nonzero().flatten().tolist()
    return numbers, joint_value(scores, numbers)


def _chosen(
    scores: Scores, capacity: int, numbers: list[int], value: float, bound: float, solver: str, *, optimal: bool
) -> Chosen:
    size = int(scores.sizes[numbers].sum())
    return Chosen(tuple(numbers), value, bound, size, capacity, solver, optimal)
