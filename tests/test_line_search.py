"""Line searches: they find minima of smooth functions, and never return anything worse than staying put."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lift_core import Armijo, GoldenSection, LineSearch

SEARCHES = [GoldenSection(), GoldenSection(growth=2.0, max_evaluations=4), Armijo(), Armijo(max_evaluations=1)]


@given(minimum=st.floats(1e-3, 1e3), scale=st.floats(1e-3, 1e3))
def test_golden_section_reaches_the_minimum_of_a_parabola(minimum: float, scale: float) -> None:
    search = GoldenSection(rtol=1e-3, max_evaluations=100)
    found = search.search(lambda t: scale * (t - minimum) ** 2, scale * minimum**2, -2 * scale * minimum)
    assert found.step_size == pytest.approx(minimum, rel=2e-3)


@given(minimum=st.floats(1e-3, 1e3))
def test_armijo_step_decreases_sufficiently(minimum: float) -> None:
    found = Armijo(max_evaluations=60).search(lambda t: (t - minimum) ** 2, minimum**2, -2 * minimum)
    assert found.value <= minimum**2 - 1e-4 * found.step_size * 2 * minimum
    assert found.step_size > 0


@pytest.mark.parametrize("search", SEARCHES, ids=repr)
@pytest.mark.parametrize(
    "phi",
    [lambda t: 1 + t, lambda t: math.nan, lambda t: math.inf, lambda t: 1.0],
    ids=["rising", "nan", "inf", "flat"],
)
def test_staying_put_is_the_answer_where_nothing_is_better(search: LineSearch, phi) -> None:
    found = search.search(phi, 1.0, -1.0)
    assert (found.step_size, found.value) == (0.0, 1.0)
    assert len(found.evaluations) <= search.max_evaluations + 1


@pytest.mark.parametrize("search", SEARCHES, ids=repr)
def test_a_wall_of_infinity_is_survived_and_evaluations_are_counted(search: LineSearch) -> None:
    calls: list[float] = []

    def phi(t: float) -> float:
        calls.append(t)
        return math.inf if t > 0.7 else (t - 0.5) ** 2

    found = search.search(phi, 0.25, -1.0)
    assert found.value <= 0.25
    assert len(calls) == len(set(calls)) <= search.max_evaluations
    assert found.evaluations[0] == (0.0, 0.25)


def test_a_falling_function_uses_up_its_evaluations_and_keeps_the_farthest() -> None:
    found = GoldenSection(growth=2.0, max_evaluations=5).search(lambda t: -t, 0.0, -1.0)
    assert found.step_size == 16.0


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: GoldenSection(initial_step=0.0), "initial_step"),
        (lambda: GoldenSection(growth=1.0), "growth"),
        (lambda: GoldenSection(rtol=-1.0), "rtol"),
        (lambda: Armijo(shrink=1.0), "shrink"),
        (lambda: Armijo(max_evaluations=0), "max_evaluations"),
        (lambda: Armijo().search(lambda t: t, math.nan, -1.0), "value_at_zero"),
    ],
)
def test_bad_arguments_are_named(make, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


def test_a_bracket_that_shrinks_to_nothing_ends() -> None:
    found = GoldenSection(growth=1e40, max_evaluations=2000).search(lambda t: 1.0 + t, 1.0, -1.0)
    assert found.step_size == 0.0
