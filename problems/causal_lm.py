"""The network side of a language model: loading, choosing what is tuned, and running only what depends on it."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel
from transformers.activations import NewGELUActivation
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP
from transformers.pytorch_utils import Conv1D

from problems.activations import TanhGELU
from problems.attention import NAME as CLOSED_FORM_ATTENTION
from problems.linear import Linear
from problems.module import matching_parameters

Grouping = Literal["block", "tensor", "kind"]
"""What shares one hyperparameter: a transformer block, one tensor, or one kind of module (attention, MLP, norm ...)."""

SelectBy = Literal["tensor", "block", "kind", "block-kind", "lora"]
"""What is selected for tuning together, see `selection_label`."""

_KINDS = {"attention": ("attn", "attention"), "mlp": ("mlp", "ffn", "feed_forward")}


def as_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """A floating-point dtype, or its name.

    Raises:
        ValueError: for anything else.

    >>> as_dtype("bfloat16")
    torch.bfloat16
    """
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ValueError(f"dtype: expected a floating-point dtype or its name, such as 'float32', got {dtype!r}")
    return found


def load_model(model: str | Path | nn.Module, *, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """A causal language model with eager attention, without dropout, its parameters frozen. An object is copied.

    Fused attention kernels have neither forward mode nor double backward, hence eager attention.

    Raises:
        ValueError: if there is no such folder, or it has no safetensors file; pickled weights are never loaded.
    """
    if isinstance(model, nn.Module):
        loaded: Any = copy.deepcopy(model)
        loaded.set_attn_implementation("eager")
    else:
        _require_safetensors(model)
        loaded = AutoModelForCausalLM.from_pretrained(str(model), use_safetensors=True, attn_implementation="eager")
    return cast(nn.Module, loaded.to(device=device, dtype=dtype).eval().requires_grad_(False))


def load_tokenizer(tokenizer: Any, model: str | Path | nn.Module) -> Any:
    """The tokenizer given as name, folder or object; by default the one that comes with the model.

    Raises:
        ValueError: if none is given and the model is an object, or there is no such folder.
    """
    if tokenizer is None and isinstance(model, nn.Module):
        raise ValueError("tokenizer: a model given as an object comes without one; give a name, a folder or an object")
    chosen = model if tokenizer is None else tokenizer
    if isinstance(chosen, (str, Path)):
        _require_folder("model" if tokenizer is None else "tokenizer", chosen)
    return AutoTokenizer.from_pretrained(str(chosen)) if isinstance(chosen, (str, Path)) else chosen


def _require_folder(argument: str, name: str | Path) -> None:
    """Refuse what looks like a path and leads nowhere: the hub would be asked for it otherwise."""
    is_path = isinstance(name, Path) or name.startswith((".", "/", "~")) or name.count("/") > 1
    if is_path and not Path(name).exists():
        raise ValueError(f"{argument}: there is no folder {name}")


def _require_safetensors(model: str | Path) -> None:
    _require_folder("model", model)
    folder = Path(model)
    if folder.is_dir() and not list(folder.glob("*.safetensors")):
        raise ValueError(
            f"model: {folder} has no *.safetensors file, and pickled weights (pytorch_model.bin) are never loaded, "
            "because they can run code; convert them with save_pretrained of transformers"
        )


def find_blocks(model: nn.Module) -> tuple[str, int]:
    """Name and length of the model's list of transformer blocks.

    Raises:
        ValueError: if the model has none of the length that its configuration says.
    """
    count = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return name, len(module)
    raise ValueError(f"model: found no list of {count} transformer blocks in {type(model).__name__}")


def choose_parameters(
    model: nn.Module, *, blocks: Sequence[int] | None = None, patterns: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Names of the parameters to tune, in the model's order; tied parameters appear once.

    Args:
        blocks: positions of blocks, negative ones from the end; None for the whole model.
        patterns: shell-style patterns of names, such as ``"*.ln_*"``; None for all.

    Raises:
        ValueError: if a block does not exist, or a pattern matches nothing within the blocks.
    """
    inside = None if blocks is None else block_prefixes(model, blocks)
    within = "" if inside is None else f" within blocks={list(blocks or ())}"
    return matching_parameters(model, ["*"] if patterns is None else patterns, inside, within)


def block_prefixes(model: nn.Module, blocks: Sequence[int]) -> tuple[str, ...]:
    """What the names of the parameters in some blocks start with.

    Raises:
        ValueError: if no block is given, or one does not exist.
    """
    name, count = find_blocks(model)
    if not blocks or any(not -count <= block < count for block in blocks):
        raise ValueError(f"blocks: expected positions in {-count} ... {count - 1}, got {list(blocks)}")
    return tuple(f"{name}.{block % count}." for block in blocks)


def group_name(model: nn.Module, parameter: str, by: Grouping) -> str:
    """The name of the group that a parameter belongs to.

    >>> tiny = nn.Sequential(nn.Linear(2, 2))
    >>> group_name(tiny, "0.weight", "tensor"), group_name(tiny, "0.weight", "kind")
    ('0.weight', 'other')

    Raises:
        ValueError: if the grouping is unknown.
    """
    if by not in get_args(Grouping):
        raise ValueError(f"regularize_by: expected one of {get_args(Grouping)}, got {by!r}")
    if by == "tensor":
        return parameter
    if by == "block":
        position = block_of(model, parameter)
        return parameter.rpartition(".")[0] if position is None else f"block.{position}"
    return _kind(model, parameter)


