"""A network whose splits come in several batches each."""

from collections.abc import Sequence

from lift_core.problem import Batch, Split
from problems import Network

BATCH = 35
"""Samples a batch; the last one of a split of 300 has 20."""


class BatchedNetwork(Network):
    """`Network` in nine batches."""

    def batches(self, split: Split) -> Sequence[Batch]:
        (whole,) = super().batches(split)
        return list(zip(*(part.split(BATCH) for part in whole), strict=True))
