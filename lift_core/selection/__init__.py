"""AdaPEFT: choose what to tune by Hessian-informed influence and a knapsack.

>>> from backends import HiGHS
>>> from problems import Network
>>> problem = Network()
>>> groups = make_groups(problem, max_size=64)
>>> scores = Probing(steps=0).scores(problem, groups, TrainingState.fresh(problem.initial_point()), seed=0)
>>> chosen = exact_knapsack(scores, capacity_of(0.2, groups.num_weights), HiGHS())
>>> selection = make_selection(problem, groups, scores, chosen, budget=0.2)
>>> len(apply_selection(selection, problem).initial_point().weights) <= 0.2 * 610
True
"""

from lift_core.selection.groups import Groups, make_groups
from lift_core.selection.influence import (
    ExactInfluence,
    ForwardInfluence,
    Influence,
    InfluenceEstimator,
    Probe,
)
from lift_core.selection.knapsack import (
    Chosen,
    ParetoPoint,
    capacity_of,
    choose,
    exact_knapsack,
    greedy_knapsack,
    knapsack_program,
    pareto_chain,
    pareto_front,
    relaxation_bound,
)
from lift_core.selection.probing import ProbedRun, Probing
from lift_core.selection.quadratic import quadratic_knapsack
from lift_core.selection.record import Selection, apply_selection, make_selection, transfer_pieces
from lift_core.selection.restricted import Restricted
from lift_core.selection.scores import (
    Everything,
    FisherScore,
    GradientNorm,
    LastLayers,
    Magnitude,
    Measure,
    NamedTensors,
    Random,
    Scores,
    bitfit,
    layer_norms,
    lora_factors,
)
from lift_core.training import TrainingState

__all__ = [
    "Chosen",
    "Everything",
    "ExactInfluence",
    "FisherScore",
    "ForwardInfluence",
    "GradientNorm",
    "Groups",
    "Influence",
    "InfluenceEstimator",
    "LastLayers",
    "Magnitude",
    "Measure",
    "NamedTensors",
    "ParetoPoint",
    "Probe",
    "ProbedRun",
    "Probing",
    "Random",
    "Restricted",
    "Scores",
    "Selection",
    "TrainingState",
    "apply_selection",
    "bitfit",
    "capacity_of",
    "choose",
    "exact_knapsack",
    "greedy_knapsack",
    "knapsack_program",
    "layer_norms",
    "lora_factors",
    "make_groups",
    "make_selection",
    "pareto_chain",
    "pareto_front",
    "quadratic_knapsack",
    "relaxation_bound",
    "transfer_pieces",
]
