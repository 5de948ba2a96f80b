"""Any `torch.nn.Module` as a problem."""

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

import lift_core as lift
from backends import HiGHS
from lift_core.testing import check_curvature, check_problem
from problems import ModuleProblem

Data = dict[lift.Split, Any]


def data(
    num_inputs: int = 3, *, shape: tuple[int, ...] = (), classes: int = 3, dtype: torch.dtype = torch.float64
) -> Data:
    """Two batches of unlike size for each split."""
    generator = torch.Generator().manual_seed(0)

    def batch(size: int) -> tuple[Tensor, Tensor]:
        inputs = torch.randn(size, *shape, num_inputs, generator=generator, dtype=dtype)
        return inputs, torch.randint(classes, (size,), generator=generator)

    return {split: [batch(5), batch(2)] for split in get_args(lift.Split)}


def perceptron(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()


class Attention(nn.Module):
    """A transformer layer with dropout over four tokens, the mean of which is classified."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.TransformerEncoderLayer(
            4, 2, dim_feedforward=8, dropout=0.5, activation="gelu", batch_first=True
        )
        self.head = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.layer(inputs).mean(1))


class Scaled(nn.Module):
    """Two inputs, a buffer, a frozen layer, and batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.norm, self.head = nn.BatchNorm1d(3), nn.Linear(3, 1)

    def forward(self, inputs: Tensor, scale: Tensor) -> Tensor:
        return self.head(self.norm(self.frozen(inputs)) * scale)[:, 0]


def scaled(**options: Any) -> ModuleProblem:
    splits = {
        split: [(inputs, torch.ones(len(inputs), 1).double(), targets.double()) for inputs, targets in batches]
        for split, batches in data().items()
    }
    return ModuleProblem(Scaled().double(), splits, loss=mse_loss, **options)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ModuleProblem(perceptron(), data()),
        lambda: ModuleProblem(perceptron(), data(), regularizer="l2sp", regularize_by="module", strength="raw"),
        lambda: ModuleProblem(perceptron(), data(), keep_graphs=0, trainable=["0.*", "2.bias"]),
        lambda: ModuleProblem(Attention().double(), data(4, shape=(4,))),
        scaled,
    ],
)
def test_derivatives(make: Callable[[], ModuleProblem]) -> None:
    check_problem(make())


def test_derivatives_in_single_precision() -> None:
    check_problem(ModuleProblem(perceptron().float(), data()), rtol=1e-2)


@pytest.mark.parametrize("curvature", [lift.Exact(), lift.GaussNewton(), lift.Fisher(samples=5)])
def test_curvature_models(curvature: lift.CurvatureModel) -> None:
    check_curvature(curvature, ModuleProblem(perceptron(), data()))


def test_losses_are_those_of_the_module_in_evaluation_mode() -> None:
    module = Attention().double()  # in training mode, with dropout
    splits = data(4, shape=(4,))
    problem = ModuleProblem(module, splits)
    assert module.training and all(parameter.requires_grad for parameter in module.parameters())
    module.eval()
    with torch.no_grad():
        total = sum(len(targets) * cross_entropy(module(inputs), targets) for inputs, targets in splits["test"]) / 7
    assert problem.loss(problem.initial_point(), "test") == pytest.approx(float(total), rel=1e-12)


def test_only_chosen_free_parameters_are_weights() -> None:
    problem = scaled()
    assert list(problem.groups) == ["norm.weight", "norm.bias", "head.weight", "head.bias"]
    assert scaled(trainable="head.*", regularize_by="all").hyper_names == ("all",)
    assert scaled(regularize_by="module").hyper_names == ("norm", "head")


def test_found_weights_go_back_into_a_module() -> None:
    problem = ModuleProblem(perceptron().float(), data())
    search = lift.LocalSearch(backend=HiGHS(), curvature=lift.Exact(), slack=(0.1,), warmup_epochs=5)
    point = search.run(problem).point
    found = problem.module_at(point)
    assert isinstance(found, nn.Sequential) and all(p.requires_grad for p in found.parameters())
    inputs, targets = problem.batches("test")[0]
    expected = problem.upper_loss(point.hyper, point.weights, (inputs, targets))
    torch.testing.assert_close(cross_entropy(found(inputs), targets).double(), expected, rtol=0, atol=0)
    assert not torch.equal(found[0].weight, problem.module[0].weight)  # type: ignore[index]


