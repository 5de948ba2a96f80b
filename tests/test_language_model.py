"""The language-model problem at toy size: against transformers' own forward pass, and against explicit Hessians."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, jacrev
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.activations import NewGELUActivation

from lift_core.problem import Point, Split
from lift_core.testing.problems import check_problem
from problems import LanguageModel
from problems.activations import TanhGELU
from tests.tiny_language import VOCABULARY, article, tiny_gpt2, tiny_problem, tiny_texts


def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, initializer_range=0.2, pad_token_id=None, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def moved(problem: LanguageModel, scale: float = 0.05) -> Point:
    """A point off the pretrained weights."""
    point = problem.initial_point()
    noise = torch.randn(len(point.weights), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return Point(point.hyper, point.weights + scale * noise)


def reference_logits(problem: LanguageModel, weights: Tensor, ids: Tensor) -> Tensor:
    """transformers' own forward pass at the given weights."""
    with torch.no_grad():
        return functional_call(problem.model, problem.named_weights(weights), (ids,), {"use_cache": False}).logits[
            :, :-1
        ]


def reference_loss(problem: LanguageModel, weights: Tensor, split: Any = "train") -> float:
    batches = problem.batches(split)
    ids = torch.cat([batch.ids for batch in batches])
    logits = reference_logits(problem, weights, ids)
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()))


SETS: dict[str, dict[str, Any]] = {
    "last block": {},
    "block 0": {"blocks": [0]},
    "both blocks": {"blocks": [0, 1]},
    "norms": {"trainable": "*.ln_*"},
    "final norm": {"trainable": "transformer.ln_f.*"},
    "tied embeddings": {"trainable": "*.wte.*"},
    "everything": {"trainable": "*"},
    "untied head": {"model": tiny_gpt2(tied=False), "trainable": "lm_head.*"},
    "untied embeddings": {"model": tiny_gpt2(tied=False), "trainable": ["*.wte.*", "*.wpe.*"]},
    "another architecture": {"model": tiny_llama()},
}


