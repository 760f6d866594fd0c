"""The page of a completed graph: what it says, what it draws, and that no name can break it."""

import math
import re
from dataclasses import replace

import pytest

from equipoise.core.curves.intervals import Interval
from equipoise.report import KnowledgeReport, knowledge_page
from equipoise.report.knowledge_figures import attention_bars, geometry_map, model_strip
from equipoise.report.knowledge_page import JudgedModel, NovelTriple, RelationRow, TypeRow, verdict
from equipoise.report.markup import render

NAN = Interval(math.nan, math.nan, math.nan)
SPACES = ("euclidean", "hyperbolic", "spherical")


def _value(estimate, width=0.05):
    return Interval(estimate, estimate - width, estimate + width)


def _judged(name, value, behind, **changes):
    means = {metric: _value(value) for metric in ("mrr", "hits@1", "hits@3", "hits@10")}
    whole = {"tail": value + 0.01, "head": value - 0.01, "validation": value, "epochs": 5, "seconds": 61.0}
    return JudgedModel(name=name, means=means, behind=behind, **{**whole, **changes})


def _relation(name, **changes):
    whole = {
        "triples": 40,
        "type": "1-N",
        "symmetry": 0.1,
        "hierarchy": 0.9,
        "curvature": -0.4,
        "geometry": "hyperbolic",
        "judged": 9,
        "both": _value(0.5),
        "tail": _value(0.4),
        "head": _value(0.6),
        "attention": (0.2, 0.7, 0.1),
    }
    return RelationRow(name=name, **{**whole, **changes})


def knowledge_report(**changes):
    relations = [
        _relation("ancestor of"),
        _relation("next to", hierarchy=0.0, curvature=0.3, geometry="spherical", both=_value(0.1), triples=10),
        _relation("said once", curvature=math.nan, geometry=None, judged=0, both=NAN, tail=NAN, head=NAN, attention=()),
    ]
    whole = {
        "title": "12 novel triples by gie",
        "facts": ("5 entities", "3 relations"),
        "metric": "mrr",
        "chosen": "gie",
        "baseline": "frequency",
        "judged": [_judged("gie", 0.6, None), _judged("frequency", 0.3, _value(0.3), epochs=0)],
        "types": [TypeRow("1-N", 18, _value(0.25), _value(0.75))],
        "relations": relations,
        "spaces": SPACES,
        "examples": {"ancestor of": [NovelTriple("Ann", "ancestor of", "Bob", 1.5)]},
        "notes": ("2 entities are unseen",),
        "level": 0.95,
    }
    return KnowledgeReport(**{**whole, **changes})


def test_the_page_says_what_was_found():
    page = knowledge_page(knowledge_report())
    for words in ("12 novel triples by gie", "5 entities", "2 entities are unseen", "Better than naming", "1-N", "Ann"):
        assert words in page
    assert "MRR 0.500 on 9 test triples" in page
    assert "1 more relation has no triangle" in page
    assert "0.300 [0.250, 0.350]" in page
    assert page == knowledge_page(knowledge_report())


def test_the_worst_relation_comes_first_and_those_not_judged_not_at_all():
    page = knowledge_page(knowledge_report())
    table = page[page.index("The relations with the lowest MRR") :]
    assert table.index("next to") < table.index("ancestor of")
    assert "said once" not in table
    few = [replace(row, judged=min(row.judged, 2)) for row in knowledge_report().relations]
    table = knowledge_page(knowledge_report(relations=few)).partition("The relations with the lowest MRR")[2]
    assert "ancestor of" in table
    assert "at least 5" not in table


@pytest.mark.parametrize(
    ("behind", "words"),
    [(Interval(0.1, 0.05, 0.2), "Better"), (Interval(0.1, -0.05, 0.2), "Not told"), (Interval(-1, -2, -0.5), "Worse")],
)
def test_the_verdict_is_by_the_interval(behind, words):
    report = knowledge_report(judged=[_judged("gie", 0.6, None), _judged("frequency", 0.3, behind)])
    assert verdict(report).startswith(words)


