"""AdaPEFT: choose what to tune by Hessian-informed influence and a knapsack.

>>> from backends import HiGHS
>>> from problems import Network
>>> problem = Network()
>>> outcome = Selector(max_size=64, measure=Probing(steps=0), backend=HiGHS()).select(problem, 0.2)
>>> len(apply_selection(outcome.selection, problem).initial_point().weights) == outcome.selection.num_selected <= 122
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
from lift_core.selection.selector import MEASURES, Outcome, Selector, named_measure, selection_document

__all__ = [
    "MEASURES",
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
    "Outcome",
    "ParetoPoint",
    "Probe",
    "ProbedRun",
    "Probing",
    "Random",
    "Restricted",
    "Scores",
    "Selection",
    "Selector",
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
    "named_measure",
    "pareto_chain",
    "pareto_front",
    "quadratic_knapsack",
    "relaxation_bound",
    "selection_document",
    "transfer_pieces",
]
