"""Honest splits: what a model is judged on must be new to it in the way that new data will be.

- plain: every class is dealt to the parts in proportion;
- by group: no group (patient, customer, device) on two sides, classes as even as the groups allow;
- by time: the test part is the latest; folds are an expanding window, each tested on what comes next; rows of one time
  are never on two sides. If there are groups as well, rows of a tested group are left out of the earlier training part.

Every side has to hold the classes that its use needs, or the split is refused with a sentence that says why.
"""

from __future__ import annotations

import warnings
from fractions import Fraction
from itertools import pairwise
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from equipoise.core.signature import checked
from equipoise.core.types import OpenFraction, Range, Whole
from equipoise.core.validate import warn_once
from equipoise.data.tables.reading import Indices, TableTask

Split = tuple[Indices, Indices]


@checked
def holdout_split(task: TableTask, test_size: OpenFraction = 0.2, seed: Whole = 0) -> Split:
    """Split the rows of a task into a training and a test part.

    Args:
        task: the table; its groups and times decide the kind of split.
        test_size: the share of rows in the test part; met as nearly as groups and equal times allow.
        seed: of the shuffling; a split by time has no chance in it.

    Returns:
        Row numbers of the training and of the test part, ascending.

    Raises:
        ValueError: if a part would lack a class that it needs.

    >>> import pandas as pd
    >>> from equipoise.data.tables.reading import table_task
    >>> task = table_task(pd.DataFrame({"x": range(10), "y": [0, 0, 0, 0, 0, 0, 0, 0, 1, 1]}), target="y")
    >>> train, test = holdout_split(task, 0.3, seed=0)
    >>> task.target[train].sum(), task.target[test].sum(), len(test)
    (np.int64(1), np.int64(1), 3)
    """
    if task.times is not None:
        cuts = _cuts(task.times, np.array([1 - test_size]))
        order = np.argsort(task.times, kind="stable")
        split = _purged(task, order[: cuts[0]], order[cuts[0] :])
    elif task.groups is not None:
        # Dealt to few parts, of which some are the test: the fewer the parts, the more even the classes in them.
        groups = len(np.unique(task.groups))
        most = min(10, groups)
        share = Fraction(test_size).limit_denominator(most)
        if share == 0:
            share = Fraction(1, min(round(1 / test_size), groups))
        elif share == 1:
            share = Fraction(most - 1, most)
        split = _sides(_group_parts(task, task.groups, share.denominator, seed) < share.numerator)
    else:
        split = _sides(_stratified_test(task, test_size, seed))
    _check_sides(task, split, "the split")
    return split


@checked
def fold_splits(task: TableTask, folds: Annotated[int, Range(2)] = 5, seed: Whole = 0) -> list[Split]:
    """Split the rows of a task into `folds` pairs of a training and a test part.

    The test parts are disjoint. Without times they hold all rows together, except for the only member of a class (of
    three or more), which is always trained on. By time they follow each other, and what is before the first is only
    trained on.

    Args:
        task: the table; its groups and times decide the kind of split.
        folds: how many pairs, at least 2.
        seed: of the shuffling; a split by time has no chance in it.

    Returns:
        Row numbers of the training and of the test part of each fold, ascending.

    Raises:
        ValueError: if there are too few members, groups or times for so many folds, or a part would lack a class that
            it needs. With three or more classes a test part may lack one, which is warned of.

    >>> import pandas as pd
    >>> from equipoise.data.tables.reading import table_task
    >>> frame = pd.DataFrame({"x": range(8), "y": [0, 1] * 4, "day": [1, 1, 2, 2, 3, 3, 4, 4]})
    >>> for train, test in fold_splits(table_task(frame, target="y", time="day"), folds=3):
    ...     print(train, test)
    [0 1] [2 3]
    [0 1 2 3] [4 5]
    [0 1 2 3 4 5] [6 7]
    """
    if task.times is not None:
        cuts = [*_cuts(task.times, np.arange(1, folds + 1) / (folds + 1)), len(task)]
        order = np.argsort(task.times, kind="stable")
        splits = [_purged(task, order[:a], order[a:b]) for a, b in pairwise(cuts)]
    else:
        if task.groups is None:
            parts = _stratified_parts(task, folds, seed)
        else:
            parts = _group_parts(task, task.groups, folds, seed)
        splits = [_sides(parts == fold) for fold in range(folds)]
    for number, split in enumerate(splits):
        _check_sides(task, split, f"fold {number + 1} of {folds}")
    return splits


def _sides(tested: NDArray[np.bool_]) -> Split:
    return np.flatnonzero(~tested), np.flatnonzero(tested)


def _shuffled_by_class(task: TableTask, seed: int) -> list[Indices]:
    """The rows of each class in random order."""
    shuffled = np.random.default_rng(seed).permutation(len(task))
    return [shuffled[task.target[shuffled] == code] for code in range(len(task.classes))]


