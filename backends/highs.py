"""HiGHS: simplex, interior-point and first-order solvers for explicit linear programs.

Reference: Huangfu & Hall, Parallelizing the dual revised simplex method, Math. Prog. Comp. 10 (2018); https://highs.dev.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from backends.explicit import (
    contradiction,
    cost_scale,
    feasibility_tolerance,
    import_package,
    same_matrix,
    small_matrix_value,
)
from lift_core.lp import BackendAnswer, ExplicitLP, LinearProgram, LPBackend, LPStart, LPStatus

METHODS = ("choose", "simplex", "ipm", "hipo", "pdlp", "hipdlp")

STATUSES = {
    "kNotset": LPStatus.FAILED,
    "kLoadError": LPStatus.FAILED,
    "kModelError": LPStatus.FAILED,
    "kPresolveError": LPStatus.FAILED,
    "kSolveError": LPStatus.NUMERICAL_ERROR,
    "kPostsolveError": LPStatus.NUMERICAL_ERROR,
    "kModelEmpty": LPStatus.OPTIMAL,
    "kOptimal": LPStatus.OPTIMAL,
    "kInfeasible": LPStatus.INFEASIBLE,
    "kUnboundedOrInfeasible": LPStatus.INFEASIBLE_OR_UNBOUNDED,
    "kUnbounded": LPStatus.UNBOUNDED,
    "kObjectiveBound": LPStatus.FAILED,
    "kObjectiveTarget": LPStatus.FAILED,
    "kTimeLimit": LPStatus.TIME_LIMIT,
    "kIterationLimit": LPStatus.ITERATION_LIMIT,
    "kUnknown": LPStatus.NUMERICAL_ERROR,
    "kSolutionLimit": LPStatus.FAILED,
    "kInterrupt": LPStatus.INTERRUPTED,
    "kMemoryLimit": LPStatus.FAILED,
    "kHighsInterrupt": LPStatus.INTERRUPTED,
}
"""HiGHS's model statuses by name; one that is missing here is `LPStatus.FAILED`."""

