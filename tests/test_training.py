"""The optimiser of warm-up, refits and training controls."""

from __future__ import annotations

import pytest
import torch

from lift_core.training import Trainer, TrainingState
from problems import Network
from tests.batched_network import BATCH, BatchedNetwork

START = TrainingState.fresh(Network().initial_point())


def test_averages_are_those_of_the_iterates_that_plain_training_visits() -> None:
    problem, plain, averaged = Network(), Trainer(learning_rate=1e-2), Trainer(learning_rate=1e-2, averaging=0.8)
    batches = len(problem.batches("train"))
    expected, state, reached = START.point.weights, START, START
    for _ in range(2):
        state, visited = plain.epoch(problem, state, seed=3, num_snapshots=batches)
        reached, _ = averaged.epoch(problem, reached, seed=3)
        for step, weights in enumerate(visited, start=state.steps - batches + 1):
            memory = min(0.8, (1 + step) / (10 + step))
            expected = memory * expected + (1 - memory) * weights
    assert reached.iterate is not None
    assert torch.equal(reached.iterate, state.point.weights)
    torch.testing.assert_close(reached.point.weights, expected, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(expected, state.point.weights)


@pytest.mark.parametrize("averaging", [0.0, 0.8])
def test_steps_are_the_parts_of_an_epoch(averaging: float) -> None:
    problem, trainer = Network(), Trainer(learning_rate=1e-2, averaging=averaging)
    whole, _ = trainer.epoch(problem, START, seed=3)
    steps = trainer.steps(problem, START, seed=3)
    *_, last = (next(steps) for _ in problem.batches("train"))
    assert (last.steps, last.epochs) == (whole.steps, whole.epochs)
    torch.testing.assert_close(last.point.weights, whole.point.weights, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("count", [1, 4, 8])
def test_a_part_of_an_epoch_is_its_first_batches(count: int) -> None:
    problem, trainer = BatchedNetwork(), Trainer(learning_rate=1e-2)
    steps = trainer.steps(problem, START, seed=3)
    *_, reached = (next(steps) for _ in range(count))
    part, snapshots = trainer.epoch(problem, START, seed=3, share=(BATCH * count + 1) / 300, num_snapshots=1)
    assert (part.steps, part.epochs, len(snapshots)) == (count, 1, 1)
    torch.testing.assert_close(part.point.weights, reached.point.weights, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("count", "ends", "steps"),
    [(2, [1, 2], [9, 18]), (1.5, [1, 1.5], [9, 13]), (1 / 30, [], []), (0, [], []), (-1.0, [], [])],
)
def test_epochs_end_where_their_count_does(count: float, ends: list[float], steps: list[int]) -> None:
    states = list(Trainer().epochs(BatchedNetwork(), START, seed=0, count=count))
    assert [done for done, _ in states] == ends
    assert [state.steps for _, state in states] == pytest.approx(steps, abs=1)  # the small batch may be in the part


def test_without_averaging_the_point_is_the_iterate() -> None:
    reached, _ = Trainer().epoch(Network(), START, seed=0)
    assert reached.iterate is None
