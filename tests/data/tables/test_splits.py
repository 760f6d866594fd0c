from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from equipoise.data import fold_splits, holdout_split, table_task

many = settings(max_examples=50, deadline=None)


def task_of(target, group=None, time=None):
    frame = pd.DataFrame({"x": np.arange(len(target)), "y": target})
    if group is not None:
        frame["g"] = group
    if time is not None:
        frame["t"] = time
    return table_task(frame, target="y", group=group if group is None else "g", time=time if time is None else "t")


def rare(n=400, share=0.1, seed=0):
    target = np.zeros(n, dtype=int)
    target[: int(n * share)] = 1
    return np.random.default_rng(seed).permutation(target)


def is_partition(train, test, n):
    return np.array_equal(np.sort(np.concatenate([train, test])), np.arange(n))


@many
@given(st.lists(st.integers(0, 3), min_size=4, max_size=60), st.floats(0.1, 0.9), st.integers(0, 5))
def test_a_plain_holdout_is_stratified(target, test_size, seed):
    counts = np.bincount(target)
    assume((counts[counts > 0] >= 2).all() and (counts > 0).sum() >= 2)
    task = task_of(target)
    train, test = holdout_split(task, test_size, seed)
    assert is_partition(train, test, len(target))
    for members, tested in zip(task.class_counts, np.bincount(task.target[test], minlength=4), strict=False):
        assert 1 <= tested < members
        assert abs(tested - members * test_size) <= 1


def test_a_plain_holdout_has_the_size_asked_for_and_depends_on_the_seed():
    task = task_of(rare())
    first, again, other = (holdout_split(task, 0.2, seed)[1] for seed in (1, 1, 2))
    assert len(first) == 80
    assert task.target[first].sum() == 8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@many
@given(st.integers(2, 6), st.lists(st.integers(6, 30), min_size=2, max_size=4), st.integers(0, 5))
def test_plain_folds_deal_every_class_evenly(folds, members, seed):
    task = task_of(np.repeat(np.arange(len(members)), members))
    splits = fold_splits(task, folds, seed)
    assert all(is_partition(train, test, len(task)) for train, test in splits)
    assert is_partition(np.concatenate([test for _, test in splits]), np.array([], dtype=int), len(task))
    counts = np.array([np.bincount(task.target[test], minlength=len(members)) for _, test in splits])
    assert (np.ptp(counts, axis=0) <= 1).all()
    assert np.ptp(counts.sum(axis=1)) <= 1


@pytest.mark.parametrize("test_size", [0.1, 0.2, 0.3, 0.5])
def test_no_group_is_on_two_sides(test_size):
    generator = np.random.default_rng(0)
    group = generator.integers(0, 60, 600)
    task = task_of(rare(600), group=[f"patient {k}" for k in group])
    for seed in range(3):
        train, test = holdout_split(task, test_size, seed)
        assert is_partition(train, test, 600)
        assert not set(group[train]) & set(group[test])
        assert abs(len(test) / 600 - test_size) < 0.05
        assert abs(task.target[test].mean() - 0.1) < 0.04


