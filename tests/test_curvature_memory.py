"""The bytes that curvature models state are those that a process takes."""

import json
import subprocess
import sys

import pytest

MEASURE = """
import ctypes, json, torch
import lift_core as lift
from lift_core.curvature.model import CurvatureView
from lift_core.operators import Diagonal

torch.set_num_threads(1)


class Wide(lift.BilevelProblem):
    name, hyper_names, groups = "wide", (), {"a": slice(0, 100_000)}

    def initial_point(self):
        return lift.Point(torch.zeros(0).double(), torch.ones(100_000).double())

    def batches(self, split):
        return [(torch.arange(8),)] * 20

    def upper_loss(self, hyper, weights, batch):
        return weights.square().mean()

    def sampled(self, point, batch, generator):
        return batch

    def training_gradient(self, point, batches=None):
        return 1.5 * point.weights

    def training_hessian(self, point, batches=None):
        return Diagonal(torch.linspace(1, 2, 100_000).double())

    def example_gradients(self, point, batch, *, limit=None):
        return torch.randn(min(8, limit), 100_000, dtype=torch.float64), [1] * min(8, limit)


def peak():
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])


problem, generator = Wide(), torch.Generator().manual_seed(0)
models = [
    lift.Fisher(samples=150, rank=4), lift.SR1(memory=30), lift.LowRank(rank=4, num_probes=32),
    lift.LowRank(rank=64, block=16, num_probes=4),
]
snapshots = [torch.randn(100_000, generator=generator, dtype=torch.float64) for _ in range(30)]
found = []
for model in models:
    start = torch.randn(100_000, generator=generator, dtype=torch.float64)
    view = CurvatureView(problem, problem.initial_point(), problem.batches("train"), start, snapshots, generator)
    small = torch.linalg.eigh(torch.eye(3)), torch.linalg.qr(torch.randn(5, 2))
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what earlier models have left behind is no room for this one
    open("/proc/self/clear_refs", "w").write("5")  # the kernel's record of the peak begins anew
    before = peak()
    model.data_curvature(view)
    found.append((repr(model), model.budget(100_000).num_bytes, peak() - before))
print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_stated_bytes_are_what_a_process_takes() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    for model, stated, taken in json.loads(done.stdout):
        assert 0.5 * stated <= taken <= 1.5 * stated, f"{model}: stated {stated:,}, took {taken:,}"
