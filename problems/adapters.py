"""Selections and `peft`: what a selection means for a `peft` configuration, and language models with LoRA adapters."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from lift_core.selection import Selection, transfer_pieces


class PeftTargets(NamedTuple):
    """Arguments of a `peft` configuration.

    Attributes:
        target_modules: modules whose weight matrix was selected: adapters go there.
        modules_to_save: selected modules that adapters do not fit (layer norms, embeddings): trained as they are.
        left_out: selected pieces that such a configuration cannot name: biases of modules with an adapter or without,
            and parts of a matrix whose module is named already. ``bias="lora_only"`` of `peft` trains the former.
    """

    target_modules: list[str]
    modules_to_save: list[str]
    left_out: list[str]


def peft_targets(selection: Selection, model: nn.Module) -> PeftTargets:
    """What a selection means for a `peft` configuration of a model, see `transfer_pieces` for one of another depth.

    ``LoraConfig(r=8, target_modules=targets.target_modules, modules_to_save=targets.modules_to_save)``

    Raises:
        ValueError: if nothing of the selection is in the model.

    >>> class Tiny(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.fc, self.norm = nn.Linear(2, 2), nn.LayerNorm(2)
    >>> pieces = ("fc.weight", "fc.bias", "norm.weight")
    >>> chosen = Selection(("a",), pieces, "exact", "exact", 1.0, 8, 10, 1.0, 1.0, "tiny", 0)
    >>> peft_targets(chosen, Tiny())
    PeftTargets(target_modules=['fc'], modules_to_save=['norm'], left_out=['fc.bias'])
    """
    tensors: dict[str, slice] = {}
    for name, value in model.named_parameters():
        tensors[name] = slice(0, value.numel())
    targets = PeftTargets([], [], [])
    for piece in transfer_pieces(selection, tensors):
        module, _, kind = piece.tensor.rpartition(".")
        matrix = model.get_parameter(piece.tensor).ndim == 2 and not isinstance(
            model.get_submodule(module), nn.Embedding
        )
        has_matrix = any(value.ndim == 2 for value in model.get_submodule(module).parameters(recurse=False))
        if kind == "bias" and has_matrix:
            targets.left_out.append(str(piece))
        else:
            where = targets.target_modules if matrix else targets.modules_to_save
            if module not in where:
                where.append(module)
            if not piece.is_whole:
                targets.left_out.append(f"{piece} (its whole module is named)")
    return targets


def with_lora(
    model: nn.Module, *, rank: int, target_modules: list[str] | str, alpha: int | None = None, seed: int = 0
) -> nn.Module:
    """The model with LoRA adapters that `peft` puts into it: tune ``trainable="*lora_*"`` of it.

    Args:
        model: is changed; its class stays, so that a GPT-2 still runs from its first tuned block on.
        rank: of every adapter.
        target_modules: names, or one regular expression, as `peft` takes them.
        alpha: scale in multiples of 1 / rank; twice the rank by default.
        seed: of the first factors; the second ones start at zero.

    Raises:
        ModuleNotFoundError: with the command that installs `peft`.
        ValueError: if the rank is below 1.

    Reference: Hu et al. (2022), LoRA, arXiv 2106.09685.
    """
    if rank < 1:
        raise ValueError(f"rank: expected at least 1, got {rank}")
    try:
        peft: Any = import_module("peft")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'adapters need the package peft: pip install "lift-bilevel[peft]"', name="peft"
        ) from error
    config = peft.LoraConfig(
        r=rank, lora_alpha=2 * rank if alpha is None else alpha, lora_dropout=0.0, target_modules=target_modules,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cast(nn.Module, peft.inject_adapter_in_model(config, model))
