"""Refits: training on at the λ of a move, or at several multiples of its direction."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lift_core import Candidate, GoldenSection, Point, Refit, SignGradient, Situation, TrustBox
from lift_core.metering import Metered
from lift_core.problem import Split
from lift_core.training import Trainer, TrainingState, epoch_price
from problems import Network
from tests.batched_network import BATCH, BatchedNetwork

PROBLEM = Network()
TRAINER = Trainer(learning_rate=1e-2)
D_HYPER = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)


def here_and_moved(loss: float = float("inf")) -> tuple[Situation, Candidate]:
    warm = TrainingState.fresh(PROBLEM.initial_point())
    here = Situation(training=warm, selection_loss=loss, trainer=TRAINER, line_search=GoldenSection(), seed=5)
    point = Point(warm.point.hyper + 0.25 * D_HYPER, warm.point.weights)
    return here, Candidate("ρ=0", TrainingState.fresh(point), loss, ((0.0, loss),), d_hyper=D_HYPER)


def trained(hyper: torch.Tensor, epochs: int) -> list[float]:
    state = TrainingState.fresh(Point(hyper, PROBLEM.initial_point().weights))
    states = TRAINER.epochs(PROBLEM, state, seed=5, count=epochs)
    return [PROBLEM.loss(reached.point, "selection") for _, reached in states]


def test_the_best_of_one_refit_for_each_multiple_is_kept() -> None:
    here, moved = here_and_moved()
    best = Refit(epochs=3, reach=(0.5, 2.0)).best(PROBLEM, here, moved)
    losses = {s: trained(PROBLEM.initial_point().hyper + s * D_HYPER, 3) for s in (0.5, 2.0)}
    winner = min(losses, key=lambda s: min(losses[s]))
    assert best.selection_loss == min(losses[winner])
    assert best.label.startswith(f"refit at λ{winner:+g}·d, epoch ")
    torch.testing.assert_close(best.training.point.hyper, PROBLEM.initial_point().hyper + winner * D_HYPER)


def test_without_reach_the_refit_is_at_the_λ_of_the_move() -> None:
    here, moved = here_and_moved()
    best = Refit(epochs=2).best(PROBLEM, here, moved)
    assert torch.equal(best.training.point.hyper, moved.training.point.hyper)
    assert best.selection_loss == min(trained(moved.training.point.hyper, 2))


def test_λ_stays_within_its_bounds() -> None:
    here, moved = here_and_moved()
    best = Refit(epochs=1, reach=(1e6,)).best(PROBLEM, here, moved)
    assert (best.training.point.hyper <= PROBLEM.hyper_upper).all()
    assert (best.training.point.hyper >= PROBLEM.hyper_lower).all()


def test_every_epoch_of_every_refit_is_paid_for() -> None:
    here, moved = here_and_moved()
    metered = Metered(PROBLEM)
    Refit(epochs=2, splits=("train", "direction"), reach=(0.5, 1.0, 2.0)).best(metered, here, moved)
    both = 1 + PROBLEM.num_examples("direction") / PROBLEM.num_examples("train")
    assert metered.cost.gradients == pytest.approx(3 * 2 * both)


@pytest.mark.parametrize("reach", [(), (1.0,), (0.5, 1.0, 2.0)])
@pytest.mark.parametrize("spent", [0.3, 1.7, 100.0])
def test_all_in_refits_spend_what_the_direction_has_left_and_no_more(reach: tuple[float, ...], spent: float) -> None:
    here, moved = here_and_moved()
    metered, refits = Metered(BatchedNetwork()), max(1, len(reach))
    both: tuple[Split, ...] = ("train", "direction")
    Refit(epochs=3, splits=both, reach=reach, all_in=True, patience=9).best(metered, here, moved, spent=spent)
    left = 3 * refits * epoch_price(PROBLEM, both) - spent
    batch = BATCH / PROBLEM.num_examples("train")
    assert max(0.0, left - refits * batch) - 1e-9 <= metered.cost.gradients <= max(0.0, left) + 1e-9


def test_a_move_that_stays_is_refitted_only_where_λ_has_somewhere_to_go() -> None:
    here, moved = here_and_moved()
    stay = replace(moved, label="stay")
    assert Refit(epochs=2).best(PROBLEM, here, stay) is stay
    assert Refit(epochs=2, reach=(1.0,)).best(PROBLEM, here, stay).label.startswith("refit")
    assert Refit(epochs=2, reach=(1.0,)).best(PROBLEM, here, replace(moved, d_hyper=None)).d_hyper is None


def test_a_move_that_does_not_help_keeps_its_direction_in_λ() -> None:
    here, _ = here_and_moved(loss=-1.0)  # nothing can be below
    best, described = SignGradient(box=TrustBox()).best(PROBLEM, here)
    assert best.label == "stay" and len(described) == 1
    assert best.d_hyper is not None and best.training is here.training


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"epochs": -1}, "epochs"),
        ({"epochs": float("inf")}, "epochs"),
        ({"patience": 0}, "patience"),
        ({"reach": (float("nan"),)}, "reach"),
        ({"splits": ("train", "test")}, "splits"),
        ({"splits": "train"}, "splits"),
    ],
)
def test_bad_options_are_named(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Refit(**options)
