"""Reading ``key=value`` pairs and lists from the command line, and checking them against what a class takes."""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lift_core.lp import LPBackend
from lift_core.plugins import Kind, list_plugins, load, load_backend, load_problem
from lift_core.problem import BilevelProblem

MAX_SEED = 2**32 - 1
"""The largest seed that NumPy takes, too."""
MAX_THREADS = 1024
"""With many more, torch crashes."""
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
        if name not in hints and not takes_others:
            known = ", ".join(hints) or "none at all"
            raise ValueError(f"{flag} {name}={value}: {target.__name__} has no such option; it has {known}")
        hint = hints.get(name, Any)
        if not _fits(value, hint):
            is_huge = _is_huge(value) and {int, float} & {hint, *get_args(hint)}
            wanted = "a whole number of at most 64 bits" if is_huge else _sentence(hint)
            raise ValueError(f"{flag} {name}={value}: {target.__name__} wants {wanted}, got {value!r}")


def _accepted(target: Callable[..., object]) -> tuple[dict[str, Any], bool]:
    """Names and types of what a callable takes, and whether it takes others; those may go on to its base class."""
    found: dict[str, Any] = {}
    takes_others = list[bool]()
    for spoken in _constructors(target):
        try:
            hints = get_type_hints(spoken)
        except NameError:  # of what is imported for type checkers alone
            hints = {}
        parameters = inspect.signature(spoken).parameters.values()
        for parameter in parameters:
            if parameter.name != "self" and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                found.setdefault(parameter.name, hints.get(parameter.name, Any))
        takes_others.append(any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters))
        if not takes_others[-1]:
            break
    return found, takes_others[:1] == [True]


def _constructors(target: Callable[..., object]) -> list[Callable[..., object]]:
    """The callable itself, or the constructors of a class and of its bases.

    A class's own annotations are read where each base was written, those of a generated __init__ are not.
    """
    if not isinstance(target, type) or is_dataclass(target):
        return [target]
    return [vars(base)["__init__"] for base in target.__mro__[:-1] if "__init__" in vars(base)]


def _fits(value: object, hint: Any) -> bool:
    """Whether a JSON value can mean ``hint``; hints that JSON cannot express are left to the class."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind is Literal:
        return value in parts
    if kind in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if (kind in (Sequence, list) and parts) or (kind is tuple and ... in parts):
        return isinstance(value, list) and all(_fits(entry, parts[0]) for entry in value)
    if kind is tuple and parts and ... not in parts:
        return isinstance(value, list) and len(value) == len(parts) and all(map(_fits, value, parts))
    if kind in (Mapping, dict) and parts:
        return isinstance(value, dict) and all(_fits(entry, parts[1]) for entry in value.values())
    if hint in (int, float):
        is_number = isinstance(value, int if hint is int else (int, float)) and not isinstance(value, bool)
        return is_number and value == value and not _is_huge(value)
    if hint in (bool, str):
        return isinstance(value, hint)
    return value is None if hint is types.NoneType else True


def _is_huge(value: object) -> bool:
    return isinstance(value, int) and abs(value) >= 2**63  # the first whole number that PyTorch does not take


def _sentence(hint: Any) -> str:
    kind, parts = get_origin(hint), get_args(hint)
    if kind is Literal:
        return "one of " + ", ".join(map(repr, parts))
    if kind in (Union, types.UnionType):
        return " or ".join(map(_sentence, parts))
    if (kind in (Sequence, list) and parts) or (kind is tuple and ... in parts):
        return f"a list in brackets, each of it {_sentence(parts[0])}"
    if kind is tuple and parts and ... not in parts:
        return f"a list of {len(parts)} in brackets: {', '.join(map(_sentence, parts))}"
    if kind in (Mapping, dict) and parts:
        return f'an object {{"NAME": {_sentence(parts[1])}, ...}}'
    names: dict[Any, str] = {
        Any: "any value", float: "a number", int: "a whole number", bool: "true or false", str: "a text",
        types.NoneType: "null",
    }  # fmt: skip
    return names.get(hint, str(hint))


def plugin_class(kind: Kind, name: str) -> type | None:
    """The class behind a plug-in's name or MODULE:NAME; None where there is none, which loading then explains."""
    values = [name] if ":" in name else [plugin.value for plugin in list_plugins(kind) if plugin.name == name]
    found = load(values[0]) if len(values) == 1 else None
    return found if isinstance(found, type) else None


def load_backend_with(flag: str, name: str, **options: Any) -> LPBackend:
    """`load_backend`, with messages about options that name the flag they came by."""
    _check_plugin_options(flag, "backends", name, options)
    with _own_words(flag, name, options):
        return load_backend(name, **options)


def load_problem_with(flag: str, name: str, **options: Any) -> BilevelProblem:
    """`load_problem`, with messages about options that name the flag they came by."""
    _check_plugin_options(flag, "problems", name, options)
    with _own_words(flag, name, options):
        return load_problem(name, **options)


@contextmanager
def _own_words(flag: str, name: str, options: Mapping[str, Any]) -> Generator[None]:
    """Python's complaints about arguments, that no annotation could foresee, in terms of the command line."""
    try:
        yield
    except TypeError as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        missing = re.search(r"__init__\(\) missing \d+ required .*?arguments?: (.*)", str(error))
        if unknown and unknown[1] in options:
            raise ValueError(f"{flag} {unknown[1]}={options[unknown[1]]}: {name} has no such option") from error
        if missing:
            raise ValueError(f"{flag}: {name} cannot be made without {missing[1].replace(chr(39), '')}") from error
        raise


def _check_plugin_options(flag: str, kind: Kind, name: str, options: Mapping[str, Any]) -> None:
    found = plugin_class(kind, name)
    if found is not None:
        check_options(flag, found, options)
