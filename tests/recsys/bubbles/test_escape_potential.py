import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.core.validate import reset_warnings
from equipoise.recsys import (
    BubbleEscapePotential,
    bubble_escape_potential,
    exposure_distribution,
    exposure_diversity,
)

KINDS = ("entropy", "normalized_entropy", "gini_simpson", "coverage")


def _world(seed, users=4, shown=9, items=12, categories=5):
    generator = torch.Generator().manual_seed(seed)
    genres = (torch.rand(items, categories, generator=generator) < 0.4).long()
    genres[torch.arange(items), torch.arange(items) % categories] = 1
    both = [torch.randint(items, (users, shown), generator=generator) for _ in range(2)]
    return *both, genres


def _shares(items, genres, weighting):
    """From the definition, item by item."""
    found = [0.0] * genres.shape[1]
    for item in items.tolist():
        if item < 0:
            continue
        mine = [k for k in range(genres.shape[1]) if genres[item, k]]
        for k in mine:
            found[k] += 1 / len(mine) if weighting == "fractional" else 1.0
    return [value / sum(found) for value in found]


def _diversity(p, kind):
    positive = [each for each in p if each > 0]
    entropy = -sum(each * math.log(each) for each in positive)
    return {
        "entropy": entropy,
        "normalized_entropy": entropy / math.log(len(p)) if len(p) > 1 else 0.0,
        "gini_simpson": 1 - sum(each**2 for each in p),
        "coverage": len(positive) / len(p),
    }[kind]


def _divergence(p, q):
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return sum(
        0.5 * each * math.log(each / m) for side in (p, q) for each, m in zip(side, middle, strict=True) if each > 0
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighting", ["fractional", "count"])
@pytest.mark.parametrize("categories", [1, 5])
def test_it_is_the_definition_user_by_user(kind, weighting, categories):
    positive, negative, genres = _world(1, categories=categories)
    found = bubble_escape_potential(positive, negative, genres, diversity=kind, weighting=weighting)
    wanted = []
    for user in range(len(positive)):
        p, q = (_shares(each[user], genres, weighting) for each in (positive, negative))
        wanted.append(_diversity(p, kind) - _diversity(q, kind))
        assert float(found.jensen_shannon[user]) == pytest.approx(_divergence(p, q), abs=1e-12)
        assert float(found.positive_diversity[user]) == pytest.approx(_diversity(p, kind), abs=1e-12)
    assert found.per_user.tolist() == pytest.approx(wanted, abs=1e-12)
    assert float(found.value) == pytest.approx(np.mean(wanted), abs=1e-12)
    assert found.ci[0] <= found.value <= found.ci[1]


@pytest.mark.parametrize("kind", KINDS)
def test_identical_exposures_give_exactly_zero_and_swapped_ones_the_other_sign(kind):
    positive, negative, genres = _world(2)
    same = bubble_escape_potential(positive, positive, genres, diversity=kind)
    assert not same.per_user.any()
    assert not same.jensen_shannon.any()
    one, other = (
        bubble_escape_potential(*pair, genres, diversity=kind) for pair in ((positive, negative), (negative, positive))
    )
    assert one.per_user.equal(-other.per_user)
    torch.testing.assert_close(one.jensen_shannon, other.jensen_shannon, rtol=0, atol=1e-15)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 12), st.sampled_from(KINDS))
def test_it_stays_in_its_range(seed, categories, shown, kind):
    positive, negative, genres = _world(seed, shown=shown, categories=categories)
    found = bubble_escape_potential(positive, negative, genres, diversity=kind, resamples=10)
    most = math.log(categories) if kind == "entropy" else 1.0
    assert found.per_user.abs().max() <= most + 1e-12
    assert ((found.jensen_shannon >= 0) & (found.jensen_shannon <= math.log(2) + 1e-12)).all()


