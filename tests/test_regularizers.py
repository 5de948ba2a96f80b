"""Closed forms of the regularisers against autodiff."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad, hessian, jacfwd

from lift_core import L2, L2SP, Regularizer, SmoothedL1
from lift_core.regularizers import Strength

KINDS: dict[str, Callable[..., Regularizer]] = {
    "L2": L2,
    "L2SP": lambda groups, **options: L2SP(groups, anchor=torch.linspace(-1, 1, len(groups)).double(), **options),
    "SmoothedL1": lambda groups, **options: SmoothedL1(groups, smoothing=0.1, **options),
}


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[int], Tensor, Tensor]:
    """Groups (some weights in none), λ and θ."""
    p = draw(st.integers(0, 4))
    groups = draw(st.lists(st.integers(-1, p - 1), min_size=1, max_size=8))
    numbers = st.floats(-3, 3, allow_subnormal=False)
    hyper = draw(st.lists(numbers, min_size=p, max_size=p))
    weights = draw(st.lists(numbers, min_size=len(groups), max_size=len(groups)))
    return groups, torch.tensor(hyper, dtype=torch.float64), torch.tensor(weights, dtype=torch.float64)


@pytest.mark.parametrize("strength", ["log", "raw"])
@pytest.mark.parametrize("kind", KINDS)
@given(situation=situations())
def test_closed_forms_equal_autodiff(
    kind: str, strength: Strength, situation: tuple[list[int], Tensor, Tensor]
) -> None:
    groups, hyper, weights = situation
    regularizer = KINDS[kind](groups, num_hyper=len(hyper), strength=strength)
    by_weights = grad(regularizer.value, argnums=1)
    for got, wanted in (
        (regularizer.gradient(hyper, weights), by_weights(hyper, weights)),
        (regularizer.hessian(hyper, weights).to_dense(), hessian(regularizer.value, argnums=1)(hyper, weights)),
        (regularizer.mixed(hyper, weights).to_dense(), jacfwd(by_weights, argnums=0)(hyper, weights)),
    ):
        assert got.shape == wanted.shape
        assert torch.allclose(got, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_values_by_hand(kind: str) -> None:
    hyper, weights = torch.tensor([0.0, 1.0]).double(), torch.tensor([3.0, -4.0, 100.0]).double()
    e = torch.e
    anchor = {"L2": 0.0, "SmoothedL1": 0.0, "L2SP": 1.0}[kind]
    wanted = {
        "L2": 9 / 2 + e * 16 / 2,
        "L2SP": (3 + anchor) ** 2 / 2 + e * (-4 - 0.0) ** 2 / 2,
        "SmoothedL1": (9.01**0.5 - 0.1) + e * (16.01**0.5 - 0.1),
    }[kind]
    value = KINDS[kind]([0, 1, -1], num_hyper=2).value(hyper, weights)
    assert float(value) == pytest.approx(wanted)


def test_smoothed_l1_is_close_to_the_absolute_value() -> None:
    weights = torch.linspace(-2, 2, 41).double()
    penalty = SmoothedL1([0] * 41, num_hyper=1, smoothing=1e-3).penalty(weights)
    assert (penalty - weights.abs()).abs().max() <= 1e-3


def test_log_strength_is_never_negative() -> None:
    assert (L2([0], num_hyper=1).strengths(torch.tensor([-50.0]).double()) > 0).all()


def test_only_log_strengths_need_finite_bounds() -> None:
    endless = torch.tensor([math.inf]).double()
    L2([0], num_hyper=1, strength="raw").require_finite_strengths(endless)
    L2([-1], num_hyper=1).require_finite_strengths(endless)  # of no weight
    with pytest.raises(ValueError, match=r"that of λ\[0\] is infinite at inf"):
        L2([0], num_hyper=1).require_finite_strengths(endless)


BAD: list[tuple[str, Callable[[], object], str]] = [
    ("group out of range", lambda: L2([0, 2], num_hyper=2), "group_of"),
    ("group below -1", lambda: L2([-2], num_hyper=2), "group_of"),
    ("two dimensions", lambda: L2(torch.zeros(1, 1, dtype=torch.int64), num_hyper=1), "group_of"),
    ("unknown strength", lambda: L2([0], num_hyper=1, strength="loud"), "strength"),  # pyright: ignore[reportArgumentType]
    ("anchor shape", lambda: L2SP([0], num_hyper=1, anchor=torch.zeros(2).double()), "anchor"),
    ("anchor NaN", lambda: L2SP([0], num_hyper=1, anchor=torch.tensor([float("nan")]).double()), "anchor"),
    ("smoothing zero", lambda: SmoothedL1([0], num_hyper=1, smoothing=0.0), "smoothing"),
    ("smoothing NaN", lambda: SmoothedL1([0], num_hyper=1, smoothing=float("nan")), "smoothing"),
]


@pytest.mark.parametrize(("build", "argument"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_arguments_are_named(build: Callable[[], object], argument: str) -> None:
    with pytest.raises(ValueError, match=f"^{argument}: "):
        build()
