"""The contract of a bilevel problem."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import get_args

import torch
from torch import Tensor

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
    linear and symmetric, the Gauss-Newton matrix (if described) positive semi-definite.

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
    checks.gauss_newton()


def check_description(problem: BilevelProblem) -> None:
    """Names, bounds, groups, initial point."""
    who = type(problem).__name__
    assert isinstance(problem, BilevelProblem), f"{who}: expected a subclass of lift_core.BilevelProblem"
    for attribute in ("name", "hyper_names", "hyper_lower", "hyper_upper", "groups"):
        assert hasattr(problem, attribute), f"{who}.{attribute}: missing; see lift_core.BilevelProblem"
    point, again = problem.initial_point(), problem.initial_point()
    p, n = len(point.hyper), len(point.weights)
    assert n > 0, f"{who}.initial_point: expected at least one weight"
    assert torch.isfinite(torch.cat([point.hyper, point.weights])).all(), f"{who}.initial_point: NaN or inf in λ or θ"
    assert torch.equal(point.hyper, again.hyper) and torch.equal(point.weights, again.weights), (
        f"{who}.initial_point: two calls differ; draw random numbers once, from a seed"
    )
    _check_names(problem, p)
    for name, bound in (("hyper_lower", problem.hyper_lower), ("hyper_upper", problem.hyper_upper)):
        assert isinstance(bound, Tensor), f"{who}.{name}: expected a tensor, got {type(bound).__name__}"
        assert bound.dtype == torch.float64 and tuple(bound.shape) == (p,), (
            f"{who}.{name}: expected float64 of shape ({p},), got {bound.dtype} of shape {tuple(bound.shape)}"
        )
        assert not bound.isnan().any(), f"{who}.{name}: NaN; use -inf or inf where there is no bound"
    inside = (problem.hyper_lower <= point.hyper) & (point.hyper <= problem.hyper_upper)
    assert inside.all(), (
        f"{who}.initial_point: λ[{int((~inside).nonzero()[0]) if not inside.all() else 0}] lies outside its bounds"
    )
    _check_groups(problem, n)
    assert isinstance(problem.describe(), str), f"{who}.describe: expected a string"
    assert isinstance(problem.metric(1.0), float), f"{who}.metric: expected a float for the loss 1.0"
    if problem.regularizer is not None:
        got = (len(problem.regularizer.group_of), problem.regularizer.num_hyper)
        assert got == (n, p), f"{who}.regularizer: expected {n} weights and {p} hyperparameters, got {got}"
        try:
            problem.regularizer.require_finite_strengths(problem.hyper_upper)
        except ValueError as error:
            raise AssertionError(f"{who}.{error}") from error


def _check_names(problem: BilevelProblem, p: int) -> None:
    who, names = type(problem).__name__, problem.hyper_names
    assert isinstance(problem.name, str) and problem.name, f"{who}.name: expected a string, got {problem.name!r}"
    assert len(names) == p, f"{who}.hyper_names: expected one name for each of {p} hyperparameters, got {len(names)}"
    assert len(set(names)) == p, f"{who}.hyper_names: names must differ from each other"
    try:
        json.dumps({"name": problem.name, "hyper_names": list(names), "groups": list(problem.groups)})
    except TypeError as error:
        raise AssertionError(f"{who}: name, hyper_names and the keys of groups must be strings ({error})") from error
    assert all(isinstance(name, str) for name in (*names, *problem.groups)), (
        f"{who}: hyper_names and the keys of groups must be strings"
    )


def _check_groups(problem: BilevelProblem, n: int) -> None:
    """Together the slices cover every weight exactly once."""
    who, times = type(problem).__name__, torch.zeros(n)
    for name, part in problem.groups.items():
        assert isinstance(part, slice), f"{who}.groups[{name!r}]: expected a slice, got {type(part).__name__}"
        run = part.step in (None, 1) and part.start is not None and part.stop is not None
        assert run and 0 <= (part.start or 0) < (part.stop or 0) <= n, (
            f"{who}.groups[{name!r}]: expected slice(start, stop) with 0 <= start < stop <= {n}, got {part}"
        )
        times[part] += 1
    assert (times == 1).all(), (
        f"{who}.groups: every weight must be in exactly one group; weight {int((times != 1).nonzero()[0])} is in "
        f"{int(times[times != 1][0])}"
        if (times != 1).any()
        else ""
    )


def check_data(problem: BilevelProblem) -> None:
    """Four splits that are not empty, whose batches have sizes, and scalar losses that two passes agree on."""
    point = problem.initial_point()
    for split in get_args(Split):
        who, batches = f"{type(problem).__name__}.batches({split!r})", problem.batches(split)
        assert isinstance(batches, Sequence), f"{who}: expected a list of batches, got {type(batches).__name__}"
        first, second = _losses(problem, point, split), _losses(problem, point, split)
        assert len(first) > 0, f"{who}: the split is empty; every split needs at least one batch"
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
        try:
            size = problem.batch_size(batch)
        except (TypeError, KeyError, IndexError) as error:
            raise AssertionError(
                f"{who}.batch_size: {type(error).__name__} ({error}); by default it is len(batch[0]), override it for "
                "batches of another form"
            ) from error
        assert isinstance(size, int) and size > 0, f"{who}.batch_size: expected a positive int, got {size!r}"
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


def nearby(problem: BilevelProblem, generator: torch.Generator) -> Point:
    """The initial point with weights moved by a hundredth: off stationary points, where zero gradients hide errors."""
    start = problem.initial_point()
    noise = torch.randn(len(start.weights), dtype=torch.float64, generator=generator).to(start.weights.device)
    scale = float(start.weights.square().mean().sqrt()) or 1.0
    return Point(start.hyper, start.weights + 1e-2 * scale * noise)