@pytest.mark.parametrize("test_size", [0.02, 0.3, 0.99])
def test_a_grouped_holdout_makes_do_with_few_groups(test_size):
    group = np.arange(40) % 4
    task = task_of(np.arange(40) // 4 % 2, group=group)
    train, test = holdout_split(task, test_size)
    assert is_partition(train, test, 40)
    assert not set(group[train]) & set(group[test])


def test_grouped_folds_keep_groups_whole_and_classes_even():
    group = np.repeat(np.arange(50), 8)
    task = task_of(rare(400), group=group)
    splits = fold_splits(task, 5, seed=3)
    for train, test in splits:
        assert not set(group[train]) & set(group[test])
        assert 4 <= task.target[test].sum() <= 12
    assert is_partition(np.concatenate([test for _, test in splits]), np.array([], dtype=int), 400)


@many
@given(st.integers(0, 20), st.integers(2, 40))
def test_the_test_part_is_the_latest_and_a_time_is_never_on_two_sides(seed, distinct):
    generator = np.random.default_rng(seed)
    time = generator.integers(0, distinct, 80)
    assume(len(set(time)) > 1)
    task = task_of(np.tile([0, 1], 40), time=time)
    try:
        train, test = holdout_split(task, 0.25, seed)
    except ValueError as error:
        assert "holds no row of class" in str(error)  # noqa: PT017
        return
    assert is_partition(train, test, 80)
    assert time[train].max() < time[test].min()


def test_time_folds_expand_and_follow_each_other():
    days = pd.Series(pd.date_range("2024-01-01", periods=120).strftime("%d.%m.%Y"))
    order = np.random.default_rng(1).permutation(120)
    task = task_of(rare(120, 0.3), time=days.iloc[order])
    splits = fold_splits(task, 4)
    for train, test in splits:
        assert task.times[train].max() < task.times[test].min()
        assert len(test) == 24
    assert [len(train) for train, _ in splits] == [24, 48, 72, 96]
    assert all(set(a) <= set(b) for (a, _), (b, _) in pairwise(splits))


def test_a_group_that_is_tested_later_is_not_trained_on_before():
    group = np.tile(np.arange(10), 10)
    task = task_of(np.tile([0, 0, 1], 34)[:100], group=group, time=np.arange(100))
    with pytest.raises(ValueError, match="training part of the split is empty"):
        holdout_split(task, 0.3)
    moving = np.arange(100) // 8
    task = task_of(np.tile([0, 0, 1], 34)[:100], group=moving, time=np.arange(100))
    train, test = holdout_split(task, 0.3)
    assert not set(moving[train]) & set(moving[test])
    assert len(train) == 64
    assert len(test) == 30


def test_folds_inside_a_training_part_index_that_part():
    task = task_of(rare())
    train, _ = holdout_split(task, 0.25, 0)
    inner = task.take(train)
    for fit_rows, held_out in fold_splits(inner, 3, 0):
        assert is_partition(fit_rows, held_out, len(train))
    assert np.array_equal(inner.features["x"], train)


def test_the_only_member_of_a_class_is_trained_on_with_a_warning():
    task = task_of([0] * 10 + [1] * 10 + [2])
    with pytest.warns(UserWarning, match="class 2 of 'y' has one member only"):
        train, _ = holdout_split(task, 0.3)
    assert 20 in train
    assert all(20 in train for train, _ in fold_splits(task, 3))


def test_a_class_with_fewer_members_than_folds_is_warned_of_once():
    task = task_of([0] * 10 + [1] * 10 + [2, 2])
    with pytest.warns(UserWarning, match="class 2 of 'y' has 2 members for 3 folds") as seen:
        splits = fold_splits(task, 3)
    assert len(seen) == 1
    assert sum(2 in task.target[test] for _, test in splits) == 2
    assert all(2 in task.target[train] for train, _ in splits)


def test_a_grouped_test_part_without_one_of_several_classes_is_warned_of():
    target = np.tile([0, 1], 20)
    target[:8] = 2
    with pytest.warns(UserWarning, match="holds no row of class 2"):
        fold_splits(task_of(target, group=np.arange(40) // 4), 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: holdout_split(task_of([0, 0, 0, 1])), "class 1 of 'y' has one member only"),
        (lambda: holdout_split(task_of(rare()), 1.0), r"test_size=1.0 must lie in \(0, 1\)"),
        (lambda: holdout_split(task_of(rare()), 20), "did you mean 0.2"),
        (lambda: fold_splits(task_of([0] * 9 + [1] * 3), 5), "has 3 members, too few for 5 folds.*use folds=3"),
        (lambda: fold_splits(task_of([0, 1] * 9, group=[1, 2, 3] * 6), 5), "3 groups, too few for 5"),
        (
            lambda: fold_splits(task_of([1] * 4 + [0] * 36, group=np.arange(40) // 4), 5),
            "holds no row of class 1.*too few groups",
        ),
        (lambda: holdout_split(task_of([0] * 30 + [1] * 10, time=np.arange(40)), 0.2), "no row of class 0.*change"),
        (lambda: holdout_split(task_of([0, 1] * 5, time=[1] * 10)), "1 different times"),
        (lambda: fold_splits(task_of([0, 1] * 5, time=[1, 2] * 5), 3), "2 different times, too few.*fewer folds"),
        (
            lambda: fold_splits(task_of([0, 1] * 50, time=[1, 2, 3] + [4] * 97), 3),
            "too many rows have the same time",
        ),
    ],
)
def test_a_split_that_cannot_be_honest_is_refused(make, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        make()
