"""The consensus as an estimator: what it names, how sure it is, what it keeps, and counts of parts."""

import numpy as np
import pytest
import torch

from equipoise.crowd import ConsensusRanker, bradley_terry_mle, elo_ratings, thurstone_mle
from equipoise.crowd.consensus.resampling import count_replicates, intervals_of, ranks_within
from equipoise.data import Comparisons, PairCounts
from two_processes import in_two_processes, needs_two_processes

METHODS = ["bradley_terry", "thurstone", "hodge", "elo"]


def _crowd(seed=0, rows=600, items=6, spread=1.0, annotators=8):
    generator = np.random.default_rng(seed)
    truth = spread * np.linspace(1, -1, items)
    i = generator.integers(0, items, rows)
    j = (i + generator.integers(1, items, rows)) % items
    y = np.where(generator.random(rows) < 1 / (1 + np.exp(truth[j] - truth[i])), 1, -1)
    y[generator.random(rows) < 0.1] = 0
    return Comparisons.from_columns(generator.integers(0, annotators, rows), i, j, y, num_items=items)


def test_the_scores_are_those_of_the_functions():
    said = _crowd()
    columns = (said.left, said.right, said.label)
    torch.testing.assert_close(ConsensusRanker().fit(said).scores_, bradley_terry_mle(*columns).score)
    ridged = ConsensusRanker("thurstone", ridge=0.2).fit(said)
    torch.testing.assert_close(ridged.scores_, thurstone_mle(*columns, ridge=0.2).score)
    elo = ConsensusRanker("elo", elo_k=10.0).fit(said)
    torch.testing.assert_close(elo.scores_, elo_ratings(*columns, k=10.0) - 1000)


@pytest.mark.parametrize("method", METHODS)
def test_chances_are_those_of_the_model(method):
    ranker = ConsensusRanker(method).fit(_crowd())
    one, other = torch.tensor([0, 5]), torch.tensor([5, 0])
    if method != "hodge":
        found = ranker.probability(one, other)
        assert found[0] > 0.5
        assert float(found.sum()) == pytest.approx(1)
        gap = float(ranker.scores_[0] - ranker.scores_[5])
        wanted = {
            "bradley_terry": 1 / (1 + np.exp(-gap)),
            "thurstone": float(torch.special.ndtr(torch.tensor(gap))),
            "elo": 1 / (1 + 10 ** (-gap / 400)),
        }
        assert float(found[0]) == pytest.approx(wanted[method], rel=1e-6)


def test_components_and_items_that_never_lost_are_named():
    said = Comparisons.from_columns(
        None, [0, 1, 2, 4], [1, 2, 1, 5], [1, 1, 1, 1], num_items=7, item_names=["a", "b", "c", "d", "e", "f", "g"]
    )
    with pytest.raises(ValueError, match="items 'a', 'e' never lost to the rest, items 'b', 'c', 'f' never won"):
        ConsensusRanker().fit(said)
    with pytest.warns(UserWarning, match="2 components"):
        ranker = ConsensusRanker(ridge=0.1).fit(said)
    assert ranker.never_lost_ == ((0,), (4,))
    assert ranker.never_won_ == ((1, 2), (5,))
    assert ranker.component_.tolist()[:3] == [0, 0, 0]
    assert ranker.compared_.tolist() == [True] * 3 + [False, True, True, False]
    assert ranker.rank().tolist() == [1, 3, 2, 0, 1, 2, 0]
    assert ranker.ordered() == ["a", "c", "b"]
    assert ranker.ordered(1) == ["e", "f"]
    assert ranker.probability(torch.tensor([0]), torch.tensor([4])).isnan().all()
    with pytest.raises(ValueError, match="component=2 has no compared items"):
        ranker.ordered(2)


@pytest.mark.parametrize("seed", range(10))
def test_ranks_are_those_of_a_loop(seed):
    generator = np.random.default_rng(seed)
    score, component = generator.integers(0, 4, 12).astype(float), generator.integers(0, 3, 12)
    known = generator.random(12) < 0.8
    # What was not compared is a component of its own.
    component = np.where(known, component, 3 + np.arange(12))
    higher = (score[None] > score[:, None]) & (component[None] == component[:, None])
    assert ranks_within(score, component, known).tolist() == np.where(known, 1 + higher.sum(1), 0).tolist()


