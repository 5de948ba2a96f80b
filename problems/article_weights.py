"""Fine-tuning a language model on articles of unequal worth: one weight per training article."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, get_args

import torch
from jaxtyping import Bool, Float64
from torch import Tensor, nn

from lift_core.curvature.guard import available_bytes
from lift_core.operators import Dense, LinearOperator
from lift_core.presets import PRESETS
from lift_core.problem import Point, Split
from problems.gpt2_wikitext2 import BUNDLED_MODEL, DEFAULT_MAX_TOKENS, Variant, wikitext2
from problems.language_model import LanguageModel
from problems.text import Part
from problems.token_batches import TokenBatch, TokenBatches, article_tokens
from problems.token_loss import WeightedLoss

_NO_STRENGTHS = ("regularizer", "regularize_by", "strength", "initial_strength", "strength_bounds")
_BOUND = 10.0


class ArticleWeights(LanguageModel):
    """A causal language model whose training articles have a weight each, in place of a penalty.

        f(λ, θ) = mean over the training tokens t of sigmoid(λ_a(t)) ℓ_t(θ),    a(t) the article that t is from

    ℓ is the cross-entropy of the predicted token, F its plain mean over the direction (or selection, or test)
    articles. Where training takes in other splits, their articles weigh one. Training articles are cut into blocks one
    by one and lose their last partial block; those shorter than a block are left out.

    Attributes:
        corrupted: which of the training articles were corrupted.

    Reference: Franceschi et al. (2017), Forward and reverse gradient-based hyperparameter optimization, section 5.1,
    for weights of single samples.
    """

    name: ClassVar[str] = "article_weights"
    hyper_in_training = True

    def __init__(
        self,
        *,
        corrupted_share: float = 0.0,
        replaced_share: float = 0.5,
        sampled_blocks: int | None = None,
        **options: Any,
    ) -> None:
        """Load the model, split, tokenise and corrupt the articles.

        Args:
            corrupted_share: share of the training articles that are corrupted, drawn by the seed, to have something to
                find.
            replaced_share: share of a corrupted article's tokens that are replaced, each by one drawn from the same
                article.
            sampled_blocks: blocks that stand for an article in the mixed partial, evenly spaced from its first to its
                last; None: all of them.
            options: of `LanguageModel`, but for those of its penalty.

        Raises:
            ValueError: if an argument does not fit; see the message.
        """
        for name, share in (("corrupted_share", corrupted_share), ("replaced_share", replaced_share)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name}: expected a number from 0 to 1, got {share}")
        if sampled_blocks is not None and sampled_blocks < 1:
            raise ValueError(f"sampled_blocks: expected at least 1, or None for all, got {sampled_blocks}")
        self.sampled_blocks = sampled_blocks
        for name in _NO_STRENGTHS:
            if name in options:
                raise ValueError(f"{name}: expected none, as the only hyperparameters are weights of articles")
        if "train" in (options.get("skip_tokens") or {}):
            raise ValueError("skip_tokens: expected none for train, whose articles are cut one by one")
        self._noise = (corrupted_share, replaced_share, int(options.get("seed", 0)))
        super().__init__(**options)

    def _set_hyper(self) -> None:
        self.regularizer = None
        self._cut_articles()
        p = len(self.corrupted)
        self.hyper_names = tuple(f"article {number}" for number in range(p))
        self._initial_hyper = self._start.new_zeros(p)
        self.hyper_lower, self.hyper_upper = (self._start.new_full((p,), bound) for bound in (-_BOUND, _BOUND))

    def _cut_articles(self) -> None:
        """Blocks of the training articles that are long enough for one, and the number of each block's article."""
        corrupted_share, replaced_share, seed = self._noise
        pieces = [torch.tensor(ids) for ids in article_tokens(self.articles["train"], self.tokenizer)]
        counts = [len(piece) // self.block_length for piece in pieces]
        long_enough = [piece[: n * self.block_length] for piece, n in zip(pieces, counts, strict=True) if n]
        if not long_enough:
            raise ValueError(f"block_length: no training article has a block of {self.block_length} tokens")
        limit = self.max_tokens.get("train", sum(map(len, long_enough))) // self.block_length
        if limit == 0:
            raise ValueError(f"max_tokens: expected at least a block of {self.block_length} tokens for train")
        numbers = torch.arange(len(long_enough)).repeat_interleave(torch.tensor([n for n in counts if n]))[:limit]
        long_enough = long_enough[: int(numbers[-1]) + 1]
        generator = torch.Generator().manual_seed(seed + 1)
        rank = torch.randperm(len(long_enough), generator=generator)
        self.corrupted: Bool[Tensor, " p"] = rank < round(corrupted_share * len(long_enough))
        noisy = [
            _with_replacements(piece, replaced_share, generator) if corrupt else piece
            for piece, corrupt in zip(long_enough, self.corrupted.tolist(), strict=True)
        ]
        blocks = torch.cat(noisy).view(-1, self.block_length)[:limit]
        self._train_blocks = (self._in_vocabulary(blocks), numbers.to(self.device))

    def batches(self, split: Split) -> TokenBatches:
        if split == "train" and split not in self._batches:
            blocks, numbers = self._train_blocks
            self._batches[split] = TokenBatches(
                blocks, self.batch_blocks, self._loss.below, keep=self.keep_inputs, articles=numbers
            )
        return super().batches(split)

    def describe(self) -> str:
        noise = f"corrupted and replaced shares and seed {self._noise}"
        return f"{super().describe()}, {noise}, {self.sampled_blocks or 'all'} blocks for an article's gradient"

    def sampled(self, point: Point, batch: TokenBatch, generator: torch.Generator) -> TokenBatch:
        """Losses times the square root of their weight: products of their gradients have the weight itself."""
        drawn = super().sampled(point, batch, generator)
        if batch.articles is None:
            return drawn
        return replace(drawn, articles=None, weights=point.hyper.sigmoid()[batch.articles].sqrt())

    @property
    def mixed_passes(self) -> float:
        """The share of the training blocks that stand for their articles."""
        return float(self._samples().double().mean())

    def _samples(self) -> Bool[Tensor, " blocks"]:
        """Which of the training blocks stand for their article."""
        numbers = self._train_blocks[1]
        chosen = torch.zeros_like(numbers, dtype=torch.bool)
        for article in numbers.unique().tolist():
            rows = (numbers == article).nonzero()[:, 0]
            count = min(len(rows), self.sampled_blocks or len(rows))
            chosen[rows[torch.linspace(0, len(rows) - 1, count).round().long().to(self.device)]] = True
        return chosen

    def training_mixed(self, point: Point) -> LinearOperator:
        """Column a is ``sigmoid'(λ_a)`` times the gradient of what article a adds to the mean of ℓ, or its estimate.

        Raises:
            ValueError: if the n x p matrix does not fit in memory.
        """
        n, p = len(point.weights), len(point.hyper)
        need, free = 10 * n * p, available_bytes(self.device)  # in float64, and two masks that look for NaN
        if need > free:
            raise ValueError(
                f"train_share: the mixed partial of {n:,} weights and {p:,} articles needs {need / 2**30:.3g} GiB, "
                f"more than {free / 2**30:.3g} GiB free; take fewer articles, or tune fewer weights"
            )
        columns = torch.zeros(p, n, dtype=torch.float64, device=self.device)
        leaves, chosen = self._layout.leaves(point.weights), self._samples()
        numbers, weight = self._train_blocks[1], point.hyper.sigmoid()
        factor = weight * (1 - weight) * numbers.bincount() / numbers[chosen].bincount() / len(numbers)
        batches, size = self.batches("train"), self.batch_blocks
        for position, (here, articles) in enumerate(zip(chosen.split(size), numbers.split(size), strict=True)):
            for article in articles[here].unique().tolist():
                rows = batches[position].rows(here & (articles == article))
                parts = torch.autograd.grad(
                    self._loss(leaves, rows), list(leaves.values()), allow_unused=True, materialize_grads=True
                )
                self._layout.add(columns[article], parts, float(factor[article]) * len(rows.ids))
        return Dense(columns.T)

    def _training(self, hyper: Float64[Tensor, " p"]) -> WeightedLoss:
        return WeightedLoss(self._loss, hyper)


class NoisyWikiText2(ArticleWeights):
    """GPT-2, by default the bundled one, on WikiText-2; half of the training articles are corrupted.

    Args:
        model: hub name such as ``"gpt2"``, folder, or object; the tokenizer is the model's own.
        variant, train_share, block_length, max_tokens: see `GPT2WikiText2`.
        corrupted_share, sampled_blocks: see `ArticleWeights`, which takes all further options.

    >>> problem = NoisyWikiText2(train_share=0.01, device="cpu")
    >>> len(problem.hyper_names), int(problem.corrupted.sum())
    (6, 3)
    """

    name: ClassVar[str] = "noisy_wikitext2"
    suggested_search: ClassVar[Mapping[str, object]] = PRESETS["refit"]

    def __init__(
        self,
        *,
        model: str | Path | nn.Module = BUNDLED_MODEL,
        variant: Variant = "tokens",
        train_share: float = 0.05,
        block_length: int = 256,
        max_tokens: Mapping[Split, int] | None = DEFAULT_MAX_TOKENS,
        corrupted_share: float = 0.5,
        sampled_blocks: int | None = 4,
        **options: Any,
    ) -> None:
        super().__init__(
            model=model,
            texts={part: wikitext2(part, variant) for part in get_args(Part)},
            train_share=train_share,
            block_length=block_length,
            max_tokens=max_tokens,
            corrupted_share=corrupted_share,
            sampled_blocks=sampled_blocks,
            **options,
        )


def _with_replacements(tokens: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Some tokens replaced by others of the same text."""
    others = tokens[torch.randint(len(tokens), (len(tokens),), generator=generator)]
    return torch.where(torch.rand(len(tokens), generator=generator) < share, others, tokens)
