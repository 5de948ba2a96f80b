"""Griffe extension: what the docstrings of this project write differently from the Google style that griffe reads."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_DOCTEST = re.compile(r"(?:^>>> .*\n?)(?:^.+\n?)*", re.MULTILINE)
_SEVERAL_NAMES = re.compile(r"^    (\w+(?:, \w+)+):", re.MULTILINE)


class Docstrings(Extension):
    """Doctests become a section of examples; ``a, b: ...`` describes both names instead of ``a`` of type ``b``."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            text = _DOCTEST.sub(_section, obj.docstring.value)
            obj.docstring.value = _SEVERAL_NAMES.sub(lambda found: found[0].replace(", ", ",\N{NO-BREAK SPACE}"), text)


def _section(found: re.Match[str]) -> str:
    lines = "\n".join(f"    {line}" for line in found[0].rstrip("\n").split("\n"))
    return f"Examples:\n{lines}\n"
