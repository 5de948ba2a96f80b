"""The built-in small problems: closed forms against autodiff, exact answers against finite differences."""

import subprocess
import sys
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor

from lift_core import BilevelProblem, Point, Split
from lift_core.plugins import list_plugins
from problems import DataCleaning, Network, Quadratic, Regression
from problems.exact import implicit_hypergradient, lower_hessian, newton_solution
from problems.sklearn_data import digits, random_splits, standardize

PROBLEMS: dict[str, Callable[[], BilevelProblem]] = {
    "quadratic": Quadratic,
    "quadratic, raw strength, λ in F": lambda: Quadratic(strength="raw", hyper_cost=True, seed=3),
    "quadratic, ill-conditioned": lambda: Quadratic(num_weights=12, num_hyper=5, condition=1e6),
    "quadratic, indefinite": lambda: Quadratic(indefinite=True),
    "quadratic, no hyperparameters": lambda: Quadratic(num_hyper=0),
    "ridge": Regression,
    "ridge per group": lambda: Regression(per="group", num_noise_features=2),
    "logistic": lambda: Regression(task="logistic"),
    "logistic per group": lambda: Regression(task="logistic", per="group"),
    "data cleaning": lambda: DataCleaning(num_train=40),
    "network": lambda: Network(num_train=50),
    "network per layer": lambda: Network(per="layer", num_hidden=3, num_train=50),
}
GAUSS_NEWTON = [name for name in PROBLEMS if "indefinite" not in name]


@pytest.fixture(params=PROBLEMS)
def problem(request: pytest.FixtureRequest) -> BilevelProblem:
    return PROBLEMS[request.param]()


def somewhere(problem: BilevelProblem) -> Point:
    """Not a stationary point of anything, λ inside its bounds."""
    generator = torch.Generator().manual_seed(1)
    start = problem.initial_point()
    hyper = start.hyper + 0.3 * torch.rand(len(start.hyper), generator=generator)
    return Point(hyper, start.weights + 0.1 * torch.randn(len(start.weights), generator=generator))


def close(got: Tensor, wanted: Tensor, rtol: float = 1e-9) -> bool:
    return float((got - wanted).norm()) <= rtol * (1e-3 + float(wanted.norm()))


def test_upper_gradient_equals_autodiff(problem: BilevelProblem) -> None:
    point = somewhere(problem)
    for split in get_args(Split):
        for got, wanted in zip(
            problem.upper_gradient(point, split), BilevelProblem.upper_gradient(problem, point, split), strict=True
        ):
            assert close(got, wanted)


def test_training_gradient_equals_autodiff(problem: BilevelProblem) -> None:
    point = somewhere(problem)
    for batches in (None, problem.batches("train")[:1]):
        wanted = BilevelProblem.training_gradient(problem, point, batches)
        assert close(problem.training_gradient(point, batches), wanted)


def test_hessian_equals_autodiff(problem: BilevelProblem) -> None:
    point, batches = somewhere(problem), problem.batches("train")[-1:]
    for chosen in (None, batches):
        wanted = BilevelProblem.training_hessian(problem, point, chosen).to_dense()
        assert close(problem.training_hessian(point, chosen).to_dense(), wanted)


def test_mixed_equals_autodiff(problem: BilevelProblem) -> None:
    point = somewhere(problem)

    def gradient(hyper: Tensor) -> Tensor:
        return problem.lower_gradient(Point(hyper, point.weights))

    steps = 1e-5 * torch.eye(len(point.hyper), dtype=torch.float64)
    columns = [(gradient(point.hyper + e) - gradient(point.hyper - e)) / 2e-5 for e in steps]
    wanted = torch.stack(columns, 1) if columns else torch.zeros(len(point.weights), 0)
    assert close(problem.mixed(point).to_dense(), wanted, rtol=1e-6)
    if problem.hyper_in_training:
        by_autodiff = BilevelProblem.training_mixed(problem, point).to_dense()
        assert close(problem.training_mixed(point).to_dense(), by_autodiff)


@pytest.mark.parametrize("name", GAUSS_NEWTON)
def test_gauss_newton_equals_autodiff_and_is_positive_semi_definite(name: str) -> None:
    problem = PROBLEMS[name]()
    point = somewhere(problem)
    matrix = problem.training_gauss_newton(point).to_dense()
    assert close(matrix, BilevelProblem.training_gauss_newton(problem, point).to_dense())
    assert float(torch.linalg.eigvalsh(matrix).min()) > -1e-10
    if not isinstance(problem, Network):  # linear outputs: nothing is left out
        assert close(matrix, problem.training_hessian(point).to_dense())


