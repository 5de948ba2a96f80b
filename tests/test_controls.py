"""The controls do what their names say, on a budget, and through the interface of the LP direction."""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import optuna
import pytest
import torch

from backends import HiGHS
from lift_core import (
    Candidate,
    Exact,
    GridSearch,
    HyperSearch,
    ImplicitHypergradient,
    LPDirection,
    Metered,
    MoreTraining,
    Move,
    NegativeGradient,
    RandomSearch,
    SignGradient,
    SuccessiveHalving,
    TrustBox,
    build_curvature,
    linearize,
    standard_controls,
)
from lift_core.moves import LineMove, Situation
from lift_core.parzen import ParzenSearch
from lift_core.problem import BilevelProblem
from lift_core.training import Trainer, TrainingDivergedError, TrainingState, epoch_price
from problems import Network, Quadratic


def situation(problem, **options) -> Situation:
    point = problem.initial_point()
    return Situation(TrainingState.fresh(point), problem.loss(point, "selection"), **options)


def only_direction(move: LineMove, problem):
    here = situation(problem)
    (direction,) = move.directions(problem, here, linearize(problem, here.point))
    return direction


@pytest.mark.parametrize("move", [NegativeGradient(), SignGradient(), ImplicitHypergradient()], ids=lambda m: m.name)
def test_predicted_slope_is_the_derivative_of_the_direction_loss(move: LineMove) -> None:
    problem = Quadratic(hyper_cost=True)
    point = problem.initial_point()
    direction = only_direction(move, problem)
    step = 1e-5
    ahead, behind = (
        problem.loss(point.moved(direction.d_hyper, direction.d_weights, t), "direction") for t in (step, -step)
    )
    assert (ahead - behind) / (2 * step) == pytest.approx(direction.slope, rel=1e-5)


def test_the_gradient_controls_stay_in_the_trust_box() -> None:
    problem = Network()
    box = TrustBox(weights_radius=0.3)
    for move in (NegativeGradient(box=box), SignGradient(box=box)):
        assert float(only_direction(move, problem).d_weights.abs().max()) == pytest.approx(0.3)


@pytest.mark.parametrize("move", standard_controls(TrustBox()), ids=lambda move: move.name)
def test_every_control_proposes_points_that_carry_their_own_selection_loss(move: Move) -> None:
    problem = Network()
    best, described = move.best(problem, situation(problem, budget=8.0, trainer=Trainer(learning_rate=1e-2)))
    assert described
    assert problem.loss(best.training.point, "selection") == pytest.approx(best.selection_loss, rel=1e-12)
    assert min(c["selection_loss"] for c in described) >= best.selection_loss
    assert (best.training.point.hyper >= problem.hyper_lower).all()
    assert (best.training.point.hyper <= problem.hyper_upper).all()


@pytest.mark.parametrize("budget", [3.0, 10.0])
@pytest.mark.parametrize(
    "move",
    [
        MoreTraining(),
        MoreTraining(splits=("train", "direction")),
        GridSearch(trials=3),
        RandomSearch(),
        ParzenSearch(trials=3),
        SuccessiveHalving(trials=4),
    ],
    ids=repr,
)
def test_training_controls_keep_to_their_budget(move: Move, budget: float) -> None:
    metered = Metered(Network())
    move.best(metered, situation(metered, budget=budget, trainer=Trainer(learning_rate=1e-2)))
    # one epoch for every trial is the smallest search there is
    least = 4 if isinstance(move, HyperSearch | SuccessiveHalving) else 1
    assert metered.cost.gradients <= max(budget, least) + 1e-9


def test_early_stopping_keeps_the_best_epoch_and_stops() -> None:
    problem = Network()
    here = situation(problem, budget=math.inf, trainer=Trainer(learning_rate=0.5))
    best, described = MoreTraining(patience=2, max_epochs=30).best(problem, here)
    losses = [candidate["selection_loss"] for candidate in described]
    assert best.selection_loss == min([here.selection_loss, *losses])
    assert len(losses) < 30


@pytest.mark.parametrize(
    "move", [MoreTraining(), GridSearch(trials=2), SuccessiveHalving(trials=2)], ids=lambda move: move.name
)
def test_a_control_waits_a_tenth_of_its_epochs_for_a_new_best(move: Move) -> None:
    """Losses that rise for seven epochs and then fall: a patience of one or two would never see it.

    A race gives each of two trials fifty epochs, whatever comes, and the winner the rest.
    """
    problem = Scores()
    losses = (
        [2.0] * (50 if isinstance(move, SuccessiveHalving) else 0)
        + [2.0 + k / 100 for k in range(7)]
        + [1.0 - k / 1000 for k in range(200)]
    )
    problem.script = {False: losses, True: losses}
    price = epoch_price(problem, getattr(move, "splits", ("train",)))
    here = replace(situation(problem, trainer=Scripted(), budget=200.0 * price), selection_loss=3.0)
    assert min(candidate.selection_loss for candidate in move.candidates(problem, here)) < 1.0


