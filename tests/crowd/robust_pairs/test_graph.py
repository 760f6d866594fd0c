"""The graph of edges: what is merged, what is kept apart, and what a majority says."""

from collections import Counter

import numpy as np
import pytest
import torch

from equipoise.crowd import ComparisonGraph, majority_vote
from equipoise.data import Comparisons, PairCounts


def _drawn(seed, attributes=2):
    generator = np.random.default_rng(seed)
    n, items = int(generator.integers(1, 40)), int(generator.integers(2, 7))
    i = generator.integers(0, items, n)
    j = (i + generator.integers(1, items, n)) % items
    y, w = generator.choice([-1, 1], n), generator.integers(1, 4, n)
    return [torch.tensor(each) for each in (i, j, y, w, generator.integers(0, attributes, n))]


@pytest.mark.parametrize("seed", range(25))
def test_edges_are_those_of_a_loop(seed):
    i, j, y, w, a = _drawn(seed)
    wanted = Counter()
    keys = []
    for left, right, label, weight, group in zip(*(each.tolist() for each in (i, j, y, w, a)), strict=True):
        keys.append((group, min(left, right), max(left, right), label if left < right else -label))
        wanted[keys[-1]] += weight
    graph = ComparisonGraph.from_edges(i, j, y, w, a)
    columns = (graph.attribute, graph.item_i, graph.item_j, graph.y)
    found = list(zip(*(each.tolist() for each in columns), strict=True))
    assert dict(zip(found, graph.strength.tolist(), strict=True)) == wanted
    assert [found[place] for place in graph.edge_of.tolist()] == keys
    both = [(g, p, q, -s) in wanted for g, p, q, s in found]
    assert graph.both_directions().tolist() == both


@pytest.mark.parametrize("seed", range(25))
def test_a_majority_is_that_of_a_loop_per_attribute(seed):
    i, j, y, w, a = _drawn(seed)
    votes, total = {}, 0
    for left, right, label, weight, group in zip(*(each.tolist() for each in (i, j, y, w, a)), strict=True):
        sides = votes.setdefault((group, min(left, right), max(left, right)), [0, 0])
        sides[int((label == 1) != (left < right))] += weight
        total += weight
    found = majority_vote(i, j, y, w, a)
    rows = zip(*(each.tolist() for each in (found.attribute, found.pair_i, found.pair_j, found.label)), strict=True)
    assert [row[:3] for row in rows] == sorted(votes)
    assert found.label.tolist() == [int(np.sign(first - second)) for _, (first, second) in sorted(votes.items())]
    assert (found.minority_votes, found.total_votes) == (sum(map(min, votes.values())), total)


def test_a_graph_of_comparisons_counts_as_pair_counts_do():
    i, j, y, w, _ = _drawn(3)
    said = Comparisons.from_columns(None, i, j, y, w, num_items=9)
    graph = ComparisonGraph.of(said)
    for name in ("first", "second", "first_wins", "second_wins"):
        torch.testing.assert_close(getattr(graph.counts(), name), getattr(PairCounts.of(said), name))
    assert graph.components().tolist() == said.components().tolist()


def test_ties_are_refused_dropped_or_halved():
    said = Comparisons.from_columns(None, [0, 1, 2], [1, 0, 1], [0, 1, 0], [2.0, 3.0, 1.0], item_names=["a", "b", "c"])
    with pytest.raises(ValueError, match="2 ties"):
        ComparisonGraph.of(said)
    dropped = ComparisonGraph.of(said, ties="drop")
    assert (dropped.y.tolist(), dropped.strength.tolist(), dropped.edge_of.tolist()) == ([-1], [3.0], [-1, 0, -1])
    halved = ComparisonGraph.of(said, ties="half")
    assert halved.strength.tolist() == [1.0, 4.0, 0.5, 0.5]
    assert halved.edge_of.tolist() == [-1, 1, -1]
    assert halved.item_names == ("a", "b", "c")
    with pytest.raises(ValueError, match="all ties"):
        ComparisonGraph.of(said.take(torch.tensor([0])), ties="drop")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item_i": torch.tensor([1, 2])}, "item_i and item_j are both 1 in row 0"),
        ({"item_j": torch.tensor([-1, 0])}, "item_j holds -1"),
        ({"num_items": 2}, "item_i holds 2, wanted 0 to 1"),
        ({"strength": torch.tensor([1, 0])}, "strength must be greater than 0"),
        ({"y": torch.tensor([0, 1])}, "y holds the value 0"),
        ({"attribute": torch.tensor([0, -1])}, "attribute holds -1"),
        ({"y": torch.tensor([1])}, "y must have shape"),
    ],
)
@pytest.mark.usefixtures("plain_inputs")
def test_bad_edges_are_refused_by_name(change, message):
    good = {"item_i": torch.tensor([0, 2]), "item_j": torch.tensor([1, 0]), "y": torch.tensor([1, -1])}
    with pytest.raises(ValueError, match=message):
        ComparisonGraph.from_edges(**{**good, **change})
    with pytest.raises(ValueError, match="item_i is empty"):
        ComparisonGraph.from_edges(*(torch.zeros(0, dtype=torch.long) for _ in range(3)))
    with pytest.raises(ValueError, match="attribute=1 has no edges"):
        ComparisonGraph.from_edges(**good).counts(1)
