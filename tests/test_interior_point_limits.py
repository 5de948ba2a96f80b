"""The interior-point method: limits, mistakes, warm starts and memory."""

import math
import re
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from backends import HiGHS
from backends.interior_point import InteriorPoint
from backends.interior_point.dense import DenseSystem
from backends.interior_point.system import set_units
from backends.memory import direction_lp_bytes, dual_newton_bytes, interior_point_bytes, pdlp_bytes
from lift_core.direction import assemble_direction_lp, slack_unit
from lift_core.lp import LinearProgram, LPStart, LPStatus, solve_lp
from lift_core.operators import Dense, DirectionMatrix, LowRankPlusDiagonal, MatrixFree
from lift_core.testing import known_direction_lp
from lift_core.testing.families import factored_direction_lp, trained_direction_lp
from lift_core.testing.known import Curvature
from tests.interior_point_cases import TIGHT, direction_program, factored, normal

INF = math.inf


@pytest.mark.parametrize(
    ("options", "status"),
    [({"max_iterations": 2}, LPStatus.ITERATION_LIMIT), ({"time_limit": 1e-9}, LPStatus.TIME_LIMIT)],
)
def test_limits_give_an_honest_status_and_a_point(options: dict[str, float], status: LPStatus) -> None:
    known = known_direction_lp(30, 3, seed=2)
    solution = solve_lp(known.lp, InteriorPoint(**options))  # pyright: ignore[reportArgumentType]
    assert solution.status is status
    assert solution.kkt.worst < INF
    assert torch.isfinite(solution.x).all()
    assert torch.isfinite(solution.y).all()
    assert (solution.x.abs() <= 1).all()


@pytest.mark.parametrize("size", [1e-250, 1e150, 1e300])
def test_absurd_numbers_never_give_nan(size: float) -> None:
    lp = LinearProgram(
        c=[size, -size, 1.0], A=[[size, 1.0, 0.0], [1.0, 0.0, size]], row_lower=-size, row_upper=1.0, col_lower=0.0
    )
    answer = InteriorPoint().solve(lp)
    for part in (answer.x, answer.y):
        assert part is None or torch.isfinite(part).all()


def test_interrupt_reaches_the_caller() -> None:
    products = 0

    def matvec(x: Tensor) -> Tensor:
        nonlocal products
        products += 1
        if products > 12:
            raise KeyboardInterrupt
        return 2 * x

    with pytest.raises(KeyboardInterrupt):
        solve_lp(
            LinearProgram(c=normal(4), A=MatrixFree(4, matvec), row_lower=-1.0, row_upper=1.0, col_lower=-1.0), TIGHT
        )


def _thin_columns(seed: int) -> LinearProgram:
    """Five dense rows in which some of seventeen columns have tiny entries alone; boxes of very different size."""
    generator, n = torch.Generator().manual_seed(seed), 16

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    diagonal = 10 ** (4 + 1.4 * torch.rand(n, dtype=torch.float64, generator=generator))
    hessian = LowRankPlusDiagonal(diagonal=diagonal, factor=1e-4 * drawn(n, 2), core=torch.ones(2, dtype=torch.float64))
    radii, gradient = (3 * drawn(n)).exp(), 10 * drawn(n)
    lp = assemble_direction_lp(
        grad_hyper=torch.zeros(1, dtype=torch.float64), grad_weights=gradient, hessian=hessian,
        mixed=Dense(drawn(n, 1)), delta=0.1 * slack_unit(hessian, gradient, radii), weights_radius=radii,
        rows=torch.arange(5),
    )  # fmt: skip
    bounds = {name: getattr(lp, name) for name in ("row_lower", "row_upper", "col_lower", "col_upper")}
    return LinearProgram(c=lp.c, A=lp.A.to_dense(), **bounds)


@pytest.mark.parametrize("seed", range(4))
def test_columns_are_not_measured_in_many_of_their_boxes(seed: int) -> None:
    assert solve_lp(_thin_columns(seed), InteriorPoint()).status is LPStatus.OPTIMAL


