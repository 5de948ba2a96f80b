"""Ways to solve linear programs: `PDLP` and `InteriorPoint` for any, `DualNewton` where few rows bind, and adapters to
other solvers for explicit ones.

Importing this package imports no solver package; each adapter does that when it solves.
"""

from backends.cuopt import CuOpt
from backends.cupdlpx import CuPDLPx
from backends.dual_newton import DualNewton
from backends.highs import HiGHS
from backends.interior_point import InteriorPoint
from backends.mps import read_mps
from backends.ortools import ORTools
from backends.pdlp import PDLP
from backends.pyomo import Pyomo

__all__ = ["PDLP", "CuOpt", "CuPDLPx", "DualNewton", "HiGHS", "InteriorPoint", "ORTools", "Pyomo", "read_mps"]
