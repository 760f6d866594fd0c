import itertools

import pytest
import torch

from equipoise.crowd import SplitLBIRanker, SplitLBISettings, TieMLE, tie_metrics
from equipoise.data import Comparisons, comparison_folds, simulate_partial_rankings

WORLD = simulate_partial_rankings(12, 6, comparisons_per_user=(80, 120), seed=3)
SAID = WORLD.comparisons
SMALL = SplitLBISettings(num_times=8, time_ratio=10.0, kappa=3.0)


@pytest.fixture(scope="module")
def model():
    return SplitLBIRanker(SMALL).fit(SAID)


def _named(said=SAID):
    return Comparisons.from_columns(
        said.annotator,
        said.left,
        said.right,
        said.label,
        annotator_names=[f"u{k}" for k in range(said.num_annotators)],
        item_names=[f"i{k}" for k in range(said.num_items)],
    )


def test_predictions_are_those_of_the_scores(model):
    scores = model.path_.scores(-1)
    diff = scores[SAID.annotator, SAID.left] - scores[SAID.annotator, SAID.right]
    columns = (SAID.annotator, SAID.left, SAID.right)
    wanted = tie_metrics(diff, scores[SAID.annotator, -1], SAID.label).pred
    assert model.predict(*columns).equal(wanted)
    chances = model.predict_proba(*columns)
    torch.testing.assert_close(chances.sum(1), torch.ones(len(SAID), dtype=torch.float64))
    assert model.predict(*columns, rule="argmax").equal(chances.argmax(1) - 1)


def test_names_are_asked_for_and_change_nothing(model):
    named = SplitLBIRanker(SMALL).fit(_named())
    assert named.predict(["u3", "u0"], ["i1", "i2"], ["i4", "i0"]).equal(model.predict([3, 0], [1, 2], [4, 0]))
    assert named.abnormal_users() == [f"u{user}" for user in model.abnormal_users()]
    assert named.rank("u2") == [[f"i{item}" for item in bucket] for bucket in model.rank(2)]
    with pytest.raises(KeyError, match="items_j holds 'i9'"):
        named.predict(["u0"], ["i0"], ["i9"])


def test_strangers_are_answered_by_the_consensus(model):
    with pytest.warns(UserWarning, match="answered by the consensus: 99"):
        scores, width = model.scores(99)
    assert scores.equal(model.consensus_[:-1])
    assert width == float(model.consensus_[-1])


def test_the_sparse_estimate_of_who_follows_is_the_consensus(model):
    model.time_index_ = {"dense": 2, "sparse": 2}
    outside = (~model.path_.support[2]).nonzero()[:, 0].tolist()
    assert outside
    for user in outside:
        assert model.scores(user, estimate="sparse")[0].equal(model.consensus_[:-1])
    assert model.abnormal_users() == [user for user in model.abnormal_users(top=1.0) if user not in outside]
    model.time_index_ = {"dense": 7, "sparse": 7}


def test_buckets_are_tied_within_and_ordered(model):
    for user in range(12):
        scores, width = model.scores(user)
        buckets = model.rank(user)
        assert sorted(item for bucket in buckets for item in bucket) == list(range(6))
        for bucket in buckets:
            assert float(scores[bucket].max() - scores[bucket].min()) <= width
        for above, below in itertools.pairwise(buckets):
            assert scores[above].min() >= scores[below].max()
            assert float(scores[above].max() - scores[below].max()) > width


def test_abnormal_users_are_those_of_the_world(model):
    odd = set(WORLD.abnormal.nonzero()[:, 0].tolist())
    share = len(odd) / 12
    assert set(model.abnormal_users(top=share)) == odd
    times = model.entry_time_[torch.tensor(model.abnormal_users(top=1.0))]
    assert times.equal(times.sort().values)


def test_parts_of_the_deviations_sum_to_them(model):
    model.time_index_ = {"dense": 3, "sparse": 3}
    parts = model.decomposition(0.05)
    torch.testing.assert_close(sum(parts), model.personal_)
    inside = model.path_.support[3]
    assert parts.abnormal[inside].equal(model.personal_[inside])
    assert (parts.abnormal[~inside] == 0).all()
    assert (parts.random.abs() < 0.05).all()
    assert ((parts.personal == 0) | (parts.personal.abs() >= 0.05)).all()
    model.time_index_ = {"dense": 7, "sparse": 7}


def test_times_are_chosen_on_held_out_answers_and_help():
    held = comparison_folds(SAID, 5, seed=1) == 0
    train, test = (SAID.take(rows.nonzero()[:, 0]) for rows in (~held, held))
    ranker = SplitLBIRanker(SMALL).fit_cv(train, folds=2, metric="macro", seed=0)
    found = ranker.cross_validation_
    for name, values in found.values.items():
        assert values.shape == (2, 8)
        assert ranker.time_index_[name] == int(values.mean(0).argmax())
    # A fold by hand.
    fold = comparison_folds(train, 2, seed=0)
    part, rest = (train.take(rows.nonzero()[:, 0]) for rows in (fold != 1, fold == 1))
    again = SplitLBIRanker(SMALL)._path(part, times=ranker.path_.times, keep_dense=True, watch=None)
    scores = again.scores(5)
    diff = scores[rest.annotator, rest.left] - scores[rest.annotator, rest.right]
    wanted = tie_metrics(diff, scores[rest.annotator, -1], rest.label).macro_f1
    assert float(found.values["dense"][1, 5]) == pytest.approx(wanted)
    mine = (ranker.predict(test.annotator, test.left, test.right) == test.label).double().mean()
    theirs = (TieMLE().fit(train).predict(test.left, test.right) == test.label).double().mean()
    assert mine > theirs + 0.02


