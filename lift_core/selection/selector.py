"""AdaPEFT as one object: groups → measure → knapsack → selection."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lift_core.lp import LPBackend
from lift_core.metering import Cost, Metered
from lift_core.problem import BilevelProblem
from lift_core.selection.groups import Groups, Members, make_groups
from lift_core.selection.influence import ExactInfluence, ForwardInfluence
from lift_core.selection.knapsack import Chosen, capacity_of, choose, greedy_knapsack, pareto_chain, relaxation_bound
from lift_core.selection.probing import Preconditioner, Probing
from lift_core.selection.record import Selection, make_selection
from lift_core.selection.scores import (
    Everything,
    FisherScore,
    GradientNorm,
    LastLayers,
    Magnitude,
    Measure,
    Random,
    Scores,
    bitfit,
    layer_norms,
    lora_factors,
)
from lift_core.training import Trainer, TrainingState

_SIMPLE: Mapping[str, Callable[[], Measure]] = {
    "gradient": GradientNorm,
    "fisher": FisherScore,
    "magnitude": Magnitude,
    "random": Random,
    "all": Everything,
    "last": LastLayers,
    "bitfit": bitfit,
    "layernorm": layer_norms,
    "lora": lora_factors,
}
MEASURES = ("exact", "forward", *_SIMPLE)
"""Names of measures, as ``lift select`` takes them."""


def named_measure(
    name: str,
    *,
    steps: int = 8,
    every: int = 8,
    num_batches: int = 1,
    learning_rate: float = 1e-3,
    preconditioner: Preconditioner = "adam",
    cross: bool = False,
) -> Measure:
    """A measure by its name; the options are those of `Probing` and concern influence alone.

    Raises:
        ValueError: if there is none of that name, or cross terms are asked of another one than ``"exact"``.

    >>> named_measure("forward").name, named_measure("fisher").name
    ('influence', 'Fisher')
    """
    if name not in MEASURES:
        raise ValueError(f"measure: expected one of {', '.join(MEASURES)}, got {name!r}")
    if cross and name != "exact":
        raise ValueError(f"cross: expected measure='exact', which alone measures pair terms, got {name!r}")
    trainer = Trainer(learning_rate=learning_rate)
    estimator = ForwardInfluence(first_step=learning_rate) if name == "forward" else ExactInfluence(cross=cross)
    probing = Probing(  # made for the other measures, too: it refuses bad values
        estimator=estimator, trainer=trainer, preconditioner=preconditioner, steps=steps, every=every,
        num_batches=num_batches,
    )  # fmt: skip
    return _SIMPLE[name]() if name in _SIMPLE else probing


@dataclass(frozen=True)
class Outcome:
    """A selection and everything that it was made from.

    Attributes:
        budgets: per budget, the choice, exact if a backend was given.
        cost: spent by the measure.
    """

    selection: Selection
    groups: Groups
    scores: Scores
    chosen: Chosen
    budgets: dict[float, Chosen]
    cost: Cost


@dataclass(frozen=True, kw_only=True)
class Selector:
    """Choose what to tune.

    Attributes:
        by, max_size: how weights are grouped, see `make_groups`.
        measure: what a group is worth.
        backend: solves the knapsack exactly; None chooses greedily.
        seed: of everything random.

    >>> from backends import HiGHS
    >>> from problems import Network
    >>> Selector(backend=HiGHS(), measure=named_measure("gradient")).select(Network(), 0.2).selection.groups
    ('hidden.bias', 'output.weight', 'output.bias')
    """

    by: str | Sequence[str] | Mapping[str, Members] = "tensor"
    max_size: int | None = None
    measure: Measure = field(default_factory=Probing)
    backend: LPBackend | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.backend is not None and not self.backend.takes_integers:
            raise ValueError(
                f"backend: expected one that takes integer programs (HiGHS, Pyomo), got {self.backend.name!r}"
            )

    def select(
        self,
        problem: BilevelProblem,
        budget: float,
        *,
        others: Sequence[float] = (),
        on_spend: Callable[[Cost], None] | None = None,
    ) -> Outcome:
        """Choose for a budget; also for ``others``, to compare.

        Raises:
            ValueError: if nothing of value fits the budget, or a name or number is wrong.
        """
        groups = make_groups(problem, self.by, max_size=self.max_size)
        capacities = {share: capacity_of(share, groups.num_weights) for share in (budget, *others)}
        metered = Metered(problem, on_spend)
        scores = self.measure.scores(metered, groups, TrainingState.fresh(problem.initial_point()), seed=self.seed)
        chosen = {share: choose(scores, capacity, backend=self.backend) for share, capacity in capacities.items()}
        selection = make_selection(problem, groups, scores, chosen[budget], budget=budget)
        return Outcome(selection, groups, scores, chosen[budget], chosen, metered.cost)


def selection_document(outcome: Outcome) -> dict[str, Any]:
    """Everything that is known about a selection, as JSON values: what tables, report and ``select.json`` show."""
    selection, groups, scores = outcome.selection, outcome.groups, outcome.scores
    inside = set(outcome.chosen.numbers)
    rows: list[dict[str, Any]] = [
        {
            "group": name, "size": int(size), "value": float(value), "density": float(value) / int(size),
            "chosen": k in inside,
        }
        for k, (name, size, value) in enumerate(zip(scores.names, scores.sizes, scores.values, strict=True))
    ]  # fmt: skip
    n = groups.num_weights
    budgets = [
        {
            "budget": share, "share": chosen.size / n, "groups": len(chosen.numbers), "value": chosen.value,
            "greedy": greedy_knapsack(scores, chosen.capacity).value,
            "bound": relaxation_bound(scores, chosen.capacity),
        }
        for share, chosen in sorted(outcome.budgets.items())
    ]  # fmt: skip
    cost = outcome.cost
    return {
        "problem": selection.problem,
        "method": selection.method,
        "solver": selection.solver,
        "budget": selection.budget,
        "share": selection.share,
        "num_weights": n,
        "num_selected": selection.num_selected,
        "predicted": selection.predicted,
        "bound": relaxation_bound(scores, outcome.chosen.capacity),
        "greedy": greedy_knapsack(scores, outcome.chosen.capacity).value,
        "groups": sorted(rows, key=lambda row: -row["density"]),
        "budgets": budgets,
        "chain": [{"share": point.size / n, "value": point.value} for point in pareto_chain(scores)],
        "facts": scores.facts,
        "cost": {"evaluations": cost.evaluations, "gradients": cost.gradients, "hvps": cost.hvps},
    }
