"""Any `torch.nn.Module` as a bilevel problem: its parameters are the weights, its penalty the hyperparameters."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from lift_core.operators import MatrixFree
from lift_core.problem import Batch, BilevelProblem, Point, Split
from lift_core.regularizers import Strength
from problems.parameter_oracles import BatchMean, Layout, Parameters, gauss_newton, hessian, mean_gradient, shares
from problems.penalty import Penalty, build_regularizer, hyper_range

SharedBy = Literal["tensor", "module", "all"]
"""What shares one strength: a tensor, the tensors of one module, or all of them."""


class ModuleProblem(BilevelProblem):
    """A network of your own, with one regularisation strength per tensor.

        F(θ) = mean of loss(module(inputs; θ), targets) over the direction (or selection, or test) data
        f(λ, θ) = the same over the training data + sum_j w(λ_j) R_j(θ_(j))

    The module is copied and put into evaluation mode: dropout is off, and batch normalisation keeps the statistics
    that it has. It computes in its own precision and on its own device. Attention runs unfused, as torch's fused
    kernels have no second derivative. Derivatives are those of autodiff, on graphs that are kept from one Hessian
    product to the next.

    >>> data = [(torch.ones(4, 2), torch.zeros(4, 1))]
    >>> splits = {split: data for split in get_args(Split)}
    >>> problem = ModuleProblem(nn.Linear(2, 1), splits, loss=nn.functional.mse_loss)
    >>> problem.hyper_names, len(problem.initial_point().weights)
    (('weight', 'bias'), 3)
    """

    name: ClassVar[str] = "module"
    columns_at_once: ClassVar[int] = 1  # vmap does not know every operation of every network

    def __init__(
        self,
        module: nn.Module,
        batches: Mapping[Any, Iterable[Sequence[Tensor]]],
        *,
        loss: Callable[[Any, Tensor], Tensor] = cross_entropy,
        trainable: str | Sequence[str] = "*",
        regularizer: Penalty = "l2",
        regularize_by: SharedBy = "tensor",
        strength: Strength = "log",
        initial_strength: float = 1e-4,
        strength_bounds: tuple[float, float] = (1e-8, 1e2),
        keep_graphs: int = 4 * 2**30,
    ) -> None:
        """Copy the module, and read the data once.

        Args:
            module: its parameters with ``requires_grad`` are the weights; the others stay as they are.
            batches: for each of the splits ``"train"``, ``"direction"``, ``"selection"`` and ``"test"`` batches
                ``(*inputs, targets)`` of tensors whose first axis counts examples; lists or a `DataLoader`. Numbers
                with a fraction take the module's precision.
            loss: of outputs and targets: the mean over the examples. Gauss-Newton curvature takes it to be convex in
                the outputs; Fisher curvature needs `torch.nn.functional.cross_entropy`.
            trainable: patterns of the names of those parameters that are tuned, such as ``"head.*"``.
            regularizer, regularize_by, strength: which penalty, what shares one λ, and whether λ is its logarithm.
            initial_strength, strength_bounds: w(λ) at the start, and its bounds.
            keep_graphs: bytes of differentiated batches that Hessian products may keep.

        Raises:
            ValueError: if an argument does not fit; see the message.
        """
        if set(batches) != set(get_args(Split)):
            raise ValueError(f"batches: expected the splits {get_args(Split)}, got {tuple(batches)}")
        if regularize_by not in get_args(SharedBy):
            raise ValueError(f"regularize_by: expected one of {get_args(SharedBy)}, got {regularize_by!r}")
        self.module = copy.deepcopy(module).eval()
        patterns = [trainable] if isinstance(trainable, str) else trainable
        names = [name for name in matching_parameters(self.module, patterns) if _is_free(self.module, name)]
        if not names:
            raise ValueError(f"trainable: no parameter that {trainable!r} matches has requires_grad")
        self.module.requires_grad_(False)
        self.loss_function, self.keep_graphs = loss, keep_graphs
        self._layout = _layout(self.module, names)
        self.groups = self._layout.groups
        self._start = torch.cat([self.module.get_parameter(name).detach().flatten().double() for name in names])
        shared = {name: _owner(name, regularize_by) for name in names}
        self.regularizer, self.hyper_names = build_regularizer(
            regularizer, shared, self.groups, strength=strength, start=self._start
        )
        like = self._start.new_empty(len(self.hyper_names))
        self._initial_hyper, self.hyper_lower, self.hyper_upper = hyper_range(
            initial_strength, strength_bounds, strength=strength, like=like
        )
        self._batches = {split: self._read(split, batches[split]) for split in get_args(Split)}

    def _read(self, split: Split, batches: Iterable[Sequence[Tensor]]) -> list[Batch]:
        """The batches where the module is, in its precision."""
        found: list[Batch] = []
        for batch in batches:
            if not isinstance(batch, (tuple, list)) or len(batch) < 2 or not all(isinstance(t, Tensor) for t in batch):
                raise ValueError(
                    f"batches: expected tuples of tensors (*inputs, targets) in {split!r}, got {type(batch).__name__}"
                )
            shapes = [tuple(part.shape) for part in batch]
            if len({shape[:1] for shape in shapes}) > 1 or not shapes[0] or not shapes[0][0]:
                raise ValueError(f"batches: expected tensors with one first axis in {split!r}, got shapes {shapes}")
            found.append(tuple(self._converted(part) for part in batch))
        if not found:
            raise ValueError(f"batches: expected at least one batch in {split!r}, got none")
        mean = self._loss(self.named_weights(self._start), found[0])
        if mean.ndim or not mean.is_floating_point():
            raise ValueError(f"loss: expected a mean, one number, got a tensor of shape {tuple(mean.shape)}")
        return found

    def _converted(self, part: Tensor) -> Tensor:
        part = part.detach().to(self._start.device)
        return part.to(self._layout.dtype) if part.is_floating_point() else part

    # -- what the problem describes -----------------------------------------------------------------------------

    def initial_point(self) -> Point:
        return Point(self._initial_hyper.clone(), self._start.clone())

    def batches(self, split: Split) -> Sequence[Batch]:
        return self._batches[split]

    def upper_loss(self, hyper: Tensor, weights: Tensor, batch: Batch) -> Float64[Tensor, ""]:
        return self._loss(self.named_weights(weights), batch).double()

    def outputs(self, weights: Tensor, batch: Batch) -> Tensor:
        """What the module returns."""
        return self._outputs(self.named_weights(weights), batch)

    def output_loss(self, hyper: Tensor, outputs: Tensor, batch: Batch) -> Float64[Tensor, ""]:
        return self.loss_function(outputs, batch[-1]).double()

    def sampled(self, point: Point, batch: Batch, generator: torch.Generator) -> Batch:
        """Classes drawn from the predicted probabilities."""
        if self.loss_function is not cross_entropy or batch[-1].is_floating_point():
            raise TypeError("loss: Fisher curvature needs torch.nn.functional.cross_entropy with classes as targets")
        with torch.no_grad():
            probabilities = self.outputs(point.weights, batch).movedim(1, -1).softmax(-1).cpu()
        drawn = torch.multinomial(probabilities.flatten(0, -2), 1, generator=generator).view(batch[-1].shape)
        return *batch[:-1], drawn.to(batch[-1].device)

    def named_weights(self, weights: Float64[Tensor, " n"]) -> dict[str, Tensor]:
        """The tuned parameters by name, in the module's shapes and precision."""
        return self._layout.tensors(weights)

    def module_at(self, point: Point) -> nn.Module:
        """A copy of the module, in evaluation mode, with the weights of a point."""
        found = copy.deepcopy(self.module)
        found.load_state_dict(self.named_weights(point.weights), strict=False)
        for name in self.groups:
            found.get_parameter(name).requires_grad_(True)
        return found

    def describe(self) -> str:
        content = hashlib.sha256()
        tensors = [*self.module.state_dict().values()]
        tensors += [part for split in get_args(Split) for batch in self._batches[split] for part in batch]
        for tensor in tensors:
            content.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            content.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        penalty = f"{type(self.regularizer).__name__} from {self._initial_hyper.tolist()}"
        return f"{super().describe()}, {penalty}, {_name_of(self.loss_function)}, content {content.hexdigest()[:16]}"

    # -- oracles: on the network's own tensors ------------------------------------------------------------------

    def upper_gradient(self, point: Point, split: Split = "direction") -> tuple[Tensor, Tensor]:
        return torch.zeros_like(point.hyper), self._gradient(point, self.batches(split))

    def training_gradient(self, point: Point, batches: Sequence[Batch] | None = None) -> Float64[Tensor, " n"]:
        return self._gradient(point, self.batches("train") if batches is None else batches)

    def training_hessian(self, point: Point, batches: Sequence[Batch] | None = None) -> MatrixFree:
        mean = self._batch_mean(self.batches("train") if batches is None else batches)
        return hessian(self._layout, point.weights, self._loss, mean, network=self.module, keep_bytes=self.keep_graphs)

    def training_gauss_newton(self, point: Point, batches: Sequence[Batch] | None = None) -> MatrixFree:
        mean = self._batch_mean(self.batches("train") if batches is None else batches)
        parts = self._outputs, self._output_curvature
        return gauss_newton(self._layout, point.weights, *parts, mean, network=self.module, keep_bytes=self.keep_graphs)

    def _output_curvature(self, outputs: Tensor, direction: Tensor, batch: Batch) -> Tensor:
        """Hessian of the loss in the outputs, times a direction."""
        outputs = outputs.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.loss_function(outputs, batch[-1]), outputs, create_graph=True)
        if not slope.requires_grad:  # a loss that is linear in its outputs
            return torch.zeros_like(direction)
        return torch.autograd.grad(slope, outputs, direction, materialize_grads=True)[0]

    def _gradient(self, point: Point, batches: Sequence[Batch]) -> Tensor:
        return mean_gradient(self._layout, point.weights, self._loss, self._batch_mean(batches))

    def _batch_mean(self, batches: Sequence[Batch]) -> BatchMean:
        return BatchMean(batches, shares([self.batch_size(batch) for batch in batches]))

    def _loss(self, named: Parameters, batch: Batch) -> Tensor:
        return self.loss_function(self._outputs(named, batch), batch[-1])

    def _outputs(self, named: Parameters, batch: Batch) -> Tensor:
        with _plain_attention():
            return functional_call(self.module, dict(named), tuple(batch[:-1]))


