import math

import numpy as np
import pytest
import torch

from equipoise.core.validate import reset_warnings
from equipoise.data import Interactions
from equipoise.recsys import (
    bootstrap_mean,
    catalogue_coverage,
    exposure_gini,
    group_means,
    intra_list_distance,
    miscalibration,
    popularity_lift,
)


def _pages(seed=0, users=5, shown=6, items=9):
    draws = np.random.default_rng(seed)
    pages = torch.from_numpy(np.stack([draws.permutation(items)[:shown] for _ in range(users)]))
    pages[0, 4:] = -1
    pages[1, 1:] = -1
    return pages


def test_the_distance_of_a_list_is_the_mean_over_its_pairs():
    pages = _pages()
    vectors = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    vectors[4] = 0
    found = intra_list_distance(pages, vectors)
    for user, page in enumerate(pages.tolist()):
        items = [item for item in page if item >= 0]
        pairs = [(a, b) for place, a in enumerate(items) for b in items[:place]]
        cosine = torch.nn.functional.cosine_similarity
        distances = [1 - float(cosine(vectors[a].double(), vectors[b].double(), dim=0)) for a, b in pairs]
        if distances:
            assert float(found[user]) == pytest.approx(np.mean(distances), abs=1e-9)
        else:
            assert found[user].isnan()


def test_the_gini_coefficient_is_the_mean_difference_of_pairs():
    pages = _pages(1, users=7, items=12)
    times = np.bincount(pages[pages >= 0].numpy(), minlength=12)
    wanted = np.abs(times[:, None] - times).mean() / (2 * times.mean())
    assert exposure_gini(pages, 12) == pytest.approx(wanted)
    assert catalogue_coverage(pages, 12) == np.mean(times > 0)
    assert exposure_gini(pages.repeat(3, 1), 12) == pytest.approx(wanted)
    reset_warnings()
    with pytest.warns(UserWarning, match="pages show nothing"):
        assert math.isnan(exposure_gini(torch.full((2, 2), -1), 3))


def test_popularity_lift_is_the_ratio_of_means_user_by_user():
    history = Interactions.from_pairs([0, 0, 1, 2, 2, 3], [0, 1, 0, 0, 8, 2], num_users=5, num_items=9)
    pages = _pages(2)
    times = history.per_item.tolist()
    found = popularity_lift(pages, history)
    for user in range(4):
        shown = [times[item] for item in pages[user].tolist() if item >= 0]
        taken = [times[item] for item in history.of(user).tolist()]
        assert float(found[user]) == pytest.approx(np.mean(shown) / np.mean(taken) - 1)
    assert found[4].isnan()
    doubled = popularity_lift(pages, history, 2 * history.per_item)
    torch.testing.assert_close(doubled, found, equal_nan=True)


def test_miscalibration_is_the_smoothed_divergence():
    p, q = torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[0.2, 0.0, 0.8]])
    mixed = [0.9 * b + 0.1 * a for a, b in zip(p[0].tolist(), q[0].tolist(), strict=True)]
    wanted = 0.5 * math.log(0.5 / mixed[0]) + 0.5 * math.log(0.5 / mixed[1])
    assert float(miscalibration(p, q, 0.1)) == pytest.approx(wanted, abs=1e-7)
    assert float(miscalibration(p, p)) == 0


def test_a_mean_has_the_interval_of_its_standard_error():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = bootstrap_mean(torch.cat([values, torch.full((5,), torch.nan).double()]), resamples=4000, confidence=0.9)
    half = 1.645 * float(values.std(correction=0)) / 20
    assert found.estimate == pytest.approx(float(values.mean()))
    assert found.low == pytest.approx(found.estimate - half, abs=0.1 * half)
    assert found.high == pytest.approx(found.estimate + half, abs=0.1 * half)
    assert math.isnan(bootstrap_mean(torch.full((2,), torch.nan)).low)


def test_groups_are_judged_by_themselves():
    values, groups = torch.tensor([1.0, 2.0, torch.nan, 5.0]), torch.tensor([7, 7, 7, -1])
    found = group_means(values, groups)
    assert [(each.group, each.users) for each in found] == [(-1, 1), (7, 2)]
    mean = bootstrap_mean(values[:3])
    assert found[1][2:] == (mean.estimate, mean.low, mean.high)


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_refused():
    pages, history = _pages(), Interactions.from_pairs([0], [0], num_users=5, num_items=9)
    with pytest.raises(IndexError, match="pages holds the item"):
        catalogue_coverage(pages, 3)
    with pytest.raises(IndexError, match="pages holds the item"):
        intra_list_distance(pages, torch.ones(3, 2))
    with pytest.raises(ValueError, match="pages are of 4 users, history is of 5"):
        popularity_lift(pages[:4], history)
    with pytest.raises(ValueError, match="popularity must have one count per item, 9, got 2"):
        popularity_lift(pages, history, torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="smoothing=1"):
        miscalibration(torch.ones(1, 1), torch.ones(1, 1), 1.0)
