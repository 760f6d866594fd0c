import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equipoise.openworld import AUTKC, autkc, top_k_accuracies, topk_accuracy
from equipoise.openworld.topk.metrics import true_label_rank


def _by_order(scores, label, k):
    """Top-k accuracy of one sample over all orders of its tied labels: worst, and mean."""
    labels = range(len(scores))
    found = []
    for order in itertools.permutations(labels):
        ranked = sorted(order, key=lambda j: -scores[j])
        found.append(label in ranked[:k])
    return min(found), sum(found) / len(found)


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=6),
    st.integers(0, 3),
    st.integers(1, 4),
)
def test_top_k_accuracy_is_that_of_the_orders_of_ties(rows, label, k):
    scores, target = torch.tensor(rows, dtype=torch.float64), torch.full((len(rows),), label)
    worst, mean = zip(*(_by_order(row, label, k) for row in rows), strict=True)
    assert float(topk_accuracy(scores, target, k)) == pytest.approx(sum(worst) / len(rows))
    assert float(topk_accuracy(scores, target, k, ties="half")) == pytest.approx(sum(mean) / len(rows))


@pytest.mark.parametrize("ties", ["strict", "half"])
def test_autkc_is_the_mean_of_the_curve_and_never_above_its_end(ties):
    g = torch.Generator().manual_seed(0)
    scores, target = torch.randint(0, 5, (40, 9), generator=g).double(), torch.randint(9, (40,), generator=g)
    before = 0.0
    for k in range(1, 10):
        value = float(autkc(scores, target, k, ties=ties))
        by_k = [float(topk_accuracy(scores, target, one, ties=ties)) for one in range(1, k + 1)]
        assert value == pytest.approx(sum(by_k) / k)
        assert before - 1e-12 <= value <= by_k[-1] + 1e-12
        before = value
    assert float(autkc(scores, target, 1)) == float(topk_accuracy(scores, target, 1))


def test_autkc_is_the_definition_sample_by_sample():
    g = torch.Generator().manual_seed(1)
    scores, target = torch.randint(0, 4, (30, 7), generator=g).double(), torch.randint(7, (30,), generator=g)
    for k in range(1, 8):
        ordered = torch.cat([scores.sort(1, descending=True).values, torch.full((30, 1), -math.inf)], 1)
        own = scores.gather(1, target[:, None])
        expected = (own > ordered[:, 1 : k + 1]).double().mean()
        assert float(autkc(scores, target, k)) == pytest.approx(float(expected))


def test_a_constant_scorer_gets_nothing_but_the_last_place():
    scores, target = torch.zeros(5, 4), torch.tensor([0, 1, 2, 3, 0])
    assert float(autkc(scores, target, 3)) == 0
    assert float(autkc(scores, target, 4)) == 0.25
    torch.testing.assert_close(
        top_k_accuracies(scores, target, ties="half"), torch.tensor([0.25, 0.5, 0.75, 1.0], dtype=torch.float64)
    )


def test_the_order_of_classes_and_any_rising_function_of_the_scores_change_nothing():
    g = torch.Generator().manual_seed(2)
    scores, target = torch.randn(30, 6, generator=g), torch.randint(6, (30,), generator=g)
    order = torch.randperm(6, generator=g)
    assert autkc(scores[:, order], order.argsort()[target], 3) == autkc(scores, target, 3)
    assert autkc(scores.exp(), target, 3) == autkc(scores, target, 3)


def test_infinite_scores_and_half_precision_have_ranks():
    scores = torch.tensor([[math.inf, 0.0, -math.inf]])
    assert true_label_rank(scores, torch.tensor([2])).tolist() == [2]
    assert true_label_rank(scores.bfloat16(), torch.tensor([0])).tolist() == [0]
    assert true_label_rank(torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([0]), ties="half").tolist() == [0.5]


@pytest.mark.parametrize("ties", ["strict", "half"])
def test_the_metric_adds_up_batches(ties):
    g = torch.Generator().manual_seed(3)
    scores, target = torch.randint(0, 5, (50, 7), generator=g).float(), torch.randint(7, (50,), generator=g)
    metric = AUTKC((1, 4), ties=ties)
    for rows in torch.arange(50).split(13):
        metric.update(scores[rows], target[rows])
    found = metric.compute()
    for k in (1, 4):
        assert float(found[f"autkc@{k}"]) == pytest.approx(float(autkc(scores, target, k, ties=ties)))
        assert float(found[f"top_{k}_accuracy"]) == pytest.approx(float(topk_accuracy(scores, target, k, ties=ties)))


def test_a_curve_wants_samples_first():
    with pytest.raises(ValueError, match="has seen no samples"):
        AUTKC(3).curve()


def test_a_list_is_no_longer_than_there_are_classes(plain_inputs):
    with pytest.raises(ValueError, match="k=4 must be at most 3"):
        autkc(torch.randn(2, 3), torch.tensor([0, 1]), 4)
    with pytest.raises(ValueError, match="no value"):
        AUTKC(())


@pytest.mark.parametrize("ties", ["strict", "half"])
def test_a_weight_of_two_is_a_sample_given_twice(ties):
    scores, target = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)).round(), torch.arange(30) % 4
    times = torch.arange(30) % 3
    given = torch.arange(30).repeat_interleave(times)
    for metric in (topk_accuracy, autkc):
        found = metric(scores, target, 2, ties=ties, sample_weight=times.float())
        torch.testing.assert_close(found, metric(scores[given], target[given], 2, ties=ties))


def test_weights_that_are_all_zero_are_refused(plain_inputs):
    with pytest.raises(ValueError, match="sample_weight is 0 for every sample"):
        autkc(torch.zeros(2, 3), torch.tensor([0, 1]), 2, sample_weight=torch.zeros(2))
