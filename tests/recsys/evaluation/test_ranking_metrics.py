"""Metrics of full ranking against loops over users, places and, for ties, all orders of the tied items."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score, roc_auc_score

from equipoise.core.validate import reset_warnings
from equipoise.data.interactions.matrix import Interactions
from equipoise.recsys import Conventions, RankingMetrics, metrics_per_user, ranking_metrics


def _of_list(order, relevant, k, others):
    """The metrics of one list by their definitions."""
    hits = [item in relevant for item in order]
    places = [place for place, hit in enumerate(hits, 1) if hit]
    inside = [place for place in places if place <= k]
    best = sum(1 / math.log2(p + 1) for p in range(1, min(k, len(relevant)) + 1))
    precisions = {p: sum(hits[:p]) / p for p in places}
    right = sum(sum(not hit for hit in hits[place:]) for place in places)
    return {
        "precision": len(inside) / k,
        "recall": len(inside) / len(relevant),
        "hit_rate": float(bool(inside)),
        "ndcg": sum(1 / math.log2(p + 1) for p in inside) / best,
        "map": sum(precisions[p] for p in inside) / min(k, len(relevant)),
        "mrr": 1 / places[0] if places[0] <= k else 0.0,
        "whole map": sum(precisions.values()) / len(relevant),
        "whole mrr": 1 / places[0],
        "auc": right / (len(relevant) * others) if others else math.nan,
    }


def _orders(scores, candidates):
    """All orders of the candidates in which no score stands before a greater one."""
    levels = sorted({scores[item] for item in candidates}, reverse=True)
    blocks = [[item for item in candidates if scores[item] == level] for level in levels]
    for parts in itertools.product(*(itertools.permutations(block) for block in blocks)):
        yield [item for part in parts for item in part]


def _world(seed, users=6, items=9, levels=0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(users, items, generator=generator)
    if levels:
        scores = torch.randint(levels, (users, items), generator=generator).float()
    kind = torch.rand(users, items, generator=generator)
    relevant, exclude = kind < 0.35, kind > 0.85
    relevant[:, 0] |= ~relevant.any(1) & ~exclude[:, 0]
    return scores, relevant, exclude


@pytest.mark.filterwarnings("ignore:k=9 is more")
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("levels", [0, 1, 2, 4])
@pytest.mark.parametrize("k", [1, 3, 9])
def test_metrics_are_those_of_the_sorted_list(seed, levels, k):
    scores, relevant, exclude = _world(seed, levels=levels)
    values, tests = metrics_per_user(scores, relevant, exclude, k=k)
    assert torch.equal(tests, relevant.sum(1))
    for user in torch.nonzero(tests).squeeze(1).tolist():
        wanted = set(torch.nonzero(relevant[user]).squeeze(1).tolist())
        candidates = torch.nonzero(~exclude[user]).squeeze(1).tolist()
        order = sorted(candidates, key=lambda item: (-scores[user, item], item))
        expected = _of_list(order, wanted, k, len(candidates) - len(wanted))
        for name in ("precision", "recall", "hit_rate", "ndcg", "map", "mrr"):
            assert float(values[f"{name}@{k}"][user]) == pytest.approx(expected[name], abs=1e-12), name
        assert float(values["map"][user]) == pytest.approx(expected["whole map"])
        assert float(values["mrr"][user]) == pytest.approx(expected["whole mrr"])
        if len(candidates) > len(wanted):
            area = roc_auc_score([item in wanted for item in candidates], scores[user, candidates])
            assert float(values["auc"][user]) == pytest.approx(area)


@pytest.mark.filterwarnings("ignore:k=7 is more")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("k", [1, 2, 4, 7])
def test_expected_values_are_the_means_over_all_orders_of_the_tied(seed, levels, k):
    scores, relevant, exclude = _world(seed, users=4, items=7, levels=levels)
    values, tests = metrics_per_user(scores, relevant, exclude, k=k, ties="expected")
    for user in torch.nonzero(tests).squeeze(1).tolist():
        wanted = set(torch.nonzero(relevant[user]).squeeze(1).tolist())
        candidates = torch.nonzero(~exclude[user]).squeeze(1).tolist()
        lists = [
            _of_list(order, wanted, k, len(candidates) - len(wanted))
            for order in _orders(scores[user].tolist(), candidates)
        ]
        mean = {name: np.mean([found[name] for found in lists]) for name in lists[0]}
        for name in ("precision", "recall", "hit_rate", "ndcg", "map", "mrr"):
            assert float(values[f"{name}@{k}"][user]) == pytest.approx(mean[name], abs=1e-12), name
        assert float(values["map"][user]) == pytest.approx(mean["whole map"])
        assert float(values["mrr"][user]) == pytest.approx(mean["whole mrr"])
        assert float(values["auc"][user]) == pytest.approx(mean["auc"], nan_ok=True)


@pytest.mark.parametrize("max_fpr", [0.05, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("levels", [0, 3])
def test_the_partial_area_is_over_the_hardest_others(max_fpr, levels):
    scores, relevant, exclude = _world(3, items=25, levels=levels)
    values, _ = metrics_per_user(scores, relevant, exclude, max_fpr=max_fpr, k=3)
    for user in range(len(scores)):
        wanted = scores[user][relevant[user]]
        others = scores[user][~relevant[user] & ~exclude[user]].sort(descending=True).values
        others = others[: max(1, math.floor(max_fpr * len(others) + 1e-9))]
        wins = (wanted[:, None] > others).double() + (wanted[:, None] == others).double() / 2
        assert float(values["opauc"][user]) == pytest.approx(float(wins.mean()))
    if max_fpr == 1:
        torch.testing.assert_close(values["opauc"], values["auc"])


def test_ndcg_agrees_with_scikit_learn_over_whole_lists_of_distinct_scores():
    scores, relevant, _ = _world(8, users=20, items=30)
    found = ranking_metrics(scores, relevant, k=30)["ndcg@30"]
    assert float(found) == pytest.approx(ndcg_score(relevant.numpy(), scores.numpy()))


def test_constant_scores_give_no_model_credit_for_the_order_of_the_items():
    relevant = torch.zeros(1, 100).long()
    relevant[0, 0] = 1
    by_index = ranking_metrics(torch.zeros(1, 100), relevant, k=10)
    expected = ranking_metrics(torch.zeros(1, 100), relevant, k=10, ties="expected")
    assert (float(by_index["recall@10"]), float(expected["recall@10"])) == (1.0, pytest.approx(0.1))
    assert float(by_index["auc"]) == float(expected["auc"]) == 0.5


def test_the_conventions_of_other_libraries():
    scores = torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0]])
    relevant = torch.tensor([[1, 0, 1, 0, 1]])  # places 1, 3 and 5

    def at(**changes):
        return {
            n: float(v) for n, v in ranking_metrics(scores, relevant, k=4, conventions=Conventions(**changes)).items()
        }

    total = 1 + 2 / 3
    assert at()["map@4"] == pytest.approx(total / 3)
    assert at(map_divisor="relevant")["map@4"] == pytest.approx(total / 3)
    assert at(map_divisor="hits")["map@4"] == pytest.approx(total / 2)
    assert at(mrr="mean")["mrr"] == pytest.approx((1 + 1 / 3 + 1 / 5) / 3)
    assert at(mrr="mean")["mrr@4"] == pytest.approx((1 + 1 / 3) / 3)


def test_precision_divides_by_k_or_by_the_candidates_there_are():
    scores, relevant, exclude = torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[0, 1, 0]]), torch.tensor([[1, 0, 0]])
    with pytest.warns(UserWarning, match="lists end early"):
        assert float(ranking_metrics(scores, relevant, exclude, k=4)["precision@4"]) == 0.25
    reset_warnings()
    with pytest.warns(UserWarning, match="lists end early"):
        found = ranking_metrics(scores, relevant, exclude, k=4, conventions=Conventions(precision_divisor="candidates"))
    assert float(found["precision@4"]) == 0.5


def test_users_with_few_test_items_count_as_the_papers_count_them():
    scores, relevant, exclude = _world(1, users=40, items=15)
    values, tests = metrics_per_user(scores, relevant, exclude, k=(3, 5))
    found = ranking_metrics(scores, relevant, exclude, k=(3, 5), min_test="N")
    for name, fewest in (("precision@3", 3), ("precision@5", 5), ("map", 3), ("auc", 3)):
        assert 0 < int((tests >= fewest).sum()) < 40
        assert float(found[name]) == pytest.approx(float(values[name][tests >= fewest].mean()))
    with pytest.raises(ValueError, match="no user has min_test=16"):
        ranking_metrics(scores, relevant, exclude, min_test=16, k=3)


def test_the_size_of_the_batches_and_the_form_of_the_sets_change_nothing():
    scores, relevant, exclude = _world(2, users=30, items=40, levels=6)
    whole = ranking_metrics(scores, relevant, exclude, k=(2, 5), max_fpr=0.3)
    metric = RankingMetrics((2, 5), max_fpr=0.3)
    for rows in torch.arange(30).split(7):
        metric.update(scores[rows], relevant[rows].long(), exclude[rows].float())
    torch.testing.assert_close(metric.compute(), whole)
    sparse = [
        Interactions.from_pairs(*each.nonzero(as_tuple=True), num_users=30, num_items=40)
        for each in (relevant, exclude)
    ]
    torch.testing.assert_close(ranking_metrics(scores, *sparse, k=(2, 5), max_fpr=0.3), whole)


def test_users_who_have_everything_or_nothing_do_not_count():
    scores = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    relevant = torch.tensor([[0, 0], [1, 1], [1, 0]])
    values, _ = metrics_per_user(scores, relevant, k=1)
    assert values["recall@1"].isnan().tolist() == [True, False, False]
    assert values["auc"].isnan().tolist() == [True, True, False]
    found = ranking_metrics(scores, relevant, k=1)
    assert (float(found["num_users"]), float(found["recall@1"]), float(found["auc"])) == (2, 0.25, 0)


def test_bad_input_is_named(plain_inputs):
    scores, relevant = torch.rand(2, 4), torch.tensor([[0, 1, 0, 0], [1, 0, 0, 0]])
    with pytest.raises(ValueError, match="item 1 of row 0 is both relevant and excluded"):
        ranking_metrics(scores, relevant, relevant, k=1)
    with pytest.raises(ValueError, match="scores"):
        ranking_metrics(scores * torch.nan, relevant, k=1)
    with pytest.raises(ValueError, match="relevant"):
        ranking_metrics(scores, relevant[:, :3], k=1)
    with pytest.raises(ValueError, match="relevant has 3 × 4 cells"):
        ranking_metrics(scores, Interactions.from_pairs([2], [3]), k=1)
    with pytest.raises(ValueError, match="no value"):
        RankingMetrics(k=())


def test_the_function_does_not_wait_for_other_processes(monkeypatch):
    """Of a batch that one process holds, as in a validation on rank 0, the metrics are those of the batch."""

    def gathered(self, *_, **__):
        raise AssertionError("it gathers")

    monkeypatch.setattr("torchmetrics.metric.jit_distributed_available", lambda: True)
    monkeypatch.setattr("torchmetrics.Metric._sync_dist", gathered)
    found = ranking_metrics(torch.tensor([[0.9, 0.1, 0.5]]), torch.tensor([[0, 0, 1]]), k=2)
    assert float(found["mrr@2"]) == 0.5
    metric = RankingMetrics(k=2)
    metric.update(torch.tensor([[0.9, 0.1, 0.5]]), torch.tensor([[0, 0, 1]]))
    with pytest.raises(AssertionError, match="it gathers"):
        metric.compute()