def test_disjoint_exposures_are_log_two_apart():
    found = bubble_escape_potential(torch.tensor([[0, 0]]), torch.tensor([[1, 1]]), torch.eye(2).long())
    assert float(found.jensen_shannon) == pytest.approx(math.log(2), abs=1e-15)
    assert float(found.value) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_orders_permutations_and_repetitions_do_not_matter(kind):
    positive, negative, genres = _world(3)
    wanted = bubble_escape_potential(positive, negative, genres, diversity=kind)
    order = torch.randperm(positive.shape[1], generator=torch.Generator().manual_seed(0))
    columns = torch.tensor([3, 0, 4, 1, 2])
    for changed in (
        (positive[:, order], negative[:, order.flip(0)], genres),
        (positive, negative, genres[:, columns]),
        (positive.repeat(1, 3), negative.repeat(1, 3), genres),
    ):
        found = bubble_escape_potential(*changed, diversity=kind)
        torch.testing.assert_close(found.per_user, wanted.per_user, rtol=0, atol=1e-12)
        torch.testing.assert_close(found.jensen_shannon, wanted.jensen_shannon, rtol=0, atol=1e-12)


def test_merging_two_categories_never_raises_the_entropy():
    for seed in range(20):
        exposure, _, genres = _world(seed)
        p = exposure_distribution(exposure, genres)
        merged = torch.cat([p[:, :1] + p[:, 1:2], p[:, 2:]], 1)
        assert (exposure_diversity(merged) <= exposure_diversity(p) + 1e-12).all()


def test_a_category_of_nothing_changes_coverage_only():
    exposure, _, genres = _world(4)
    more = torch.cat([genres, torch.zeros(len(genres), 1).long()], 1)
    p, q = exposure_distribution(exposure, genres), exposure_distribution(exposure, more)
    categories = genres.shape[1]
    for kind in ("entropy", "gini_simpson"):
        torch.testing.assert_close(exposure_diversity(p, kind), exposure_diversity(q, kind), rtol=0, atol=1e-15)
    torch.testing.assert_close(
        exposure_diversity(q, "coverage"), exposure_diversity(p, "coverage") * categories / (categories + 1)
    )


def test_weightings_agree_where_every_item_has_one_category():
    exposure, _, _ = _world(5)
    genres = torch.nn.functional.one_hot(torch.arange(12) % 5)
    one, other = (exposure_distribution(exposure, genres, each) for each in ("fractional", "count"))
    assert one.equal(other)


def test_users_who_saw_nothing_are_left_out_and_items_without_category_counted():
    genres = torch.tensor([[1, 0], [0, 1], [0, 0]])
    positive, negative = torch.tensor([[0, 1], [-1, -1], [0, 2]]), torch.tensor([[0, 0], [0, 1], [2, 0]])
    found = bubble_escape_potential(positive, negative, genres)
    assert found.per_user.isnan().tolist() == [False, True, False]
    assert float(found.value) == pytest.approx(math.log(2) / 2)
    assert int(found.uncategorized) == 2
    nobody = bubble_escape_potential(positive[1:2], negative[1:2], genres)
    assert nobody.value.isnan()
    assert nobody.ci.isnan().all()


def test_unequal_exposures_warn_and_the_correction_removes_the_bias():
    reset_warnings()
    genres = torch.eye(8).long()
    draws = np.random.default_rng(0)
    many, few = (
        torch.from_numpy(draws.integers(8, size=(2000, 200))),
        torch.from_numpy(draws.integers(8, size=(2000, 20))),
    )
    with pytest.warns(UserWarning, match="unequal numbers of exposures"):
        plain = bubble_escape_potential(many, few, genres, resamples=10)
    corrected = bubble_escape_potential(many, few, genres, correction="miller_madow", resamples=10)
    # Both copies are shown all categories alike, so that the potential is 0.
    assert float(plain.value) > 0.15
    assert abs(float(corrected.value)) < float(plain.value) / 4
    scaled = bubble_escape_potential(
        many, few, genres, diversity="normalized_entropy", correction="miller_madow", resamples=10
    )
    assert float(scaled.value) == pytest.approx(float(corrected.value) / math.log(8))


