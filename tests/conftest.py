"""Shared by all tests: one thread, a quiet and repeatable hypothesis, and the table of backends."""

import importlib

import pytest
import torch
from hypothesis import HealthCheck, settings

from lift_core import LPBackend

settings.register_profile(
    "lift",
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("lift")

torch.set_num_threads(1)

BACKENDS = ("HiGHS", "Pyomo", "PDLP", "InteriorPoint", "DualNewton")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> LPBackend:
    """Each backend with its defaults, imported only when a test asks for it."""
    return getattr(importlib.import_module("backends"), request.param)()