def test_training_controls_spend_the_whole_of_a_large_budget() -> None:
    """As long as there is something to gain; how good a trial is shows in the trial, not at the warm point."""
    problem = Scores()
    falling = [2.0 - k / 100 for k in range(200)]  # from worse than the warm point to better
    problem.script = {False: falling, True: [3.0, 3.1]}
    here = replace(situation(problem, trainer=Scripted(), budget=300.0), selection_loss=1.0)
    tried = list(GridSearch(trials=2).candidates(problem, here))
    assert [candidate.selection_loss for candidate in tried[:150]] == falling[:150]
    metered = Metered(Network())
    list(MoreTraining().candidates(metered, situation(metered, budget=70.0, trainer=Trainer(learning_rate=1e-3))))
    assert metered.cost.gradients == 70


def test_a_search_without_any_limit_is_refused() -> None:
    problem = Network()
    for move in (MoreTraining(), GridSearch(), SuccessiveHalving()):
        with pytest.raises(ValueError, match="budget: expected a finite number"):
            list(move.candidates(problem, situation(problem)))


BAD_CONTROLS = (
    (MoreTraining, {"splits": "train"}, "splits: expected a tuple"),
    (MoreTraining, {"splits": ("train", "selection")}, "splits: expected a tuple"),
    (GridSearch, {"splits": ()}, "splits: expected a tuple"),
    (GridSearch, {"trials": 0}, "trials: expected at least 1"),
    (SuccessiveHalving, {"splits": ("test",)}, "splits: expected a tuple"),
    (SuccessiveHalving, {"trials": 1}, "trials: expected at least 2"),
)


