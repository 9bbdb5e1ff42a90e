"""Reports of a run, rendered from one summary of plain values."""

from evoray.report.markdown import render, verdict
from evoray.report.summary import Arm, Certificate, Choice, Interval, PathPoint, RunSummary, SourceShare, TraceStep
from evoray.report.table import markdown_table, result_rows, rich_table

__all__ = [
    "Arm",
    "Certificate",
    "Choice",
    "Interval",
    "PathPoint",
    "RunSummary",
    "SourceShare",
    "TraceStep",
    "markdown_table",
    "render",
    "result_rows",
    "rich_table",
    "verdict",
]