def test_names_are_text_and_nothing_is_run():
    bad = "<script>alert('x')</script>&"
    relations = [_relation(bad), _relation("a", both=NAN, judged=0, tail=NAN, head=NAN)]
    examples = {bad: [NovelTriple(bad, bad, bad, 0.0)]}
    page = knowledge_page(knowledge_report(relations=relations, examples=examples, title=bad, notes=(bad,)))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_without_geometry_attention_or_novel_triples_their_sections_are_left_out():
    relations = [_relation("r", curvature=math.nan, geometry=None, attention=())]
    page = knowledge_page(knowledge_report(relations=relations, spaces=(), examples={}, notes=()))
    for words in ("Relations by geometry", "Attention of gie", "does not hold", "To know"):
        assert words not in page
    assert "Who is served badly" in page


def test_attention_that_is_even_is_called_so():
    even = [_relation("r", attention=(0.34, 0.33, 0.33))]
    assert "does not tell the geometries apart" in knowledge_page(knowledge_report(relations=even, examples={}))
    assert "does not tell the geometries apart" not in knowledge_page(knowledge_report())


def _numbers(pattern, text):
    return [tuple(map(float, found)) for found in re.findall(pattern, text)]


def test_dots_stand_where_the_numbers_are_and_grow_by_area():
    rows = [("a", -1.0, 0.0, 400, "hyperbolic"), ("b", 1.0, 1.0, 100, "spherical"), ("c", 0.0, 0.5, 0, None)]
    text = render(geometry_map(rows))
    circles = _numbers(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="([\d.]+)"', text)
    (ax, ay, ar), (bx, by, br), (cx, cy, cr) = circles
    assert ax < cx < bx
    assert ay > cy > by
    assert cx == pytest.approx((ax + bx) / 2, abs=0.02)
    assert cy == pytest.approx((ay + by) / 2, abs=0.02)
    assert (ar - cr) / (br - cr) == pytest.approx(2)
    assert all(0 < x < 420 and 0 < y < 360 for x, y, _ in circles)
    assert "a: curvature −1.000, hierarchy 0.000, 400 triples" in text


def test_labels_do_not_cover_each_other_and_stay_inside():
    rows = [(f"relation number {k}", 0.01 * (k % 3), 0.5, 100 - k, "euclidean") for k in range(30)]
    rows += [("x" * 60, 0.6, 0.9, 5, "spherical")]
    text = render(geometry_map(rows))
    found = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" class="note tick">([^<]*)</text>', text)
    boxes = [(float(x), float(y) - 11, float(x) + 6.6 * len(words), float(y) + 3) for x, y, words in found]
    assert 1 <= len(boxes) <= 9
    for k, one in enumerate(boxes):
        assert one[0] >= 0
        assert one[2] <= 420
        for other in boxes[:k]:
            assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    assert "x" * 24 not in "".join(words for _, _, words in found)


def test_bars_are_shares():
    text = render(attention_bars([("r", (0.25, 0.5, 0.25))], SPACES))
    assert re.findall(r"flex: ([\d.]+) 1 0", text) == ["0.2500", "0.5000", "0.2500"]
    assert "euclidean 0.25, hyperbolic 0.50, spherical 0.25" in text


def test_the_strip_takes_models_without_an_interval():
    unsure = Interval(0.4, -math.inf, math.inf)
    text = render(model_strip([("a", _value(0.5), True), ("b", unsure, False), ("c", _value(-0.2), False)]))
    circles = _numbers(r'cx="([\d.]+)" cy="([\d.]+)"', text)
    assert circles[0][0] > circles[1][0] > circles[2][0] > 92
    assert text.count('class="best"') == 2
    assert "inf" not in text.replace("[−∞, ∞]", "")
