"""Articles, splits and blocks of tokens, and models and tokenizers from folders."""

import json
from pathlib import Path

import pytest
import torch

from problems.text import SEPARATOR, TextDataset, balanced_halves, four_splits
from problems.token_batches import TokenBatches, token_blocks
from tests.tiny_language import article, byte_tokenizer, tiny_gpt2, tiny_problem, tiny_texts, tiny_tokenizer


@pytest.mark.parametrize("seed", range(5))
def test_splits_are_disjoint_by_article_and_halves_are_balanced(seed: int) -> None:
    validation = [article(100 + index, length=10 + index * index) for index in range(20)]
    texts = tiny_texts() | {"validation": validation}
    splits = four_splits(texts, seed=seed)
    assert sorted([*splits["direction"], *splits["selection"]]) == sorted(validation)
    everything = [text for articles in splits.values() for text in articles]
    assert len(set(everything)) == len(everything)
    first, second = (sum(map(len, half)) for half in balanced_halves(validation, seed=seed))
    assert abs(first - second) < 0.25 * (first + second)
    assert four_splits(texts, seed=seed) == splits != four_splits(texts, seed=seed + 1)


def test_smaller_training_shares_are_subsets() -> None:
    texts = tiny_texts() | {"train": [article(1000 + seed) for seed in range(40)]}
    shares = [set(four_splits(texts, train_share=share, seed=2)["train"]) for share in (0.05, 0.25, 1.0)]
    assert [len(share) for share in shares] == [2, 10, 40]
    assert shares[0] < shares[1] < shares[2]


def test_given_splits_are_taken_as_they_are() -> None:
    texts = {split: [article(seed)] for seed, split in enumerate(("train", "direction", "selection", "test"))}
    assert four_splits(texts) == {split: tuple(articles) for split, articles in texts.items()}


def test_blocks_cover_the_joined_text() -> None:
    articles = [article(1, 13), article(2, 9)]
    ids = token_blocks(articles, tiny_tokenizer(), block_length=5)
    joined = tiny_tokenizer()(SEPARATOR.join(articles))["input_ids"]
    assert ids.flatten().tolist() == joined[:20]
    assert token_blocks(articles, tiny_tokenizer(), block_length=5, max_tokens=14).shape == (2, 5)
    spaced = [" = A = \n\n\n text\n", " = B = \n\n\n more\n"]
    ids = token_blocks(spaced, byte_tokenizer(), block_length=2)
    assert ids.flatten().tolist() == byte_tokenizer()(SEPARATOR.join(spaced))["input_ids"]


def test_batches_are_a_sequence() -> None:
    batches = TokenBatches(torch.arange(10).view(5, 2), 2, lambda ids: ids, keep=True)
    assert [len(batch.ids) for batch in batches] == [2, 2, 1] == [len(batch.ids) for batch in batches[:]]
    assert batches[-1].ids.tolist() == [[8, 9]] and batches[-1] is batches[2] and batches.num_predicted == 5
    with pytest.raises(IndexError):
        batches[3]


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".parquet"])
def test_local_data_sets(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows, path = [article(seed) for seed in range(10)], tmp_path / f"texts{suffix}"
    if suffix == ".txt":
        path.write_text("\n\n".join(rows))
    elif suffix == ".jsonl":
        path.write_text("\n".join(json.dumps({"text": row}) for row in rows))
    else:
        datasets.Dataset.from_dict({"text": rows}).to_parquet(path)
    parts = {"train": "train[:50%]", "validation": "train[50%:80%]", "test": "train[80%:]"}
    problem = tiny_problem(texts=TextDataset(path, parts=parts))  # pyright: ignore[reportArgumentType]
    assert {text for articles in problem.articles.values() for text in articles} == set(rows)
    with pytest.raises(ValueError, match="column"):
        TextDataset(path, column="words", parts=parts).load()  # pyright: ignore[reportArgumentType]


def test_a_folder_with_one_file_per_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    for part, articles in tiny_texts().items():
        (tmp_path / "data" / f"{part}.txt").write_text("\n".join(articles))
    assert tiny_problem(texts=str(tmp_path / "data")).describe() == tiny_problem().describe()


def test_the_description_knows_the_limits_of_the_splits_not_their_order() -> None:
    one, other = tiny_problem(max_tokens={"test": 64, "train": 96}), tiny_problem(max_tokens={"train": 96, "test": 64})
    assert one.describe() == other.describe() != tiny_problem(max_tokens={"train": 96}).describe()


def test_tokens_at_the_start_of_a_split_are_left_out() -> None:
    whole, skipping = tiny_problem(), tiny_problem(skip_tokens={"test": 9}, max_tokens={"test": 17})
    tokens = token_blocks(whole.articles["test"], tiny_tokenizer(), block_length=1)[:, 0]
    blocks = torch.cat([batch.ids for batch in skipping.batches("test")])
    assert torch.equal(blocks, tokens[9:25].view(2, 8))
    assert torch.equal(skipping.batches("train")[0].ids, whole.batches("train")[0].ids)
    assert skipping.describe() != tiny_problem(max_tokens={"test": 17}).describe()
    assert tiny_problem(skip_tokens={"test": 0}).describe() == whole.describe()


def test_model_and_tokenizer_from_a_folder(tmp_path: Path) -> None:
    tiny_gpt2().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    saved, given = tiny_problem(model=tmp_path, tokenizer=None), tiny_problem()
    assert saved.describe() == given.describe()
    assert saved.loss(saved.initial_point(), "test") == given.loss(given.initial_point(), "test")
    assert saved.describe() != tiny_problem(model=tiny_gpt2(seed=1)).describe()


def test_a_split_shorter_than_a_block_is_named() -> None:
    problem = tiny_problem(max_tokens={"selection": 7})
    with pytest.raises(ValueError, match=r"'selection' has 40 tokens .*max_tokens=7\), less than one block of 8"):
        problem.batches("selection")
    with pytest.raises(ValueError, match=r"'selection' has 5 tokens \(skip_tokens=35, .* less than one block of 8"):
        tiny_problem(skip_tokens={"selection": 35}).batches("selection")


def test_a_tokenizer_of_another_model_is_noticed() -> None:
    small = tiny_gpt2()
    small.resize_token_embeddings(50)
    with pytest.raises(ValueError, match="tokenizer: expected the model's own, with 50 entries"):
        tiny_problem(model=small).batches("train")


def test_an_unknown_file_type_is_named(tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text("a")
    with pytest.raises(ValueError, match=r"path: expected a file that ends in one of"):
        tiny_problem(texts=tmp_path / "texts.csv")


def test_an_article_in_two_splits_is_told_of() -> None:
    texts = {"train": ["a b", "c d"], "direction": ["e f"], "selection": ["g h", "c d "], "test": ["i j"]}
    with pytest.warns(UserWarning, match=r"texts: 1 of the 2 different articles of 'selection' are in 'train' as well"):
        splits = four_splits(texts)
    assert splits["selection"] == ("g h", "c d ")
