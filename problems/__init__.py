"""The built-in bilevel problems, from exact quadratics to GPT-2 on WikiText-2.

>>> from problems import Quadratic
>>> Quadratic().name
'quadratic'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from problems.data_cleaning import DataCleaning
from problems.module import ModuleProblem
from problems.network import Network
from problems.quadratic import Quadratic
from problems.regression import Regression

if TYPE_CHECKING:
    from problems.article_weights import ArticleWeights, NoisyWikiText2
    from problems.gpt2_wikitext2 import GPT2WikiText2
    from problems.language_model import LanguageModel

__all__ = [
    "ArticleWeights",
    "DataCleaning",
    "GPT2WikiText2",
    "LanguageModel",
    "ModuleProblem",
    "Network",
    "NoisyWikiText2",
    "Quadratic",
    "Regression",
]

# transformers takes seconds to import, and only these need it
_LAZY = {
    "ArticleWeights": "problems.article_weights",
    "GPT2WikiText2": "problems.gpt2_wikitext2",
    "LanguageModel": "problems.language_model",
    "NoisyWikiText2": "problems.article_weights",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_LAZY[name]), name)
