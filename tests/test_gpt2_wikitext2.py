"""WikiText-2 as bundled, and the small GPT-2 on it."""

import math
from typing import Any, get_args

import pytest
import torch

from problems import GPT2WikiText2
from problems.gpt2_wikitext2 import BUNDLED_MODEL, Variant, wikitext2
from problems.text import SEPARATOR, Part, wikitext_articles
from tests.tiny_language import tiny_gpt2, tiny_tokenizer

needs_model = pytest.mark.skipif(
    not list(BUNDLED_MODEL.glob("*.safetensors")), reason=f"the bundled model is not at {BUNDLED_MODEL.name}"
)


@pytest.mark.parametrize("variant", get_args(Variant))
@pytest.mark.parametrize(("part", "count"), [("train", 600), ("validation", 60), ("test", 60)])
def test_number_of_articles(part: Part, count: int, variant: Variant) -> None:
    articles = wikitext2(part, variant)
    assert len(articles) == count == len(set(articles))
    unknown = sum("<unk>" in article for article in articles)
    assert (unknown == 0) if variant == "raw" and part != "train" else (unknown >= count - 1)


def test_articles_joined_are_the_published_text() -> None:
    # words of the official release, where every line ends in one more token
    assert len(SEPARATOR.join(wikitext2("test")).split()) + 4358 == 245569
    assert len(SEPARATOR.join(wikitext2("validation")).split()) + 3760 == 217646


def test_headings_inside_tables_start_no_article() -> None:
    lines = [
        "\n",
        " = A = \n",
        "\n",
        " text\n",
        " = Goals ; A = \n",
        " text\n",
        "\n",
        " = = B = = \n",
        "\n",
        " = C = \n",
    ]
    first, second = wikitext_articles([*lines, "\n", " text\n"])
    assert first.startswith("\n\n = A = \n\n\n") and " = Goals ; A = " in first and " = = B = = " in first
    assert second == " = C = \n\n\n\n\n text\n"
    assert wikitext_articles(["\n", ""]) == [] and wikitext_articles(["text"]) == ["text\n"]


def test_any_gpt2_takes_its_place() -> None:
    problem = GPT2WikiText2(
        model=tiny_gpt2(),
        tokenizer=tiny_tokenizer(),
        block_length=16,
        train_share=0.05,
        regularize_by="block",
        device="cpu",
        seed=1,
    )
    assert [len(problem.articles[split]) for split in ("train", "direction", "selection", "test")] == [30, 30, 30, 60]
    assert problem.hyper_names == ("block.1",) and problem.name == "gpt2_wikitext2"
    halves = [sum(map(len, problem.articles[split])) for split in ("direction", "selection")]
    assert 0.9 < halves[0] / halves[1] < 1.1


@pytest.mark.parametrize("options", [{"variant": "natural"}, {"unknown": 1}])
def test_bad_arguments(options: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=r"variant: expected one of|unknown"):
        GPT2WikiText2(**options)


@needs_model
def test_bundled_model_predicts_wikipedia() -> None:
    problem = GPT2WikiText2(max_tokens={"test": 2048, "train": 256}, device="cpu")
    point = problem.initial_point()
    before = problem.perplexity(point, "test")
    assert len(point.weights) == 444_864 and before.predicted_tokens == 8 * 255
    assert 50 < before.perplexity < 1000
    gradient = problem.lower_gradient(point)
    moved = type(point)(point.hyper, point.weights - 0.1 * gradient)
    assert problem.lower_loss(moved) < problem.lower_loss(point)
    product = problem.training_hessian(point).matvec(gradient)
    assert bool(torch.isfinite(product).all()) and math.isfinite(float(gradient @ product))


@needs_model
def test_tokens_of_the_articles_are_tokens_of_the_joined_text() -> None:
    problem = GPT2WikiText2(device="cpu")
    joined = problem.tokenizer(SEPARATOR.join(problem.articles["selection"]), verbose=False)["input_ids"]
    blocks = torch.cat([batch.ids for batch in GPT2WikiText2(blocks=[0], device="cpu").batches("selection")])
    assert blocks.flatten().tolist() == joined[: blocks.numel()]
