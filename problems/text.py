"""Articles of a text data set and the four splits they fall into."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, Literal, cast, get_args

from lift_core.problem import Split

SEPARATOR = "\n\n"
"""Stands between the lines of WikiText and between the articles of a split."""

Part = Literal["train", "validation", "test"]
"""The parts in which data sets are published; validation becomes the splits direction and selection."""

_SUFFIXES = {".txt": "text", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


@dataclass(frozen=True)
class TextDataset:
    """A text data set that `datasets.load_dataset` finds: on the hub, or a local folder or file.

    Attributes:
        path: hub name, folder, or one ``.txt``, ``.json``, ``.jsonl`` or ``.parquet`` file.
        config: the data set's configuration, such as ``"wikitext-2-raw-v1"``.
        column: the column that holds the text.
        parts: what `load_dataset` calls each part; slices cut a single file: ``{"train": "train[:80%]", ...}``.
        articles: makes articles of the rows of a part; by default every row that is not blank is one.

    >>> TextDataset("Salesforce/wikitext", config="wikitext-2-raw-v1", articles=wikitext_articles).column
    'text'
    """

    path: str | Path
    config: str | None = None
    column: str = "text"
    parts: Mapping[Part, str] = field(default_factory=lambda: {part: part for part in get_args(Part)})
    articles: Callable[[Sequence[str]], list[str]] | None = None

    def load(self) -> dict[str, list[str]]:
        """The articles of every part.

        Raises:
            ValueError: if a local file has an unknown suffix, or the column is missing.
        """
        return {part: self._articles(name) for part, name in self.parts.items()}

    def _articles(self, part: str) -> list[str]:
        # the import takes seconds, and bundled or given texts do without it
        from datasets import load_dataset

        path = Path(self.path)
        if path.is_file():
            if path.suffix not in _SUFFIXES:
                raise ValueError(f"path: expected a file that ends in one of {sorted(_SUFFIXES)}, got {self.path}")
            rows: Any = load_dataset(_SUFFIXES[path.suffix], data_files=str(path), split=part)
        else:
            rows = load_dataset(str(self.path), self.config, split=part)
        if self.column not in rows.column_names:
            raise ValueError(f"column: {self.path} has the columns {rows.column_names}, got {self.column!r}")
        texts = cast(list[str], list(rows[self.column]))
        return texts if self.articles is None else self.articles(texts)


def load_texts(texts: Mapping[str, Sequence[str]] | TextDataset | str | Path) -> Mapping[str, Sequence[str]]:
    """Articles by part or split, read from a data set unless they are given."""
    if isinstance(texts, (str, Path)):
        texts = TextDataset(texts)
    return texts.load() if isinstance(texts, TextDataset) else texts


def wikitext_articles(lines: Sequence[str]) -> list[str]:
    """Articles of WikiText from its lines.

    An article starts at a heading of level one, ``" = Title = "``, with a blank line on both sides (inside tables there
    are lines such as ``" = Goals ; A = "``). The lines of an article, newline included and blank ones empty, are joined
    by a blank line; all articles joined in the same way are the text on which GPT-2's perplexities are published.

    >>> [len(a) for a in wikitext_articles(["", " = A = ", "", " text", "", " = B = ", "", " = = C = = "])]
    [22, 24]
    """
    rows = [line.removesuffix("\n") + "\n" if line.strip() else "" for line in lines]
    starts = [index for index in range(len(rows)) if _is_title(rows, index)]
    if not starts:
        return [SEPARATOR.join(rows)] if any(rows) else []
    edges = [0, *starts[1:], len(rows)]  # what stands before the first title belongs to the first article
    return [SEPARATOR.join(rows[start:end]) for start, end in pairwise(edges)]


def _is_title(rows: Sequence[str], index: int) -> bool:
    row = rows[index].strip()
    if not (len(row) > 4 and row.startswith("= ") and row.endswith(" =")) or row.startswith("= ="):
        return False
    return not (index > 0 and rows[index - 1]) and not (index + 1 < len(rows) and rows[index + 1])


def four_splits(
    texts: Mapping[str, Sequence[str]], *, train_share: float = 1.0, seed: int = 0
) -> dict[Split, tuple[str, ...]]:
    """Articles of the four splits; no article is put into two of them, and a warning tells of equal ones.

    ``texts`` names either the parts train, validation and test, and the validation articles are halved, or the four
    splits themselves. A share of the training articles is drawn by the seed; smaller shares are subsets of larger ones.

    Raises:
        ValueError: if a split is missing, unknown or without text, or the share is not in (0, 1].
    """
    if not (0 < train_share <= 1):
        raise ValueError(f"train_share: expected a share of the training articles in (0, 1], got {train_share}")
    wanted = get_args(Split) if "direction" in texts or "selection" in texts else get_args(Part)
    if set(texts) != set(wanted):
        raise ValueError(
            f"texts: expected the keys {get_args(Part)} or the splits {get_args(Split)}, got {tuple(texts)}"
        )
    filled = {name: [text for text in texts[name] if text.strip()] for name in wanted}
    if "validation" in filled:
        filled["direction"], filled["selection"] = balanced_halves(filled.pop("validation"), seed=seed)
    for name, articles in filled.items():
        if not articles:
            raise ValueError(f"texts: the split {name!r} has no articles with text; it needs at least one")
    filled["train"] = _share(filled["train"], train_share, seed)
    splits: dict[Split, tuple[str, ...]] = {split: tuple(filled[split]) for split in get_args(Split)}
    _warn_of_equal_articles(splits)
    return splits


def _warn_of_equal_articles(splits: Mapping[Split, Sequence[str]]) -> None:
    """What was trained on says little about data that were not."""
    contents = {split: {text.strip() for text in articles} for split, articles in splits.items()}
    for one, other in combinations(contents, 2):
        shared = contents[one] & contents[other]
        if shared:
            warnings.warn(
                f"texts: {len(shared)} of the {len(contents[other])} different articles of {other!r} are in {one!r} as "
                f"well, such as {min(shared)[:40]!r}: losses on {other!r} will be too good",
                stacklevel=3,
            )


def balanced_halves(articles: Sequence[str], *, seed: int = 0) -> tuple[list[str], list[str]]:
    """Two halves of similar length: of each pair of neighbours by length, one goes to either half, drawn by the seed.

    >>> balanced_halves(["a", "bb", "cc", "d"], seed=1)
    (['cc', 'd'], ['a', 'bb'])
    """
    draw = random.Random(seed)
    by_length = sorted(range(len(articles)), key=lambda index: -len(articles[index]))
    halves: tuple[list[int], list[int]] = ([], [])
    for start in range(0, len(by_length), 2):
        pair = by_length[start : start + 2]
        draw.shuffle(pair)
        for half, index in zip(halves, pair, strict=False):
            half.append(index)
    first, second = ([articles[index] for index in sorted(half)] for half in halves)
    return first, second


def _share(articles: Sequence[str], share: float, seed: int) -> list[str]:
    order = list(range(len(articles)))
    random.Random(seed).shuffle(order)
    return [articles[index] for index in sorted(order[: math.ceil(share * len(articles))])]
