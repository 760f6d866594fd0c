"""What relations look like: kinds, symmetry, hierarchy and the geometry that they point to."""

import math

import pytest
import torch

from equipoise.data import KGDataset, make_family_graph, make_tree_ring_graph
from equipoise.knowledge import RelationProfile, krackhardt_hierarchy, relation_profile, relation_types


def _hierarchy_by_loop(links):
    total = one_way = 0
    for i, row in enumerate(links):
        for j, link in enumerate(row):
            total += link
            one_way += link * (1 - links[j][i])
    return one_way / total


@pytest.mark.parametrize("seed", range(4))
def test_hierarchy_is_that_of_a_loop(seed):
    links = (torch.rand(9, 9, generator=torch.Generator().manual_seed(seed)) < 0.3).long()
    expected = _hierarchy_by_loop(links.tolist())
    for kind in (torch.int64, torch.bool, torch.float64):
        assert krackhardt_hierarchy(links.to(kind)) == pytest.approx(expected)
    assert krackhardt_hierarchy(links | links.T) == 0
    assert krackhardt_hierarchy(torch.triu(torch.ones(5, 5), 1)) == 1


def test_hierarchy_of_nothing_is_unknown():
    with pytest.warns(UserWarning, match="adjacency holds no link"):
        assert math.isnan(krackhardt_hierarchy(torch.zeros(3, 3).long()))
    assert krackhardt_hierarchy(torch.ones(1, 1).long()) == 0


def test_hierarchy_refuses_what_is_no_graph(plain_inputs):
    with pytest.raises(ValueError, match=r"adjacency must (have shape|be square)"):
        krackhardt_hierarchy(torch.zeros(2, 3).long())
    with pytest.raises(ValueError, match="adjacency holds the value 2"):
        krackhardt_hierarchy(torch.full((2, 2), 2))


def test_kinds_of_relations():
    one = [[k, 0, k + 5] for k in range(4)]
    fan = [[0, 1, k] for k in range(1, 4)]
    funnel = [[k, 2, 0] for k in range(1, 4)]
    net = [[k, 3, j] for k in range(3) for j in range(4, 7)]
    triples = torch.tensor([*one, *fan, *funnel, *net])
    assert relation_types(triples, 5) == ("1-1", "1-N", "N-1", "N-N", None)
    assert relation_types(torch.cat([triples, triples]), 5) == relation_types(triples, 5)
    assert relation_types(triples[:, [2, 1, 0]], 5) == ("1-1", "N-1", "1-N", "N-N", None)
    # Three tails of two heads are 1.5 for each, which counts as many.
    edge = torch.tensor([[0, 0, 5], [0, 0, 6], [1, 0, 7]])
    assert relation_types(edge, 1) == ("1-N",)
    assert relation_types(edge, 1, many=1.6) == ("1-1",)


def test_kinds_refuse_relations_out_of_range(plain_inputs):
    with pytest.raises(IndexError, match=r"triples \(relations\) holds the number 1, wanted 0 to 0"):
        relation_types(torch.tensor([[0, 1, 1]]), 1)
    with pytest.raises(ValueError, match="triples must have shape"):
        relation_types(torch.tensor([[0, 1]]), 1)


def test_trees_rings_and_chains_point_to_their_geometry():
    graph = make_tree_ring_graph(steps=(1,), chain=40, fractions=(1, 0, 0))
    tree, ring, chain, _ = table = relation_profile(graph, triangles=300)
    assert (tree.name, tree.geometry, tree.type) == ("ancestor of", "hyperbolic", "N-N")
    assert (ring.geometry, ring.type, ring.components, ring.largest) == ("spherical", "1-1", 6, 12)
    assert (chain.geometry, chain.curvature, chain.components) == ("euclidean", 0.0, 1)
    assert {each.hierarchy for each in table} == {1.0}
    assert (tree.triples, tree.train, tree.validation, tree.test) == (426, 426, 0, 0)
    assert tree.weight == 121**3
    expected = sum(each.weight * each.curvature for each in table) / sum(each.weight for each in table)
    assert table.curvature == pytest.approx(expected)
    assert relation_profile(graph, triangles=300, flat=10.0)[0].geometry == "euclidean"
    assert relation_profile(graph, triangles=300, seed=1)[0].curvature != tree.curvature


def _all(graph):
    return torch.cat([graph.train, graph.validation, graph.test]).tolist()


def test_columns_are_those_of_the_triples():
    graph = make_family_graph(3, 4)
    table = relation_profile(graph, parts=("train", "validation", "test"), triangles=50)
    parent, spouse, sibling, ancestor = table
    assert len(table) == 4
    assert spouse.symmetry == sibling.symmetry == 1
    assert spouse.hierarchy == 0
    assert parent.heads_per_tail == 2
    assert parent.tails_per_head == parent.triples / len({h for h, r, _ in _all(graph) if r == 0})
    assert parent.entities == len({e for h, r, t in _all(graph) if r == 0 for e in (h, t)})
    assert (spouse.type, spouse.geometry) == ("1-1", None)
    assert ancestor.symmetry == 0
    for each in table:
        assert each.train + each.validation + each.test == each.triples
    frame = table.to_frame()
    assert list(frame.name) == list(graph.relation_names)
    assert frame.shape == (4, len(RelationProfile.__dataclass_fields__))
    assert table.rows()[2]["symmetry"] == 1


def test_by_default_only_training_is_looked_at():
    graph = KGDataset.from_triples([[0, 0, 1]], test=[[1, 0, 0]])
    (one,) = relation_profile(graph)
    assert (one.symmetry, one.hierarchy, one.triples, one.test) == (0, 1, 1, 1)
    (both,) = relation_profile(graph, parts=("test", "train"))
    assert (both.symmetry, both.hierarchy) == (1, 0)


def test_loops_and_missing_relations():
    graph = KGDataset.from_triples([[0, 0, 0], [1, 0, 1]], num_relations=2)
    loops, none = table = relation_profile(graph)
    assert math.isnan(loops.symmetry)
    assert (loops.hierarchy, loops.components) == (0, 2)
    assert (none.triples, none.type, none.components, none.largest) == (0, None, 0, 0)
    assert all(math.isnan(value) for value in (none.symmetry, none.hierarchy, none.curvature, table.curvature))


def test_bad_settings_are_refused():
    graph = KGDataset.from_triples([[0, 0, 1]])
    with pytest.raises(
        ValueError, match=r"parts\[0\]='valid' is not known; choose one of 'train', 'validation', 'test'"
    ):
        relation_profile(graph, parts=("valid",))
    with pytest.raises(ValueError, match="parts"):
        relation_profile(graph, parts=())
    with pytest.raises(ValueError, match="hold no triple"):
        relation_profile(graph, parts=("test",))
    with pytest.raises(ValueError, match="graph must be a KGDataset"):
        relation_profile(graph.train)
