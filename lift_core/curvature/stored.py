"""The Hessian and the Gauss-Newton matrix themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from lift_core.curvature.model import Budget, Curvature, CurvatureModel, CurvatureView, make_definite
from lift_core.operators import Dense, LinearOperator


@dataclass(frozen=True, kw_only=True)
class Exact(CurvatureModel):
    """The Hessian itself: stored up to ``dense_limit`` weights, as products beyond.

    >>> Exact(definiteness="clamped").name
    'exact'
    """

    name: ClassVar[str] = "exact"
    dense_limit: int = 4096

    def budget(self, n: int) -> Budget:
        return _budget(n, self.dense_limit)

    def data_curvature(self, view: CurvatureView) -> Curvature:
        return _stored(view.problem.training_hessian(view.point, view.batches), self, self.dense_limit)


@dataclass(frozen=True, kw_only=True)
class GaussNewton(CurvatureModel):
    """The generalised Gauss-Newton matrix, positive semi-definite by construction.

    Reference: Schraudolph (2002), Fast curvature matrix-vector products; Martens (2020), section 8.
    """

    name: ClassVar[str] = "gauss_newton"
    uses_products: ClassVar[bool] = False
    dense_limit: int = 4096

    def budget(self, n: int) -> Budget:
        return _budget(n, self.dense_limit)

    def data_curvature(self, view: CurvatureView) -> Curvature:
        return _stored(view.problem.training_gauss_newton(view.point, view.batches), self, self.dense_limit)


def _budget(n: int, dense_limit: int) -> Budget:
    """n products and the matrix, its eigenvectors and two copies; nothing beforehand where products are kept."""
    return Budget(num_hvps=n, num_bytes=4 * 8 * n * n) if n <= dense_limit else Budget()


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
