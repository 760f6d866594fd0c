"""Cross-entropy and pixel AUC of the same logits: the objective that a segmentation network is trained with."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from equipoise.core.pairs.class_pairs import Average
from equipoise.core.reduction import attached_zero
from equipoise.core.signature import checked
from equipoise.core.types import NonNegative, Positive, Range
from equipoise.core.validate import warn_once
from equipoise.dense.segmentation.labels import LabelMaps, Maps, RowLabels, Rows, flat_labels, resized
from equipoise.dense.segmentation.pixel_auc import Activation, PixelAUCLoss, PixelSurrogate


class SegmentationLoss(NamedTuple):
    """The objective and its parts.

    Attributes:
        total: cross-entropy + weight · auc, to call `backward` on.
        cross_entropy: mean over valid pixels.
        auc: the pixel AUC loss, before its weight.
    """

    total: Tensor
    cross_entropy: Tensor
    auc: Tensor


class SegmentationAUCLoss(nn.Module):
    """L = L_ce + λ L_auc, both of the same logits.

    λ and the surrogate belong together: that of "square" is half of that of "half_square".

    Args:
        weight: λ. With "half_square" the authors take 4 on ADE20K, 1 on Cityscapes and 1 on COCO-Stuff (code).
        surrogate: as in `pixel_auc_loss`.
        average: as in `pixel_auc_loss`.
        margin: as in `pixel_auc_loss`.
        activation: as in `pixel_auc_loss`, of the AUC part only.
        ignore_index: label of pixels that do not count, in both parts.
        class_weight: (C,) weights of the cross-entropy.
        upsample: bring the logits to the size of the label maps bilinearly first.
        gather: as in `pixel_auc_loss`; the cross-entropy is of the own process.

    >>> logits, target = torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 1]]])
    >>> found = SegmentationAUCLoss(weight=2.0)(logits, target)
    >>> [round(part.item(), 4) for part in found]
    [1.6931, 0.6931, 0.5]
    """

    @checked
    def __init__(
        self,
        weight: NonNegative = 1.0,
        surrogate: PixelSurrogate = "half_square",
        average: Average = "ovo",
        margin: Positive = 1.0,
        activation: Activation | None = "sigmoid",
        ignore_index: int = 255,
        class_weight: Annotated[Float[Tensor, " classes"], Range(0)] | None = None,
        *,
        upsample: bool = False,
        gather: bool = False,
    ) -> None:
        super().__init__()
        self.weight, self.ignore_index, self.upsample = weight, ignore_index, upsample
        self.auc = PixelAUCLoss(surrogate, average, margin, activation, ignore_index, gather=gather)
        self.class_weight: Tensor | None
        self.register_buffer("class_weight", class_weight)

    @checked
    def forward(self, logits: Maps | Rows, target: LabelMaps | RowLabels) -> SegmentationLoss:
        """The objective of logits (B, C, H, W) by label maps (B, H, W), or of (N, C) by (N,).

        Where every pixel is ignored, all is zero, attached to the graph, and warned of once.

        Raises:
            ValueError: as `pixel_auc_loss`, and of fewer than two columns.
        """
        if logits.shape[1] < 2:
            raise ValueError(f"logits have {logits.shape[1]} column, and the cross-entropy of classes needs at least 2")
        logits = resized(logits, target, self.upsample)
        planes, labels, classes = flat_labels(logits, target, self.ignore_index)
        if self.class_weight is not None and len(self.class_weight) != classes:
            raise ValueError(f"class_weight has {len(self.class_weight)} entries, and logits have {classes} columns")
        auc = self.auc(logits, target)
        if not bool((labels < classes).any()):
            warn_once("the segmentation loss is zero on a batch whose pixels are all ignored")
            entropy = attached_zero(logits)
        else:
            weight = None if self.class_weight is None else self.class_weight.to(planes)
            entropy = cross_entropy(planes, labels, weight, ignore_index=classes)
        return SegmentationLoss(entropy + self.weight * auc, entropy, auc)
