"""Linear programs built backwards from an optimal primal-dual pair, so that the optimum is known without a solver.

Choose x, y and what binds; then the bounds and ``c = Aᵀy + z`` follow from complementary slackness:
a positive dual sits at a lower bound, a negative one at an upper bound, and a zero one anywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float64
from torch import Tensor

from lift_core.lp import LinearProgram
from lift_core.operators import Dense, Diagonal, DirectionMatrix, LinearOperator, LowRankPlusDiagonal

Curvature = Literal["definite", "indefinite", "singular", "ill-conditioned", "low rank", "diagonal"]
"""What the Hessian of a drawn direction LP looks like."""

BoundKind = Literal["at lower", "at upper", "fixed", "inside", "lower only", "upper only", "free"]
"""Where a row or column sits: binding with a non-zero dual (three kinds), or slack with a zero one (four kinds)."""

_DUAL_SIGNS: dict[BoundKind, float] = {"at lower": 1.0, "at upper": -1.0, "fixed": -1.0}

CURVATURES: tuple[Curvature, ...] = get_args(Curvature)
BOUND_KINDS: tuple[BoundKind, ...] = get_args(BoundKind)


@dataclass(frozen=True)
class KnownLP:
    """A linear program with an optimal pair: x is feasible, y dual feasible, and their objectives are equal."""

    lp: LinearProgram
    x: Float64[Tensor, " n"]
    y: Float64[Tensor, " m"]

    @property
    def objective(self) -> float:
        return float(self.lp.c @ self.x) + self.lp.offset

    def objective_tolerance(self, rtol: float) -> float:
        """How far the objective of any pair whose relative KKT residuals are at most ``rtol`` can be from the optimum.

        From ``cᵀx − cᵀx* = y*ᵀ(Ax − Ax*) + z*ᵀ(x − x*) ≥ −‖(y*, z*)‖ · violation`` and weak duality,
        ``cᵀx ≤ cᵀx* + gap + ‖x*‖ · dual residual``.
        """
        lp = self.lp
        duals = math.hypot(float(self.y.norm()), float((lp.c - lp.A.rmatvec(self.y)).norm()))
        sides = [torch.where(torch.isfinite(side), side, 0.0).abs() for side in (lp.row_lower, lp.row_upper)]
        bounds = 1 + float(torch.maximum(*sides).norm())
        costs = 1 + float(lp.c.norm())
        first_order = duals * bounds + float(self.x.norm()) * costs + 1 + 2 * abs(self.objective)
        # the gap is relative to the objectives found, which are themselves within this tolerance
        return rtol * first_order / max(1 - 2 * rtol, 0.5)


def known_lp(
    matrix: Float64[Tensor, "m n"], row_kinds: list[BoundKind], col_kinds: list[BoundKind], *, seed: int = 0
) -> KnownLP:
    """An LP over ``matrix`` whose rows and columns sit as asked; the numbers are drawn in quarters.

    >>> known = known_lp(torch.ones(1, 2).double(), ["at lower"], ["free", "at upper"])
    >>> bool(known.lp.A.matvec(known.x) == known.lp.row_lower)
    True
    """
    generator = torch.Generator().manual_seed(seed)
    x = _quarters(len(col_kinds), generator)
    row_lower, row_upper, y = _place(matrix @ x, row_kinds, generator)
    col_lower, col_upper, z = _place(x, col_kinds, generator)
    lp = LinearProgram(
        c=matrix.T @ y + z, A=matrix, row_lower=row_lower, row_upper=row_upper, col_lower=col_lower, col_upper=col_upper
    )
    return KnownLP(lp, x, y)


def closed_form_direction_lp(
    n: int, p: int, *, delta: float = 0.0, curvature: Curvature = "definite", hyper_radius: float = 1.0, seed: int = 0
) -> KnownLP:
    """A direction LP with all rows and a box that the weights do not reach: its row duals are the adjoint ``H⁻¹g``.

        adj = H⁻¹ g,  d_λ = −Δ_λ sign(h),  d_θ = −H⁻¹ (J d_λ + δ sign adj)

    Raises:
        ValueError: for singular curvature, where there is no adjoint.
    """
    if curvature == "singular":
        raise ValueError("curvature: a singular Hessian has no adjoint; use known_direction_lp")
    generator = torch.Generator().manual_seed(seed)
    hessian, mixed = draw_hessian(n, curvature, generator), Dense(_normal(n, p, generator))
    dense = hessian.to_dense()
    adjoint = _normal(n, 1, generator).flatten()
    g, grad_hyper = hessian.matvec(adjoint), _normal(p, 1, generator).flatten()
    hyper = -hyper_radius * (grad_hyper - mixed.rmatvec(adjoint)).sign()
    rhs = -delta * adjoint.sign()
    weights = torch.linalg.solve(dense, rhs - mixed.matvec(hyper))
    weights_radius = torch.full((n,), 1 + 2 * float(weights.abs().max()), dtype=torch.float64)
    box = torch.cat([torch.full((p,), hyper_radius, dtype=torch.float64), weights_radius])
    lp = LinearProgram(
        c=torch.cat([grad_hyper, g]),
        A=DirectionMatrix(mixed, hessian),
        row_lower=-delta,
        row_upper=delta,
        col_lower=-box,
        col_upper=box,
    )
    return KnownLP(lp, torch.cat([hyper, weights]), adjoint)


def known_direction_lp(
    n: int,
    p: int,
    *,
    curvature: Curvature = "definite",
    exact: bool = False,
    num_rows: int | None = None,
    seed: int = 0,
) -> KnownLP:
    """A direction LP with unit radii, any curvature and any rows, built backwards.

    x is drawn in the box, in the null space of the rows when ``exact`` (δ = 0, every row binds); otherwise δ is the
    largest row activity, so that one row binds.

    Args:
        n, p: weights and hyperparameters.
        curvature: what the Hessian looks like.
        exact: whether δ = 0.
        num_rows: keep a random subset of the rows; by default all.
        seed: of everything that is drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = None if num_rows is None else torch.randperm(n, generator=generator)[:num_rows].sort().values
    matrix = DirectionMatrix(Dense(_normal(n, p, generator)), draw_hessian(n, curvature, generator), rows)
    x = _normal(p + n, 1, generator).flatten()
    if exact:
        dense = matrix.to_dense()
        x = x - torch.linalg.pinv(dense, rtol=1e-10) @ (dense @ x)
    x = _into_unit_box(x, generator, several=not exact)
    at_bound = x.abs() == 1
    z = torch.where(at_bound, -x * torch.rand(p + n, dtype=torch.float64, generator=generator), 0.0)
    activity = matrix.matvec(x)
    delta, y = _binding_rows(activity, generator, exact=exact)
    lp = LinearProgram(
        c=matrix.rmatvec(y) + z, A=matrix, row_lower=-delta, row_upper=delta, col_lower=-1.0, col_upper=1.0
    )
    return KnownLP(lp, x, y)


