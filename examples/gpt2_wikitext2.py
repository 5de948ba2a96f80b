# %% [markdown]
# Fine-tune a GPT-2 on WikiText-2 and let the regularisation of each block tune itself. By default the small GPT-2 that
# comes with the package; `--model gpt2` takes OpenAI's from the Hugging Face hub. With `LIFT_TOY=1` a random network of
# a few thousand weights on a few articles shows every step in seconds.

# %%
from __future__ import annotations

import argparse
import math
import os

import torch

import lift_core as lift
from backends import DualNewton
from problems import GPT2WikiText2

TOY = os.environ.get("LIFT_TOY") == "1"
parser = argparse.ArgumentParser()
parser.add_argument("--model", default=None, help="hub name or folder; default: the bundled small GPT-2")
parser.add_argument("--check", action="store_true", help="perplexity of gpt2 on raw test, then stop; needs the hub")
args, _ = parser.parse_known_args()

# %% [markdown]
# The check of the language-model path: GPT-2 without fine-tuning on the raw test text in blocks of 1,024 tokens must
# give 29.94 within 0.05.

# %%
if args.check:
    published = GPT2WikiText2(model="gpt2", variant="raw", block_length=1024, batch_blocks=1, keep_inputs=False)
    measured = published.perplexity(published.initial_point(), "test")
    print(measured)
    raise SystemExit(0 if abs(measured.perplexity - 29.94) <= 0.05 else 1)


# %% [markdown]
# The problem. Articles are divided among the splits; the last block is tuned; each block has its own strength. For the
# toy, a word-level tokenizer and a random network stand in.


# %%
def toy_problem() -> lift.BilevelProblem:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    from problems import LanguageModel
    from problems.gpt2_wikitext2 import wikitext2

    torch.manual_seed(0)
    articles = {part: wikitext2(part)[:4] for part in ("train", "validation", "test")}
    words = sorted({word for texts in articles.values() for text in texts for word in text.split()})[:200]
    vocabulary = {word: number for number, word in enumerate(["<unk>", *words])}
    splitter = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    splitter.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    config = GPT2Config(
        vocab_size=len(vocabulary), n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return LanguageModel(
        model=GPT2LMHeadModel(config),
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=splitter, unk_token="<unk>"),
        texts=articles,
        max_tokens={"train": 512, "direction": 256, "selection": 256, "test": 256},
    )


options = {} if args.model is None else {"model": args.model}
problem = toy_problem() if TOY else GPT2WikiText2(blocks=[-1], train_share=0.05, **options)
point = problem.initial_point()
print(f"{len(point.weights):,} weights, {len(point.hyper)} strengths")
print(
    "zero-shot:", ", ".join(f"{split} {problem.perplexity(point, split).perplexity:.2f}" for split in ("train", "test"))
)

# %% [markdown]
# The search: warm up, then one direction LP along a path of slack ratios, and every control from the same point.

# %%
box = lift.TrustBox(relative=True, weights_radius=0.05)
curvature = lift.LowRank(rank=4 if TOY else 64, share=1.0 if TOY else 0.25)
search = lift.LocalSearch(
    backend=DualNewton(),
    curvature=curvature,
    slack=(1e-3, 1e-1) if TOY else (1e-4, 1e-3, 1e-2, 1e-1),
    box=box,
    warmup_epochs=1 if TOY else 2,
    controls=() if TOY else lift.standard_controls(box, share=curvature.share),
)
result = search.run(problem)

# %% [markdown]
# The test split was read once, after every choice had been made.

# %%
print(f"{'method':<26}{'validation':>11}{'test':>9}{'gradients':>11}{'HVPs':>7}")
for row in result.methods:
    validation, test = math.exp(row["selection"]), math.exp(row["test"])
    spent = row["cost"]
    print(f"{row['method']:<26}{validation:>11.2f}{test:>9.2f}{spent['gradients']:>11.1f}{spent['hvps']:>7.1f}")
for name, before, after in zip(result.hyper_names, result.hyper_before, result.hyper_after, strict=True):
    print(f"{name}: strength {math.exp(before):.2g} -> {math.exp(after):.2g}")
