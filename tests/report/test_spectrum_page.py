"""The page of a spectrum: what it says, what it draws, and that no name can break it."""

import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from equipoise.report import SpectrumReport, spectrum_page
from equipoise.report.spectrum_page import LayerRow, SpectrumRow, figure, verdict


def _row(name, condition=100.0, **changes):
    whole = {
        "lambda_min": 0.5,
        "lambda_max": 50.0,
        "centred": 40.0,
        "effective_rank": 3,
        "samples": 3,
        "top_share": 0.6,
    }
    return SpectrumRow(name=name, condition_number=condition, **{**whole, **changes})


def spectrum_report(**changes):
    whole = {
        "title": "Conditioning of 4-8-1, relu",
        "facts": ("3 samples", "4 inputs"),
        "rows": [_row("plain"), _row("gated", 20.0)],
        "spectra": {"plain": [50.0, 5.0, 0.5], "gated": [10.0, 5.0, 0.5]},
        "compared": ("plain", "gated"),
        "layers": [LayerRow("plain", "gate", 32, 0.25, 4.0), LayerRow("plain", "down", 8, 0.75, 48.0)],
        "steps": [0, 1, 10, 100],
        "curves": {"plain": [1.0, 0.5, 0.2, 0.1], "gated": [1.0, 0.7, 0.3, 0.0]},
        "crossing": 42,
        "eta": 0.001,
        "notes": ["3 samples are few."],
    }
    return SpectrumReport(**{**whole, **changes})


class _Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.seen = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)


def test_the_page_says_what_was_found_and_is_the_same_each_time():
    page = spectrum_page(spectrum_report())
    assert page == spectrum_page(spectrum_report())
    assert "condition numbers are 5.00 to 1" in page
    assert "overtake at step 42" in page
    assert "3 samples are few." in page
    assert page.count('class="curve s') == 4
    assert ">crossing<" in page


def test_what_is_not_known_is_said_so():
    report = spectrum_report(crossing=None)
    assert "is not predicted to overtake" in verdict(report)
    assert "There is no crossing." in spectrum_page(report)
    unbounded = spectrum_report(rows=[_row("plain", math.inf), _row("gated", 20.0)])
    assert "cannot be compared" in verdict(unbounded)
    assert "∞" in spectrum_page(unbounded)
    empty = spectrum_report(
        spectra={"plain": [0.0, 0.0], "gated": [1e-300, -1e-320]}, curves={"plain": [0.0], "gated": [0.0]}, steps=[0]
    )
    shown = re.sub(r"<[^>]*>", " ", spectrum_page(empty).partition("<main>")[2])
    assert not re.search(r"\bnan\b", shown, re.IGNORECASE)


def test_no_name_becomes_markup():
    bad = "<script>alert(1)</script>"
    report = spectrum_report(title=bad, facts=(bad,), notes=[bad], layers=[LayerRow(bad, bad, 1, math.nan, math.nan)])
    report = replace(report, spectra={bad: [1.0]}, rows=[_row("plain"), _row("gated"), _row(bad)])
    assert "script" not in _Tags(spectrum_page(report)).seen


def test_many_layers_are_cut_to_the_largest():
    layers = [LayerRow("model", f"layer {k}", 1, k / 100, 1.0) for k in range(60)]
    page = spectrum_page(spectrum_report(layers=layers))
    assert "layer 59" in page
    assert "layer 19<" not in page
    assert "20 more are in layers.csv" in page


@pytest.mark.parametrize(
    ("value", "words"), [(0.0, "0.00"), (1e-9, "1.00e−09"), (-2.5, "−2.50"), (123456.0, "123,000"), (9.9e9, "9.90e+09")]
)
def test_figures_have_three_digits(value, words):
    assert figure(value) == words
