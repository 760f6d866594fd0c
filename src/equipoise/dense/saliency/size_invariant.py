"""Any measure of a map, made blind to the size of objects; and which regions a measure listens to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from equipoise.core.metrics import SampleMetric
from equipoise.core.signature import checked
from equipoise.core.types import Whole
from equipoise.core.validate import warn_once
from equipoise.dense.regions.frames import Connectivity, crops, find_objects
from equipoise.dense.regions.types import MaskList, SaliencyMap, SaliencyMaps, SalientMask, SalientMasks
from equipoise.dense.saliency.judging import background_of, frame_average
from equipoise.dense.saliency.metrics import as_arrays

MapMetric: TypeAlias = Callable[[Tensor, Tensor], Any]
"""(map, mask) → a number; NaN where it is undefined."""


class RegionContribution(NamedTuple):
    """What a region adds to a measure of the whole image.

    Attributes:
        frame: (top, bottom, left, right); None for the background.
        share: its weight in the measure of the image, its share of the pixels.
        value: of the measure in it.
    """

    frame: tuple[int, int, int, int] | None
    share: float
    value: float


class SizeInvariant(SampleMetric):
    """A measure of a map and a mask, taken of every object's frame and averaged: over an image, then over images.

    Args:
        metric: (map, mask) → a number or a scalar tensor; it is given crops of equal shape, and for the background of a
            separable measure two vectors of pixels.
        separable: whether the measure is a mean over pixels; it then takes the background in, with the weight
            |background| / |union of frames|.
        background: "alpha", or "none" to leave it out.
        min_area: as in `object_frames`.
        connectivity: as in `object_frames`.
        kwargs: of `torchmetrics.Metric`.

    Frames on which the measure is NaN are left out; an image on which all are, too. An image without an object counts
    as a whole. Calling `value_of` gives the measure of one map.

    >>> def missed(pred, mask):
    ...     return float(((pred < 0.5) & (mask == 1)).double().sum() / mask.sum())
    >>> mask = torch.zeros(10, 10, dtype=torch.long)
    >>> mask[1:8, 1:8], mask[9, 9] = 1, 1
    >>> pred = mask.double()
    >>> pred[9, 9] = 0.0
    >>> missed(pred, mask), SizeInvariant(missed, separable=False).value_of(pred, mask)
    (0.02, 0.5)

    Source: Li et al. (2025), SIEva; the weights are those of the code of Li et al. (ICML 2024).
    """

    kept = ("values",)
    higher_is_better = None
    values: Any

    @checked
    def __init__(
        self,
        metric: MapMetric,
        separable: bool,
        background: Literal["alpha", "none"] = "alpha",
        min_area: Whole = 0,
        connectivity: Connectivity = 4,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.metric, self.separable, self.background = metric, separable, background
        self.min_area, self.connectivity = min_area, connectivity

    @checked
    def value_of(self, pred: SaliencyMap, gt: SalientMask) -> float:
        """The measure of one (height, width) map and its mask; NaN where it is undefined on every frame."""
        mask = gt.detach().cpu().numpy() > 0
        found = find_objects(mask, self.min_area, self.connectivity)
        if not len(found.areas):
            return float(self.metric(pred, gt))
        frames = np.array([float(self.metric(pred[crop], gt[crop])) for crop in crops(found.boxes)])
        frames = frames[~np.isnan(frames)]
        if not len(frames):
            return float("nan")
        if not self.separable or self.background == "none":
            return float(frames.mean())
        outside = torch.from_numpy(background_of(found.boxes, mask.shape)).to(pred.device)
        behind = int(outside.sum())
        rest = float(self.metric(pred[outside], gt[outside])) if behind else 0.0
        return frame_average(frames, rest, mask.size - behind, behind)

    @checked
    def update(self, pred: SaliencyMaps, gt: SalientMasks | MaskList) -> None:
        """Add maps and masks, tensors of a batch or lists, which must be of the same sizes."""
        maps, masks = (
            each.flatten(0, 1) if isinstance(each, Tensor) and each.ndim == 4 else each for each in (pred, gt)
        )
        if len(maps) != len(masks) or not len(maps):
            raise ValueError(f"pred holds {len(maps)} maps and gt {len(masks)} masks; give one map for each mask")
        values = [self.value_of(one, truth) for one, truth in zip(maps, masks, strict=True)]
        self.keep(torch.tensor(values, dtype=torch.float64, device=self.device))

    def compute(self) -> Tensor:
        """The mean over images on which the measure is defined."""
        (values,) = self.samples()
        if missing := int(values.isnan().sum()):
            warn_once(f"the measure is undefined on {missing} of {len(values)} images, which are left out")
        found: Tensor = values.nanmean()
        return found


@checked
def region_contributions(
    pred: SaliencyMap,
    gt: SalientMask,
    metric: Literal["mae", "mse"] = "mae",
    min_area: Whole = 0,
    connectivity: Connectivity = 4,
) -> list[RegionContribution]:
    """How much each object's frame and the background weigh in a mean over pixels, and their own values.

    Args:
        pred: (height, width) probabilities.
        gt: (height, width) in {0, 1}.
        metric: "mae" or "mse".
        min_area: as in `object_frames`.
        connectivity: as in `object_frames`.

    Returns:
        A row per object, and last one for the background where there is one. Where frames do not overlap, the shares
        add up to 1 and Σ share · value is the measure of the image.

    >>> mask = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 1]])
    >>> [(row.share, row.value) for row in region_contributions(0.5 * mask, mask)]
    [(0.5, 0.5), (0.125, 0.5), (0.375, 0.0)]

    Source: Li et al. (2025), the decomposition of separable measures.
    """
    array, mask = as_arrays(pred, gt)
    error = np.abs(array - mask) ** (1 if metric == "mae" else 2)
    boxes = find_objects(mask, min_area, connectivity).boxes
    found = []
    for box, crop in zip(boxes.tolist(), crops(boxes), strict=True):
        found.append(RegionContribution(tuple(box), error[crop].size / error.size, float(error[crop].mean())))
    rest = error[background_of(boxes, mask.shape)]
    if len(rest):
        found.append(RegionContribution(None, len(rest) / error.size, float(rest.mean())))
    return found
