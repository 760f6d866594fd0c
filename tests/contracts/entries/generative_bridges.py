"""The public names of `equipoise.generative` for image-to-image bridges."""

import torch

from contracts.model import Function, Loss

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


ENTRIES = [
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
    "equipoise.generative.BridgePosterior": "a result that the library makes",
    "equipoise.generative.GaussianMean": "a result that the library makes",
    "equipoise.generative.ReallocationTerms": "a result that the library makes",
}
