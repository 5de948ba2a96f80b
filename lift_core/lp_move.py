"""LiFT's own move: the direction LP, solved by a backend, from the curvature model's H."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lift_core.curvature import CurvatureModel, build_curvature
from lift_core.direction import TrustBox, promised_value, slack_path_lps, widen
from lift_core.linearization import Linearization, training_gradient_norm
from lift_core.lp import LinearProgram, LPBackend, LPSolution, solve_lps
from lift_core.moves import Direction, Facts, LineMove, Situation, finite_or_none
from lift_core.operators import LinearOperator
from lift_core.problem import BilevelProblem

USABLE = 1e-2
"""Primal residual of a direction LP up to which its answer is taken for a direction."""


@dataclass(frozen=True, kw_only=True)
class LPDirection(LineMove):
    """The direction LP, for one slack ratio or along a ρ-path.

    Attributes:
        backend: solves it.
        curvature: stands in for H.
        slacks: ratios ρ in [0, 1], see `slack_unit`.
        delta: one absolute δ, in units of the training gradient, in place of the ratios.
        box: trust region and kept rows.
        unit_norm: whether directions are scaled to ``‖(d_λ, d_θ)‖₂ = 1`` before the line search.
        tolerance: share of the selection loss; a solution that promises no larger decrease, see `promised_value`, makes
            a zero direction. At ρ = 0 the promise is all that λ can gain in the trust box, to first order in strengths,
            and the signs of a hypergradient that is as good as zero are noise.
    """

    backend: LPBackend
    curvature: CurvatureModel
    slacks: tuple[float, ...] = (1e-3,)
    delta: float | None = None
    box: TrustBox = field(default_factory=TrustBox)
    unit_norm: bool = False
    tolerance: float = 1e-10
    name: str = "LiFT"

    def __post_init__(self) -> None:
        if self.delta is not None and not (math.isfinite(self.delta) and self.delta >= 0):
            raise ValueError(f"delta: expected a finite number >= 0, got {self.delta}")
        if not self.slacks or not all(0 <= slack <= 1 for slack in self.slacks):
            raise ValueError(f"slacks: expected one or more ratios in [0, 1], got {self.slacks}")
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(f"tolerance: expected a finite share of at least 0, got {self.tolerance}")

    def is_descent(self, promised: float, selection_loss: float) -> bool:
        """Whether this change of F is decrease enough."""
        return -promised > self.tolerance * abs(selection_loss)

    def directions(self, problem: BilevelProblem, here: Situation, known: Linearization) -> Iterator[Direction]:
        built = build_curvature(
            self.curvature, problem, here.point, start=known.grad_weights, snapshots=here.snapshots, seed=here.seed
        )
        lps, labels = self._programs(problem, known, built.hessian, here.seed)
        p = len(known.grad_hyper)
        shared = {
            "curvature": self.curvature.name,
            "smallest_curvature": finite_or_none(built.smallest),
            "largest_curvature": finite_or_none(built.largest),
            "bulk_curvature": finite_or_none(built.bulk),
            "bulk_error": finite_or_none(built.bulk_error),
            "largest_ritz_residual": None if built.ritz_residuals is None else float(built.ritz_residuals.max()),
            "lower_gradient_norm": self._training_gradient_norm(problem, here, known),
            "upper_gradient_norm": float(known.grad_weights.norm()),
            "rows": lps[0].num_rows,
            "row_coverage": lps[0].num_rows / len(known.grad_weights),
        }
        for (label, slack), lp, solution in zip(labels, lps, solve_lps(lps, self.backend), strict=True):
            solution = in_box(lp, solution)
            promised = promised_value(problem, here.point, lp, solution) if is_usable(solution.kkt.primal) else math.nan
            taken = bool(torch.isfinite(solution.x).all()) and self.is_descent(promised, here.selection_loss)
            x = solution.x if taken else torch.zeros_like(solution.x)  # no direction, but a status to report
            facts = shared | {"slack": slack, "lp_promise": finite_or_none(promised)} | lp_facts(solution)
            facts |= _box_share(lp.col_upper, x, p)
            scale = 1 / max(float(x.norm()), 1e-300) if self.unit_norm else 1.0
            slope = scale * solution.objective if taken else 0.0
            yield Direction(label, scale * x[:p], scale * x[p:], slope, facts)

    def _training_gradient_norm(self, problem: BilevelProblem, here: Situation, known: Linearization) -> float:
        """Exact where the LP has asked for the gradient."""
        if self.box.kappa:
            return float(known.lower_gradient.norm())
        return training_gradient_norm(problem, here.point, seed=here.seed)

    def _programs(
        self, problem: BilevelProblem, known: Linearization, hessian: LinearOperator, seed: int
    ) -> tuple[list[LinearProgram], list[tuple[str, float | None]]]:
        """The direction LPs, with label and slack ratio of each."""
        if self.delta is None:
            lps = slack_path_lps(problem, known, hessian, slacks=list(self.slacks), box=self.box, seed=seed)
            return lps, [(f"ρ={slack:g}", slack) for slack in self.slacks]
        (tight,) = slack_path_lps(problem, known, hessian, slacks=[0.0], box=self.box, seed=seed)
        return [widen(tight, self.delta)], [(f"δ={self.delta:g}", None)]


def is_usable(primal_residual: float | None) -> bool:
    """Whether an answer that violates its program by so much still makes a direction."""
    return primal_residual is not None and primal_residual <= USABLE


def in_box(lp: LinearProgram, solution: LPSolution) -> LPSolution:
    """The solution, moved into the trust box where a backend has left it."""
    x = solution.x.clamp(lp.col_lower, lp.col_upper)
    return solution if torch.equal(x, solution.x) else replace(solution, x=x, objective=float(lp.c @ x) + lp.offset)


def lp_facts(solution: LPSolution) -> Facts:
    """What a report says of an LP solve."""
    return {
        "lp_backend": solution.backend,
        "lp_status": solution.status.name,
        "lp_objective": finite_or_none(solution.objective),
        "lp_bound": finite_or_none(solution.bound),
        "lp_primal_residual": finite_or_none(solution.kkt.primal),
        "lp_dual_residual": finite_or_none(solution.kkt.dual),
        "lp_gap": finite_or_none(solution.kkt.gap),
        "lp_objective_error": finite_or_none(solution.kkt.objective_error),
        "lp_iterations": solution.iterations,
        "lp_seconds": solution.seconds,
    }


def _box_share(radius: Tensor, x: Tensor, num_hyper: int) -> Facts:
    """Share of the weights that sit on the trust box."""
    return {"weights_on_box": float((x.abs() >= radius * (1 - 1e-6))[num_hyper:].double().mean())}
