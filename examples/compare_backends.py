# %% [markdown]
# One direction LP, several backends. The same float64 judge recomputes every residual, so that the rows can be
# compared; the closed form is the yardstick, because no weight reaches its trust box here.

# %%
from __future__ import annotations

import os

import torch

import lift_core as lift
from backends import PDLP, HiGHS, InteriorPoint, Pyomo

TOY = os.environ.get("LIFT_TOY") == "1"
n, p, k, delta = (40, 3, 4, 1e-3) if TOY else (1_000, 8, 16, 1e-3)

# %% [markdown]
# A Hessian in factored form, `diag(d) + V diag(c) V^T`. Explicit solvers get it *lifted* by k auxiliary variables, the
# others use the factors or products.

# %%
generator = torch.Generator().manual_seed(0)
V = torch.linalg.qr(torch.randn(n, k, dtype=torch.float64, generator=generator))[0]
hessian = lift.LowRankPlusDiagonal(
    diagonal=torch.full((n,), 0.1, dtype=torch.float64),
    factor=V,
    core=torch.linspace(1, 10, k, dtype=torch.float64),
)
mixed = lift.GroupColumns(torch.randn(n, dtype=torch.float64, generator=generator), torch.arange(n) % p, num_groups=p)
g = torch.randn(n, dtype=torch.float64, generator=generator)

lp = lift.assemble_direction_lp(
    grad_hyper=torch.zeros(p, dtype=torch.float64),
    grad_weights=g,
    hessian=hessian,
    mixed=mixed,
    delta=delta,
    weights_radius=1e3,  # wide enough for the closed form
)
exact = lift.closed_form(
    grad_hyper=torch.zeros(p, dtype=torch.float64),
    grad_weights=g,
    hessian=hessian.to_dense(),
    mixed=mixed.to_dense(),
    delta=delta,
)
print(f"{lp}; closed form {exact.value:.9f}")

# %%
backends = [
    HiGHS(method="simplex"),
    HiGHS(method="ipm"),
    Pyomo(),
    PDLP(rtol=1e-4),
    InteriorPoint(),
]
print(
    f"{'backend':<16}{'status':<12}{'off by':>10}{'primal':>10}{'dual':>10}{'gap':>10}{'iterations':>12}{'seconds':>9}"
)
for backend in backends:
    found = lift.solve_lp(lp, backend)
    off = abs(found.objective - exact.value) / abs(exact.value)
    print(
        f"{found.backend:<16}{found.status.name:<12}{off:>10.1e}{found.kkt.primal:>10.1e}{found.kkt.dual:>10.1e}"
        f"{found.kkt.gap:>10.1e}{found.iterations:>12}{found.seconds:>9.3f}"
    )

# %% [markdown]
# The row duals of a solved direction LP are the adjoint `H^-1 g`, and so certify a hypergradient.

# %%
duals = lift.solve_lp(lp, HiGHS(method="simplex")).y
print(f"largest difference between row duals and adjoint: {float((duals - exact.adjoint).abs().max()):.1e}")
