"""Blocks of tokens cut from articles, and the batches of a split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, get_args, overload

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from lift_core.problem import Split
from problems.text import SEPARATOR


def article_tokens(articles: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """The tokens of each article, with the separator behind all but the last; they are tokenised in parallel."""
    pieces = [article + SEPARATOR for article in articles[:-1]] + [articles[-1]]
    return tokenizer(pieces, add_special_tokens=False, verbose=False)["input_ids"]


def token_blocks(
    articles: Sequence[str],
    tokenizer: Any,
    *,
    block_length: int,
    skip_tokens: int = 0,
    max_tokens: int | None = None,
    split: str = "",
) -> Int64[Tensor, "blocks block_length"]:
    """Non-overlapping blocks of a split's articles, joined by a blank line; the last partial block is left out.

    Args:
        skip_tokens: leave out so many tokens at the start.
        max_tokens: use at most so many of the others, from the first articles on.
        split: what error messages call the articles.

    Raises:
        ValueError: if the text has less than one block.
    """
    ids = list(chain.from_iterable(article_tokens(articles, tokenizer)))[skip_tokens:]
    count = min(len(ids), len(ids) if max_tokens is None else max_tokens) // block_length
    if count == 0:
        raise ValueError(
            f"block_length: the split {split!r} has {len(ids)} tokens (skip_tokens={skip_tokens}, "
            f"max_tokens={max_tokens}), less than one block of {block_length}"
        )
    return torch.tensor(ids[: count * block_length], dtype=torch.int64).view(count, block_length)


def checked_counts(name: str, counts: Mapping[Split, int], *, least: int) -> Mapping[Split, int]:
    """Numbers of tokens by split, as they came.

    Raises:
        ValueError: for a split that does not exist, or a number that is too small.
    """
    unknown = set(counts) - set(get_args(Split))
    if unknown:
        raise ValueError(f"{name}: expected splits out of {get_args(Split)}, got {sorted(unknown)}")
    for split, count in counts.items():
        if count < least:
            raise ValueError(f"{name}: expected at least {least} tokens for {split}, got {count}")
    return counts


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Some blocks of tokens and what the tuned part of the network takes in for them.

    Attributes:
        ids: shape (blocks, block_length).
        inputs: the hidden states that enter the first tuned block, (blocks, block_length, width), or the ids.
        drawn: tokens to predict instead of the text's own.
        articles: the number of the article that each block is from, where training weighs articles.
        weights: factor of each block's losses; None: one.
    """

    ids: Int64[Tensor, "blocks length"]
    inputs: Tensor
    drawn: Int64[Tensor, "blocks length-1"] | None = None
    articles: Int64[Tensor, " blocks"] | None = None
    weights: Float64[Tensor, " blocks"] | None = None

    @property
    def targets(self) -> Int64[Tensor, "blocks length-1"]:
        """The predicted tokens: all but the first of each block."""
        return self.ids[:, 1:] if self.drawn is None else self.drawn

    def examples(self) -> Iterator[TokenBatch]:
        """Batches of one block each."""
        for index in range(len(self.ids)):
            yield self.rows(slice(index, index + 1))

    def cut(self, tokens: int) -> Iterator[tuple[TokenBatch, float]]:
        """Batches of as many blocks as have at most so many tokens, but at least one, with their shares of the mean."""
        size = max(1, tokens // self.ids.shape[1])
        for start in range(0, len(self.ids), size):
            part = self.rows(slice(start, start + size))
            yield part, len(part.ids) / len(self.ids)

    def rows(self, chosen: slice | Bool[Tensor, " blocks"]) -> TokenBatch:
        """The batch of some of the blocks."""
        parts = {name: part[chosen] for name, part in vars(self).items() if part is not None}
        return replace(self, **parts)


class TokenBatches(Sequence[TokenBatch]):
    """The batches of a split; the inputs of a batch are computed when it is first asked for.

    >>> batches = TokenBatches(torch.arange(6).view(3, 2), 2, lambda ids: ids, keep=True)
    >>> [batch.ids.tolist() for batch in batches]
    [[[0, 1], [2, 3]], [[4, 5]]]
    """

    def __init__(
        self,
        ids: Tensor,
        size: int,
        inputs_of: Callable[[Tensor], Tensor],
        *,
        keep: bool,
        articles: Int64[Tensor, " blocks"] | None = None,
    ) -> None:
        self._ids = ids.split(size)
        self._articles = None if articles is None else articles.split(size)
        self._inputs_of, self._keep = inputs_of, keep
        self._kept: dict[int, TokenBatch] = {}

    @property
    def num_predicted(self) -> int:
        """Predicted tokens of all batches, known without computing any inputs."""
        return sum(ids[:, 1:].numel() for ids in self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, index: int) -> TokenBatch: ...

    @overload
    def __getitem__(self, index: slice) -> list[TokenBatch]: ...

    def __getitem__(self, index: int | slice) -> TokenBatch | list[TokenBatch]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        if position in self._kept:
            return self._kept[position]
        ids = self._ids[position]
        articles = None if self._articles is None else self._articles[position]
        batch = TokenBatch(ids, self._inputs_of(ids), articles=articles)
        if self._keep:
            self._kept[position] = batch
        return batch
