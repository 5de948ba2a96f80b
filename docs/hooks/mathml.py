"""MkDocs hook: TeX between dollars becomes MathML when the site is built, so that pages need no script."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_BLOCK = re.compile(r'<div class="arithmatex">\\\[(.*?)\\\]</div>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Replace what `pymdownx.arithmatex` marked."""
    content = _BLOCK.sub(lambda found: f'<div class="math">{_mathml(found[1], "block")}</div>', content)
    return _INLINE.sub(lambda found: _mathml(found[1], "inline"), content)


def _mathml(tex: str, display: str) -> str:
    converted = convert(html.unescape(tex).strip(), display=display)
    if "\\" in converted or "<mi>&</mi>" in converted:  # commands that it does not know come out as text
        raise PluginError(f"latex2mathml cannot convert {tex!r}")
    return converted
