"""How much each group of weights can lower the training loss: slope, curvature, and the reduction they promise.

The optimiser is about to step from θ to ``θ − t u``. Restricted to group k, with G the gradient and H the Hessian of f,

    f(θ − t u_k) ≈ f(θ) − t b_k + ½ t² a_k,     b_k = G·u_k,   a_k = u_kᵀ H u_k,

so that the best step is ``b_k / a_k`` and lowers the loss by ``v_k = b_k² / (2 a_k)``, where ``a_k > 0`` and
``b_k > 0``. Per weight of the group, ``PPI_k = v_k / |θ_k|``.

Reference: Xu & Bu (2025), AdaPEFT, arXiv 2505.12579, section 3; Bu & Xu (2024), GeN, arXiv 2407.02772, section 3.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from lift_core.problem import Batch, BilevelProblem, Point
from lift_core.selection.groups import Groups
from lift_core.selection.parabola import QuadraticFit, fit_quadratic, second_step

CURVED_UP = "the curvature is not positive"
NO_DESCENT = "the step does not descend"


@dataclass(frozen=True)
class Probe:
    """Where, along what, and on which data influence is measured.

    Attributes:
        point: (λ, θ).
        step: u, shape (n,): the optimiser goes from θ to ``θ − t u``.
        batches: training batches, weighted by their sizes.
    """

    point: Point
    step: Float64[Tensor, " n"]
    batches: Sequence[Batch]


@dataclass(frozen=True)
class Influence:
    """Slope and curvature of f along each group's part of one step.

    Attributes:
        names, sizes: of the K groups.
        slope, curvature: b and a, shape (K,).
        rejected: per group, why its numbers promise nothing; empty where they do.
        r_squared: of the fits, where there was a fit.
        cross: ``u_jᵀ H u_k``, K x K, where it was asked for; its diagonal is `curvature`.
        evaluations, products: losses and Hessian products that were spent.
    """

    names: tuple[str, ...]
    sizes: Int64[Tensor, " K"]
    slope: Float64[Tensor, " K"]
    curvature: Float64[Tensor, " K"]
    rejected: tuple[str, ...]
    r_squared: Float64[Tensor, " K"] | None = None
    cross: Float64[Tensor, "K K"] | None = None
    evaluations: int = 0
    products: int = 0

    @property
    def accepted(self) -> Tensor:
        """Which groups have a reduction, shape (K,)."""
        return torch.tensor([not reason for reason in self.rejected])

    @property
    def best_steps(self) -> Float64[Tensor, " K"]:
        """``b_k / a_k``; 0 for rejected groups."""
        return torch.where(self.accepted, self.slope / self.curvature, 0.0)

    @property
    def reductions(self) -> Float64[Tensor, " K"]:
        """``v_k = b_k² / (2 a_k)``; 0 for rejected groups."""
        return torch.where(self.accepted, self.best_steps * self.slope / 2, 0.0)

    @property
    def ppi(self) -> Float64[Tensor, " K"]:
        """``v_k / |θ_k|``."""
        return self.reductions / self.sizes


@dataclass(frozen=True, kw_only=True)
class InfluenceEstimator(ABC):
    """A way to measure (a_k, b_k)."""

    name: ClassVar[str]

    @abstractmethod
    def estimate(self, problem: BilevelProblem, probe: Probe, groups: Groups) -> Influence:
        """Slope and curvature of every group."""


@dataclass(frozen=True, kw_only=True)
class ExactInfluence(InfluenceEstimator):
    """One gradient, and one Hessian product for each group.

    Attributes:
        cross: keep the whole matrix ``u_jᵀ H u_k``, which costs no further products.
        at_once: groups whose products are formed together; memory grows with it. It pays for small networks, whose time
            goes into calls rather than arithmetic; on one core a transformer is quicker with 1.

    >>> from problems import Quadratic
    >>> from lift_core.selection.groups import make_groups
    >>> problem = Quadratic()
    >>> here = problem.initial_point()
    >>> probe = Probe(here, torch.ones_like(here.weights), problem.batches("train"))
    >>> ExactInfluence().estimate(problem, probe, make_groups(problem)).products
    3
    """

    name: ClassVar[str] = "exact"
    cross: bool = False
    at_once: int = 8

    def __post_init__(self) -> None:
        if self.at_once < 1:
            raise ValueError(f"at_once: expected at least 1, got {self.at_once}")

    def estimate(self, problem: BilevelProblem, probe: Probe, groups: Groups) -> Influence:
        require_fit(probe, groups)
        gradient = problem.lower_gradient(probe.point, probe.batches)
        cross = self._cross(problem, probe, groups)
        slope, curvature = groups.sums(gradient * probe.step).cpu(), cross.diagonal().clone()
        rejected = tuple(map(_refusal, slope.tolist(), curvature.tolist()))
        return Influence(
            groups.names, groups.sizes.cpu(), slope, curvature, rejected,
            cross=cross if self.cross else None, products=len(groups),
        )  # fmt: skip

    def _cross(self, problem: BilevelProblem, probe: Probe, groups: Groups) -> Float64[Tensor, "K K"]:
        hessian = problem.training_hessian(probe.point, probe.batches)
        hyper, weights = probe.point.hyper, probe.point.weights
        shift = None if problem.regularizer is None else problem.regularizer.hessian(hyper, weights).diagonal
        columns: list[Tensor] = []
        for numbers in torch.arange(len(groups)).split(self.at_once):
            steps = torch.stack([groups.only(probe.step, k) for k in numbers.tolist()], dim=1)
            products = hessian.matmat(steps) if len(numbers) > 1 else hessian.matvec(steps[:, 0])[:, None]
            if shift is not None:
                products = products + shift[:, None] * steps
            columns.append(groups.sums(probe.step[:, None] * products))
        cross = torch.cat(columns, dim=1).cpu()
        return (cross + cross.T) / 2


@dataclass(frozen=True, kw_only=True)
class ForwardInfluence(InfluenceEstimator):
    """Forward passes only: four losses for each group and one for all, and a quadratic through the five.

    The first two points are ``±s``; the other two lie at ``±`` the best step that these three suggest, kept apart from
    s and within a factor of four of it. A fit is rejected where the curvature is not positive, R² is below
    ``min_r_squared``, or the standard error of v exceeds ``max_error`` of it (rounding, or a loss that is no parabola
    there). The cost is ``4K + 1`` evaluations.

    Attributes:
        first_step: s, in multiples of u; the optimiser's learning rate is a sensible choice.
        min_r_squared: of an accepted fit.
        max_error: relative standard error of v in an accepted fit.
    """

    name: ClassVar[str] = "forward"
    first_step: float = 1e-3
    min_r_squared: float = 0.99
    max_error: float = 0.05

    def __post_init__(self) -> None:
        if not (self.first_step > 0 and math.isfinite(self.first_step)):
            raise ValueError(f"first_step: expected a positive number, got {self.first_step}")
        if not 0 < self.min_r_squared < 1:
            raise ValueError(f"min_r_squared: expected a number in (0, 1), got {self.min_r_squared}")
        if not self.max_error > 0:
            raise ValueError(f"max_error: expected a positive number, got {self.max_error}")

    def estimate(self, problem: BilevelProblem, probe: Probe, groups: Groups) -> Influence:
        require_fit(probe, groups)
        start = problem.lower_loss(probe.point, probe.batches)
        fits = [self._fit(problem, probe, groups.only(probe.step, k), start) for k in range(len(groups))]
        slope, curvature, r_squared = (
            torch.tensor([getattr(fit, part) for fit in fits], dtype=torch.float64)
            for part in ("slope", "curvature", "r_squared")
        )
        rejected = tuple(self._judge(fit) for fit in fits)
        return Influence(
            groups.names, groups.sizes.cpu(), slope, curvature, rejected,
            r_squared=r_squared, evaluations=1 + 4 * len(groups),
        )  # fmt: skip

    def _fit(self, problem: BilevelProblem, probe: Probe, step: Tensor, start: float) -> QuadraticFit:
        def loss(t: float) -> float:
            moved = Point(probe.point.hyper, probe.point.weights - t * step)
            return problem.lower_loss(moved, probe.batches)

        s = self.first_step
        first = {-s: loss(-s), 0.0: start, s: loss(s)}
        t = second_step(s, (first[-s] - first[s]) / (2 * s), (first[s] + first[-s] - 2 * start) / s / s)
        return fit_quadratic(first | {-t: loss(-t), t: loss(t)})

    def _judge(self, fit: QuadraticFit) -> str:
        if not math.isfinite(fit.slope + fit.curvature):
            return "a loss, or the fit to the losses, was not finite"
        if fit.r_squared < self.min_r_squared:
            return f"R² is below {self.min_r_squared:g}"
        refusal = _refusal(fit.slope, fit.curvature)
        if not refusal and fit.error > self.max_error:
            return f"the error of the fit exceeds {self.max_error:.0%}"
        return refusal


def require_fit(probe: Probe, groups: Groups) -> None:
    """Refuse a probe that does not fit the groups, or holds NaN.

    Raises:
        ValueError: naming the argument.
    """
    if len(probe.step) != groups.num_weights or len(probe.point.weights) != groups.num_weights:
        raise ValueError(
            f"probe: expected a point and a step of {groups.num_weights} weights to fit the groups, got "
            f"{len(probe.point.weights)} and {len(probe.step)}"
        )
    if not torch.isfinite(probe.step).all():
        raise ValueError("probe: the step holds NaN or inf")
    if not len(probe.batches):
        raise ValueError("probe: expected at least one batch, got none")


def describe_rejections(influences: Sequence[Influence]) -> Iterator[dict[str, Any]]:
    """Groups that were rejected in some probe: name, in how many probes, and for what reasons."""
    for k, name in enumerate(influences[0].names):
        reasons = [influence.rejected[k] for influence in influences if influence.rejected[k]]
        if reasons:
            yield {"group": name, "probes": len(reasons), "of": len(influences), "reasons": sorted(set(reasons))}


def _refusal(slope: float, curvature: float) -> str:
    if not curvature > 0:
        return CURVED_UP
    return "" if slope > 0 else NO_DESCENT
