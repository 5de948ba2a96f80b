"""Random programs with known optima: no wrong answer from any backend, and every early stop has a valid bound."""

import pytest
from hypothesis import given, settings

from backends import PDLP, HiGHS, InteriorPoint
from lift_core.lp import LPBackend, LPStatus
from lift_core.testing import KnownLP, known_lp
from lift_core.testing.random_checks import check_answer, early_stop
from lift_core.testing.strategies import direction_lps, nasty_lps
from tests.interior_point_cases import normal

BACKENDS: dict[str, LPBackend] = {
    "highs": HiGHS(method="simplex", rtol=1e-7, time_limit=5.0),
    "interior point": InteriorPoint(rtol=1e-8, time_limit=5.0),
    "pdlp": PDLP(rtol=1e-4, max_iterations=2_000),
}


@pytest.mark.parametrize("name", BACKENDS)
@settings(max_examples=50)
@given(known=nasty_lps())
def test_nasty_programs(name: str, known: KnownLP) -> None:
    check_answer(known, BACKENDS[name])
    early_stop(known, BACKENDS[name])


@pytest.mark.parametrize("name", BACKENDS)
@settings(max_examples=25)
@given(known=direction_lps(max_weights=12, max_hyper=4))
def test_directions(name: str, known: KnownLP) -> None:
    assert check_answer(known, BACKENDS[name]) is LPStatus.OPTIMAL
    early_stop(known, BACKENDS[name])


def test_a_wrong_optimum_is_noticed() -> None:
    known = known_lp(normal(3, 4), ["at lower"] * 3, ["inside"] * 4)
    wrong = KnownLP(known.lp, known.x + 1, known.y)
    with pytest.raises(AssertionError, match="is called optimal"):
        check_answer(wrong, BACKENDS["highs"])
