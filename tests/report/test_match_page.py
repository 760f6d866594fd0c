"""The page of a match: what it says, and that no name can break it."""

import math
import re
from html.parser import HTMLParser

from equipoise.core.curves.intervals import UNDEFINED, Interval
from equipoise.report import MatchReport, match_page
from equipoise.report.match_page import MatchRow, match_verdict


def _row(low=0.6, negatives="any candidates", direction="faces → voices", **changes):
    whole = {
        "queries": 1200,
        "matching": {2: Interval(0.7, low, 0.8), 3: Interval(0.6, 0.5, 0.7), 5: UNDEFINED},
        "auc": Interval(0.71, 0.65, 0.75),
        "retrieval": Interval(0.2, 0.15, 0.25),
        "prevalence": 0.01,
    }
    return MatchRow(negatives, direction, **{**whole, **changes})


def _report(*rows, **changes):
    rows = rows or (_row(), _row(direction="voices → faces"), _row(negatives="sex f"))
    return MatchReport(
        **{"title": "faces and voices", "facts": ("1,200 rows",), "rows": rows, "notes": ["Few."], **changes}
    )


class _Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.seen = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)


def test_the_page_says_what_was_found_and_is_the_same_each_time():
    page = match_page(_report())
    assert page == match_page(_report())
    assert "better than chance in both directions" in page
    assert "0.700" in page
    assert "1,200" in page
    assert "Few." in page
    assert "sex f" in page
    assert page.count('class="curve s') == 3


def test_the_verdict_looks_at_intervals():
    other = _row(0.4, direction="voices → faces")
    assert match_verdict(_report(_row(), other)).endswith("in one direction only.")
    assert "not shown" in match_verdict(_report(_row(0.4), other))
    without = _row(matching={2: Interval(0.7, math.nan, math.nan)})
    assert "Without intervals" in match_verdict(_report(without))
    assert "–" in match_page(_report(_row(retrieval=UNDEFINED), other))


def test_one_list_length_is_drawn():
    only = {2: Interval(0.7, 0.6, 0.8)}
    page = match_page(_report(_row(matching=only), _row(matching=only, direction="b")))
    assert "nan" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)


def test_names_are_text_only():
    bad = "<script>alert(1)</script>"
    page = match_page(_report(_row(negatives=bad, direction=bad), title=bad, facts=(bad,), notes=[bad]))
    assert "script" not in _Tags(page).seen
