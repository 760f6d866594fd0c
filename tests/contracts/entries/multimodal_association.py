"""The public names of `equipoise.multimodal` for the association of modalities."""

import torch

from contracts.model import Function, Loss, Measure

# The room is that of `entries/multimodal.py`.
PACKAGES: list[str] = []


def _pairs(generator, n):
    return {
        "face": torch.randn(n, 6, generator=generator),
        "voice": torch.randn(n, 6, generator=generator),
        "identity": torch.arange(n) % 9,
    }


def _weighted(generator, n):
    return {**_pairs(generator, n), "weight": torch.rand(n, generator=generator) + 0.1}


def _classified(generator, n):
    return {**_weighted(generator, n), "classifier": torch.randn(9, 6, generator=generator)}


def _sides(generator, n):
    identity = torch.arange(n) % 5
    return {
        "query": torch.randn(n, 6, generator=generator),
        "gallery": torch.randn(n, 6, generator=generator),
        "query_identity": identity,
        "gallery_identity": identity.flip(0),
    }


def _grouped(generator, n):
    given = _sides(generator, n)
    return {**given, "query_group": given["query_identity"] % 2, "gallery_group": given["gallery_identity"] % 2}


def _listed(generator, n):
    return {"query": torch.randn(n, 6, generator=generator), "candidates": torch.randn(n, 4, 6, generator=generator)}


def _ema(generator, n):
    return {
        "ema": torch.rand(9, generator=generator),
        "identity": torch.arange(n) % 9,
        "loss": torch.rand(n, generator=generator),
    }


class _Total(torch.nn.Module):
    """The scalar of a loss that tells its parts."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss
        # The same ones in every precision and process.
        with torch.no_grad():
            loss.classifier.weight.copy_((7 * torch.arange(54) % 33 / 16 - 1).view(9, 6))

    def forward(self, face, voice, identity, weight=None):
        return self.loss(face, voice, identity, weight)["loss"]


class _OfThree(_Total):
    """The same for a loss of three modalities."""

    def forward(self, face, voice, identity, weight=None):
        return self.loss([face, voice, face.flip(1)], identity, weight)["loss"]


_LEARNED = {"num_identities": 9, "dim": 6}

ENTRIES = [
    Loss(
        "equipoise.multimodal.TwoLevelAlignmentLoss",
        {**_LEARNED, "offset": 4.4},
        _weighted,
        gather=True,
        adapt=_Total,
    ),
    Loss(
        "equipoise.multimodal.TwoLevelAlignmentLoss",
        {**_LEARNED, "margin_kind": "angle", "scale": 8.0, "local_weight": 0.5},
        _pairs,
        adapt=_Total,
    ),
    Loss("equipoise.multimodal.MultimodalAlignmentLoss", {**_LEARNED}, _weighted, gather=True, adapt=_OfThree),
    Function("equipoise.multimodal.cross_modal_npair_loss", {"offset": 0.5}, _pairs),
    Function(
        "equipoise.multimodal.multimodal_npair_loss",
        {"offset": 0.5},
        lambda generator, n: {
            "embeddings": [torch.randn(n, 6, generator=generator) for _ in range(3)],
            "identity": torch.arange(n) % 9,
        },
    ),
    Function("equipoise.multimodal.shared_identity_loss", {"reduction": "sum"}, _classified),
    Function("equipoise.multimodal.identity_loss_ema", {"momentum": 0.8}, _ema),
    Function("equipoise.multimodal.matching_accuracy", {"n_way": 3}, _listed),
    Function("equipoise.multimodal.gallery_matching_accuracy", {"n_way": (2, 4)}, _grouped),
    Function("equipoise.multimodal.verification_auc", {}, _grouped),
    Function("equipoise.multimodal.cross_modal_retrieval_map", {}, _grouped),
    Function("equipoise.multimodal.association_scores", {"n_way": (2, 4), "resamples": 5}, _grouped),
    Function("equipoise.data.make_identity_pairs", {"num_train": 9, "num_test": 5, "samples": 2, "features": 6}),
    Function(
        "equipoise.data.PairedIdentityBatchSampler",
        {"batch_size": 3},
        lambda generator, n: {"first": torch.arange(n) % 7, "second": torch.arange(n + 3) % 6},
        {"bad_arguments_are_refused_by_name": "arrays are taken too; its test gives it bad ones"},
    ),
    Measure(
        "equipoise.multimodal.MatchingAccuracy",
        {"n_way": (2, 3), "ties": "optimistic"},
        _sides,
        functional="equipoise.multimodal.gallery_matching_accuracy",
    ),
    Measure("equipoise.multimodal.VerificationAUC", {}, _sides, functional="equipoise.multimodal.verification_auc"),
    Measure(
        "equipoise.multimodal.CrossModalRetrievalMAP",
        {},
        _grouped,
        functional="equipoise.multimodal.cross_modal_retrieval_map",
    ),
]

OTHERS = {
    "equipoise.multimodal.AssociationScores": "a result that a function gives",
    "equipoise.data.IdentityPairs": "a result that the library makes",
    "equipoise.data.PairedSamples": "a result that the library makes",
    "equipoise.multimodal.BankedNegatives": "rows that a bank gives",
    "equipoise.multimodal.NegativeBank": "a memory with its own tests",
    "equipoise.multimodal.IdentityReweighter": "a running state with its own tests",
    "equipoise.multimodal.SharedIdentityClassifier": "a layer whose loss is entered",
}
