"""Toy language models, tokenizers and texts for the tests."""

import random
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from problems import LanguageModel

VOCABULARY = 100


def tiny_gpt2(*, tied: bool = True, seed: int = 0) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=16, n_embd=32, n_layer=2, n_head=2, tie_word_embeddings=tied,
        initializer_range=0.2, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({f"w{index}": index for index in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, white space included."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=letters)


def article(seed: int, length: int = 20) -> str:
    draw = random.Random(seed)
    return " ".join(f"w{draw.randrange(VOCABULARY)}" for _ in range(length))


def tiny_texts() -> dict[str, list[str]]:
    return {
        "train": [article(seed) for seed in range(4)],
        "validation": [article(seed) for seed in range(10, 14)],
        "test": [article(seed) for seed in range(20, 22)],
    }


def tiny_problem(**options: Any) -> LanguageModel:
    defaults: dict[str, Any] = {
        "model": tiny_gpt2(),
        "tokenizer": tiny_tokenizer(),
        "texts": tiny_texts(),
        "block_length": 8,
        "batch_blocks": 4,
        "dtype": torch.float64,
        "device": "cpu",
    }
    return LanguageModel(**(defaults | options))
