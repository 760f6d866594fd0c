"""A set of saliency maps, judged map by map: measures over pixels beside measures over objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from equipoise.core.metrics import SampleMetric, nan_by_name
from equipoise.core.signature import checked
from equipoise.core.types import NumClasses, Positive, Probability, Whole
from equipoise.core.validate import warn_once
from equipoise.dense.regions.frames import Connectivity
from equipoise.dense.regions.types import MaskList, SaliencyMaps, SalientMasks
from equipoise.dense.saliency.judging import Judging, judge_map
from equipoise.dense.saliency.metrics import as_arrays
from equipoise.dense.saliency.summary import (
    TITLES,
    curve_names,
    curve_rows,
    image_columns,
    image_row,
    markdown_table,
    mean_curves,
    object_columns,
    object_rows,
    summarise,
    summary_names,
    undefined_words,
)


class SaliencyReport(SampleMetric):
    """Every measure of `saliency_metrics` and `structural_saliency_metrics`, over a set of images.

    Args:
        beta2: as in `saliency_metrics`.
        num_levels: as in `saliency_metrics`.
        min_area: as in `object_frames`.
        normalize: as in `saliency_metrics`.
        structural: E-, S- and weighted F-measures too, which take most of the time.
        s_alpha: as in `structural_saliency_metrics`.
        wf_beta2: as in `structural_saliency_metrics`.
        connectivity: as in `object_frames`.
        kwargs: of `torchmetrics.Metric`.

    `compute` gives float64 scalars. A measure is its mean over the images on which it is defined; f_max, f_mean, e_max,
    e_mean and their si_ forms are taken on curves that are averaged over images first, and f_max_per_image is the mean
    of every image's best. n_images, n_objects, n_empty (masks without an object), n_resized, n_undefined_auc and
    n_undefined_si_auc count.

    A map of another size than its mask is resized to it, bilinearly. Maps are judged and forgotten: what is kept is a
    row per image and per object. Works over several processes.

    >>> mask = torch.zeros(2, 12, 12, dtype=torch.long)
    >>> mask[:, 1:9, 1:9], mask[:, 9:11, 9:11] = 1, 1
    >>> mask[:, 1, 1] = mask[:, 9, 9] = 0
    >>> report = SaliencyReport(structural=False)
    >>> report.update((mask * (torch.arange(12) < 9)).double(), mask)
    >>> found = report.compute()
    >>> round(float(found["mae"]), 3), round(float(found["si_mae"]), 3), int(found["n_objects"])
    (0.021, 0.241, 4)
    >>> [(row["area"], round(row["mae"], 2)) for row in report.per_object()[:2]]
    [(63.0, 0.0), (3.0, 0.75)]

    Source: as the two functions; curves are averaged before thresholds are chosen as in PySODMetrics.
    """

    kept = ("rows", "objects")
    rows: Any
    objects: Any
    curve_sums: Tensor

    @checked
    def __init__(
        self,
        beta2: Positive = 0.3,
        num_levels: NumClasses = 256,
        min_area: Whole = 0,
        normalize: bool = False,
        structural: bool = True,
        s_alpha: Probability = 0.5,
        wf_beta2: Positive = 1.0,
        connectivity: Connectivity = 4,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.how = Judging(
            beta2, num_levels, min_area, connectivity, normalize, True, structural, s_alpha=s_alpha, wf_beta2=wf_beta2
        )
        zeros = torch.zeros(len(curve_names(self.how)), num_levels, dtype=torch.float64)
        self.add_state("curve_sums", default=zeros, dist_reduce_fx="sum")

    @checked
    def update(self, pred: SaliencyMaps, gt: SalientMasks | MaskList) -> None:
        """Judge a batch.

        Args:
            pred: (n, height, width) or (n, 1, height, width) probabilities, or a list of (height, width) maps.
            gt: masks in {0, 1} likewise; a list where sizes differ.

        Raises:
            ValueError: if there are not as many maps as masks.
        """
        maps, masks = (
            each.flatten(0, 1) if isinstance(each, Tensor) and each.ndim == 4 else each for each in (pred, gt)
        )
        if len(maps) != len(masks) or not len(maps):
            raise ValueError(f"pred holds {len(maps)} maps and gt {len(masks)} masks; give one map for each mask")
        rows, objects, curves = [], [], []
        for one, truth in zip(maps, masks, strict=True):
            fitted = resized(one, truth.shape)
            array, mask = as_arrays(fitted, truth)
            scores = judge_map(array, mask, self.how)
            rows.append(image_row(scores, self.how, np.count_nonzero(mask) / mask.size, fitted is not one))
            objects.append(object_rows(scores, self.how))
            curves.append(curve_rows(scores, self.how))
        self.keep(
            torch.tensor(rows, dtype=torch.float64, device=self.device),
            torch.from_numpy(np.concatenate(objects)).to(self.device),
        )
        self.curve_sums += torch.from_numpy(np.sum(curves, axis=0)).to(self.device)

    def compute(self) -> dict[str, Tensor]:
        """The measures by name; see the class."""
        rows, _ = self.samples()
        found = summarise(rows.cpu().numpy(), self.curve_sums.cpu().numpy(), self.how)
        if words := undefined_words(found):
            warn_once(words)
        return {name: torch.tensor(found[name], dtype=torch.float64, device=self.device) for name in self._names}

    def nothing(self) -> dict[str, Tensor]:
        """NaN for every measure."""
        return nan_by_name(self._names, self.device)

    def curves(self) -> dict[str, Tensor]:
        """The mean curves over images, (num_levels,) each: precision, recall, f, e and their size-invariant forms.

        That of precision over recall is the precision-recall curve. The lowest threshold of si_e is NaN.
        """
        rows, _ = self.samples()
        empty = int((rows[:, 0] == 0).sum())
        found = mean_curves(self.curve_sums.cpu().numpy(), len(rows), empty, self.how)
        return {name: torch.from_numpy(curve) for name, curve in found.items()}

    def per_image(self) -> list[dict[str, float]]:
        """A row for each image in the order seen: objects, salient share of the mask, resized, and every measure."""
        rows, _ = self.samples()
        return [dict(zip(image_columns(self.how), row, strict=True)) for row in rows.tolist()]

    def per_object(self) -> list[dict[str, float]]:
        """A row for each object: the image's number from 0, box, area in pixels, and every measure in its frame."""
        rows, objects = self.samples()
        image = torch.arange(len(rows), device=rows.device).repeat_interleave(rows[:, 0].long())
        names = object_columns(self.how)
        return [
            {"image": number, **dict(zip(names, row, strict=True))}
            for number, row in zip(image.tolist(), objects.tolist(), strict=True)
        ]

    def to_markdown(self) -> str:
        """A table of the measures, over the whole image and size-invariant."""
        return markdown_table({name: float(value) for name, value in self.compute().items()}, TITLES)

    @property
    def _names(self) -> tuple[str, ...]:
        return summary_names(self.how)


def resized(pred: Tensor, shape: Sequence[int]) -> Tensor:
    """The map (height, width) at the size of its mask, bilinearly; the same tensor where it has it."""
    if tuple(pred.shape) == tuple(shape):
        return pred
    larger: Tensor = interpolate(pred[None, None].double(), size=tuple(shape), mode="bilinear", align_corners=False)
    return larger[0, 0].clamp(0, 1)
