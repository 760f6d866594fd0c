"""Tables, plots and the HTML report."""

from equipoise.report.model import (
    ContestRow,
    Cut,
    DataPart,
    DataSummary,
    EvaluationReport,
    FitReport,
    ModelMetrics,
    Provenance,
    Region,
    Report,
    ThresholdRow,
    ThresholdTable,
)
from equipoise.report.page import report_html, write_report
from equipoise.report.points import Curves, Histogram, curves_per_class
from equipoise.report.terminal import contest_markdown, terminal_table

__all__ = [
    "ContestRow",
    "Curves",
    "Cut",
    "DataPart",
    "DataSummary",
    "EvaluationReport",
    "FitReport",
    "Histogram",
    "ModelMetrics",
    "Provenance",
    "Region",
    "Report",
    "ThresholdRow",
    "ThresholdTable",
    "contest_markdown",
    "curves_per_class",
    "report_html",
    "terminal_table",
    "write_report",
]