@pytest.mark.parametrize("method", METHODS[:3])
@pytest.mark.parametrize("kind", ["whole", "fractions", "counts"])
def test_drawing_cells_is_drawing_rows(method, kind):
    said = _crowd(rows=200, items=4)
    if kind == "fractions":
        weight = torch.where(torch.arange(200) % 2 == 0, 0.5, 1.5).double()
        said = Comparisons.from_columns(said.annotator, said.left, said.right, said.label, weight)
    given = PairCounts.of(said) if kind == "counts" else said
    draws = count_replicates(given, "comparisons", np.random.default_rng(0))
    cells = [next(draws) for _ in range(400)]
    totals = np.array([float(each.total.sum()) for each in cells])
    wins = np.array([float(each.first_wins.sum()) for each in cells])
    generator = np.random.default_rng(1)
    rows = [PairCounts.of(said.take(torch.tensor(generator.integers(0, 200, 200)))) for _ in range(400)]
    by_rows = np.array([float(each.first_wins.sum()) for each in rows])
    assert wins.mean() == pytest.approx(by_rows.mean(), abs=5 * by_rows.std() / 20)
    assert wins.std() == pytest.approx(by_rows.std(), rel=0.2)
    if kind != "fractions":
        assert (totals == 200).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("over", ["comparisons", "annotators"])
def test_intervals_hold_the_scores_and_repeat_by_their_seed(method, over):
    ranker = ConsensusRanker(method).fit(_crowd())
    found = ranker.intervals(resamples=40, over=over, seed=3)
    again = ranker.intervals(resamples=40, over=over, seed=3)
    assert found.low.equal(again.low)
    if method != "elo":
        assert (found.low <= ranker.scores_).all()
        assert (ranker.scores_ <= found.high).all()
        assert (found.rank_low <= found.rank).all()
        assert (found.rank <= found.rank_high).all()
    assert sorted(item for group in found.groups for item in group) == list(range(6))
    assert (found.resamples, found.redrawn, found.over) == (40, 0, over)


def test_the_standard_error_is_that_of_a_share_where_there_is_one_pair():
    said = Comparisons.from_columns(None, [0] * 100, [1] * 100, [1] * 70 + [-1] * 30)
    found = ConsensusRanker("hodge").fit(said).intervals(resamples=4000, seed=0)
    # The scores are ± half the mean answer, whose error is 2 · sqrt(p (1 − p) / n).
    wanted = (0.7 * 0.3 / 100) ** 0.5
    torch.testing.assert_close(found.standard_error, torch.full((2,), wanted, dtype=torch.float64), rtol=0.05, atol=0)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    inside = []
    truth = torch.linspace(1, -1, 6, dtype=torch.float64)
    for seed in range(15):
        found = ConsensusRanker(ridge=1e-6).fit(_crowd(seed, rows=400)).intervals(resamples=50, confidence=0.8)
        # Ties are drawn apart from the model, and shrink the scores by a tenth.
        inside.append(((found.low <= 0.9 * truth) & (0.9 * truth <= found.high)).double().mean())
    assert 0.7 < float(torch.stack(inside).mean()) < 0.9


def test_annotators_that_disagree_make_wider_intervals_than_comparisons():
    rows = 400
    who = np.arange(rows) % 8
    said = Comparisons.from_columns(who, np.zeros(rows, int), np.ones(rows, int), np.where(who % 8 < 5, 1, -1))
    ranker = ConsensusRanker("hodge").fit(said)
    widths = [
        float((found.high - found.low)[0])
        for found in (ranker.intervals(over=over, seed=1) for over in ("comparisons", "annotators"))
    ]
    assert widths[1] > 3 * widths[0]
    with pytest.raises(ValueError, match="needs at least 2 annotators"):
        ConsensusRanker("hodge").fit(said.take(torch.tensor([0, 8]))).intervals(over="annotators")
    with pytest.raises(ValueError, match="PairCounts do not say who answered"):
        ConsensusRanker("hodge").fit(PairCounts.of(said)).intervals(over="annotators")


