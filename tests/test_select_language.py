"""Selecting in language models: ways of grouping, whole tensors, transfer between depths, `peft`."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_language import VOCABULARY, tiny_gpt2, tiny_problem
from transformers import GPT2Config, GPT2LMHeadModel

import lift_core as lift
from backends import HiGHS
from lift_core.selection import (
    ExactInfluence,
    ForwardInfluence,
    Probe,
    Probing,
    Restricted,
    Selection,
    apply_selection,
    bitfit,
    layer_norms,
    lora_factors,
    make_groups,
)
from lift_core.selection.selector import Selector, named_measure
from lift_core.training import TrainingState
from problems import LanguageModel
from problems.adapters import peft_targets, with_lora

BLOCKS = ["transformer.h.*", "transformer.ln_f.*"]


@pytest.fixture(scope="module")
def problem() -> LanguageModel:
    return tiny_problem(trainable=BLOCKS)


def deeper(layers: int, width: int = 32) -> GPT2LMHeadModel:
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=16, n_embd=width, n_layer=layers, n_head=2, bos_token_id=0, eos_token_id=0
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def test_ways_of_grouping(problem: LanguageModel) -> None:
    assert make_groups(problem, "block").names == ("block.0", "block.1", "transformer.ln_f")
    assert set(make_groups(problem, "kind").names) == {"norm", "attention", "mlp", "bias"}
    whole = tiny_problem(trainable="*")
    assert set(make_groups(whole, "kind").names) == {"embedding", "norm", "attention", "mlp", "bias"}
    fine = make_groups(problem, "block-kind")
    assert "block.1.attention" in fine.names and "norm" in fine.names
    assert int(make_groups(problem, "tensor").sizes.sum()) == int(fine.sizes.sum()) == fine.num_weights
    assert len(make_groups(problem, max_size=64)) > 300
    with pytest.raises(ValueError, match=r"by: expected one of .*block-kind.*, got 'layer'"):
        make_groups(problem, "layer")


def test_exact_and_forward_agree_on_a_transformer(problem: LanguageModel) -> None:
    groups, start = make_groups(problem, "block-kind"), problem.initial_point()
    batches = problem.batches("train")
    probe = Probe(start, problem.lower_gradient(start, batches), batches)
    exact = ExactInfluence(cross=True).estimate(problem, probe, groups)
    hessian = problem.training_hessian(start)
    for k in (0, 3):
        step = groups.only(probe.step, k)
        assert problem.regularizer is not None
        shift = problem.regularizer.hessian(start.hyper, start.weights).diagonal
        assert float(exact.curvature[k]) == pytest.approx(float(step @ (hessian.matvec(step) + shift * step)), rel=1e-8)
    forward = ForwardInfluence(first_step=1e-2).estimate(problem, probe, groups)
    both = forward.accepted
    assert int(both.sum()) >= 3
    assert torch.allclose(forward.reductions[both], exact.reductions[both], rtol=0.05)


def test_named_baselines_find_their_tensors(problem: LanguageModel) -> None:
    groups, start = make_groups(problem), TrainingState.fresh(problem.initial_point())
    for measure, fits in ((bitfit(), lambda name: name.endswith("bias")), (layer_norms(), lambda name: "ln_" in name)):
        scores = measure.scores(problem, groups, start, seed=0)
        assert [value > 0 for value in scores.values.tolist()] == [fits(name) for name in groups.names], measure.label


def test_a_selection_of_tensors_is_a_trainable_argument(problem: LanguageModel, tmp_path: Path) -> None:
    selector = Selector(measure=named_measure("exact", steps=0), backend=HiGHS())
    selector.select(problem, 0.1).selection.save(tmp_path / "chosen.json")
    selection = Selection.load(tmp_path / "chosen.json")
    applied = apply_selection(selection, problem)
    again = tiny_problem(trainable=list(selection.tensors))
    assert isinstance(applied, LanguageModel)
    assert applied.parameter_names == again.parameter_names and applied.hyper_names == again.hyper_names
    assert applied.loss(applied.initial_point(), "test") == pytest.approx(problem.loss(problem.initial_point(), "test"))
    masked = Restricted(problem, make_groups(problem).index(selection.groups))
    gradient = applied.upper_gradient(applied.initial_point())[1]
    assert torch.allclose(gradient, masked.upper_gradient(masked.initial_point())[1], atol=1e-12)
    with pytest.raises(ValueError, match="tensors: expected some out of the tuned ones"):
        problem.tuned(["lm_head.weight"])


def test_pieces_of_tensors_are_tuned_through_a_mask(problem: LanguageModel) -> None:
    selector = Selector(max_size=256, measure=named_measure("exact", steps=0), backend=HiGHS())
    selection = selector.select(problem, 0.1).selection
    with pytest.raises(ValueError, match="expected whole tensors"):
        _ = selection.tensors
    applied = apply_selection(selection, problem)
    assert isinstance(applied, Restricted) and len(applied.index) == selection.num_selected
    search = lift.LocalSearch(
        backend=HiGHS(), curvature=lift.LowRank(rank=4), slack=1e-2, warmup_epochs=1,
        box=lift.TrustBox(relative=True, weights_radius=0.05),
    )  # fmt: skip
    result = search.run(applied)
    assert result.methods[1]["selection"] <= result.methods[0]["selection"]


def test_transfer_to_a_deeper_and_wider_model(problem: LanguageModel) -> None:
    selection = Selector(measure=named_measure("exact", steps=0), backend=HiGHS()).select(problem, 0.1).selection
    large = tiny_problem(model=deeper(5, 64), trainable=BLOCKS)
    applied = apply_selection(selection, large)
    kinds = {name.split(".", 3)[-1] for name in selection.tensors if ".h." in name}
    assert kinds == {name.split(".", 3)[-1] for name in applied.groups if ".h." in name}
    last = {name for name in selection.tensors if ".h.1." in name}
    assert {name.replace(".h.4.", ".h.1.") for name in applied.groups if ".h.4." in name} == last
    exact = apply_selection(selection, large, depth="exact")
    assert set(exact.groups) == set(selection.tensors)
    back = tiny_problem(model=deeper(1), trainable=BLOCKS)
    with pytest.raises(ValueError, match="is no tensor of this problem"):
        apply_selection(selection, back, depth="exact")


# peft reads an attribute that transformers has renamed
PEFT_WARNS = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

# -- peft ---------------------------------------------------------------------------------------------------------


def a_selection(*pieces: str) -> Selection:
    return Selection(("x",), pieces, "exact", "exact", 0.1, 10, 100, 1.0, 1.0, "toy", 2)


@PEFT_WARNS
def test_a_selection_configures_peft() -> None:
    peft = pytest.importorskip("peft")
    model = tiny_gpt2()
    name = "transformer.h.1.attn.c_attn"
    chosen = a_selection(f"{name}.weight", f"{name}.bias", "transformer.h.0.ln_1.weight", "transformer.h.0.ln_1.bias")
    targets = peft_targets(chosen, model)
    assert targets.target_modules == [name] and targets.modules_to_save == ["transformer.h.0.ln_1"]
    assert targets.left_out == [f"{name}.bias"]
    config = peft.LoraConfig(
        r=2, target_modules=targets.target_modules, modules_to_save=targets.modules_to_save, fan_in_fan_out=True
    )
    tuned = peft.get_peft_model(model, config)
    trainable = {name for name, value in tuned.named_parameters() if value.requires_grad}
    assert all("h.1.attn.c_attn.lora_" in name or "h.0.ln_1.modules_to_save" in name for name in trainable)
    assert any("lora_A" in name for name in trainable) and any("ln_1" in name for name in trainable)


def test_embeddings_and_parts_of_matrices_for_peft() -> None:
    targets = peft_targets(
        a_selection("transformer.wpe.weight", "transformer.h.0.mlp.c_fc.weight[0:5/10]"), tiny_gpt2()
    )
    assert targets.modules_to_save == ["transformer.wpe"] and targets.target_modules == ["transformer.h.0.mlp.c_fc"]
    assert targets.left_out == ["transformer.h.0.mlp.c_fc.weight[0:2048/4096] (its whole module is named)"]
    with pytest.raises(ValueError, match="none of its 1 tensors"):
        peft_targets(a_selection("elsewhere.weight"), tiny_gpt2())


def test_lora_factors_are_groups_of_a_language_model() -> None:
    pytest.importorskip("peft")
    plain = tiny_problem()
    adapted = tiny_problem(model=with_lora(tiny_gpt2(), rank=2, target_modules=["c_attn"]), trainable="*lora_*")
    assert len(adapted.initial_point().weights) == 2 * 2 * (32 + 96)
    start = adapted.initial_point()
    assert adapted.loss(start, "test") == pytest.approx(plain.loss(plain.initial_point(), "test"))
    groups = make_groups(adapted, "lora")
    assert groups.names == ("transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn")
    scores = Probing(steps=2, every=2, trainer=lift.Trainer(learning_rate=1e-2)).scores(
        adapted, groups, TrainingState.fresh(start), seed=0
    )
    assert scores.names == groups.names
    assert lora_factors().scores(adapted, groups, TrainingState.fresh(start), seed=0).values.tolist() == [256, 256]
    state = TrainingState.fresh(start)
    for _ in range(5):
        state, _ = lift.Trainer(learning_rate=1e-2).epoch(adapted, state, seed=0)
    assert adapted.lower_loss(state.point) < adapted.lower_loss(start)
    with pytest.raises(ValueError, match="rank: expected at least 1, got 0"):
        with_lora(tiny_gpt2(), rank=0, target_modules=["c_attn"])


def test_without_peft_the_message_names_the_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install .*lift-bilevel\[peft\]"):
        with_lora(tiny_gpt2(), rank=1, target_modules=["c_attn"])


@PEFT_WARNS
def test_a_peft_model_may_be_given_as_it_is() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    wrapped: Any = peft.get_peft_model(tiny_gpt2(), config)
    problem = tiny_problem(model=wrapped, trainable="*lora_*")
    gradient = problem.lower_gradient(problem.initial_point())
    assert torch.isfinite(gradient).all() and gradient.any()
    assert len(make_groups(problem, "lora")) == 2
