"""Newton systems with a large sparse matrix: one sparse factorisation of the quasi-definite system per iteration."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla
import torch
from torch import Tensor

from backends.interior_point.system import NewtonSystem, equilibrate
from lift_core.lp import LinearProgram
from lift_core.operators import LinearOperator

REGULARIZATION = 1e-10
"""Added to both diagonal blocks, in units; refinement takes it out again."""
PIVOT_THRESHOLD = 1e-3


class SparseSystem(NewtonSystem):
    """``[−Θ⁻¹  Aᵀ; A  Θ_s]``, regularised so that any order of the unknowns may be used that keeps the factors sparse.

    SuperLU does the work, on the CPU.

    Reference: Vanderbei (1995), Symmetric quasidefinite matrices, SIAM J. Optim. 5(1).
    """

    def __init__(self, A: LinearOperator) -> None:  # noqa: N803
        super().__init__(A)
        self._matrix, self._device = A.lifted().matrix, A.device

    def measure(self, lp: LinearProgram) -> tuple[Tensor, Tensor]:
        return equilibrate(lp, self._largest_entries)

    def factorize(self, theta: Tensor, theta_rows: Tensor) -> None:
        units = self.units
        # a column is measured in the square root of its Θ, or in its unit where Θ is larger: entries stay bounded
        scale_x = torch.minimum(theta, units.theta).sqrt()
        corner = torch.where(theta > 0, scale_x.square() / theta, 1.0) + REGULARIZATION
        scale_y = units.cost**0.5 / units.rows
        self._scale = torch.cat([scale_x, scale_y]).cpu().numpy()
        both = sp.bmat([[None, self._matrix.T], [self._matrix, None]], format="csc")
        both = sp.diags_array(self._scale) @ both @ sp.diags_array(self._scale)
        diagonal = torch.cat([-corner, theta_rows * scale_y.square() + REGULARIZATION]).cpu().numpy()
        try:
            self._lu = spla.splu(
                sp.csc_matrix(both + sp.diags_array(diagonal)),
                permc_spec="MMD_AT_PLUS_A",
                diag_pivot_thresh=PIVOT_THRESHOLD,
                options={"SymmetricMode": True},
            )
        except RuntimeError as error:  # SuperLU's word for a singular matrix
            raise torch.linalg.LinAlgError(str(error)) from error

    def solve(self, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        rhs = torch.cat([-f, g]).cpu().numpy()
        both = torch.from_numpy(self._scale * self._lu.solve(self._scale * rhs)).to(self._device)
        return both[: len(f)], both[len(f) :]

    def _largest_entries(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        scaled = sp.diags_array(rows.cpu().numpy()) @ abs(self._matrix) @ sp.diags_array(columns.cpu().numpy())
        by_row, by_column = (np.asarray(scaled.max(axis=axis).todense()).ravel() for axis in (1, 0))
        return torch.from_numpy(by_row).to(self._device), torch.from_numpy(by_column).to(self._device)
