"""Families of direction LPs for benchmarks: any size, with curvature as badly conditioned as asked."""

from __future__ import annotations

import math

import torch

from lift_core.direction import assemble_direction_lp, slack_unit
from lift_core.lp import LinearProgram
from lift_core.operators import Dense, GroupColumns, LinearOperator, LowRankPlusDiagonal


def factored_direction_lp(
    n: int,
    *,
    rank: int = 32,
    num_hyper: int = 12,
    slack: float = 1e-2,
    condition: float = 1e4,
    seed: int = 0,
    device: str = "cpu",
) -> LinearProgram:
    """``H = diag(d) + V C V^T`` with d in [0.1, 10] and eigenvalues from 0.1 to about ``condition / 10``; unit boxes.

    The numbers are drawn on the device, and differ from one kind of device to another.

    >>> factored_direction_lp(100, rank=4, num_hyper=2).A.shape
    (100, 102)
    """
    generator = torch.Generator(device).manual_seed(seed)
    diagonal = 10 ** (2 * torch.rand(n, generator=generator, dtype=torch.float64, device=device) - 1)
    factor = _normal(generator, n, rank).div_(math.sqrt(n))
    core = torch.logspace(0, math.log10(condition / 10), rank, dtype=torch.float64, device=device)
    return _assemble(LowRankPlusDiagonal(diagonal=diagonal, factor=factor, core=core), num_hyper, slack, generator)


def trained_direction_lp(
    n: int,
    *,
    rank: int = 16,
    num_hyper: int = 12,
    slack: float = 1e-2,
    diagonal: float = 1e-3,
    seed: int = 0,
    device: str = "cpu",
) -> LinearProgram:
    """Like the direction LPs of a trained network, of whose rows few bind.

    Krylov vectors have entries of very different size (here normal times log-normal), the validation gradient lies in
    their span, what curvature is left on the diagonal is small, and so is J; eigenvalues go from −2 to 30, the box of
    a weight is about a hundredth.

    >>> trained_direction_lp(100, rank=4, num_hyper=2).A.shape
    (100, 102)
    """
    generator = torch.Generator(device).manual_seed(seed)
    factor = torch.linalg.qr(_normal(generator, n, rank) * _normal(generator, n).exp_()[:, None])[0]
    core = torch.linspace(-2, 30, rank, dtype=torch.float64, device=device)
    ones = torch.ones(n, dtype=torch.float64, device=device)
    hessian = LowRankPlusDiagonal(diagonal=diagonal * ones, factor=factor, core=core)
    radii, gradient = 0.01 * (_normal(generator, n) / 2).exp_(), 0.3 * (factor @ _normal(generator, rank))
    return assemble_direction_lp(
        grad_hyper=1e-4 * _normal(generator, num_hyper),
        grad_weights=gradient,
        hessian=hessian,
        mixed=_grouped(1e-5 * _normal(generator, n), num_hyper),
        delta=slack * slack_unit(hessian, gradient, radii),
        weights_radius=radii,
    )


def dense_direction_lp(
    n: int, *, num_hyper: int = 12, slack: float = 1e-2, condition: float = 1e4, seed: int = 0
) -> LinearProgram:
    """``H = D^1/2 Q diag(l) Q^T D^1/2`` with a random rotation Q, l from 1 down to 1 / condition and D in [0.1, 10]."""
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(_normal(generator, n, n))[0]
    spectrum = torch.logspace(0, -math.log10(condition), n, dtype=torch.float64)
    root = 10 ** (torch.rand(n, generator=generator, dtype=torch.float64) - 0.5)
    matrix = root[:, None] * ((rotation * spectrum) @ rotation.T) * root
    return _assemble(Dense((matrix + matrix.T) / 2), num_hyper, slack, generator)


def _assemble(hessian: LinearOperator, num_hyper: int, slack: float, generator: torch.Generator) -> LinearProgram:
    n = hessian.shape[0]
    mixed, gradient = _normal(generator, n), _normal(generator, n)
    return assemble_direction_lp(
        grad_hyper=gradient.new_zeros(num_hyper),
        grad_weights=gradient,
        hessian=hessian,
        mixed=_grouped(mixed, num_hyper),
        delta=slack * slack_unit(hessian, gradient, torch.ones_like(gradient)),
    )


def _grouped(values: torch.Tensor, num_hyper: int) -> GroupColumns:
    groups = torch.arange(len(values), device=values.device) % max(num_hyper, 1)
    return GroupColumns(values, groups, num_groups=num_hyper)


def _normal(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64, device=generator.device)
