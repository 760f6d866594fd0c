"""Triples in three parts: what is refused, what is counted, what is new in the test; known answers and splits."""

import itertools

import numpy as np
import pytest
import torch

from equipoise.data import KGDataset, KnownTails, make_family_graph, split_triples


def _random(generator, n, entities=9, relations=3):
    return torch.stack([torch.randint(size, (n,), generator=generator) for size in (entities, relations, entities)], 1)


def test_sizes_names_and_inverse():
    graph = KGDataset.from_triples(
        [[0, 1, 2]], test=np.array([[2, 0, 1]], dtype=np.int32), entity_names="abc", relation_names=["r", "s"]
    )
    assert (graph.num_entities, graph.num_relations) == (3, 2)
    assert graph.validation.shape == (0, 3)
    assert graph.with_inverse(graph.train).tolist() == [[0, 1, 2], [2, 3, 0]]
    assert graph.words(graph.with_inverse(graph.train)) == [("a", "s", "c"), ("c", "s backwards", "a")]
    assert repr(graph) == "KGDataset(3 entities, 2 relations; 1 train, 0 validation, 1 test)"
    assert graph.unseen.tolist() == [1]
    assert graph.unseen_relations.tolist() == [0]


@pytest.mark.parametrize(
    ("train", "error", "words"),
    [
        ([[0, 1]], ValueError, r"train must be \(n, 3\) whole numbers.*got shape \(1, 2\)"),
        ([[0, 1, 2], [0, 1]], ValueError, "rows of different lengths"),
        ([[0.0, 1.0, 2.0]], ValueError, "whole numbers.*float64"),
        ([[True, False, True]], ValueError, "whole numbers.*bool"),
        ([["a", "b", "c"]], ValueError, "whole numbers"),
        ([], ValueError, "train holds no triple"),
        ([[0, 0, -1]], IndexError, "holds the number -1"),
        (np.array([[0, 0, 2**63]], dtype=np.uint64), IndexError, "int64 does not hold"),
    ],
)
def test_bad_triples_are_refused(train, error, words):
    with pytest.raises(error, match=words):
        KGDataset.from_triples(train)


def test_ids_and_names_must_fit():
    with pytest.raises(IndexError, match=r"train \(entities\) holds the number 3, wanted 0 to 2"):
        KGDataset.from_triples([[0, 0, 3]], num_entities=3)
    with pytest.raises(IndexError, match=r"test \(relations\) holds the number 1, wanted 0 to 0"):
        KGDataset.from_triples([[0, 0, 1]], test=[[0, 1, 0]], num_relations=1)
    with pytest.raises(ValueError, match="entity_names must have one name for each of 3, got 2"):
        KGDataset.from_triples([[0, 0, 1]], num_entities=3, entity_names=["a", "b"])


def test_the_class_itself_takes_int64_only(plain_inputs):
    none = torch.zeros((0, 3), dtype=torch.int64)
    with pytest.raises(ValueError, match=r"must be a torch\.Tensor, got list; use KGDataset\.from_triples"):
        KGDataset([[0, 0, 1]], none, none, 2, 1)
    with pytest.raises(ValueError, match=r"must be int64, got torch\.int32"):
        KGDataset(torch.tensor([[0, 0, 1]], dtype=torch.int32), none, none, 2, 1)


def test_repeated_triples_count_once_and_leaks_are_told():
    with pytest.warns(UserWarning, match="2 of 4 triples of train repeat an earlier one"):
        graph = KGDataset.from_triples([[1, 0, 0], [0, 0, 1], [1, 0, 0], [1, 0, 0]])
    assert graph.train.tolist() == [[1, 0, 0], [0, 0, 1]]
    with pytest.warns(UserWarning, match="1 of 2 triples of test are in training too"):
        graph = KGDataset.from_triples([[0, 0, 1]], test=[[0, 0, 1], [1, 0, 0]])
    assert len(graph.test) == 2


