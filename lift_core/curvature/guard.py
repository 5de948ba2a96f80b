"""What is checked before any curvature is trusted: that the data repeat, that products are a symmetric linear map.

Dropout, shuffling and dropped partial batches all show as two passes over the data that disagree.

Reference: the determinism checks of curvlinops (Dangel et al., 2025).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lift_core.allocation import free_bytes_of_gpu
from lift_core.operators import Diagonal, LinearOperator, LowRankPlusDiagonal, MatrixFree
from lift_core.problem import Batch, BilevelProblem, Point

_RTOL = 0.02  # bfloat16 rounds to 0.004; a wrong product misses by its own size


class NondeterministicError(ValueError):
    """The problem's losses or products contradict each other."""


def check_two_passes(problem: BilevelProblem, point: Point, chosen: Sequence[int]) -> None:
    """The chosen training batches have the same losses, and the split the same length, when they are asked for again.

    Raises:
        NondeterministicError: if not.
    """
    first, second = problem.batches("train"), problem.batches("train")
    if len(first) != len(second):
        raise NondeterministicError(f"batches('train'): {len(first)} batches at one call, {len(second)} at the next")
    for index in chosen:
        once, again = (_training_loss(problem, point, batches[index]) for batches in (first, second))
        if not abs(once - again) <= 1e-4 * (abs(once) + abs(again)):  # NaN fails too
            raise NondeterministicError(
                f"batches('train')[{index}]: two passes over the data gave the training losses {once:.6g} and "
                f"{again:.6g}; batches must come the same, in the same order, at every call, and dropout must be off"
            )


def check_products(problem: BilevelProblem, point: Point, batch: Batch, *, seed: int = 0) -> None:
    """Hessian products on one batch are symmetric and linear, tried on random signs.

    Raises:
        NondeterministicError: if ``uᵀHv ≠ vᵀHu`` or ``H(u + 2v) ≠ Hu + 2Hv``.
    """
    hessian = problem.training_hessian(point, [batch])
    generator = torch.Generator().manual_seed(seed)
    u, v = (_signs(point.weights, generator) for _ in range(2))
    both = hessian.matmat(torch.stack([u, v, u + 2 * v], dim=1))
    scale = float(both[:, :2].norm()) + 1e-300
    asymmetry = abs(float(u @ both[:, 1] - v @ both[:, 0])) / scale
    bend = float((both[:, 2] - both[:, 0] - 2 * both[:, 1]).norm()) / scale
    if not (asymmetry <= _RTOL and bend <= _RTOL):
        raise NondeterministicError(
            f"training_hessian: its products are not a symmetric linear map: asymmetry {asymmetry:.2g}, departure "
            f"from linearity {bend:.2g}, relative to their size; {_RTOL} is allowed"
        )


def check_hessian(who: str, hessian: object, like: Tensor, *, seed: int = 0) -> None:
    """What a model gives for H is a symmetric n x n operator of finite float64, tried on a random pair of vectors.

    The pair is left out where there is nothing to learn, and for a `MatrixFree`, whose products may cost passes over
    the data; the first of those that an LP needs is looked at by `require_product`.

    Raises:
        TypeError: if it is no operator.
        ValueError: if it has another shape or device, carries a graph, or its products are wrong.
    """
    if not isinstance(hessian, LinearOperator):
        raise TypeError(f"{who}: expected a LinearOperator, got {type(hessian).__name__}; Dense makes one of a matrix")
    n = len(like)
    if tuple(hessian.shape) != (n, n) or hessian.device.type != like.device.type:
        raise ValueError(
            f"{who}: expected shape {(n, n)} on {like.device}, got {tuple(hessian.shape)} on {hessian.device}"
        )
    if any(isinstance(part, Tensor) and part.requires_grad for part in vars(hessian).values()):
        raise ValueError(f"{who}: expected tensors without a graph, got some that require gradients; detach them")
    if type(hessian) in (Diagonal, LowRankPlusDiagonal, MatrixFree):
        return
    generator = torch.Generator().manual_seed(seed)
    u, v = (torch.randn(n, generator=generator, dtype=torch.float64).to(like.device) for _ in range(2))
    hu, hv = hessian.matvec(u), hessian.matvec(v)
    for product in (hu, hv):
        require_product(who, product, like)
    asymmetry = abs(float(u @ hv - v @ hu)) / (float(hu.norm() + hv.norm()) + 1e-300)
    if not asymmetry <= _RTOL:
        raise ValueError(
            f"{who}: expected a symmetric operator, got asymmetry {asymmetry:.2g}, relative to its size; "
            f"{_RTOL} is allowed"
        )


def require_product(who: str, product: Tensor, like: Tensor) -> None:
    """Refuse a product with H that is not a vector of finite float64, like the weights, without a graph.

    Raises:
        ValueError: naming ``who``.
    """
    if product.shape != like.shape or product.dtype != torch.float64 or product.requires_grad:
        graph = " with a graph" if product.requires_grad else ""
        raise ValueError(
            f"{who}: expected products that are float64 of shape {tuple(like.shape)} without a graph, got "
            f"{product.dtype} of shape {tuple(product.shape)}{graph}"
        )
    if not torch.isfinite(product).all():
        raise ValueError(f"{who}: expected finite products with finite vectors, got NaN or inf")


def available_bytes(device: torch.device) -> int:
    """Free memory of a device."""
    if device.type == "cuda":
        return free_bytes_of_gpu(device)
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _training_loss(problem: BilevelProblem, point: Point, batch: Batch) -> float:
    with torch.no_grad():
        return float(problem.training_loss(point.hyper, point.weights, batch))


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randint(0, 2, (len(like),), generator=generator, dtype=torch.float64)
    return drawn.mul_(2).sub_(1).to(like.device)
