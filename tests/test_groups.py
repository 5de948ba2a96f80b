"""Groups of weights, restricted problems, and selections by name: saved, applied, transferred."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lift_core as lift
from lift_core.selection import (
    Groups,
    Restricted,
    Selection,
    apply_selection,
    make_groups,
    transfer_pieces,
)
from lift_core.selection.record import Piece, depth_of, index_of, parse_piece, pieces_of
from lift_core.testing import check_problem
from problems import DataCleaning, Network, Quadratic, Regression


def a_selection(**changes: Any) -> Selection:
    values: dict[str, Any] = {
        "groups": ("a",), "pieces": ("h.0.w",), "method": "m", "solver": "exact", "budget": 0.1, "num_selected": 2,
        "num_weights": 20, "predicted": 1.0, "bound": 1.5, "problem": "toy", "depth": 2,
    }  # fmt: skip
    return Selection(**(values | changes))


# -- groups -------------------------------------------------------------------------------------------------------


def test_groups_by_tensor_pattern_and_index() -> None:
    problem = Network(num_hidden=3)  # 192, 3, 30, 10 weights
    assert make_groups(problem).sizes.tolist() == [192, 3, 30, 10]
    patterned = make_groups(problem, ["*.bias", "*"])
    assert patterned.names == ("*.bias", "*") and patterned.sizes.tolist() == [13, 222]
    mixed = make_groups(problem, {"rows": slice(0, 64), "some": [70, 80, 75], "out": ["output.*"]})
    assert mixed.sizes.tolist() == [64, 3, 40] and int((mixed.owner < 0).sum()) == 235 - 107
    assert mixed.index(["some"]).tolist() == [70, 75, 80]
    assert len(mixed.index()) == 107


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.integers(1, 40))
def test_splitting_keeps_every_weight_in_one_piece(sizes: list[int], max_size: int) -> None:
    owner = torch.cat([torch.full((size + 1,), k) for k, size in enumerate(sizes)])
    groups = Groups(tuple(f"g{k}" for k in range(len(sizes))), owner)
    pieces = groups.split(max_size)
    assert int(pieces.sizes.max()) <= max_size and int(pieces.sizes.sum()) == len(owner)
    for number, name in enumerate(pieces.names):
        inside = owner[pieces.owner == number]
        assert (inside == inside[0]).all() and name.startswith(f"g{int(inside[0])}")
    vector = torch.arange(len(owner)).double()
    assert torch.allclose(pieces.sums(vector), torch.stack([pieces.only(vector, k).sum() for k in range(len(pieces))]))


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("block", "groups its weights by 'tensor' only, got 'block'"),
        (["*.weight", "nothing*"], "'nothing\\*' .* fits no tensor; tensors are called hidden.weight"),
        (["*", "*.bias"], "left with no weights"),
        ({"a": [0, 1], "b": [1, 2]}, "group 'b' overlaps"),
        ({"a": [0, 99999]}, "expected indices in 0 ... 234"),
        ({"a": [-1]}, "expected indices in 0 ... 234"),
        ({"a": []}, "group 'a' is empty"),
        ({"a": slice(5, 5)}, "group 'a' is empty"),
        ({"a": [0.5]}, "flat list of whole numbers"),
        ({"a": None}, "group 'a': expected patterns, a slice or a flat list of whole numbers, got None"),
        ({"a": ["hidden.weight", 3]}, "flat list of whole numbers, got .'hidden.weight', 3"),
        ({"a": [["x"]]}, "flat list of whole numbers, got ..'x'"),
        ([], "by: expected at least one pattern"),
        ({"a": torch.ones(3, dtype=torch.bool)}, "flat list of whole numbers"),
        ({}, "at least one group"),
    ],
)
def test_bad_groups_are_named(by: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_groups(Network(num_hidden=3), by)


@pytest.mark.parametrize(
    ("names", "owner", "message"),
    [
        (("a", "a"), [0, 1], "'a' twice"),
        (("a", "b"), [0, 0], "none in 'b'"),
        (("a",), [0, 1], "entries in -1 ... 0"),
        (("a",), [[0]], "flat int64"),
    ],
)
def test_bad_group_records_are_named(names: tuple[str, ...], owner: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Groups(names, torch.tensor(owner))
    with pytest.raises(ValueError, match="max_size: expected at least 1, got 0"):
        make_groups(Quadratic()).split(0)


# -- restricted problems ------------------------------------------------------------------------------------------

INNER = {
    "network": lambda: Network(num_hidden=3, initial_strength=0.1),
    "quadratic": lambda: Quadratic(num_weights=9, num_hyper=3),
    "indefinite": lambda: Quadratic(num_weights=9, num_hyper=3, hyper_cost=True),
    "regression": Regression,
    "cleaning": DataCleaning,
}


@pytest.mark.parametrize("name", ["network", "quadratic", "regression"])
def test_a_restricted_problem_keeps_the_contract(name: str) -> None:
    inner = INNER[name]()
    n = len(inner.initial_point().weights)
    index = torch.randperm(n, generator=torch.Generator().manual_seed(0))[: max(2, n // 3)].sort().values
    check_problem(Restricted(inner, index))


@pytest.mark.parametrize("name", INNER)
def test_restricted_derivatives_are_parts_of_the_inner_ones(name: str) -> None:
    inner = INNER[name]()
    index = torch.arange(1, len(inner.initial_point().weights), 2)
    part = Restricted(inner, index)
    point = part.initial_point()
    full = part.full(point)
    assert torch.equal(full.weights, inner.initial_point().weights)
    kept = part.part(full)
    assert torch.equal(kept.weights, point.weights) and torch.equal(kept.hyper, point.hyper)
    assert torch.allclose(part.lower_gradient(point), inner.lower_gradient(full)[index])
    columns = [inner.hyper_names.index(one) for one in part.hyper_names]
    assert torch.allclose(part.mixed(point).to_dense(), inner.mixed(full).to_dense()[index][:, columns])
    hessian = inner.training_hessian(full).to_dense()[index][:, index]
    assert torch.allclose(part.training_hessian(point).to_dense(), hessian, atol=1e-12)
    assert part.loss(point, "test") == inner.loss(full, "test")
    assert part.metric(0.5) == inner.metric(0.5) and part.name == inner.name


def test_a_restricted_search_moves_nothing_else() -> None:
    from backends import HiGHS

    inner = Quadratic(num_weights=9, num_hyper=3)
    part = Restricted(inner, torch.arange(3))
    assert part.hyper_names == ("strength.group0",)
    result = lift.LocalSearch(backend=HiGHS(), curvature=lift.Exact(), slack=0.0, warmup_epochs=0).run(part)
    assert result.methods[1]["selection"] < result.methods[0]["selection"]
    moved = part.full(result.point)
    assert torch.equal(moved.weights[3:], inner.initial_point().weights[3:])


@pytest.mark.parametrize("index", [[], [-1], [99], [[0]], [1, 1], [2, 1]])
def test_bad_indices_are_named(index: Any) -> None:
    with pytest.raises(ValueError, match="index: expected"):
        Restricted(Quadratic(), torch.tensor(index, dtype=torch.int64))


# -- selections ---------------------------------------------------------------------------------------------------


@given(st.sets(st.integers(0, 29), min_size=1))
def test_pieces_describe_any_index_set(chosen: set[int]) -> None:
    tensors = {"a": slice(0, 7), "b.3.c": slice(7, 20), "d": slice(20, 30)}
    index = torch.tensor(sorted(chosen))
    pieces = list(pieces_of(tensors, index))
    assert torch.equal(index_of(tensors, pieces), index)
    for piece in pieces:
        size = tensors[piece.tensor].stop - tensors[piece.tensor].start
        read = parse_piece(str(piece))
        assert read == piece or (piece.is_whole and read.tensor == piece.tensor and piece.size == size)


def test_a_selection_survives_its_file(tmp_path: Path) -> None:
    selection = a_selection(pieces=("h.0.w", "h.1.w[2:4/8]"))
    selection.save(tmp_path / "chosen.json")
    assert Selection.load(tmp_path / "chosen.json") == selection
    assert selection.share == 0.1
    with pytest.raises(ValueError, match=r"whole tensors, got 'h.1.w\[2:4/8\]'"):
        _ = selection.tensors
    assert a_selection().tensors == ("h.0.w",)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "other"}', '{"format": "lift-selection-1"}'])
def test_other_files_are_no_selections(content: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match="not a selection that lift wrote"):
        Selection.load(tmp_path / "x.json")


def test_a_file_with_a_broken_piece_is_refused(tmp_path: Path) -> None:
    a_selection().save(tmp_path / "x.json")
    content = json.loads((tmp_path / "x.json").read_text())
    (tmp_path / "x.json").write_text(json.dumps(content | {"pieces": ["h.0.w[4:2/8]"]}))
    with pytest.raises(ValueError, match="start < stop"):
        Selection.load(tmp_path / "x.json")


def test_depth_is_relative_and_pieces_scale() -> None:
    def tensors(blocks: int, size: int) -> dict[str, slice]:
        names = [f"t.h.{i}.attn.w" for i in range(blocks)] + ["t.ln_f.w"]
        return {name: slice(i * size, (i + 1) * size) for i, name in enumerate(names)}

    assert depth_of(tensors(3, 4)) == 3 and depth_of(["a.b"]) == 0 and depth_of(["x2.w", "y.10.z"]) == 11
    chosen = a_selection(pieces=("t.h.2.attn.w", "t.h.1.attn.w[0:2/4]", "t.ln_f.w"), depth=3)
    large = transfer_pieces(chosen, tensors(6, 8))
    # blocks 0 ... 5 sit where 0, 0.4, 0.8, 1.2, 1.6, 2 of the three do
    assert large == (
        Piece("t.h.2.attn.w", 0, 4, 8), Piece("t.h.3.attn.w", 0, 4, 8), Piece("t.h.4.attn.w", 0, 8, 8),
        Piece("t.h.5.attn.w", 0, 8, 8), Piece("t.ln_f.w", 0, 8, 8),
    )  # fmt: skip
    assert [str(p) for p in transfer_pieces(chosen, tensors(3, 4))] == [
        "t.h.1.attn.w[0:2/4]", "t.h.2.attn.w", "t.ln_f.w",
    ]  # fmt: skip
    assert transfer_pieces(chosen, tensors(1, 4))[0] == Piece("t.h.0.attn.w", 0, 4, 4)
    exact = transfer_pieces(chosen, tensors(6, 4), depth="exact")
    assert [piece.tensor for piece in exact] == ["t.h.1.attn.w", "t.h.2.attn.w", "t.ln_f.w"]
    with pytest.raises(ValueError, match=r"'t.h.2.attn.w' is no tensor of this problem \(1 of 3\)"):
        transfer_pieces(chosen, tensors(2, 4), depth="exact")
    with pytest.raises(ValueError, match="none of its 1 tensors, such as 'nowhere'"):
        transfer_pieces(a_selection(pieces=("nowhere",)), tensors(2, 4))
    with pytest.raises(ValueError, match="depth: expected one of"):
        transfer_pieces(chosen, tensors(2, 4), depth="other")  # pyright: ignore


def test_an_empty_selection_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no group fits the budget of 0\.1"):
        a_selection(pieces=(), groups=())


def test_a_selection_applies_to_a_network_of_another_width() -> None:
    selection = a_selection(pieces=("hidden.weight[0:96/192]", "output.bias"), depth=0)
    assert len(apply_selection(selection, Network(num_hidden=3)).initial_point().weights) == 96 + 10
    assert len(apply_selection(selection, Network(num_hidden=6)).initial_point().weights) == 192 + 10
