"""Metrics against brute force and scikit-learn, on ties, extremes and missing classes."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from equipoise import ranking
from equipoise.catalog.declarations import declared
from equipoise.core.registry import CriterionKind
from equipoise.ranking import (
    Criterion,
    auroc,
    average_precision,
    multiclass_auroc,
    opauc,
    pairwise_auroc,
    partial_auroc,
    roc_curve,
    tpauc,
)

_samples = st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=40)


def _split(samples):
    scores = torch.tensor([s for s, _ in samples], dtype=torch.float64)
    target = torch.tensor([int(t) for _, t in samples])
    assume(0 < int(target.sum()) < len(target))
    return scores, target


def _binary(n=60, rate=0.3, decimals=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = (torch.rand(n, generator=generator) < rate).long()
    scores = torch.randn(n, generator=generator, dtype=torch.float64) + target
    return scores.round(decimals=decimals), target


def _mean_win(pos, neg, tie=0.5):
    difference = pos[:, None] - neg[None, :]
    return float(((difference > 0).double() + tie * (difference == 0).double()).mean())


@given(samples=_samples)
def test_auroc_is_the_share_of_pairs_won(samples):
    scores, target = _split(samples)
    assert float(auroc(scores, target)) == pytest.approx(_mean_win(scores[target == 1], scores[target == 0]), abs=1e-12)
    assert float(auroc(-scores, target)) == pytest.approx(1 - float(auroc(scores, target)), abs=1e-12)
    assert float(auroc(scores, 1 - target)) == pytest.approx(1 - float(auroc(scores, target)), abs=1e-12)


@given(samples=_samples, max_fpr=st.floats(0.05, 1.0))
def test_partial_areas_agree_with_scikit_learn(samples, max_fpr):
    scores, target = _split(samples)
    theirs = roc_auc_score(target, scores, max_fpr=max_fpr if max_fpr < 1 else None)
    mine = opauc(scores, target, max_fpr, normalization="mcclish" if max_fpr < 1 else "normalized")
    assert float(mine) == pytest.approx(theirs, abs=1e-10)
    assert float(average_precision(scores, target)) == pytest.approx(average_precision_score(target, scores), abs=1e-12)


@given(samples=_samples, max_fpr=st.floats(0.05, 1.0), seed=st.integers(0, 99))
def test_weighted_areas_agree_with_scikit_learn(samples, max_fpr, seed):
    scores, target = _split(samples)
    weight = 3 * torch.rand(len(scores), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    theirs = roc_auc_score(target, scores, sample_weight=weight)
    assert float(auroc(scores, target, sample_weight=weight)) == pytest.approx(theirs, abs=1e-12)
    if max_fpr < 1:
        theirs = roc_auc_score(target, scores, max_fpr=max_fpr, sample_weight=weight)
        mine = opauc(scores, target, max_fpr, normalization="mcclish", sample_weight=weight)
        assert float(mine) == pytest.approx(theirs, abs=1e-10)
    theirs = average_precision_score(target, scores, sample_weight=weight)
    assert float(average_precision(scores, target, sample_weight=weight)) == pytest.approx(theirs, abs=1e-12)
    # The areas do not ask for the scale of the weights.
    part = [float(tpauc(scores, target, max_fpr, 0.3, sample_weight=scale * weight)) for scale in (1, 1e-6, 1e6)]
    assert part == pytest.approx(3 * [part[0]], abs=1e-9)


@given(samples=_samples, fractions=st.tuples(st.floats(0.5, 1.0), st.floats(0.5, 1.0)), seed=st.integers(0, 99))
def test_whole_weights_are_counts_of_samples(samples, fractions, seed):
    scores, target = _split(samples)
    times = torch.randint(0, 4, (len(scores),), generator=torch.Generator().manual_seed(seed))
    given = scores.repeat_interleave(times), target.repeat_interleave(times)
    assume(min(int((given[1] == kind).sum()) for kind in (0, 1)) >= 2)
    for ties in ("half", "optimistic", "pessimistic"):
        found = partial_auroc(scores, target, *fractions, ties=ties, sample_weight=times.double())
        assert float(found) == pytest.approx(float(partial_auroc(*given, *fractions, ties=ties)), abs=1e-12)
    for metric in (auroc, average_precision, lambda s, y, **w: tpauc(s, y, fractions[0], fractions[1] / 2, **w)):
        torch.testing.assert_close(metric(scores, target, sample_weight=times.double()), metric(*given))


def test_fractional_weights_are_selected_to_the_whole_number_below():
    # Of positives 0.6 + 1.4 = 2.0, half is one: 0.6 of the lowest and 0.4 of the next. All negatives count.
    scores = torch.tensor([0.1, 0.9, 0.5], dtype=torch.float64)
    weight = torch.tensor([0.6, 1.4, 0.3], dtype=torch.float64)
    found = partial_auroc(scores, torch.tensor([1, 1, 0]), 0.5, 1.0, sample_weight=weight)
    assert float(found) == pytest.approx(0.4)
    with pytest.raises(ValueError, match=r"need at least 2 positives for pos_frac=0.5, got 1.2"):
        partial_auroc(scores, torch.tensor([1, 0, 1]), 0.5, sample_weight=0.9 * torch.tensor([1.0, 0.5, 1 / 3]))


def test_a_class_without_weight_is_absent():
    scores, target = torch.tensor([0.9, 0.1, 0.5]), torch.tensor([1, 0, 0])
    for metric in (auroc, average_precision, partial_auroc, lambda s, y, **w: opauc(s, y, 0.5, **w)):
        with pytest.raises(ValueError, match="undefined"):
            metric(scores, target, sample_weight=torch.tensor([0.0, 1.0, 1.0]), on_undefined="raise")


def test_every_label_has_the_weights_of_the_samples():
    scores, target = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.eye(20)[:, :3].flip(0).long()
    target[:5] = 1
    weight = torch.arange(20.0)
    each = auroc(scores, target, sample_weight=weight, average="none")
    for label in range(3):
        assert each[label] == auroc(scores[:, label].contiguous(), target[:, label], sample_weight=weight)


@given(samples=_samples)
def test_a_monotone_transform_and_a_permutation_change_nothing(samples):
    scores, target = _split(samples)
    order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(1))
    for metric in (
        auroc,
        average_precision,
        lambda s, y: opauc(s, y, 0.37),
        lambda s, y: tpauc(s, y, 0.6, 0.3),
    ):
        assert float(metric(scores, target)) == pytest.approx(float(metric(scores.exp(), target)), abs=1e-12)
        assert float(metric(scores, target)) == pytest.approx(float(metric(scores[order], target[order])), abs=1e-12)


@pytest.mark.parametrize(("pos_frac", "neg_frac"), [(1.0, 0.3), (0.5, 0.5), (0.29, 1.0), (0.8, 0.11)])
@pytest.mark.parametrize(("ties", "tie"), [("half", 0.5), ("optimistic", 1.0), ("pessimistic", 0.0)])
def test_the_selection_form_is_brute_force_over_the_kept_samples(pos_frac, neg_frac, ties, tie):
    scores, target = _binary(100)
    pos, neg = scores[target == 1].sort().values, scores[target == 0].sort(descending=True).values
    pos = pos[: math.floor(len(pos) * pos_frac + 1e-9)]
    neg = neg[: math.floor(len(neg) * neg_frac + 1e-9)]
    value = partial_auroc(scores, target, pos_frac, neg_frac, ties=ties)
    assert float(value) == pytest.approx(_mean_win(pos, neg, tie), abs=1e-12)


def test_selection_and_area_agree_where_counts_are_whole_and_differ_where_they_are_not():
    target = torch.tensor([1] * 10 + [0] * 20)
    scores = torch.randn(30, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + target
    whole = partial_auroc(scores, target, pos_frac=0.5, neg_frac=0.25)
    assert float(whole) == pytest.approx(float(tpauc(scores, target, max_fpr=0.25, min_tpr=0.5)), abs=1e-12)
    assert float(partial_auroc(scores, target, neg_frac=0.37)) != pytest.approx(float(opauc(scores, target, 0.37)))


def test_floor_drops_the_fractional_negative_and_the_area_keeps_its_share():
    # 0.37 · 57 = 21.09: the selection keeps 21 negatives, the area 9 % of the next.
    generator = torch.Generator().manual_seed(0)
    target = torch.tensor([1] * 20 + [0] * 57)
    scores = torch.randn(77, dtype=torch.float64, generator=generator) + target
    pos, neg = scores[:20], scores[20:].sort(descending=True).values
    assert float(partial_auroc(scores, target, neg_frac=0.37)) == pytest.approx(_mean_win(pos, neg[:21]), abs=1e-12)
    area = (21 * _mean_win(pos, neg[:21]) + 0.09 * _mean_win(pos, neg[21:22])) / 21.09
    assert float(opauc(scores, target, 0.37)) == pytest.approx(area, abs=1e-12)


def test_a_tie_block_cut_by_the_budget_differs_between_selection_and_area():
    scores, target = torch.zeros(8, dtype=torch.float64), torch.tensor([1, 0] * 4)
    assert float(partial_auroc(scores, target, neg_frac=0.5)) == 0.5
    assert float(opauc(scores, target, 0.5)) == pytest.approx(0.25)


def test_normalisations_are_three_scales_of_one_area():
    scores, target = _binary()
    raw = float(tpauc(scores, target, 0.4, 0.3, normalization="raw"))
    assert float(tpauc(scores, target, 0.4, 0.3)) == pytest.approx(raw / (0.4 * 0.7))
    chance = 0.1**2 / 2
    mcclish = 0.5 * (1 + (raw - chance) / (0.28 - chance))
    assert float(tpauc(scores, target, 0.4, 0.3, normalization="mcclish")) == pytest.approx(mcclish)


def _multiclass(n=90, classes=4, seed=0, decimals=1):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, classes, (n,), generator=generator)
    scores = torch.randn(n, classes, generator=generator, dtype=torch.float64)
    scores[torch.arange(n), target] += 1
    return scores.round(decimals=decimals), target


def test_multiclass_auroc_is_the_double_loop_over_classes():
    scores, target = _multiclass()
    matrix = pairwise_auroc(scores, target)
    for i in range(4):
        for j in range(4):
            if i == j:
                assert torch.isnan(matrix[i, j])
            else:
                wanted = _mean_win(scores[target == i, i], scores[target == j, i])
                assert float(matrix[i, j]) == pytest.approx(wanted, abs=1e-12)
    assert float(multiclass_auroc(scores, target)) == pytest.approx(float(matrix.nanmean()), abs=1e-12)
    rest = [_mean_win(scores[target == i, i], scores[target != i, i]) for i in range(4)]
    assert float(multiclass_auroc(scores, target, average="ovr")) == pytest.approx(np.mean(rest), abs=1e-12)


@pytest.mark.parametrize("average", ["ovo", "ovr"])
def test_multiclass_auroc_agrees_with_scikit_learn(average):
    scores, target = _multiclass()
    probability = scores.softmax(1)
    theirs = roc_auc_score(target, probability, multi_class=average)
    assert float(multiclass_auroc(probability, target, average=average)) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_weighted_multiclass_auroc_is_the_double_loop_over_weighted_pairs(seed):
    scores, target = _multiclass(40, seed=seed)
    weight = 3 * torch.rand(40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weight[::7] = 0

    def win(is_pos, is_neg, i):
        pos, neg = scores[is_pos, i][:, None], scores[is_neg, i][None]
        pairs = weight[is_pos][:, None] * weight[is_neg]
        return float((((pos > neg) + 0.5 * (pos == neg)) * pairs).sum() / pairs.sum())

    matrix = pairwise_auroc(scores, target, sample_weight=weight)
    for i, j in itertools.permutations(range(4), 2):
        assert float(matrix[i, j]) == pytest.approx(win(target == i, target == j, i), abs=1e-12)
    found = multiclass_auroc(scores, target, sample_weight=weight)
    assert float(found) == pytest.approx(float(matrix.nanmean()), abs=1e-12)
    rest = [win(target == i, target != i, i) for i in range(4)]
    found = multiclass_auroc(scores, target, average="ovr", sample_weight=weight)
    assert float(found) == pytest.approx(np.mean(rest), abs=1e-12)
    probability = scores.softmax(1)
    theirs = roc_auc_score(target, probability, multi_class="ovr", sample_weight=weight)
    found = multiclass_auroc(probability, target, average="ovr", sample_weight=weight)
    assert float(found) == pytest.approx(theirs, abs=1e-12)


def test_a_class_without_weight_is_left_out_of_multiclass_auroc():
    scores, target = _multiclass()
    with pytest.warns(UserWarning, match=r"classes \[2\] have no samples"):
        value = multiclass_auroc(scores, target, sample_weight=(target != 2).double())
    assert value == multiclass_auroc(scores[target != 2], target[target != 2])


def test_absent_classes_are_left_out_with_a_warning_or_refused():
    scores, target = _multiclass()
    kept = target != 2
    with pytest.warns(UserWarning, match=r"classes \[2\] have no samples"):
        value = multiclass_auroc(scores[kept], target[kept])
    matrix = pairwise_auroc(scores[kept], target[kept])
    assert float(value) == pytest.approx(float(matrix.nanmean()))
    with pytest.raises(ValueError, match=r"classes \[2\]"):
        multiclass_auroc(scores[kept], target[kept], on_undefined="raise")


def test_multilabel_scores_are_judged_by_column():
    scores, target = _binary(60)
    both = torch.stack([scores, scores.flip(0)], 1), torch.stack([target, target], 1)
    each = auroc(*both, average="none")
    assert each[0] == auroc(scores, target)
    assert each[1] == auroc(scores.flip(0), target)
    assert auroc(*both) == each.mean()


@pytest.mark.parametrize("metric", [lambda s, y, **k: opauc(s, y, 0.3, **k), average_precision])
def test_partial_and_precision_metrics_take_labels_too(metric):
    scores, target = _binary(60)
    both = torch.stack([scores, -scores], 1), torch.stack([target, target], 1)
    each = metric(*both, average="none")
    assert each.tolist() == [float(metric(scores, target)), float(metric(-scores, target))]
    assert metric(*both) == each.mean()


def test_a_label_without_positives_is_named_and_left_out():
    scores, target = _binary(60)
    both = torch.stack([scores, scores], 1), torch.stack([target, torch.zeros_like(target)], 1)
    with pytest.warns(UserWarning, match=r"AUROC of labels \[1\] is undefined"):
        each = auroc(*both, average="none")
    assert each.isnan().tolist() == [False, True]
    assert auroc(*both) == each[0]
    with pytest.raises(ValueError, match=r"labels \[1\]"):
        auroc(*both, on_undefined="raise")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("decimals", [0, 2, 12])
def test_multiclass_ties_are_halves_in_every_precision(dtype, decimals):
    scores, target = _multiclass(300, 7, decimals=decimals)
    scores = scores.to(dtype)
    for i, j in ((0, 1), (5, 2)):
        wanted = _mean_win(scores[target == i, i], scores[target == j, i])
        assert float(pairwise_auroc(scores, target)[i, j]) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize(
    "metric",
    [auroc, lambda s, y, **k: opauc(s, y, 0.3, **k), lambda s, y, **k: tpauc(s, y, 0.3, 0.2, **k), partial_auroc],
)
def test_one_class_is_nan_once_warned_or_an_error(metric):
    scores, target = torch.tensor([0.1, 0.2]), torch.tensor([1, 1])
    with pytest.warns(UserWarning, match="undefined"):
        assert torch.isnan(metric(scores, target))
    assert torch.isnan(metric(scores, target))
    with pytest.raises(ValueError, match="undefined"):
        metric(scores, target, on_undefined="raise")


def test_average_precision_needs_a_positive_but_no_negative():
    scores = torch.tensor([0.1, 0.2])
    assert average_precision(scores, torch.tensor([1, 1])) == 1
    with pytest.warns(UserWarning, match="average precision is undefined"):
        assert torch.isnan(average_precision(scores, torch.tensor([0, 0])))


def test_curves_of_one_class_are_refused():
    for curve in (roc_curve, ranking.precision_recall_curve):
        with pytest.raises(ValueError, match="0 positives and 2 negatives"):
            curve(torch.tensor([0.1, 0.2]), torch.tensor([0, 0]))


def test_a_selection_that_keeps_nothing_says_how_many_are_needed():
    with pytest.raises(ValueError, match=r"floor\(neg_frac\*n_neg\)=0: need at least 10 negatives .*, got 2"):
        partial_auroc(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1, 0, 0]), neg_frac=0.1)
    with pytest.raises(ValueError, match=r"floor\(pos_frac\*n_pos\)=0: need at least 4 positives .*, got 1"):
        partial_auroc(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1, 0, 0]), pos_frac=0.29)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_precision_is_ranked_exactly(dtype):
    scores, target = _binary(200, decimals=0)
    value = auroc(scores.to(dtype), target)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert float(value) == pytest.approx(roc_auc_score(target, scores), abs=1e-6)


def test_scores_of_a_model_in_training_need_no_detaching():
    scores = torch.tensor([0.1, 0.9], requires_grad=True)
    assert auroc(scores, torch.tensor([0, 1])) == 1
    assert average_precision(scores, torch.tensor([0, 1])) == 1


def test_extreme_scores_are_ranked():
    scores = torch.tensor([-3e38, 3e38, 0.0, 1e-45, -0.0])
    assert float(auroc(scores, torch.tensor([0, 1, 0, 1, 0]))) == 1.0


def test_curves_have_the_corners_of_scikit_learn():
    scores, target = _binary(50)
    fpr, tpr, thresholds = sklearn_roc_curve(target, scores, drop_intermediate=False)
    for mine, theirs in zip(roc_curve(scores, target), (fpr, tpr, thresholds), strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs)
    precision, recall, _ = ranking.precision_recall_curve(scores, target)
    theirs = precision_recall_curve(target, scores)
    np.testing.assert_allclose(precision.flip(0).numpy(), theirs[0][:-1])
    np.testing.assert_allclose(recall.flip(0).numpy(), theirs[1][:-1])


@pytest.mark.parametrize("seed", range(3))
def test_weighted_curves_have_the_corners_of_scikit_learn(seed):
    scores, target = _binary(50, seed=seed)
    weight = 3 * torch.rand(50, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weight[::5] = 0
    theirs = sklearn_roc_curve(target, scores, sample_weight=weight, drop_intermediate=False)
    for mine, wanted in zip(roc_curve(scores, target, sample_weight=weight), theirs, strict=True):
        np.testing.assert_allclose(mine.numpy(), wanted, atol=1e-12)
    mine = ranking.precision_recall_curve(scores, target, sample_weight=weight)
    theirs = precision_recall_curve(target, scores, sample_weight=weight)
    np.testing.assert_allclose(mine[0].flip(0).numpy(), theirs[0][:-1], atol=1e-12)
    np.testing.assert_allclose(mine[1].flip(0).numpy(), theirs[1][:-1], atol=1e-12)
    np.testing.assert_array_equal(mine[2].flip(0).numpy(), theirs[2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: auroc(torch.tensor([math.nan, 0.0]), torch.tensor([0, 1])), "NaN"),
        (lambda: auroc(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0])), "long"),
        (lambda: auroc(torch.zeros(2), torch.tensor([0, 3])), "value 3"),
        (lambda: opauc(torch.zeros(2), torch.tensor([0, 1]), 5), "did you mean 0.05"),
        (lambda: tpauc(torch.zeros(2), torch.tensor([0, 1]), 0.5, 1.0), "min_tpr"),
        (lambda: opauc(torch.zeros(2), torch.tensor([0, 1]), 0.5, normalization="sklearn"), "'mcclish'"),
        (lambda: partial_auroc(torch.zeros(2), torch.tensor([0, 1]), ties="random"), "ties='random'"),
        (lambda: partial_auroc(torch.zeros(2), torch.tensor([0, 1]), 0.0), "pos_frac=0.0"),
        (lambda: partial_auroc(torch.zeros(2), torch.tensor([0, 1]), 1.0, 29), "neg_frac=29.*mean 0.29"),
        (lambda: auroc(torch.zeros(2), torch.tensor([0, 1]), on_undefined="zero"), "on_undefined='zero'"),
        (lambda: auroc(torch.zeros(2), torch.tensor([0, 1]), average="micro"), "average='micro'"),
        (lambda: multiclass_auroc(torch.zeros(2), torch.tensor([0, 1])), r"shape \(n, classes\)"),
        (lambda: multiclass_auroc(torch.zeros(2, 3), torch.tensor([0, 3])), "value 3"),
        (lambda: multiclass_auroc(torch.zeros(2, 3), torch.tensor([0, 1]), average="ova"), "average='ova'"),
        (lambda: auroc(torch.zeros(0), torch.zeros(0, dtype=torch.long)), "empty"),
        (lambda: auroc(torch.zeros(2, 3), torch.tensor([0, 1])), "must both have shape"),
        (lambda: auroc(torch.zeros(2), torch.zeros(2, 3).long()), "must both have shape"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(call, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        call()


class TestCriterion:
    @pytest.mark.parametrize(
        ("criterion", "metric"),
        [
            (Criterion("auroc"), auroc),
            (Criterion("ap"), average_precision),
            (Criterion("opauc", 0.3), lambda s, y: opauc(s, y, 0.3)),
            (Criterion("tpauc", 0.3, 0.4), lambda s, y: tpauc(s, y, 0.3, 0.4)),
        ],
    )
    def test_it_is_the_metric_of_its_name(self, criterion, metric):
        scores, target = _binary()
        assert criterion(scores, target) == metric(scores, target)

    def test_multiclass_criteria_judge_columns(self):
        scores, target = _multiclass()
        assert Criterion("mauc")(scores, target) == multiclass_auroc(scores, target)
        assert Criterion("ovr_auroc")(scores, target) == multiclass_auroc(scores, target, average="ovr")

    @pytest.mark.parametrize("kind", declared(CriterionKind).values(), ids=lambda kind: kind.name)
    def test_a_weight_of_two_is_a_sample_given_twice(self, kind):
        bounds = {"max_fpr": 0.3 if kind.uses_max_fpr else None, "min_tpr": 0.2 if kind.uses_min_tpr else None}
        criterion = Criterion(kind.name, **bounds, k=2 if kind.uses_k else None)
        scores, target = _multiclass() if kind.multiclass else _binary()
        times = torch.arange(len(scores)) % 3
        found = criterion(scores, target, times.double())
        given = torch.arange(len(scores)).repeat_interleave(times)
        torch.testing.assert_close(found, criterion(scores[given], target[given]))
        assert found != criterion(scores, target)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("opauc",), "needs max_fpr"),
            (("tpauc", 0.1), "needs min_tpr"),
            (("auroc", 0.1), "does not use max_fpr"),
            (("opauc", 0.1, 0.5), "'tpauc'"),
            (("opauc", 5), "max_fpr=5"),
            (("f1",), "metric='f1'"),
        ],
    )
    def test_a_bound_too_few_or_too_many_is_refused(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            Criterion(*arguments)
