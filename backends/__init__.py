"""Ways to solve linear programs: `HiGHS` and `Pyomo` for explicit ones, `PDLP` and `InteriorPoint` for any.

Importing this package imports no solver package; each adapter does that when it solves.
"""

from backends.highs import HiGHS
from backends.interior_point import InteriorPoint
from backends.mps import read_mps
from backends.pdlp import PDLP
from backends.pyomo import Pyomo

__all__ = ["PDLP", "HiGHS", "InteriorPoint", "Pyomo", "read_mps"]