@pytest.mark.parametrize("num_weights", [5, 6])
def test_indefinite_quadratic_has_both_signs_and_no_gauss_newton(num_weights: int) -> None:
    problem = Quadratic(indefinite=True, num_weights=num_weights)
    assert problem.lower_gradient(problem.initial_point()).norm() < 1e-12, "it does not solve the lower level"
    eigenvalues = torch.linalg.eigvalsh(problem.training_hessian(problem.initial_point()).to_dense())
    assert eigenvalues.min() < 0 < eigenvalues.max()
    with pytest.raises(TypeError, match="not convex"):
        problem.training_gauss_newton(problem.initial_point())


@pytest.mark.parametrize(
    "problem",
    [Quadratic(strength="raw", hyper_cost=True), Regression(), Regression(task="logistic", per="group")],
    ids=["quadratic", "ridge", "logistic"],
)
def test_implicit_hypergradient_is_the_slope_of_the_loss_along_lower_solutions(
    problem: Quadratic | Regression,
) -> None:
    hyper = problem.initial_point().hyper + 0.2

    def reduced(hyper: Tensor) -> float:
        return problem.loss(Point(hyper, problem.lower_solution(hyper)), "direction")

    point = Point(hyper, problem.lower_solution(hyper))
    assert problem.lower_gradient(point).norm() < 1e-10
    steps = 1e-4 * torch.eye(len(hyper), dtype=torch.float64)
    wanted = torch.tensor([(reduced(hyper + e) - reduced(hyper - e)) / 2e-4 for e in steps], dtype=torch.float64)
    assert close(problem.implicit_hypergradient(point), wanted, rtol=1e-5)
    assert close(implicit_hypergradient(problem, point), wanted, rtol=1e-5)


def test_ridge_solution_is_the_textbook_one() -> None:
    problem = Regression()
    inputs, targets = problem.batches("train")[0]
    hyper = torch.linspace(-6, 1, 10).double()
    strengths = torch.cat([hyper.exp(), torch.zeros(1).double()])
    wanted = torch.linalg.solve(
        inputs.T @ inputs + len(inputs) * torch.diag(strengths), inputs.T @ targets
    )  # the mean loss divides by N, so the textbook's strength is N times ours
    assert close(problem.lower_solution(hyper), wanted)


def test_newton_reports_a_solution_it_does_not_reach() -> None:
    problem = Regression(task="logistic")
    start = somewhere(problem)
    with pytest.raises(ArithmeticError, match="after 1 Newton steps"):
        newton_solution(problem, start, max_iterations=1)


def test_lower_hessian_contains_the_regularizer() -> None:
    problem = Quadratic(num_weights=4, num_hyper=2)
    point = somewhere(problem)
    assert close(lower_hessian(problem, point) - problem.Q, torch.diag(point.hyper.exp().repeat_interleave(2)))


def test_one_seed_gives_one_problem(problem: BilevelProblem) -> None:
    assert problem.describe() == type(problem).describe(problem)
    first, second = (Network(num_train=30, seed=seed) for seed in (0, 0))
    assert torch.equal(first.initial_point().weights, second.initial_point().weights)
    assert torch.equal(first.batches("test")[0][0], second.batches("test")[0][0])


@pytest.mark.parametrize("kind", [Quadratic, Regression, DataCleaning, Network])
def test_another_seed_gives_another_problem(kind: Callable[..., BilevelProblem]) -> None:
    first, second = kind(seed=0), kind(seed=1)
    assert not torch.equal(first.batches("train")[0][0], second.batches("train")[0][0])
    assert first.describe() != second.describe()


def test_splits_share_no_sample() -> None:
    splits = random_splits(100, {"train": 40, "direction": 20, "selection": 20}, seed=0)
    assert sorted(torch.cat(list(splits.values())).tolist()) == list(range(100))
    images = torch.cat([Network(num_train=60).batches(split)[0][0] for split in get_args(Split)])
    wanted = digits().inputs
    assert torch.equal(images.sum(1).sort().values, wanted.sum(1).sort().values)


