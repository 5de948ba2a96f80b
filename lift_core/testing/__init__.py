"""Contracts for plug-ins: functions that raise `AssertionError` with a sentence on what is wrong and what is wanted.

`lift_core.testing.strategies` (hypothesis) and `lift_core.testing.known` build linear programs with known optima.
"""

from lift_core.testing.backends import check_backend
from lift_core.testing.cases import LPCase, lp_cases
from lift_core.testing.curvature import check_curvature
from lift_core.testing.known import KnownLP, closed_form_direction_lp, known_direction_lp, known_lp
from lift_core.testing.operators import check_operator
from lift_core.testing.problems import check_problem

__all__ = [
    "KnownLP",
    "LPCase",
    "check_backend",
    "check_curvature",
    "check_operator",
    "check_problem",
    "closed_form_direction_lp",
    "known_direction_lp",
    "known_lp",
    "lp_cases",
]
