"""The knapsack of groups: exact against brute force, greedy's gap, the relaxation's bound, pair terms."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lift_core as lift
from backends import PDLP, HiGHS, InteriorPoint, Pyomo
from lift_core.selection import (
    Scores,
    capacity_of,
    exact_knapsack,
    greedy_knapsack,
    knapsack_program,
    pareto_chain,
    pareto_front,
    quadratic_knapsack,
    relaxation_bound,
)
from lift_core.selection.knapsack import choose, enumerate_knapsack
from lift_core.selection.quadratic import joint_value, upper_planes_bound


def drawn(seed: int, count: int, *, largest: int = 100_000) -> tuple[Scores, int]:
    """A random instance: some values zero, capacities from nothing to nearly everything."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, largest, (count,), generator=generator)
    values = torch.rand(count, generator=generator, dtype=torch.float64) * sizes.double().sqrt()
    values[torch.rand(count, generator=generator) < 0.1] = 0.0
    capacity = int(torch.rand((), generator=generator) * int(sizes.sum()))
    return Scores("drawn", tuple(f"g{k}" for k in range(count)), sizes, values), capacity


def test_exact_is_brute_force_on_300_instances() -> None:
    positive_gaps = 0
    for seed in range(300):
        scores, capacity = drawn(seed, 1 + seed % 16)
        exact, greedy = exact_knapsack(scores, capacity, HiGHS()), greedy_knapsack(scores, capacity)
        best, bound = enumerate_knapsack(scores.values, scores.sizes, capacity), relaxation_bound(scores, capacity)
        assert exact.value == pytest.approx(best, rel=1e-9, abs=1e-12), seed
        assert exact.size <= capacity and greedy.size <= capacity
        assert exact.size == int(scores.sizes[list(exact.numbers)].sum())
        assert greedy.value <= exact.value * (1 + 1e-12)
        assert exact.value <= bound * (1 + 1e-12)
        assert greedy.gap >= 0 and greedy.bound == bound
        assert math.isclose((bound - greedy.value) / bound if bound else 0.0, greedy.gap, abs_tol=1e-12)
        positive_gaps += greedy.value < exact.value
    assert positive_gaps > 20, "the instances are too easy to tell greedy from exact"


@given(st.integers(0, 10**6), st.integers(1, 40))
@settings(max_examples=60)
def test_the_relaxation_bounds_both(seed: int, count: int) -> None:
    scores, capacity = drawn(seed, count, largest=2_000_000)
    greedy, bound = greedy_knapsack(scores, capacity), relaxation_bound(scores, capacity)
    exact = exact_knapsack(scores, capacity, HiGHS())
    assert greedy.value <= exact.value * (1 + 1e-12) <= bound * (1 + 1e-9)
    assert greedy.gap >= 0 and exact.gap == 0


@pytest.mark.parametrize("backend", [HiGHS(), InteriorPoint(rtol=1e-8), PDLP(rtol=1e-6)], ids=lambda b: b.name)
def test_the_closed_form_is_the_linear_relaxation(backend: lift.LPBackend) -> None:
    for seed in range(5):
        scores, capacity = drawn(seed, 12)
        solution = lift.solve_lp(knapsack_program(scores, capacity, relaxed=True), backend)
        value = -solution.objective * float(scores.values[scores.sizes <= capacity].max())
        assert value == pytest.approx(relaxation_bound(scores, capacity), rel=1e-4)


def test_pyomo_finds_the_same_choice() -> None:
    for seed in range(8):
        scores, capacity = drawn(seed, 10)
        ours, theirs = (exact_knapsack(scores, capacity, backend) for backend in (HiGHS(), Pyomo()))
        assert ours.value == pytest.approx(theirs.value, rel=1e-9)


def test_highs_ignores_a_method_that_would_drop_the_integers() -> None:
    scores = Scores("three halves", ("a", "b", "c"), torch.tensor([2, 2, 2]), torch.tensor([1.0, 1.1, 1.2]).double())
    for method in ("simplex", "ipm"):
        assert exact_knapsack(scores, 3, HiGHS(method=method)).numbers == (2,)


def test_integer_programs_are_refused_by_other_backends_and_judged_by_feasibility() -> None:
    scores, capacity = drawn(3, 6)
    program = knapsack_program(scores, capacity)
    with pytest.raises(ValueError, match="takes integer programs"):
        lift.solve_lp(program, InteriorPoint())
    solution = lift.solve_lp(program, HiGHS())
    assert solution.status.ok and torch.equal(solution.x, solution.x.round())

    class Fractional(HiGHS):
        def solve_sequence(self, lps):
            for lp in lps:
                x = torch.full((lp.num_columns,), 0.25).double().minimum(lp.col_upper)
                yield lift.BackendAnswer(x / 100, None, lift.LPStatus.OPTIMAL)

    assert lift.solve_lp(program, Fractional()).status is lift.LPStatus.INACCURATE
    with pytest.raises(ArithmeticError, match="INACCURATE"):
        exact_knapsack(*drawn(40, 12), Fractional())


def test_greedy_is_kept_where_the_answer_is_worse() -> None:
    class Lazy(HiGHS):
        def solve_sequence(self, lps):
            for lp in lps:
                yield lift.BackendAnswer(torch.zeros(lp.num_columns).double(), None, lift.LPStatus.OPTIMAL)

    scores, capacity = drawn(40, 12)
    chosen = exact_knapsack(scores, capacity, Lazy())
    assert chosen == greedy_knapsack(scores, capacity) and not chosen.optimal


