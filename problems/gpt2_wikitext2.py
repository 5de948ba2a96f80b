"""A small GPT-2 on WikiText-2, both bundled; the same code takes GPT-2 from the hub or from a folder."""

from __future__ import annotations

import lzma
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, get_args

from torch import nn

from lift_core.problem import Split
from problems.causal_lm import Grouping
from problems.language_model import LanguageModel
from problems.penalty import Penalty
from problems.text import Part, wikitext_articles

DATA = Path(__file__).parent / "data"
BUNDLED_MODEL = DATA / "gpt2-small-wiki"
"""4 layers of width 192, context 256, own vocabulary of 8,192; see ``data/LICENSES.md``."""

Variant = Literal["tokens", "raw"]
"""WikiText-2 with rare words as ``<unk>``, or with all words. The raw variant has tokenised training articles still."""

DEFAULT_MAX_TOKENS: Mapping[Split, int] = MappingProxyType({"direction": 20_000, "selection": 12_000, "test": 20_000})
"""Enough for a demonstration in minutes on two cores; pass None for the whole splits."""

_FILES: dict[Part, str] = {"train": "train", "validation": "valid", "test": "test"}


@cache
def wikitext2(part: Part, variant: Variant = "tokens") -> tuple[str, ...]:
    """The articles of a part of WikiText-2: 600 for training, 60 for validation, 60 for test.

    Raw training text is not bundled; ``TextDataset("Salesforce/wikitext", config="wikitext-2-raw-v1", ...)`` has it.

    >>> len(wikitext2("validation")), wikitext2("test")[0][2:18]
    (60, ' = Robert <unk> ')
    """
    if variant not in get_args(Variant):
        raise ValueError(f"variant: expected one of {get_args(Variant)}, got {variant!r}")
    kind = "tokens" if part == "train" else variant
    with lzma.open(
        DATA / "wikitext-2" / f"wiki.{_FILES[part]}.{kind}.xz", "rt", encoding="utf-8", newline="\n"
    ) as file:
        return tuple(wikitext_articles(file.readlines()))


class GPT2WikiText2(LanguageModel):
    """GPT-2 fine-tuned on WikiText-2, by default the bundled small one: last block, 0.75 % of the training articles.

    Args:
        model: hub name such as ``"gpt2"``, folder, or object; the tokenizer is the model's own.
        variant: which WikiText-2 the validation and test articles come from.
        blocks, trainable, train_share, block_length, regularizer, regularize_by, initial_strength: see `LanguageModel`,
            which takes all further options.
        max_tokens: limits of the evaluation splits, None for none; the default suits a demonstration.

    >>> GPT2WikiText2(blocks=[0, -1], regularize_by="block", device="cpu").hyper_names
    ('block.0', 'block.3')
    """

    name: ClassVar[str] = "gpt2_wikitext2"
    suggested_search: ClassVar[Mapping[str, object]] = MappingProxyType(
        {
            "relative": True,
            "weights_radius": 0.1,
            "slack": 1e-2,
            "curvature": "low_rank",
            "curvature_options": {"rank": 16, "num_probes": 4, "share": 0.25},
            "backend_options": {"rtol": 1e-4},
            "warmup_epochs": 3,
            "max_evaluations": 6,
            "threads": 2,
        }
    )

    def __init__(
        self,
        *,
        model: str | Path | nn.Module = BUNDLED_MODEL,
        variant: Variant = "tokens",
        blocks: Sequence[int] | None = None,
        trainable: str | Sequence[str] | None = None,
        train_share: float = 0.0075,
        block_length: int = 256,
        regularizer: Penalty = "l2sp",
        regularize_by: Grouping = "tensor",
        initial_strength: float = 1e-3,
        max_tokens: Mapping[Split, int] | None = DEFAULT_MAX_TOKENS,
        **options: Any,
    ) -> None:
        self.variant = variant
        super().__init__(
            model=model,
            texts={part: wikitext2(part, variant) for part in get_args(Part)},
            blocks=blocks,
            trainable=trainable,
            train_share=train_share,
            block_length=block_length,
            regularizer=regularizer,
            regularize_by=regularize_by,
            initial_strength=initial_strength,
            max_tokens=max_tokens,
            **options,
        )