def draw_hessian(n: int, curvature: Curvature, generator: torch.Generator) -> LinearOperator:
    """A random symmetric operator: eigenvalues in [0.5, 2] up to sign; down to 1e-6 where ill-conditioned."""
    spectrum = 0.5 + 1.5 * torch.rand(n, dtype=torch.float64, generator=generator)
    signs = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0).double()
    if curvature == "diagonal":
        return Diagonal(spectrum * signs)
    if curvature == "low rank":
        k = max(1, n // 4)
        return LowRankPlusDiagonal(diagonal=spectrum, factor=_normal(n, k, generator), core=2 * spectrum[:k])
    if curvature == "indefinite":
        spectrum = spectrum * signs
    if curvature == "singular":
        spectrum[: max(1, n // 3)] = 0
    if curvature == "ill-conditioned":
        spectrum = torch.logspace(-6, 0, n, dtype=torch.float64)
    basis = torch.linalg.qr(_normal(n, n, generator))[0]
    matrix = (basis * spectrum) @ basis.T
    return Dense((matrix + matrix.T) / 2)


def _into_unit_box(x: Tensor, generator: torch.Generator, *, several: bool) -> Tensor:
    """Scale x so that its largest entry is exactly ±1; with ``several``, push a third of the entries there too."""
    largest = float(x.abs().max())
    if largest < 1e-9:  # the rows have no null space: d = 0 is the only feasible point
        return torch.zeros_like(x)
    x = x / largest
    x = torch.where(x.abs() == x.abs().max(), x.sign(), x)
    if several:
        x = torch.where(torch.rand(len(x), generator=generator) < 1 / 3, x.sign(), x)
    return x


def _binding_rows(activity: Tensor, generator: torch.Generator, *, exact: bool) -> tuple[float, Tensor]:
    """``(δ, y)``: the slack that the activity needs, and duals that are non-zero on binding rows only."""
    y = _normal(len(activity), 1, generator).flatten()
    if exact:
        return 0.0, y
    delta = float(activity.abs().max())
    return delta, torch.where(activity.abs() == delta, -activity.sign() * (0.5 + y.abs()), 0.0)


def _place(
    values: Tensor, kinds: list[BoundKind], generator: torch.Generator
) -> tuple[Float64[Tensor, " n"], Float64[Tensor, " n"], Float64[Tensor, " n"]]:
    """``(lower, upper, dual)`` that put every value where its kind says."""
    if len(values) != len(kinds):
        raise ValueError(f"kinds: expected one for each of {len(values)} rows or columns, got {len(kinds)}")
    room = 0.25 + _quarters(len(kinds), generator).abs()
    dual = 0.25 + _quarters(len(kinds), generator).abs()
    inf = torch.full_like(values, math.inf)
    bounds = {
        "at lower": (values, values + room),
        "at upper": (values - room, values),
        "fixed": (values, values),
        "inside": (values - room, values + room),
        "lower only": (values - room, inf),
        "upper only": (-inf, values + room),
        "free": (-inf, inf),
    }
    signs = torch.tensor([_DUAL_SIGNS.get(kind, 0.0) for kind in kinds], dtype=torch.float64)
    return _pick([bounds[kind][0] for kind in kinds]), _pick([bounds[kind][1] for kind in kinds]), dual * signs


def _pick(vectors: list[Tensor]) -> Tensor:
    """Entry i of vector i."""
    return torch.stack([vector[i] for i, vector in enumerate(vectors)]) if vectors else torch.zeros(0).double()


def _quarters(size: int, generator: torch.Generator) -> Tensor:
    return torch.randint(-12, 13, (size,), generator=generator).double() / 4


def _normal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.randn(rows, columns, dtype=torch.float64, generator=generator)
