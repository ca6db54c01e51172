"""The report on a candidate, for a reviewer who knows nothing of the code."""

from infra.report.inputs import Flip, Member, ReportInputs, collect_flips
from infra.report.page import render_report
from infra.report.summary import gate_metrics, markdown_summary, summary_rows

__all__ = [
    "Flip",
    "Member",
    "ReportInputs",
    "collect_flips",
    "gate_metrics",
    "markdown_summary",
    "render_report",
    "summary_rows",
]
