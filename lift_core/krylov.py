"""Ritz pairs of a symmetric operator, and the mean of what they leave over, from products alone."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

from lift_core.operators import LinearOperator


def lanczos(
    operator: LinearOperator, start: Float64[Tensor, " n"], rank: int, generator: torch.Generator
) -> tuple[Float64[Tensor, "n k"], Float64[Tensor, " k"]]:
    """Ritz vectors and values of a symmetric operator from ``rank`` products, with full reorthogonalisation.

    A Krylov space that closes early (or a zero start) is continued with a random orthogonal vector.
    """
    basis = start.new_zeros(rank, len(start))
    diagonal, off = start.new_zeros(rank), start.new_zeros(rank)
    vector = start
    for k in range(rank):
        length = vector.norm()
        if length <= 1e-10 * max(1.0, float(diagonal.abs().max())) if k else length == 0:
            vector = torch.randn(len(start), generator=generator, dtype=torch.float64)
            vector = _orthogonalize(vector, basis[:k])
            length, closed = vector.norm(), True
        else:
            closed = False
        off[k] = 0.0 if closed or k == 0 else length
        basis[k] = vector / length
        product = operator.matvec(basis[k])
        diagonal[k] = product @ basis[k]
        vector = _orthogonalize(product, basis[: k + 1])
    tridiagonal = torch.diag(diagonal) + torch.diag(off[1:], 1) + torch.diag(off[1:], -1)
    values, rotation = torch.linalg.eigh(tridiagonal)
    return basis.T @ rotation, values


def complement_mean(hessian: LinearOperator, vectors: Float64[Tensor, "n k"], probes: list[Tensor]) -> float:
    """Mean eigenvalue on the complement of ``vectors``: ``Σ wᵀHw / Σ wᵀw`` over projected probes; 0 if it is empty."""
    if vectors.shape[1] >= vectors.shape[0]:
        return 0.0
    projected = [probe - vectors @ (vectors.T @ probe) for probe in probes]
    return float(sum(w @ hessian.matvec(w) for w in projected) / sum(w @ w for w in projected))


def _orthogonalize(vector: Tensor, rows: Tensor) -> Tensor:
    for _ in range(2):  # twice is enough (Parlett)
        vector = vector - rows.T @ (rows @ vector)
    return vector


def conjugate_gradient(
    operator: LinearOperator,
    right: Float64[Tensor, " n"],
    iterations: int,
    *,
    damping: float = 0.0,
    rtol: float = 1e-10,
) -> tuple[Float64[Tensor, " n"], int]:
    """Solve ``(A + μ I) x = b`` by conjugate gradients, truncated at negative curvature; returns x and the steps taken.

    Args:
        damping: μ in multiples of the curvature ``bᵀAb / bᵀb`` (its magnitude) along the right-hand side.

    Reference: Steihaug (1983), The conjugate gradient method and trust regions; Nocedal & Wright (2006), algorithm 7.1.
    """
    solution, residual = torch.zeros_like(right), right.clone()
    direction, square = right.clone(), float(right @ right)
    stop, shift = rtol**2 * square, 0.0
    for step in range(iterations):
        if square <= stop:
            return solution, step
        product = operator.matvec(direction)
        if step == 0:
            shift = damping * abs(float(direction @ product)) / square
        product = product + shift * direction
        curvature = float(direction @ product)
        if curvature <= 0:
            return (direction if step == 0 else solution), step + 1
        length = square / curvature
        solution = solution + length * direction
        residual = residual - length * product
        square, previous = float(residual @ residual), square
        direction = residual + square / previous * direction
    return solution, iterations
