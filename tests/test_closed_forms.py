"""The closed forms of GPT-2's parts and the oracles on its own tensors, beside autodiff and finite differences."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.func import functional_call, jacrev
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

from problems import attention, head_loss, language_model
from problems.activations import TanhGELU
from problems.linear import Linear
from problems.parameter_oracles import graph_bytes
from tests.tiny_language import article, tiny_gpt2, tiny_problem, tiny_texts


def normal(*shape: int, seed: int = 0) -> Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn.requires_grad_()


def twin(layer: Conv1D) -> Conv1D:
    """With closed-form derivatives, on the same parameters."""
    ours = copy.copy(layer)
    ours.__class__ = Linear
    return ours


def plain_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    future = torch.ones(query.shape[-2], query.shape[-2], dtype=torch.bool).triu(1)
    return (scale * query @ key.mT).masked_fill(future, -torch.inf).softmax(-1) @ value


@pytest.mark.parametrize("keep", [0, 5], ids=["formed again", "kept"])
@pytest.mark.parametrize("chunk", [1, 20, 1 << 20])
@pytest.mark.parametrize("smallest_block", [1, 2, 64])
def test_attention_and_its_first_two_derivatives(
    keep: int, chunk: int, smallest_block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "KEEP", keep)
    monkeypatch.setitem(attention.CHUNK, "cpu", chunk)
    monkeypatch.setattr(attention, "SMALLEST_BLOCK", smallest_block)
    parts = tuple(normal(1, 3, 5, 2, seed=seed) for seed in range(3))

    def ours(*parts: Tensor) -> Tensor:
        return attention.causal_attention(*parts, 0.37)

    torch.testing.assert_close(ours(*parts), plain_attention(*parts, 0.37), rtol=0, atol=1e-14)
    assert torch.autograd.gradcheck(ours, parts) and torch.autograd.gradgradcheck(ours, parts)


class LargestTensor(TorchDispatchMode):
    """The most entries that any operation gave out."""

    entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.entries = max([self.entries, *(one.numel() for one in tree_leaves(out) if isinstance(one, Tensor))])
        return out


def test_attention_forms_no_matrix_of_all_positions() -> None:
    length = 1024
    query = torch.randn(1, 1, length, 8, requires_grad=True)
    with LargestTensor() as seen:
        attention.causal_attention(query, query, query, 0.37)
    assert 0 < seen.entries < length**2 / 8


@pytest.mark.parametrize("piece", [4, 1 << 18])
def test_activation_and_its_first_two_derivatives(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("problems.activations._PIECE", piece)
    x = normal(3, 5)
    assert torch.autograd.gradcheck(TanhGELU(), (x,)) and torch.autograd.gradgradcheck(TanhGELU(), (x,))


@pytest.mark.parametrize("tuned", [("weight", "bias"), ("weight",), ("bias",)], ids="+".join)
@pytest.mark.parametrize("inputs", [True, False], ids=["inputs differ", "inputs are constant"])
def test_linear_layer_and_its_first_two_derivatives(tuned: tuple[str, ...], inputs: bool) -> None:
    theirs = Conv1D(4, 3).double().requires_grad_(False)
    ours, x = twin(theirs), normal(2, 5, 3).detach().requires_grad_(inputs)
    parts = [normal(*theirs.get_parameter(name).shape, seed=seed) for seed, name in enumerate(tuned)]

    def output(layer: nn.Module) -> Callable[..., Any]:
        return lambda x, *parts: functional_call(layer, dict(zip(tuned, parts, strict=True)), (x,))

    torch.testing.assert_close(output(ours)(x, *parts), output(theirs)(x, *parts), rtol=0, atol=1e-14)
    assert torch.autograd.gradcheck(output(ours), (x, *parts))
    assert torch.autograd.gradgradcheck(output(ours), (x, *parts))


def pairs() -> dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]]:
    """Closed forms as functions of (1, 2, 5, 4), and the same by operations of autodiff."""
    torch.manual_seed(0)
    layer = twin(Conv1D(4, 4).double())
    return {
        "linear": (layer, lambda x: x @ layer.weight + layer.bias),
        "activation": (TanhGELU(), NewGELUActivation()),
        "attention": (
            lambda x: attention.causal_attention(x, x.sin(), x.cos(), 0.37),
            lambda x: plain_attention(x, x.sin(), x.cos(), 0.37),
        ),
    }


@pytest.mark.parametrize("part", ["linear", "activation", "attention"])
def test_two_gradients_on_one_graph(part: str) -> None:
    x, shares = normal(1, 2, 5, 4), normal(2, 1, 2, 5, 4, seed=1).detach()

    def product(function: Callable[[Tensor], Tensor]) -> Tensor:
        losses = shares * function(x).square()
        gradients = [grad(loss.sum(), x, create_graph=True)[0] for loss in losses]
        return grad(gradients, x, list(shares.flip(0)))[0]

    ours, theirs = pairs()[part]
    torch.testing.assert_close(product(ours), product(theirs), rtol=0, atol=1e-13)


@pytest.mark.parametrize("part", ["linear", "activation", "attention"])
def test_transforms_of_gradients(part: str) -> None:
    x = normal(1, 2, 5, 4).detach()

    def of_jacobian(function: Callable[[Tensor], Tensor]) -> Tensor:
        rows = jacrev(lambda x: function(x).square().sum((0, 1, 2)))
        return torch.func.grad(lambda x: rows(x).pow(3).sum())(x)

    ours, theirs = pairs()[part]
    torch.testing.assert_close(of_jacobian(ours), of_jacobian(theirs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("keep", [0, 5])
@pytest.mark.parametrize("part", ["linear", "attention"])
def test_third_derivatives(part: str, keep: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "KEEP", keep)
    x = normal(1, 2, 5, 4)

    def third(function: Callable[[Tensor], Tensor]) -> Tensor:
        y = function(x)
        for _ in range(3):
            (y,) = grad(y.square().sum(), x, create_graph=True)
        return y

    ours, theirs = pairs()[part]
    torch.testing.assert_close(third(ours), third(theirs), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("tokens", "words"), [(4, 2), (4, 2048), (512, 4), (512, 2048)])
@pytest.mark.parametrize("keep", [0, 1000], ids=["formed again", "kept"])
def test_head_loss_and_its_first_two_derivatives(
    tokens: int, words: int, keep: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(head_loss.TOKENS, "cpu", tokens)
    monkeypatch.setitem(head_loss.WORDS, "cpu", words)
    monkeypatch.setattr(head_loss, "KEEP", keep)
    hidden, head, targets = normal(6, 4), normal(9, 4, seed=1).detach(), torch.tensor([0, 8, 3, 3, 1, 2])

    def ours(hidden: Tensor) -> Tensor:
        return head_loss.head_loss(hidden, head, targets)

    wanted = torch.nn.functional.cross_entropy(hidden @ head.T, targets, reduction="none")
    torch.testing.assert_close(ours(hidden), wanted, rtol=0, atol=1e-13)
    assert torch.autograd.gradcheck(ours, (hidden,)) and torch.autograd.gradgradcheck(ours, (hidden,))


@pytest.mark.parametrize("curvature", ["training_hessian", "training_gauss_newton"])
@pytest.mark.parametrize(
    "model", [{}, {"model": tiny_gpt2(tied=False), "trainable": "lm_head.*"}], ids=["block", "head"]
)
def test_graphs_that_are_not_kept_give_the_same_products(curvature: str, model: dict[str, object]) -> None:
    texts = tiny_texts() | {"train": [article(1, 96)]}
    kept, again = (tiny_problem(texts=texts, keep_graphs=size, **model) for size in (1 << 30, 0))
    assert len(kept.batches("train")) == 3
    point = kept.initial_point()
    columns = normal(len(point.weights), 3).detach()
    ours, theirs = getattr(kept, curvature)(point), getattr(again, curvature)(point)
    torch.testing.assert_close(ours.matmat(columns), theirs.matmat(columns), rtol=0, atol=1e-14)
    torch.testing.assert_close(ours.matmat(columns)[:, 1], ours.matvec(columns[:, 1]), rtol=0, atol=1e-14)


@pytest.mark.parametrize("curvature", ["training_hessian", "training_gauss_newton"])
def test_weights_that_are_not_tuned_do_not_count_as_kept(curvature: str) -> None:
    texts, frozen = tiny_texts() | {"train": [article(0, 8)]}, 12 * 32**2 * 8  # bytes of the block's matrices
    problem = tiny_problem(trainable="transformer.h.1.ln_1.*", texts=texts, keep_graphs=frozen)
    runs: list[object] = []
    problem.model.transformer.ln_f.register_forward_hook(lambda *_: runs.append(None))
    point, direction = problem.initial_point(), normal(64).detach()
    products = getattr(problem, curvature)(point)
    first = products.matvec(direction)
    before = len(runs)
    assert before > 0 and torch.equal(products.matvec(direction), first)
    assert len(runs) == before


@pytest.mark.parametrize("curvature", ["training_hessian", "training_gauss_newton"])
def test_batches_that_are_cut_give_the_same_products(curvature: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = tiny_texts() | {"train": [article(1, 96)]}
    problem = tiny_problem(texts=texts, batch_blocks=3)
    point, whole = problem.initial_point(), problem.batches("train")[0]
    assert [len(part.ids) for part, _ in whole.cut(2 * problem.block_length)] == [2, 1]
    direction = normal(len(point.weights)).detach()
    expected = getattr(problem, curvature)(point).matvec(direction)
    monkeypatch.setattr(language_model, "PRODUCT_TOKENS", 2 * problem.block_length)
    torch.testing.assert_close(getattr(problem, curvature)(point).matvec(direction), expected, rtol=0, atol=1e-14)


def test_products_match_differences_of_gradients() -> None:
    problem = tiny_problem(blocks=[0, 1])
    point = problem.initial_point()
    direction = normal(len(point.weights)).detach()
    direction /= direction.norm()
    ahead, behind = (
        problem.training_gradient(point.moved(torch.zeros_like(point.hyper), direction, step)) for step in (1e-4, -1e-4)
    )
    product = problem.training_hessian(point).matvec(direction)
    torch.testing.assert_close((ahead - behind) / 2e-4, product, rtol=1e-5, atol=1e-8)


def test_products_match_differences_of_gradients_at_the_size_of_gpt2_small() -> None:
    torch.manual_seed(0)
    problem = tiny_problem(
        model=GPT2LMHeadModel(GPT2Config()), texts=tiny_texts() | {"train": [article(0, 32)]}, block_length=32
    )
    point = problem.initial_point()
    assert len(point.weights) == 7_087_872 and [batch.ids.shape for batch in problem.batches("train")] == [(1, 32)]
    direction = normal(len(point.weights)).detach()
    direction /= direction.norm()
    ahead, behind = (
        problem.training_gradient(point.moved(torch.zeros_like(point.hyper), direction, step)) for step in (1e-4, -1e-4)
    )
    product = problem.training_hessian(point).matvec(direction)
    error = ((ahead - behind) / 2e-4 - product).norm() / product.norm()
    assert float(product.norm()) > 0 and float(error) < 1e-8


def test_bytes_of_a_graph_count_every_storage_once() -> None:
    x = normal(100)
    assert graph_bytes([x.exp().sum()]) == 800  # the exponential keeps its result
    assert graph_bytes([(x * x).sum()], known=[x]) == 0
    y = x.exp()
    assert graph_bytes([y.sin().sum() + y.cos().sum()]) == 800  # both functions keep y
