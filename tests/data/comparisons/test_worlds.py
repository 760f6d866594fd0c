import pytest
import torch

from equipoise.data import Comparisons, comparison_folds, simulate_partial_rankings


def test_the_world_is_as_it_says():
    world = simulate_partial_rankings(400, 20, seed=5)
    said = world.comparisons
    counts = said.per_annotator
    assert counts.min() >= 200
    assert counts.max() <= 400
    assert float(world.abnormal.double().mean()) == pytest.approx(0.2, abs=0.06)
    assert (world.personal_score[~world.abnormal] == 0).all()
    assert float(world.personal_score[world.abnormal].std()) == pytest.approx(5, rel=0.1)
    width = world.common_threshold + world.personal_threshold
    assert width.min() >= 0.75
    assert width.max() <= 2.25
    # How often each answer is given where its chance lies between .4 and .6.
    own = world.common_score + world.personal_score
    d = own[said.annotator, said.left] - own[said.annotator, said.right]
    chance = torch.sigmoid(d - width[said.annotator])
    near = (chance > 0.4) & (chance < 0.6)
    assert near.sum() > 1000
    assert float((said.label[near] == 1).double().mean()) == pytest.approx(float(chance[near].mean()), abs=0.03)


def test_a_seed_is_a_world():
    one, same, other = (simulate_partial_rankings(3, 4, seed=seed).comparisons for seed in (1, 1, 2))
    assert one.label.equal(same.label)
    assert not (len(one) == len(other) and one.label.equal(other.label))


def test_folds_part_every_user_and_answer_alike():
    said = simulate_partial_rankings(9, 5, comparisons_per_user=(7, 60), seed=2).comparisons
    fold = comparison_folds(said, 4, seed=3)
    for user in range(9):
        mine = said.annotator == user
        counts = torch.bincount(fold[mine], minlength=4)
        assert counts.max() - counts.min() <= 1
        for label in (-1, 0, 1):
            counts = torch.bincount(fold[mine & (said.label == label)], minlength=4)
            assert counts.max() - counts.min() <= 1
    assert not fold.equal(comparison_folds(said, 4, seed=4))


@pytest.mark.usefixtures("plain_inputs")
def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="num_items=1"):
        simulate_partial_rankings(3, 1)
    with pytest.raises(ValueError, match="comparisons_per_user"):
        simulate_partial_rankings(3, 4, comparisons_per_user=(5, 4))
    with pytest.raises(ValueError, match="folds"):
        comparison_folds(Comparisons.from_columns([0], [0], [1], [1]), 1)
