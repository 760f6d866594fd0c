"""The page of a debiasing: what it says, and that no name can break it."""

import math
from html.parser import HTMLParser

import pytest

from equipoise.report import FairnessReport, fairness_page
from equipoise.report.fairness_page import ConceptRow, fairness_verdict


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen = set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)


def _row(name="doctor", trained=True, after=(0.55, 0.45), gap=(0.1, math.nan)):
    return ConceptRow(name, trained, ((0.9, 0.1), after), (0.8, abs(after[0] - after[1])), (0.3, 0.28), gap, 0.01)


def _report(**changes):
    given = {
        "title": "Neutral prompts",
        "facts": ("2 values",),
        "values": ("male", "female"),
        "target": (0.5, 0.5),
        "rows": (_row(), _row("pilot", trained=False, after=(0.2, 0.8))),
        "sheet": "data:image/png;base64,AAAA",
    }
    return FairnessReport(**{**given, **changes})


def test_the_same_report_gives_the_same_page_with_its_numbers():
    page = fairness_page(_report())
    assert page == fairness_page(_report())
    for words in ("pilot (not trained)", "90%", "55%", "male 50%", "data:image/png;base64,AAAA"):
        assert words in page


def test_means_are_over_the_balanced_concepts():
    report = _report()
    assert (report.mean_bias(0), report.mean_bias(1)) == (0.8, pytest.approx(0.1))
    assert (report.off_target(0), report.off_target(1)) == (pytest.approx(0.4), pytest.approx(0.05))
    assert math.isnan(_report(rows=(_row(trained=False),)).mean_bias(0)) is True


def test_the_verdict_says_whether_shares_came_closer():
    assert "closer to the wanted ones: 40 points off before, 5 after" in fairness_verdict(_report())
    assert "less similar" in fairness_verdict(_report())
    assert "no closer to" in fairness_verdict(_report(rows=(_row(after=(1.0, 0.0)),)))
    assert "40 points off before" not in fairness_verdict(_report(target=(0.9, 0.1)))


def test_no_name_can_break_the_page():
    bad = "</title><script>alert(1)</script>"
    page = fairness_page(_report(title=bad, facts=(bad,), values=(bad, "b"), rows=(_row(bad),), notes=(bad,)))
    tags = _Tags()
    tags.feed(page)
    assert "img" in tags.seen
    assert "script" not in tags.seen
