"""Curvature models: what stands in for ``H = ∇²_θθ f`` in a direction LP.

Every model approximates the Hessian of the *data* part of the training loss; the regulariser's, an exact diagonal, is
then added. Away from a minimum the Hessian is indefinite, and negative curvature can flip the hypergradient's sign: so
definiteness is an option of every model, and the smallest (Ritz) value is part of every answer.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Float64
from torch import Tensor

from lift_core.krylov import complement_mean, lanczos
from lift_core.operators import Dense, Diagonal, LinearOperator, LowRankPlusDiagonal, MatrixFree
from lift_core.problem import Batch, BilevelProblem, Point

Definiteness = Literal["raw", "clamped", "absolute"]
"""What happens to negative eigenvalues: kept, set to zero, or made positive."""

Snapshots = Sequence[Float64[Tensor, " n"]]
"""Weights visited during the warm-up, oldest first."""


@dataclass(frozen=True)
class Curvature:
    """A built model.

    Attributes:
        hessian: stands in for H, regulariser included, symmetric n x n.
        smallest: smallest eigenvalue or Ritz value of the data part that was seen, before `Definiteness` acted.
        largest: the largest one.
        bulk: σ, the value given to all directions that were not seen; None where the model has none.
        num_hvps, num_gradients: products and gradients over the chosen batches that the model spent.
    """

    hessian: LinearOperator
    smallest: float
    largest: float
    bulk: float | None = None
    num_hvps: int = 0
    num_gradients: int = 0


@dataclass(frozen=True, kw_only=True)
class CurvatureModel(ABC):
    """A recipe for H.

    Attributes:
        definiteness: see `Definiteness`.
        share: share of the training batches that curvature is sampled on, in (0, 1].
    """

    name: ClassVar[str]
    definiteness: Definiteness = "raw"
    share: float = 1.0

    @property
    def num_snapshots(self) -> int:
        """Snapshots of the weights that the model wants from the warm-up."""
        return 0

    def __post_init__(self) -> None:
        if self.definiteness not in get_args(Definiteness):
            raise ValueError(f"definiteness: expected one of {get_args(Definiteness)}, got {self.definiteness!r}")
        if not 0 < self.share <= 1:
            raise ValueError(f"share: expected a number in (0, 1], got {self.share}")

    @abstractmethod
    def data_curvature(self, view: CurvatureView) -> Curvature:
        """Approximate ``∇²_θθ L_train`` at a point from what the view offers."""


@dataclass(frozen=True)
class CurvatureView:
    """What a curvature model may look at.

    Attributes:
        problem, point: where.
        batches: the chosen training batches.
        start: direction in which accuracy matters most (∇_θ F): Krylov spaces start here.
        snapshots: weights along the warm-up.
        generator: source of random probes.
    """

    problem: BilevelProblem
    point: Point
    batches: Sequence[Batch]
    start: Float64[Tensor, " n"]
    snapshots: Snapshots
    generator: torch.Generator

    def probe(self) -> Float64[Tensor, " n"]:
        """A vector of random signs."""
        n = len(self.point.weights)
        return torch.randint(0, 2, (n,), generator=self.generator, dtype=torch.float64).mul_(2).sub_(1)


def build_curvature(
    model: CurvatureModel,
    problem: BilevelProblem,
    point: Point,
    *,
    start: Float64[Tensor, " n"],
    snapshots: Snapshots = (),
    seed: int = 0,
) -> Curvature:
    """Build ``model`` at ``point`` on a seeded share of the training batches and add the regulariser's diagonal."""
    batches = problem.batches("train")
    generator = torch.Generator().manual_seed(seed)
    count = max(1, math.ceil(model.share * len(batches)))
    chosen = sorted(torch.randperm(len(batches), generator=generator)[:count].tolist())
    view = CurvatureView(problem, point, [batches[i] for i in chosen], start, snapshots, generator)
    built = model.data_curvature(view)
    if problem.regularizer is None:
        return built
    diagonal = problem.regularizer.hessian(point.hyper, point.weights).diagonal
    return replace(built, hessian=add_diagonal(built.hessian, diagonal))


def add_diagonal(operator: LinearOperator, diagonal: Float64[Tensor, " n"]) -> LinearOperator:
    """``A + diag(d)``, in the form that A has."""
    match operator:
        case Dense():
            return Dense(operator.matrix + torch.diag(diagonal))
        case Diagonal():
            return Diagonal(operator.diagonal + diagonal)
        case LowRankPlusDiagonal():
            return LowRankPlusDiagonal(
                diagonal=operator.diagonal + diagonal, factor=operator.factor, core=operator.core
            )
        case _:
            return MatrixFree(operator.shape[0], lambda x: operator.matvec(x) + diagonal * x)


