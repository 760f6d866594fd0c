"""The public names of `equipoise.multimodal` for encoders that see detail."""

import torch

from contracts.model import Function, Loss

PACKAGES: list[str] = []

_SEVERAL = "predictions have samples in two dimensions; tests/multimodal/representation permutes both"


def _predictions(generator, n):
    def drawn(*shape):
        return torch.randn(*shape, generator=generator)

    return {
        "pred": drawn(n, n, 2, 3),
        "pred_augmented": drawn(n, 2, 3),
        "target": drawn(n, 2, 3),
        "ids": torch.arange(n) // 2,
    }


def _grid(generator, n):
    def drawn(*shape):
        return torch.randn(*shape, generator=generator)

    return {
        "noisy": drawn(n, 3),
        "steps": torch.arange(n),
        "condition": drawn(n, 3),
        "condition_augmented": drawn(n, 3),
        "target": drawn(n, 3),
        "ids": torch.arange(n) // 2,
    }


def _predict(noisy, steps, condition):
    return noisy * condition + steps[:, None]


def _views(generator, n):
    return {"za": torch.randn(n, 4, generator=generator), "zb": torch.randn(n, 4, generator=generator)}


ENTRIES = [
    *(
        Loss(
            "equipoise.multimodal.DCRLoss",
            settings,
            _predictions,
            {"the_order_of_samples_does_not_matter": _SEVERAL, **exempt},
            functional="equipoise.multimodal.dcr_loss",
        )
        for settings, exempt in (
            ({"temperature": 0.5}, {}),
            ({"temperature": 0.5, "separate_denominators": True, "augmented_weight": 0.25}, {}),
            (
                {"temperature": 0.5, "detach_negatives": True},
                {"float64_is_kept_and_gradients_are_those_of_the_value": "the gradient into negatives is left out"},
            ),
        )
    ),
    Function("equipoise.multimodal.dcr_loss", {"temperature": 0.5, "augmented_weight": 0.25}, _predictions),
    Function("equipoise.multimodal.dcr_grid_loss", {"predict": _predict, "rows": 2}, _grid),
    Function("equipoise.multimodal.nt_xent", {"temperature": 0.5}, _views),
    Function(
        "equipoise.multimodal.reconstruction_loss",
        {},
        lambda generator, n: {
            "pred": torch.randn(n, 2, 3, generator=generator),
            "target": torch.randn(n, 2, 3, generator=generator),
        },
    ),
    Function(
        "equipoise.multimodal.gradient_cosine",
        {},
        lambda generator, n: {
            "grad_a": torch.randn(n, generator=generator),
            "grad_b": torch.randn(n, generator=generator),
        },
    ),
    Function("equipoise.multimodal.ConflictMeter", {"every": 2}),
    Function(
        "equipoise.multimodal.paired_detail_accuracy",
        {},
        lambda generator, n: {"scores": torch.randn(n, 2, 2, generator=generator), "category": torch.arange(n) % 3},
    ),
    Function(
        "equipoise.multimodal.pair_scores",
        {},
        lambda generator, n: {
            "images": torch.randn(n, 2, 4, generator=generator),
            "statements": torch.randn(n, 2, 4, generator=generator),
        },
    ),
    Function(
        "equipoise.multimodal.clustering_scores",
        {},
        lambda generator, n: {"assignment": torch.arange(n) % 3, "label": torch.arange(n) % 4},
    ),
    Function(
        "equipoise.multimodal.cluster_embeddings",
        {"clusters": 3, "seed": 1},
        lambda generator, n: {"embeddings": torch.randn(n, 4, generator=generator), "label": torch.arange(n) % 3},
    ),
    Function("equipoise.multimodal.FactorProbe", {"strength": 0.5, "max_steps": 20}),
    Function("equipoise.multimodal.DetailAugmentation", {"jitter": 0.25, "hue": 0.125, "ratio": 1.5, "noise": 0.5}),
    Function("equipoise.multimodal.PixelNorm", {"mean": (0.5, 0.25, 0.5), "std": (0.5, 0.25, 0.125)}),
    Function("equipoise.multimodal.LoRASettings", {"rank": 2, "scale": 4.0, "dropout": 0.5}),
    Function("equipoise.multimodal.ConditionProjector", {"in_dim": 5, "cond_dim": 4, "slots": 3, "hidden": 6}),
]

OTHERS = {
    "equipoise.multimodal.DetailBenchmark": "its test gives it bad images, labels and pairs",
    "equipoise.multimodal.EncoderComparison": "a result that the library makes",
    "equipoise.multimodal.EncoderMeasures": "a result that the library makes",
    "equipoise.multimodal.DCRTrainer": "its test gives it bad parts, settings and images",
    "equipoise.multimodal.clip_pixels": "it takes no argument at all",
    "equipoise.multimodal.ClusteringScores": "a result that the library makes",
    "equipoise.multimodal.GradientCosine": "a result that the library makes",
    "equipoise.multimodal.PairedAccuracy": "a result that the library makes",
}
