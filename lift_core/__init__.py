"""LiFT: fine-tune a model while its regularisation tunes itself, by linear programming."""

from lift_core.controls import (
    GridSearch,
    HyperSearch,
    MoreTraining,
    RandomSearch,
    SuccessiveHalving,
    standard_controls,
)
from lift_core.curvature import (
    SR1,
    Budget,
    Curvature,
    CurvatureModel,
    Exact,
    Fisher,
    GaussNewton,
    HessianDiagonal,
    LowRank,
    build_curvature,
)
from lift_core.direction import TrustBox, assemble_direction_lp, closed_form, direction_lp, slack_path_lps
from lift_core.implicit import ImplicitDescent, ImplicitHypergradient
from lift_core.line_search import Armijo, GoldenSection, LineSearch, LineSearchResult
from lift_core.linearization import Linearization, linearize
from lift_core.lp.record import BackendAnswer, LinearProgram, LPBackend, LPStart, LPStatus
from lift_core.lp.verdict import KKTResiduals, LPSolution, solve_lp, solve_lps
from lift_core.lp_move import LPDirection
from lift_core.metering import Cost, Metered
from lift_core.moves import Candidate, Direction, LineMove, Move, NegativeGradient, SignGradient, Situation
from lift_core.operators import (
    Dense,
    Diagonal,
    DirectionMatrix,
    GroupColumns,
    LinearOperator,
    LowRankPlusDiagonal,
    MatrixFree,
    Sparse,
)
from lift_core.problem import Batch, BilevelProblem, Point, Split
from lift_core.records import CheckpointError, SearchStatus
from lift_core.refit import Refit
from lift_core.regularizers import L2, L2SP, Regularizer, SmoothedL1
from lift_core.saved_lp import load_lp, save_lp
from lift_core.search import LocalSearch, SearchResult
from lift_core.training import Trainer

__all__ = [
    "L2",
    "L2SP",
    "SR1",
    "Armijo",
    "BackendAnswer",
    "Batch",
    "BilevelProblem",
    "Budget",
    "Candidate",
    "CheckpointError",
    "Cost",
    "Curvature",
    "CurvatureModel",
    "Dense",
    "Diagonal",
    "Direction",
    "DirectionMatrix",
    "Exact",
    "Fisher",
    "GaussNewton",
    "GoldenSection",
    "GridSearch",
    "GroupColumns",
    "HessianDiagonal",
    "HyperSearch",
    "ImplicitDescent",
    "ImplicitHypergradient",
    "KKTResiduals",
    "LPBackend",
    "LPDirection",
    "LPSolution",
    "LPStart",
    "LPStatus",
    "LineMove",
    "LineSearch",
    "LineSearchResult",
    "LinearOperator",
    "LinearProgram",
    "Linearization",
    "LocalSearch",
    "LowRank",
    "LowRankPlusDiagonal",
    "MatrixFree",
    "Metered",
    "MoreTraining",
    "Move",
    "NegativeGradient",
    "Point",
    "RandomSearch",
    "Refit",
    "Regularizer",
    "SearchResult",
    "SearchStatus",
    "SignGradient",
    "Situation",
    "SmoothedL1",
    "Sparse",
    "Split",
    "SuccessiveHalving",
    "Trainer",
    "TrustBox",
    "assemble_direction_lp",
    "build_curvature",
    "closed_form",
    "direction_lp",
    "linearize",
    "load_lp",
    "save_lp",
    "slack_path_lps",
    "solve_lp",
    "solve_lps",
    "standard_controls",
]
