"""The contract of a bilevel problem."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import get_args

import torch
from torch import Tensor

from lift_core.description import require_batches, require_description
from lift_core.operators import LinearOperator
from lift_core.problem import BilevelProblem, Point, Split
from lift_core.testing.operators import check_products, check_symmetric

_STEPS = (1e-3, 1e-4, 1e-5, 1e-2, 1e-6)
"""Finite-difference steps, relative to 1 + ‖θ‖∞: a right derivative agrees at one of them in any precision."""


def check_problem(
    problem: BilevelProblem, *, point: Point | None = None, rtol: float = 1e-4, num_directions: int = 3, seed: int = 0
) -> None:
    """Check the description of a problem, then each derivative against finite differences of what it derives from.

    Splits, names, bounds and groups must be well formed; two passes over the data must agree; Hessian products must be
    linear and symmetric, the Gauss-Newton matrix (if described) positive semi-definite. Gradients of single examples
    are looked at where `sampled` is described, and the regulariser on some of the weights where there is one.

    Args:
        problem: a small instance; every loss is evaluated some dozens of times.
        point: where derivatives are checked; by default slightly off the initial point.
        rtol: relative agreement of derivatives; about 1e-2 for a problem that computes in float32.
        num_directions: random directions per derivative.
        seed: of the random directions.

    Raises:
        AssertionError: a sentence that says what is wrong and what is wanted.

    >>> from problems import Quadratic
    >>> check_problem(Quadratic())
    """
    generator = torch.Generator().manual_seed(seed)
    check_description(problem)
    check_data(problem)
    if point is None:
        point = nearby(problem, generator)
    checks = _DerivativeChecks(problem, point, rtol, num_directions, generator)
    checks.upper_gradient()
    checks.lower_gradient()
    checks.hessian()
    checks.mixed()
    checks.restricted()
    checks.gauss_newton()
    checks.fisher()


def check_description(problem: BilevelProblem) -> None:
    """Names, bounds, groups, initial point."""
    who = type(problem).__name__
    assert isinstance(problem, BilevelProblem), f"{who}: expected a subclass of lift_core.BilevelProblem"
    with _asserted():
        point = require_description(problem)
    again = problem.initial_point()
    assert torch.equal(point.hyper, again.hyper) and torch.equal(point.weights, again.weights), (
        f"{who}.initial_point: two calls differ; draw random numbers once, from a seed"
    )
    assert isinstance(problem.describe(), str), f"{who}.describe: expected a string"
    assert isinstance(problem.metric(1.0), float), f"{who}.metric: expected a float for the loss 1.0"


@contextmanager
def _asserted() -> Generator[None]:
    """What is refused with a `ValueError` breaks the contract."""
    try:
        yield
    except ValueError as error:
        raise AssertionError(str(error)) from error


def check_data(problem: BilevelProblem) -> None:
    """Four splits that are not empty, whose batches have sizes, and scalar losses that two passes agree on."""
    point = problem.initial_point()
    for split in get_args(Split):
        who = f"{type(problem).__name__}.batches({split!r})"
        with _asserted():
            require_batches(problem, split)
        first, second = _losses(problem, point, split), _losses(problem, point, split)
        assert len(first) == len(second) and torch.allclose(first, second, rtol=1e-6, atol=0), (
            f"{who}: two passes over the data differ; batches must come the same, in the same order, at every call, "
            "and dropout must be off"
        )
    who = type(problem).__name__
    value, again = problem.lower_loss(point), problem.lower_loss(point)
    assert abs(value - again) <= 1e-6 * (1 + abs(value)), f"{who}.lower_loss: two calls differ: {value}, {again}"


def _losses(problem: BilevelProblem, point: Point, split: Split) -> Tensor:
    """One upper and one training loss per batch, as float64."""
    who, values = type(problem).__name__, list[Tensor]()
    for batch in problem.batches(split):
        for name, function in (("upper_loss", problem.upper_loss), ("training_loss", problem.training_loss)):
            if name == "training_loss" and split != "train":
                continue
            with torch.no_grad():
                value = function(point.hyper, point.weights, batch)
            assert isinstance(value, Tensor), f"{who}.{name}: expected a tensor, got {type(value).__name__}"
            assert value.ndim == 0, f"{who}.{name}: expected one number, got shape {tuple(value.shape)}"
            assert torch.isfinite(value), (
                f"{who}.{name}: {value.item()} on a batch of {split!r}; expected a finite loss"
            )
            values.append(value.double().cpu())
    return torch.stack(values) if values else torch.zeros(0)


class _DerivativeChecks:
    """Each derivative at one point against central differences."""

    def __init__(
        self, problem: BilevelProblem, point: Point, rtol: float, num_directions: int, generator: torch.Generator
    ) -> None:
        self.problem, self.point, self.rtol = problem, point, rtol
        self.num_directions, self.generator, self.who = num_directions, generator, type(problem).__name__

    def upper_gradient(self) -> None:
        """``∇F`` in both arguments against the upper loss."""
        for split in ("direction", "selection"):
            by_hyper, by_weights = self.problem.upper_gradient(self.point, split)
            self._check_vector(f"upper_gradient(point, {split!r})[0]", by_hyper, self.point.hyper)
            self._check_vector(f"upper_gradient(point, {split!r})[1]", by_weights, self.point.weights)

            def loss(point: Point, split: Split = split) -> Tensor:
                return torch.tensor(self.problem.loss(point, split), dtype=torch.float64)

            self._check_slope("upper_gradient, θ part", by_weights, lambda t, v: loss(self._move(weights=t * v)))
            if len(by_hyper):
                self._check_slope("upper_gradient, λ part", by_hyper, lambda t, v: loss(self._move(hyper=t * v)))

    def lower_gradient(self) -> None:
        """``r = ∇_θ f`` against the lower loss; `training_gradient` adds up over batches."""
        gradient = self.problem.lower_gradient(self.point)
        self._check_vector("lower_gradient", gradient, self.point.weights)
        self._check_slope(
            "lower_gradient",
            gradient,
            lambda t, v: torch.tensor(self.problem.lower_loss(self._move(weights=t * v)), dtype=torch.float64),
        )
        batches = self.problem.batches("train")
        sizes = [self.problem.batch_size(batch) for batch in batches]
        parts = [self.problem.training_gradient(self.point, [batch]) for batch in batches]
        self._check_vector("training_gradient(point, batches)", parts[0], self.point.weights)
        mean = torch.stack([size * part for size, part in zip(sizes, parts, strict=True)]).sum(0) / sum(sizes)
        whole = self.problem.training_gradient(self.point)
        assert (mean - whole).norm() <= self.rtol * (1e-4 + whole.norm()), (
            f"{self.who}.training_gradient: the mean over batches, weighted by batch_size, differs from the whole"
        )

    def hessian(self) -> None:
        """``∇²_θθ``: linear, symmetric, and the derivative of the lower gradient."""
        hessian = self._check_square("training_hessian", self.problem.training_hessian(self.point))
        for _ in range(self.num_directions):
            v = self._draw(self.point.weights)
            product = hessian.matvec(v)
            if self.problem.regularizer is not None:
                product = product + self.problem.regularizer.hessian(self.point.hyper, self.point.weights).matvec(v)
            self._check_difference(
                "training_hessian: (H + ∇²R) v differs from the change of lower_gradient along v",
                product,
                lambda t, v=v: self.problem.lower_gradient(self._move(weights=t * v)),
            )

    def mixed(self) -> None:
        """``J = ∇²_θλ f``: n x p, and the derivative of the lower gradient along λ."""
        mixed, shape = self.problem.mixed(self.point), (len(self.point.weights), len(self.point.hyper))
        assert mixed.shape == shape, f"{self.who}.mixed: expected shape {shape}, got {mixed.shape}"
        self._named("mixed", lambda: check_products(mixed, rtol=self._product_rtol))
        for _ in range(self.num_directions if shape[1] else 0):
            v = self._draw(self.point.hyper)
            self._check_difference(
                "mixed: J v differs from the change of lower_gradient along v in λ",
                mixed.matvec(v),
                lambda t, v=v: self.problem.lower_gradient(self._move(hyper=t * v)),
            )

    def gauss_newton(self) -> None:
        """If outputs are described, they give the training loss, and the matrix is positive semi-definite."""
        batch = self.problem.batches("train")[0]
        try:
            outputs = self.problem.outputs(self.point.weights, batch)
        except TypeError:
            return
        value = float(self.problem.output_loss(self.point.hyper, outputs, batch).detach())
        wanted = float(self.problem.training_loss(self.point.hyper, self.point.weights, batch).detach())
        assert abs(value - wanted) <= self.rtol * (1 + abs(wanted)), (
            f"{self.who}.output_loss: at outputs(weights, batch) it must equal training_loss; "
            f"got {value}, wanted {wanted}"
        )
        operator = self._check_square("training_gauss_newton", self.problem.training_gauss_newton(self.point))
        for _ in range(self.num_directions):
            v = self._draw(self.point.weights)
            product = operator.matvec(v)
            assert float(v @ product) >= -self._product_rtol * float(v.norm() * product.norm()), (
                f"{self.who}.training_gauss_newton: vᵀGv = {float(v @ product):.1e} is negative; "
                "output_loss must be convex in the outputs"
            )

    def restricted(self) -> None:
        """The regulariser on half of the weights, as a selection of weights asks for it, is that part of the whole."""
        regularizer, (hyper, weights) = self.problem.regularizer, (self.point.hyper, self.point.weights)
        if regularizer is None:
            return
        half, v = torch.arange(0, len(weights), 2, device=weights.device), self._draw(hyper)
        who = f"{self.who}.regularizer.restricted"
        try:
            part = regularizer.restricted(half)
            pairs = {
                "gradient": (part.gradient(hyper, weights[half]), regularizer.gradient(hyper, weights)),
                "hessian": (part.hessian(hyper, weights[half]).diagonal, regularizer.hessian(hyper, weights).diagonal),
                "mixed": (part.mixed(hyper, weights[half]).matvec(v), regularizer.mixed(hyper, weights).matvec(v)),
            }
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise AssertionError(
                f"{who}: {type(error).__name__} ({error}); where φ has data of each weight, override it and take the "
                "data of the chosen weights along"
            ) from error
        for name, (got, whole) in pairs.items():
            assert got.shape == half.shape and torch.allclose(got, whole[half], rtol=self.rtol), (
                f"{who}: the {name} of the part differs from that part of the whole"
            )

    def fisher(self) -> None:
        """If targets can be drawn, a batch keeps its size, and gradients of single examples add up to its own."""
        batch = self.problem.batches("train")[0]
        try:
            drawn, again = (self.problem.sampled(self.point, batch, torch.Generator().manual_seed(0)) for _ in range(2))
        except TypeError:
            return
        count = self.problem.batch_size(batch)
        assert self.problem.batch_size(drawn) == count, (
            f"{self.who}.sampled: expected a batch of the same size, {count}, got {self.problem.batch_size(drawn)}"
        )
        first, second = _tensors(drawn), _tensors(again)
        assert len(first) == len(second) and all(torch.equal(*pair) for pair in zip(first, second, strict=True)), (
            f"{self.who}.sampled: two calls with one seed differ; draw from the generator that it is given"
        )
        rows, sizes = self.problem.example_gradients(self.point, drawn)
        whole = self.problem.training_gradient(self.point, [drawn])
        assert tuple(rows.shape) == (len(sizes), len(whole)) and sum(sizes) == count, (
            f"{self.who}.example_gradients: expected a row of {len(whole)} for each size, and sizes that add up to "
            f"batch_size, {count}; got shape {tuple(rows.shape)} and {len(sizes)} sizes that add up to {sum(sizes)}"
        )
        mean = torch.tensor(sizes, dtype=torch.float64, device=rows.device) @ rows.double() / count
        assert (mean - whole).norm() <= self.rtol * (1e-4 + whole.norm()), (
            f"{self.who}.example_gradients: their mean, weighted by the sizes, differs from training_gradient"
        )
        few, one = self.problem.example_gradients(self.point, drawn, limit=1)
        assert len(few) == len(one) == 1, f"{self.who}.example_gradients: expected one example with limit=1"

    @property
    def _product_rtol(self) -> float:
        return 1e-2 * self.rtol

    def _check_square(self, name: str, operator: LinearOperator) -> LinearOperator:
        n = len(self.point.weights)
        assert operator.shape == (n, n), f"{self.who}.{name}: expected shape {(n, n)}, got {operator.shape}"
        self._named(name, lambda: check_products(operator, rtol=self._product_rtol))
        self._named(name, lambda: check_symmetric(operator, rtol=self._product_rtol))
        return operator

    def _named(self, name: str, check: Callable[[], None]) -> None:
        try:
            check()
        except AssertionError as error:
            raise AssertionError(f"{self.who}.{name}: {error}") from error

    def _check_vector(self, name: str, vector: Tensor, like: Tensor) -> None:
        assert vector.shape == like.shape and vector.dtype == torch.float64, (
            f"{self.who}.{name}: expected float64 of shape {tuple(like.shape)}, "
            f"got {vector.dtype} of shape {tuple(vector.shape)}"
        )
        assert torch.isfinite(vector).all(), f"{self.who}.{name}: NaN or inf"

    def _check_slope(self, name: str, gradient: Tensor, value: Callable[[float, Tensor], Tensor]) -> None:
        """``gᵀv`` along mixtures of the gradient with random directions: alone these see little of a long gradient."""
        for _ in range(self.num_directions):
            v = self._draw(gradient)
            if gradient.norm() > 0:
                v = v / v.norm() + gradient / gradient.norm()
            self._check_difference(
                f"{name}: gᵀv differs from the change of the loss along v", gradient @ v, lambda t, v=v: value(t, v)
            )

    def _check_difference(self, sentence: str, wanted: Tensor, value: Callable[[float], Tensor]) -> None:
        """Central differences of ``value`` must agree with ``wanted`` at one step length."""
        best = torch.inf
        scale = 1 + float(self.point.weights.abs().max())
        for step in _STEPS:
            got = (value(step * scale) - value(-step * scale)) / (2 * step * scale)
            off = float((got - wanted).norm()) / (float(wanted.norm()) + float(got.norm()) + 1e-4)
            best = min(best, off)
            if best <= self.rtol:
                return
        raise AssertionError(f"{self.who}.{sentence} (relative difference {best:.1e}, allowed {self.rtol:.1e})")

    def _draw(self, like: Tensor) -> Tensor:
        v = torch.randn(len(like), dtype=torch.float64, generator=self.generator).to(like.device)
        return v / v.norm().clamp(min=1e-300)

    def _move(self, hyper: Tensor | float = 0.0, weights: Tensor | float = 0.0) -> Point:
        return Point(self.point.hyper + hyper, self.point.weights + weights)


def _tensors(batch: object) -> list[Tensor]:
    """The tensors of a batch, in order."""
    if isinstance(batch, Tensor):
        return [batch]
    parts = batch if isinstance(batch, (tuple, list)) else getattr(batch, "__dict__", batch)
    if isinstance(parts, Mapping):
        parts = list(parts.values())
    return [tensor for part in parts for tensor in _tensors(part)] if isinstance(parts, (tuple, list)) else []


def nearby(problem: BilevelProblem, generator: torch.Generator) -> Point:
    """The initial point with weights moved by a hundredth: off stationary points, where zero gradients hide errors."""
    start = problem.initial_point()
    noise = torch.randn(len(start.weights), dtype=torch.float64, generator=generator).to(start.weights.device)
    scale = float(start.weights.square().mean().sqrt()) or 1.0
    return Point(start.hyper, start.weights + 1e-2 * scale * noise)
