import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equipoise.recsys import GroupedAUC, grouped_auc, relative_improvement


def _by_pairs(group, scores, target):
    total = weight = 0.0
    for one in set(group.tolist()):
        mine = group == one
        pos, neg = scores[mine & (target == 1)].tolist(), scores[mine & (target == 0)].tolist()
        if pos and neg:
            wins = sum((p > q) + 0.5 * (p == q) for p in pos for q in neg)
            total += int(mine.sum()) * wins / (len(pos) * len(neg))
            weight += int(mine.sum())
    return total / weight if weight else math.nan


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3), st.booleans()), min_size=1, max_size=40),
    st.sampled_from([1, 10**18 // 3, -(2**61)]),
)
@pytest.mark.filterwarnings("ignore:no group has both classes")
def test_it_is_a_double_loop_for_any_group_numbers_and_ties(rows, factor):
    group = torch.tensor([row[0] * factor for row in rows])
    scores = torch.tensor([row[1] / 4 for row in rows])
    target = torch.tensor([int(row[2]) for row in rows])
    found, wanted = float(grouped_auc(group, scores, target)), _by_pairs(group, scores, target)
    assert found == pytest.approx(wanted, abs=1e-12, nan_ok=True)


def _batch(n=500, groups=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    group = torch.randint(groups, (n,), generator=generator)
    scores = torch.randn(n, generator=generator, dtype=torch.float64)
    return group, scores, (torch.rand(n, generator=generator) < 0.3).long()


def test_it_is_the_weighted_mean_of_scikit_learn():
    from sklearn.metrics import roc_auc_score

    group, scores, target = _batch()
    areas, rows = [], []
    for one in group.unique():
        mine = group == one
        if 0 < target[mine].sum() < mine.sum():
            areas.append(roc_auc_score(target[mine], scores[mine]))
            rows.append(int(mine.sum()))
    assert float(grouped_auc(group, scores, target)) == pytest.approx(np.average(areas, weights=rows), abs=1e-12)


def test_a_rising_transform_of_each_group_changes_nothing():
    group, scores, target = _batch()
    moved = scores.exp() * (1 + group) + 100.0 * (group % 3)
    assert float(grouped_auc(group, moved, target)) == float(grouped_auc(group, scores, target))
    one = torch.zeros_like(group)
    assert float(grouped_auc(one, moved, target)) != pytest.approx(float(grouped_auc(one, scores, target)), abs=1e-3)


def test_one_group_is_the_plain_auc_and_infinite_scores_rank():
    from sklearn.metrics import roc_auc_score

    _, scores, target = _batch()
    found = float(grouped_auc(torch.zeros(500, dtype=torch.long), scores, target))
    assert found == pytest.approx(roc_auc_score(target, scores), abs=1e-12)
    extreme = torch.tensor([torch.inf, -torch.inf, 0.0])
    assert float(grouped_auc(torch.zeros(3).long(), extreme, torch.tensor([1, 0, 0]))) == 1


def test_groups_of_one_class_are_left_out_with_their_rows():
    group, scores, target = _batch()
    more = torch.cat([group, torch.full((300,), 77)]), torch.cat([scores, scores[:300]])
    assert float(grouped_auc(*more, torch.cat([target, torch.ones(300).long()]))) == float(
        grouped_auc(group, scores, target)
    )


def test_what_is_undefined_is_nan_with_a_warning_or_raises():
    group, scores, target = torch.tensor([1, 2]), torch.tensor([0.1, 0.2]), torch.tensor([0, 1])
    with pytest.warns(UserWarning, match="no group has both classes"):
        assert grouped_auc(group, scores, target).isnan()
    with pytest.raises(ValueError, match="no group has both classes"):
        grouped_auc(group, scores, target, on_undefined="raise")
    metric = GroupedAUC(on_undefined="raise")
    metric.update(group, scores, target)
    with pytest.raises(ValueError, match="no group has both classes"):
        metric.compute()


def test_a_group_may_be_spread_over_batches():
    group, scores, target = _batch()
    metric = GroupedAUC()
    for part in torch.arange(500).split(7):
        metric.update(group[part].to(torch.int32), scores[part], target[part])
    assert float(metric.compute()) == float(grouped_auc(group, scores, target))


def test_relative_improvement_is_of_the_distance_from_chance():
    assert relative_improvement(0.7, 0.6) == pytest.approx(100)
    assert relative_improvement(0.6, 0.6) == 0
    assert relative_improvement(torch.tensor(0.5), 0.75) == -100
    with pytest.raises(ValueError, match=r"base=0\.5 is the AUC of chance"):
        relative_improvement(0.7, 0.5)
    with pytest.raises(ValueError, match=r"auc=1\.2 must lie in"):
        relative_improvement(1.2, 0.6)
