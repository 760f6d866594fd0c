"""Curvature: zero in a plane and a line, positive in a ring, negative in a tree."""

import itertools
import math

import numpy as np
import pytest
import torch

from equipoise.knowledge import triangle_curvature
from equipoise.knowledge.diagnostics.curvature import graph_curvature


def _ring(n):
    return [(k, (k + 1) % n) for k in range(n)]


def _line(n):
    return [(k, k + 1) for k in range(n - 1)]


def _tree(branching, depth):
    nodes = sum(branching**level for level in range(depth + 1))
    return [((k - 1) // branching, k) for k in range(1, nodes)]


def _found(pairs, triangles=300, seed=0):
    return graph_curvature(np.array(pairs, dtype=np.int64).reshape(-1, 2), triangles, seed)


def test_triangles_of_the_plane_are_flat():
    corners = torch.randn(3, 50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a, b, c = corners
    middle = (b + c) / 2
    distances = [(x - y).norm(dim=1) for x, y in ((a, middle), (b, c), (a, b), (a, c))]
    assert triangle_curvature(*distances).abs().max() < 1e-12


def test_a_tripod_is_bent_and_a_great_circle_is_not_flat():
    length = torch.tensor([1.0, 5.0])
    assert triangle_curvature(length, 2 * length, 2 * length, 2 * length).tolist() == [-1.0, -5.0]
    quarter = torch.tensor([math.pi / 2])
    assert float(triangle_curvature(quarter, quarter, quarter, quarter)) > 0


def test_any_shape_is_taken():
    found = triangle_curvature(*(torch.tensor(each) for each in (2.0, 2.0, 3.0, 3.0)))
    assert found.shape == ()
    assert float(found) == -1.0
    assert triangle_curvature(*(torch.ones(2, 3) for _ in range(4))).shape == (2, 3)


def test_bad_distances_are_refused(plain_inputs):
    good = torch.ones(2)
    with pytest.raises(ValueError, match="d_am must be greater than 0"):
        triangle_curvature(torch.tensor([1.0, 0.0]), good, good, good)
    with pytest.raises(ValueError, match="d_ab must be at least 0"):
        triangle_curvature(good, good, -good, good)
    with pytest.raises(ValueError, match="d_ac must have shape"):
        triangle_curvature(good, good, good, torch.ones(3))


def test_lines_are_flat_exactly():
    found = _found(_line(9))
    assert found.mean == 0
    assert 0 < found.triangles <= 300
    assert (found.weight, found.sizes.tolist()) == (729, [9])


@pytest.mark.parametrize("n", [3, 4, 7, 12])
def test_rings_are_round(n):
    assert _found(_ring(n)).mean > 0


@pytest.mark.parametrize("branching", [2, 3])
def test_trees_are_bent(branching):
    assert _found(_tree(branching, 4)).mean < -0.3


def test_complete_graphs_are_round():
    assert _found(list(itertools.combinations(range(6), 2))).mean == pytest.approx(0.5)


def _every_triangle(pairs):
    """The mean over all triples of nodes of one component, from distances by Floyd and Warshall."""
    nodes = sorted({node for pair in pairs for node in pair})
    far = {(i, j): 0 if i == j else math.inf for i in nodes for j in nodes}
    for i, j in pairs:
        far[i, j] = far[j, i] = min(far[i, j], 1)
    for k, i, j in itertools.product(nodes, nodes, nodes):
        far[i, j] = min(far[i, j], far[i, k] + far[k, j])
    values = []
    for a, b, c in itertools.permutations(nodes, 3):
        half = far[b, c] / 2
        if half == int(half):
            to_middle = [far[a, m] for m in nodes if far[b, m] == half == far[m, c]]
        else:
            edges = [
                (m, n)
                for m, n in itertools.permutations(nodes, 2)
                if far[m, n] == 1 and far[b, m] == half - 0.5 and far[n, c] == half - 0.5
            ]
            to_middle = [min(far[a, m], far[a, n]) + 0.5 for m, n in edges]
        assert len(to_middle) == 1  # in a tree there is one shortest path
        if middle := to_middle[0]:
            values.append((middle**2 + half**2 - (far[a, b] ** 2 + far[a, c] ** 2) / 2) / (2 * middle))
    return np.mean(values)


@pytest.mark.parametrize("pairs", [_tree(2, 2), [(0, 1), (1, 2), (2, 3), (1, 4), (1, 5)]])
def test_the_sample_is_of_all_triangles(pairs):
    assert _found(pairs, 3000).mean == pytest.approx(_every_triangle(pairs), abs=0.04)


def test_triangles_are_shared_out_by_the_cube_of_the_size():
    line, tree = _line(8), [(100 + a, 100 + b) for a, b in _tree(3, 2)]
    found = _found([*line, *tree], 4000)
    assert found.sizes.tolist() == [13, 8]
    share = 13**3 / (13**3 + 8**3)
    assert found.mean == pytest.approx(share * _found(tree, 4000).mean, abs=0.04)


def test_direction_repetition_and_loops_do_not_count():
    pairs = _tree(2, 3)
    other = [(b, a) for a, b in pairs] + pairs + [(k, k) for k in range(15)]
    assert _found(other).mean == _found(pairs).mean
    assert _found(pairs, seed=1).mean != _found(pairs).mean


@pytest.mark.parametrize("pairs", [[], [(0, 1), (2, 3)], [(4, 4)]])
def test_without_three_nodes_together_there_is_none(pairs):
    found = _found(pairs)
    assert math.isnan(found.mean)
    assert found.triangles == 0


def test_many_small_components_are_drawn_from():
    pairs = [(10 * k + a, 10 * k + b) for k in range(50) for a, b in _ring(3)]
    assert _found(pairs, 20).triangles == 20
