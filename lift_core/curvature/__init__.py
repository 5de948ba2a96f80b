"""Curvature models: what stands in for ``H = ∇²_θθ f`` in a direction LP.

Every model approximates the Hessian of the *data* part of the training loss; the regulariser's, an exact diagonal, is
then added. Away from a minimum the Hessian is indefinite, and negative curvature can flip the hypergradient's sign: so
definiteness is an option of every model, and the smallest (Ritz) value is part of every answer. A new model is a
subclass of `CurvatureModel` with one method, `CurvatureModel.data_curvature`.
"""

from lift_core.curvature.diagonal import HessianDiagonal
from lift_core.curvature.fisher import Fisher
from lift_core.curvature.low_rank import LowRank
from lift_core.curvature.model import (
    Budget,
    Curvature,
    CurvatureModel,
    CurvatureView,
    Definiteness,
    Snapshots,
    add_diagonal,
    build_curvature,
    make_definite,
)
from lift_core.curvature.quasi_newton import SR1
from lift_core.curvature.stored import Exact, GaussNewton

__all__ = [
    "SR1",
    "Budget",
    "Curvature",
    "CurvatureModel",
    "CurvatureView",
    "Definiteness",
    "Exact",
    "Fisher",
    "GaussNewton",
    "HessianDiagonal",
    "LowRank",
    "Snapshots",
    "add_diagonal",
    "build_curvature",
    "make_definite",
]
