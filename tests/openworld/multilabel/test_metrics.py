import math

import pytest
import torch

from equipoise.openworld.multilabel.labelwise import class_map, hamming_loss
from equipoise.openworld.multilabel.metrics import (
    TKPR,
    MultilabelRankingMetrics,
    multilabel_ranking_metrics,
    multilabel_recall_curve,
    tkpr,
    tkpr_per_sample,
)


def _draw(seed=0, n=12, c=7, share=0.4):
    g = torch.Generator().manual_seed(seed)
    scores = torch.randn(n, c, generator=g, dtype=torch.float64).round(decimals=seed % 2)
    return scores, (torch.rand(n, c, generator=g) < share).long(), torch.rand(n, c, generator=g) < 0.9


def _tkpr_loop(scores, target, k, normalizer):
    values = []
    for s, y in zip(scores.tolist(), target.tolist(), strict=True):
        n, ordered = sum(y), [*sorted(s, reverse=True), -math.inf]
        if n:
            shown = min(n, k)
            alpha = {"one": 1, "num_relevant": n, "ideal": shown * (2 * k + 1 - shown) / (2 * k)}[normalizer]
            values.append(sum(s[c] > ordered[j] for c in range(len(s)) if y[c] for j in range(1, k + 1)) / (alpha * k))
    return sum(values) / len(values)


def _metrics_loop(scores, target, k, first):
    """Numerator and divisor of every measure and sample: (measures, 2, samples)."""
    rows = []
    for s, y in zip(scores.tolist(), target.tolist(), strict=True):
        n, c = sum(y), len(y)
        if not n:
            continue
        order = sorted(range(c), key=lambda j: (-s[j], y[j] if first == "pessimistic" else -y[j]))
        rel = [y[j] for j in order]
        hits = sum(rel[:k])
        pairs = [(s[i], s[j]) for i in range(c) for j in range(c) if y[i] and not y[j]]
        rows.append(
            {
                "precision": (hits, k),
                "recall": (hits, n),
                "average_precision": (sum(rel[j] * sum(rel[: j + 1]) / (j + 1) for j in range(k)), min(n, k)),
                "ndcg": (
                    sum(rel[j] / math.log2(j + 2) for j in range(k)),
                    sum(1 / math.log2(j + 2) for j in range(min(n, k))),
                ),
                "ranking_loss": (sum(a <= b for a, b in pairs), len(pairs)),
                "ranking_loss_half_ties": (sum((a < b) + (a == b) / 2 for a, b in pairs), len(pairs)),
                "coverage": (max(j + 1 for j in range(c) if rel[j]), 1),
                "one_error": (1 - rel[0], 1),
            }
        )
    return {name: torch.tensor([row[name] for row in rows], dtype=torch.float64).T for name in rows[0]}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("normalizer", ["one", "num_relevant", "ideal"])
