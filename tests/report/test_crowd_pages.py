"""Pages of crowds: names stay text, and what is not known is said to be so."""

import math
from dataclasses import replace

import numpy as np
import pytest

from equipoise.core.curves.intervals import Interval
from equipoise.report import CrowdReport, crowd_page
from equipoise.report.crowd_page import RankedItem, Suspect, verdict
from equipoise.report.pictures import draw_path, draw_places, draw_structure, inline
from equipoise.report.tasks_page import JudgedTasks, TasksReport
from equipoise.report.tasks_page import verdict as tasks_verdict


def _item(name, rank, **changes):
    settings = {
        "name": name,
        "component": 1,
        "rank": rank,
        "score": Interval(3.0 - rank, 2.5 - rank, 3.5 - rank),
        "standard_error": 0.2,
        "ranks": (rank, rank + 1),
        "group": rank,
        "others": {"hodge": rank},
    }
    return RankedItem(**{**settings, **changes})


def crowd_report(**changes):
    report = CrowdReport(
        title="three items",
        facts=("3 items", "2 annotators"),
        method="bradley-terry",
        items=[_item("<b>one</b>", 1), _item("two", 2), _item("three", 3)],
        groups=3,
        accuracy={"bradley-terry": 0.8, "hodge": math.nan},
        agreement={"bradley-terry": 1.0, "hodge": math.nan},
        inconsistency=0.123,
        suspects=[Suspect("Ann & Bob", 7, 0.2, 0.7, 1.0, 0.5, 1, ("always the left one",))],
        annotators=2,
        read=("label: column 'x'",),
        path=None,
        path_words=(),
        own={"Ann & Bob": [["two", "three"], ["<b>one</b>"]]},
        notes=("there is a note",),
        confidence=0.95,
    )
    return replace(report, **changes)


def test_names_are_text_and_numbers_that_are_not_known_a_dash():
    page = crowd_page(crowd_report())
    assert "<b>one</b>" not in page
    assert "&lt;b&gt;one&lt;/b&gt;" in page
    assert "Ann &amp; Bob" in page
    for words in ("12.3 %", "there is a note", "two, three", "always the left one"):
        assert words in page
    assert ">nan" not in page.lower()
    assert "Who leaves the consensus" not in page


def test_a_page_without_intervals_suspects_or_a_second_component_and_with_them():
    unsure = Interval(1.0, math.nan, math.nan)
    items = [_item("one", 1, score=unsure, standard_error=math.nan, ranks=None, group=None)]
    page = crowd_page(crowd_report(items=items, groups=None, suspects=[], own={}, notes=()))
    assert "None stands out." in page
    assert "How sure the ranking is cannot be said." in page
    assert ">nan" not in page.lower()
    assert ">component<" not in page
    assert ">component<" in crowd_page(crowd_report(items=[_item("one", 1), _item("two", 1, component=2)]))
    many = [_item(f"item {k}", k + 1) for k in range(40)]
    assert "10 more are in consensus.csv" in crowd_page(crowd_report(items=many))


@pytest.mark.parametrize(
    ("groups", "words"), [(1, "None of the 3"), (2, "fall into 2 groups"), (3, "Every item"), (None, "cannot be said")]
)
def test_the_verdict_counts_groups(groups, words):
    assert words in verdict(crowd_report(groups=groups))


def test_pictures_take_any_name(tmp_path):
    times, lengths = np.geomspace(1, 9, 4), np.arange(12.0).reshape(4, 3)
    draw_path(tmp_path / "p.png", times, lengths, [(0, "$x_1$"), (2, "_hidden")], 3.0, {"dense": np.ones(4)})
    draw_places(tmp_path / "m.png", np.arange(3.0)[:, None], ["$\\frac$", "南京", "a\nb"])
    draw_structure(tmp_path / "s.png", np.zeros((2, 3)), ["$", "_"], ["a", "b", "^"], ([1], []))
    for name in "pms":
        assert inline(tmp_path / f"{name}.png").startswith("data:image/png;base64,iVBOR")


def test_the_verdict_on_tasks_follows_the_gain(tmp_path):
    one = JudgedTasks("trace", Interval(0.5, 0.4, 0.6), None, 0.1, 0.5, "strength 0.1")
    report = TasksReport(
        title="t",
        facts=(),
        metric="R²",
        chosen="trace",
        baseline="alone",
        gain=Interval(0.1, 0.05, 0.2),
        judged=[one],
        tasks=[],
        shown="trace",
        structure=tmp_path,
        groups=[],
        notes=(),
        level=0.95,
    )
    assert tasks_verdict(report) == "Better than one model per task."
    for gain, words in (
        (Interval(0.1, -0.05, 0.2), "Not told apart"),
        (Interval(-0.1, -0.2, -0.05), "Worse"),
        (None, "not among"),
    ):
        assert words in tasks_verdict(replace(report, gain=gain))
    assert "not worth it" in tasks_verdict(replace(report, chosen="alone"))