_SIMPLEX = ("choose", "simplex")
_WITHOUT_POINT = (LPStatus.INFEASIBLE, LPStatus.UNBOUNDED, LPStatus.INFEASIBLE_OR_UNBOUNDED)
_DENSE, _LARGE = 0.1, 10_000  # share and number of nonzeros from which presolve costs more than it saves
RAY_TOLERANCE = 1e-7  # HiGHS's own, for a second search; a ray is judged by itself

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class HiGHS(LPBackend):
    """HiGHS through highspy: the reference answer at small and medium size.

    Attributes:
        method: "choose", "simplex", "ipm", "hipo" (needs ``pip install "highspy[extras]"``), "pdlp" or "hipdlp".
        presolve: "on", "off", or "auto": off for large matrices of which more than a tenth is nonzero. There presolve
            finds nothing, and after an interior-point solve without crossover its postsolve can outlast the solve.
        crossover: whether "ipm" and "hipo" always go on to a vertex; else only when they end imprecisely.
        threads: 0 lets HiGHS decide.
        iteration_limit: of the method's own iterations; None: no limit.

    An infeasible or unbounded program comes with a ray; where the method gives none, the simplex method without
    presolve looks for one in the time that is left. A sequence of programs with one A keeps the simplex basis.

    >>> from lift_core.lp import LinearProgram, solve_lp
    >>> lp = LinearProgram(c=[1.0, 1.0], A=[[1.0, 2.0]], row_lower=2.0, col_lower=0.0)
    >>> solution = solve_lp(lp, HiGHS(method="simplex"))
    >>> solution.objective, solution.y.tolist()
    (1.0, [0.5])
    """

    name: ClassVar[str] = "highs"
    takes_integers: ClassVar[bool] = True
    method: str = "choose"
    presolve: str = "auto"
    crossover: bool = False
    threads: int = 0
    iteration_limit: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in METHODS:
            raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {self.method!r}")
        if self.presolve not in ("auto", "on", "off"):
            raise ValueError(f"presolve: expected 'auto', 'on' or 'off', got {self.presolve!r}")
        if not 0 <= self.threads <= 1024:
            raise ValueError(f"threads: expected a number from 0 (HiGHS decides) to 1024, got {self.threads}")
        if self.iteration_limit is not None and not 0 <= self.iteration_limit < 2**31:
            raise ValueError(
                f"iteration_limit: expected None or a number from 0 to {2**31 - 1}, got {self.iteration_limit}"
            )

    def solve(self, lp: LinearProgram, start: LPStart | None = None) -> BackendAnswer:
        del start  # a point without a basis does not speed the simplex up
        return next(self.solve_sequence([lp]))

    def solve_sequence(self, lps: Iterable[LinearProgram]) -> Iterator[BackendAnswer]:
        """Solve programs one after another in one HiGHS instance: while A stays equal, the basis is kept."""
        highs = new_highs()
        loaded: ExplicitLP | None = None
        for lp in lps:
            program = lp.explicit()
            if loaded is not None and _differs_in_vectors(loaded, program):
                _update(highs, program)
            else:
                _load(highs, program)
            loaded = program
            scale = _set_costs(highs, program.c)
            answer = _interruptibly(highs, lambda program=program: self._run(highs, program))
            yield _unscaled(answer, scale, lp)

    def _run(self, highs: Any, program: ExplicitLP) -> BackendAnswer:
        presolve = {"auto": "off" if _is_dense(program.A) else "choose"}.get(self.presolve, self.presolve)
        # asked for another method, HiGHS drops the integers and solves the relaxation
        method = self.method if program.integrality is None else "choose"
        self._configure(highs, method=method, presolve=presolve, tolerance=feasibility_tolerance(self.rtol))
        before = highs.getRunTime()
        # HiGHS counts the seconds of all solves of one instance, but for those of its pdlp
        set_option(highs, "time_limit", self.time_limit + (0.0 if method == "pdlp" else before))
        broke = highs.run().name == "kError" and highs.getModelStatus().name == "kNotset"
        answer = _answer(highs)
        if answer.status is LPStatus.INFEASIBLE and answer.y is None:
            answer = answer._replace(y=contradiction(program))
        no_ray = answer.status in _WITHOUT_POINT and answer.x is None and answer.y is None
        # on some infeasible programs IPX ends with an error, and the simplex method not knowing, from an earlier basis
        failed = highs.getModelStatus().name in ("kSolveError", *(["kUnknown"] if method in _SIMPLEX else []))
        return self._again(highs, answer, before, broke=broke) if no_ray or failed or broke else answer

    def _again(self, highs: Any, answer: BackendAnswer, before: float, *, broke: bool) -> BackendAnswer:
        """Without presolve, in the time that is left; rows that differ by rounding alone break the simplex method.

        Where that ends in doubt it looks for a ray at HiGHS's own tolerance: a ray is judged by itself.
        """
        for tolerance in dict.fromkeys((feasibility_tolerance(self.rtol), RAY_TOLERANCE)):
            left = self.time_limit - (highs.getRunTime() - before)
            if left <= 0:
                break
            highs.clearSolver()
            set_option(highs, "time_limit", highs.getRunTime() + left)
            self._configure(highs, method="ipm" if broke else "simplex", presolve="off", tolerance=tolerance)
            highs.run()
            found = _answer(highs, search_ray=not broke)
            answer = answer._replace(iterations=answer.iterations + found.iterations)
            solved = found.status is LPStatus.OPTIMAL and tolerance <= feasibility_tolerance(self.rtol)
            if solved or found.status in _WITHOUT_POINT:
                return found._replace(iterations=answer.iterations)
        return answer

    def _configure(self, highs: Any, *, method: str, presolve: str, tolerance: float) -> None:
        set_option(highs, "solver", "ipx" if method == "ipm" else method)  # its "ipm" is hipo where that is installed
        set_option(highs, "presolve", presolve)
        set_option(highs, "run_crossover", "on" if self.crossover else "choose")
        set_option(highs, "threads", self.threads)
        set_option(highs, "primal_feasibility_tolerance", tolerance)
        set_option(highs, "dual_feasibility_tolerance", tolerance)
        set_option(highs, "ipm_optimality_tolerance", min(max(1e-2 * self.rtol, 1e-12), 1e-8))
        if method in ("pdlp", "hipdlp"):
            set_option(highs, "pdlp_optimality_tolerance", max(0.5 * self.rtol, 1e-10))
        set_option(highs, "mip_rel_gap", 0.0)  # by default it stops 1e-4 short of the optimum
        set_option(highs, "mip_abs_gap", 0.0)
        set_option(highs, "mip_feasibility_tolerance", 1e-9)  # it also takes answers that close for equally good
        if self.iteration_limit is not None:
            for solver in ("simplex", "ipm", "pdlp"):
                set_option(highs, f"{solver}_iteration_limit", self.iteration_limit)