@pytest.mark.parametrize("options", SETS.values(), ids=SETS.keys())
def test_losses_match_the_forward_pass_of_transformers(options: dict[str, Any]) -> None:
    problem = tiny_problem(**options)
    for point in (problem.initial_point(), moved(problem)):
        batch = problem.batches("direction")[0]
        ours = problem.outputs(point.weights, batch)
        assert torch.allclose(ours, reference_logits(problem, point.weights, batch.ids), atol=1e-10)
        for split in ("train", "direction", "test"):
            assert math.isclose(
                problem.loss(point, split), reference_loss(problem, point.weights, split), rel_tol=1e-10
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_is_close(dtype: torch.dtype) -> None:
    exact, rough = tiny_problem(), tiny_problem(dtype=dtype)
    point = exact.initial_point()
    rtol = 1e-5 if dtype == torch.float32 else 3e-2
    assert math.isclose(rough.loss(point, "train"), exact.loss(point, "train"), rel_tol=rtol)
    ours, theirs = rough.training_gradient(point), exact.training_gradient(point)
    assert ours.dtype == torch.float64
    assert float((ours - theirs).norm() / theirs.norm()) < 10 * rtol


@pytest.mark.parametrize("key", ["last block", "tied embeddings", "final norm", "another architecture"])
def test_derivatives_match_double_autodiff(key: str) -> None:
    narrow = {"last block": "*.1.ln_1.*", "another architecture": "*.1.input_layernorm.weight"}
    options = SETS[key] | ({"trainable": narrow[key]} if key in narrow else {})
    problem = tiny_problem(**options, max_tokens={"train": 16})
    point, batch = moved(problem), problem.batches("train")[0]

    def plain(weights: Tensor) -> Tensor:
        logits = problem.outputs(weights, batch)
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())

    vector = torch.randn(len(point.weights), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    weights = point.weights.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(plain(weights), weights, create_graph=True)
    (product,) = torch.autograd.grad(gradient @ vector, weights)
    assert torch.allclose(problem.training_gradient(point), gradient.detach(), atol=1e-12)
    assert torch.allclose(problem.training_hessian(point).matvec(vector), product, atol=1e-10)
    if len(vector) < 100:
        atol = (
            1e-6 if key == "another architecture" else 1e-10
        )  # Llama's norm works in float32 whatever the model's dtype
        assert torch.allclose(
            problem.training_hessian(point).to_dense(), jacrev(jacrev(plain))(point.weights), atol=atol
        )


def test_hessian_does_not_depend_on_the_batches() -> None:
    texts = tiny_texts() | {"train": [article(1, 48)]}
    small, large = (tiny_problem(texts=texts, batch_blocks=size, trainable="*.ln_f.*") for size in (4, 6))
    point = moved(small)
    assert len(small.batches("train")) == 2 and len(large.batches("train")) == 1
    want = large.training_hessian(point).to_dense()
    assert torch.allclose(small.training_hessian(point).to_dense(), want, atol=1e-12)
    assert torch.allclose(small.training_gauss_newton(point).to_dense(), large.training_gauss_newton(point).to_dense())


def test_gauss_newton_matches_its_definition() -> None:
    problem = tiny_problem(trainable="*.ln_1.*", blocks=[-1], max_tokens={"train": 16})
    point, batch = moved(problem), problem.batches("train")[0]
    jacobian = torch.func.jacrev(lambda weights: problem.outputs(weights, batch).flatten(0, 1))(point.weights)
    p = problem.outputs(point.weights, batch).flatten(0, 1).softmax(-1)
    middle = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    wanted = torch.einsum("tvi,tvw,twj->ij", jacobian, middle, jacobian) / len(p)
    assert torch.allclose(problem.training_gauss_newton(point).to_dense(), wanted, atol=1e-10)


@pytest.mark.parametrize("options", [{}, {"trainable": "*.wpe.*", "regularizer": "l2sp"}], ids=["block", "positions"])
def test_contract(options: dict[str, Any]) -> None:
    limits = dict.fromkeys(get_args(Split), 16)
    check_problem(tiny_problem(**options, max_tokens=limits), num_directions=1)


def test_activation_matches_transformers_in_every_derivative() -> None:
    x = torch.linspace(-4, 4, 41, dtype=torch.float64)
    theirs, ours = NewGELUActivation(), TanhGELU()
    for order in range(3):
        assert torch.allclose(derivative(ours, order)(x), derivative(theirs, order)(x), atol=1e-12), order


def derivative(function: Callable[[Tensor], Tensor], order: int) -> Callable[[Tensor], Tensor]:
    return function if order == 0 else grad(lambda x: derivative(function, order - 1)(x).sum())


def test_what_lies_below_the_first_tuned_block_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = tiny_problem()
    calls: list[int] = []
    lower = problem.model.transformer.h[0]
    forward = lower.forward
    monkeypatch.setattr(lower, "forward", lambda *args, **kwargs: calls.append(1) or forward(*args, **kwargs))
    point = problem.initial_point()
    assert problem.num_examples("test") > 0 and not calls
    for _ in range(3):
        problem.loss(point, "test")
    assert len(calls) == len(problem.batches("test"))
    assert problem.batches("test")[0].inputs.shape == (4, 8, 32)
    assert tiny_problem(blocks=[0]).batches("test")[0].inputs.dtype == torch.int64


def test_inputs_need_not_be_kept() -> None:
    kept, again = tiny_problem(), tiny_problem(keep_inputs=False)
    assert kept.batches("train")[0] is kept.batches("train")[0]
    assert again.batches("train")[0] is not again.batches("train")[0]
    assert kept.loss(kept.initial_point(), "train") == again.loss(again.initial_point(), "train")


def test_tied_embeddings_are_one_parameter() -> None:
    for pattern in ("*.wte.*", "lm_head.*"):
        problem = tiny_problem(trainable=pattern)
        assert problem.parameter_names == ("transformer.wte.weight",)
        assert len(problem.initial_point().weights) == VOCABULARY * 32


def test_weights_are_the_parameters_in_order() -> None:
    model = tiny_gpt2().double()
    problem = tiny_problem(model=model, blocks=[0, -1], trainable=["*.ln_*", "*.mlp.c_fc.bias"])
    weights = problem.initial_point().weights
    assert list(problem.groups) == [name for name, _ in model.named_parameters() if name in problem.groups]
    for name, part in problem.groups.items():
        assert torch.equal(weights[part], model.get_parameter(name).detach().flatten())
    assert list(problem.block_groups) == ["block.0", "block.1"]
    assert sum(part.stop - part.start for part in problem.block_groups.values()) == len(weights)
    model.load_state_dict(problem.named_weights(weights), strict=False)


def test_the_given_model_is_left_alone() -> None:
    model = tiny_gpt2().train()
    problem = tiny_problem(model=model)
    assert model.training and all(value.requires_grad for value in model.parameters())
    assert problem.model is not model and not problem.model.training
    assert model.get_parameter("lm_head.weight").dtype == torch.float32


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("block", ("transformer.wte", "transformer.wpe", "block.0", "block.1", "transformer.ln_f")),
        ("kind", ("embedding", "norm", "attention", "mlp")),
    ],
)
def test_hyperparameters_by_group(by: Any, names: tuple[str, ...]) -> None:
    problem = tiny_problem(trainable="*", regularize_by=by)
    assert problem.hyper_names == names
    assert problem.regularizer is not None
    counts = torch.bincount(problem.regularizer.group_of, minlength=len(names))
    assert int(counts.sum()) == len(problem.initial_point().weights) and bool((counts > 0).all())


