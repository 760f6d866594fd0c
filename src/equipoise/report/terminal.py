"""The same findings for a terminal and for Markdown."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from equipoise.report.answer import answer
from equipoise.report.figures import lacking, wanted
from equipoise.report.model import Cut, DataSummary, FitReport, Report, ThresholdRow, ThresholdTable
from equipoise.report.numbers import UNKNOWN, count, duration, known, rate, share, threshold, with_interval

if TYPE_CHECKING:
    from rich.console import Group

_PLAIN_KINDS = ("number", "date", "text")
_MOST_NAMES = 12


def terminal_table(report: Report) -> Group:
    """The contest, the test results and the thresholds as rich tables, with the answer last, where the eye is."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    def table(title: str, *columns: str) -> Table:
        made = Table(
            title=Text(title, style="bold"), title_justify="left", box=None, header_style="dim", pad_edge=False
        )
        for index, column in enumerate(columns):
            made.add_column(Text(column), justify="left" if index == 0 else "right", overflow="fold")
        return made

    parts: list[Table | Text] = []
    if isinstance(report, FitReport) and report.contest:
        head, rows = _contest_cells(report)
        contest = table(f"{report.metric} in cross-validation", *head)
        for row, cells in zip(report.contest, rows, strict=True):
            contest.add_row(*(Text(cell) for cell in cells), style="bold" if row.winner else None)
        parts += [contest, Text()]
    if report.models:
        names = list(dict.fromkeys(name for model in report.models for name in model.metrics))
        title = "on the test part" if isinstance(report, FitReport) else "metrics"
        # One metric per line: names of metrics are many and long, models few.
        metrics = table(title, "", *(model.name for model in report.models))
        for name in names:
            metrics.add_row(Text(name), *(Text(with_interval(model.metrics.get(name))) for model in report.models))
        parts += [metrics, Text()]
    for found in report.thresholds:
        if found.rows:
            sure = f"guaranteed ({100 * found.confidence:.3g} %)"
            thresholds = table(f"thresholds of {found.name}", "wanted", "estimated", "FPR", "TPR", sure, "FPR", "TPR")
            for line in found.rows:
                cells = [wanted(line), *_cut(found, line, line.estimated), *_cut(found, line, line.guaranteed)]
                thresholds.add_row(*(Text(cell) for cell in cells))
            parts += [thresholds, Text()]
    parts += [Text(line, style="dim") for line in _data_lines(report.data)]
    parts += [Text(f"warning: {warning}", style="yellow") for warning in report.warnings]
    said = answer(report)
    sentence = said.sentence or f"{said.kicker}: {said.headline}. {said.judgement}".strip()
    parts.append(Text(sentence, style="bold"))
    return Group(*parts)


def _data_lines(data: DataSummary) -> list[str]:
    """Which class is positive, and what the columns were read as: plain kinds together, the others one by one."""
    lines = []
    if data.positive is not None and data.positive in data.classes:
        positives = data.classes[data.positive]
        lines.append(
            f"positive: {data.target} = {data.positive} ({share(positives, data.rows)} of {count(data.rows)} rows)"
        )
    kinds: dict[str, list[str]] = {}
    for name, words in data.columns.items():
        if words in _PLAIN_KINDS or words.startswith("category"):
            kinds.setdefault(words.split()[0], []).append(name)
        else:
            lines.append(f"read {name} as {words}")
    for kind, names in kinds.items():
        shown = ", ".join(names[:_MOST_NAMES]) + (", …" if len(names) > _MOST_NAMES else "")
        lines.append(f"read {count(len(names))} as {kind}: {shown}")
    return lines


def contest_markdown(report: FitReport) -> str:
    """The contest as a Markdown table, followed by the verdict.

    >>> from equipoise.report import ContestRow, DataSummary, Provenance
    >>> from equipoise.core.curves.intervals import Interval
    >>> row = ContestRow("mlp · auc", (0.8, 0.82), Interval(0.81, 0.79, 0.83), winner=True)
    >>> data = DataSummary("a.csv", 100, 3, "y", {"0": 90, "1": 10}, "1")
    >>> print(contest_markdown(FitReport("t", data, "AUROC", Provenance("equipoise fit a.csv"), contest=(row,))))
    | candidate | AUROC |
    |---|---:|
    | **mlp · auc** | 0.810 [0.790, 0.830] |
    """
    head, rows = _contest_cells(report)
    head = ["candidate", _escaped(head[1]), *head[2:]]
    lines = [f"| {' | '.join(head)} |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for row, cells in zip(report.contest, rows, strict=True):
        name = f"**{_escaped(cells[0])}**" if row.winner else _escaped(cells[0])
        lines.append(f"| {' | '.join([name, *cells[1:]])} |")
    return "\n".join([*lines, *(["", _escaped(report.verdict)] if report.verdict else [])])


def _contest_cells(report: FitReport) -> tuple[list[str], list[list[str]]]:
    # A column that nobody fills is left out.
    gains = any(row.gain is not None for row in report.contest)
    times = any(known(row.seconds) for row in report.contest)
    head = ["", report.metric] + ["against plain log loss"] * gains + ["time per fold"] * times
    rows = []
    for row in report.contest:
        cells = [row.name, with_interval(row.mean)]
        if gains:
            cells.append("reference" if row.baseline else with_interval(row.gain, signed=True))
        if times:
            cells.append(duration(row.seconds))
        rows.append(cells)
    return head, rows


def _cut(table: ThresholdTable, row: ThresholdRow, cut: Cut | None) -> list[str]:
    if cut is None:
        return [UNKNOWN] * 3
    if math.isinf(cut.threshold):
        return [lacking(table, row, cut), UNKNOWN, UNKNOWN]
    return [threshold(cut.threshold), rate(cut.fpr), rate(cut.tpr)]


def _escaped(text: str) -> str:
    for mark in ("\\", "|", "*", "_", "`", "<", "["):
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())
