"""`PDLP`: first-order linear programming in torch, for programs known only through products with A.

`halpern` is restarted, reflected Halpern PDHG for any program; `douglas_rachford` is for direction LPs, whose structure
plain PDHG cannot use. Both share the residuals of `kkt`, the restarts of `restarts` and the rays of `certificates`.
"""

from backends.pdlp.backend import PDLP

__all__ = ["PDLP"]