@pytest.mark.parametrize("factors", [True, False])
@pytest.mark.parametrize(("seed", "rtol"), [(3, 1e-4), (4, 1e-6), (6, 1e-6)])
def test_boxes_of_very_different_size(seed: int, rtol: float, factors: bool) -> None:
    """Weights may move by 1e-3 and rows by 1e-5, hyperparameters far: loose directions lead out of the small boxes."""
    generator, n = torch.Generator().manual_seed(seed), 31
    factor = torch.randn(n, 1, dtype=torch.float64, generator=generator)
    hessian = LowRankPlusDiagonal(
        diagonal=100 * torch.rand(n, dtype=torch.float64, generator=generator),
        factor=factor, core=torch.full((1,), 1e3, dtype=torch.float64),
    )  # fmt: skip
    mixed = 1e4 * torch.randn(n, 2, dtype=torch.float64, generator=generator)
    gradient = 10 * torch.randn(n, dtype=torch.float64, generator=generator)
    lp = assemble_direction_lp(
        grad_hyper=1e-7 * torch.ones(2, dtype=torch.float64), grad_weights=gradient, hessian=hessian,
        mixed=Dense(mixed), delta=1e-5, hyper_radius=1e6, weights_radius=1e-3 * torch.ones(n, dtype=torch.float64),
    )  # fmt: skip
    bounds = {name: getattr(lp, name) for name in ("row_lower", "row_upper", "col_lower", "col_upper")}
    program = lp if factors else LinearProgram(c=lp.c, A=lp.A.to_dense(), **bounds)
    solution = solve_lp(program, InteriorPoint(rtol=rtol))
    assert solution.status is LPStatus.OPTIMAL
    assert solution.objective == pytest.approx(solve_lp(lp, HiGHS()).objective, rel=20 * rtol, abs=1e-3)


def test_large_matrix_free_hessians_are_refused_with_advice() -> None:
    n = 20_000
    matrix = DirectionMatrix(Dense(torch.zeros(n, 0).double()), MatrixFree(n, lambda x: x))
    with pytest.raises(ValueError, match="PDLP"):
        solve_lp(direction_program(matrix, 0.1), InteriorPoint())


