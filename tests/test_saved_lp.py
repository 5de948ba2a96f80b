"""Saved linear programs: every operator comes back in its own form, and no file is misread."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from safetensors.numpy import save

from lift_core import (
    Dense,
    Diagonal,
    DirectionMatrix,
    GroupColumns,
    LinearOperator,
    LinearProgram,
    LowRankPlusDiagonal,
    MatrixFree,
    Sparse,
    load_lp,
    save_lp,
)
from lift_core.saved_lp import FORMAT
from lift_core.testing import lp_cases

GENERATOR = np.random.default_rng(0)
N, P = 6, 2
SPARSE = Sparse(sp.random(N, N, density=0.4, random_state=1))
LOW_RANK = LowRankPlusDiagonal(diagonal=np.ones(N), factor=GENERATOR.normal(size=(N, 2)), core=[3.0, -1.0])
GROUPS = GroupColumns(GENERATOR.normal(size=N).tolist(), [0, 1, -1, 0, 1, 1], num_groups=P)
OPERATORS: dict[str, LinearOperator] = {
    "dense": Dense(GENERATOR.normal(size=(N, N))),
    "sparse": SPARSE,
    "diagonal": Diagonal(GENERATOR.normal(size=N)),
    "low rank plus diagonal": LOW_RANK,
    "groups": GROUPS,
    "direction": DirectionMatrix(GROUPS, LOW_RANK),
    "rows of a direction": DirectionMatrix(Dense(GENERATOR.normal(size=(N, P))), SPARSE, torch.tensor([0, 2, 3])),
    "direction without hyperparameters": DirectionMatrix(GroupColumns([0.0] * N, [-1] * N, num_groups=0), LOW_RANK),
}
VECTORS = ("c", "row_lower", "row_upper", "col_lower", "col_upper")


def same_form(first: LinearOperator, second: LinearOperator) -> bool:
    if type(first) is not type(second) or first.shape != second.shape:
        return False
    if isinstance(first, DirectionMatrix) and isinstance(second, DirectionMatrix):
        return same_form(first.mixed, second.mixed) and same_form(first.hessian, second.hessian)
    return True


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_every_operator_comes_back_in_its_own_form(operator: LinearOperator, tmp_path: Path) -> None:
    m, n = operator.shape
    lp = LinearProgram(
        c=GENERATOR.normal(size=n), A=operator, row_lower=[-np.inf] + [-1.5] * (m - 1), row_upper=2.5,
        col_lower=-1.0, col_upper=[np.inf] * n, offset=7.25,
    )  # fmt: skip
    path = tmp_path / "some" / "lp.safetensors"
    save_lp(lp, path)
    again = load_lp(path)
    assert same_form(lp.A, again.A)
    assert again.A.to_dense().equal(lp.A.to_dense())
    assert all(getattr(again, name).equal(getattr(lp, name)) for name in VECTORS)
    assert again.offset == lp.offset
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_whole_variables_stay_whole(tmp_path: Path) -> None:
    lp = LinearProgram(c=[1.0, 1.0], A=[[1.0, 2.0]], row_lower=2.0, col_lower=0.0, integrality=[True, False])
    save_lp(lp, tmp_path / "whole.safetensors")
    again = load_lp(tmp_path / "whole.safetensors").integrality
    assert again is not None and again.tolist() == [True, False]


def test_every_case_of_the_contract_survives(tmp_path: Path) -> None:
    for case in lp_cases():
        save_lp(case.lp, tmp_path / "case.safetensors")
        again = load_lp(tmp_path / "case.safetensors")
        assert same_form(case.lp.A, again.A), case.name
        assert again.A.to_dense().equal(case.lp.A.to_dense()), case.name
        assert all(getattr(again, name).equal(getattr(case.lp, name)) for name in VECTORS), case.name


class Doubled(Dense):
    """A user's operator, which a file could not give back."""

    def matvec(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().matvec(x)


MATRIX_FREE = MatrixFree(N, lambda x: x)
UNKNOWN = {
    "A: MatrixFree cannot be saved": MATRIX_FREE,
    "A.hessian: MatrixFree cannot be saved": DirectionMatrix(GROUPS, MATRIX_FREE),
    "A: Doubled cannot be saved": Doubled(np.eye(N)),
}


@pytest.mark.parametrize(("message", "operator"), UNKNOWN.items())
def test_operators_known_by_products_are_refused(message: str, operator: LinearOperator, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        save_lp(LinearProgram(c=np.ones(operator.shape[1]), A=operator), tmp_path / "lp.safetensors")
    assert not list(tmp_path.iterdir())


SMALL = LinearProgram(c=[1.0, 1.0], A=[[1.0, 2.0]], row_lower=2.0, col_lower=0.0)


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_an_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("NAME tiny\nROWS\n")


def foreign(path: Path) -> None:
    path.write_bytes(save({"weight": np.ones(3)}))


def redescribed(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        description = {"format": FORMAT, "version": 1, "offset": 0.0, "A": {"kind": "Dense", "shape": [1, 2]}}
        change(description)
        vectors = {name: getattr(SMALL, name).numpy() for name in VECTORS} | {"A.matrix": np.array([[1.0, 2.0]])}
        path.write_bytes(save(vectors, {FORMAT: json.dumps(description)}))

    return damage


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (cut_in_half, "damaged, or no safetensors file"),
    (without_an_end, "damaged, or no safetensors file"),
    (emptied, "damaged, or no safetensors file"),
    (text, "damaged, or no safetensors file"),
    (foreign, "holds tensors, but no linear program"),
    (redescribed(lambda d: d.update(version=99)), "newer than 1; upgrade"),
    (redescribed(lambda d: d.pop("A")), "no valid linear program"),
    (redescribed(lambda d: d["A"].update(kind="os.system")), "no operator is called 'os.system'"),
    (redescribed(lambda d: d["A"].update(kind="Diagonal")), "no valid linear program"),
    (redescribed(lambda d: d.update(offset="much")), "no valid linear program"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_damaged_and_foreign_files_are_named(damage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "lp.safetensors"
    save_lp(SMALL, path)
    damage(path)
    with pytest.raises(ValueError, match=message) as caught:
        load_lp(path)
    assert str(path) in str(caught.value)


def test_a_described_file_without_damage_is_read(tmp_path: Path) -> None:
    path = tmp_path / "lp.safetensors"
    redescribed(lambda _: None)(path)
    assert load_lp(path).A.to_dense().tolist() == [[1.0, 2.0]]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.safetensors"):
        load_lp(tmp_path / "none.safetensors")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lp.safetensors"
    save_lp(SMALL, path)
    before = path.read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save_lp(LinearProgram(c=[3.0], A=[[1.0]]), path)
    assert path.read_bytes() == before
