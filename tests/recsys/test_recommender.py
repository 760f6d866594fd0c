"""The recommender in one object: it learns, keeps its best epoch, resumes, saves, and answers whom it does not know."""

import pytest
import torch

from equipoise.core.validate import reset_warnings
from equipoise.data import Interactions, make_interest_world, split_interactions
from equipoise.recsys import MetricLearningRecommender, RecommenderSettings, evaluate_recommender
from equipoise.recsys.evaluation import top_lists

WORLD = make_interest_world(120, 6, 12, 24, seed=1)
SPLIT = split_interactions(WORLD.interactions, seed=1)
KINDS = {
    "cml": {"dim": 8, "learning_rate": 0.03, "batch_size": 128, "epochs": 20},
    "dpcml": {"dim": 8, "num_vectors": 3, "learning_rate": 0.03, "batch_size": 128, "epochs": 20, "adaptive": True},
    "sfcml": {"dim": 16, "epochs": 100, "validate_every": 5, "learning_rate": 0.1},
}


def _fitted(kind, **changes):
    settings = RecommenderSettings.usual(kind, **{**KINDS[kind], **changes})
    return MetricLearningRecommender(settings).fit(SPLIT.train, SPLIT.validation)


@pytest.fixture(scope="module", params=list(KINDS))
def fitted(request):
    return request.param, _fitted(request.param)


class _Popular:
    def predict(self, users):
        return SPLIT.train.per_item.double().repeat(len(users), 1)


def test_it_ranks_better_than_popularity(fitted):
    _, model = fitted
    seen = SPLIT.train.union(SPLIT.validation)
    ours, popular = (
        evaluate_recommender(one, SPLIT.test, seen).means()["ndcg@20"].value for one in (model, _Popular())
    )
    assert ours > popular + 0.02


def test_the_best_epoch_is_kept(fitted):
    _, model = fitted
    history = model.history
    assert history.best_epoch == max(history.values, key=history.values.get)
    found = evaluate_recommender(model.model, SPLIT.validation, SPLIT.train, k=20).means()["ndcg@20"].value
    assert found == pytest.approx(history.values[history.best_epoch])


def test_lists_leave_out_what_was_seen_and_similar_items_the_item_itself(fitted):
    _, model = fitted
    users = torch.arange(120)
    lists = model.recommend(users, 10)
    assert not SPLIT.train.contains(users[:, None].expand_as(lists), lists).any()
    everything = model.recommend(users, 72, exclude_seen=False)
    assert all(sorted(row) == list(range(72)) for row in everything.tolist())
    similar = model.similar_items(torch.arange(72), 11)
    assert not (similar == torch.arange(72)[:, None]).any()
    # Eleven others are of the same kind; by chance one in six would be found.
    assert (WORLD.item_group[similar] == WORLD.item_group[:, None]).double().mean() > 0.4
    with pytest.raises(IndexError, match="items must lie in"):
        model.similar_items(torch.tensor([72]))


def test_people_who_were_not_there_are_answered(fitted):
    _, model = fitted
    new = make_interest_world(30, 6, 12, 24, seed=2)
    known, hidden = (
        split_interactions(new.interactions, (0.7, 0.0, 0.3), seed=4).train,
        split_interactions(new.interactions, (0.7, 0.0, 0.3), seed=4).test,
    )
    lists = model.fold_in(known, 20)
    found = hidden.contains(torch.arange(30)[:, None].expand_as(lists), lists).sum() / len(hidden)
    popular = SPLIT.train.per_item.argsort(descending=True)[:20].expand(30, 20)
    assert found > hidden.contains(torch.arange(30)[:, None].expand_as(popular), popular).sum() / len(hidden)
    nobody = model.fold_in(Interactions.from_pairs([], [], num_users=1, num_items=72), 3)
    most = SPLIT.train.per_item
    assert most[nobody[0]].tolist() == most.sort(descending=True).values[:3].tolist()


def test_a_user_without_training_items_gets_what_is_popular():
    likes = Interactions.from_pairs([0, 0, 1, 1, 1], [0, 1, 1, 2, 3], num_users=3, num_items=5)
    model = MetricLearningRecommender(RecommenderSettings(dim=4, epochs=1)).fit(likes)
    assert model.recommend(torch.tensor([2]), 5).tolist() == [[1, 0, 2, 3, 4]]


@pytest.mark.parametrize("changes", [{"model": "cml"}, {"sampling": "popularity"}, {"model": "sfcml"}])
def test_a_user_with_all_items_is_no_obstacle(changes, tmp_path):
    likes = Interactions.from_pairs([0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2], num_users=4, num_items=3)
    model = MetricLearningRecommender(RecommenderSettings(dim=4, epochs=2, **changes)).fit(likes)
    assert model.recommend(torch.tensor([0, 1]), 2).tolist() == [[-1, -1], [0, -1]]
    assert model.recommend(torch.tensor([0]), 3, exclude_seen=False).tolist() == [[2, 1, 0]]
    assert model.fold_in(likes, 2)[[0, 3]].tolist() == [[-1, -1], [2, 1]]
    model.save(tmp_path)
    assert torch.equal(
        MetricLearningRecommender.load(tmp_path).predict(torch.arange(4)), model.predict(torch.arange(4))
    )
    everything = Interactions.from_pairs([0, 0, 1, 1], [0, 1, 0, 1])
    with pytest.raises(ValueError, match="no user has both observed and unobserved items"):
        model.fit(everything)