@pytest.mark.parametrize(("make", "options", "message"), BAD_CONTROLS)
def test_bad_options_are_named(make: type[Move], options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_grid_moves_all_strengths_alike_and_random_does_not() -> None:
    problem = Network()
    here = situation(problem, budget=4.0)
    shifts = [c.training.point.hyper - here.point.hyper for c in GridSearch(trials=4).candidates(problem, here)]
    assert all(float(shift.max() - shift.min()) < 1e-12 for shift in shifts)
    drawn = [c.training.point.hyper - here.point.hyper for c in RandomSearch().candidates(problem, here)]
    assert any(float(shift.max() - shift.min()) > 1e-3 for shift in drawn)


def test_halving_trains_on_where_it_pays_and_from_where_it_stopped() -> None:
    """Eight trials of 4, then 4 of 8, 2 of 16, 1 of 32 epochs; each goes on as if it had never been stopped."""
    problem = Network()
    epoch = 1 + problem.num_examples("direction") / problem.num_examples("train")
    here = situation(problem, budget=128 * epoch, trainer=Trainer(learning_rate=1e-2))
    move = SuccessiveHalving(patience=100)
    found = list(move.candidates(problem, here))
    trials: dict[str, list[Candidate]] = {}
    for candidate in found:
        trials.setdefault(candidate.label.partition(",")[0], []).append(candidate)
    assert sorted(map(len, trials.values())) == [4, 4, 4, 4, 12, 12, 28, 60]
    after_first = {label: min(c.selection_loss for c in epochs[:4]) for label, epochs in trials.items()}
    went_on = sorted(after_first, key=after_first.__getitem__)[:4]
    assert {label for label, epochs in trials.items() if len(epochs) > 4} == set(went_on)
    (winner,) = (epochs for epochs in trials.values() if len(epochs) == 60)
    start = replace(here.training, point=replace(here.point, hyper=winner[-1].training.point.hyper))
    states = here.trainer.epochs(problem, start, seed=here.seed, splits=move.splits)
    *_, (_, uninterrupted) = islice(states, 60)
    torch.testing.assert_close(winner[-1].training.point.weights, uninterrupted.point.weights, rtol=0, atol=0)


@pytest.mark.parametrize("trials", [2, 3, 5, 8, 9])
@pytest.mark.parametrize("epochs", [2, 3, 7, 18, 40])
def test_halving_never_spends_more_than_its_budget(trials: int, epochs: int) -> None:
    metered = Metered(Network())
    epoch = 1 + metered.num_examples("direction") / metered.num_examples("train")
    here = situation(metered, budget=epochs * epoch * (1 + 1e-9))
    list(SuccessiveHalving(trials=trials).candidates(metered, here))
    assert metered.cost.gradients <= epochs * epoch + 1e-6


class Scripted(Trainer):
    """Trials whose selection losses are given, by the sign of their shift; NaN diverges."""

    def epochs(self, problem, state, *, seed, splits=("train",), count=math.inf):
        for done, loss in enumerate(problem.script[float(state.point.hyper[0]) > 0], start=1):
            if math.isnan(loss):
                raise TrainingDivergedError
            state = replace(state, point=replace(state.point, weights=torch.full_like(state.point.weights, loss)))
            yield float(done), state


class Scores(Quadratic):
    """The loss is what the weights say."""

    def loss(self, point, split):
        return float(point.weights[0])


SCRIPTS = (
    # two epochs each, and then the winner until two in a row are no better than its best of all rungs
    ([0.3, 0.45, 0.44, 0.43, 0.42, 0.41], [0.9] * 6, "--++--"),
    # whoever diverges is out, however good it was
    ([0.1, math.nan], [0.5] * 6, "-++++"),
    # and one that diverges in the last rung ends the race
    ([0.1, 0.05, math.nan], [0.5] * 6, "--++"),
)


@pytest.mark.parametrize(("low", "high", "order"), SCRIPTS)
def test_halving_ranks_by_the_best_epoch_so_far(low: list[float], high: list[float], order: str) -> None:
    problem = Scores()
    problem.script = {False: low, True: high}
    passes = 1 + problem.num_examples("direction") / problem.num_examples("train")
    here = replace(situation(problem, trainer=Scripted(), budget=8 * passes), selection_loss=1.0)
    found = SuccessiveHalving(trials=2).candidates(problem, here)
    assert "".join(candidate.label[1] for candidate in found) == order


def test_without_strengths_there_is_nothing_to_race() -> None:
    problem = Quadratic(num_hyper=0)
    assert not list(SuccessiveHalving().candidates(problem, situation(problem, budget=9.0)))


def test_halving_on_the_smallest_budget_still_compares_two() -> None:
    problem = Network()
    found = list(SuccessiveHalving().candidates(problem, situation(problem, budget=1.0)))
    assert [candidate.label for candidate in found] == ["λ-4, epoch 1", "λ+4, epoch 1"]


def test_the_lp_direction_at_full_slack_is_the_sign_control() -> None:
    problem = Quadratic()
    here = situation(problem)
    known = linearize(problem, here.point)
    (lp,) = LPDirection(backend=HiGHS(), curvature=Exact(), slacks=(1.0,)).directions(problem, here, known)
    sign = only_direction(SignGradient(), problem)
    torch.testing.assert_close(lp.d_weights, sign.d_weights, rtol=0, atol=1e-6)


@pytest.mark.parametrize("move", [GridSearch(), SuccessiveHalving()], ids=lambda move: move.name)
def test_where_every_trial_diverges_nothing_is_proposed(move: Move) -> None:
    problem = Network()
    here = situation(problem, budget=8.0, trainer=Trainer(learning_rate=1e-2))
    broken = replace(here.training.point, weights=here.point.weights * math.nan)
    stuck = replace(here, training=TrainingState.fresh(broken))
    best, described = move.best(problem, stuck)
    assert described == []
    assert best.label == "stay"


def test_parzen_trials_are_told_what_they_reached() -> None:
    problem, told = Network(), []

    class Spy(optuna.samplers.RandomSampler):
        def after_trial(self, study, trial, state, values) -> None:
            told.append(values[0])
            super().after_trial(study, trial, state, values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optuna.samplers, "TPESampler", lambda seed, n_startup_trials: Spy(seed=seed))
        search = ParzenSearch(trials=4)
        _, described = search.best(problem, situation(problem, budget=8.0))
    losses = {candidate["selection_loss"] for candidate in described}
    assert len(told) == 3 and set(told) <= losses


def test_unit_norm_and_absolute_slack() -> None:
    problem = Quadratic()
    here = situation(problem)
    known = linearize(problem, here.point)
    plain = LPDirection(backend=HiGHS(), curvature=Exact(), delta=1e-3)
    (given,) = plain.directions(problem, here, known)
    (scaled,) = replace(plain, unit_norm=True).directions(problem, here, known)
    norm = torch.cat([given.d_hyper, given.d_weights]).norm()
    assert float(torch.cat([scaled.d_hyper, scaled.d_weights]).norm()) == pytest.approx(1.0)
    torch.testing.assert_close(scaled.d_weights * norm, given.d_weights)
    assert scaled.slope * float(norm) == pytest.approx(given.slope)
    hessian = build_curvature(Exact(), problem, here.point, start=known.grad_weights).hessian
    rows = hessian.matvec(given.d_weights) + known.mixed.matvec(given.d_hyper)
    assert float(rows.abs().max()) == pytest.approx(1e-3, rel=1e-6)
    with pytest.raises(ValueError, match="delta: expected"):
        replace(plain, delta=-1.0)


def test_a_candidate_whose_loss_is_no_number_never_wins() -> None:
    class Fixed(Move):
        name = "fixed"

        def candidates(self, problem: BilevelProblem, here: Situation) -> Iterator[Candidate]:
            for loss in (math.nan, 2.0, -math.inf, 0.5, 1.0):
                yield Candidate(f"{loss}", here.training, loss, ())

    start = TrainingState.fresh(Quadratic().initial_point())
    assert Fixed().best(Quadratic(), Situation(training=start, selection_loss=3.0))[0].label == "0.5"
    assert Fixed().best(Quadratic(), Situation(training=start, selection_loss=0.1))[0].label == "stay"