@pytest.mark.parametrize("factor", [1e7, 1e9])
def test_a_group_that_does_not_fit_has_no_say(factor: float) -> None:
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        sizes = torch.randint(1000, 40_001, (12,), generator=generator)
        values = sizes.double() * (0.5 + torch.rand(12, generator=generator, dtype=torch.float64))
        inside, capacity = Scores("inside", tuple("abcdefghijkl"), sizes, values), int(sizes.sum()) // 2
        huge = torch.tensor([5_000_000]), factor * values.max()[None]
        scores = Scores("all", (*inside.names, "huge"), torch.cat([sizes, huge[0]]), torch.cat([values, huge[1]]))
        chosen, best = exact_knapsack(scores, capacity, HiGHS()), enumerate_knapsack(values, sizes, capacity)
        assert chosen.optimal and chosen.value == pytest.approx(best, rel=1e-9)
        assert relaxation_bound(scores, capacity) == relaxation_bound(inside, capacity)


def test_the_chain_is_nested_and_below_the_front() -> None:
    scores, _ = drawn(5, 14)
    chain = pareto_chain(scores)
    assert [len(point.numbers) for point in chain] == list(range(len(chain)))
    for smaller, larger in pairwise(chain):
        assert set(smaller.numbers) < set(larger.numbers) and smaller.value < larger.value
    front = pareto_front(scores, [point.size for point in chain], HiGHS())
    for point, best in zip(chain, front, strict=True):
        assert point.value <= best.value * (1 + 1e-12) and best.size <= point.size


def test_groups_without_value_or_room_are_left_out() -> None:
    scores = Scores("x", ("a", "b", "c"), torch.tensor([5, 5, 50]), torch.tensor([0.0, 1.0, 9.0]).double())
    assert greedy_knapsack(scores, 20).numbers == (1,)
    assert exact_knapsack(scores, 20, HiGHS()).numbers == (1,)
    assert choose(scores, 4).numbers == ()
    nothing = Scores("x", ("a",), torch.tensor([5]), torch.zeros(1).double())
    assert exact_knapsack(nothing, 20, HiGHS()).numbers == () and greedy_knapsack(nothing, 20).gap == 0


def with_pairs(seed: int, count: int) -> tuple[Scores, int]:
    scores, capacity = drawn(seed, count, largest=1000)
    factor = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    pairs = factor @ factor.T * float(scores.values.mean()) / 4
    pairs -= torch.diag(pairs.diagonal())
    return Scores("pairs", scores.names, scores.sizes, scores.values, cross=pairs), capacity


@pytest.mark.parametrize("seed", range(6))
def test_pair_terms_by_enumeration_and_the_bound(seed: int) -> None:
    scores, capacity = with_pairs(seed, 9)
    best = 0.0
    for code in range(2**9):
        numbers = [k for k in range(9) if code >> k & 1]
        if int(scores.sizes[numbers].sum()) <= capacity:
            best = max(best, joint_value(scores, numbers))
    chosen = quadratic_knapsack(scores, capacity)
    assert chosen.value == pytest.approx(best) and chosen.optimal and chosen.size <= capacity
    assert chosen.value == pytest.approx(joint_value(scores, chosen.numbers))
    assert upper_planes_bound(scores, capacity) >= best * (1 - 1e-12)


def test_exchanges_come_close_and_stay_below_their_bound() -> None:
    from lift_core.selection.quadratic import _exchange

    shares = []
    for seed in range(20):
        scores, capacity = with_pairs(seed, 14)
        numbers, value = _exchange(scores, scores.cross, capacity)
        best = quadratic_knapsack(scores, capacity)
        assert value <= best.value * (1 + 1e-12) and value == pytest.approx(joint_value(scores, numbers))
        assert int(scores.sizes[numbers].sum()) <= capacity
        shares.append(value / best.value if best.value else 1.0)
    assert sum(shares) / len(shares) > 0.95
    scores, capacity = with_pairs(0, 40)
    chosen = quadratic_knapsack(scores, capacity)
    assert chosen.solver == "exchanges" and chosen.value <= chosen.bound and chosen.gap >= 0


def test_without_pair_terms_the_quadratic_choice_is_the_knapsack() -> None:
    scores, capacity = drawn(11, 12)
    same = Scores("x", scores.names, scores.sizes, scores.values, cross=torch.zeros(12, 12).double())
    assert quadratic_knapsack(same, capacity).value == pytest.approx(exact_knapsack(scores, capacity, HiGHS()).value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: capacity_of(0.0, 10), "budget: expected a share"),
        (lambda: capacity_of(1.5, 10), "got 1.5"),
        (lambda: greedy_knapsack(drawn(0, 3)[0], -1), "capacity: expected a number of weights of at least 0, got -1"),
        (lambda: Scores("x", ("a",), torch.tensor([1]), torch.tensor([-1.0])), "values: expected finite .* 'a'"),
        (lambda: Scores("x", ("a",), torch.tensor([1]), torch.tensor([math.nan])), "got nan"),
        (lambda: Scores("x", ("a",), torch.tensor([1, 2]), torch.tensor([1.0])), "2 sizes"),
        (lambda: quadratic_knapsack(drawn(0, 3)[0], 5), "expected pair terms"),
        (
            lambda: quadratic_knapsack(
                Scores("x", ("a",), torch.tensor([1]), torch.tensor([1.0]).double(), cross=torch.ones(1, 1)), 5
            ),
            "zero diagonal",
        ),
        (lambda: enumerate_knapsack(torch.ones(30), torch.ones(30), 1), "at most 22"),
        (
            lambda: lift.LinearProgram(c=[1.0], A=[[1.0]], row_lower=0.0, integrality=[True, False]),
            "integrality: expected shape",
        ),
    ],
)
def test_bad_input_is_named(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_capacity_is_the_floor_of_the_share() -> None:
    assert [capacity_of(share, 1000) for share in (0.001, 0.01, 0.0199, 1.0)] == [1, 10, 19, 1000]