def test_standardisation_looks_at_training_samples_only() -> None:
    values = torch.tensor([[0.0, 7.0], [2.0, 7.0], [100.0, 8.0]]).double()
    standardised = standardize(values, torch.tensor([0, 1]))
    assert standardised.tolist() == [[-1.0, 0.0], [1.0, 0.0], [99.0, 1.0]]


def test_data_cleaning_corrupts_only_training_labels_and_half_of_them() -> None:
    dirty, clean = DataCleaning(), DataCleaning(corrupted_share=0.0)
    assert [dirty.num_examples(split) for split in get_args(Split)] == [500, 200, 200, 897]
    assert dirty.corrupted.sum() == 250 and clean.corrupted.sum() == 0
    changed = dirty.batches("train")[0][1] != clean.batches("train")[0][1]
    assert not (changed & ~dirty.corrupted).any()
    assert 200 < changed.sum() <= 250  # a random label is right one time in ten
    for split in ("direction", "selection", "test"):
        assert torch.equal(dirty.batches(split)[0][1], clean.batches(split)[0][1])


def test_clean_samples_weigh_one_where_data_cleaning_trains_on_them() -> None:
    problem = DataCleaning(num_train=40)
    generator = torch.Generator().manual_seed(0)
    hyper, weights = (torch.randn(size, generator=generator).double() for size in (40, 650))
    for split in ("direction", "selection"):
        training = problem.training_gradient(Point(hyper, weights), problem.batches(split))
        plain = problem.upper_gradient(Point(hyper, weights), split)[1]
        torch.testing.assert_close(training, plain + problem.ridge * weights, rtol=1e-12, atol=1e-14)


def test_hypergradient_of_data_cleaning_tells_wrong_labels_from_right_ones() -> None:
    problem = DataCleaning(num_train=200, ridge=1e-2)
    start = problem.initial_point()
    point = Point(start.hyper, newton_solution(problem, start))
    h = implicit_hypergradient(problem, point)
    assert h[problem.corrupted].mean() > 0 > h[~problem.corrupted].mean()


def test_network_has_610_weights() -> None:
    problem = Network()
    assert len(problem.initial_point().weights) == 610
    assert list(problem.groups) == ["hidden.weight", "hidden.bias", "output.weight", "output.bias"]


BAD_OPTIONS: list[tuple[Callable[..., BilevelProblem], dict[str, object], str]] = [
    (Quadratic, {"num_weights": 0}, "num_hyper"),
    (Quadratic, {"num_hyper": 7}, "num_hyper"),
    (Quadratic, {"condition": 0.5}, "condition"),
    (Quadratic, {"strength": "loud"}, "strength"),
    (Regression, {"task": "lasso"}, "task"),
    (Regression, {"per": "row"}, "per"),
    (Regression, {"start": "warm"}, "start"),
    (Regression, {"num_noise_features": -1}, "num_noise_features"),
    (Regression, {"initial_strength": 0.0}, "initial_strength"),
    (Regression, {"train_share": 1.0}, "train_share"),
    (Regression, {"train_share": 0.999}, "sizes"),
    (DataCleaning, {"corrupted_share": 1.5}, "corrupted_share"),
    (DataCleaning, {"ridge": -1.0}, "ridge"),
    (DataCleaning, {"num_train": 0}, "sizes"),
    (DataCleaning, {"num_validation": 1}, "sizes"),
    (DataCleaning, {"num_train": 1500}, "sizes"),
    (Network, {"num_hidden": 0}, "num_hidden"),
    (Network, {"per": "block"}, "per"),
    (Network, {"initial_strength": -1.0}, "initial_strength"),
    (Network, {"num_train": 5000}, "sizes"),
]


@pytest.mark.parametrize(("kind", "options", "argument"), BAD_OPTIONS)
def test_bad_options_are_named(kind: Callable[..., BilevelProblem], options: dict[str, object], argument: str) -> None:
    with pytest.raises(ValueError, match=f"^{argument}: "):
        kind(**options)


def test_names_equal_the_entry_points() -> None:
    found = {plugin.value: plugin.name for plugin in list_plugins("problems")}
    for kind in (Quadratic, Regression, DataCleaning, Network):
        assert found[f"{kind.__module__}:{kind.__name__}"] == kind.name


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, problems; print([name for name in ('transformers', 'sklearn') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_problem_is_named() -> None:
    import problems

    with pytest.raises(AttributeError, match=r"'Quadratics'.*Quadratic"):
        problems.Quadratics  # noqa: B018
