"""The report of a recommender: of every user, in batches, by group, by shard."""

import math

import pytest
import torch

from equipoise.data import Interactions
from equipoise.recsys import evaluate_recommender, ranking_metrics


class _Table:
    def __init__(self, scores):
        self.scores = scores

    def predict(self, users):
        return self.scores[users]


def _world(users=40, items=25):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(users, items, generator=generator).round(decimals=1)
    kind = torch.rand(users, items, generator=generator)
    kind[3] = 0.5  # no test item
    test, train = (
        Interactions.from_pairs(*mask.nonzero(as_tuple=True), num_users=users, num_items=items)
        for mask in (kind < 0.15, kind > 0.8)
    )
    return _Table(scores), test, train


@pytest.mark.parametrize("batch_size", [None, 1, 7, 100])
def test_it_is_full_ranking_whatever_the_batches(batch_size):
    model, test, train = _world()
    found = evaluate_recommender(model, test, train, k=(3, 5), max_fpr=0.2, lists=True, batch_size=batch_size)
    expected = ranking_metrics(model.scores, test, train, k=(3, 5), max_fpr=0.2)
    for name, mean in found.means().items():
        assert mean.value == pytest.approx(float(expected[name])), name
        assert mean.low < mean.value < mean.high
    assert 3 not in found.users.tolist()
    assert found.lists.shape == (len(found.users), 5)
    assert not train.contains(found.users[:, None].expand_as(found.lists), found.lists).any()


def test_an_interval_is_that_of_a_mean_over_users():
    model, test, train = _world()
    found = evaluate_recommender(model, test, train, k=5)
    values = found.values["ndcg@5"]
    mean = found.means(level=0.9)["ndcg@5"]
    assert mean.users == len(values)
    assert mean.high - mean.value == pytest.approx(1.6448536 * float(values.std()) / math.sqrt(len(values)))


def test_groups_and_shards_add_up():
    model, test, train = _world()
    whole = evaluate_recommender(model, test, train, k=5)
    group = whole.users % 3
    parts = whole.by_group(group)
    for one, means in parts.items():
        assert means["map"].value == pytest.approx(float(whole.values["map"][group == one].mean()))
    shards = [evaluate_recommender(model, test, train, k=5, users=whole.users[rank::2]) for rank in range(2)]
    joined = shards[0].joined(shards[1])
    assert joined.means()["map"].value == pytest.approx(whole.means()["map"].value)
    with pytest.raises(ValueError, match="same metrics"):
        whole.joined(evaluate_recommender(model, test, train, k=4))
    with pytest.raises(ValueError, match="one value per user"):
        whole.by_group(group[1:])


def test_a_model_that_gives_nan_is_refused_and_so_is_a_test_without_items():
    model, test, train = _world()
    broken = _Table(model.scores.clone())
    broken.scores[5, 2] = torch.nan
    with pytest.raises(ValueError, match="NaN for user 5"):
        evaluate_recommender(broken, test, train)
    with pytest.raises(ValueError, match="no user has a test item"):
        evaluate_recommender(model, Interactions.from_pairs([], [], num_users=40, num_items=25))


def test_infinite_scores_are_ranked():
    model, test, train = _world()
    model.scores[:, 2], model.scores[:, 4] = torch.inf, -torch.inf
    found = evaluate_recommender(model, test, train, k=5, batch_size=7)
    expected = ranking_metrics(model.scores, test, train, k=5)
    assert found.means()["auc"].value == pytest.approx(float(expected["auc"]))


@pytest.mark.parametrize("scores", [torch.zeros(40, 25).long(), torch.zeros(40), torch.zeros(40, 25)[:, None]])
def test_a_model_that_gives_no_row_of_numbers_per_user_is_refused(scores):
    _, test, train = _world()
    with pytest.raises(ValueError, match="the model gives scores of shape"):
        evaluate_recommender(_Table(scores), test, train)


def test_an_item_that_is_to_be_found_may_not_be_excluded():
    model, test, _ = _world()
    user, item = int(test.users[7]), int(test.items[7])
    exclude = Interactions.from_pairs([user], [item], num_users=40, num_items=25)
    with pytest.raises(ValueError, match=f"item {item} of user {user} is both relevant and excluded"):
        evaluate_recommender(model, test, exclude, batch_size=3)


def test_a_shard_without_users_has_a_report_that_joins():
    model, test, train = _world()
    whole = evaluate_recommender(model, test, train, k=(3, 5), lists=True)
    nobody = evaluate_recommender(model, test, train, k=(3, 5), lists=True, users=torch.arange(0))
    assert len(nobody.users) == 0
    assert math.isnan(nobody.means()["map"].value)
    joined = nobody.joined(whole)
    assert joined.means() == whole.means()
    assert torch.equal(joined.lists, whole.lists)