def test_data_may_come_from_a_loader() -> None:
    splits = data()
    loaders = {
        split: DataLoader(TensorDataset(*(torch.cat(parts) for parts in zip(*batches, strict=True))), batch_size=5)
        for split, batches in splits.items()
    }
    one, other = ModuleProblem(perceptron(), splits), ModuleProblem(perceptron(), loaders)
    assert one.describe() == other.describe()
    assert one.loss(one.initial_point(), "train") == other.loss(other.initial_point(), "train")


def test_the_description_knows_data_weights_loss_and_penalty() -> None:
    module, splits = perceptron(), data()
    frozen = perceptron()
    frozen[0].requires_grad_(False)
    other = perceptron()
    other[0].requires_grad_(False)
    with torch.no_grad():
        other.get_parameter("0.bias").add_(1)
    problems = [
        ModuleProblem(module, splits),
        ModuleProblem(module, {**splits, "test": splits["train"]}),
        ModuleProblem(perceptron(1), splits),
        ModuleProblem(module, splits, loss=nn.functional.multi_margin_loss),
        ModuleProblem(module, splits, regularizer="l2sp"),
        ModuleProblem(module, splits, initial_strength=1e-3),
        ModuleProblem(frozen, splits),
        ModuleProblem(other, splits),
    ]
    assert len({problem.describe() for problem in problems}) == len(problems)
    assert ModuleProblem(perceptron(), data()).describe() == problems[0].describe()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batches": {"train": []}}, r"batches: expected the splits \('train', .*got \('train',\)"),
        ({"batches": data() | {"test": []}}, "batches: expected at least one batch in 'test', got none"),
        (
            {"batches": data() | {"test": [torch.ones(2)]}},
            "batches: expected tuples of tensors .* in 'test', got Tensor",
        ),
        ({"batches": data() | {"test": [(torch.ones(2, 3),)]}}, "batches: expected tuples of tensors"),
        (
            {"batches": data() | {"test": [(torch.ones(2, 3), torch.ones(3))]}},
            r"batches: expected tensors with one first axis in 'test', got shapes \[\(2, 3\), \(3,\)\]",
        ),
        (
            {"batches": data() | {"test": [(torch.ones(0, 3), torch.ones(0))]}},
            "batches: expected tensors with one first",
        ),
        (
            {"batches": data() | {"test": [(torch.ones(()), torch.ones(()))]}},
            "batches: expected tensors with one first",
        ),
        ({"loss": partial(cross_entropy, reduction="none")}, r"loss: expected a mean, one number, got .* \(5,\)"),
        ({"trainable": "nothing.*"}, "trainable: 'nothing.*' matches no parameter; names look like 2.bias, "),
        (
            {"module": perceptron().requires_grad_(False)},
            r"trainable: no parameter that '\*' matches has requires_grad",
        ),
        ({"regularizer": "elastic"}, "regularizer: expected one of"),
        ({"regularize_by": "layer"}, "regularize_by: expected one of .* got 'layer'"),
        ({"initial_strength": 0.0}, "initial_strength, strength_bounds: expected 0 < lower"),
        (
            {"module": nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3).double())},
            "module: expected tuned parameters of one precision on one device, got torch.float32 on cpu, torch.float64",
        ),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        given: dict[str, Any] = {"module": perceptron(), "batches": data(), **options}
        ModuleProblem(given.pop("module"), given.pop("batches"), **given)


def test_fisher_curvature_needs_classes() -> None:
    problem = scaled()
    with pytest.raises(TypeError, match="loss: Fisher curvature needs"):
        problem.sampled(problem.initial_point(), problem.batches("train")[0], torch.Generator())