def test_the_interval_is_that_of_resampled_users():
    draws = np.random.default_rng(1)
    exposure = [torch.from_numpy(draws.integers(6, size=(300, 12))) for _ in range(2)]
    found = bubble_escape_potential(*exposure, torch.eye(6).long(), resamples=4000, seed=3)
    error = float(found.per_user.std(correction=0)) / math.sqrt(300)
    half = 1.96 * error
    assert float(found.ci[0]) == pytest.approx(float(found.value) - half, abs=0.15 * half)
    assert float(found.ci[1]) == pytest.approx(float(found.value) + half, abs=0.15 * half)
    again = bubble_escape_potential(*exposure, torch.eye(6).long(), resamples=4000, seed=3)
    assert again.ci.equal(found.ci)


def test_the_metric_adds_up_what_a_user_is_shown_in_several_batches():
    positive, negative, genres = _world(6, shown=8)
    metric = BubbleEscapePotential(genres)
    names = torch.tensor([40, 7, 9, 3])
    for columns in (slice(0, 3), slice(3, 8)):
        metric.update(names, positive[:, columns], negative[:, columns])
    order = names.argsort()
    wanted = bubble_escape_potential(positive[order], negative[order], genres)
    found = metric.compute()
    torch.testing.assert_close(metric.result().per_user, wanted.per_user)
    torch.testing.assert_close(torch.stack([found["bep_low"], found["bep_high"]]), wanted.ci)
    assert int(found["num_users"]) == 4


def test_the_metric_refuses_a_user_without_categorised_exposure_by_name_when_it_computes():
    metric = BubbleEscapePotential(torch.tensor([[1, 0], [0, 0]]))
    metric.update(torch.tensor([5]), torch.tensor([[1]]), torch.tensor([[0]]))
    with pytest.raises(ValueError, match="user 5 has no categorised exposure in positive_items"):
        metric.compute()
    metric.update(torch.tensor([5]), torch.tensor([[0]]), torch.tensor([[0]]))
    assert float(metric.compute()["bep"]) == 0


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_refused_in_a_sentence():
    positive, negative, genres = _world(7)
    for wrong, words in (
        (torch.full_like(positive, 12), r"positive_exposure holds the item 12, wanted 0 to 11"),
        (torch.full_like(positive, -2), r"positive_exposure holds the item -2"),
    ):
        with pytest.raises(IndexError, match=words):
            bubble_escape_potential(wrong, negative, genres)
    with pytest.raises(ValueError, match="user 0 has no categorised exposure in negative_exposure"):
        bubble_escape_potential(positive, torch.zeros_like(negative), torch.cat([0 * genres[:1], genres[1:]]))
    with pytest.raises(ValueError, match="negative_exposure must have shape"):
        bubble_escape_potential(positive, negative[:2], genres)
    for bad in (genres + 1, -genres, genres * 0.5):
        with pytest.raises(ValueError, match="item_category holds the value"):
            bubble_escape_potential(positive, negative, bad)
    with pytest.raises(ValueError, match="item_category is empty"):
        bubble_escape_potential(positive, negative, genres[:, :0])
    with pytest.raises(ValueError, match="'entropy', 'normalized_entropy', 'gini_simpson', 'coverage'"):
        bubble_escape_potential(positive, negative, genres, diversity="variety")
    with pytest.raises(ValueError, match="correction='miller_madow' is of an entropy"):
        bubble_escape_potential(positive, negative, genres, diversity="coverage", correction="miller_madow")
    with pytest.raises(ValueError, match=r"row 0 of distributions sums to 0\.5"):
        exposure_diversity(torch.tensor([[0.25, 0.25]]))