@dataclass(frozen=True, kw_only=True)
class Exact(CurvatureModel):
    """The Hessian itself: stored up to ``dense_limit`` weights, as products beyond.

    >>> Exact(definiteness="clamped").name
    'exact'
    """

    name: ClassVar[str] = "exact"
    dense_limit: int = 4096

    def data_curvature(self, view: CurvatureView) -> Curvature:
        return _stored(view.problem.training_hessian(view.point, view.batches), self, self.dense_limit)


@dataclass(frozen=True, kw_only=True)
class GaussNewton(CurvatureModel):
    """The generalised Gauss-Newton matrix, positive semi-definite by construction.

    Reference: Schraudolph (2002), Fast curvature matrix-vector products; Martens (2020), section 8.
    """

    name: ClassVar[str] = "gauss_newton"
    dense_limit: int = 4096

    def data_curvature(self, view: CurvatureView) -> Curvature:
        return _stored(view.problem.training_gauss_newton(view.point, view.batches), self, self.dense_limit)


@dataclass(frozen=True, kw_only=True)
class HessianDiagonal(CurvatureModel):
    """A diagonal: ``mean(z ⊙ Hz)`` over random signs z (Hutchinson), or mean squared gradients of the batches.

    Attributes:
        method: ``"hutchinson"``, or ``"squared_gradients"``: Σ_b (N_b² / N) g_b², an empirical Fisher by batch.
        num_probes: random sign vectors for Hutchinson.

    Reference: Bekas, Kokiopoulou, Saad (2007), An estimator for the diagonal of a matrix.
    """

    name: ClassVar[str] = "diagonal"
    method: Literal["hutchinson", "squared_gradients"] = "hutchinson"
    num_probes: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in ("hutchinson", "squared_gradients"):
            raise ValueError(f"method: expected 'hutchinson' or 'squared_gradients', got {self.method!r}")
        if self.num_probes < 1:
            raise ValueError(f"num_probes: expected a positive number, got {self.num_probes}")

    def data_curvature(self, view: CurvatureView) -> Curvature:
        estimate = torch.zeros_like(view.point.weights)
        if self.method == "squared_gradients":
            sizes = [view.problem.batch_size(batch) for batch in view.batches]
            for batch, size in zip(view.batches, sizes, strict=True):
                estimate += size**2 / sum(sizes) * view.problem.training_gradient(view.point, [batch]).square()
            counts = {"num_gradients": 1}
        else:
            hessian = view.problem.training_hessian(view.point, view.batches)
            for _ in range(self.num_probes):
                sign = view.probe()
                estimate += sign * hessian.matvec(sign) / self.num_probes
            counts = {"num_hvps": self.num_probes}
        definite = make_definite(estimate, self.definiteness)
        return Curvature(Diagonal(definite), float(estimate.min()), float(estimate.max()), **counts)


@dataclass(frozen=True, kw_only=True)
class SR1(CurvatureModel):
    """Symmetric rank-one updates of σI from gradient differences along the warm-up, in factored form.

        B ← B + (y − Bs)(y − Bs)ᵀ / (y − Bs)ᵀs,      s = Δθ,  y = Δ∇L_train,

    a pair being skipped where ``|(y − Bs)ᵀs| < skip ‖y − Bs‖ ‖s‖``. σ is ``sᵀy / sᵀs`` of the newest pair, at least 0.

    Attributes:
        memory: newest pairs that are used.
        skip: threshold of the skip rule.

    Reference: Nocedal & Wright (2006), Numerical optimization, section 6.2.
    """

    name: ClassVar[str] = "sr1"
    memory: int = 10
    skip: float = 1e-8

    @property
    def num_snapshots(self) -> int:
        return self.memory

    def data_curvature(self, view: CurvatureView) -> Curvature:
        points = [*view.snapshots[-self.memory :], view.point.weights]
        if len(points) < 2:
            raise ValueError(
                "snapshots: SR1 needs at least one earlier point; warm up for some epochs, or pass snapshots"
            )
        gradients = [view.problem.training_gradient(Point(view.point.hyper, w), view.batches) for w in points]
        pairs = [(points[i + 1] - points[i], gradients[i + 1] - gradients[i]) for i in range(len(points) - 1)]
        newest_s, newest_y = pairs[-1]
        sigma = max(0.0, float(newest_s @ newest_y / newest_s.square().sum().clamp(min=1e-300)))
        columns, core = self._updates(pairs, sigma)
        hessian, smallest, largest = _from_factor(columns, core, sigma, self.definiteness)
        return Curvature(hessian, smallest, largest, sigma, num_gradients=len(points))

    def _updates(self, pairs: list[tuple[Tensor, Tensor]], sigma: float) -> tuple[Tensor, Tensor]:
        factor, core = pairs[0][0].new_zeros(len(pairs[0][0]), 0), pairs[0][0].new_zeros(0)
        for s, y in pairs:
            missing = y - sigma * s - factor @ (core * (factor.T @ s))
            denominator = missing @ s
            if abs(denominator) > self.skip * missing.norm() * s.norm():
                factor = torch.cat([factor, (missing / missing.norm())[:, None]], dim=1)
                core = torch.cat([core, (missing.square().sum() / denominator)[None]])
        return factor, core