def selection_label(model: nn.Module, parameter: str, by: SelectBy) -> str:
    """The name of the group that a parameter belongs to where groups are selected for tuning.

    ``"kind"`` parts attention, mlp, norm, embedding, other, and bias (all biases outside norms); ``"block-kind"`` does
    so within each block; ``"lora"`` joins the two factors of each adapter and leaves other tensors alone.

    Raises:
        ValueError: if the grouping is unknown.
    """
    if by not in get_args(SelectBy):
        raise ValueError(f"by: expected one of {get_args(SelectBy)}, got {by!r}")
    if by in ("tensor", "block"):
        return group_name(model, parameter, by)
    if by == "lora":
        return re.sub(r"\.lora_(?:embedding_)?[AB]\b.*", "", parameter)
    kind = _kind(model, parameter)
    if kind != "norm" and parameter.endswith("bias"):
        kind = "bias"
    position = block_of(model, parameter) if by == "block-kind" else None
    return kind if position is None else f"block.{position}.{kind}"


def block_of(model: nn.Module, parameter: str) -> int | None:
    """Position of the block that a parameter belongs to, or None if it stands outside the blocks."""
    found = re.match(re.escape(find_blocks(model)[0]) + r"\.(\d+)\.", parameter)
    return int(found[1]) if found else None


def _kind(model: nn.Module, parameter: str) -> str:
    owner = parameter.rpartition(".")[0]
    module = model.get_submodule(owner)
    if isinstance(module, nn.Embedding):
        return "embedding"
    if "norm" in type(module).__name__.lower():
        return "norm"
    for kind, words in _KINDS.items():
        if any(word in part for part in owner.lower().split(".") for word in words):
            return kind
    return "other"


class GPT2Tail(nn.Module):
    """A GPT-2 from its block ``first`` on: what has to run again when tuned weights change.

    With ``first = 0`` it starts from the token ids. Parameters keep their names, with ``model.`` in front. The model's
    activation, attention and linear layers become ones of equal value that are cheaper to differentiate twice.
    """

    def __init__(self, model: GPT2LMHeadModel, first: int) -> None:
        super().__init__()
        self.model, self.first = model, first
        if not model.config.reorder_and_upcast_attn:
            model.set_attn_implementation(CLOSED_FORM_ATTENTION)
        for module in model.modules():
            if isinstance(module, GPT2MLP) and isinstance(module.act, NewGELUActivation):
                module.act = TanhGELU()
            if type(module) is Conv1D:
                module.__class__ = Linear

    def below(self, ids: Tensor) -> Tensor:
        """What enters block ``first``: hidden states (blocks, length, width), or the ids if nothing is below."""
        return ids if self.first == 0 else self._run(self._embed(ids), 0, self.first)

    def forward(self, inputs: Tensor, head: bool = True) -> Tensor:
        """Logits of the predicted tokens, (blocks, length - 1, vocabulary), or the hidden states before the head."""
        hidden = self._embed(inputs) if self.first == 0 else inputs
        # the last position of a block predicts a token outside it
        hidden = self.model.transformer.ln_f(self._run(hidden, self.first, len(self.model.transformer.h))[:, :-1])
        return self.model.lm_head(hidden) if head else hidden

    def _embed(self, ids: Tensor) -> Tensor:
        positions = torch.arange(ids.shape[1], device=ids.device)
        return self.model.transformer.wte(ids) + self.model.transformer.wpe(positions)

    def _run(self, hidden: Tensor, start: int, stop: int) -> Tensor:
        length, lowest = hidden.shape[1], torch.finfo(hidden.dtype).min
        mask = torch.full((length, length), lowest, dtype=hidden.dtype, device=hidden.device).triu(1)[None, None]
        for block in list(self.model.transformer.h)[start:stop]:
            hidden = block(hidden, None, mask)
        return hidden


class WholeModel(nn.Module):
    """Any causal language model, run from the token ids: correct for every architecture, with nothing cached."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def below(self, ids: Tensor) -> Tensor:
        """The ids themselves."""
        return ids

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of the predicted tokens, (blocks, length - 1, vocabulary)."""
        # without a mask, transformers looks for packed sequences by reading a tensor's value, which no tracing survives
        mask = torch.ones_like(inputs)
        return self.model(input_ids=inputs, attention_mask=mask, use_cache=False).logits[:, :-1]


def first_tuned_block(model: nn.Module, tuned: Sequence[str]) -> int:
    """The first block whose output depends on tuned parameters; the number of blocks if only what follows them does."""
    count = find_blocks(model)[1]
    embeddings = {id(table.weight) for table in model.modules() if isinstance(table, nn.Embedding)}
    if any(id(model.get_parameter(name)) in embeddings for name in tuned):
        return 0
    return min(count if (position := block_of(model, name)) is None else position for name in tuned)
