"""Certificates of infeasibility and unboundedness out of iterates, claimed only once the core has verified them.

On an infeasible program the differences ``T(z) - z`` of a fixed-point method converge to a ray, and the iterates,
divided by their size, follow it.

Reference: Applegate, Diaz, Lu & Lubin (2024), SIAM J. Optim. 34(1), arXiv 2102.04592.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float64
from torch import Tensor

from lift_core.lp import BackendAnswer, LinearProgram, LPStatus, proves_infeasible, proves_unbounded


def certify(
    lp: LinearProgram,
    primal_rays: Iterable[Float64[Tensor, " n"]],
    dual_rays: Iterable[Float64[Tensor, " m"]],
    iterations: int,
) -> BackendAnswer | None:
    """An `INFEASIBLE` or `UNBOUNDED` answer if one of the candidate rays is a verified certificate, else None.

    A recession ray alone does not exclude that the program is infeasible as well.
    """
    for ray in dual_rays:
        candidate = _normalise(_allowed_dual(lp, ray))
        if proves_infeasible(lp, candidate):
            return BackendAnswer(None, candidate, LPStatus.INFEASIBLE, iterations)
    for ray in primal_rays:
        candidate = _normalise(_recession(lp, ray))
        if proves_unbounded(lp, candidate):
            return BackendAnswer(candidate, None, LPStatus.UNBOUNDED, iterations)
    return None


def _allowed_dual(lp: LinearProgram, ray: Tensor) -> Tensor:
    """The ray without its components against rows that have no bound on that side."""
    return ray.clamp(
        min=_zero_where(torch.isinf(lp.row_upper), -torch.inf), max=_zero_where(torch.isinf(lp.row_lower), torch.inf)
    )


def _recession(lp: LinearProgram, ray: Tensor) -> Tensor:
    """The ray without its components towards finite bounds of the columns."""
    return ray.clamp(
        min=_zero_where(torch.isfinite(lp.col_lower), -torch.inf),
        max=_zero_where(torch.isfinite(lp.col_upper), torch.inf),
    )


def _zero_where(mask: Tensor, otherwise: float) -> Tensor:
    return torch.where(mask, 0.0, torch.full(mask.shape, otherwise, dtype=torch.float64, device=mask.device))


def _normalise(ray: Tensor) -> Tensor:
    """The ray with largest entry one and without its rounding noise; zero where it is not finite."""
    ray = torch.where(torch.isfinite(ray), ray, 0.0)
    size = ray.abs().max() if len(ray) else ray.new_zeros(())
    return ray / size if bool(size > 0) else ray