@dataclass(frozen=True, kw_only=True)
class LowRank(CurvatureModel):
    """``V Θ Vᵀ + σ (I − V Vᵀ)``: Ritz pairs of a Lanczos process started at ∇_θ F, and one value for the rest.

    Attributes:
        rank: Lanczos steps, one Hessian product each.
        bulk: σ: ``"trace"`` (mean curvature of the complement, by random probes), or a number.
        num_probes: products for the trace estimate.

    Reference: Golub & Van Loan (2013), section 10.3 (full reorthogonalisation); Hutchinson (1990).
    """

    name: ClassVar[str] = "low_rank"
    rank: int = 64
    bulk: Literal["trace"] | float = "trace"
    num_probes: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1:
            raise ValueError(f"rank: expected a positive number, got {self.rank}")
        if self.bulk != "trace" and not (isinstance(self.bulk, (int, float)) and math.isfinite(self.bulk)):
            raise ValueError(f"bulk: expected 'trace' or a finite number, got {self.bulk!r}")
        if self.num_probes < 1:
            raise ValueError(f"num_probes: expected a positive number, got {self.num_probes}")

    def data_curvature(self, view: CurvatureView) -> Curvature:
        hessian = view.problem.training_hessian(view.point, view.batches)
        vectors, values = lanczos(hessian, view.start, min(self.rank, len(view.start)), view.generator)
        probes = [view.probe() for _ in range(self.num_probes)] if self.bulk == "trace" else []
        sigma = complement_mean(hessian, vectors, probes) if self.bulk == "trace" else float(self.bulk)
        definite_sigma = float(make_definite(torch.tensor(sigma), self.definiteness))
        built = LowRankPlusDiagonal(
            diagonal=torch.full_like(view.start, definite_sigma),
            factor=vectors,
            core=make_definite(values, self.definiteness) - definite_sigma,
        )
        num_hvps = len(values) + len(probes)
        return Curvature(built, float(values.min()), float(values.max()), sigma, num_hvps=num_hvps)


def make_definite(values: Tensor, definiteness: Definiteness) -> Tensor:
    """Eigenvalues after `Definiteness` acted."""
    if definiteness == "clamped":
        return values.clamp(min=0)
    return values.abs() if definiteness == "absolute" else values


def _stored(operator: LinearOperator, model: CurvatureModel, dense_limit: int) -> Curvature:
    """A dense, definite matrix where n allows; else the products as they are."""
    n = operator.shape[0]
    if n > dense_limit:
        if model.definiteness != "raw":
            raise ValueError(
                f"definiteness={model.definiteness!r} needs the eigenvalues of a {n:,} x {n:,} matrix, over "
                f"dense_limit={dense_limit:,}; use LowRank, or 'raw' (GaussNewton is semi-definite as it is)"
            )
        return Curvature(operator, math.nan, math.nan)
    matrix = operator.to_dense()
    matrix = (matrix + matrix.T) / 2
    values, vectors = torch.linalg.eigh(matrix)
    if model.definiteness != "raw":
        matrix = vectors @ torch.diag(make_definite(values, model.definiteness)) @ vectors.T
    return Curvature(Dense(matrix), float(values[0]), float(values[-1]), num_hvps=n)


def _from_factor(
    factor: Tensor, core: Tensor, sigma: float, definiteness: Definiteness
) -> tuple[LowRankPlusDiagonal, float, float]:
    """``σI + V C Vᵀ`` for any V: orthonormalised, so that definiteness can act on true eigenvalues."""
    if not len(core):
        return (
            LowRankPlusDiagonal(diagonal=factor.new_full((len(factor),), sigma), factor=factor, core=core),
            sigma,
            sigma,
        )
    orthonormal, triangle = torch.linalg.qr(factor)
    shifts, rotation = torch.linalg.eigh(triangle @ torch.diag(core) @ triangle.T)
    values = shifts + sigma
    built = LowRankPlusDiagonal(
        diagonal=factor.new_full((len(factor),), sigma),
        factor=orthonormal @ rotation,
        core=make_definite(values, definiteness) - sigma,
    )
    return built, min(sigma, float(values[0])), max(sigma, float(values[-1]))
