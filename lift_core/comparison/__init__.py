"""Backends side by side on many linear programs: what is solved, how each cell is kept, and what the answers amount to.

>>> from backends import HiGHS
>>> contest = Contest(programs=direction_family(sizes=[20]), contenders=[Contender("highs", HiGHS())])
>>> [answer["status"] for answer in contest.answers()]
['OPTIMAL']
"""

from lift_core.comparison.contest import REFUSED, Contender, Contest, is_solved
from lift_core.comparison.programs import Program, direction_family, direction_program, program_files
from lift_core.comparison.summary import Profile, disagreements, performance_profiles, shifted_mean, shifted_means

__all__ = [
    "REFUSED",
    "Contender",
    "Contest",
    "Profile",
    "Program",
    "direction_family",
    "direction_program",
    "disagreements",
    "is_solved",
    "performance_profiles",
    "program_files",
    "shifted_mean",
    "shifted_means",
]
