"""The HTML page: one file that opens offline. The answer first, then the pictures, then the details."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from equipoise.report.answer import NOTHING, answer
from equipoise.report.contest import contest_table
from equipoise.report.figures import (
    MOST_CURVES,
    histogram_figure,
    lacking,
    precision_recall_figure,
    region_figure,
    roc_figure,
    wanted,
)
from equipoise.report.markup import Child, append, document, node
from equipoise.report.model import (
    ContestRow,
    Cut,
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
from equipoise.report.numbers import (
    UNKNOWN,
    count,
    duration,
    estimate,
    interval,
    number,
    per_thousand,
    rate,
    share,
    threshold,
)
from equipoise.report.points import Curves


def write_report(report: Report, path: str | os.PathLike[str]) -> Path:
    """Write the report as one HTML file, whole or not at all.

    Args:
        report: what to show.
        path: the file; its folder must exist.

    Returns:
        The path written.
    """
    path = Path(path)
    descriptor, stage = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace", newline="\n") as file:
            file.write(report_html(report))
        Path(stage).chmod(0o644)
        os.replace(stage, path)
    except BaseException:
        Path(stage).unlink(missing_ok=True)
        raise
    return path


def report_html(report: Report) -> str:
    """The report as the text of an HTML file; the same report always gives the same text."""
    sections: list[Element | None] = [_hero(report), *_warnings(report.warnings)]
    if isinstance(report, FitReport):
        sections += [_contest(report), _models(report, "On the test part")]
    else:
        sections += [_columns(report), _models(report, "All metrics")]
    sections += [_curves(report), _histograms(report), _thresholds(report.thresholds), _details(report)]
    main = node("main", *sections)
    return document(report.title, _heading(report), main)


def _heading(report: Report) -> Element:
    data = report.data
    facts = [data.source, f"{count(data.rows)} rows"]
    if data.features is not None:
        facts.append(f"{count(data.features)} features")
    if data.positive is not None and data.positive in data.classes:
        positives = data.classes[data.positive]
        facts.append(f"{share(positives, data.rows)} positive ({data.target} = {data.positive})")
    elif len(data.classes) > 2:
        facts.append(f"{len(data.classes)} classes of {data.target}")
    made = "fit" if isinstance(report, FitReport) else "evaluate"
    return node(
        "header",
        node("p", f"equipoise {made}", class_="overline"),
        node("h1", report.title),
        node("p", *(node("span", fact) for fact in facts), class_="facts"),
    )


def _hero(report: Report) -> Element:
    found = answer(report)
    tiles = [
        node(
            "div",
            node("dt", tile.label),
            node("dd", node("b", tile.value), node("span", tile.interval, class_="faint")),
            class_="tile",
        )
        for tile in found.tiles
    ]
    return node(
        "section",
        node("p", found.kicker, class_="overline"),
        node("h2", found.headline),
        node("p", found.judgement, class_=f"judgement {found.mood}") if found.judgement else None,
        node("p", found.sentence, class_="sentence") if found.sentence else None,
        node("dl", *tiles, class_="tiles"),
        class_="hero",
        aria_label="The answer",
    )


def _warnings(warnings: Sequence[str]) -> list[Element]:
    if not warnings:
        return []
    items = node("ul", *(node("li", warning) for warning in warnings))
    return [node("section", node("h2", "Before you trust these numbers"), items, class_="warnings")]


def _contest(report: FitReport) -> Element | None:
    if not report.contest:
        return None
    several = len(report.contest) > 1
    held = f" ({report.validation})" if report.validation else ""
    words = f"{report.metric} in cross-validation{held}. The large dot is the mean, the bar its "
    words += f"{_percent(report.confidence)} interval, the small dots are the folds."
    if any(row.gain is not None for row in report.contest):
        words += (
            " The difference to plain log loss is paired fold by fold: where its bar crosses zero, the "
            "candidate may be no better."
        )
    return _section(
        "The contest" if several else "In cross-validation",
        words,
        contest_table(report.contest, report.metric, "mean", "plain log loss", "plain log loss"),
    )


def _columns(report: EvaluationReport) -> Element | None:
    if len(report.models) < 2:
        return None
    first = report.models[0].name
    rows = [
        ContestRow(
            model.name,
            (),
            model.metrics[report.metric] or NOTHING,
            report.gains.get(model.name),
            baseline=bool(report.gains) and model.name == first,
        )
        for model in report.models
        if report.metric in model.metrics
    ]
    words = f"{report.metric} with its {_percent(report.confidence)} bootstrap interval."
    if report.gains:
        words += f" The difference to {first} is measured on the same samples: where its bar crosses zero, "
        words += "the two may be equally good."
    return _section("Side by side", words, contest_table(rows, report.metric, "estimate", first, "reference"))


def _models(report: Report, title: str) -> Element | None:
    if not report.models:
        return None
    names = list(dict.fromkeys(name for model in report.models for name in model.metrics))
    # What there is more of goes down the page, and what is left across it is set more tightly where it is many.
    if len(names) > len(report.models):
        head = ["", *(model.name for model in report.models)]
        rows = [
            [node("span", name, class_="name"), *(_metric(model, name) for model in report.models)] for name in names
        ]
    else:
        head = ["", *names]
        rows = [[node("span", m.name, class_="name"), *(_metric(m, name) for name in names)] for m in report.models]
    words = f"Estimates with {_percent(report.confidence)} intervals."
    if isinstance(report, FitReport):
        words = "Refitted on the whole training part and judged once on rows that no choice was made on. " + words
    return _section(title, words, _table(head, rows, class_="dense" if len(head) > 5 else None))


def _metric(model: ModelMetrics, name: str) -> Element:
    value = model.metrics.get(name)
    ends = interval(value)
    return node(
        "span", node("b", estimate(value)), node("span", f" {ends}", class_="faint") if ends != UNKNOWN else None
    )


def _curves(report: Report) -> Element | None:
    if not report.curves:
        return None
    series = _series(report)
    pictures = [roc_figure(series, report.region)]
    if report.region != Region() and report.region != Region(1.0, 0.0):
        pictures.append(region_figure(series, report.region, report.thresholds))
    pictures.append(precision_recall_figure(series))
    legend = node(
        "ul",
        *(node("li", _swatch(style), node("span", curves.name)) for curves, style in series),
        class_="legend",
    )
    where = "On the test part." if isinstance(report, FitReport) else "On the given scores."
    if len(report.curves) > len(series):
        where += f" The first {len(series)} of {len(report.curves)} are drawn."
    return _section("Curves", where, legend, node("div", *pictures, class_="figures"))


def _swatch(style: str) -> Element:
    line = node("line", x1=1, x2=27, y1=6, y2=6, class_=f"curve {style}")
    return node("svg", line, viewBox="0 0 28 12", width=28, height=12, aria_hidden="true")


def _series(report: Report) -> list[tuple[Curves, str]]:
    """The curves with their styles: the first in the leading colour, plain log loss grey and dashed."""
    plain = {row.name for row in report.contest if row.baseline} if isinstance(report, FitReport) else set()
    colours = iter(range(1, MOST_CURVES + 1))
    return [
        (curves, "base" if index and curves.name in plain else f"s{next(colours)}")
        for index, curves in enumerate(report.curves[:MOST_CURVES])
    ]


def _histograms(report: Report) -> Element | None:
    if not report.curves:
        return None
    tables = {table.name: table for table in report.thresholds}
    pictures = [histogram_figure(curves, tables.get(curves.name)) for curves in report.curves[:MOST_CURVES]]
    words = "How far the classes are apart. A single row is still visible: the scale is logarithmic."
    if any(row.estimated for table in report.thresholds for row in table.rows):
        words += " Dashed lines are the first estimated thresholds of the table below."
    return _section("Scores", words, node("div", *pictures, class_="figures wide"))


def _thresholds(tables: Sequence[ThresholdTable]) -> Element | None:
    shown = [table for table in tables if table.rows]
    if not shown:
        return None
    blocks: list[Child] = []
    for table in shown:
        if len(shown) > 1:
            blocks.append(node("h3", table.name))
        words = f"Chosen and measured on {table.chosen_on}"
        if table.measured_on != table.chosen_on:
            words = f"Chosen on {table.chosen_on}; rates measured on {table.measured_on}"
        words += f"; counts for {_percent(table.prevalence)} positives."
        blocks += [node("p", words, class_="lead"), _threshold_table(table)]
    words = (
        "A row is called positive when its score is above the threshold. Estimated: the rate holds on the rows the "
        "threshold was chosen on; on new rows it is missed about every second time. Guaranteed: chosen from order "
        "statistics, so that the rate holds on new rows from the same source with the confidence stated."
    )
    if any(table.by_group for table in tables):
        words += (
            " Rows of a group are no independent evidence: the guarantee uses one row of each group, drawn by chance, "
            "and is of the rate averaged over new groups."
        )
    return _section("Thresholds", words, *blocks)


def _threshold_table(table: ThresholdTable) -> Element:
    sure = f"guaranteed, {_percent(table.confidence)} sure"
    head = ["wanted", "how", "threshold", "FPR", "TPR", "found per 1,000", "missed per 1,000", "false alarms per 1,000"]
    rows: list[list[Child]] = []
    starts = []
    for row in table.rows:
        starts.append(len(rows))
        for how, cut in (("estimated", row.estimated), (sure, row.guaranteed)):
            if cut is not None:
                first: Child = node("span", wanted(row), class_="name")
                rows.append([first, how, *_cut_cells(table, row, cut)])
    return _table(head, rows, class_="thresholds", starts=starts)


def _cut_cells(table: ThresholdTable, row: ThresholdRow, cut: Cut) -> list[Child]:
    if cut.threshold in (float("inf"), float("-inf")):
        return [node("span", lacking(table, row, cut), class_="faint"), *[UNKNOWN] * 5]
    prevalence = table.prevalence
    # The page rounds for the eye; the attribute keeps every digit for the one who copies.
    shown = node("data", threshold(cut.threshold), value=repr(cut.threshold), title=repr(cut.threshold))
    found = None if cut.tpr is None else prevalence * cut.tpr
    missed = None if cut.tpr is None else prevalence * (1 - cut.tpr)
    alarms = None if cut.fpr is None else (1 - prevalence) * cut.fpr
    return [
        shown,
        rate(cut.fpr),
        rate(cut.tpr),
        per_thousand(found),
        per_thousand(missed),
        per_thousand(alarms),
    ]


def _details(report: Report) -> Element:
    data, made = report.data, report.provenance
    blocks: list[Child] = [_data_table(data)]
    if data.parts:
        binary = any(part.positives is not None for part in data.parts)
        head = ["part", "rows"] + (["positives", "share"] if binary else [])
        rows: list[list[Child]] = []
        for part in data.parts:
            cells: list[Child] = [part.name, count(part.rows)]
            if binary:
                cells += [count(part.positives), share(part.positives, part.rows)]
            rows.append(cells)
        blocks += [node("h3", "Split" + (f": {data.split}" if data.split else "")), _table(head, rows)]
    if data.columns:
        read: list[list[Child]] = [[name, words] for name, words in data.columns.items()]
        blocks += [node("h3", "What the columns were read as"), _table(["column", "read as"], read)]
    if isinstance(report, FitReport) and any(row.folds for row in report.contest):
        blocks += [node("h3", f"{report.metric} on each fold"), _fold_table(report.contest)]
    if report.notes:
        blocks += [node("h3", "Notes"), node("ul", *(node("li", note) for note in report.notes))]
    blocks += [node("h3", "To repeat this"), node("pre", node("code", made.command)), _provenance(made)]
    return _section("Details", None, *blocks)


def _data_table(data: DataSummary) -> Element:
    rows: list[list[Child]] = [
        [label + (" (positive)" if label == data.positive else ""), count(rows), share(rows, data.rows)]
        for label, rows in data.classes.items()
    ]
    return _table([f"class of {data.target}", "rows", "share"], rows)


def _fold_table(contest: Sequence[ContestRow]) -> Element:
    most = max(len(row.folds) for row in contest)
    head = ["", *(str(k + 1) for k in range(most))]
    rows: list[list[Child]] = [
        [node("span", row.name, class_="name"), *(number(v) for v in row.folds), *[UNKNOWN] * (most - len(row.folds))]
        for row in contest
    ]
    return _table(head, rows)


def _provenance(made: Provenance) -> Element:
    facts = {"date": made.date, "seed": None if made.seed is None else str(made.seed)}
    facts["time"] = None if made.seconds is None else duration(made.seconds)
    facts.update(made.versions)
    pairs = [node("div", node("dt", name), node("dd", value)) for name, value in facts.items() if value]
    return node("dl", *pairs, class_="provenance")


def _section(title: str, words: str | None, *blocks: Child) -> Element:
    return node("section", node("h2", title), node("p", words, class_="lead") if words else None, *blocks)


def _table(
    head: Sequence[str], rows: Sequence[Sequence[Child]], class_: str | None = None, starts: Sequence[int] = ()
) -> Element:
    """A table whose lines become cards on a narrow screen; `starts` are the lines that begin a group."""
    titles = node("tr", *(node("th", title, scope="col", role="columnheader") for title in head), role="row")
    body = node("tbody", role="rowgroup")
    for index, cells in enumerate(rows):
        line = node("tr", node("th", cells[0], scope="row", role="rowheader"), role="row")
        for title, cell in zip(head[1:], cells[1:], strict=True):
            append(line, node("td", cell, role="cell", data_label=title))
        if index in starts:
            line.set("class", "first")
        append(body, line)
    kind = "plain" + (f" {class_}" if class_ else "")
    return node("table", node("thead", titles, role="rowgroup"), body, class_=kind, role="table")


def _percent(value: float) -> str:
    """A share as a percentage: 0.95 is "95 %"."""
    return f"{100 * value:.3g} %"
