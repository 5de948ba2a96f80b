"""The direction LP: descend the validation loss while staying optimal for training, to first order.

    min   g_λ·d_λ + g·d_θ
    s.t.  −δ ≤ J d_λ + H d_θ + κ r ≤ δ,      |d_λ| ≤ Δ_λ,  λ + d_λ within its bounds,      |d_θ| ≤ Δ_θ

with g = ∇F, H = ∇²_θθ f, J = ∇²_θλ f, r = ∇_θ f. Variables are ordered (d_λ, d_θ).

Reference: Sinha & Pankaj (2024), arXiv 2407.00613; Shukla, Khanna, Sinha, Hamid (2026), arXiv 2606.16243.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from lift_core.curvature import CurvatureModel, Snapshots, build_curvature
from lift_core.curvature.guard import require_product
from lift_core.linearization import Linearization, linearize
from lift_core.lp import LinearProgram, LPSolution, Vector
from lift_core.operators import DirectionMatrix, LinearOperator, as_operator
from lift_core.problem import BilevelProblem, Point

Rows = Literal["all"] | float
"""Which rows of the optimality condition are kept: ``"all"``, or a random share in (0, 1)."""


@dataclass(frozen=True, kw_only=True)
class TrustBox:
    """The box that a direction lives in, and the rows it must respect.

    Attributes:
        hyper_radius: Δ_λ, in units of λ (for log strengths: ±1 is a factor e).
        weights_radius: Δ_θ; if ``relative``, in multiples of the rms of the tensor that a weight belongs to.
        relative: see ``weights_radius``.
        rows: share of the optimality rows that are kept.
        kappa: κ in [0, 1]: share of the current training gradient that the direction must also remove.
    """

    hyper_radius: float = 1.0
    weights_radius: float = 1.0
    relative: bool = False
    rows: Rows = "all"
    kappa: float = 0.0

    def __post_init__(self) -> None:
        for name in ("hyper_radius", "weights_radius"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: expected a positive number, got {value}")
        if not 0 <= self.kappa <= 1:
            raise ValueError(f"kappa: expected a number in [0, 1], got {self.kappa}")
        is_number = isinstance(self.rows, (int, float)) and not isinstance(self.rows, bool)
        if self.rows != "all" and not (is_number and 0 < self.rows <= 1):
            raise ValueError(f"rows: expected 'all' or a share in (0, 1], got {self.rows!r}")

    def weight_radii(self, problem: BilevelProblem, point: Point) -> Float64[Tensor, " n"]:
        """Δ_θ per entry; a tensor of zeros gets a thousandth of the rms of all weights."""
        radii = torch.full_like(point.weights, self.weights_radius)
        if self.relative:
            floor = max(1e-3 * _rms(point.weights), 1e-12)
            for part in problem.groups.values():
                radii[part] *= max(_rms(point.weights[part]), floor)
        return radii

    def row_indices(self, num_weights: int, seed: int) -> Int64[Tensor, " m"] | None:
        """Sorted indices of the kept rows, or None for all of them."""
        if self.rows == "all" or self.rows == 1:
            return None
        generator = torch.Generator().manual_seed(seed)
        count = max(1, round(self.rows * num_weights))
        return torch.randperm(num_weights, generator=generator)[:count].sort().values


def direction_lp(
    problem: BilevelProblem,
    point: Point,
    *,
    curvature: CurvatureModel,
    slack: float = 0.0,
    box: TrustBox | None = None,
    rows: Rows | None = None,
    snapshots: Snapshots = (),
    seed: int = 0,
) -> LinearProgram:
    """Linearise a problem at a point and assemble its direction LP, from nothing.

    Args:
        slack: ρ in [0, 1], see `slack_unit`.
        rows: shorthand for ``box.rows``.
        snapshots: weights along the warm-up, for curvature models that learn from them.

    >>> from lift_core import Exact
    >>> from problems import Quadratic
    >>> problem = Quadratic()
    >>> direction_lp(problem, problem.initial_point(), curvature=Exact(), slack=0.1).is_boxed
    True
    """
    box = box or TrustBox()
    if rows is not None:
        box = replace(box, rows=rows)
    here = linearize(problem, point)
    built = build_curvature(curvature, problem, point, start=here.grad_weights, snapshots=snapshots, seed=seed)
    return slack_path_lps(problem, here, built.hessian, slacks=[slack], box=box, seed=seed)[0]


def slack_path_lps(
    problem: BilevelProblem,
    here: Linearization,
    hessian: LinearOperator,
    *,
    slacks: list[float],
    box: TrustBox,
    seed: int = 0,
) -> list[LinearProgram]:
    """The direction LPs of a ρ-path: one matrix, one cost, only δ differs."""
    for slack in slacks:
        if not 0 <= slack <= 1:
            raise ValueError(f"slack: expected a ratio in [0, 1], got {slack}")
    radii = box.weight_radii(problem, here.point)
    unit = slack_unit(hessian, here.grad_weights, radii)
    first = assemble_direction_lp(
        grad_hyper=here.grad_hyper,
        grad_weights=here.grad_weights,
        hessian=hessian,
        mixed=here.mixed,
        delta=0.0,
        hyper_radius=box.hyper_radius,
        weights_radius=radii,
        hyper_room=_room(problem, here.point),
        residual=box.kappa * here.lower_gradient if box.kappa else None,
        rows=box.row_indices(hessian.shape[0], seed),
    )
    return [widen(first, slack * unit) for slack in slacks]


def _room(problem: BilevelProblem, point: Point) -> tuple[Tensor, Tensor]:
    """``(lower − λ, upper − λ)``."""
    bounds = (problem.hyper_lower, problem.hyper_upper)
    lower, upper = (bound.to(point.hyper.device) - point.hyper for bound in bounds)
    return lower, upper


def assemble_direction_lp(
    *,
    grad_hyper: Float64[Tensor, " p"],
    grad_weights: Float64[Tensor, " n"],
    hessian: object,
    mixed: object,
    delta: float,
    hyper_radius: Vector = 1.0,
    weights_radius: Vector = 1.0,
    hyper_room: tuple[Vector, Vector] = (-math.inf, math.inf),
    residual: Float64[Tensor, " n"] | None = None,
    rows: Int64[Tensor, " m"] | None = None,
) -> LinearProgram:
    """The direction LP from its parts, all of it on the device of ``grad_weights``.

    Args:
        hessian: H, n x n (operator, tensor, array); an operator must live where the gradients do.
        mixed: J, n x p; likewise.
        delta: δ ≥ 0, in units of the training gradient.
        hyper_radius, weights_radius: Δ_λ and Δ_θ, numbers or one per entry.
        hyper_room: distance of λ to its bounds, ``(lower − λ, upper − λ)``.
        residual: κ r, already multiplied.
        rows: indices of the kept rows.

    Raises:
        ValueError: δ or a radius negative or not finite, shapes that do not fit, λ outside its bounds, an operator on
            another device.
    """
    device = grad_weights.device
    rows = None if rows is None else rows.to(device)
    matrix = DirectionMatrix(_on_device("mixed", mixed, device), _on_device("hessian", hessian, device), rows)
    p, n = matrix.num_hyper, matrix.hessian.shape[0]
    for name, vector, size in (("grad_hyper", grad_hyper, p), ("grad_weights", grad_weights, n)):
        if vector.shape != (size,):
            raise ValueError(f"{name}: expected shape ({size},), got {tuple(vector.shape)}")
    if not (math.isfinite(delta) and delta >= 0):
        raise ValueError(f"delta: expected a finite number >= 0, got {delta}")
    hyper_box = _radius("hyper_radius", hyper_radius, p, device)
    weights_box = _radius("weights_radius", weights_radius, n, device)
    lower, upper = (torch.as_tensor(room, dtype=torch.float64, device=device).expand(p) for room in hyper_room)
    if (lower > 0).any() or (upper < 0).any():
        outside = int(((lower > 0) | (upper < 0)).nonzero()[0])
        raise ValueError(
            f"hyper_room: expected room of at most 0 below and at least 0 above every λ, got {float(lower[outside]):g} "
            f"and {float(upper[outside]):g} for number {outside}: it lies outside its bounds"
        )
    shift = torch.zeros(n, dtype=torch.float64, device=device) if residual is None else residual.to(device)
    shift = shift if rows is None else shift[rows]
    lp = LinearProgram(
        c=torch.cat([grad_hyper.to(device), grad_weights]),
        A=matrix,
        row_lower=-shift,
        row_upper=-shift,
        col_lower=torch.cat([torch.maximum(-hyper_box, lower), -weights_box]),
        col_upper=torch.cat([torch.minimum(hyper_box, upper), weights_box]),
    )
    return widen(lp, delta)


def promised_value(problem: BilevelProblem, point: Point, lp: LinearProgram, solution: LPSolution) -> float:
    """The change of F that a solved direction LP promises, with the step of λ taken in strengths and not in logarithms.

        v = cᵀd − yᵀ (∇_θ R(λ + d_λ, θ) − ∇_θ R(λ, θ) − J_R d_λ),      J_R = ∇²_θλ R, y the multipliers of the rows

    The training gradient is linear in strengths; the LP is in λ. From ``w = exp(λ)`` a step up by 4 adds 54 w, which
    J_R takes for 4 w, and one down removes 0.98 w. Where λ enters R as it is, or not at all, v is the LP's value.

    With optimal multipliers, and an F that does not depend on λ itself, v is never positive. Else the LP's value is
    returned: a step that the LP calls a descent may be too long in strengths, which is for the line search to find.
    """
    assert isinstance(lp.A, DirectionMatrix)
    p = lp.A.num_hyper
    if problem.regularizer is None or bool(lp.c[:p].any()) or not solution.status.ok:
        return solution.objective
    d_hyper, multipliers = solution.x[:p], solution.y
    if lp.A.rows is not None:
        multipliers = multipliers.new_zeros(len(point.weights)).index_copy(0, lp.A.rows, multipliers)
    gradient = problem.regularizer.gradient
    step = gradient(point.hyper + d_hyper, point.weights) - gradient(point.hyper, point.weights)
    linear = problem.regularizer.mixed(point.hyper, point.weights).matvec(d_hyper)
    return solution.objective - float(multipliers @ (step - linear))


def slack_unit(hessian: LinearOperator, grad_weights: Tensor, weights_radius: Tensor) -> float:
    """``‖H (Δ_θ ⊙ sign g)‖_∞``: the slack at which sign-descent on F becomes feasible, the unit of ρ. One product.

    Raises:
        ValueError: if that is not finite, or no vector like the weights.
    """
    product = hessian.matvec(weights_radius * grad_weights.sign())
    require_product("hessian", product, grad_weights)
    return float(product.abs().max())


@dataclass(frozen=True)
class ClosedForm:
    """The direction LP's exact answer where no weight reaches its box, see `closed_form`."""

    value: float
    adjoint: Float64[Tensor, " n"]
    hypergradient: Float64[Tensor, " p"]
    d_hyper: Float64[Tensor, " p"]


