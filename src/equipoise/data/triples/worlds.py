"""Small graphs by rule, so that everything runs without files: trees and rings, clusters, families with names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, OpenFraction, Probability, Whole
from equipoise.data.triples.graph import KGDataset
from equipoise.data.triples.splits import split_triples


@checked
def make_tree_ring_graph(
    branching: Count = 3,
    depth: Count = 4,
    *,
    rings: Whole = 6,
    ring_size: Count = 12,
    steps: Sequence[Count] = (1, 2, 5),
    chain: Whole = 0,
    fractions: Sequence[NonNegative] = (0.8, 0.0, 0.2),
    seed: Whole = 0,
) -> KGDataset:
    """A tree whose relation is "ancestor", beside rings whose relations lead so many steps on.

    No single geometry suits both: distances in a tree are those of a hyperbolic space, in a ring those of a circle.

    Args:
        branching: children of each inner node of the tree.
        depth: of the tree; with 3 children and depth 4 it has 121 nodes.
        rings: how many; 0 for the tree alone.
        ring_size: nodes of a ring.
        steps: one relation for each, from every node of a ring to the one so many steps on.
        chain: nodes of a chain with relations of one and of three steps; 0 for none.
        fractions: of training, validation and test. The split is plainly random: an entity may be missing in training.
        seed: of the split.

    Raises:
        ValueError: on an argument out of range.

    >>> make_tree_ring_graph()
    KGDataset(193 entities, 4 relations; 514 train, 0 validation, 128 test)
    """
    sizes = branching ** np.arange(depth + 1)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    nodes = int(starts[-1])
    parts, names = [], ["ancestor of"]
    node = np.arange(1, nodes)
    above = node
    while len(above):
        # Of node k in breadth-first order the parent is (k − 1) // branching.
        above = (above - 1) // branching
        parts.append(np.stack([above, np.zeros_like(node), node], 1))
        node, above = node[above > 0], above[above > 0]
    entities = [f"tree node {k}" for k in range(nodes)]
    for step in steps if rings else ():
        place = np.arange(ring_size)
        for ring in range(rings):
            first = nodes + ring * ring_size
            onward = first + (place + step) % ring_size
            parts.append(np.stack([first + place, np.full(ring_size, len(names)), onward], 1))
        names.append(f"{step} on in the ring")
    entities += [f"node {k} of ring {ring}" for ring in range(rings) for k in range(ring_size)]
    for step in (1, 3) if chain else ():
        place = np.arange(max(chain - step, 0)) + len(entities)
        parts.append(np.stack([place, np.full(len(place), len(names)), place + step], 1))
        names.append(f"{step} on in the chain")
    entities += [f"chain node {k}" for k in range(chain)]
    whole = KGDataset.from_triples(np.concatenate(parts), entity_names=entities, relation_names=names)
    return split_triples(whole, fractions, cover=False, seed=seed)


@checked
def make_cluster_graph(
    num_entities: Count = 200,
    clusters: Count = 20,
    num_relations: Count = 8,
    *,
    head_share: Probability = 0.6,
    link_share: Probability = 0.35,
    train_share: OpenFraction = 0.6,
    noise: NonNegative = 0.1,
    seed: Whole = 0,
) -> KGDataset:
    """Clusters of alike entities; each relation leads from every cluster to one other, with random links left out.

    Where entities are close, so are their answers. Random links in the training part are there to be overfitted.

    Args:
        num_entities: N; entity k is in cluster k mod `clusters`.
        clusters: how many.
        num_relations: M, each with a permutation of the clusters of its own.
        head_share: of the entities take part in a relation as heads.
        link_share: of the members of the target cluster are tails of such a head.
        train_share: of the links are in training; the others are the test.
        noise: random triples in training, as a share of its links.
        seed: the graph is a function of it and the other arguments.

    Raises:
        ValueError: on an argument out of range, or if no link is drawn.

    >>> make_cluster_graph()
    KGDataset(200 entities, 8 relations; 2,148 train, 0 validation, 1,303 test)
    """
    generator = np.random.default_rng(seed)
    cluster = np.arange(num_entities) % clusters
    found = []
    for relation in range(num_relations):
        leads_to = generator.permutation(clusters)[cluster]
        taking = generator.random(num_entities) < head_share
        linked = generator.random((num_entities, num_entities)) < link_share
        heads, tails = np.nonzero(linked & taking[:, None] & (leads_to[:, None] == cluster))
        found.append(np.stack([heads, np.full(len(heads), relation), tails], 1))
    links = generator.permutation(np.concatenate(found))
    cut = round(train_share * len(links))
    if not cut:
        raise ValueError(f"num_entities={num_entities} gave {len(links)} links; ask for more entities or larger shares")
    sizes = (num_entities, num_relations, num_entities)
    random = np.stack([generator.integers(size, size=round(noise * cut)) for size in sizes], 1)
    train = np.unique(np.concatenate([links[:cut], random]), axis=0)
    # A random triple that is a link of the test would give its answer away.
    test = {tuple(row) for row in links[cut:].tolist()}
    train = train[[tuple(row) not in test for row in train.tolist()]]
    return KGDataset.from_triples(
        generator.permutation(train),
        test=links[cut:],
        num_entities=num_entities,
        num_relations=num_relations,
        entity_names=[f"entity {k} of cluster {k % clusters}" for k in range(num_entities)],
        relation_names=[f"relation {k}" for k in range(num_relations)],
    )


_SYLLABLES = ("Al", "Be", "Co", "Da", "El", "Fi", "Ga", "Ho", "Ir", "Ja", "Ka", "Lu"), ("ra", "no", "mi", "ven", "sa")
_FAMILIES = ("Arden", "Birk", "Castor", "Dune", "Elm", "Ferrow", "Grange", "Hollis", "Imber", "Juniper", "Kestrel")
_RELATIONS = ("parent of", "spouse of", "sibling of", "ancestor of")


@checked
def make_family_graph(
    families: Count = 4,
    generations: Count = 4,
    *,
    fractions: Sequence[NonNegative] = (0.8, 0.1, 0.1),
    seed: Whole = 0,
) -> KGDataset:
    """Families with made-up names: who is parent, spouse, sibling and ancestor of whom.

    Each family begins with a couple; a couple has one to three children, who marry a newcomer except in the last
    generation. "spouse of" is one to one and symmetric, "sibling of" symmetric, "parent of" a tree with two roots a
    node, and "ancestor of" what follows from it.

    Args:
        families: how many.
        generations: of each.
        fractions: of training, validation and test; as far as possible everybody is in training.
        seed: the graph is a function of it and the other arguments.

    Raises:
        ValueError: on an argument out of range.

    >>> graph = make_family_graph()
    >>> graph.words(graph.test[:1])
    [('Irno Castor', 'ancestor of', 'Kara Castor 2')]
    """
    generator = np.random.default_rng(seed)
    names: list[str] = []
    triples: list[tuple[int, int, int]] = []
    ancestors: list[set[int]] = []

    def born(family: str, parents: Sequence[int]) -> int:
        given = "".join(part[generator.integers(len(part))] for part in _SYLLABLES)
        ways = (f"{given} {family}", *(f"{given} {family} {number}" for number in range(2, len(names) + 3)))
        names.append(next(name for name in ways if name not in names))
        ancestors.append(set(parents).union(*(ancestors[each] for each in parents)))
        person = len(names) - 1
        triples.extend((each, 0, person) for each in parents)
        triples.extend((each, 3, person) for each in sorted(ancestors[person]))
        return person

    def married(one: int, other: int) -> tuple[int, int]:
        triples.extend([(one, 1, other), (other, 1, one)])
        return one, other

    for number in range(families):
        family = _FAMILIES[number % len(_FAMILIES)]
        couples = [married(born(family, ()), born(family, ()))]
        for generation in range(1, generations):
            following = []
            for couple in couples:
                children = [born(family, couple) for _ in range(int(generator.integers(1, 4)))]
                triples.extend((one, 2, other) for one in children for other in children if one != other)
                if generation < generations - 1:
                    following += [married(child, born(family, ())) for child in children]
            couples = following
    whole = KGDataset.from_triples(triples, entity_names=names, num_relations=4, relation_names=_RELATIONS)
    return split_triples(whole, fractions, seed=seed)
