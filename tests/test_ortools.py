"""OR-tools in its process: the contract, rays, statuses, and what happens when that process is late or breaks down."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from explicit_lp_cases import CASES, INFEASIBLE, UNBOUNDED, direction_program

from backends import HiGHS, ORTools
from backends import ortools as adapter
from backends.worker import Worker, WorkerError
from lift_core.lp import LinearProgram, LPStatus, solve_lp
from lift_core.testing import check_backend, lp_cases
from lift_core.testing.backends import check_case

needs_ortools = pytest.mark.skipif(
    importlib.util.find_spec("ortools") is None, reason="ortools is absent: pip install ortools"
)
METHODS = ("pdlp", "glop")


@needs_ortools
@pytest.mark.parametrize("case", lp_cases(), ids=lambda case: case.name)
@pytest.mark.parametrize("method", METHODS)
def test_the_contract_program_by_program(method: str, case) -> None:
    check_case(ORTools(method=method), case)


@needs_ortools
@pytest.mark.parametrize("method", METHODS)
def test_the_rest_of_the_contract(method: str) -> None:
    check_backend(ORTools(method=method), cases=())


@needs_ortools
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("method", METHODS)
def test_small_programs(method: str, case) -> None:
    solution = solve_lp(case.lp, ORTools(method=method))
    assert solution.status is LPStatus.OPTIMAL
    assert solution.objective == pytest.approx(case.objective, rel=1e-5, abs=1e-5)
    if case.dual is not None:
        assert solution.y.tolist() == pytest.approx(case.dual, abs=1e-4)


@needs_ortools
@pytest.mark.parametrize("method", METHODS)
def test_factored_programs_with_tiny_costs_agree_with_highs(method: str) -> None:
    lp = direction_program(25, 1e-2, costs=1e-8, rank=4)
    solution, reference = solve_lp(lp, ORTools(method=method)), solve_lp(lp, HiGHS(method="simplex"))
    assert solution.status is LPStatus.OPTIMAL and solution.x.shape == lp.c.shape
    scale = 1 + 1e8 * abs(reference.objective)
    assert 1e8 * abs(solution.objective - reference.objective) <= 1e-5 * scale


@needs_ortools
@pytest.mark.parametrize("lp", INFEASIBLE.values(), ids=INFEASIBLE)
def test_glop_finds_infeasible_programs(lp: LinearProgram) -> None:
    assert solve_lp(lp, ORTools(method="glop")).status in (LPStatus.INFEASIBLE, LPStatus.INFEASIBLE_OR_UNBOUNDED)


@needs_ortools
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("lp", UNBOUNDED.values(), ids=UNBOUNDED)
def test_unbounded_programs_are_never_solved(method: str, lp: LinearProgram) -> None:
    assert solve_lp(lp, ORTools(method=method)).status in (LPStatus.UNBOUNDED, LPStatus.INFEASIBLE_OR_UNBOUNDED)


@needs_ortools
def test_rays_are_verified() -> None:
    without_presolve = ORTools(method="pdlp", presolve=False)
    infeasible = solve_lp(INFEASIBLE["rows against columns"], without_presolve)
    assert (infeasible.status, infeasible.certified) == (LPStatus.INFEASIBLE, True)
    unbounded = solve_lp(UNBOUNDED["along a ray of the rows"], without_presolve)
    assert (unbounded.status, unbounded.certified) == (LPStatus.UNBOUNDED, True)


@needs_ortools
@pytest.mark.parametrize("method", METHODS)
def test_limits_are_statuses(method: str) -> None:
    lp = direction_program(60, 1e-3)
    assert solve_lp(lp, ORTools(method=method, iteration_limit=1)).status is LPStatus.ITERATION_LIMIT
    assert solve_lp(lp, ORTools(method=method, time_limit=1e-6)).status is LPStatus.TIME_LIMIT


@needs_ortools
def test_highs_and_ortools_do_not_meet_in_one_process() -> None:
    lp = CASES["equality"].lp
    assert solve_lp(lp, HiGHS()).status is solve_lp(lp, ORTools()).status is LPStatus.OPTIMAL
    assert not any(name.partition(".")[0] == "ortools" for name in sys.modules)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "simplex"}, "method: expected 'pdlp' or 'glop', got 'simplex'"),
        ({"threads": 0}, "threads: expected at least 1, got 0"),
        ({"iteration_limit": -1}, "iteration_limit: expected None or at least 0, got -1"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(ORTools(), **options)


def test_absent_ortools_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.explicit.find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match="this needs the package ortools: pip install ortools"):
        ORTools().solve(CASES["equality"].lp)


# -- the process --------------------------------------------------------------------------------------------------

ECHO = """
import os, pickle, sys, time
while True:
    try:
        request = pickle.load(sys.stdin.buffer)
    except EOFError:
        break
    if request["do"] == "sleep":
        time.sleep(60)
    if request["do"] == "crash":
        os._exit(3)
    reply = {"error": "no such thing"} if request["do"] == "fail" else {"pid": os.getpid(), "said": request["do"]}
    pickle.dump(reply, sys.stdout.buffer)
    sys.stdout.flush()
"""


@pytest.fixture
def worker(tmp_path: Path):
    (tmp_path / "echo.py").write_text(ECHO)
    made = Worker("echo.py")
    made._script = tmp_path / "echo.py"
    yield made
    made.close()


def test_one_process_answers_many_requests(worker: Worker) -> None:
    first, second = (worker.ask({"do": "hello"}, timeout=60) for _ in range(2))
    assert first["said"] == "hello" and first["pid"] == second["pid"]


@pytest.mark.parametrize(
    ("what", "timeout", "error", "message"),
    [
        ("sleep", 0.5, TimeoutError, "no answer within 0.5 seconds"),
        ("crash", 60, WorkerError, "ended with code 3 and no answer"),
        ("fail", 60, WorkerError, "no such thing"),
    ],
)
def test_late_broken_and_refusing_processes(
    worker: Worker, what: str, timeout: float, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        worker.ask({"do": what}, timeout=timeout)
    assert worker.ask({"do": "again"}, timeout=60)["said"] == "again"


def test_a_late_process_is_a_time_limit_and_a_broken_one_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: object, **__: object) -> None:
        raise TimeoutError

    def broken(*_: object, **__: object) -> None:
        raise WorkerError("out of memory")

    monkeypatch.setattr(adapter, "require_package", lambda _: None)
    monkeypatch.setattr(adapter._worker, "ask", late)
    assert ORTools().solve(CASES["equality"].lp).status is LPStatus.TIME_LIMIT
    monkeypatch.setattr(adapter._worker, "ask", broken)
    with pytest.raises(RuntimeError, match="ORTools: out of memory"):
        ORTools().solve(CASES["equality"].lp)


def test_unknown_reasons_are_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    reply = {"reason": "NEW", "limit": "UNSPECIFIED", "x": None, "y": None, "iterations": 0}
    monkeypatch.setattr(adapter, "require_package", lambda _: None)
    monkeypatch.setattr(adapter._worker, "ask", lambda *_, **__: reply)
    assert ORTools().solve(CASES["equality"].lp).status is LPStatus.FAILED
    monkeypatch.setattr(adapter._worker, "ask", lambda *_, **__: reply | {"reason": "FEASIBLE", "limit": "NEW"})
    assert ORTools().solve(CASES["equality"].lp).status is LPStatus.FAILED
