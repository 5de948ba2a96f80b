"""The contract of a linear operator."""

from __future__ import annotations

import torch
from torch import Tensor

from lift_core.operators import LinearOperator


def check_operator(
    operator: LinearOperator, *, symmetric: bool = False, lifted: bool = True, rtol: float = 1e-9, seed: int = 0
) -> None:
    """Check shapes, linearity, the transpose, `matmat`, `to_dense` and the lifted form of an operator.

    Args:
        operator: small enough to form.
        symmetric: whether it must be equal to its transpose.
        lifted: whether it must have an explicit sparse form.
        rtol: relative accuracy that products are held to.
        seed: of the random vectors.

    Raises:
        AssertionError: a sentence that says what is wrong and what is wanted.

    >>> from lift_core.operators import Diagonal
    >>> check_operator(Diagonal([1.0, 2.0]), symmetric=True)
    """
    who = type(operator).__name__
    assert isinstance(operator, LinearOperator), f"{who}: expected a subclass of lift_core.operators.LinearOperator"
    shape = operator.shape
    assert len(shape) == 2 and all(type(size) is int and size >= 0 for size in shape), (
        f"{who}: shape must be two non-negative ints, got {shape!r}"
    )
    check_products(operator, rtol=rtol, seed=seed)
    _check_forms(operator, rtol=rtol, seed=seed)
    if symmetric:
        check_symmetric(operator, rtol=rtol, seed=seed)
    if lifted:
        _check_lifted(operator, rtol=rtol, seed=seed)


def check_products(operator: LinearOperator, *, rtol: float = 1e-9, seed: int = 0) -> None:
    """Shapes, dtypes, determinism, linearity, and ``yᵀ(Ax) = xᵀ(Aᵀy)``: needs a dozen products and no matrix."""
    who, (m, n), generator = type(operator).__name__, operator.shape, torch.Generator().manual_seed(seed)
    for verb, product, size_in, size_out in (
        ("matvec", operator.matvec, n, m),
        ("rmatvec", operator.rmatvec, m, n),
    ):
        u, v = (_draw(size_in, generator, operator) for _ in range(2))
        kept = u.clone()
        of_u, of_v = product(u), product(v)
        assert tuple(of_u.shape) == (size_out,), (
            f"{who}.{verb}: expected a result of shape ({size_out},), got {tuple(of_u.shape)}"
        )
        assert of_u.dtype == torch.float64, f"{who}.{verb}: expected float64, got {of_u.dtype}"
        assert torch.isfinite(of_u).all(), f"{who}.{verb}: a product with finite numbers holds NaN or inf"
        assert torch.equal(u, kept), f"{who}.{verb}: it changed its argument; it must return a new vector"
        _agree(product(u), of_u, 1e-12, f"{who}.{verb}: two products with the same vector differ")
        scale = of_u.norm() + of_v.norm()
        _agree(product(2 * u - 3 * v), 2 * of_u - 3 * of_v, rtol, f"{who}.{verb}: it is not linear", scale)
    x, y = _draw(n, generator, operator), _draw(m, generator, operator)
    ax, aty = operator.matvec(x), operator.rmatvec(y)
    scale = ax.norm() * y.norm() + aty.norm() * x.norm()
    _agree(y @ ax, x @ aty, rtol, f"{who}.rmatvec: it is not the transpose of matvec, yᵀ(Ax) ≠ xᵀ(Aᵀy)", scale)


def check_symmetric(operator: LinearOperator, *, rtol: float = 1e-9, seed: int = 0) -> None:
    """``uᵀ(Av) = vᵀ(Au)``, from `matvec` alone, and `rmatvec` equal to it."""
    who, (m, n), generator = type(operator).__name__, operator.shape, torch.Generator().manual_seed(seed)
    assert m == n, f"{who}: a symmetric operator must be square, got shape {operator.shape}"
    u, v = (_draw(n, generator, operator) for _ in range(2))
    au, av = operator.matvec(u), operator.matvec(v)
    scale = av.norm() * u.norm() + au.norm() * v.norm()
    _agree(u @ av, v @ au, rtol, f"{who}.matvec: it is not symmetric, uᵀ(Av) ≠ vᵀ(Au)", scale)
    _agree(operator.rmatvec(u), au, rtol, f"{who}.rmatvec: it must equal matvec for a symmetric operator")


def _check_forms(operator: LinearOperator, *, rtol: float, seed: int) -> None:
    """`matmat` and `to_dense` against `matvec`."""
    who, (m, n), generator = type(operator).__name__, operator.shape, torch.Generator().manual_seed(seed)
    columns = torch.stack([_draw(n, generator, operator) for _ in range(3)], 1)
    one_by_one = torch.stack([operator.matvec(column) for column in columns.T], 1)
    _agree(operator.matmat(columns), one_by_one, rtol, f"{who}.matmat: its columns differ from matvec's")
    none = operator.matmat(columns[:, :0])
    assert tuple(none.shape) == (m, 0), f"{who}.matmat: expected shape {(m, 0)} for no columns, got {tuple(none.shape)}"
    dense = operator.to_dense()
    assert tuple(dense.shape) == (m, n), f"{who}.to_dense: expected shape {(m, n)}, got {tuple(dense.shape)}"
    _agree(dense @ columns, one_by_one, rtol, f"{who}.to_dense: the matrix differs from matvec")
    if m * n:
        try:
            operator.to_dense(limit=m * n - 1)
        except ValueError:
            return
        raise AssertionError(f"{who}.to_dense: expected a ValueError when the matrix has more entries than limit")


def _check_lifted(operator: LinearOperator, *, rtol: float, seed: int) -> None:
    """Eliminating the auxiliary variables ``z = Vᵀx`` from the lifted form gives back A and its transpose."""
    who, (m, n), generator = type(operator).__name__, operator.shape, torch.Generator().manual_seed(seed)
    matrix, k = operator.lifted()
    assert matrix.shape == (m + k, n + k), (
        f"{who}.lifted: with {k} auxiliary variables expected shape {(m + k, n + k)}, got {matrix.shape}"
    )
    explicit = torch.from_numpy(matrix.toarray()).to(operator.device)
    _agree(
        explicit[m:, n:],
        -torch.eye(k, dtype=torch.float64, device=operator.device),
        rtol,
        f"{who}.lifted: the last rows must read Vᵀx − z = 0, so their last block must be −I",
    )
    x, y = _draw(n, generator, operator), _draw(m, generator, operator)
    z = explicit[m:, :n] @ x
    top = explicit[:m]
    _agree(
        top @ torch.cat([x, z]), operator.matvec(x), rtol, f"{who}.lifted: it does not give A x at (x, Vᵀx)", x.norm()
    )
    transposed = top[:, :n].T @ y + explicit[m:, :n].T @ (top[:, n:].T @ y)
    _agree(transposed, operator.rmatvec(y), rtol, f"{who}.lifted: it does not give Aᵀy", y.norm())


def _draw(size: int, generator: torch.Generator, operator: LinearOperator) -> Tensor:
    return torch.randn(size, dtype=torch.float64, generator=generator).to(operator.device)


def _agree(got: Tensor, wanted: Tensor, rtol: float, sentence: str, scale: Tensor | float = 0.0) -> None:
    off = float((got - wanted).norm())
    allowed = rtol * (float(scale) + float(wanted.norm())) + 1e-300
    assert off <= allowed, f"{sentence} (difference {off:.1e}, allowed {allowed:.1e})"