def test_known_tails_are_those_of_a_loop():
    generator = torch.Generator().manual_seed(0)
    parts = [_random(generator, n) for n in (40, 0, 15)]
    known = KnownTails.from_triples(*parts, num_entities=9, num_relations=3)
    wanted: dict = {}
    for h, r, t in torch.cat(parts).tolist():
        wanted.setdefault((h, r), set()).add(t)
        wanted.setdefault((t, r + 3), set()).add(h)
    assert len(known) == sum(map(len, wanted.values()))
    queries = [(h, r) for h in range(9) for r in range(6)] * 2
    heads, relations = torch.tensor(queries).flip(0).unbind(1)
    offsets, tails = known.of(heads, relations)
    found = [tails[a:b].tolist() for a, b in itertools.pairwise(offsets.tolist())]
    assert found == [sorted(wanted.get(query, ())) for query in reversed(queries)]


def test_known_tails_of_nothing_and_of_nobody():
    none = torch.zeros((0, 3), dtype=torch.int64)
    known = KnownTails.from_triples(none, num_entities=2, num_relations=1)
    offsets, tails = known.of(torch.tensor([0, 1]), torch.tensor([1, 0]))
    assert offsets.tolist() == [0, 0, 0]
    assert len(tails) == 0
    full = KnownTails.from_triples(torch.tensor([[0, 0, 1]]), num_entities=2, num_relations=1)
    assert [each.tolist() for each in full.of(none[:, 0], none[:, 0])] == [[0], []]


def test_known_tails_refuse_what_is_not_there(plain_inputs):
    known = KnownTails.from_triples(torch.tensor([[0, 0, 1]]), num_entities=2, num_relations=1)
    with pytest.raises(IndexError, match="heads holds the number 2, wanted 0 to 1"):
        known.of(torch.tensor([2]), torch.tensor([0]))
    with pytest.raises(IndexError, match="relations holds the number 2, wanted 0 to 1"):
        known.of(torch.tensor([0]), torch.tensor([2]))
    with pytest.raises(ValueError, match="parts are missing"):
        KnownTails.from_triples(num_entities=2, num_relations=1)
    with pytest.raises(ValueError, match="whole numbers"):
        KnownTails.from_triples(torch.rand(3, 3), num_entities=2, num_relations=1)
    with pytest.raises(ValueError, match="more pairs than int64 counts"):
        KnownTails.from_triples(torch.tensor([[0, 0, 1]]), num_entities=2**40, num_relations=2**30)


def test_known_takes_the_parts_that_are_named():
    graph = make_family_graph(2, 3)
    assert len(graph.known()) == 2 * sum(len(part) for part in (graph.train, graph.validation, graph.test))
    assert len(graph.known("train")) == 2 * len(graph.train)


@pytest.mark.parametrize("seed", range(3))
def test_a_split_keeps_every_triple_once_and_everybody_in_training(seed):
    generator = torch.Generator().manual_seed(seed)
    triples = _random(generator, 120, entities=60).unique(dim=0)
    graph = KGDataset.from_triples(triples, num_entities=65, num_relations=4)
    split = split_triples(graph, (2, 1, 1), seed=seed)
    assert len(split_triples(graph, (2, 1, 1), cover=False, seed=seed).unseen)
    parts = [split.train, split.validation, split.test]
    assert torch.equal(torch.cat(parts).unique(dim=0), triples)
    assert [len(part) for part in parts] == pytest.approx([len(triples) / 2, len(triples) / 4, len(triples) / 4], abs=1)
    assert not len(split.unseen)
    assert not len(split.unseen_relations)
    assert (split.num_entities, split.num_relations) == (65, 4)
    other = split_triples(graph, (2, 1, 1), seed=seed + 1)
    assert not torch.equal(other.test, split.test)
    again = split_triples(split, (2, 1, 1), seed=seed)
    assert torch.equal(again.train, split.train)


def test_a_split_that_cannot_cover_says_so():
    graph = KGDataset.from_triples([[2 * k, 0, 2 * k + 1] for k in range(10)])
    with pytest.warns(UserWarning, match="10 entities and 0 relations of validation and test are not in training"):
        split = split_triples(graph, (0.5, 0.2, 0.3))
    assert (len(split.train), len(split.validation), len(split.test)) == (5, 2, 3)
    assert len(split_triples(graph, (0.5, 0.2, 0.3), cover=False).unseen) == 10


def test_bad_fractions_are_refused():
    graph = KGDataset.from_triples([[0, 0, 1], [1, 0, 2]])
    with pytest.raises(ValueError, match="must be three shares"):
        split_triples(graph, (0.5, 0.5))
    with pytest.raises(ValueError, match="leave no triple of 2 for training"):
        split_triples(graph, (0, 0.5, 0.5))
