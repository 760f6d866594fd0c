"""The public names of `equipoise.dense` for segmentation."""

import torch

from contracts.model import Function, Loss, Measure, multiclass

# The room is that of `entries/dense.py`.
PACKAGES: list[str] = []


def _maps(name="logits", classes=3):
    def make(generator, n):
        target = torch.arange(4 * n).view(n, 2, 2) % classes
        return {name: torch.randn(n, classes, 2, 2, generator=generator), "target": target}

    return make


def _one_class(generator, n):
    return {"logits": torch.randn(n, 3, 2, 2, generator=generator), "target": torch.zeros(n, 2, 2, dtype=torch.long)}


def _probabilities(generator, n):
    given = _maps("scores")(generator, n)
    return {**given, "scores": given["scores"].sigmoid()}


def _labels(generator, n):
    target = torch.arange(4 * n).view(n, 2, 2) % 3
    return {"pred": torch.randint(0, 3, (n, 2, 2), generator=generator), "target": target}


def _stored(generator, n):
    return {
        "image": torch.rand(3, n, n, generator=generator),
        "label": torch.randint(0, 3, (n, n), generator=generator),
        "stored_image": torch.rand(3, n, n, generator=generator),
        "stored_mask": torch.randint(0, 2, (n, n), generator=generator),
    }


class _Total(torch.nn.Module):
    """The total of a loss that tells its parts."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def forward(self, logits, target):
        return self.loss(logits, target).total


ENTRIES = [
    Loss(
        "equipoise.dense.PixelAUCLoss",
        {"surrogate": "square"},
        _maps(),
        functional="equipoise.dense.pixel_auc_loss",
        undefined=_one_class,
        gather=True,
    ),
    Loss(
        "equipoise.dense.PixelAUCLoss",
        {"surrogate": "hinge", "average": "ovr", "activation": "softmax"},
        _maps(),
        functional="equipoise.dense.pixel_auc_loss",
        undefined=_one_class,
        gather=True,
    ),
    Loss(
        "equipoise.dense.PixelAUCLoss",
        {"surrogate": "exponential", "reduction": "sum"},
        _maps(),
        functional="equipoise.dense.pixel_auc_loss",
        undefined=_one_class,
        gather=True,
    ),
    Loss(
        "equipoise.dense.SegmentationAUCLoss",
        {"weight": 2.0},
        _maps(),
        adapt=_Total,
    ),
    Function("equipoise.dense.pixel_auc_loss", {"margin": 1.0}, _maps()),
    Function("equipoise.dense.pixel_auc_pair_losses", {"margin": 1.0}, _maps()),
    Function("equipoise.dense.pixel_auroc", {}, _maps("scores")),
    Measure("equipoise.dense.PixelAUROC", {}, multiclass(3, "scores"), functional="equipoise.dense.pixel_auroc"),
    Measure("equipoise.dense.PixelAUROCHistogram", {"num_classes": 3, "bins": 64}, _probabilities),
    Function("equipoise.dense.confusion_counts", {"num_classes": 3}, _labels),
    Function("equipoise.dense.segmentation_scores", {"num_classes": 3}, _labels),
    Measure(
        "equipoise.dense.SegmentationMeter",
        {"num_classes": 3},
        _labels,
        functional="equipoise.dense.segmentation_scores",
    ),
    Function(
        "equipoise.dense.paste_class_patch",
        {"class_id": 1, "resize_ratio": 0.5},
        _stored,
        {"the_type_of_a_target_does_not_matter": "a label map keeps its own type"},
    ),
    Function("equipoise.dense.tail_classes_by_pixels", {"counts": [9, 5, 1], "k": 1}),
    Function(
        "equipoise.dense.PyramidSegmenter",
        {"maps": lambda images: [images], "channels": [3], "num_classes": 4, "width": 8, "seed": 1},
    ),
    Function("equipoise.dense.coverage_batch_size", {"p_min": 0.1, "num_classes": 4, "delta": 0.1}),
]


OTHERS = {
    "equipoise.dense.ClassGroups": "a result that a function gives",
    "equipoise.dense.TailMemoryBank": "a transform with a memory and its own tests",
}
