"""The page of `multitask`: what learning tasks together is worth, who is served badly, and how tasks group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element

from equipoise.core.curves.intervals import Interval
from equipoise.report.details import details_section
from equipoise.report.knowledge_figures import model_strip
from equipoise.report.markup import Child, document, node, plain_table
from equipoise.report.model import Provenance
from equipoise.report.numbers import count, estimate, interval, number, with_interval
from equipoise.report.pictures import STYLE, picture
from equipoise.report.sections import hero_section, page_header, section, warnings_section

_STYLE = (
    STYLE
    + """
.best { stroke: var(--s2); fill: var(--s2); } .strips circle { stroke: none; }
.strips .one { stroke: var(--s1); fill: var(--s1); } .strips line { stroke-width: 2.4; }
.strips .grid { stroke-width: 1; } .models, .groups { overflow-x: auto; } .models td { white-space: nowrap; }
.groups td { text-align: left; } .groups td:last-child, .groups td:nth-child(2) { overflow-wrap: anywhere; }
"""
)
_NOTES = (
    "Every way to learn chose among at most eight settings on rows to choose by, was fitted again with them, and "
    "judged once on the rows to judge by; rows of every task are in each part.",
    "All models are linear in standardised features; of a number, each task's mean is that of its training rows.",
    "R² is one less the mean squared error of a task over the variance of the target within all tasks.",
    "Intervals are over tasks, drawn anew: how far the mean would move with other tasks of the same kind.",
)
_MOST_TASKS, _MOST_NAMES = 20, 12


@dataclass(frozen=True)
class JudgedTasks:
    """A way to learn.

    Attributes:
        name: of it.
        value: of the metric, the mean over tasks.
        behind: by how much the chosen one is better, paired over tasks; None for that one.
        worst: the metric of the worst task.
        validation: of the metric on the rows to choose by.
        setting: that was best, in words.
    """

    name: str
    value: Interval
    behind: Interval | None
    worst: float
    validation: float
    setting: str


@dataclass(frozen=True)
class TasksReport:
    """What the page shows.

    Attributes:
        title: of the page.
        facts: short facts about the table, under the title.
        metric: what decides.
        chosen: the way to learn that won on the rows to choose by.
        baseline: the name of one model per task.
        gain: how much the chosen one is above it; None where it was not compared.
        judged: all of them.
        tasks: name, rows, and the metric of each way to learn, in the order of `judged`; NaN where it is not defined.
        shown: whose weights are drawn.
        structure: the picture of weights.
        groups: features and tasks of each group of TFCL; empty without it.
        notes: what a reader must know of the data.
        level: of the intervals.
        provenance: of the run.
    """

    title: str
    facts: Sequence[str]
    metric: str
    chosen: str
    baseline: str
    gain: Interval | None
    judged: Sequence[JudgedTasks]
    tasks: Sequence[tuple[str, int, Sequence[float]]]
    shown: str
    structure: Path
    groups: Sequence[tuple[Sequence[str], Sequence[str]]]
    notes: Sequence[str]
    level: float
    provenance: Provenance = field(default_factory=lambda: Provenance(""))


def tasks_page(report: TasksReport) -> str:
    """The page's text; the same report always gives the same text."""
    sections = [
        _hero(report),
        warnings_section("To know of this table", report.notes),
        _models(report),
        _structure(report),
        _served(report),
        details_section(_NOTES, report.provenance),
    ]
    header = page_header("multitask", report.title, report.facts)
    return document(report.title, header, node("main", *sections), extra_style=_STYLE)


def verdict(report: TasksReport) -> str:
    """What learning together came to, in a sentence."""
    if report.chosen == report.baseline:
        return "One model per task was chosen: learning together is not worth it here."
    if report.gain is None:
        return "One model per task was not among what was compared; it is the least to compare with."
    if report.gain.low > 0:
        return "Better than one model per task."
    if report.gain.high < 0:
        return "Worse than one model per task, though it was chosen."
    return "Not told apart from one model per task."


def _hero(report: TasksReport) -> Element:
    chosen = next(one for one in report.judged if one.name == report.chosen)
    tiles = [
        (f"{report.metric}, mean over tasks", estimate(chosen.value), interval(chosen.value)),
        (f"{report.metric} of the worst task", number(chosen.worst), ""),
    ]
    if report.gain is not None and report.chosen != report.baseline:
        gain = report.gain
        tiles.insert(1, ("above one model per task", estimate(gain, signed=True), interval(gain, signed=True)))
    clear = report.gain is not None and report.gain.low > 0
    return hero_section("Chosen on the rows to choose by", report.chosen, verdict(report), clear, tiles)


def _models(report: TasksReport) -> Element:
    cells: list[Sequence[Child]] = [["way to learn", report.metric, "behind", "worst task", "to choose by", "setting"]]
    for one in report.judged:
        behind = "chosen" if one.behind is None else with_interval(one.behind)
        name = node("b", one.name) if one.behind is None else one.name
        cells.append([name, with_interval(one.value), behind, number(one.worst), number(one.validation), one.setting])
    strip = [(one.name, one.value, one.behind is None) for one in report.judged]
    words = f"{report.metric}, {100 * report.level:.3g} % interval"
    return section(
        "Ways to learn, on held-out rows of every task",
        "Alone is one ridge per task, pooled one ridge for all; behind is how far it is behind "
        f"{report.chosen} on the same tasks.",
        node("div", node("figure", node("figcaption", words), model_strip(strip)), class_="figures"),
        node("div", plain_table(cells), class_="models"),
    )


def _structure(report: TasksReport) -> Element:
    caption = f"Weights of {report.shown}, features down and tasks across"
    caption += (
        ", in the order of their groups." if report.groups else ", tasks in the order of their first principal axis."
    )
    cells: list[Sequence[Child]] = [["group", "features", "tasks"]]
    for number_, (features, tasks) in enumerate(report.groups, start=1):
        cells.append([str(number_), _listed(features), _listed(tasks)])
    return section(
        "Tasks and features",
        None,
        picture(report.structure, "weights of features for tasks", caption),
        node("div", plain_table(cells), class_="groups") if report.groups else None,
    )


def _served(report: TasksReport) -> Element:
    place = [one.name for one in report.judged].index(report.chosen)
    rows = [task for task in report.tasks if task[2][place] == task[2][place]]
    worst = sorted(rows, key=lambda task: task[2][place])[:_MOST_TASKS]
    cells: list[Sequence[Child]] = [["task", "rows", *(one.name for one in report.judged)]]
    cells += [[name, count(size), *map(number, values)] for name, size, values in worst]
    return section(
        "Who is served badly",
        f"Tasks with the lowest {report.metric} under {report.chosen}; all are in tasks.csv.",
        node("div", plain_table(cells), class_="models"),
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {count(len(names) - _MOST_NAMES)} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more