@contextmanager
def _plain_attention() -> Generator[None]:
    """Attention, and transformer layers of torch, out of operations that can be differentiated twice."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def matching_parameters(
    module: nn.Module, patterns: Sequence[str], prefixes: tuple[str, ...] | None = None, within: str = ""
) -> tuple[str, ...]:
    """Names of the parameters that some pattern matches, in the module's order; tied parameters appear once.

    Args:
        patterns: shell-style ones, such as ``"*.norm.*"``.
        prefixes: what the names have to start with.
        within: how the message calls these.

    Raises:
        ValueError: if a pattern matches nothing.

    >>> matching_parameters(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)), ["*.bias", "0.*"])
    ('0.weight', '0.bias', '1.bias')
    """
    names = {id(value): name for name, value in reversed(list(module.named_parameters(remove_duplicate=False)))}
    chosen: set[str] = set()
    for pattern in patterns:
        matches = {
            names[id(value)]
            for name, value in module.named_parameters(remove_duplicate=False)
            if fnmatchcase(name, pattern) and (prefixes is None or name.startswith(prefixes))
        }
        if not matches:
            some = ", ".join(list(names.values())[-8:])
            raise ValueError(f"trainable: {pattern!r} matches no parameter{within}; names look like {some}")
        chosen |= matches
    return tuple(name for name, _ in module.named_parameters() if name in chosen)


def _is_free(module: nn.Module, name: str) -> bool:
    return module.get_parameter(name).requires_grad


def _layout(module: nn.Module, names: Sequence[str]) -> Layout:
    values = [module.get_parameter(name) for name in names]
    kinds = {(value.dtype, value.device) for value in values}
    if len(kinds) > 1:
        found = sorted(f"{dtype} on {device}" for dtype, device in kinds)
        raise ValueError(f"module: expected tuned parameters of one precision on one device, got {', '.join(found)}")
    edges = torch.tensor([0, *(value.numel() for value in values)]).cumsum(0).tolist()
    groups = {name: slice(start, end) for name, start, end in zip(names, edges, edges[1:], strict=False)}
    return Layout(groups, {name: value.shape for name, value in zip(names, values, strict=True)}, values[0].dtype)


def _owner(name: str, by: SharedBy) -> str:
    """What a tensor shares its strength with.

    >>> _owner("0.bias", "module"), _owner("bias", "module")
    ('0', 'bias')
    """
    if by == "all":
        return "all"
    return name if by == "tensor" else name.rpartition(".")[0] or name


def _name_of(function: object) -> str:
    return getattr(function, "__qualname__", None) or type(function).__qualname__
