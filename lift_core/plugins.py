"""Plug-ins: backends and problems of this package and of any other, found through entry points.

A package offers a plug-in in its ``pyproject.toml``; the built-in ones use the same two groups:

    [project.entry-points."lift.backends"]
    my_solver = "my_package.solver:MySolver"
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Literal, TypeVar, get_args

from lift_core.lp import LPBackend
from lift_core.problem import BilevelProblem

Kind = Literal["backends", "problems"]

T = TypeVar("T")

_DISTRIBUTIONS = {
    "sklearn": "scikit-learn",
    "google": "protobuf",
    "yaml": "pyyaml",
    "PIL": "pillow",
    "cuopt": "cuopt-cu12 --extra-index-url https://pypi.nvidia.com",
}
"""Packages whose import name is not all that pip needs to find them."""


@dataclass(frozen=True)
class Plugin:
    """An entry point, not imported yet.

    Attributes:
        kind: ``"backends"`` or ``"problems"``.
        name: what the command line calls it.
        value: ``"module:attribute"``.
        distribution, version: the installed package that offers it.
    """

    kind: Kind
    name: str
    value: str
    distribution: str
    version: str


def list_plugins(kind: Kind) -> list[Plugin]:
    """Every installed plug-in of a kind, sorted by name; imports none of them.

    >>> [plugin.name for plugin in list_plugins("backends") if plugin.name == "highs"]
    ['highs']

    Raises:
        ValueError: for an unknown kind.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"kind: expected one of {get_args(Kind)}, got {kind!r}")
    found = (
        Plugin(
            kind,
            entry.name,
            entry.value,
            entry.dist.name if entry.dist else "",
            entry.dist.version if entry.dist else "",
        )
        for entry in entry_points(group=f"lift.{kind}")
    )
    return sorted(found, key=lambda plugin: (plugin.name, plugin.distribution))


def load_backend(name: str, **options: object) -> LPBackend:
    """The backend called ``name`` (or at ``"MODULE:NAME"``), made with ``options``.

    >>> load_backend("highs", rtol=1e-4).rtol
    0.0001

    Raises:
        ValueError: unknown name, unknown option, or an option's value that the backend refuses.
        ImportError: a package is missing; the message has the command that installs it.
        TypeError: the plug-in is not an `LPBackend`.
    """
    return _make("backends", name, LPBackend, options)


def load_problem(name: str, **options: object) -> BilevelProblem:
    """The problem called ``name`` (or at ``"MODULE:NAME"``), made with ``options``.

    >>> load_problem("quadratic", num_hyper=2).hyper_names
    ('strength.group0', 'strength.group1')

    Raises:
        ValueError: unknown name, unknown option, or an option's value that the problem refuses.
        ImportError: a package is missing; the message has the command that installs it.
        TypeError: the plug-in is not a `BilevelProblem`.
    """
    return _make("problems", name, BilevelProblem, options)


def load(spec: str) -> object:
    """The object at ``"MODULE:NAME"``, whether or not it is registered.

    Raises:
        ValueError: the spec has another form, or the module has no such name.
        ImportError: the module, or a package that it needs, is missing.
    """
    module_name, colon, attribute = spec.partition(":")
    if not (colon and module_name and attribute):
        raise ValueError(f"{spec!r}: expected MODULE:NAME, such as my_package.solver:MySolver")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        raise _missing_package(spec, module_name, error) from error
    found: object = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            known = [name for name in dir(module) if not name.startswith("_")]
            raise ValueError(f"{spec}: {module_name} has no {attribute!r}{_nearest(attribute, known)}")
        found = getattr(found, part)
    return found


def install_command(*packages: str) -> str:
    """What installs packages that are known by their import names.

    >>> install_command("sklearn", "highspy")
    'pip install scikit-learn highspy'
    """
    return " ".join(["pip install", *(_DISTRIBUTIONS.get(package, package) for package in packages)])


def _make(kind: Kind, name: str, wanted: type[T], options: dict[str, object]) -> T:
    value = name if ":" in name else _find(kind, name).value
    plugin = load(value)
    if not (inspect.isclass(plugin) and issubclass(plugin, wanted)):
        raise TypeError(f"{name}: expected a subclass of {wanted.__name__} at {value}, got {plugin!r}")
    _check_options(name, plugin, options)
    try:
        return plugin(**options)
    except ModuleNotFoundError as error:  # packages that are imported only when they are needed
        raise _missing_package(name, value.partition(":")[0], error) from error


def _find(kind: Kind, name: str) -> Plugin:
    plugins = list_plugins(kind)
    found = [plugin for plugin in plugins if plugin.name == name]
    if not found:
        names = [plugin.name for plugin in plugins]
        known = ", ".join(names) or "none; install this package, because plug-ins are found through its entry points"
        raise ValueError(f"{kind}: unknown name {name!r}{_nearest(name, names)} (known: {known})")
    if len(found) > 1:
        offers = ", ".join(f"{plugin.value} of {plugin.distribution}" for plugin in found)
        raise ValueError(f"{kind}: {name!r} is offered more than once, name one as MODULE:NAME: {offers}")
    return found[0]


def _check_options(name: str, plugin: type, options: dict[str, object]) -> None:
    parameters = inspect.signature(plugin).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    accepted = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_POSITIONAL]
    for option in options:
        if option not in accepted:
            known = ", ".join(accepted) or "none"
            raise ValueError(f"{name}: unknown option {option!r}{_nearest(option, accepted)} (it accepts: {known})")
    needed = [p.name for p in parameters if p.default is p.empty and p.name in accepted and p.name not in options]
    if needed:
        raise ValueError(f"{name}: missing option {needed[0]!r}, which has no default")


def _missing_package(who: str, module_name: str, error: ModuleNotFoundError) -> ImportError:
    missing = error.name or str(error)
    if f"{module_name}.".startswith(f"{missing}."):
        return ImportError(f"{who}: there is no module {missing!r}; is its package installed, and the name right?")
    package = missing.partition(".")[0]
    command = install_command(package)
    return ImportError(f"{who}: it needs the package {package!r}, which is not installed: {command}", name=missing)


def _nearest(name: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean {matches[0]!r}?" if matches else ""