def new_highs() -> Any:
    """A silent HiGHS instance that keeps matrix entries down to 1e-12."""

    class Silent(import_package("highspy").Highs):
        def enableCallbacks(self) -> None:  # noqa: N802
            """The first method that the constructor calls; from HiGHS 1.16 on, that is where the banner is printed."""
            self.setOptionValue("output_flag", False)
            super().enableCallbacks()

    highs = Silent()
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("small_matrix_value", 1e-12)
    return highs


def set_option(highs: Any, option: str, value: object) -> None:
    """Set an option.

    Raises:
        ValueError: if this build of HiGHS does not take it.
    """
    if highs.setOptionValue(option, value).name == "kError":
        hint = 'pip install "highspy[extras]"' if value == "hipo" else "pip install --upgrade highspy"
        raise ValueError(f"HiGHS {highs.version()} does not take {option} = {value!r} as it is installed here: {hint}")


def _differs_in_vectors(loaded: ExplicitLP, program: ExplicitLP) -> bool:
    """Whether new costs and bounds make the second of two continuous programs out of the first."""
    continuous = loaded.integrality is None and program.integrality is None
    return continuous and same_matrix(loaded.A, program.A)


def _load(highs: Any, program: ExplicitLP) -> None:
    set_option(highs, "small_matrix_value", small_matrix_value(program.A))
    highspy = import_package("highspy")
    model = highspy.HighsLp()
    model.num_row_, model.num_col_ = program.A.get_shape()
    model.col_cost_ = np.zeros(len(program.c))
    model.row_lower_, model.row_upper_ = program.row_lower, program.row_upper
    model.col_lower_, model.col_upper_ = program.col_lower, program.col_upper
    if program.integrality is not None:
        kinds = highspy.HighsVarType
        model.integrality_ = [kinds.kInteger if whole else kinds.kContinuous for whole in program.integrality]
    matrix = model.a_matrix_
    matrix.num_row_, matrix.num_col_ = program.A.get_shape()
    matrix.format_ = highspy.MatrixFormat.kRowwise
    matrix.start_, matrix.index_, matrix.value_ = program.A.indptr, program.A.indices, program.A.data
    if highs.passModel(model).name == "kError":
        raise ValueError(
            "HiGHS refuses this program: it takes matrix entries below 1e15 in size, lower bounds below 1e20 and upper "
            "bounds above -1e20; rescale the program"
        )


def _update(highs: Any, program: ExplicitLP) -> None:
    rows, columns = (np.arange(size, dtype=np.int32) for size in program.A.get_shape())
    highs.changeRowsBounds(len(rows), rows, program.row_lower, program.row_upper)
    highs.changeColsBounds(len(columns), columns, program.col_lower, program.col_upper)


