"""Columns of comparisons, their counts by pair, and what the graph of items looks like."""

import numpy as np
import pytest
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from equipoise.data import Comparisons, PairCounts


def _drawn(seed):
    generator = np.random.default_rng(seed)
    items, rows = int(generator.integers(3, 12)), int(generator.integers(2, 15))
    left = generator.integers(0, items, rows)
    right = (left + generator.integers(1, items, rows)) % items
    label, weight = generator.integers(-1, 2, rows), generator.random(rows) + 0.5
    return Comparisons.from_columns(generator.integers(0, 3, rows), left, right, label, weight, num_items=items)


@pytest.mark.parametrize("seed", range(30))
def test_counts_are_those_of_a_loop_and_parts_add_up(seed):
    said = _drawn(seed)
    wanted = {}
    for i, j, y, w in zip(*(getattr(said, n).tolist() for n in ("left", "right", "label", "weight")), strict=True):
        cell = wanted.setdefault((min(i, j), max(i, j)), [0.0, 0.0, 0.0])
        cell[2 if y == 0 else int((i < j) != (y == 1))] += w
    counts = PairCounts.of(said)
    found = dict(
        zip(
            zip(counts.first.tolist(), counts.second.tolist(), strict=True),
            torch.stack([counts.first_wins, counts.second_wins, counts.ties], 1).tolist(),
            strict=True,
        )
    )
    assert list(found) == sorted(wanted)
    assert all(found[pair] == pytest.approx(cell) for pair, cell in wanted.items())
    rows = torch.arange(len(said))
    halves = [PairCounts.of(said.take(rows[k::2])) for k in range(2)]
    together = halves[0].merged(halves[1])
    for name in ("first", "second", "first_wins", "second_wins", "ties"):
        torch.testing.assert_close(getattr(together, name), getattr(counts, name))


@pytest.mark.parametrize("seed", range(30))
def test_components_are_those_of_scipy_the_largest_first(seed):
    said = _drawn(seed)
    links = coo_array((np.ones(len(said)), (said.left, said.right)), shape=(said.num_items,) * 2)
    count, codes = connected_components(links, directed=False)
    found = said.components().numpy()
    assert len(set(zip(codes, found, strict=True))) == count == found.max() + 1
    assert (np.diff(np.bincount(found)) <= 0).all()
    assert PairCounts.of(said).components().tolist() == found.tolist()


def test_who_never_loses_is_a_component_of_its_own():
    said = Comparisons.from_columns(None, [0, 0, 1, 2], [1, 2, 2, 1], [1, 1, 1, 1])
    counts = PairCounts.of(said)
    assert counts.strong_components().tolist() == [1, 0, 0]
    tied = PairCounts.of(Comparisons.from_columns(None, [0, 0], [1, 2], [0, 0]))
    assert tied.strong_components().tolist() == [0, 0, 0]


def test_a_long_chain_is_one_component():
    n = 5000
    order = np.random.default_rng(0).permutation(n)
    said = Comparisons.from_columns(None, order[:-1], order[1:], np.ones(n - 1))
    assert not said.components().any()


@pytest.mark.parametrize(
    ("columns", "error", "words"),
    [
        ((None, [0, 1], [1, 1], [1, 1]), ValueError, "left of row 1 is 1, the same item as right"),
        ((None, [0, 1], [1, 0], [1, 2]), ValueError, "label of row 1 is 2, wanted 1"),
        ((None, [0], [1], [1], [0.0]), ValueError, "weight of row 0 is 0.0"),
        ((None, [0], [1], [1], [np.nan]), ValueError, "weight of row 0 is nan"),
        ((None, [], [], []), ValueError, "no comparisons"),
        ((None, [0, 1], [1], [1, 1]), ValueError, "right has shape"),
        ((None, [0.5], [1], [1]), ValueError, "left must hold whole numbers"),
        ((None, [-1], [1], [1]), IndexError, "left holds -1"),
    ],
)
def test_bad_columns_are_refused_by_row(columns, error, words):
    with pytest.raises(error, match=words):
        Comparisons.from_columns(*columns)


def test_an_index_beyond_the_size_is_refused():
    with pytest.raises(IndexError, match="right holds 4, wanted 0 to 2"):
        Comparisons.from_columns(None, [0], [4], [1], num_items=3)