def _stratified_test(task: TableTask, test_size: float, seed: int) -> NDArray[np.bool_]:
    members = task.class_counts
    if task.binary and members.min() < 2:
        raise ValueError(f"{_name(task, int(members.argmin()))} has one member only; it cannot be in both parts")
    ideal = members * test_size
    wanted = np.floor(ideal).astype(np.int64)
    short = round(len(task) * test_size) - int(wanted.sum())
    wanted[np.argsort(wanted - ideal, kind="stable")[: max(short, 0)]] += 1
    # Whatever the rounding says, a class that can be on both sides is; one that cannot is trained on.
    wanted = np.clip(wanted, np.minimum(members - 1, 1), members - 1)
    for code in np.flatnonzero(members == 1):
        warn_once(f"{_name(task, int(code))} has one member only, which is trained on and never tested")
    tested = np.zeros(len(task), dtype=np.bool_)
    for rows, count in zip(_shuffled_by_class(task, seed), wanted, strict=True):
        tested[rows[: max(count, 0)]] = True
    return tested


def _stratified_parts(task: TableTask, folds: int, seed: int) -> Indices:
    """The fold in which each row is tested, -1 for none."""
    members = task.class_counts
    rarest = int(members.argmin())
    if task.binary and members[rarest] < folds:
        raise ValueError(
            f"{_name(task, rarest)} has {members[rarest]} members, too few for {folds} folds with one each; "
            + (f"use folds={members[rarest]}" if members[rarest] > 1 else "at least 2 are needed")
        )
    for code in np.flatnonzero((members > 0) & (members < folds)):
        warn_once(
            f"{_name(task, int(code))} has one member only, which is trained on and never tested"
            if members[code] == 1
            else f"{_name(task, int(code))} has {members[code]} members for {folds} folds: it is not tested in all"
        )
    parts = np.full(len(task), -1, dtype=np.int64)
    dealt = [rows for rows in _shuffled_by_class(task, seed) if len(rows) > 1]
    # Dealt like cards, class after class: folds differ by at most one row in each class and in total.
    parts[np.concatenate(dealt)] = np.arange(sum(map(len, dealt))) % folds
    return parts


def _group_parts(task: TableTask, groups: Indices, count: int, seed: int) -> Indices:
    """The part of each row, groups whole and classes as even as they allow."""
    from sklearn.model_selection import StratifiedGroupKFold

    there = len(np.unique(groups))
    if there < count:
        raise ValueError(f"there are {there} groups, too few for {count} parts; use fewer folds")
    if task.class_counts.max() < count:
        raise ValueError(f"no class has {count} members, one for each of {count} parts; use fewer folds")
    parts = np.empty(len(task), dtype=np.int64)
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # What it warns of, a class with few members, is judged on the outcome.
        warnings.simplefilter("ignore", UserWarning)
        for part, (_, rows) in enumerate(splitter.split(task.target, task.target, groups)):
            parts[rows] = part
    return parts


def _cuts(times: NDArray[np.generic], shares: NDArray[np.float64]) -> list[int]:
    """Where to cut the rows sorted by time, near the given shares of rows and never between equal times."""
    ordered = np.sort(times)
    possible = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    if len(possible) < len(shares):
        raise ValueError(
            f"the rows have {len(possible) + 1} different times, too few to cut them in {len(shares) + 1} parts"
            + ("; use fewer folds" if len(shares) > 1 else "")
        )
    cuts = [int(possible[np.argmin(np.abs(possible - share * len(times)))]) for share in shares]
    if len(set(cuts)) < len(cuts):
        raise ValueError(f"too many rows have the same time to cut them in {len(shares) + 1} parts; use fewer folds")
    return cuts


def _purged(task: TableTask, train: Indices, test: Indices) -> Split:
    if task.groups is not None:
        train = train[~np.isin(task.groups[train], task.groups[test])]
    return np.sort(train), np.sort(test)


def _check_sides(task: TableTask, split: Split, where: str) -> None:
    train, test = (np.bincount(task.target[rows], minlength=len(task.classes)) for rows in split)
    if task.times is not None:
        hint = "classes change with time: use fewer folds or a larger test part"
    elif task.groups is not None:
        hint = "it sits in too few groups: use fewer folds or a larger test part"
    else:
        hint = "use fewer folds or a larger test part"
    present = task.class_counts > 0
    for name, counts in (("training", train), ("test", test)):
        if not counts.any():
            raise ValueError(f"the {name} part of {where} is empty; {hint}")
        absent = np.flatnonzero(present & (counts == 0))
        if len(absent) == 0:
            continue
        first = _name(task, int(absent[0]))
        # A model knows the classes it was trained on; a test with two classes still says something.
        if name == "training" or (counts > 0).sum() < 2:
            raise ValueError(f"the {name} part of {where} holds no row of {first}; {hint}")
        if task.times is not None or task.groups is not None:  # plain splits have said it once for all parts
            warn_once(f"the test part of {where} holds no row of {first}, which it cannot judge")


def _name(task: TableTask, code: int) -> str:
    return f"class {task.classes[code]!r} of {task.target_name!r}"
