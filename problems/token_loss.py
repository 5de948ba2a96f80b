"""The loss of a language model as a function of its tuned parameters, and its curvature in what it is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn
from torch.func import functional_call
from transformers import GPT2LMHeadModel

from problems.causal_lm import GPT2Tail, WholeModel, first_tuned_block
from problems.head_loss import head_curvature, head_loss
from problems.parameter_oracles import Parameters
from problems.token_batches import TokenBatch


class TokenLoss:
    """Mean cross-entropy of the predicted tokens of a batch, each times its block's weight if there are weights.

    With the GPT-2 architecture only what lies above the first tuned block runs, on hidden states that `below` computes
    once; a frozen head keeps no tensor of tokens x vocabulary; and the model's attention, activations and linear layers
    are replaced by ones with closed-form derivatives. Other architectures run whole.
    """

    def __init__(self, model: nn.Module, tuned: Sequence[str]) -> None:
        self._head: Tensor | None = None
        if isinstance(model, GPT2LMHeadModel) and not model.config.add_cross_attention:
            self._tail: GPT2Tail | WholeModel = GPT2Tail(model, first_tuned_block(model, tuned))
            if all(model.get_parameter(name) is not model.lm_head.weight for name in tuned):
                self._head = model.lm_head.weight
        else:
            self._tail = WholeModel(model)

    def below(self, ids: Int64[Tensor, "blocks length"]) -> Tensor:
        """What enters the part that is run."""
        with torch.no_grad():
            return self._tail.below(ids)

    def __call__(self, named: Parameters, batch: TokenBatch) -> Tensor:
        if self._head is None:
            return self.of_logits(self.logits(named, batch), batch)
        return _mean(head_loss(self._hidden(named, batch), self._head, batch.targets), batch)

    def logits(self, named: Parameters, batch: TokenBatch) -> Tensor:
        """Of every predicted token, in float32 or better."""
        logits = self._run(named, batch)
        return logits if logits.dtype == torch.float64 else logits.float()

    def of_logits(self, logits: Tensor, batch: TokenBatch) -> Tensor:
        """The loss that belongs to these logits."""
        picked = logits.gather(-1, batch.targets[..., None])[..., 0]
        return _mean(logits.logsumexp(-1) - picked, batch)

    def convex_part(
        self,
    ) -> tuple[Callable[[Parameters, TokenBatch], Tensor], Callable[[Tensor, Tensor, TokenBatch], Tensor]]:
        """Outputs in which the loss is convex, and products with its Hessian in them, for Gauss-Newton products."""
        head = self._head
        if head is None:
            return self.logits, _curvature_in_logits

        def curvature_in_hidden(hidden: Tensor, direction: Tensor, batch: TokenBatch) -> Tensor:
            curved = head_curvature(hidden, head, direction)
            return _share(curved.view(*batch.targets.shape, -1), batch).flatten(0, 1)

        return self._hidden, curvature_in_hidden

    def _hidden(self, named: Parameters, batch: TokenBatch) -> Float[Tensor, "tokens width"]:
        """What enters a frozen head."""
        return self._run(named, batch, head=False).flatten(0, 1)

    def _run(self, named: Parameters, batch: TokenBatch, **options: bool) -> Tensor:
        inside = {f"model.{name}": value for name, value in named.items()}
        return functional_call(self._tail, inside, (batch.inputs,), options)


class WeightedLoss:
    """`TokenLoss` with the weight ``sigmoid(λ_a)`` for the blocks of article a; blocks of no article weigh one."""

    def __init__(self, loss: TokenLoss, hyper: Float64[Tensor, " articles"]) -> None:
        self._loss, self._weights = loss, hyper.sigmoid()

    def __call__(self, named: Parameters, batch: TokenBatch) -> Tensor:
        return self._loss(named, self._weighted(batch))

    def of_logits(self, logits: Tensor, batch: TokenBatch) -> Tensor:
        """As that of `TokenLoss`."""
        return self._loss.of_logits(logits, self._weighted(batch))

    def convex_part(
        self,
    ) -> tuple[Callable[[Parameters, TokenBatch], Tensor], Callable[[Tensor, Tensor, TokenBatch], Tensor]]:
        """As that of `TokenLoss`."""
        outputs, curvature = self._loss.convex_part()
        return outputs, lambda values, direction, batch: curvature(values, direction, self._weighted(batch))

    def _weighted(self, batch: TokenBatch) -> TokenBatch:
        return batch if batch.articles is None else replace(batch, weights=self._weights[batch.articles])


def _curvature_in_logits(logits: Tensor, direction: Tensor, batch: TokenBatch) -> Tensor:
    probabilities = logits.softmax(-1)
    curved = probabilities * direction
    return _share(curved - probabilities * curved.sum(-1, keepdim=True), batch)


def _mean(losses: Tensor, batch: TokenBatch) -> Float64[Tensor, ""]:
    """Of the losses of all tokens, in the order of the targets, times their weights."""
    losses = losses.double()
    if batch.weights is not None:
        losses = losses.view(batch.targets.shape) * batch.weights[:, None]
    return losses.mean()


def _share(curved: Float[Tensor, "blocks length-1 outputs"], batch: TokenBatch) -> Tensor:
    """What each token's curvature adds to that of `_mean`."""
    curved = curved / batch.targets.numel()
    return curved if batch.weights is None else curved * batch.weights[:, None, None].to(curved.dtype)