def _set_costs(highs: Any, c: np.ndarray) -> float:
    scale = cost_scale(c)
    highs.changeColsCost(len(c), np.arange(len(c), dtype=np.int32), scale * c)
    return scale


def _interruptibly(highs: Any, work: Callable[[], T]) -> T:
    """Do ``work`` in a thread of its own, so that Ctrl-C stops the solver instead of waiting for its end.

    PDLP does not listen and runs on to its end or time limit; the exception then follows.
    """
    stop = threading.Event()

    def listen(event: Any) -> None:
        if stop.is_set():
            event.interrupt()

    highs.cbSimplexInterrupt += listen
    highs.cbIpmInterrupt += listen
    try:
        with ThreadPoolExecutor(max_workers=1) as pool:
            future = pool.submit(work)
            try:
                while not wait([future], timeout=0.1).done:
                    pass
            except KeyboardInterrupt:
                stop.set()
                raise
            return future.result()
    finally:
        highs.cbSimplexInterrupt -= listen
        highs.cbIpmInterrupt -= listen


def _answer(highs: Any, *, search_ray: bool = False) -> BackendAnswer:
    """What HiGHS has found, of the explicit program: a point, or a ray and no point."""
    status = STATUSES.get(highs.getModelStatus().name, LPStatus.FAILED)
    info, solution = highs.getInfo(), highs.getSolution()
    counts = (info.simplex_iteration_count, info.ipm_iteration_count, info.pdlp_iteration_count)
    iterations = sum(max(count, 0) for count in counts)
    x = y = None
    if highs.getModelStatus().name == "kModelEmpty":  # without columns; HiGHS does not look whether 0 fits the rows
        x, y, status = _without_columns(highs, status)
    elif status is LPStatus.INFEASIBLE:
        y = _ray(highs.getDualRayExist, highs.getDualRay, search_ray)
    elif status is LPStatus.UNBOUNDED:
        x = _ray(highs.getPrimalRayExist, highs.getPrimalRay, search_ray)
    elif status is not LPStatus.INFEASIBLE_OR_UNBOUNDED:
        x = torch.tensor(solution.col_value, dtype=torch.float64) if solution.value_valid else None
        y = torch.tensor(solution.row_dual, dtype=torch.float64) if solution.dual_valid else None
    return BackendAnswer(x, y, status, iterations)


def _without_columns(highs: Any, status: LPStatus) -> tuple[Tensor, Tensor, LPStatus]:
    """x has no entries; y says which rows exclude 0 by more than the feasibility tolerance."""
    tolerance = highs.getOptionValue("primal_feasibility_tolerance")[1]
    lower, upper = (np.asarray(side, dtype=np.float64) for side in (highs.getLp().row_lower_, highs.getLp().row_upper_))
    y = torch.from_numpy((lower > tolerance).astype(np.float64) - (upper < -tolerance))
    return torch.zeros(0, dtype=torch.float64), y, LPStatus.INFEASIBLE if y.any() else status


def _ray(
    exists: Callable[[], tuple[Any, bool]], find: Callable[[], tuple[Any, bool, Any]], search: bool
) -> Tensor | None:
    """The ray that HiGHS has, or finds; a vain search after another method than the simplex spoils its state."""
    if not (search or exists()[1]):
        return None
    _, found, ray = find()
    return torch.tensor(ray, dtype=torch.float64) if found else None


def _unscaled(answer: BackendAnswer, scale: float, lp: LinearProgram) -> BackendAnswer:
    """The answer without auxiliary variables and rows, for the costs as they were."""
    x = None if answer.x is None else answer.x[: lp.num_columns]
    y = None if answer.y is None else answer.y[: lp.num_rows] / scale
    return answer._replace(x=x, y=y)


def _is_dense(matrix: sp.csr_matrix) -> bool:
    return matrix.nnz > max(_DENSE * math.prod(matrix.get_shape()), _LARGE)