def test_the_likelihood_of_held_out_answers_chooses_a_time():
    few = SplitLBISettings(num_times=4, time_ratio=6.0, kappa=3.0)
    ranker = SplitLBIRanker(few).fit_cv(SAID, folds=2, metric="likelihood", seed=0)
    found = ranker.cross_validation_
    for name in ("dense", "sparse"):
        assert found.values[name].equal(-found.losses[name])
        assert ranker.time_index_[name] == int(found.losses[name].mean(0).argmin())
    fold = comparison_folds(SAID, 2, seed=0)
    part, rest = (SAID.take(rows.nonzero()[:, 0]) for rows in (fold != 0, fold == 0))
    again = SplitLBIRanker(few)._path(part, times=ranker.path_.times, keep_dense=True, watch=None)
    for name in ("dense", "sparse"):
        scores = again.scores(2, name)
        diff = scores[rest.annotator, rest.left] - scores[rest.annotator, rest.right]
        width = scores[rest.annotator, -1]
        left, right = (diff - width).sigmoid(), (-diff - width).sigmoid()
        chance = torch.where(rest.label == 1, left, torch.where(rest.label == -1, right, 1 - left - right))
        wanted = -float(chance.log().mean())
        assert float(found.losses[name][0, 2]) == pytest.approx(wanted, rel=1e-6)


def test_a_checkpoint_is_taken_up_by_the_very_run_and_no_other(tmp_path):
    few = SplitLBISettings(num_times=3, time_ratio=4.0, kappa=3.0)
    told = []
    options = {"folds": 2, "checkpoint": tmp_path, "progress": told.append}
    one = SplitLBIRanker(few).fit_cv(SAID, **options)
    assert told[:3] == [f"the path: time {k} of 3" for k in (1, 2, 3)]
    told.clear()
    two = SplitLBIRanker(few).fit_cv(SAID, **options)
    assert told == []
    assert two.path_.common.equal(one.path_.common)
    assert two.cross_validation_.values["dense"].equal(one.cross_validation_.values["dense"])
    other = SAID.take(torch.arange(len(SAID) - 1))
    for said, more in ((other, {}), (SAID, {"metric": "macro"})):
        with pytest.raises(ValueError, match="of other comparisons or settings"):
            SplitLBIRanker(few).fit_cv(said, **options, **more)
    (tmp_path / "fold-1.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"fold-1\.json is damaged"):
        SplitLBIRanker(few).fit_cv(SAID, **options)


def test_a_warm_start_goes_on_where_a_path_ended(model):
    longer = SplitLBIRanker(SplitLBISettings(num_times=3, time_ratio=15.0)).fit(SAID, warm_start=model.path_)
    assert len(longer.path_) == 11
    assert longer.path_.times[:8].equal(model.path_.times)


def test_users_with_few_answers_are_left_out_and_told():
    more = Comparisons.from_columns(
        torch.cat([SAID.annotator + 1, torch.zeros(6, dtype=torch.long)]),
        torch.cat([SAID.left, torch.tensor([0, 1, 2] * 2)]),
        torch.cat([SAID.right, torch.tensor([1, 2, 3] * 2)]),
        torch.cat([SAID.label, torch.tensor([1, 1, 0] * 2)]),
    )
    with pytest.warns(UserWarning, match="1 users made fewer than min_comparisons=7"):
        ranker = SplitLBIRanker(SMALL).fit(more)
    assert ranker.users_ == tuple(range(1, 13))
    plain = SplitLBIRanker(SMALL).fit(SAID)
    assert ranker.scores(4)[0].equal(plain.scores(3)[0])
    with pytest.warns(UserWarning, match="answered by the consensus: 0"):
        assert ranker.scores(0)[0].equal(ranker.consensus_[:-1])


def test_a_ranker_is_saved(tmp_path):
    ranker = SplitLBIRanker(SMALL).fit(_named())
    ranker.time_index_ = {"dense": 4, "sparse": 6}
    ranker.save(tmp_path)
    loaded = SplitLBIRanker.load(tmp_path)
    assert loaded.settings == ranker.settings
    for estimate in ("dense", "sparse"):
        assert loaded.rank("u1", estimate=estimate) == ranker.rank("u1", estimate=estimate)
        assert loaded.scores("u1", estimate=estimate)[0].equal(ranker.scores("u1", estimate=estimate)[0])
    assert loaded.abnormal_users() == ranker.abnormal_users()
    (tmp_path / "ranker.json").write_text('{"settings": {}, "users": [], "items": [], "identified": []}')
    with pytest.raises(ValueError, match="does not hold a ranker"):
        SplitLBIRanker.load(tmp_path)


@pytest.mark.usefixtures("plain_inputs")
def test_bad_calls_are_refused(model):
    with pytest.raises(ValueError, match="no user made min_comparisons=7"):
        SplitLBIRanker().fit(Comparisons.from_columns([0], [0], [1], [1]))
    with pytest.raises(ValueError, match="must be of one length"):
        model.predict([0, 1], [0], [1])
    with pytest.raises(KeyError, match="items_i holds 6"):
        model.predict([0], [6], [1])
    with pytest.raises(RuntimeError, match="not fitted"):
        SplitLBIRanker().predict([0], [0], [1])
    with pytest.raises(ValueError, match="top"):
        model.abnormal_users(top=10)
