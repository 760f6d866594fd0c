"""The public names of the packages of `equipoise.core` that export any."""

import torch

from contracts.model import Function

PACKAGES = ["core.pairs", "core.curves"]


def _sides(generator, n):
    """Scores of positives and of more negatives, with weights."""
    pos, neg = torch.randn(n, generator=generator), torch.randn(n + 3, generator=generator)
    weights = {"pos_weight": torch.rand(n, generator=generator), "neg_weight": torch.rand(n + 3, generator=generator)}
    return {"pos": pos, "neg": neg, **weights}


def _columns(generator, n):
    """Three problems with weights of either class."""
    positive = (torch.arange(n)[:, None] + torch.arange(3)) % 3 == 0
    weight = torch.rand(n, 3, generator=generator)
    scores = torch.randn(n, 3, generator=generator)
    return {"scores": scores, "pos_weight": weight * positive, "neg_weight": weight * ~positive}


ENTRIES = (
    Function("equipoise.core.pairs.pairwise_loss", {"margin": 1.0}, _sides),
    Function("equipoise.core.pairs.pairwise_derivatives", {"margin": 1.0}, _sides),
    Function("equipoise.core.pairs.columnwise_pairwise_loss", {"margin": 1.0}, _columns),
    Function("equipoise.core.curves.CurveSketch", {"max_bytes": 1 << 16}),
)

OTHERS = {
    "equipoise.core.pairs.PairwiseDerivatives": "a result that the library makes",
    "equipoise.core.pairs.split_classes": "an inner step of losses that have checked their scores already",
    "equipoise.core.pairs.SURROGATES": "a table of surrogates that `resolve_surrogate` reads",
    "equipoise.core.pairs.Surrogate": "a record of a function and its two derivatives",
    "equipoise.core.pairs.resolve_surrogate": "takes a name or a function; its test gives it bad ones",
    "equipoise.core.curves.RocCurve": "a result; its test gives `from_scores` bad scores",
    "equipoise.core.curves.Bounds": "a result that the library makes",
}
