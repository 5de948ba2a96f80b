"""The built-in bilevel problems, from exact quadratics to GPT-2 on WikiText-2.

>>> from problems import Quadratic
>>> Quadratic().name
'quadratic'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from problems.data_cleaning import DataCleaning
from problems.network import Network
from problems.quadratic import Quadratic
from problems.regression import Regression

if TYPE_CHECKING:
    from problems.gpt2_wikitext2 import GPT2WikiText2
    from problems.language_model import LanguageModel

__all__ = ["DataCleaning", "GPT2WikiText2", "LanguageModel", "Network", "Quadratic", "Regression"]

# transformers takes seconds to import, and only these two need it
_LAZY = {"GPT2WikiText2": "problems.gpt2_wikitext2", "LanguageModel": "problems.language_model"}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_LAZY[name]), name)
