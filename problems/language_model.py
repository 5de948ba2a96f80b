"""Fine-tuning a causal language model, the regularisation of its weights included."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, cast, get_args

import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn

from lift_core.devices import check_device
from lift_core.operators import MatrixFree
from lift_core.problem import BilevelProblem, Point, Split
from lift_core.regularizers import Strength
from problems.causal_lm import (
    Grouping,
    SelectBy,
    as_dtype,
    choose_parameters,
    group_name,
    load_model,
    load_tokenizer,
    selection_label,
)
from problems.parameter_oracles import BatchMean, Layout, gauss_newton, hessian, mean_gradient, shares
from problems.penalty import Penalty, build_regularizer, hyper_range
from problems.text import TextDataset, four_splits, load_texts
from problems.token_batches import TokenBatch, TokenBatches, checked_counts, token_blocks
from problems.token_loss import TokenLoss, WeightedLoss

PRODUCT_TOKENS = 2048
"""Curvature products take a batch in parts of so many tokens, so that they fit where a gradient of the batch does."""


@dataclass(frozen=True)
class Perplexity:
    """Token-level perplexity of a split and everything needed to compare it.

    Attributes:
        perplexity: ``exp(total negative log-likelihood / predicted tokens)``.
        negative_log_likelihood: total, in nats, accumulated in float64.
        predicted_tokens: the normaliser: all tokens of a block but its first.
        block_length, stride: tokens; equal, as the blocks do not overlap.
    """

    split: Split
    perplexity: float
    negative_log_likelihood: float
    predicted_tokens: int
    block_length: int
    stride: int
    normaliser: str = "predicted tokens"


class LanguageModel(BilevelProblem):
    """A Hugging Face causal language model on a text data set, with one regularisation strength per group of weights.

        F(θ) = mean cross-entropy of the predicted tokens of the direction (or selection, or test) articles
        f(λ, θ) = the same on the training articles + sum_j w(λ_j) R_j(θ_(j))

    Articles are joined by a blank line and cut into non-overlapping blocks; the last partial block of a split is left
    out. The weights θ are the tuned parameters, flattened in the model's order. With the GPT-2 architecture, whatever
    lies below the first tuned block is computed once per batch, and a frozen head keeps no tensor of tokens x
    vocabulary; other architectures run whole.

    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    >>> words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2}, unk_token="c"))
    >>> words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    >>> problem = LanguageModel(
    ...     model=GPT2LMHeadModel(GPT2Config(vocab_size=3, n_positions=4, n_embd=8, n_layer=2, n_head=2)),
    ...     tokenizer=PreTrainedTokenizerFast(tokenizer_object=words),
    ...     texts={"train": ["a b c a"], "validation": ["a b b a", "b c c b"], "test": ["c b a a"]},
    ... )
    >>> problem.hyper_names, len(problem.groups), problem.num_examples("train")
    (('block.1',), 12, 3)
    """

    name: ClassVar[str] = "language_model"
    metric_name: ClassVar[str] = "perplexity"

    def __init__(
        self,
        *,
        model: str | Path | nn.Module,
        texts: Mapping[str, Sequence[str]] | TextDataset | str | Path,
        tokenizer: Any = None,
        blocks: Sequence[int] | None = None,
        trainable: str | Sequence[str] | None = None,
        regularizer: Penalty = "l2",
        regularize_by: Grouping = "block",
        strength: Strength = "log",
        initial_strength: float = 1e-4,
        strength_bounds: tuple[float, float] = (1e-8, 1e2),
        block_length: int | None = None,
        batch_blocks: int = 8,
        train_share: float = 1.0,
        skip_tokens: Mapping[Split, int] | None = None,
        max_tokens: Mapping[Split, int] | None = None,
        keep_inputs: bool = True,
        keep_graphs: int = 4 * 2**30,
        dtype: torch.dtype | str = torch.float32,
        device: torch.device | str | None = None,
        seed: int = 0,
    ) -> None:
        """Load the model and split the articles; a split is tokenised when it is first asked for.

        Args:
            model: hub name, folder with safetensors, or object (which is copied).
            texts: articles by part ("train", "validation", "test") or by split; or a data set, see `TextDataset`.
            tokenizer: name, folder or object; by default the model's own.
            blocks: blocks to tune, negative from the end; the last one if ``trainable`` is not given either.
            trainable: patterns of parameter names, such as ``"*.ln_*"``, within ``blocks`` or the whole model.
            regularizer, regularize_by, strength: which penalty, what shares one λ, and whether λ is its logarithm.
            initial_strength, strength_bounds: w(λ) at the start, and its bounds.
            block_length: tokens per block; by default the model's context length, at most 1,024.
            batch_blocks: blocks per batch.
            train_share: share of the training articles that is used, drawn by the seed.
            skip_tokens: tokens at the start of some of the splits that are left out.
            max_tokens: a limit for some of the splits, of the tokens behind those.
            keep_inputs: keep the hidden states below the tuned part, 4 bytes x width per token in float32.
            keep_graphs: bytes of differentiated batches that Hessian products may keep; a batch beyond them is
                differentiated again for every product.
            dtype: what the network computes in, or its name; losses are float32 or better and accumulate in float64.
            device: by default CUDA where it exists.
            seed: draws the training articles and the halves of the validation articles.

        Raises:
            ValueError: if an argument does not fit; see the message.
        """
        if batch_blocks < 1:
            raise ValueError(f"batch_blocks: expected at least 1, got {batch_blocks}")
        check_device(device)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.batch_blocks, self.keep_inputs, self.keep_graphs = batch_blocks, keep_inputs, keep_graphs
        self.skip_tokens = checked_counts("skip_tokens", skip_tokens or {}, least=0)
        self.max_tokens = checked_counts("max_tokens", max_tokens or {}, least=2)
        self.articles = four_splits(load_texts(texts), train_share=train_share, seed=seed)
        self.tokenizer = load_tokenizer(tokenizer, model)
        self.model = load_model(model, dtype=(dtype := as_dtype(dtype)), device=self.device)
        self.block_length = self._checked_length(block_length)
        self._penalty: tuple[Penalty, Grouping, Strength] = (regularizer, regularize_by, strength)
        self._strengths = (initial_strength, strength_bounds)
        self._choose(blocks, trainable, dtype)

    # -- setting up ---------------------------------------------------------------------------------------------

    def _checked_length(self, block_length: int | None) -> int:
        context = getattr(self.model.config, "max_position_embeddings", None)
        length = min(context or 1024, 1024) if block_length is None else block_length
        if length < 2 or (context is not None and length > context):
            raise ValueError(
                f"block_length: expected 2 ... {context or 'any'} tokens for this model, got {block_length}"
            )
        return length

    def _choose(self, blocks: Sequence[int] | None, trainable: str | Sequence[str] | None, dtype: torch.dtype) -> None:
        if blocks is None and trainable is None:
            blocks = (-1,)
        patterns = [trainable] if isinstance(trainable, str) else trainable
        self.parameter_names = choose_parameters(self.model, blocks=blocks, patterns=patterns)
        values = [self.model.get_parameter(name) for name in self.parameter_names]
        edges = torch.tensor([0, *(value.numel() for value in values)]).cumsum(0).tolist()
        self.groups = {
            name: slice(start, end) for name, start, end in zip(self.parameter_names, edges, edges[1:], strict=False)
        }
        self.block_groups: dict[str, slice] = {}
        for name, part in self.groups.items():
            block = group_name(self.model, name, "block")
            self.block_groups[block] = slice(self.block_groups.get(block, part).start, part.stop)
        shapes = {name: value.shape for name, value in zip(self.parameter_names, values, strict=True)}
        self._layout = Layout(self.groups, shapes, dtype)
        self._start = torch.cat([value.detach().flatten().double() for value in values])
        self._loss = TokenLoss(self.model, self.parameter_names)
        self._set_hyper()
        self._batches: dict[Split, TokenBatches] = {}

    def _set_hyper(self) -> None:
        """The regulariser, if there is one, and λ: names, start and bounds."""
        penalty, by, strength = self._penalty
        group_names = {name: group_name(self.model, name, by) for name in self.groups}
        self.regularizer, self.hyper_names = build_regularizer(
            penalty, group_names, self.groups, strength=strength, start=self._start
        )
        like = self._start.new_empty(len(self.hyper_names))
        self._initial_hyper, self.hyper_lower, self.hyper_upper = hyper_range(
            *self._strengths, strength=strength, like=like
        )

    def tuned(self, tensors: Sequence[str]) -> LanguageModel:
        """The same problem with these tensors alone as weights; what lies below them is computed once again."""
        unknown = [name for name in tensors if name not in self.groups]
        if unknown or not tensors:
            raise ValueError(f"tensors: expected some out of the tuned ones, got {unknown[0] if unknown else 'none'!r}")
        part = copy(self)
        part._choose(None, list(tensors), self._layout.dtype)
        return part

    def group_label(self, tensor: str, by: str) -> str:
        return selection_label(self.model, tensor, cast(SelectBy, by))

    # -- what the problem describes -----------------------------------------------------------------------------

    def initial_point(self) -> Point:
        return Point(self._initial_hyper.clone(), self._start.clone())

    def batches(self, split: Split) -> TokenBatches:
        if split not in self._batches:
            ids = token_blocks(
                self.articles[split],
                self.tokenizer,
                block_length=self.block_length,
                skip_tokens=self.skip_tokens.get(split, 0),
                max_tokens=self.max_tokens.get(split),
                split=split,
            )
            self._batches[split] = TokenBatches(
                self._in_vocabulary(ids), self.batch_blocks, self._loss.below, keep=self.keep_inputs
            )
        return self._batches[split]

    def batch_size(self, batch: TokenBatch) -> int:
        """Number of predicted tokens."""
        return batch.targets.numel()

    def num_examples(self, split: Split) -> int:
        return self.batches(split).num_predicted

    def upper_loss(self, hyper: Tensor, weights: Tensor, batch: TokenBatch) -> Float64[Tensor, ""]:
        """Mean cross-entropy of the predicted tokens."""
        return self._loss(self.named_weights(weights), batch)

    def training_loss(self, hyper: Tensor, weights: Tensor, batch: TokenBatch) -> Float64[Tensor, ""]:
        """The same, as training weighs it."""
        return self._training(hyper)(self.named_weights(weights), batch)

    def outputs(self, weights: Tensor, batch: TokenBatch) -> Tensor:
        """Logits, (blocks, block_length - 1, vocabulary), in float32 or better."""
        return self._loss.logits(self.named_weights(weights), batch)

    def output_loss(self, hyper: Tensor, outputs: Tensor, batch: TokenBatch) -> Float64[Tensor, ""]:
        """The training loss from the logits of the predicted tokens."""
        return self._training(hyper).of_logits(outputs, batch)

    def metric(self, loss: float) -> float:
        """Perplexity."""
        return math.exp(min(loss, 700.0))  # beyond it a float overflows

    def describe(self) -> str:
        content = hashlib.sha256(self._start.cpu().numpy().tobytes())
        for split in get_args(Split):
            content.update("".join([split, *self.articles[split]]).encode())
        penalty = "no penalty"
        if self.regularizer is not None:
            penalty = f"{type(self.regularizer).__name__} from {self._initial_hyper.tolist()}"
        limits = f"blocks of {self.block_length} tokens, at most {dict(sorted(self.max_tokens.items()))}"
        if skipped := {split: count for split, count in sorted(self.skip_tokens.items()) if count}:
            limits += f" behind {skipped}"
        return f"{super().describe()}, {penalty}, {limits}, {self._layout.dtype}, content {content.hexdigest()[:16]}"

    def perplexity(self, point: Point, split: Split) -> Perplexity:
        """Perplexity of a split at a point."""
        mean, tokens = self.loss(point, split), self.num_examples(split)
        return Perplexity(split, self.metric(mean), mean * tokens, tokens, self.block_length, self.block_length)

    def named_weights(self, weights: Float64[Tensor, " n"]) -> dict[str, Tensor]:
        """The tuned parameters by name, in the model's shapes and precision, as `load_state_dict` takes them."""
        return self._layout.tensors(weights)

    # -- oracles: on the network's own tensors ------------------------------------------------------------------

    def loss(self, point: Point, split: Split) -> float:
        named = self.named_weights(point.weights)
        with torch.no_grad():
            return float(self._mean(lambda batch: self._loss(named, batch), self.batches(split)))

    def upper_gradient(self, point: Point, split: Split = "direction") -> tuple[Tensor, Tensor]:
        return torch.zeros_like(point.hyper), self._gradient(point, self.batches(split), self._loss)

    def training_gradient(self, point: Point, batches: Sequence[TokenBatch] | None = None) -> Float64[Tensor, " n"]:
        chosen = self.batches("train") if batches is None else batches
        return self._gradient(point, chosen, self._training(point.hyper))

    def training_hessian(self, point: Point, batches: Sequence[TokenBatch] | None = None) -> MatrixFree:
        mean = self._batch_mean(self.batches("train") if batches is None else batches, cut=True)
        loss = self._training(point.hyper)
        return hessian(self._layout, point.weights, loss, mean, network=self.model, keep_bytes=self.keep_graphs)

    def training_gauss_newton(self, point: Point, batches: Sequence[TokenBatch] | None = None) -> MatrixFree:
        mean = self._batch_mean(self.batches("train") if batches is None else batches, cut=True)
        parts = self._training(point.hyper).convex_part()
        return gauss_newton(self._layout, point.weights, *parts, mean, network=self.model, keep_bytes=self.keep_graphs)

    def sampled(self, point: Point, batch: TokenBatch, generator: torch.Generator) -> TokenBatch:
        """The batch with every predicted token drawn from the model, its inputs being the text's own."""
        named = self.named_weights(point.weights)
        drawn: list[Tensor] = []
        for one in batch.examples():  # the logits of one block at a time
            with torch.no_grad():
                probabilities = self._loss.logits(named, one)[0].softmax(-1).cpu()
            drawn.append(torch.multinomial(probabilities, 1, generator=generator)[:, 0])
        return replace(batch, drawn=torch.stack(drawn).to(batch.ids.device))

    def example_gradients(
        self, point: Point, batch: TokenBatch, *, limit: int | None = None
    ) -> tuple[Tensor, list[int]]:
        """Gradients of single blocks, in the network's precision, and their numbers of predicted tokens."""
        leaves, examples = self._layout.leaves(point.weights), list(islice(batch.examples(), limit))
        loss = self._training(point.hyper)
        rows = torch.empty(len(examples), len(point.weights), dtype=self._layout.dtype, device=self.device)
        for row, one in zip(rows, examples, strict=True):
            row.zero_()
            self._layout.add(row, torch.autograd.grad(loss(leaves, one), list(leaves.values())), 1.0)
        return rows, [self.batch_size(one) for one in examples]

    def _training(self, hyper: Tensor) -> TokenLoss | WeightedLoss:
        """The loss that training lowers."""
        del hyper
        return self._loss

    def _gradient(self, point: Point, batches: Sequence[TokenBatch], loss: TokenLoss | WeightedLoss) -> Tensor:
        return mean_gradient(self._layout, point.weights, loss, self._batch_mean(batches))

    def _batch_mean(self, batches: Sequence[TokenBatch], *, cut: bool = False) -> BatchMean:
        mean = BatchMean(batches, shares([self.batch_size(batch) for batch in batches]))
        return replace(mean, cut=lambda batch: batch.cut(PRODUCT_TOKENS)) if cut else mean

    def _in_vocabulary(self, ids: Int64[Tensor, "blocks length"]) -> Int64[Tensor, "blocks length"]:
        size = cast(Any, self.model).config.vocab_size
        if int(ids.max()) >= size:
            raise ValueError(
                f"tokenizer: expected the model's own, with {size} entries, got one that gives token {int(ids.max())}"
            )
        return ids.to(self.device)
