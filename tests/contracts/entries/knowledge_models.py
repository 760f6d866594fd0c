"""The public names of the models and the geometry of `equipoise.knowledge`."""

import torch

from contracts.model import Function

# The room is that of `entries/knowledge.py`.
PACKAGES: list[str] = []

_BROADCAST = {
    "bad_arguments_are_refused_by_name": "one rotation turns many vectors, and many one; its test gives bad ones"
}
SIZES = {"num_entities": 5, "num_relations": 2, "dim": 4}


def _vectors(generator, n):
    return {"rotation": torch.randn(n, 4, generator=generator), "x": torch.randn(n, 4, generator=generator)}


def _triples(generator, n):
    vectors = ("head", "tail", "rot_euclidean", "rot_hyperbolic", "rot_spherical", "translation", "attention")
    given = {name: torch.randn(n, 4, generator=generator) * 0.5 for name in vectors}
    return given | {name: torch.randn(n, generator=generator) for name in ("bias_head", "bias_tail")}


def _parts(generator, n):
    return {name: torch.randn(n, 4, generator=generator) for name in ("head", "relation", "tail")}


ENTRIES = [
    Function("equipoise.knowledge.AttH", SIZES),
    Function("equipoise.knowledge.CP", SIZES),
    Function("equipoise.knowledge.ComplEx", SIZES),
    Function("equipoise.knowledge.DistMult", SIZES),
    Function("equipoise.knowledge.GIE", {**SIZES, "spaces": ("hyperbolic",), "curvature": "shared"}),
    Function("equipoise.knowledge.MuRP", SIZES),
    Function("equipoise.knowledge.RESCAL", SIZES),
    Function("equipoise.knowledge.RefH", SIZES),
    Function("equipoise.knowledge.RotE", SIZES),
    Function("equipoise.knowledge.RotH", SIZES),
    Function("equipoise.knowledge.RotatE", SIZES),
    Function("equipoise.knowledge.Stereographic", {"kappa": -1.0}),
    Function("equipoise.knowledge.TransE", SIZES),
    Function("equipoise.knowledge.build_model", {"name": "gie", **SIZES}),
    Function(
        "equipoise.knowledge.gie_score", {"kappa_hyperbolic": -1.0, "kappa_spherical": 1.0, "kappa": -0.5}, _triples
    ),
    Function("equipoise.knowledge.givens_reflection", {}, _vectors, _BROADCAST),
    Function("equipoise.knowledge.givens_rotation", {}, _vectors, _BROADCAST),
    Function("equipoise.knowledge.kg_score", {"model": "transe"}, _parts),
]

OTHERS = {
    "equipoise.knowledge.GIEScore": "a result that the library makes",
    "equipoise.knowledge.KGEModel": "a base class; every model's own test gives it bad input",
    "equipoise.knowledge.KGFactors": "a result that models make",
    "equipoise.knowledge.MODELS": "a table of the models",
}
