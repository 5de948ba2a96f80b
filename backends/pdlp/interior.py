"""The answer of a direction LP whose weights do not reach their box, in closed form.

With all rows and free weights, ``d_theta = H^-1 (s - J d_lambda)`` eliminates the weights; boxes are left:

    adj = H^-1 g,   h = g_lambda - J^T adj,   d_lambda against the sign of h,   s against the sign of adj,   y = adj

An ill-conditioned H lets some combinations of weights reach so much further than others that no scaling of single
weights suits an iteration; here that does not matter.
"""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

from backends.pdlp.projection import factors
from lift_core.lp import LinearProgram, LPStart
from lift_core.operators import Dense, DirectionMatrix, LinearOperator


def interior_pair(lp: LinearProgram) -> LPStart | None:
    """The optimal pair if no weight reaches its box, else a pair that is not feasible; None where H has no inverse."""
    A = lp.A  # noqa: N806  (the field's letter)
    finite_rows = bool(torch.isfinite(lp.row_lower).all() and torch.isfinite(lp.row_upper).all())
    if not isinstance(A, DirectionMatrix) or A.rows is not None or not finite_rows:
        return None
    p = A.num_hyper
    adjoint = solve_hessian(A.hessian, lp.c[p:])
    if adjoint is None:
        return None
    hypergradient = lp.c[:p] - A.mixed.rmatvec(adjoint)
    hyper = _cheapest(hypergradient, lp.col_lower[:p], lp.col_upper[:p])
    activity = _cheapest(adjoint, lp.row_lower, lp.row_upper)
    weights = solve_hessian(A.hessian, activity - A.mixed.matvec(hyper))
    return None if weights is None else LPStart(torch.cat([hyper, weights]), adjoint)


def solve_hessian(hessian: LinearOperator, right: Float64[Tensor, " n"]) -> Float64[Tensor, " n"] | None:
    """``H^-1 right`` of a dense, diagonal or factored H, with one step of refinement; None where there is none."""
    solution = _solve_once(hessian, right)
    if solution is None:
        return None
    correction = _solve_once(hessian, right - hessian.matvec(solution))
    refined = solution if correction is None else solution + correction
    return refined if bool(torch.isfinite(refined).all()) else None


def _solve_once(hessian: LinearOperator, right: Tensor) -> Tensor | None:
    if isinstance(hessian, Dense):
        solution, info = torch.linalg.solve_ex(hessian.matrix, right)
        return None if bool(info) else solution
    parts = factors(hessian)
    if parts is None or not parts.diagonal.all():
        return None
    diagonal, V, signs = parts  # noqa: N806
    scaled = V / diagonal[:, None]
    inner, info = torch.linalg.solve_ex(torch.diag(signs) + V.T @ scaled, scaled.T @ right)
    return None if bool(info) else right / diagonal - scaled @ inner


def _cheapest(cost: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """The minimiser of ``cost^T v`` over the box; its centre where the cost is 0."""
    return torch.where(cost > 0, lower, torch.where(cost < 0, upper, (lower + upper) / 2))
