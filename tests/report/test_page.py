import dataclasses
import os
import re
from html.parser import HTMLParser

import pytest

from equipoise.core.curves.intervals import Interval
from equipoise.report import (
    ContestRow,
    Curves,
    ModelMetrics,
    Provenance,
    Region,
    ThresholdRow,
    curves_per_class,
    report_html,
    write_report,
)
from report.examples import METRIC, UNKNOWN, contest, data, evaluation_report, fit_report, scored, thresholds


class Reader(HTMLParser):
    """Text, tags and attributes of a page, apart from its style sheet."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.values, self.pieces, self.open = [], [], [], []
        self.feed(html)
        self.text = " ".join(" ".join(self.pieces).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.values += [value for _, value in attrs]
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open[-1:] != ["style"]:
            self.pieces.append(text)


def read(report):
    reader = Reader(report_html(report))
    assert reader.open == []
    return reader


def test_the_answer_comes_first_then_the_contest_the_pictures_and_the_details():
    text = read(fit_report()).text
    order = [
        "Best for OPAUC",
        "Better than plain log loss",
        "Before you trust",
        "The contest",
        "On the test part",
        "Curves",
    ]
    order += ["ROC where it matters", "Precision and recall", "Scores", "Thresholds", "Details", "To repeat this"]
    places = [text.index(words) for words in order]
    assert places == sorted(places)


def test_every_number_of_a_fit_is_on_the_page():
    text = read(fit_report()).text
    numbers = (
        "0.830 [0.812, 0.848] +0.021 [+0.003, +0.039] 3.2 s 0.809 [0.781, 0.837] 0.720 −0.100 [−0.130, −0.070] 1 min"
    )
    numbers += " 0.844 [0.789, 0.900] 0.930 [0.910, 0.950] 2,000 17 19.8 % 1,605 1,600 312 20.8 % 1 min 4 s 2.9.1"
    for number in numbers.split():
        assert number in text, number
    # threshold, FPR, TPR; then 1000 · 0.2 · TPR, 1000 · 0.2 · (1 − TPR), 1000 · 0.8 · FPR
    for line in ("1.23456 0.0513 0.7211 144 56 41", "−1.4321 0.0394 0.6909 138 62 32", "3.5 0 0.1234 25 175 0"):
        assert line in text
    for words in (
        "FPR ≤ 0.05",
        "TPR ≥ 1",
        "guaranteed, 95 % sure",
        "needs 2,995 negatives",
        "no sample is large enough",
    ):
        assert words in text
    for words in (
        "equipoise fit patients.csv --target sick",
        "seed 7",
        "1 May 2025",
        "Few positives.",
        "Rows with an empty",
    ):
        assert words in text


def test_every_number_of_an_evaluation_is_on_the_page():
    text = read(evaluation_report()).text
    for words in (
        "0.910",
        "[0.890, 0.930]",
        "0.930",
        "+0.020",
        "[+0.011, +0.029]",
        "0.500",
        "Better than old.",
        "Highest AUROC",
    ):
        assert words in text
    assert text.count("needs 2,995 negatives") == 2


def test_the_digits_of_a_threshold_are_kept_for_copying():
    table = thresholds("mlp · auc")
    cut = dataclasses.replace(table.rows[0].estimated, threshold=-0.12345678901234)
    row = dataclasses.replace(table.rows[0], estimated=cut)
    page = read(fit_report(thresholds=(dataclasses.replace(table, rows=(row,)),)))
    assert "−0.123457" in page.text
    assert "-0.12345678901234" in page.values


HOSTILE = "</title></style><script>alert(1)</script>\"'><img src=http://a.b/c onerror=alert(1)> & ümlaut"


def test_no_text_of_a_user_becomes_markup():
    curves = Curves.from_scores(HOSTILE, *scored(0))
    row = ContestRow(HOSTILE, (0.5, 0.6), Interval(0.55, 0.5, 0.6), winner=True)
    report = fit_report(
        title=HOSTILE,
        data=data(source=HOSTILE, target=HOSTILE, classes={HOSTILE: 3, "no": 5}, positive=HOSTILE, split=HOSTILE),
        metric=HOSTILE,
        provenance=Provenance(HOSTILE, {HOSTILE: HOSTILE}, 0, HOSTILE),
        contest=(row, *contest(2)),
        verdict=HOSTILE,
        validation=HOSTILE,
        models=(ModelMetrics(HOSTILE, {HOSTILE: Interval(0.5, 0.4, 0.6)}),),
        curves=(curves,),
        thresholds=(dataclasses.replace(thresholds(HOSTILE), chosen_on=HOSTILE, measured_on=HOSTILE),),
        warnings=(HOSTILE,),
        notes=(HOSTILE,),
    )
    page = read(report)
    assert not {"script", "img"} & set(page.tags)
    assert page.text.count(HOSTILE) > 15


def test_the_page_asks_for_nothing_from_outside():
    html = report_html(fit_report())
    assert not re.search(r"https?:|//[a-z]|url\(|@import|src=", html)
    assert "default-src 'none'" in html
    assert "<script" not in html


def test_the_page_is_light():
    scores, target = scored(0, n=50_000)
    curves = tuple(Curves.from_scores(f"model {k}", scores + k * 0.1 * target, target, max_fpr=0.05) for k in range(8))
    assert len(report_html(fit_report(curves=curves, contest=contest(20))).encode()) < 1_000_000


def test_the_same_report_gives_the_same_page(tmp_path):
    first = write_report(fit_report(), tmp_path / "a.html").read_bytes()
    assert write_report(fit_report(), tmp_path / "b.html").read_bytes() == first


def test_missing_values_are_dashes():
    name = "mlp · auc"
    row = ContestRow(name, (float("nan"),), UNKNOWN, UNKNOWN, None, winner=True)
    table = dataclasses.replace(
        thresholds(name),
        rows=(ThresholdRow("fpr", 0.1, dataclasses.replace(thresholds(name).rows[0].estimated, fpr=None, tpr=None)),),
    )
    report = fit_report(
        contest=(row,), models=(ModelMetrics(name, {METRIC: None, "AUROC": UNKNOWN}),), thresholds=(table,)
    )
    page = read(report)
    assert not re.search(r"\bnan\b", page.text, re.IGNORECASE)
    assert "None" not in page.text
    assert "on the test part – in cross-validation –" in page.text
    assert not any(re.search(r"\bnan\b", str(value)) for value in page.values)


def test_an_unknown_interval_says_nothing_about_the_reference():
    rows = (dataclasses.replace(contest(2)[0], gain=Interval(0.1, float("nan"), float("nan"))), contest(2)[1])
    text = read(fit_report(contest=rows)).text
    assert "Better than" not in text
    assert "Too close" not in text


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        (Interval(0.01, -0.01, 0.03), "Too close to call against plain log loss."),
        (Interval(0.02, 0.01, 0.03), "Better than plain log loss."),
    ],
)
def test_the_judgement_follows_the_interval_of_the_difference(gain, words):
    rows = (dataclasses.replace(contest(2)[0], gain=gain), contest(2)[1])
    assert words in read(fit_report(contest=rows)).text


def test_log_loss_can_win():
    other, plain = contest(2)
    rows = (
        dataclasses.replace(plain, winner=True),
        dataclasses.replace(other, winner=False, gain=Interval(-0.02, -0.04, 0.0)),
    )
    text = read(fit_report(contest=rows)).text
    assert "Plain log loss did best." in text
    assert "difference of the next best, mlp · auc −0.020" in text


@pytest.mark.parametrize(
    ("gains", "words"),
    [
        ({"new": Interval(-0.02, -0.03, -0.01)}, "Better than new."),
        ({"new": Interval(-0.02, -0.05, 0.01)}, "Too close to call against new."),
        ({}, "Highest AUROC old"),
    ],
)
def test_the_first_column_can_be_the_best(gains, words):
    models = evaluation_report().models
    models = (ModelMetrics("old", models[1].metrics), ModelMetrics("new", models[0].metrics))
    assert words in read(evaluation_report(models=models, gains=gains)).text


def test_one_candidate_is_no_contest():
    row = dataclasses.replace(contest(1)[0], gain=None)
    text = read(fit_report(contest=(row,))).text
    assert "The contest" not in text
    assert "In cross-validation" in text
    assert "difference" not in text


def test_one_column_of_scores_is_not_compared():
    report = evaluation_report(models=evaluation_report().models[:1], gains={})
    text = read(report).text
    assert "Side by side" not in text
    assert "0.910" in text


def test_many_candidates_are_all_there_and_the_axis_is_above_and_below():
    page = read(fit_report(contest=contest(20)))
    assert all(f"family {k} · objective" in page.text for k in range(18))
    assert page.values.count("scale") == 2


def test_more_curves_than_can_be_told_apart_are_not_drawn_and_the_page_says_so():
    curves = tuple(Curves.from_scores(f"column {k}", *scored(k)) for k in range(11))
    assert "The first 8 of 11 are drawn." in read(evaluation_report(curves=curves)).text


def test_a_report_with_empty_parts_leaves_their_sections_out():
    empty = fit_report(contest=(), models=(), curves=(), thresholds=(), warnings=(), notes=(), verdict="")
    text = read(empty).text
    for title in ("The contest", "On the test part", "Curves", "Thresholds", "Before you trust", "Notes"):
        assert title not in text
    no_rows = dataclasses.replace(thresholds("mlp · auc"), rows=())
    assert "Thresholds" not in read(fit_report(thresholds=(no_rows,))).text


@pytest.mark.parametrize("region", [Region(), Region(1.0, 0.0)])
def test_the_whole_square_is_not_enlarged(region):
    assert "ROC where it matters" not in read(fit_report(region=region)).text


@pytest.mark.parametrize("region", [Region(0.1, 0.5), Region(None, 0.5), Region(0.0001), Region(0.001, 0.999)])
def test_every_region_is_drawn_inside_its_frame(region):
    html = report_html(fit_report(region=region))
    picture = html[html.index("ROC where it matters") :]
    picture = picture[: picture.index("</svg>")]
    for path in re.findall(r' d="M([^"]+?)Z?"', picture):
        for point in path.split("L"):
            x, y = map(float, point.split())
            assert 51.9 <= x <= 368.1
            assert 11.9 <= y <= 300.1


def test_several_classes_are_drawn_one_against_the_rest():
    scores, target = scored(0)
    curves = curves_per_class(
        scores[:, None] * scores.new_tensor([1.0, -1.0, 0.5]), target + (scores > 3), {0: "a", 1: "b", 2: "c"}
    )
    text = read(
        fit_report(
            curves=curves,
            thresholds=(),
            region=Region(),
            data=data(positive=None, classes={"a": 5, "b": 3, "c": 1}, parts=()),
        )
    ).text
    assert "b against the rest" in text
    assert "base rate" not in text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = write_report(fit_report(), tmp_path / "report.html")
    before = path.read_bytes()

    def refuse(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        write_report(evaluation_report(), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["report.html"]


def test_letters_that_utf8_cannot_hold_do_not_stop_the_report(tmp_path):
    path = write_report(fit_report(title="broken \ud800 name"), tmp_path / "report.html")
    assert "broken ? name" in path.read_text(encoding="utf-8")