def test_the_default_type_may_be_float64():
    torch.set_default_dtype(torch.float64)
    try:
        model = _fitted("sfcml", epochs=5)
        lists = model.fold_in(SPLIT.train.select(torch.arange(3)), 4)
    finally:
        torch.set_default_dtype(torch.float32)
    assert lists.shape == (3, 4)


def test_lists_do_not_depend_on_how_many_are_made_at_once(fitted, monkeypatch):
    _, model = fitted
    new, items = SPLIT.test.select(torch.arange(7)), torch.arange(72)
    whole = model.similar_items(items, 5), model.fold_in(new, 5)
    monkeypatch.setattr(top_lists, "_CELLS", 3 * 72)
    parts = model.similar_items(items, 5), model.fold_in(new, 5)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


def test_validation_is_of_the_same_users_and_items_and_apart():
    for validation, words in (
        (Interactions.from_pairs([0], [1]), "validation is of 1 users and 2 items, interactions are of 120 and 72"),
        (Interactions.from_pairs([], [], num_users=120, num_items=72), "validation is empty"),
        (SPLIT.train, f"validation holds item {int(SPLIT.train.items[0])} of user 0"),
    ):
        with pytest.raises(ValueError, match=words):
            MetricLearningRecommender(RecommenderSettings(dim=4, epochs=1)).fit(SPLIT.train, validation)


def test_it_is_the_same_after_saving(fitted, tmp_path):
    _, model = fitted
    model.save(tmp_path / "model")
    back = MetricLearningRecommender.load(tmp_path / "model")
    assert back.settings == model.settings
    assert torch.equal(back.predict(torch.arange(120)), model.predict(torch.arange(120)))
    assert torch.equal(back.recommend(torch.arange(120), 5), model.recommend(torch.arange(120), 5))
    (tmp_path / "model" / "recommender.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="does not hold a recommender"):
        MetricLearningRecommender.load(tmp_path / "model")


@pytest.mark.parametrize("kind", list(KINDS))
def test_an_interrupted_training_ends_with_the_same_weights(kind, tmp_path):
    class StoppedError(Exception):
        pass

    def interrupt(epoch, loss, value):
        if epoch == 4:
            raise StoppedError

    settings = RecommenderSettings.usual(kind, **{**KINDS[kind], "epochs": 9})
    whole = MetricLearningRecommender(settings).fit(SPLIT.train, SPLIT.validation)
    with pytest.raises(StoppedError):
        MetricLearningRecommender(settings).fit(
            SPLIT.train, SPLIT.validation, progress=interrupt, checkpoint=tmp_path / "state"
        )
    resumed = MetricLearningRecommender(settings).fit(SPLIT.train, SPLIT.validation, checkpoint=tmp_path / "state")
    assert resumed.history == whole.history
    assert torch.equal(resumed.predict(torch.arange(120)), whole.predict(torch.arange(120)))
    other = MetricLearningRecommender(RecommenderSettings.usual(kind, **{**KINDS[kind], "seed": 1}))
    with pytest.raises(ValueError, match="other data or settings"):
        other.fit(SPLIT.train, SPLIT.validation, checkpoint=tmp_path / "state")
    (tmp_path / "state").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no checkpoint of a training"):
        other.fit(SPLIT.train, SPLIT.validation, checkpoint=tmp_path / "state")


def test_it_says_that_it_is_not_fitted():
    with pytest.raises(RuntimeError, match="not fitted"):
        MetricLearningRecommender().recommend(torch.tensor([0]))


def test_what_cannot_be_is_said_before_training(tmp_path):
    with pytest.raises(ValueError, match="model='als' is not known"):
        RecommenderSettings.usual("als")
    with pytest.raises(ValueError, match="is in a folder that is not there"):
        MetricLearningRecommender().fit(SPLIT.train, checkpoint=tmp_path / "none" / "state.pt")


def test_the_metric_that_is_named_decides_the_epoch():
    settings = RecommenderSettings.usual("sfcml", **KINDS["sfcml"])
    for metric in ("recall@5", "auc"):
        model = MetricLearningRecommender(settings).fit(SPLIT.train, SPLIT.validation, metric=metric)
        found = evaluate_recommender(model.model, SPLIT.validation, SPLIT.train, k=5).means()[metric].value
        assert found == pytest.approx(max(model.history.values.values()))
    with pytest.raises(ValueError, match="metric='f1@5' is not known"):
        MetricLearningRecommender(settings).fit(SPLIT.train, SPLIT.validation, metric="f1@5")


def test_a_range_of_less_than_one_candidate_is_said():
    reset_warnings()
    with pytest.warns(UserWarning, match="hardness=0.05 of 10 candidates is less than one"):
        MetricLearningRecommender(RecommenderSettings(dim=4, epochs=1, hardness=0.05)).fit(SPLIT.train)
