import math
from itertools import pairwise

import numpy as np
import pytest

from equipoise.core.curves.intervals import Interval
from equipoise.report import numbers
from equipoise.report.markup import Frame, node, plain_table, render, tick_label, ticks

NAN = float("nan")


@pytest.mark.parametrize(
    "text",
    [
        numbers.number(None),
        numbers.number(NAN),
        numbers.interval(None),
        numbers.interval(Interval(0.5, NAN, NAN)),
        numbers.estimate(None),
        numbers.with_interval(Interval(NAN, NAN, NAN)),
        numbers.rate(NAN),
        numbers.per_thousand(NAN),
        numbers.duration(NAN),
        numbers.count(None),
        numbers.share(None, 5),
    ],
)
def test_what_is_not_known_is_a_dash(text):
    assert text == "–"


def test_an_estimate_without_an_interval_stands_alone():
    assert numbers.with_interval(Interval(0.5, NAN, NAN)) == "0.500"


def test_a_narrow_interval_gets_a_fourth_digit_and_an_empty_one_does_not():
    assert numbers.with_interval(Interval(0.9915, 0.9911, 0.9919)) == "0.9915 [0.9911, 0.9919]"
    assert numbers.with_interval(Interval(1.0, 1.0, 1.0)) == "1.000 [1.000, 1.000]"


def test_a_number_that_rounds_to_zero_has_no_sign():
    assert numbers.number(-0.0001) == "0.000"
    assert numbers.number(-0.0001, signed=True) == numbers.number(0.0, signed=True).lstrip("+") == "0.000"


def test_a_small_rate_keeps_the_digits_that_matter():
    assert [numbers.rate(v) for v in (0.0, 1e-6, 0.000123, 0.0123, 1.0)] == [
        "0",
        "0.0000010",
        "0.00012",
        "0.0123",
        "1.0000",
    ]


def test_times_round_up_to_the_next_unit():
    assert [numbers.duration(s) for s in (0.999, 59.97, 3600.0, 7321)] == [
        "1.0 s",
        "1 min 0 s",
        "1 h 0 min",
        "2 h 2 min",
    ]


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.0, 0.05), (0.5, 1.0), (-8.3, 4.9), (1e-9, 3e-9), (-1e6, 1e6)])
def test_ticks_are_few_even_and_inside(low, high):
    marks = ticks(low, high)
    assert 2 <= len(marks) <= 6
    assert low - 1e-9 * (high - low) <= marks[0]
    assert marks[-1] <= high + 1e-9 * (high - low)
    gaps = [b - a for a, b in pairwise(marks)]
    assert max(gaps) == pytest.approx(min(gaps))
    assert len({tick_label(mark) for mark in marks}) == len(marks)


def test_an_empty_range_has_one_tick():
    assert ticks(0.3, 0.3) == [0.3]
    assert ticks(0.3, math.inf) == [0.3]


def test_text_and_attributes_never_become_markup():
    html = render(node("p", "</p><script>", aria_label='"><b x="'))
    assert html == '<p aria-label="&quot;&gt;<b x=&quot;">&lt;/p&gt;&lt;script&gt;</p>'


def test_text_between_elements_keeps_its_place():
    assert render(node("p", "a", node("b", "c"), "d", None, "e")) == "<p>a<b>c</b>de</p>"


def test_a_frame_puts_the_corners_where_they_belong():
    frame = Frame((0.0, 2.0), (-1.0, 1.0), width=100, height=100, left=10, right=20, top=5, bottom=15)
    assert frame.at(0.0, -1.0) == (10.0, 85.0)
    assert frame.at(2.0, 1.0) == (80.0, 5.0)
    assert frame.path(np.array([[0.0, -1.0], [0.0, -1.0], [2.0, 1.0]]), close=True) == "M10.0 85.0L80.0 5.0Z"


def test_the_cells_of_a_plain_table_carry_their_titles():
    """On a narrow screen the header is not shown, and 0.3 alone says nothing."""
    table = render(plain_table([("model", "recall", ""), ("a", node("b", "0.3"), "x")]))
    assert '<td>a</td><td data-label="recall"><b>0.3</b></td><td>x</td>' in table
