"""The public names of `equipoise.generative` for identity data sets."""

import torch

from contracts.model import Function

# The room is that of `entries/generative.py`.
PACKAGES: list[str] = []


def _rows(name, **more):
    def make(generator, n):
        return {name: torch.randn(n, 6, generator=generator), **{key: each(generator, n) for key, each in more.items()}}

    return make


def _people(generator, n):
    return torch.arange(n) % 5


def _others(generator, n):
    return torch.randn(n + 3, 6, generator=generator)


ENTRIES = [
    Function(
        "equipoise.generative.auto_threshold_cluster",
        {"initial_threshold": 0.5, "step": 0.05, "max_iter": 5},
        _rows("embeddings"),
    ),
    Function(
        "equipoise.generative.calibrate_leakage_threshold",
        {"false_match_rate": 0.1},
        _rows("reference", identity=_people),
    ),
    Function("equipoise.generative.greedy_cluster", {"threshold": 0.5}, _rows("embeddings")),
    Function(
        "equipoise.generative.greedy_separation", {"threshold": 0.5}, _rows("identity_embeddings", existing=_others)
    ),
    Function("equipoise.generative.identity_centres", {}, _rows("embeddings", identity=_people)),
    Function("equipoise.generative.largest_consistent_cluster", {"threshold": 0.5}, _rows("embeddings")),
    Function("equipoise.generative.leakage_check", {"threshold": 0.5}, _rows("candidates", reference=_others)),
    Function(
        "equipoise.generative.similarity_histogram", {"bins": 8}, lambda generator, n: {"max_similarity": torch.rand(n)}
    ),
    Function("equipoise.generative.near_copies", {"threshold": 0.9}, _rows("embeddings")),
    Function("equipoise.generative.ClusterCleaner", {"threshold": 0.6, "min_samples": 2, "mode": "exact"}),
    Function("equipoise.generative.ContactSheetJudge", {"ask": print, "tries": 2, "columns": 3, "cell": 20}),
    Function(
        "equipoise.generative.CurriculumSampler",
        {"source_of_sample": ("real", "synthetic"), "first": "real", "ramp": 0.4},
    ),
    Function("equipoise.generative.IdentityAugmentation", {"flip": 0.2, "degrees": 3.0, "scale": (0.9, 1.0)}),
    Function(
        "equipoise.generative.IdentityDatasetBuilder",
        {"embedder": torch.stack, "reference": torch.eye(3), "min_count": 2, "leakage_threshold": 0.4},
    ),
    Function("equipoise.generative.MedoidJudge", {"embedder": torch.stack, "threshold": 0.4}),
    Function("equipoise.generative.NoisyOracleJudge", {"label": str, "flip": 0.2, "seed": 1}),
    Function(
        "equipoise.generative.replace_small_identities",
        {"image_counts": {1: 3, 2: 12}, "synthetic_identities": (3, 4), "min_images": 10},
    ),
]

OTHERS = {
    "equipoise.workflows.CurateOutcome": "a result that the library makes",
    "equipoise.workflows.CurateRequest": "a record of options, checked by `curate_folder`",
    "equipoise.workflows.curate_folder": "reads and writes files; tests/workflows/curate gives it bad ones",
    "equipoise.generative.Cleaner": "a protocol, which has no values",
    "equipoise.generative.CleanerDecision": "a result that the library makes",
    "equipoise.generative.Expander": "a protocol, which has no values",
    "equipoise.generative.IdentityJudge": "a protocol, which has no values",
    "equipoise.generative.IdentityPrompts": "made of words; its test gives it bad ones",
    "equipoise.generative.JudgeCleaner": "made of a judge; its test gives it bad ones",
    "equipoise.generative.JudgeError": "an exception that judges raise",
    "equipoise.generative.Manifest": "a result that the library makes",
    "equipoise.generative.ManifestRow": "a result that the library makes",
    "equipoise.generative.SeedGenerator": "a protocol, which has no values",
    "equipoise.generative.contact_sheet": "pictures in many forms; its test gives it bad ones",
    "equipoise.generative.combine_cleaners": "its decisions have no names; its test gives it bad ones",
    "equipoise.generative.IdentityCentres": "a result that the library makes",
    "equipoise.generative.LeakageCheck": "a result that the library makes",
    "equipoise.generative.Replacement": "a result that the library makes",
    "equipoise.generative.SimilarityHistogram": "a result that the library makes",
    "equipoise.generative.ThresholdedCluster": "a result that the library makes",
}