def test_hyperparameters_by_tensor_and_their_range() -> None:
    problem = tiny_problem(regularize_by="tensor", initial_strength=1e-2, strength_bounds=(1e-3, 1.0))
    assert problem.hyper_names == tuple(problem.groups)
    assert torch.allclose(problem.initial_point().hyper, torch.full((12,), math.log(1e-2), dtype=torch.float64))
    assert float(problem.hyper_lower[0]) == math.log(1e-3) and float(problem.hyper_upper[0]) == 0.0
    raw = tiny_problem(strength="raw", initial_strength=0.5, strength_bounds=(0.0, 2.0))
    assert raw.initial_point().hyper.tolist() == [0.5] and raw.hyper_upper.tolist() == [2.0]
    start = raw.initial_point()
    assert math.isclose(raw.lower_loss(start) - raw.loss(start, "train"), 0.25 * float(start.weights.square().sum()))
    l2sp = tiny_problem(regularizer="l2sp")
    assert l2sp.lower_loss(l2sp.initial_point()) == l2sp.loss(l2sp.initial_point(), "train")


def test_perplexity_says_how_it_is_measured() -> None:
    problem = tiny_problem()
    got = problem.perplexity(problem.initial_point(), "test")
    assert got.predicted_tokens == 5 * 7 == problem.num_examples("test")  # 40 tokens are 5 blocks of 8
    assert (got.block_length, got.stride, got.normaliser) == (8, 8, "predicted tokens")
    assert math.isclose(math.log(got.perplexity), reference_loss(problem, problem.initial_point().weights, "test"))
    assert math.isclose(got.negative_log_likelihood, math.log(got.perplexity) * got.predicted_tokens)
    assert problem.metric_name == "perplexity" and problem.metric(0.0) == 1.0 and problem.metric(1e4) > 1e300


# -- mistakes -------------------------------------------------------------------------------------------------------


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    model = tiny_gpt2()
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"no \*\.safetensors file"):
        tiny_problem(model=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": [2]}, r"blocks: expected positions in -2 \.\.\. 1, got \[2\]"),
        ({"blocks": []}, "blocks: expected positions"),
        ({"trainable": "*.nothing.*"}, "trainable: .* matches no parameter; names look like"),
        ({"trainable": ["*.ln_*", "*.wte.*"], "blocks": [0]}, r"'\*\.wte\.\*' matches no parameter within blocks"),
        ({"texts": {"train": ["w1"]}}, "texts: expected the keys"),
        ({"texts": tiny_texts() | {"test": [" "]}}, "texts: the split 'test' has no articles"),
        ({"texts": tiny_texts() | {"validation": [article(1)]}}, "texts: the split 'selection' has no articles"),
        ({"train_share": 0.0}, r"train_share: expected a share .* in \(0, 1\], got 0.0"),
        ({"block_length": 17}, r"block_length: expected 2 \.\.\. 16 tokens"),
        ({"block_length": 1}, "block_length: expected 2"),
        ({"batch_blocks": 0}, "batch_blocks: expected at least 1, got 0"),
        ({"max_tokens": {"validation": 10}}, "max_tokens: expected splits"),
        ({"max_tokens": {"test": 1}}, "max_tokens: expected at least 2 tokens for test, got 1"),
        ({"skip_tokens": {"validation": 10}}, "skip_tokens: expected splits"),
        ({"skip_tokens": {"test": -1}}, "skip_tokens: expected at least 0 tokens for test, got -1"),
        ({"regularizer": "elastic"}, "regularizer: expected one of .* got 'elastic'"),
        ({"regularize_by": "layer"}, "regularize_by: expected one of .* got 'layer'"),
        ({"strength": "square"}, "strength: expected one of .* got 'square'"),
        ({"initial_strength": 0.0}, "initial_strength, strength_bounds: expected 0 < lower"),
        ({"strength_bounds": (0.0, 1.0)}, "initial_strength, strength_bounds: expected 0 < lower"),
        ({"tokenizer": None}, "tokenizer: a model given as an object comes without one"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_problem(**options)
