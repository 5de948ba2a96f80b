"""The process in which OR-tools solves for `backends.ortools`: a script, run without this package and without torch.

Requests and replies are described in `backends.worker`. Variables and constraints have their indices as MathOpt's ids.
"""

from __future__ import annotations

import os
import pickle
import sys
from importlib import import_module
from typing import Any

import numpy as np


def main() -> None:
    """Answer requests until there are no more."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the libraries print must not get among the replies
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            reply = solve(request)
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        pickle.dump(reply, replies)
        replies.flush()


def solve(request: dict[str, Any]) -> dict[str, Any]:
    """Solve one program with MathOpt."""
    solver = import_module("ortools.math_opt.core.python.solver")
    parameters = import_module("ortools.math_opt.parameters_pb2")
    callbacks = import_module("ortools.math_opt.callback_pb2")
    model_parameters = import_module("ortools.math_opt.model_parameters_pb2")
    kind = {"pdlp": parameters.SOLVER_TYPE_PDLP, "glop": parameters.SOLVER_TYPE_GLOP}[request["method"]]
    result = solver.solve(
        model(request),
        kind,
        parameters.SolverInitializerProto(),
        settings(request, parameters),
        model_parameters.ModelSolveParametersProto(),
        None,
        callbacks.CallbackRegistrationProto(),
        None,
        None,
    )
    return reply_of(result, len(request["c"]), len(request["rows"][0]))


def model(request: dict[str, Any]) -> Any:
    """The program as MathOpt's ModelProto."""
    proto = import_module("ortools.math_opt.model_pb2").ModelProto()
    costs, (data, indices, indptr) = request["c"], request["entries"]
    for part, (lower, upper) in ((proto.variables, request["columns"]), (proto.linear_constraints, request["rows"])):
        part.ids.extend(range(len(lower)))
        part.lower_bounds.extend(lower)
        part.upper_bounds.extend(upper)
    proto.variables.integers.extend([False] * len(costs))
    proto.objective.linear_coefficients.ids.extend(np.flatnonzero(costs))
    proto.objective.linear_coefficients.values.extend(costs[costs != 0])
    proto.linear_constraint_matrix.row_ids.extend(np.repeat(np.arange(len(indptr) - 1), np.diff(indptr)))
    proto.linear_constraint_matrix.column_ids.extend(indices)
    proto.linear_constraint_matrix.coefficients.extend(data)
    return proto


def settings(request: dict[str, Any], parameters: Any) -> Any:
    """Tolerances and limits as MathOpt's SolveParametersProto."""
    proto = parameters.SolveParametersProto()
    if request["time_limit"] is not None:
        proto.time_limit.FromNanoseconds(int(1e9 * min(request["time_limit"], 1e9)))
    if request["iteration_limit"] is not None:
        proto.iteration_limit = request["iteration_limit"]
    if request["method"] == "pdlp":
        proto.threads = request["threads"]
        proto.pdlp.presolve_options.use_glop = request["presolve"]
        criteria = proto.pdlp.termination_criteria.simple_optimality_criteria
        criteria.eps_optimal_absolute = criteria.eps_optimal_relative = request["pdlp_tolerance"]
    else:
        proto.presolve = parameters.EMPHASIS_MEDIUM if request["presolve"] else parameters.EMPHASIS_OFF
        proto.glop.primal_feasibility_tolerance = request["glop_tolerance"]
        proto.glop.dual_feasibility_tolerance = request["glop_tolerance"]
    return proto


def reply_of(result: Any, num_columns: int, num_rows: int) -> dict[str, Any]:
    """Reason, limit, points and rays of MathOpt's SolveResultProto."""
    results = import_module("ortools.math_opt.result_pb2")
    termination, stats = result.termination, result.solve_stats
    primal = [point.primal_solution for point in result.solutions if point.HasField("primal_solution")]
    dual = [point.dual_solution for point in result.solutions if point.HasField("dual_solution")]
    rays = result.primal_rays, result.dual_rays
    return {
        "reason": results.TerminationReasonProto.Name(termination.reason).removeprefix("TERMINATION_REASON_"),
        "limit": results.LimitProto.Name(termination.limit).removeprefix("LIMIT_"),
        "x": dense(primal[0].variable_values, num_columns) if primal else None,
        "y": dense(dual[0].dual_values, num_rows) if dual else None,
        "primal_ray": dense(rays[0][0].variable_values, num_columns) if rays[0] else None,
        "dual_ray": dense(rays[1][0].dual_values, num_rows) if rays[1] else None,
        "iterations": int(stats.simplex_iterations + stats.first_order_iterations),
    }


def dense(sparse: Any, size: int) -> np.ndarray:
    """A SparseDoubleVectorProto as an array."""
    vector = np.zeros(size)
    vector[list(sparse.ids)] = list(sparse.values)
    return vector


if __name__ == "__main__":
    main()
