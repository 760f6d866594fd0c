import json

import numpy as np
import pytest
from scipy import stats

from equipoise.report.rank_page import rank_page
from equipoise.report.ranks import (
    as_plain,
    compare_ranks,
    draw_critical_difference,
    friedman_p_value,
    markdown_table,
    nemenyi_quantile,
    rank_rows,
    rank_sentence,
)

# Demšar 2006, table 5.
QUANTILES = {2: 1.960, 3: 2.343, 4: 2.569, 5: 2.728, 6: 2.850, 7: 2.949, 8: 3.031, 9: 3.102, 10: 3.164}


@pytest.mark.parametrize("methods", QUANTILES)
def test_quantiles_are_the_published_ones(methods):
    assert nemenyi_quantile(methods) == pytest.approx(QUANTILES[methods], abs=1.1e-3)


def test_the_corrected_friedman_test_is_a_function_of_the_plain_one():
    values = np.random.default_rng(0).normal(size=(12, 5)) + np.arange(5) / 3
    chi_square = stats.friedmanchisquare(*values.T).statistic
    statistic = 11 * chi_square / (12 * 4 - chi_square)
    found = friedman_p_value(stats.rankdata(-values, axis=1))
    assert found == pytest.approx(stats.f.sf(statistic, 4, 44))
    rounded = np.round(values)
    chi_square = stats.friedmanchisquare(*rounded.T).statistic
    found = friedman_p_value(stats.rankdata(-rounded, axis=1))
    assert found == pytest.approx(stats.f.sf(11 * chi_square / (48 - chi_square), 4, 44))


def test_no_difference_and_always_the_same_order_are_the_ends():
    assert friedman_p_value(np.full((6, 3), 2.0)) == 1.0
    assert friedman_p_value(np.tile([1.0, 2.0, 3.0], (6, 1))) == 0.0


def test_ranks_wins_and_failures_by_hand():
    values = np.array([[0.9, 0.8, np.nan], [0.7, 0.7, 0.9], [0.5, 0.6, 0.4], [0.8, 0.9, 0.7]])
    found = compare_ranks(values, ["a", "b", "c"], reference="b")
    assert found.methods == ("b", "a", "c")
    assert found.average_rank == pytest.approx(((2 + 2.5 + 1 + 1) / 4, (1 + 2.5 + 2 + 2) / 4, (3 + 1 + 3 + 3) / 4))
    assert found.mean[2] == pytest.approx((0.9 + 0.4 + 0.7) / 3)
    assert (found.against["a"].wins, found.against["a"].losses) == (1, 2)
    assert (found.against["c"].wins, found.against["c"].losses) == (1, 3)
    assert found.against["a"].mean_gain == pytest.approx((0.1 + 0 - 0.1 - 0.1) / 4)
    assert found.critical_difference == pytest.approx(2.343 * np.sqrt(3 * 4 / (6 * 4)), abs=1e-2)


def test_p_values_are_corrected_for_the_number_of_comparisons():
    generator = np.random.default_rng(1)
    base = generator.normal(size=20)
    values = np.stack([base, base + 0.5 + 0.3 * generator.normal(size=20), base + 0.1 * generator.normal(size=20)], 1)
    found = compare_ranks(values, ["base", "better", "same"], reference="base")
    plain = {name: stats.wilcoxon(values[:, k] - base).pvalue for k, name in ((1, "better"), (2, "same"))}
    assert found.against["better"].p_value == pytest.approx(2 * plain["better"])
    assert found.against["same"].p_value == pytest.approx(max(plain["same"], 2 * plain["better"]))
    assert compare_ranks(np.ones((4, 2)), ["a", "b"], reference="a").against["b"].p_value == 1.0


def test_methods_that_are_not_told_apart_are_joined_once():
    values = np.stack([np.linspace(0, 1, 30) + shift for shift in (0.03, 0.02, 0.01, 0.0)], 1)
    found = compare_ranks(values, list("abcd"), reference="a")
    # Ranks 1, 2, 3, 4; with 30 sets the critical difference is 0.86.
    assert found.groups() == []
    noisy = compare_ranks(np.random.default_rng(0).normal(size=(8, 6)), list("abcdef"), reference="a")
    for first, last in noisy.groups():
        assert noisy.average_rank[last] - noisy.average_rank[first] < noisy.critical_difference
    assert noisy.groups() == [(0, 5)]


def test_the_table_and_the_page_name_every_method(tmp_path):
    values = np.random.default_rng(0).normal(size=(9, 4))
    found = compare_ranks(values, ["one", "two", "<b>three", "four|4"], reference="two")
    text = markdown_table(rank_rows(found))
    assert [line.split(" | ")[0][2:].replace("\\|", "|") for line in text.splitlines()[2:]] == list(found.methods)
    draw_critical_difference(found, tmp_path / "cd.svg", "AUROC")
    page = rank_page("Ranks", ["a fact"], {"AUROC": found}, {"AUROC": tmp_path / "cd.svg"}, [["method"], ["one"]])
    assert "<td>&lt;b&gt;three</td>" in page
    assert "<b>three" not in page
    assert rank_sentence(found).replace("'", "&#x27;") in page or rank_sentence(found) in page
    assert 'src="data:image/svg+xml;base64,' in page


def test_the_diagram_is_a_function_of_the_comparison(tmp_path):
    found = compare_ranks(np.random.default_rng(0).normal(size=(9, 4)), list("abcd"), reference="a")
    for name in ("one.svg", "two.svg", "one.png"):
        draw_critical_difference(found, tmp_path / name, "AUROC")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert (tmp_path / "one.png").stat().st_size > 3000


def test_labels_of_many_methods_do_not_overlap(tmp_path, monkeypatch):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    boxes = []

    def measured(figure, path, **options):
        FigureCanvasAgg(figure).draw()
        renderer = figure.canvas.get_renderer()
        boxes.extend(text.get_window_extent(renderer) for text in figure.axes[0].texts if "method" in text.get_text())

    monkeypatch.setattr(Figure, "savefig", measured)
    values = np.random.default_rng(0).normal(size=(40, 18))
    names = [f"method number {k} of very many" for k in range(18)]
    draw_critical_difference(compare_ranks(values, names, reference=names[0]), tmp_path / "cd.png", "AUROC")
    assert len(boxes) == 18
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])


def test_a_method_that_always_failed_is_plain_json():
    values = np.array([[0.9, np.nan], [0.8, np.nan], [0.7, np.nan]])
    found = compare_ranks(values, ["a", "b"], reference="a")
    text = json.loads(json.dumps(as_plain(found), allow_nan=False))
    assert text["methods"][1] == {"method": "b", "average_rank": 2.0, "mean": None}
    assert text["against_reference"]["b"]["mean_gain"] is None
    assert text["against_reference"]["b"]["losses"] == 3


@pytest.mark.parametrize(
    ("values", "reference", "message"),
    [
        (np.zeros((1, 2)), "a", "at least two methods and two data sets, got 2 and 1"),
        (np.zeros((3, 2)), "z", "reference='z' is none of the methods 'a', 'b'"),
    ],
)
def test_too_little_to_compare_is_said(values, reference, message):
    with pytest.raises(ValueError, match=message):
        compare_ranks(values, ["a", "b"], reference=reference)