def test_max_iterations_must_be_positive() -> None:
    with pytest.raises(ValueError, match="max_iterations"):
        InteriorPoint(max_iterations=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("curvature", ["indefinite", "low rank"])
def test_on_a_gpu(curvature: Curvature) -> None:
    known = known_direction_lp(200, 5, curvature=curvature, seed=1)
    solution = solve_lp(known.lp, InteriorPoint(device="cuda"))
    assert solution.status is LPStatus.OPTIMAL
    assert solution.objective == pytest.approx(known.objective, abs=known.objective_tolerance(1e-8))


# Warm starts


@pytest.mark.parametrize("change", [0.7, 1.0, 1.4])
def test_a_neighbouring_delta_saves_iterations(change: float) -> None:
    lp = direction_program(DirectionMatrix(Dense(normal(300, 3)), factored(300, 4)), 0.1)
    solved = solve_lp(lp, TIGHT)
    near = LinearProgram(
        c=lp.c, A=lp.A, row_lower=change * lp.row_lower, row_upper=change * lp.row_upper, col_lower=-1.0, col_upper=1.0
    )
    cold, warm = solve_lp(near, TIGHT), solve_lp(near, TIGHT, start=LPStart(solved.x, solved.y))
    assert cold.status is warm.status is LPStatus.OPTIMAL
    assert warm.objective == pytest.approx(cold.objective, rel=1e-6)
    assert warm.iterations <= (0 if change == 1.0 else cold.iterations)


@pytest.mark.parametrize("family", [factored_direction_lp, trained_direction_lp])
@pytest.mark.parametrize("slack", [0.1, 0.01])
def test_a_start_far_outside_the_bounds_costs_nothing(family: Callable[..., LinearProgram], slack: float) -> None:
    wide, narrow = (family(500, rank=4, num_hyper=3, slack=ratio * slack) for ratio in (10, 1))
    far = solve_lp(wide, InteriorPoint(rtol=1e-6))
    cold, warm = (solve_lp(narrow, InteriorPoint(rtol=1e-6), start=start) for start in (None, LPStart(far.x, far.y)))
    assert cold.status is warm.status is LPStatus.OPTIMAL
    assert warm.iterations <= cold.iterations


# Memory


def test_too_little_memory_is_refused_before_the_start() -> None:
    lp = direction_program(DirectionMatrix(Dense(normal(50, 3)), factored(50, 2)), 0.1)
    needed = interior_point_bytes(50, 2, 3)
    message = (
        f"memory_limit: a program of shape (50, 53) needs about {needed:,} bytes of working memory on cpu, but 1,000"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        solve_lp(lp, InteriorPoint(memory_limit=1_000))
    assert solve_lp(lp, InteriorPoint(memory_limit=needed)).status is LPStatus.OPTIMAL
    with pytest.raises(ValueError, match="memory_limit: expected a positive number of bytes, got 0"):
        InteriorPoint(memory_limit=0)


PREDICTED = {"interior point": interior_point_bytes, "pdlp": pdlp_bytes, "dual newton": dual_newton_bytes}
MEASURE = """
import sys, torch
from backends import PDLP, DualNewton, InteriorPoint
from lift_core.testing.families import factored_direction_lp, trained_direction_lp
torch.set_num_threads(1)
backends = {
    "interior point": InteriorPoint(max_iterations=2),
    "pdlp": PDLP(max_iterations=81, time_limit=6.0),
    "dual newton": DualNewton(),
}
backend, family = backends[sys.argv[1]], trained_direction_lp if sys.argv[1] == "dual newton" else factored_direction_lp
backend.solve(family(3_000, rank=8, num_hyper=4))
lp = family(100_000, rank=8, num_hyper=4)
open("/proc/self/clear_refs", "w").write("5")  # the kernel's record of the peak begins anew
peak = lambda: 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
before = peak()
backend.solve(lp)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("who", PREDICTED)
def test_predicted_memory_is_what_a_process_takes(who: str) -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE, who], capture_output=True, text=True, check=True)
    predicted = PREDICTED[who](100_000, 8, 4)
    assert 0.4 * predicted <= int(done.stdout) <= 1.1 * predicted


def test_predicted_memory_of_a_program_is_what_its_arrays_take() -> None:
    lp = factored_direction_lp(1_000, rank=8, num_hyper=4)
    assert isinstance(lp.A, DirectionMatrix)
    arrays = (lp.c, lp.row_lower, lp.row_upper, lp.col_lower, lp.col_upper, lp.A.hessian.factor, lp.A.hessian.diagonal)
    held = sum(array.nbytes for array in (*arrays, lp.A.mixed.values, lp.A.mixed.group_of, lp.A.mixed._column))
    assert held == pytest.approx(direction_lp_bytes(1_000, 8, 4), rel=0.02)


@pytest.mark.parametrize("apart", [1e-6, 1e-8])
def test_nearly_parallel_rows_take_an_accurate_factorisation_that_fits(apart: float) -> None:
    """They ask for it while most columns are still large."""
    rows = normal(1, 300) + apart * normal(10, 300)
    bounds = rows @ torch.rand(300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lp = LinearProgram(c=normal(300), A=rows, row_lower=bounds, row_upper=bounds, col_lower=0.0, col_upper=1.0)
    assert solve_lp(lp, InteriorPoint()).status is LPStatus.OPTIMAL
    assert not DenseSystem(lp.A, spare_bytes=0).strengthen()
    spare = 1_000_000
    system = DenseSystem(lp.A, spare_bytes=spare)
    set_units(system, lp)
    assert system.strengthen()
    system.factorize(system.units.theta, torch.ones_like(lp.row_lower))
    assert 0 < len(system._basic) < 300 and 7 * 8 * (10 + len(system._basic)) ** 2 <= spare


def test_memory_of_gpt2_fits_one_device() -> None:
    assert direction_lp_bytes(7_087_872, 64, 12) + interior_point_bytes(7_087_872, 64, 12, device="cuda") < 16 * 2**30
    whole = direction_lp_bytes(124_439_808, 16, 12) + interior_point_bytes(124_439_808, 16, 12, device="cuda")
    assert whole < 139 * 2**30
