"""Linear programs: the record and what a backend is (`record`), and the judge of every answer (`verdict`)."""

from lift_core.lp.record import (
    BackendAnswer,
    ExplicitLP,
    LinearProgram,
    LPBackend,
    LPStart,
    LPStatus,
    Vector,
)
from lift_core.lp.verdict import (
    KKTResiduals,
    LPSolution,
    judge,
    kkt_residuals,
    proves_infeasible,
    proves_unbounded,
    size_of_bounds,
    smaller_bounds,
    solve_lp,
    solve_lps,
)

__all__ = [
    "BackendAnswer",
    "ExplicitLP",
    "KKTResiduals",
    "LPBackend",
    "LPSolution",
    "LPStart",
    "LPStatus",
    "LinearProgram",
    "Vector",
    "judge",
    "kkt_residuals",
    "proves_infeasible",
    "proves_unbounded",
    "size_of_bounds",
    "smaller_bounds",
    "solve_lp",
    "solve_lps",
]
