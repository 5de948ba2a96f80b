"""Ritz pairs of a symmetric operator, and the mean of what they leave over, from products alone."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from lift_core.operators import LinearOperator


class KrylovSpace(NamedTuple):
    """Ritz pairs, smallest value first.

    Attributes:
        vectors: orthonormal, n x k.
        values: shape (k,).
        residuals: ``‖A v - θ v‖`` of each pair, exact up to rounding.
    """

    vectors: Float64[Tensor, "n k"]
    values: Float64[Tensor, " k"]
    residuals: Float64[Tensor, " k"]


def block_lanczos(
    operator: LinearOperator, start: Float64[Tensor, " n"], rank: int, generator: torch.Generator, *, block: int = 1
) -> KrylovSpace:
    """Ritz pairs of a symmetric operator from ``rank`` products, with full reorthogonalisation.

    The space starts from ``start`` and ``block - 1`` random vectors; where it closes early (or ``start`` is zero),
    random vectors continue it.

    Reference: Golub & Van Loan (2013), Matrix computations, section 10.3.
    """
    n = len(start)
    basis, projected = start.new_zeros(rank, n), start.new_zeros(rank, rank)
    wanted = torch.cat([start[None], _normal(block - 1, n, like=start, generator=generator)])
    outside, done = wanted[:0], 0  # what products of the newest basis vectors have outside the space
    while done < rank:
        size = min(len(wanted), rank - done)
        for row in range(size):
            basis[done + row] = _next_direction(wanted[row], basis[: done + row], generator)
        products = operator.matmat(basis[done : done + size].T).T
        done += size
        coefficients = products @ basis[:done].T
        projected[done - size : done, :done] = coefficients
        projected[:done, done - size : done] = coefficients.T
        left_over = _orthogonalize(outside, basis[:done]) if size < len(wanted) else outside[:0]
        outside = wanted = torch.cat([left_over, _orthogonalize(products, basis[:done])])
    values, rotation = torch.linalg.eigh((projected + projected.T) / 2)
    residuals = (rotation[done - len(outside) :].T @ outside).norm(dim=1)
    return KrylovSpace((rotation.T @ basis).T, values, residuals)


def _next_direction(vector: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """``vector`` without its part in ``rows``, of length one; a random direction where nothing is left of it."""
    before = vector.norm()
    left = _orthogonalize(vector[None], rows)[0]
    if left.norm() <= 1e-10 * before:  # zero, too, where nothing came
        left = _orthogonalize(_normal(1, len(vector), like=vector, generator=generator), rows)[0]
    return left / left.norm()


def _normal(count: int, n: int, *, like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(count, n, generator=generator, dtype=torch.float64).to(like.device)


def complement_probes(
    operator: LinearOperator, vectors: Float64[Tensor, "n k"], probes: list[Tensor]
) -> tuple[Float64[Tensor, "n m"], Float64[Tensor, "n m"]]:
    """Probes w projected onto the complement of ``vectors``, and their products ``A w``, as columns.

    ``Σ wᵀAw / Σ wᵀw`` estimates the mean eigenvalue on the complement; on an empty complement both vanish.
    """
    columns = torch.stack(probes, dim=1)
    if vectors.shape[1] >= vectors.shape[0]:
        return torch.zeros_like(columns), torch.zeros_like(columns)
    projected = columns - vectors @ (vectors.T @ columns)
    return projected, operator.matmat(projected)


def _orthogonalize(block: Tensor, rows: Tensor) -> Tensor:
    for _ in range(2):  # twice is enough (Parlett)
        block = block - (block @ rows.T) @ rows
    return block


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
