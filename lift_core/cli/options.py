"""Reading ``key=value`` pairs and lists from the command line, and checking them against what a class takes."""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lift_core.lp import LPBackend
from lift_core.plugins import Kind, list_plugins, load, load_backend, load_problem
from lift_core.problem import BilevelProblem

_BEYOND = 2**63
"""The first whole number that PyTorch does not take."""
MAX_SEED = 2**32 - 1
"""What NumPy takes, too, with room for the sums that runs make with it."""
_LITERALS = {"True": True, "False": False, "None": None}


def parse_value(text: str) -> Any:
    """A JSON literal (number, true, false, null, list, quoted string), or else the text itself.

    >>> [parse_value(text) for text in ("3", "1e-3", "true", "[1, 2]", "gpt2")]
    [3, 0.001, True, [1, 2], 'gpt2']
    """
    if text in _LITERALS:
        return _LITERALS[text]
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def parse_pairs(flag: str, pairs: Iterable[str]) -> dict[str, Any]:
    """``["rank=64", ...]`` as a dictionary.

    Raises:
        ValueError: where a pair has no ``=`` or no key.
    """
    parsed: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise ValueError(f"{flag}: expected KEY=VALUE, got {pair!r}")
        parsed[key.strip().replace("-", "_")] = parse_value(value.strip())
    return parsed


def parse_numbers(flag: str, text: str) -> tuple[float, ...]:
    """``"0,1e-3"`` as numbers.

    Raises:
        ValueError: where a part is no number.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{flag}: expected one or more numbers separated by commas, got {text!r}") from None


def check_options(flag: str, target: Callable[..., object], options: Mapping[str, Any]) -> None:
    """Refuse options that ``target`` (a class) does not take, or whose type it cannot mean.

    Raises:
        ValueError: naming the flag, the option, what came and what is wanted.
    """
    hints, takes_others = _accepted(target)
    for name, value in options.items():
        if name not in hints and takes_others:
            continue
        if name not in hints:
            known = ", ".join(hints) or "none at all"
            raise ValueError(f"{flag} {name}={value}: {target.__name__} has no such option; it has {known}")
        if not _fits(value, hints[name]):
            is_huge = isinstance(value, int) and abs(value) >= _BEYOND
            wanted = "a whole number of at most 64 bits" if is_huge else _sentence(hints[name])
            raise ValueError(f"{flag} {name}={value}: {target.__name__} wants {wanted}, got {value!r}")


def _accepted(target: Callable[..., object]) -> tuple[dict[str, Any], bool]:
    """Names and types of what a callable takes, and whether it takes others; ``**options`` go on to the base class."""
    found: dict[str, Any] = {}
    for spoken in _constructors(target):
        hints = get_type_hints(spoken)
        parameters = inspect.signature(spoken).parameters.values()
        for parameter in parameters:
            if parameter.name != "self" and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                found.setdefault(parameter.name, hints.get(parameter.name, Any))
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return found, False
    return found, True


def _constructors(target: Callable[..., object]) -> list[Callable[..., object]]:
    """The callable itself, or the constructors of a class and of its bases.

    A class's own annotations are read where each base was written, those of a generated __init__ are not.
    """
    if not isinstance(target, type) or is_dataclass(target):
        return [target]
    return [vars(base)["__init__"] for base in target.__mro__[:-1] if "__init__" in vars(base)]


def _fits(value: object, hint: Any) -> bool:
    """Whether a JSON value can mean ``hint``; hints that JSON cannot express are left to the class."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if get_origin(hint) in (Sequence, list):
        return isinstance(value, list) and all(_fits(part, *get_args(hint)) for part in value)
    if get_origin(hint) is tuple and ... not in get_args(hint):
        parts = get_args(hint)
        return isinstance(value, list) and len(value) == len(parts) and all(map(_fits, value, parts))
    if get_origin(hint) is Mapping:
        _, wanted = get_args(hint)
        return isinstance(value, dict) and all(_fits(part, wanted) for part in value.values())
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _BEYOND
    if hint in (bool, str):
        return isinstance(value, hint)
    return value is None if hint is types.NoneType else True


def _sentence(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_sentence(part) for part in get_args(hint))
    if get_origin(hint) in (Sequence, list):
        return f"a list in brackets, each of it {_sentence(*get_args(hint))}"
    if get_origin(hint) is tuple and ... not in get_args(hint):
        return f"a list of {len(get_args(hint))} in brackets: " + ", ".join(map(_sentence, get_args(hint)))
    if get_origin(hint) is Mapping:
        return f'an object {{"NAME": {_sentence(get_args(hint)[1])}, ...}}'
    names = {float: "a number", int: "a whole number", bool: "true or false", str: "a text", types.NoneType: "null"}
    return names.get(hint, str(hint))


def plugin_class(kind: Kind, name: str) -> type | None:
    """The class behind a plug-in's name or MODULE:NAME; None where there is none, which loading then explains."""
    values = [name] if ":" in name else [plugin.value for plugin in list_plugins(kind) if plugin.name == name]
    found = load(values[0]) if len(values) == 1 else None
    return found if isinstance(found, type) else None


def load_backend_with(flag: str, name: str, **options: Any) -> LPBackend:
    """`load_backend`, with messages about options that name the flag they came by."""
    _check_plugin_options(flag, "backends", name, options)
    return load_backend(name, **options)


def load_problem_with(flag: str, name: str, **options: Any) -> BilevelProblem:
    """`load_problem`, with messages about options that name the flag they came by."""
    _check_plugin_options(flag, "problems", name, options)
    return load_problem(name, **options)


def _check_plugin_options(flag: str, kind: Kind, name: str, options: Mapping[str, Any]) -> None:
    found = plugin_class(kind, name)
    if found is not None:
        check_options(flag, found, options)
