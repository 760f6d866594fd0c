"""The public names of `equipoise.generative` for image-to-image bridges."""

import torch
from torch import nn

from contracts.model import Function, Loss
from equipoise.data.shapes import ShapesWorld
from equipoise.generative import BridgeModel, BridgeSchedule

# The room is that of `entries/generative.py`.
PACKAGES: list[str] = []


def _mixture(generator, n):
    return {
        "expert_outputs": torch.randn(3, n, 4, generator=generator),
        "router_logits": torch.randn(n, 3, generator=generator),
        "target": torch.randn(n, 4, generator=generator),
    }


def _weights(generator, n):
    return {"weights": torch.rand(n, 3, generator=generator).softmax(1)}


def _gaussians(generator, n):
    return {
        "weight": torch.full((n,), 1 / n),
        "mean": torch.randn(n, generator=generator),
        "std": torch.rand(n, generator=generator) + 0.5,
    }


def _pictures(generator, n):
    return {name: torch.rand(k, 3, 4, 4, generator=generator) for name, k in (("images", n), ("targets", 4))}


def _images(generator, n):
    return {"images": torch.rand(n, 3, 8, 8, generator=generator)}


def _restored(images, seed=0):
    return 0.9 * images


def _couples(*names):
    return lambda generator, n: {name: torch.rand(n, 3, 4, 4, generator=generator) for name in names}


def _bridge():
    return BridgeModel(nn.Bilinear(4, 1, 4), BridgeSchedule(10), steps=3)


def _drawn(generator, n):
    return torch.zeros(n, 2), torch.ones(n, 2)


class _Pixels(nn.Module):
    """A network over pixels."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, x, time):
        return self.factor * x


_TRAINING = {"steps": 2, "batch_size": 3, "learning_rate": 1e-3, "weight_decay": 0.1, "average": 0.5, "seed": 1}

ENTRIES = [
    Function("equipoise.generative.BridgeModel", {"network": _Pixels(), "steps": 3, "clip": False, "cond_x1": True}),
    Function("equipoise.generative.BridgeSampler", {"schedule": BridgeSchedule(10), "steps": 3, "clip": True}),
    Function(
        "equipoise.generative.BridgeTrainer",
        {"model": _bridge(), "pairs": _drawn, "interval": 2, "reallocation": 0.5, **_TRAINING},
    ),
    Function(
        "equipoise.generative.fit_bridge",
        {"model": BridgeModel(_Pixels(), BridgeSchedule(10), steps=3), "reallocation": 0.5, **_TRAINING},
        _couples("clean", "degraded"),
    ),
    Function(
        "equipoise.generative.RoutedMixture",
        {"experts": [nn.Identity(), nn.Identity()], "router": nn.Linear(2, 2), "skip_below": 0.01},
    ),
    Function(
        "equipoise.generative.CleanFinetuneRepair",
        {"steps": 5, "learning_rate": 1e-2, "batch_size": 4, "occlusion": 0.2, "most_blocks": 2, "seed": 1},
    ),
    Function("equipoise.generative.OcclusionDetector", {"model": _restored, "block": 2, "seed": 1, "batch_size": 9}),
    Function("equipoise.generative.RouterAudit", {"tolerance": 0.1, "clusters": 2, "seed": 1}),
    Function(
        "equipoise.generative.TriggerScan",
        {"model": _restored, "side": 2, "values": [-1.0, 0.5], "stride": 1, "limit": 5.0, "seed": 1, "batch_size": 9},
    ),
    Function(
        "equipoise.generative.ToyBackdoorBenchmark",
        {
            "world": ShapesWorld(12),
            "attacks": 1,
            "trigger_size": 3,
            "targets": 2,
            "seed": 1,
            "task": "inpainting",
            "test": 2,
            "components": 4,
            "width": 4,
            "blocks": 1,
            "sampling_steps": 2,
        },
    ),
    Function("equipoise.generative.occlude_blocks", {"probability": 0.7, "most": 2}, _images),
    Function("equipoise.generative.output_collapse", {"model": _restored, "seed": 1}, _couples("images", "patched")),
    Function("equipoise.generative.weight_clusters", {"clusters": 2}, _weights),
    Function("equipoise.generative.BridgeSchedule", {"num_steps": 10, "beta_start": 1e-3, "beta_max": 0.2}),
    Function("equipoise.generative.gaussian_geometric_mean", {}, _gaussians),
    Function(
        "equipoise.generative.gaussian_label_average",
        {"spread": 0.5},
        lambda generator, n: {"x": torch.randn(n, generator=generator), **_gaussians(generator, n)},
    ),
    Function("equipoise.generative.nearest_target_index", {}, _pictures),
    Function("equipoise.generative.router_entropy", {"mean_first": True}, _weights),
    Function("equipoise.generative.space_indices", {"num_steps": 100, "count": 7}),
    Function("equipoise.generative.weight_reallocation_loss", {"weight": 0.5}, _mixture),
    Function("equipoise.generative.weight_reallocation_terms", {"weight": 0.5}, _mixture),
    Loss(
        "equipoise.generative.WeightReallocationLoss",
        {"weight": 0.5},
        _mixture,
        functional="equipoise.generative.weight_reallocation_loss",
        exempt={
            "the_order_of_samples_does_not_matter": "outputs of experts have samples second; its own test has it",
            "the_type_of_a_target_does_not_matter": "the target is a picture",
        },
    ),
]

OTHERS = {
    "equipoise.generative.BridgeFit": "a result that the library makes",
    "equipoise.generative.OutputCollapse": "a result that the library makes",
    "equipoise.generative.PatchCandidate": "a result that the library makes",
    "equipoise.generative.Repair": "a result that the library makes",
    "equipoise.generative.RoutedOutput": "a result that the library makes",
    "equipoise.generative.RouterReport": "a result that the library makes",
    "equipoise.generative.ScanResult": "a result that the library makes",
    "equipoise.generative.Specificity": "a result that the library makes",
    "equipoise.generative.Stealth": "a result that the library makes",
    "equipoise.generative.ToyBridge": "what the benchmark trains, a BridgeModel",
    "equipoise.generative.ToyPairs": "a result that the library makes",
    "equipoise.generative.ToyScores": "a result that the library makes",
    "equipoise.generative.Utility": "a result that the library makes",
    "equipoise.generative.BridgePosterior": "a result that the library makes",
    "equipoise.generative.GaussianMean": "a result that the library makes",
    "equipoise.generative.ReallocationTerms": "a result that the library makes",
}
