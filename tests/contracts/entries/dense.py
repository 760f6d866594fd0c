"""The public names of `equipoise.dense` for saliency and for the frames of objects."""

import torch

from contracts.model import Function, Loss, Measure
from equipoise.dense import SizeInvariantLoss

PACKAGES = ["dense"]


def _blobs(n):
    """Masks of two objects of different size, neither of which fills its box."""
    masks = torch.zeros(n, 10, 12, dtype=torch.long)
    for k in range(n):
        masks[k, 1:6, 1 + k % 2 : 6], masks[k, 7:9, 8:11] = 1, 1
        masks[k, 1, 1 + k % 2], masks[k, 7, 8] = 0, 0
    return masks


def _maps(generator, n):
    return {"pred": torch.rand(n, 10, 12, generator=generator), "gt": _blobs(n)}


def _map(generator, n):
    return {name: value[0] for name, value in _maps(generator, 1).items()}


def _without_objects(generator, n):
    return {**_maps(generator, n), "gt": torch.zeros(n, 10, 12, dtype=torch.long)}


def _logits(generator, n):
    return {"logits": torch.randn(n, 10, 12, generator=generator), "target": _blobs(n)}


def _unranked(generator, n):
    return {**_logits(generator, n), "target": torch.zeros(n, 10, 12, dtype=torch.long)}


def _mean_gap(pred, gt):
    return float((pred[gt == 1].double().mean() - pred[gt == 0].double().mean()).nan_to_num())


_SIZES = {"samples_of_another_width_are_refused_at_once": "images of a set differ in size"}
_MASK = {"mask": _blobs(1)[0]}

ENTRIES = [
    Loss("equipoise.dense.SizeInvariantLoss", {"base": ("bce", "dice"), "background": "mse"}, _logits),
    Loss("equipoise.dense.SizeInvariantLoss", {"base": ("auc",), "gamma": 0.5}, _logits, undefined=_unranked),
    Loss("equipoise.dense.SizeInvariantLoss", {"base": ("mae", "iou", "auc"), "cross": 0.5}, _logits),
    Loss("equipoise.dense.WarmupLoss", {"loss": SizeInvariantLoss(), "epochs": 0}, _logits),
    Measure(
        "equipoise.dense.SaliencyReport", {"min_area": 2, "num_levels": 64}, _maps, _SIZES, undefined=_without_objects
    ),
    Measure("equipoise.dense.SizeInvariant", {"metric": _mean_gap, "separable": False}, _maps, _SIZES),
    Function("equipoise.dense.saliency_metrics", {"min_area": 2}, _map),
    Function("equipoise.dense.structural_saliency_metrics", {"s_alpha": 0.4}, _map),
    Function("equipoise.dense.e_measure_curve", {"num_levels": 16}, _map),
    Function("equipoise.dense.s_measure", {"alpha": 0.4}, _map),
    Function("equipoise.dense.weighted_f", {"beta2": 0.5}, _map),
    Function("equipoise.dense.region_contributions", {"metric": "mse"}, _map),
    Function("equipoise.dense.object_frames", {"min_area": 2}, lambda generator, n: _MASK),
    Function("equipoise.dense.frame_weight_map", {"alpha": "ratio"}, lambda generator, n: _MASK),
    Function(
        "equipoise.dense.instance_frames",
        {"min_area": 2},
        lambda generator, n: {"instances": torch.randint(0, 4, (8, 9), generator=generator)},
    ),
    Function(
        "equipoise.dense.bipartite_square_loss",
        {"gamma": 0.5},
        lambda generator, n: {
            "scores": torch.randn(n, generator=generator),
            "labels": torch.arange(n) % 2,
            "groups": torch.arange(n) % 3,
        },
    ),
]

OTHERS = {"equipoise.dense.RegionContribution": "a row of a result"}
