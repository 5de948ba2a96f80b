"""Weights of training articles: the weighted loss, its derivatives, and what they say of corrupted articles."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lift_core.curvature import Fisher, build_curvature
from lift_core.metering import Metered
from lift_core.problem import Point
from lift_core.selection import Restricted
from lift_core.testing.problems import check_problem
from problems.article_weights import ArticleWeights, NoisyWikiText2
from tests.tiny_language import article, tiny_gpt2, tiny_texts, tiny_tokenizer

LENGTHS = (20, 5, 40, 17)
"""Tokens of the training articles; with blocks of eight, the second one is too short."""


def tiny_articles(**options: Any) -> ArticleWeights:
    defaults: dict[str, Any] = {
        "model": tiny_gpt2(),
        "tokenizer": tiny_tokenizer(),
        "texts": tiny_texts() | {"train": [article(seed, length) for seed, length in enumerate(LENGTHS)]},
        "block_length": 8,
        "batch_blocks": 4,
        "dtype": torch.float64,
        "device": "cpu",
        "trainable": "*.1.ln_1.*",
    }
    return ArticleWeights(**(defaults | options))


def at(problem: ArticleWeights, *hyper: float) -> Point:
    noise = torch.randn(len(problem.initial_point().weights), generator=torch.Generator().manual_seed(3)).double()
    weights = problem.initial_point().weights + 0.05 * noise
    return Point(torch.tensor(hyper, dtype=torch.float64), weights)


def test_contract() -> None:
    check_problem(tiny_articles())


def test_articles_are_cut_one_by_one() -> None:
    problem = tiny_articles()
    batches = list(problem.batches("train"))
    numbers = torch.cat([batch.articles for batch in batches if batch.articles is not None])
    assert numbers.tolist() == [0, 0, 1, 1, 1, 1, 1, 2, 2] and problem.hyper_names == tuple(
        f"article {number}" for number in range(3)
    )
    words = [f"w{token}" for token in torch.cat([batch.ids for batch in batches])[2:7].flatten().tolist()]
    assert words == article(2, 40).split()
    assert all(batch.articles is None for batch in problem.batches("direction"))


@pytest.mark.parametrize("trainable", ["*.1.ln_1.*", "*.wte.*"])  # a frozen head and a tuned one
def test_the_loss_of_an_article_counts_by_its_weight(trainable: str) -> None:
    problem = tiny_articles(trainable=trainable)
    point = at(problem, 1.0, -2.0, 0.5)
    total, count = 0.0, 0
    for batch in problem.batches("train"):
        logits = problem.outputs(point.weights, batch)
        losses = cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none").view_as(batch.targets)
        assert batch.articles is not None
        total += float((losses.mean(1) * point.hyper.sigmoid()[batch.articles]).sum())
        count += len(batch.ids)
    assert problem.lower_loss(point) == pytest.approx(total / count, rel=1e-12)


def per_article(problem: ArticleWeights, point: Point, quantity: Any) -> list[Tensor]:
    """A quantity that is linear in the weights, of each article alone at weight one: from λ at two values."""
    parts: list[Tensor] = []
    for number in range(len(point.hyper)):
        low, high = (point.hyper.clone(), point.hyper.clone())
        low[number], high[number] = -3.0, 3.0
        rise = torch.tensor(3.0).double().sigmoid() - torch.tensor(-3.0).double().sigmoid()
        parts.append((quantity(Point(high, point.weights)) - quantity(Point(low, point.weights))) / rise)
    return parts


def test_the_mixed_partial_has_the_gradients_of_the_articles_as_columns() -> None:
    problem = tiny_articles()
    point = at(problem, 1.0, -2.0, 0.5)
    weight = point.hyper.sigmoid()
    columns = per_article(problem, point, problem.training_gradient)
    expected = torch.stack(columns, dim=1) * weight * (1 - weight)
    torch.testing.assert_close(problem.mixed(point).to_dense(), expected, rtol=1e-9, atol=1e-12)


def test_some_blocks_may_stand_for_their_article() -> None:
    options = {"texts": tiny_texts() | {"train": [article(1, 8 * 7), article(2, 8)]}}
    whole, sampled = tiny_articles(**options), tiny_articles(**options, sampled_blocks=3)
    point = at(whole, 0.3, -0.2)
    assert (whole.mixed_passes, sampled.mixed_passes) == (1.0, 4 / 8)
    metered = Metered(sampled)
    ours, exact = metered.mixed(point).to_dense(), whole.mixed(point).to_dense()
    assert metered.cost.gradients == 4 / 8
    blocks = whole.batches("train")[0].ids[[0, 3]], whole.batches("train")[1].ids[[2]]
    leaves = whole.named_weights(point.weights.clone().requires_grad_())
    chosen = replace(whole.batches("direction")[0], ids=torch.cat(blocks), inputs=whole._loss.below(torch.cat(blocks)))
    parts = torch.autograd.grad(whole._loss(leaves, chosen), list(leaves.values()))
    weight = point.hyper.sigmoid()[0]
    expected = weight * (1 - weight) * 7 / 8 * torch.cat([part.flatten() for part in parts])
    torch.testing.assert_close(ours[:, 0], expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours[:, 1], exact[:, 1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["training_hessian", "training_gauss_newton"])
@pytest.mark.parametrize("trainable", ["*.1.ln_1.*", "*.wte.*"])  # a frozen head and a tuned one
def test_curvature_is_the_weighted_mean_of_that_of_the_articles(name: str, trainable: str) -> None:
    problem = tiny_articles(trainable=trainable)
    point = at(problem, 1.0, -2.0, 0.5)
    vector = torch.randn(len(point.weights), generator=torch.Generator().manual_seed(5)).double()

    def product(where: Point) -> Tensor:
        return getattr(problem, name)(where).matvec(vector)

    weighted = torch.stack(per_article(problem, point, product), dim=1) @ point.hyper.sigmoid()
    torch.testing.assert_close(product(point), weighted, rtol=1e-8, atol=1e-11)


def test_articles_of_other_splits_weigh_one() -> None:
    problem = tiny_articles()
    point = at(problem, 1.0, -2.0, 0.5)
    training = problem.training_gradient(point, problem.batches("direction"))
    assert torch.equal(training, problem.upper_gradient(point, "direction")[1])


def test_corruption_changes_the_drawn_articles_alone() -> None:
    clean, noisy = tiny_articles(), tiny_articles(corrupted_share=0.5, replaced_share=1.0)
    assert int(noisy.corrupted.sum()) == 2 and not clean.corrupted.any()
    for before, after in zip(clean.batches("train"), noisy.batches("train"), strict=True):
        assert after.articles is not None
        changed = (before.ids != after.ids).any(dim=1)
        assert torch.equal(changed, noisy.corrupted[after.articles])
    for split in ("direction", "selection", "test"):
        assert torch.equal(clean.batches(split)[0].ids, noisy.batches(split)[0].ids)
    again = tiny_articles(corrupted_share=0.5, replaced_share=1.0)
    assert torch.equal(noisy.batches("train")[0].ids, again.batches("train")[0].ids)
    assert clean.describe() != noisy.describe() != tiny_articles(corrupted_share=0.5, sampled_blocks=1).describe()


def test_part_of_the_weights_keeps_all_articles() -> None:
    problem = tiny_articles(corrupted_share=0.5)
    part = problem.tuned(["transformer.h.1.ln_1.bias"])
    assert part.hyper_names == problem.hyper_names and len(part.initial_point().weights) == 32
    assert torch.equal(part.batches("train")[0].ids, problem.batches("train")[0].ids)


def test_articles_beyond_the_limit_of_tokens_have_no_weight() -> None:
    problem = tiny_articles(max_tokens={"train": 30}, corrupted_share=0.5)
    (batch,) = problem.batches("train")
    assert batch.articles is not None and batch.articles.tolist() == [0, 0, 1]
    assert (problem.hyper_names, int(problem.corrupted.sum())) == (("article 0", "article 1"), 1)


def test_inputs_need_not_be_kept() -> None:
    kept, again = tiny_articles(sampled_blocks=2), tiny_articles(sampled_blocks=2, keep_inputs=False)
    point = at(kept, 1.0, -2.0, 0.5)
    assert torch.equal(kept.mixed(point).to_dense(), again.mixed(point).to_dense())
    assert torch.equal(kept.training_gradient(point), again.training_gradient(point))


def test_fisher_estimates_the_weighted_gauss_newton_matrix() -> None:
    problem = tiny_articles(trainable="*.1.ln_1.bias")
    point = at(problem, -2.0, 1.0, 3.0)
    model = Fisher(samples=9 * 300, rank=32, check=False)
    found = build_curvature(model, problem, point, start=torch.ones(32).double()).hessian.to_dense()
    exact = problem.training_gauss_newton(point).to_dense()
    assert float((found - exact).norm() / exact.norm()) < 0.12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corrupted_share": 1.5}, "corrupted_share: expected a number from 0 to 1, got 1.5"),
        ({"replaced_share": -0.5}, "replaced_share: expected a number from 0 to 1, got -0.5"),
        ({"sampled_blocks": 0}, "sampled_blocks: expected at least 1, or None for all, got 0"),
        ({"initial_strength": 0.1}, "initial_strength: expected none"),
        ({"block_length": 16, "texts": tiny_texts() | {"train": [article(1, 10)]}}, "no training article has a block"),
        ({"skip_tokens": {"train": 7}}, "skip_tokens: expected none for train"),
        ({"max_tokens": {"train": 7}}, "max_tokens: expected at least a block of 8 tokens for train"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_articles(**options)


def test_a_mixed_partial_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = tiny_articles()
    monkeypatch.setattr("problems.article_weights.available_bytes", lambda device: 1000)
    with pytest.raises(ValueError, match=r"train_share: the mixed partial of 64 weights and 3 articles needs .* GiB"):
        problem.mixed(problem.initial_point())


def test_corrupted_articles_of_wikitext_help_the_direction_data_least() -> None:
    limits = {"direction": 4_000, "selection": 2_000, "test": 2_000}
    noisy = NoisyWikiText2(train_share=0.01, max_tokens=limits, sampled_blocks=None, device="cpu")
    problem, point = Metered(noisy), noisy.initial_point()
    gain = problem.mixed(point).rmatvec(problem.upper_gradient(point)[1])
    numbers = [batch.articles for batch in noisy.batches("train") if batch.articles is not None]
    per_block = gain / torch.cat(numbers).bincount()
    assert per_block[noisy.corrupted].max() < per_block[~noisy.corrupted].min()
    assert problem.cost.gradients == pytest.approx(
        1.0 + problem.num_examples("direction") / problem.num_examples("train")
    )


def test_a_restricted_problem_keeps_the_contract() -> None:
    check_problem(Restricted(tiny_articles(), torch.arange(0, 64, 3)))
