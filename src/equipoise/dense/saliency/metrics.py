"""Measures of one saliency map, and their size-invariant forms: the average over objects instead of over pixels.

With the frames C_1..C_K of the objects, their union U, the background C_0 and α = |C_0| / |U|

    SI-M = [Σ_k M(C_k) + α M(C_0)] / (K + α)       M = MAE, MSE
    SI-M = 1/K Σ_k M(C_k)                          M = F, AUC, E, S, weighted F

One object gives SI-MAE = MAE, and a mask without objects gives the measure of the whole image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import NumClasses, Positive, Probability, Whole
from equipoise.core.validate import warn_once
from equipoise.dense.regions.frames import Connectivity
from equipoise.dense.regions.types import SaliencyMap, SalientMask
from equipoise.dense.saliency.counts import EPS, Values, count_frames, e_values
from equipoise.dense.saliency.judging import Judging, MapScores, judge_map
from equipoise.dense.saliency.structure import structure_measure, weighted_f_measure


@checked
def saliency_metrics(
    pred: SaliencyMap,
    gt: SalientMask,
    beta2: Positive = 0.3,
    num_levels: NumClasses = 256,
    min_area: Whole = 0,
    normalize: bool = False,
    connectivity: Connectivity = 4,
) -> dict[str, Any]:
    """Errors, F-measures and AUC of a map, over the whole image and size-invariant.

    Args:
        pred: (height, width) probabilities.
        gt: (height, width) in {0, 1}.
        beta2: β² of the F-measure.
        num_levels: thresholds of curves; the map is cut into steps ⌊(num_levels − 1) p⌋ in float64, so that a map of 8
            bits is cut at its own values.
        min_area: as in `object_frames`.
        normalize: stretch the map to [0, 1] first, as benchmark toolkits do; a constant map stays as it is.
        connectivity: as in `object_frames`.

    Returns:
        mae, mse; f_max and f_mean over thresholds; f_adaptive at twice the mean of the map, at most 1, for frames too;
        auc, exact over all pairs of pixels, ties as halves. si_ in front of each is its size-invariant form. si_f_max
        is the best of the mean curve, si_f_max_per_object the mean of every object's best. frames: (K, 4), as
        `object_frames`.

    AUC is NaN, with a warning, where a class is missing; a frame that its object fills is left out of si_auc. At the
    lowest threshold the whole image counts as salient for a frame, too, or else an object that fills its frame would
    have F = 1 whatever the map.

    Needs scipy.

    >>> mask = torch.zeros(12, 12, dtype=torch.long)
    >>> mask[1:9, 1:9], mask[9:11, 9:11] = 1, 1
    >>> mask[1, 1] = mask[9, 9] = 0
    >>> found = saliency_metrics((mask * (torch.arange(12) < 9)).double(), mask)
    >>> {name: round(found[name], 3) for name in ("mae", "si_mae", "f_max", "si_f_max")}
    {'mae': 0.021, 'si_mae': 0.241, 'f_max': 0.989, 'si_f_max': 0.5}

    Source: Li et al. (ICML 2024), and the conventions of PySODMetrics 1.6.2 where the paper leaves them open.
    Reconstructed: the adaptive threshold of frames, and SI-AUC on the pixels of the frame alone; the
    authors' code divides SI-MAE by K + 1 + α.
    """
    scores = _judged(pred, gt, Judging(beta2, num_levels, min_area, connectivity, normalize, structural=False))
    return {**scores.values, "frames": torch.from_numpy(scores.objects.boxes)}


@checked
def structural_saliency_metrics(
    pred: SaliencyMap,
    gt: SalientMask,
    num_levels: NumClasses = 256,
    min_area: Whole = 0,
    s_alpha: Probability = 0.5,
    wf_beta2: Positive = 1.0,
    normalize: bool = False,
    connectivity: Connectivity = 4,
) -> dict[str, float]:
    """E-measure, S-measure and weighted F of a map, over the whole image and as the mean over frames.

    Args:
        pred: (height, width) probabilities.
        gt: (height, width) in {0, 1}.
        num_levels: as in `saliency_metrics`.
        min_area: as in `object_frames`.
        s_alpha: share of objects, rather than regions, in the S-measure.
        wf_beta2: β² of the weighted F.
        normalize: as in `saliency_metrics`.
        connectivity: as in `object_frames`.

    Returns:
        e_max, e_mean, e_adaptive, s_measure, wf, and si_ in front of each. The curve of si_e leaves out the lowest
        threshold, and divides by the pixels of the frame.

    Needs scipy.

    >>> mask = torch.zeros(8, 8, dtype=torch.long)
    >>> mask[2:6, 2:6] = 1
    >>> found = structural_saliency_metrics(mask.double(), mask)
    >>> {name: round(value, 3) for name, value in found.items() if "e_" not in name}
    {'s_measure': 1.0, 'si_s_measure': 1.0, 'wf': 1.0, 'si_wf': 1.0}

    Source: Li et al. (2025), on the E-measure of Fan et al. (IJCAI 2018), the S-measure of Fan et al. (ICCV 2017) and
    the weighted F of Margolin et al. (CVPR 2014), as PySODMetrics 1.6.2 has them. Reconstructed: all size-invariant
    forms.
    """
    how = Judging(
        num_levels=num_levels,
        min_area=min_area,
        connectivity=connectivity,
        normalize=normalize,
        pixelwise=False,
        s_alpha=s_alpha,
        wf_beta2=wf_beta2,
    )
    return _judged(pred, gt, how).values


@checked
def e_measure_curve(pred: SaliencyMap, gt: SalientMask, num_levels: NumClasses = 256) -> Float64[Tensor, " levels"]:
    """Enhanced alignment of a map with its mask at every threshold t, salient where ⌊(num_levels − 1) p⌋ ≥ t.

    Args:
        pred: (height, width) probabilities.
        gt: (height, width) in {0, 1}; where it is empty or full, the value is the share of pixels that are right.
        num_levels: thresholds.

    Returns:
        (num_levels,) float64, which may be above 1 by one part in the number of pixels.

    >>> mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    >>> e_measure_curve(mask.double(), mask, num_levels=2).round(decimals=3)
    tensor([0.3000, 1.2000], dtype=torch.float64)

    Source: Fan et al. (IJCAI 2018), as in PySODMetrics 1.6.2.
    """
    tp, fp = count_frames(*as_arrays(pred, gt), (), num_levels).salient()
    pixels = tp[:, :1] + fp[:, :1]
    return torch.from_numpy(e_values(tp, fp, tp[:, :1], pixels, (pixels - 1 + EPS).astype(np.float64))[0])


@checked
def s_measure(pred: SaliencyMap, gt: SalientMask, alpha: Probability = 0.5) -> float:
    """Structural similarity of a map and its mask.

    Args:
        pred: (height, width) probabilities.
        gt: (height, width) in {0, 1}.
        alpha: share of the object part; the rest is the similarity of four blocks that meet at the mask's centre.

    Returns:
        At least 0.

    >>> round(s_measure(torch.eye(4), torch.eye(4, dtype=torch.long)), 6)
    1.0

    Source: Fan et al. (ICCV 2017), as in PySODMetrics 1.6.2.
    """
    return structure_measure(*as_arrays(pred, gt), alpha)


@checked
def weighted_f(pred: SaliencyMap, gt: SalientMask, beta2: Positive = 1.0) -> float:
    """F-measure of errors that are smoothed along objects and weigh more near them.

    Args:
        pred: (height, width) probabilities.
        gt: (height, width) in {0, 1}; 0 where it is empty.
        beta2: β².

    Of several nearest pixels of an object, the one that scipy names lends its error. Needs scipy.

    >>> round(weighted_f(torch.eye(4), torch.eye(4, dtype=torch.long)), 6)
    1.0

    Source: Margolin et al. (CVPR 2014), as in PySODMetrics 1.6.2.
    """
    return weighted_f_measure(*as_arrays(pred, gt), beta2)


def asas_arrays(pred: Tensor, gt: Tensor) -> tuple[Values, NDArray[np.bool_]]:
    """A checked map in float64 and its mask as booleans."""
    return pred.detach().cpu().double().numpy(), gt.detach().cpu().numpy() > 0


def as_arrays(pred: Tensor, gt: Tensor) -> tuple[Values, NDArray[np.bool_]]:
    """A checked map in float64 and its mask as booleans."""
    return pred.detach().cpu().double().numpy(), gt.detach().cpu().numpy() > 0


def _judged(pred: Tensor, gt: Tensor, how: Judging) -> MapScores:
    scores = judge_map(*as_arrays(pred, gt), how)
    if any(np.isnan(value) for value in scores.values.values()):
        warn_once("AUC is undefined where a mask, or the frame of each of its objects, has pixels of one class only")
    return scores
