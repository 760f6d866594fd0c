"""The pixel AUROC against a loop over pairs, and its histograms against the exact way."""

import itertools
import warnings

import pytest
import torch

from equipoise.dense import PixelAUROC, PixelAUROCHistogram, pixel_auroc


def _batch(seed=0, shape=(2, 4, 3, 4), levels=5):
    """Scores with many ties."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, levels, shape, generator=generator).double() / (levels - 1)
    target = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.2] = 255
    return scores, target


def _wins(scores, target):
    columns, labels = scores.movedim(1, 0).flatten(1).tolist(), target.flatten().tolist()
    found = {}
    for m, n in itertools.product(range(len(labels)), repeat=2):
        c, j = labels[m], labels[n]
        if c != j and 255 not in (c, j):
            d = columns[c][m] - columns[c][n]
            found.setdefault((c, j), []).append(1.0 if d > 0 else 0.5 if d == 0 else 0.0)
    return found


@pytest.mark.parametrize("absent", [False, True])
def test_it_is_the_loop_over_pairs_with_a_tie_as_one_half(absent):
    scores, target = _batch()
    if absent:
        target[target == 1] = 0
    wins = _wins(scores, target)
    rates = {pair: sum(w) / len(w) for pair, w in wins.items()}
    assert float(pixel_auroc(scores, target)) == pytest.approx(sum(rates.values()) / len(rates))
    one_vs_rest = [[w for (k, _), ws in wins.items() if k == c for w in ws] for c in {c for c, _ in wins}]
    wanted = sum(sum(w) / len(w) for w in one_vs_rest) / len(one_vs_rest)
    assert float(pixel_auroc(scores, target, average="ovr")) == pytest.approx(wanted)
    metric = PixelAUROC()
    metric.update(scores[:1], target[:1])
    metric.update(scores[1:], target[1:])
    matrix = metric.pair_matrix()
    assert {(c, j) for c, j in matrix.isfinite().nonzero().tolist()} == set(rates)
    for (c, j), rate in rates.items():
        assert float(matrix[c, j]) == pytest.approx(rate)


def test_a_rising_function_of_a_column_changes_nothing():
    scores, target = _batch(1)
    assert pixel_auroc(scores.exp() * 3 - 7, target).equal(pixel_auroc(scores, target))


def test_one_column_ranks_label_one():
    scores, target = _batch(2, (2, 1, 3, 4))
    target = torch.arange(24).view(2, 3, 4) % 2
    both = torch.cat([-scores, scores], 1)
    torch.testing.assert_close(pixel_auroc(scores, target), pixel_auroc(both, target))


def test_of_one_class_it_is_nan_with_a_warning():
    scores, target = _batch(3)
    with pytest.warns(UserWarning, match="fewer than two classes"):
        assert pixel_auroc(scores, torch.full_like(target, 255)).isnan()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert pixel_auroc(scores, torch.zeros_like(target)).isnan()


@pytest.mark.parametrize("average", ["ovo", "ovr"])
def test_histograms_are_exact_where_a_bin_holds_one_value_and_bracket_the_value_elsewhere(average):
    scores, target = _batch(4, (2, 3, 8, 8), levels=9)
    fine, coarse = (PixelAUROCHistogram(3, bins=bins, average=average) for bins in (64, 3))
    exact = pixel_auroc(scores, target, average=average)
    for metric in (fine, coarse):
        for k in range(2):
            metric.update(scores[k : k + 1], target[k : k + 1])
    torch.testing.assert_close(fine.compute(), exact)
    low, high = coarse.bounds()
    assert low < float(exact) < high
    assert float(coarse.compute()) == pytest.approx((low + high) / 2)


def test_a_histogram_of_one_column_is_that_of_two():
    scores, _ = _batch(5, (2, 1, 6, 6), levels=1000)
    target = torch.arange(72).view(2, 6, 6) % 2
    one, two = PixelAUROCHistogram(2, bins=4096), PixelAUROCHistogram(2, bins=4096)
    one.update(scores, target)
    two.update(torch.cat([1 - scores, scores], 1), target)
    torch.testing.assert_close(one.compute(), two.compute())
    torch.testing.assert_close(one.compute(), pixel_auroc(scores, target), atol=1e-3, rtol=0)


def test_a_histogram_refuses_logits_and_other_widths():
    scores, target = _batch(6)
    with pytest.raises(ValueError, match=r"scores must lie in \[0, 1\]"):
        PixelAUROCHistogram(4).update(scores * 3, target)
    with pytest.raises(ValueError, match="num_classes=3"):
        PixelAUROCHistogram(3).update(scores, target)
