"""Proximal Newton on the dual, for programs in a box of which few rows bind, see `DualNewton`."""

from backends.dual_newton.backend import DualNewton

__all__ = ["DualNewton"]
