"""What every page is made of: its frame, and figures, cards and lists. No scripts, no links, nothing loaded."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping
from typing import Any

from lift_core.report.style import STYLE


def page(title: str, body: Iterable[str], document: Mapping[str, Any]) -> str:
    """A self-contained page that also holds its document as JSON, in the element ``lift-result``."""
    content = "\n".join([f"<h1>{html.escape(title)}</h1>", *(part for part in body if part)])
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n{content}\n"
        f'<script type="application/json" id="lift-result">{_embedded(document)}</script>\n</main></body></html>\n'
    )


def lead(lines: Iterable[str]) -> str:
    """Paragraphs under the title."""
    paragraphs = "".join(f'<p class="muted">{html.escape(line)}</p>' for line in lines)
    return f'<div class="lead">{paragraphs}</div>'


def warning_list(sentences: Iterable[str]) -> str:
    """Highlighted sentences; nothing where there are none."""
    items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
    return f'<ul class="warnings">{items}</ul>' if items else ""


def card(name: str, value_html: str, note: str, note_class: str = "muted") -> str:
    return (
        f'<div class="card"><div class="name">{html.escape(name)}</div><div class="value">{value_html}</div>'
        f'<div class="{note_class}">{html.escape(note)}</div></div>'
    )


def card_row(cards: Iterable[str]) -> str:
    return f'<div class="cards">{"".join(cards)}</div>'


def figure(title: str, svg: str, caption: str, *, wide: bool = False) -> str:
    """A titled plot; ``wide`` gives it a row of its own."""
    classes = ' class="wide"' if wide else ""
    note = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f"<figure{classes}><h3>{html.escape(title)}</h3>{svg}{note}</figure>"


def _embedded(document: Mapping[str, Any]) -> str:
    """JSON that cannot close its own script element."""
    text = json.dumps(document, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
