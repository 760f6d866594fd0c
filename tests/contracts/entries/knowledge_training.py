"""The public names of `equipoise.knowledge` for losses, regularisers and training."""

import torch

from contracts.model import Function, Loss, multiclass
from equipoise.knowledge import DURARegularizer
from knowledge.small_models import Diagonal, random_triples

# The room is entered as a whole elsewhere.
PACKAGES: list[str] = []

_WEIGHT = torch.tensor([1.0, 0.4, 0.7, 0.1])
_MODEL = Diagonal(6, 2, 3)


def _against_drawn(generator, n):
    """Scores of triples, and of three negatives each."""
    return {"positive": torch.randn(n, generator=generator), "negative": torch.randn(n, 3, generator=generator)}


def _factors(generator, n):
    """Real factors of triples."""
    return {name: torch.randn(n, 3, generator=generator) for name in ("head", "relation", "tail")}


def _triples(generator, n):
    """Triples of six entities."""
    return {"triples": random_triples(n, 6, 2)}


_EQUIVARIANCE = {"base": 0.5, "scale": 0.6, "a": 0.7, "b": 1.2, "eps": 1.0, "soft": True, "tau": 0.2, "p": 2}
ENTRIES = [
    Loss(
        "equipoise.knowledge.OneVsAllCrossEntropy",
        {"entity_weight": _WEIGHT},
        multiclass(4, "scores"),
        functional="equipoise.knowledge.kg_cross_entropy",
    ),
    Loss(
        "equipoise.knowledge.LogisticNegativeLoss",
        {"num_negatives": 3, "double_negatives": True},
        _against_drawn,
        exempt={"the_type_of_a_target_does_not_matter": "it has no target: negatives are another argument"},
    ),
    Function("equipoise.knowledge.DURARegularizer", {"weight": 0.1}),
    Function("equipoise.knowledge.EquivarianceRegularizer", {"weight": 0.1, "tail": "same", **_EQUIVARIANCE}),
    Function("equipoise.knowledge.F2Regularizer", {"weight": 0.1}),
    Function("equipoise.knowledge.N3Regularizer", {"weight": 0.1}),
    Function(
        "equipoise.knowledge.KGTrainer",
        {"model": _MODEL, "num_negatives": 2, "batch_size": 7, "regularizer": DURARegularizer(0.1)},
        _triples,
    ),
    Function("equipoise.knowledge.frequency_weights", {"num_entities": 6, "low": 0.2}, _triples),
    Function("equipoise.knowledge.kg_cross_entropy", {"entity_weight": _WEIGHT}, multiclass(4, "scores")),
    Function(
        "equipoise.knowledge.kg_regularizer",
        {"kind": "er", "family": "real", "weight": 0.1, "tail_map": "same", **_EQUIVARIANCE},
        _factors,
    ),
    Function("equipoise.knowledge.logistic_negative_loss", {}, _against_drawn),
    Function(
        "equipoise.knowledge.one_vs_all_backward",
        {"model": _MODEL, "score_rows": 5},
        _triples,
        exempt={"autocast_changes_nothing": "it runs a model, which autocast is there to change"},
    ),
]

OTHERS = {
    "equipoise.knowledge.EntityShards": "takes a model alone, which it cuts; its test gives it bad ones",
    "equipoise.knowledge.KGRegularizer": "the base of regularisers, with no term of its own",
}