def test_groups_follow_their_rule():
    generator = np.random.default_rng(0)
    score = np.array([3.0, 2.9, 1.0, 0.9, 0.0])
    replicates = score + generator.normal(size=(500, 5)) * [0.1, 0.1, 0.1, 0.1, 0.1]
    found = intervals_of(score, replicates, torch.zeros(5).long(), torch.ones(5).bool(), 0.95, 0, "comparisons")
    assert found.groups == ((0, 1), (2, 3), (4,))
    assert found.rank_low.tolist()[:2] == [1, 1]
    assert found.rank_high.tolist()[:2] == [2, 2]
    together = intervals_of(score, replicates, torch.zeros(5).long(), torch.ones(5).bool(), 1 - 1e-9, 0, "comparisons")
    assert together.groups[0][:2] == (0, 1)


def test_replicates_without_scores_are_drawn_again_or_refused():
    said = Comparisons.from_columns(None, [0] * 20, [1] * 20, [1] * 17 + [-1] * 3)
    ranker = ConsensusRanker().fit(said)
    found = ranker.intervals(resamples=100)
    assert found.redrawn > 0
    assert found.low.isfinite().all()
    bare = ConsensusRanker().fit(Comparisons.from_columns(None, [0, 1], [1, 0], [1, 1]))
    with pytest.raises(ValueError, match="set ridge"):
        bare.intervals(resamples=200)
    assert ConsensusRanker(ridge=0.1).fit(said).intervals(resamples=20).redrawn == 0


def test_a_ranker_is_kept_in_a_file(tmp_path):
    said = _crowd()
    ranker = ConsensusRanker("thurstone", ridge=0.1).fit(said)
    ranker.save(tmp_path / "ranker.json")
    again = ConsensusRanker.load(tmp_path / "ranker.json")
    assert again.get_params() == ranker.get_params()
    assert again.scores_.equal(ranker.scores_)
    assert again.rank().equal(ranker.rank())
    assert again.ordered() == ranker.ordered()
    with pytest.raises(RuntimeError, match="not saved"):
        again.intervals()
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="does not hold a consensus ranker"):
        ConsensusRanker.load(tmp_path / "other.json")


def test_parts_that_are_merged_rank_as_the_whole():
    said = _crowd()
    rows = torch.arange(len(said))
    parts = [PairCounts.of(said.take(rows[k::3])) for k in range(3)]
    for method in METHODS[:3]:
        together = ConsensusRanker(method).fit(parts[0].merged(*parts[1:]))
        torch.testing.assert_close(together.scores_, ConsensusRanker(method).fit(said).scores_)
    with pytest.raises(ValueError, match="depends on the order"):
        ConsensusRanker("elo").fit(parts[0])


def _share(rank):
    said = _crowd()
    cut = torch.arange(150) if rank == 0 else torch.arange(150, len(said))
    scores = ConsensusRanker().fit(PairCounts.of(said.take(cut)).gathered()).scores_
    return float((scores - ConsensusRanker().fit(said).scores_).abs().max())


@needs_two_processes
def test_two_processes_rank_as_one():
    assert max(in_two_processes(_share)) < 1e-12


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_refused_by_name():
    said = _crowd()
    with pytest.raises(ValueError, match="comparisons must be a Comparisons"):
        ConsensusRanker().fit([1, 2])
    with pytest.raises(ValueError, match="method='borda' is not known"):
        ConsensusRanker("borda")
    with pytest.raises(ValueError, match="ridge"):
        ConsensusRanker(ridge=-1.0)
    with pytest.raises(RuntimeError, match="not fitted"):
        ConsensusRanker().rank()
    ranker = ConsensusRanker().fit(said)
    with pytest.raises(ValueError, match="confidence"):
        ranker.intervals(confidence=1.0)
    with pytest.raises(ValueError, match="item_j holds 6"):
        ranker.probability(torch.tensor([0]), torch.tensor([6]))
    with pytest.raises(ValueError, match="label of row 1 is 2"):
        Comparisons.from_columns(None, [0, 1], [1, 0], [1, 2])
