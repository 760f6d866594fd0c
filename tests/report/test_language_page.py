"""The page of distill and adapt: what is said, in which colour, and that texts stay texts."""

from dataclasses import replace

import pytest

from equipoise.core.curves.intervals import Interval
from equipoise.report.language_page import (
    ExampleToken,
    LanguageReport,
    Measure,
    TokenCost,
    language_page,
    learning_verdict,
)

REPORT = LanguageReport(
    command="distill",
    title="small learns from <large>",
    facts=("teacher of 9 numbers",),
    what="the divergence",
    measures=[
        Measure("KL", Interval(2, 1.9, 2.1), Interval(1, 0.9, 1.1), Interval(-1, -1.2, -0.8)),
        Measure("entropy", Interval(2, 1.9, 2.1), Interval(3, 2.9, 3.1), Interval(1, 0.8, 1.2), 2.5, None),
    ],
    losses=[(1, 2.0), (2, 1.5), (3, 1.2)],
    held=[(3, 1.3)],
    costs=[TokenCost("\n", 7, 2.0, 1.0, 0.25), TokenCost(" cat", 3, 1.0, 0.5, 0.0001)],
    examples=[
        [
            ExampleToken("The", None),
            ExampleToken(" <b>", 0.01, {"teacher": "a 0.9"}, 0.9),
            ExampleToken(" cat", 0.7, {"teacher": "cat 0.2"}, 0.2),
            ExampleToken(" sat", 7.0, {}, 0.2, "bridge"),
            ExampleToken(" on", 0.2, {}, 0.9, "garden"),
            ExampleToken(" it", 0.0, {}, 0.2, "middle"),
        ]
    ],
    notes=["2 of 9 texts were cut"],
    asides=["read with care"],
)


def test_the_page_says_what_happened():
    page = language_page(REPORT)
    assert "small learns from &lt;large&gt;" in page
    assert "KL fell on held-out texts." in page
    assert "2 of 9 texts were cut" in page
    assert "read with care" in page
    assert "0.01 %" in page
    assert page == language_page(REPORT)


def test_tokens_are_coloured_by_their_value_and_marked_by_their_risk():
    page = language_page(REPORT)
    for words in (
        '<i class="given">The</i>',
        '<i class="k0" title="0.010 nats; teacher: a 0.9"> &lt;b&gt;</i>',
        '<i class="k3 unsure" title="0.700 nats; teacher: cat 0.2"> cat</i>',
        '<i class="k5 bridge" title="7.000 nats"> sat</i>',
        '<i class="k2 garden" title="0.200 nats"> on</i>',
        '<i class="k0" title="0.000 nats"> it</i>',
    ):
        assert words in page
    assert "In the first text lines are bridges" in page


@pytest.mark.parametrize(
    ("change", "words"), [((-1, 1), "is not told apart from what it was before"), ((1, 2), "the training did harm")]
)
def test_the_verdict_is_that_of_the_interval(change, words):
    first = replace(REPORT.measures[0], change=Interval(0.5, *change))
    assert words in learning_verdict(replace(REPORT, measures=[first]))


def test_what_is_not_there_is_left_out():
    page = language_page(replace(REPORT, costs=[], examples=[], notes=[], losses=[(1, 2.0)], held=[]))
    for words in ("Where most is left", "token by token", "To know of this run", "<h2>Training</h2>"):
        assert words not in page
