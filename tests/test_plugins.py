"""Discovery by entry points: what is found, what is imported, and what a user reads when something is missing."""

import importlib.metadata
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

from lift_core import plugins
from lift_core.plugins import Plugin, list_plugins, load, load_backend, load_problem
from problems import Quadratic

ROOT = Path(__file__).parent.parent


def offer(monkeypatch: pytest.MonkeyPatch, *found: tuple[str, str]) -> None:
    """Make these (name, value) pairs the only entry points."""

    def entry_points(*, group: str) -> list[importlib.metadata.EntryPoint]:
        return [importlib.metadata.EntryPoint(name, value, group) for name, value in found]

    monkeypatch.setattr(plugins, "entry_points", entry_points)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An importable module with a few ways to fail."""
    name = "some_plugin_module"
    (tmp_path / f"{name}.py").write_text(
        textwrap.dedent(
            """
            from dataclasses import dataclass
            from problems import Quadratic

            class Needy(Quadratic):
                def __init__(self, *, size):
                    import no_such_package.solver
            class Greedy(Quadratic):
                def __init__(self, **options):
                    super().__init__()
                    self.options = options
            number = 3
            """
        )
    )
    (tmp_path / "needy_module.py").write_text("import no_such_package\n")
    (tmp_path / "sklearn_module.py").write_text("raise ModuleNotFoundError(name='sklearn.linear_model')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


@pytest.mark.parametrize("kind", ["backends", "problems"])
def test_the_built_in_plugins_are_those_of_pyproject(kind: plugins.Kind) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][f"lift.{kind}"]
    found = {p.name: p for p in list_plugins(kind) if p.distribution == "lift-bilevel"}
    assert {name: plugin.value for name, plugin in found.items()} == declared
    assert all(plugin.kind == kind and plugin.version for plugin in found.values())


def test_listing_imports_no_plugin() -> None:
    code = (
        "import sys; from lift_core.plugins import list_plugins; list_plugins('backends'); list_plugins('problems'); "
        "print([name for name in ('backends', 'problems', 'highspy', 'pyomo', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_plugins_load_with_their_options() -> None:
    backend = load_backend("highs", rtol=1e-3)
    assert (backend.name, backend.rtol) == ("highs", 1e-3)
    problem = load_problem("quadratic", num_weights=8, num_hyper=2)
    assert isinstance(problem, Quadratic) and len(problem.initial_point().weights) == 8
    assert isinstance(load_problem("problems.quadratic:Quadratic", seed=1), Quadratic)
    assert load("problems:Quadratic") is Quadratic
    assert load("problems:Quadratic.name") == "quadratic"


def test_an_unknown_name_lists_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"backends: unknown name 'higs', did you mean 'highs'\?.*known: .*pdlp"):
        load_backend("higs")
    with pytest.raises(ValueError, match=r"problems: unknown name 'zzz' \(known: .*quadratic"):
        load_problem("zzz")


def test_without_entry_points_the_message_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch)
    assert list_plugins("backends") == []
    with pytest.raises(ValueError, match="known: none; install this package"):
        load_backend("highs")


def test_an_unknown_option_lists_the_accepted_ones_and_the_nearest() -> None:
    with pytest.raises(
        ValueError, match=r"highs: unknown option 'rtoll', did you mean 'rtol'\? .*accepts: .*time_limit"
    ):
        load_backend("highs", rtoll=1e-3)
    with pytest.raises(ValueError, match=r"quadratic: unknown option 'colour' \(it accepts: num_weights"):
        load_problem("quadratic", colour="red")


def test_a_refused_value_keeps_the_plugin_s_own_message() -> None:
    with pytest.raises(ValueError, match=r"^rtol: "):
        load_backend("highs", rtol=-1.0)


def test_a_required_option_is_named(module: str) -> None:
    with pytest.raises(ValueError, match="missing option 'size'"):
        load_problem(f"{module}:Needy")


def test_a_plugin_may_take_any_option(module: str) -> None:
    assert load_problem(f"{module}:Greedy", colour="red").options == {"colour": "red"}  # pyright: ignore


@pytest.mark.parametrize(
    ("value", "command"),
    [
        ("needy_module:Solver", "pip install no_such_package"),
        ("some_plugin_module:Needy", "pip install no_such_package"),
        ("sklearn_module:Solver", "pip install scikit-learn"),
    ],
)
def test_a_missing_package_is_reported_with_the_command(
    module: str, monkeypatch: pytest.MonkeyPatch, value: str, command: str
) -> None:
    offer(monkeypatch, ("needy", value))
    with pytest.raises(ImportError, match=f"needy.*not installed: {command}" if "Needy" in value else command):
        load_problem("needy", **({"size": 1} if "Needy" in value else {}))


def test_a_missing_module_is_not_mistaken_for_a_package(module: str) -> None:
    with pytest.raises(ImportError, match="there is no module 'no_such_module'"):
        load("no_such_module:Solver")
    with pytest.raises(ImportError, match=r"there is no module 'problems\.lost'"):
        load("problems.lost:Solver")


@pytest.mark.parametrize("spec", ["", "Quadratic", "problems:", ":Quadratic", "problems.Quadratic"])
def test_a_spec_of_another_form_is_refused(spec: str) -> None:
    with pytest.raises(ValueError, match="expected MODULE:NAME"):
        load(spec)


def test_a_missing_attribute_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"problems has no 'Quadratics', did you mean 'Quadratic'\?"):
        load("problems:Quadratics")


def test_what_is_no_plugin_is_a_type_error(module: str) -> None:
    for spec in (f"{module}:number", "problems:Quadratic", "pathlib:Path"):
        with pytest.raises(TypeError, match="expected a subclass of LPBackend"):
            load_backend(spec)


def test_one_name_of_two_packages_is_ambiguous(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, ("twice", "problems:Quadratic"), ("twice", "problems:Network"))
    with pytest.raises(ValueError, match=r"'twice' is offered more than once.*problems:Quadratic.*problems:Network"):
        load_problem("twice")
    assert list_plugins("problems") == [
        Plugin("problems", "twice", value, "", "") for value in ("problems:Quadratic", "problems:Network")
    ]


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match=r"^kind: .*'solvers'"):
        list_plugins("solvers")  # pyright: ignore[reportArgumentType]