def closed_form(
    *,
    grad_hyper: Float64[Tensor, " p"],
    grad_weights: Float64[Tensor, " n"],
    hessian: Float64[Tensor, "n n"],
    mixed: Float64[Tensor, "n p"],
    delta: float,
    hyper_radius: Vector = 1.0,
) -> ClosedForm:
    """The oracle for tests: all rows, κ = 0, H invertible, and a box on d_θ that does not bind.

        adj = H⁻¹ g,   h = g_λ − Jᵀ adj,   value = −(Σ_j Δ_λj |h_j| + δ ‖adj‖₁),   d_λ = −Δ_λ sign(h),   duals y = adj.

    h is the implicit hypergradient dF/dλ (Pedregosa 2016), so a solved direction LP is also a certificate for it.
    """
    adjoint = torch.linalg.solve(hessian, grad_weights)
    hypergradient = grad_hyper - mixed.T @ adjoint
    radius = _radius("hyper_radius", hyper_radius, len(grad_hyper), grad_hyper.device)
    value = -float((radius * hypergradient.abs()).sum() + delta * adjoint.abs().sum())
    return ClosedForm(value, adjoint, hypergradient, -radius * hypergradient.sign())


def widen(lp: LinearProgram, delta: float) -> LinearProgram:
    """The same program with δ more room on both sides of every row."""
    return LinearProgram(
        c=lp.c, A=lp.A, row_lower=lp.row_lower - delta, row_upper=lp.row_upper + delta,
        col_lower=lp.col_lower, col_upper=lp.col_upper,
    )  # fmt: skip


def _on_device(name: str, matrix: object, device: torch.device) -> LinearOperator:
    """The matrix as an operator on ``device``.

    Raises:
        ValueError: if it is an operator that lives elsewhere.
    """
    operator = as_operator(matrix, name=name, device=device)
    if operator.device.type != device.type:
        raise ValueError(f"{name}: expected an operator on {device}, where the gradients are, got {operator.device}")
    return operator


def _radius(name: str, value: Vector, size: int, device: torch.device) -> Tensor:
    radius = torch.as_tensor(value, dtype=torch.float64, device=device)
    radius = radius.expand(size) if radius.ndim == 0 else radius
    if radius.shape != (size,) or not torch.isfinite(radius).all() or (radius < 0).any():
        raise ValueError(f"{name}: expected one finite number >= 0 or {size} of them, got {value}")
    return radius


def _rms(vector: Tensor) -> float:
    return float(vector.square().mean().sqrt()) if len(vector) else 0.0