def test_tkpr_is_its_indicator_sum(seed, normalizer):
    scores, target, _ = _draw(seed)
    for k in (1, 3, 7):
        found = tkpr(scores, target, k, normalizer=normalizer)
        assert float(found) == pytest.approx(_tkpr_loop(scores, target, k, normalizer), abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ties", ["pessimistic", "optimistic"])
def test_the_measures_are_their_definitions(seed, ties):
    scores, target, _ = _draw(seed)
    target[0], target[1] = 0, 1
    for k in (1, 3, 7):
        found = multilabel_ranking_metrics(scores, target, k, ties=ties)
        pooled = multilabel_ranking_metrics(scores, target, k, ties=ties, average="micro")
        for name, (share, divisor) in _metrics_loop(scores, target, k, ties).items():
            assert float(found[name]) == pytest.approx(float((share / divisor).nanmean()), abs=1e-12), name
            assert float(pooled[name]) == pytest.approx(float(share.sum() / divisor.sum()), abs=1e-12), name


@pytest.mark.parametrize("seed", range(4))
def test_micro_tkpr_is_the_area_under_pooled_recall(seed):
    scores, target, _ = _draw(seed)
    scores, target[0] = scores + torch.arange(7) * 1e-6, 0
    recalls = [multilabel_ranking_metrics(scores, target, k, average="micro")["recall"] for k in (1, 2, 3, 4)]
    torch.testing.assert_close(tkpr(scores, target, 4, average="micro"), torch.stack(recalls).mean())
    # Divided by one, a sample counts once either way.
    alike = [tkpr(scores, target, 4, normalizer="one", average=average) for average in ("micro", "samples")]
    assert alike[0] == alike[1]


@pytest.mark.parametrize("make", [TKPR, MultilabelRankingMetrics])
def test_micro_sums_are_pooled_over_batches_and_weights(make):
    scores, target, mask = _draw(1, n=30)
    times = torch.arange(30) % 3
    metric, whole = make(3, average="micro"), make(3, average="micro")
    for rows in torch.arange(30).split(11):
        metric.update(scores[rows], target[rows], mask[rows], times[rows].double())
    whole.update(*(x.repeat_interleave(times, 0) for x in (scores, target, mask)))
    torch.testing.assert_close(metric.compute(), whole.compute())


def test_several_k_of_tkpr_are_those_one_by_one():
    scores, target, mask = _draw(2)
    for ties in ("strict", "half", "optimistic"):
        metric = TKPR((5, 2), ties=ties)
        metric.update(scores, target, mask)
        found = metric.compute()
        assert list(found) == ["tkpr@5", "tkpr@2"]
        for k in (5, 2):
            torch.testing.assert_close(found[f"tkpr@{k}"], tkpr(scores, target, k, ties=ties, mask=mask))
    with pytest.raises(ValueError, match="at least one K"):
        TKPR(())


def test_several_k_come_from_one_pass():
    scores, target, mask = _draw(1)
    found = multilabel_ranking_metrics(scores, target, (2, 5), full=False, mask=mask)
    for k in (2, 5):
        for name, value in multilabel_ranking_metrics(scores, target, k, full=False, mask=mask).items():
            assert float(found[f"{name}@{k}"]) == float(value)


def test_masked_labels_are_as_if_they_were_not_there():
    scores, target, _ = _draw(3)
    mask = torch.ones_like(target, dtype=torch.bool)
    mask[:, 2] = False
    cut = [0, 1, 3, 4, 5, 6]
    assert float(tkpr(scores, target, 3, mask=mask)) == float(tkpr(scores[:, cut], target[:, cut], 3))
    found = multilabel_ranking_metrics(scores, target, 3, mask=mask)
    for name, value in multilabel_ranking_metrics(scores[:, cut], target[:, cut], 3).items():
        assert float(found[name]) == float(value)


@pytest.mark.parametrize("marked", [-1, -100, 2, math.nan])
def test_a_marked_label_is_one_outside_the_mask(marked):
    scores, target, mask = _draw(3)
    given = torch.where(mask, target.double() if math.isnan(marked) else target, marked)
    option = {} if math.isnan(marked) else {"ignore_index": marked}
    functions = [
        lambda y, **unknown: tkpr(scores, y, 3, **unknown),
        lambda y, **unknown: multilabel_recall_curve(scores, y, 3, **unknown),
        lambda y, **unknown: multilabel_ranking_metrics(scores, y, (1, 3), **unknown),
        lambda y, **unknown: class_map(scores, y, **unknown),
        lambda y, **unknown: class_map(scores, y, average="micro", **unknown),
        lambda y, **unknown: hamming_loss(scores, y, **unknown),
    ]
    for function in functions:
        torch.testing.assert_close(function(given, **option), function(target, mask=mask), rtol=0, atol=0)
    for make in (TKPR, MultilabelRankingMetrics):
        metric, wanted = make(3, **option), make(3)
        metric.update(scores, given)
        wanted.update(scores, target, mask)
        torch.testing.assert_close(metric.compute(), wanted.compute(), rtol=0, atol=0)
    with pytest.raises(ValueError, match="target holds the value"):
        tkpr(scores, given + 7, 3, **option)


def test_what_is_a_label_marks_no_unknown_one():
    scores, target, _ = _draw()
    with pytest.raises(ValueError, match="ignore_index=1 is a label"):
        tkpr(scores, target, 3, ignore_index=1)


def test_tkpr_is_the_area_under_recall_and_ideal_is_one_for_a_perfect_ranking():
    scores, target, _ = _draw(0)
    scores += torch.arange(7) * 1e-6
    curve = multilabel_recall_curve(scores, target, 4)
    torch.testing.assert_close(curve.mean(), tkpr(scores, target, 4))
    perfect = target.double() - torch.arange(7) / 100
    assert float(tkpr(perfect, target, 3, normalizer="ideal")) == 1


def test_tie_policies_are_in_order():
    scores, target = torch.zeros(1, 4), torch.tensor([[1, 0, 0, 0]])
    values = [float(tkpr(scores, target, 3, ties=ties)) for ties in ("strict", "half", "optimistic")]
    assert values == [0, 0.5, 1]


def test_batches_are_judged_as_one_and_the_skipped_are_counted():
    scores, target, mask = _draw(1)
    target[3] = 0
    weight = torch.rand(12, generator=torch.Generator().manual_seed(0))
    one, many = TKPR(3), MultilabelRankingMetrics((1, 3))
    for rows in torch.arange(12).split(5):
        for metric in (one, many):
            metric.update(scores[rows], target[rows], mask[rows], weight[rows])
    torch.testing.assert_close(one.compute(), tkpr(scores, target, 3, mask=mask, sample_weight=weight))
    wanted = multilabel_ranking_metrics(scores, target, (1, 3), mask=mask, sample_weight=weight)
    torch.testing.assert_close(many.compute(), wanted)
    empty = int(((target == 1) & mask).sum(1).eq(0).sum())
    assert int(one.num_skipped) == int(many.num_skipped) == empty >= 1


def test_nothing_to_judge_is_nan_or_an_error():
    scores, target = torch.rand(2, 3), torch.zeros(2, 3, dtype=torch.long)
    with pytest.warns(UserWarning, match="undefined, hence NaN.*: tkpr"):
        assert math.isnan(tkpr(scores, target, 2))
    with pytest.raises(ValueError, match=r"2 sample\(s\) of target have no relevant label, the first at index 0"):
        tkpr(scores, target, 2, empty_target="raise")
    # A sample of relevant labels alone has no pair, which no target that is not empty can be blamed for.
    with pytest.warns(UserWarning, match=": ranking_loss, ranking_loss_half_ties$"):
        found = multilabel_ranking_metrics(scores, 1 - target, 2, empty_target="raise")
    assert float(found["recall"]) == 2 / 3


def test_class_map_is_scikit_learns_and_hamming_counts_labels():
    from sklearn.metrics import average_precision_score

    scores, target, _ = _draw(1, n=40)
    assert float(class_map(scores, target)) == pytest.approx(average_precision_score(target, scores, average="macro"))
    pooled = average_precision_score(target, scores, average="micro")
    assert float(class_map(scores, target, average="micro")) == pytest.approx(pooled)
    assert float(hamming_loss(scores, target)) == pytest.approx(float(((scores >= 0) != target).double().mean()))


def test_class_map_of_labels_known_in_part_is_torchmetrics():
    from torchmetrics.functional.classification import multilabel_average_precision

    scores, target, mask = _draw(0, n=40)
    given = torch.where(mask, target, -1)
    for average in ("macro", "micro"):
        theirs = multilabel_average_precision(scores.sigmoid(), given, 7, average, ignore_index=-1)
        assert float(class_map(scores, given, average=average, ignore_index=-1)) == pytest.approx(float(theirs))


def test_shares_are_exact_in_float64():
    scores, target = torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[1, 0, 1]])
    assert float(hamming_loss(scores, target)) == 1 / 3
    assert float(multilabel_recall_curve(scores, torch.tensor([[1, 1, 1]]), 1)) == 1 / 3
    for dtype in (torch.float32, torch.float64):
        assert float(tkpr(scores.to(dtype), target, 3)) == 2 / 3
        assert float(multilabel_ranking_metrics(scores.to(dtype), target, 3)["precision"]) == 2 / 3


def test_midranks_of_long_lists_are_summed_exactly():
    """The sum of their half places exceeds the 24 bits of float32."""
    k = 6001
    scores = -torch.arange(k).float()
    scores[1] = 0
    found = tkpr(scores[None], torch.ones(1, k), k, normalizer="one", ties="half")
    assert float(found) == (k * (k + 1) / 2) / k


def test_a_list_is_not_longer_than_there_are_labels(plain_inputs):
    scores, target, _ = _draw()
    for function in (tkpr_per_sample, multilabel_recall_curve, multilabel_ranking_metrics):
        with pytest.raises(ValueError, match="k=8 must be at most 7"):
            function(scores, target, 8)
    for several in (multilabel_ranking_metrics, lambda scores, target, k: MultilabelRankingMetrics(k)):
        with pytest.raises(ValueError, match="at least one K"):
            several(scores, target, ())
