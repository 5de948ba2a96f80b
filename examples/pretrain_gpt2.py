"""Pre-train the small GPT-2 that the package bundles, from plain text files, on a CPU or a GPU.

Three stages, each skipped when its result already lies in ``--work``: a byte-level BPE is trained on the
corpus, the corpus is encoded into one ``uint16`` array, and a `GPT2LMHeadModel` is trained on it with AdamW
and a cosine schedule. Training writes a checkpoint every ``--checkpoint-every`` steps and resumes from it, with
the same batches in the same order, after any interruption.

Example:
    python examples/pretrain_gpt2.py --corpus corpus/*.txt.xz --work build/gpt2 --steps 1800

The model lands in ``WORK/model`` (float16 safetensors, tokenizer and ``pretraining.json``).
"""

from __future__ import annotations

import argparse
import glob
import json
import lzma
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

END_OF_TEXT = "<|endoftext|>"


def read_documents(paths: list[Path]) -> Iterator[str]:
    """Yield the articles of text files (optionally xz-compressed), separated by ``<|endoftext|>``."""
    for path in paths:
        opener = lzma.open if path.suffix == ".xz" else open
        with opener(path, "rt", encoding="utf-8") as stream:
            for document in stream.read().split(END_OF_TEXT):
                if document.strip():
                    yield document.strip()


def train_tokenizer(paths: list[Path], vocab_size: int, out: Path) -> GPT2TokenizerFast:
    """Train a byte-level BPE on every eighth article and save it in Hugging Face's format."""
    if not (out / "tokenizer.json").exists():
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        sample = (text for index, text in enumerate(read_documents(paths)) if index % 8 == 0)
        bpe.train_from_iterator(sample, trainer)
        GPT2TokenizerFast(tokenizer_object=bpe, eos_token=END_OF_TEXT, bos_token=END_OF_TEXT).save_pretrained(out)
    return GPT2TokenizerFast.from_pretrained(out)


def encode_corpus(paths: list[Path], tokenizer: GPT2TokenizerFast, out: Path) -> np.ndarray:
    """Encode all articles, each followed by ``<|endoftext|>``, into one memory-mapped uint16 array."""
    if not out.exists():
        end = tokenizer.eos_token_id
        chunks: list[np.ndarray] = []
        documents = list(read_documents(paths))
        for start in track(range(0, len(documents), 256), description="encoding"):
            encodings = tokenizer.backend_tokenizer.encode_batch(documents[start : start + 256])
            chunks += [np.array([*encoding.ids, end], dtype=np.uint16) for encoding in encodings]
        partial = out.with_suffix(".partial.npy")
        np.save(partial, np.concatenate(chunks))
        partial.replace(out)
    return np.load(out, mmap_mode="r")


def batch_at(tokens: np.ndarray, step: int, args: argparse.Namespace) -> torch.Tensor:
    """Batch number ``step``: context windows in an order fixed by the seed, reshuffled every epoch."""
    blocks = len(tokens) // args.context
    per_epoch = blocks // args.batch
    epoch, within = divmod(step, per_epoch)
    order = np.random.default_rng([args.seed, epoch]).permutation(blocks)
    rows = order[within * args.batch : (within + 1) * args.batch]
    return torch.from_numpy(
        np.stack([tokens[row * args.context : (row + 1) * args.context] for row in rows]).astype(np.int64)
    )


def learning_rate(step: int, args: argparse.Namespace) -> float:
    """Linear warm-up over 2 % of the steps, then cosine decay to a twentieth of the peak."""
    warmup = max(1, args.steps // 50)
    if step < warmup:
        return args.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, args.steps - warmup)
    return args.lr * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


def save_checkpoint(path: Path, state: dict) -> None:
    """Write a checkpoint atomically."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def train(tokens: np.ndarray, args: argparse.Namespace, work: Path, vocab_size: int) -> GPT2LMHeadModel:
    """Train for ``args.steps`` steps, resuming from ``WORK/checkpoint.pt`` where it exists."""
    torch.manual_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocab_size, n_positions=args.context, n_embd=args.width, n_layer=args.layers,
            n_head=args.heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
        )
    ).to(device)  # fmt: skip
    decay = [p for p in model.parameters() if p.dim() >= 2]
    rest = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.95))
    step, seconds, checkpoint = 0, 0.0, work / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, seconds = state["step"], state["seconds"]
    started, log = time.monotonic() - seconds, (work / "log.jsonl").open("a")
    while step < args.steps:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args)
        ids = batch_at(tokens, step, args).to(device)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=args.bfloat16):
            logits = model(ids).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 10 == 0:
            record = {"step": step, "loss": round(loss.item(), 4), "seconds": round(time.monotonic() - started, 1)}
            print(json.dumps(record), file=log, flush=True)
        if step % args.checkpoint_every == 0 or step == args.steps:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            save_checkpoint(checkpoint, state | {"seconds": time.monotonic() - started})
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", nargs="+", required=True, help="text files, optionally .xz; globs are expanded")
    parser.add_argument("--work", type=Path, required=True, help="folder for tokenizer, tokens, checkpoint, model")
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32, help="sequences per step")
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bfloat16", action="store_true", help="autocast matrix products to bfloat16")
    parser.add_argument("--checkpoint-every", type=int, default=100)
    args = parser.parse_args()
    paths = [Path(name) for pattern in args.corpus for name in sorted(glob.glob(pattern))]  # noqa: PTH207  (patterns may be absolute)
    if not paths:
        parser.error(f"--corpus: no file matches {args.corpus}")
    args.work.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(paths, args.vocab, args.work / "model")
    tokens = encode_corpus(paths, tokenizer, args.work / "tokens.npy")
    model = train(tokens, args, args.work, len(tokenizer))
    model.half().save_pretrained(args.work / "model")
    seen = args.steps * args.batch * args.context
    facts = {"corpus_tokens": len(tokens), "tokens_seen": seen, "epochs": round(seen / len(tokens), 3)}
    options = {key: value for key, value in vars(args).items() if key not in ("work", "corpus")}
    (args.work / "model" / "pretraining.json").write_text(json.dumps(facts | options, indent=2) + "\n")


if __name__ == "__main__":
    main()
