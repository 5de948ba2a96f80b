"""What a run says of itself: one JSON document, and one self-contained HTML page made from nothing else.

>>> from backends import HiGHS
>>> from lift_core import Exact, LocalSearch
>>> from problems import Quadratic
>>> problem, search = Quadratic(), LocalSearch(backend=HiGHS(), curvature=Exact(), warmup_epochs=0)
>>> document = report_document(search.run(problem), problem, search)
>>> render_report(document).startswith("<!DOCTYPE html>")
True
"""

from lift_core.report.comparison import comparison_document, render_comparison
from lift_core.report.document import report_document, to_json_text
from lift_core.report.page import render_report
from lift_core.report.study import render_study, study_document

__all__ = [
    "comparison_document",
    "render_comparison",
    "render_report",
    "render_study",
    "report_document",
    "study_document",
    "to_json_text",
]
