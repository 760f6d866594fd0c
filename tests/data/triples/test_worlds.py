"""The small graphs are what they say they are."""

import pytest
import torch

from equipoise.data import make_cluster_graph, make_family_graph, make_tree_ring_graph


def _all(graph):
    return torch.cat([graph.train, graph.validation, graph.test])


def test_the_tree_is_closed_and_the_rings_are_round():
    graph = make_tree_ring_graph(2, 3, rings=2, ring_size=5, steps=(1, 2), chain=4)
    assert graph.num_entities == 15 + 10 + 4
    names = dict(enumerate(graph.relation_names))
    held = {(h, names[r], t) for h, r, t in _all(graph).tolist()}
    ancestors = {(a, t) for a, name, t in held if name == "ancestor of"}
    assert len(ancestors) == 1 * 2 + 2 * 4 + 3 * 8
    assert all((a, c) in ancestors for a, b in ancestors for other, c in ancestors if b == other)
    assert {t for a, t in ancestors if a == 0} == set(range(1, 15))
    for step in (1, 2):
        ring = {(a, t) for a, name, t in held if name == f"{step} on in the ring"}
        assert ring == {(15 + 5 * k + p, 15 + 5 * k + (p + step) % 5) for k in range(2) for p in range(5)}
    assert {(a, t) for a, name, t in held if name == "3 on in the chain"} == {(25, 28)}
    assert len({(a, t) for a, name, t in held if name == "1 on in the chain"}) == 3


def test_the_default_is_the_graph_of_the_claim():
    graph = make_tree_ring_graph()
    assert graph.num_entities == 121 + 72
    assert len(_all(graph)) == 426 + 3 * 72
    assert (len(graph.train), len(graph.test)) == (514, 128)
    assert not torch.equal(make_tree_ring_graph(seed=1).test, graph.test)
    assert torch.equal(make_tree_ring_graph().test, graph.test)


def test_a_tree_alone():
    assert make_tree_ring_graph(2, 2, rings=0).relation_names == ("ancestor of",)


def test_links_lead_from_cluster_to_cluster():
    graph = make_cluster_graph(noise=0)
    triples = _all(graph)
    source, target = triples[:, 0] % 20, triples[:, 2] % 20
    for relation in range(8):
        pairs = torch.stack([source, target], 1)[triples[:, 1] == relation].unique(dim=0)
        assert len(pairs) == len(pairs[:, 0].unique()) == len(pairs[:, 1].unique())
    assert len(graph.train) / len(triples) == pytest.approx(0.6, abs=1e-3)
    noisy = make_cluster_graph()
    held = torch.cat([noisy.train, noisy.test])
    assert len(held.unique(dim=0)) == len(held)  # no random triple gives an answer of the test away
    with pytest.raises(ValueError, match="gave 0 links"):
        make_cluster_graph(head_share=0.0)


def test_families_follow_their_rules():
    graph = make_family_graph(3, 4, seed=2)
    assert len(set(graph.entity_names)) == graph.num_entities
    held = {name: set() for name in graph.relation_names}
    for h, r, t in _all(graph).tolist():
        held[graph.relation_names[r]].add((h, t))
    parent, spouse, sibling, ancestor = (held[f"{name} of"] for name in ("parent", "spouse", "sibling", "ancestor"))
    assert spouse == {(b, a) for a, b in spouse}
    assert sibling == {(b, a) for a, b in sibling}
    assert {a for a, _ in spouse} != set(range(graph.num_entities))
    parents = {child: {p for p, c in parent if c == child} for _, child in parent}
    assert {len(each) for each in parents.values()} == {2}
    assert sibling == {(a, b) for a in parents for b in parents if a != b and parents[a] == parents[b]}
    closed = set(parent)
    while more := {(a, d) for a, b in closed for c, d in parent if b == c} - closed:
        closed |= more
    assert ancestor == closed
    assert not len(graph.unseen)
    assert make_family_graph(1, 1, fractions=(1, 0, 0)).num_entities == 2
