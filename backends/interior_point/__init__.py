"""`InteriorPoint`: a primal-dual interior-point method that uses the structure of direction LPs, on CPU or CUDA."""

from backends.interior_point.backend import InteriorPoint

__all__ = ["InteriorPoint"]
