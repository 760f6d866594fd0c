"""The public names of `equipoise.knowledge` for ranking and for what a graph looks like."""

import torch

from contracts.model import Function
from equipoise.data import make_family_graph

# The room is that of `entries/knowledge.py`.
PACKAGES: list[str] = []

_TEXT = dict.fromkeys(
    ("the_type_of_a_target_does_not_matter", "numpy_numbers_and_arrays_are_settings", "autocast_changes_nothing"),
    "its kinds are text, which the suite does not compare",
)
_GRAPH = make_family_graph(2, 3)


class _Products:
    """Scores every entity as a tail."""

    num_relations = 4

    def score_t(self, heads, relations):
        vectors = torch.arange(float(_GRAPH.num_entities)).sin()
        return (vectors[heads] + relations)[:, None] * vectors


def _scores(generator, n):
    return {
        "scores": torch.randn(n, 7, generator=generator),
        "target": torch.arange(n) % 7,
        "known_true": (torch.rand(n, 7, generator=generator) < 0.3).long(),
    }


def _ranks(generator, n):
    return {"ranks": 1 + torch.arange(n) % 5, "candidates": 5 + torch.arange(n) % 3}


def _links(generator, n):
    return {"adjacency": (torch.rand(n, n, generator=generator) < 0.3).long()}


def _triangles(generator, n):
    return {name: 1 + torch.rand(n, generator=generator) for name in ("d_am", "d_bc", "d_ab", "d_ac")}


def _triples(generator, n):
    return {"triples": torch.stack([torch.arange(n) % size for size in (5, 2, 7)], 1)}


ENTRIES = [
    Function(
        "equipoise.knowledge.evaluate_link_prediction",
        {"model": _Products(), "triples": _GRAPH.test, "known": _GRAPH.known(), "ks": (1, 3), "batch_size": 7},
        exempt={"autocast_changes_nothing": "it runs a model, which autocast is there to change"},
    ),
    Function("equipoise.knowledge.filtered_ranking", {}, _scores),
    Function("equipoise.knowledge.krackhardt_hierarchy", {}, _links),
    Function("equipoise.knowledge.rank_metrics", {"ks": (1, 3)}, _ranks),
    Function("equipoise.knowledge.relation_profile", {"graph": _GRAPH, "triangles": 5, "flat": 0.2, "seed": 1}),
    Function("equipoise.knowledge.relation_types", {"num_relations": 2, "many": 1.4}, _triples, exempt=_TEXT),
    Function("equipoise.knowledge.triangle_curvature", {}, _triangles),
]

OTHERS = {
    "equipoise.knowledge.FilteredRanks": "a result that the library makes",
    "equipoise.knowledge.LinkReport": "a result that the library makes",
    "equipoise.knowledge.RelationProfile": "a result that the library makes",
    "equipoise.knowledge.RelationTable": "a result that the library makes",
    "equipoise.knowledge.TailScorer": "a protocol that any model may keep",
}
