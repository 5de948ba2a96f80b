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

from backends.factors import signed_factors
from backends.kkt import KKTCheck, Residuals
from backends.pdlp.batch import Batch, product, transposed_product
from backends.pdlp.douglas_rachford import is_accurate
from lift_core.lp import BackendAnswer, LPStatus
from lift_core.operators import Dense, Diagonal, DirectionMatrix, LinearOperator, LowRankPlusDiagonal, pull


def closed_forms(batch: Batch, rtol: float) -> dict[int, BackendAnswer]:
    """Answers of the programs that `interior_pairs` solves, by their index."""
    pairs = interior_pairs(batch)
    if pairs is None:
        return {}
    x, y = pairs
    residuals = KKTCheck(batch).evaluate(x, y, product(batch.A, x), transposed_product(batch.A, y))
    return {
        column: BackendAnswer(x[:, column].contiguous(), y[:, column].contiguous(), LPStatus.OPTIMAL, 0)
        for column, numbers in enumerate(residuals.T.tolist())
        if is_accurate(Residuals(*numbers), rtol)
    }


def interior_pairs(batch: Batch) -> tuple[Float64[Tensor, "n b"], Float64[Tensor, "m b"]] | None:
    """The optimal pairs (x, y) of the programs whose weights do not reach their box; of the others, pairs that are no
    good. None where there is no closed form."""
    A = batch.A  # noqa: N806  (the field's letter)
    finite_rows = (torch.isfinite(batch.row_lower) & torch.isfinite(batch.row_upper)).all(0)
    if not isinstance(A, DirectionMatrix) or A.rows is not None or not finite_rows.any():
        return None
    p = A.num_hyper
    adjoint = solve_hessian(A.hessian, batch.c[p:])
    if adjoint is None:
        return None
    hypergradient = batch.c[:p] - A.mixed.rmatmat(adjoint)
    hyper = _cheapest(hypergradient, batch.col_lower[:p], batch.col_upper[:p])
    activity = _cheapest(adjoint, batch.row_lower, batch.row_upper)
    weights = solve_hessian(A.hessian, activity - A.mixed.matmat(hyper))
    return None if weights is None else (torch.cat([hyper, weights]), adjoint)


def solve_hessian(hessian: LinearOperator, right: Float64[Tensor, "n b"]) -> Float64[Tensor, "n b"] | None:
    """``H^-1 right`` of a dense, diagonal or factored H, with one step of refinement; None where there is none."""
    solution = _solve_once(hessian, right)
    if solution is None:
        return None
    correction = _solve_once(hessian, right - product(hessian, solution))
    return solution if correction is None else solution + correction


def _solve_once(hessian: LinearOperator, right: Tensor) -> Tensor | None:
    if isinstance(hessian, Dense):
        solution, info = torch.linalg.solve_ex(hessian.matrix, right)
        return None if bool(info) else solution
    if not isinstance(hessian, (LowRankPlusDiagonal, Diagonal)):
        return None
    diagonal, V, signs = signed_factors(hessian)  # noqa: N806
    if not diagonal.all():
        return None
    scaled = V / diagonal[:, None]
    inner, info = torch.linalg.solve_ex(torch.diag(signs) + pull(V, scaled), pull(scaled, right))
    return None if bool(info) else right / diagonal[:, None] - scaled @ inner


def _cheapest(cost: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """The minimiser of ``cost^T v`` over the box; its centre where the cost is 0."""
    return torch.where(cost > 0, lower, torch.where(cost < 0, upper, (lower + upper) / 2))
