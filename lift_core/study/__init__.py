"""Studies: many runs under one plan, kept cell by cell, summed up beside their controls.

A *cell* is one ``lift run``; a *plan* is a list of cells; a *setting* is what a table is about (data, model, start) and
a *variant* is one way to run LiFT there. The summary averages over seeds.

>>> sorted(PLANS)
['ablations', 'articles', 'language', 'small', 'unread']
"""

from lift_core.study.plans import PLANS, Cell, make_plan
from lift_core.study.running import Outcome, run_study
from lift_core.study.summary import Row, Spread, difference, summarize, to_markdown

__all__ = [
    "PLANS",
    "Cell",
    "Outcome",
    "Row",
    "Spread",
    "difference",
    "make_plan",
    "run_study",
    "summarize",
    "to_markdown",
]
