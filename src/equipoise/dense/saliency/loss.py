"""Losses that judge every object by itself, whatever its size, and the background as one more region.

    L = 1/n Σ_images [ Σ_k Σ_ℓ ℓ(p | C_k) + α ℓ_bg(p | C_0) ]

over the frames C_1..C_K of the objects of an image and its background C_0, with ℓ any of

    bce, mse, mae    the mean over the pixels of the region
    dice             1 − (2 Σ p g + ε) / (Σ p + Σ g + ε), ε = 10⁻⁵
    iou              1 − (Σ p g + 1) / (Σ p + Σ g − Σ p g + 1)
    auc              the mean over pairs of an object's pixel and another of its frame of (γ − (p_i − p_j))²

Means over pixels are one weighted sum over the image (`regions.weights`); dice and iou take box sums; auc takes moments
(`regions.bipartite`). None of them loops over objects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from equipoise.core.pairs.means import wide
from equipoise.core.phases import Phased
from equipoise.core.reduction import attached_zero
from equipoise.core.signature import checked
from equipoise.core.types import NonNegative, Positive, Scalar, Whole
from equipoise.core.validate import warn_once
from equipoise.dense.regions.bipartite import Moments, pair_loss, side_moments
from equipoise.dense.regions.frames import Connectivity
from equipoise.dense.regions.types import Frames, SalientMasks
from equipoise.dense.regions.weights import (
    Alpha,
    FrameSet,
    as_frame_set,
    box_sums,
    frame_pixels,
    mask_frame_set,
    region_weights,
)

Base: TypeAlias = Literal["bce", "mse", "mae", "dice", "iou", "auc"]
Background: TypeAlias = Literal["auto", "none", "bce", "mse", "mae"]
MapLogits: TypeAlias = Float[Tensor, "n height width"] | Float[Tensor, "n _maps height width"]

_DICE, _IOU = 1e-5, 1.0
_PIXEL: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bce": lambda z, g: binary_cross_entropy_with_logits(z, g.expand_as(z), reduction="none"),
    "mse": lambda z, g: (z.sigmoid() - g) ** 2,
    "mae": lambda z, g: (z.sigmoid() - g).abs(),
}


class SizeInvariantLoss(nn.Module):
    """A segmentation loss in which a small object counts as much as a large one, see the module.

    Args:
        base: the losses of a frame, added.
        background: "auto": the separable ones of `base` (bce, mse, mae) judge the background too, the others do
            not; "none"; or one of bce, mse and mae, whatever `base` is, of the mean of all maps.
        alpha: the weight of the background: "ratio" for |background| / |union of frames|, or a number.
        reduction: over the objects of an image, "sum" or "mean"; over images it is a mean.
        min_area: as in `object_frames`, where frames are not given.
        gamma: of "auc", the wanted difference of the probabilities of a pair.
        cross: of "auc", the weight of the background beside the other pixels of a frame, whose weight is 1. Far false
            positives are ranked too where it is above 0.
        connectivity: as in `object_frames`.

    An image without an object counts as one frame without a background, and not at all for "auc"; nor does a frame of
    one class only. Gradients cost O(pixels), however many objects there are.

    `frames` save finding the objects again in every step; they must belong to the mask as the network sees it, after it
    was cropped, flipped or resized.

    Raises:
        ValueError: if a setting is out of range or unknown.

    >>> mask = torch.zeros(1, 6, 6, dtype=torch.long)
    >>> mask[:, :3, :3], mask[:, 5, 5] = 1, 1
    >>> logits = 8.0 * mask - 4.0
    >>> missed = logits.clone()
    >>> missed[:, 5, 5] = -4.0
    >>> loss = SizeInvariantLoss(("bce",))
    >>> plain = torch.nn.BCEWithLogitsLoss()
    >>> round(float(plain(missed, mask.float())), 2), round(float(loss(missed, mask)), 2)
    (0.13, 4.08)

    Source: Li et al. (ICML 2024) and their code (exact for `background="mse"`); Li et al. (2025) for "auc".
    Reconstructed: `background="auto"`, `reduction="mean"`, "auc" and `cross`.
    """

    @checked
    def __init__(
        self,
        base: Sequence[Base] = ("bce",),
        background: Background = "auto",
        alpha: Alpha = "ratio",
        reduction: Literal["sum", "mean"] = "sum",
        min_area: Whole = 0,
        gamma: Positive = 1.0,
        cross: NonNegative = 0.0,
        connectivity: Connectivity = 4,
    ) -> None:
        super().__init__()
        if not base or len(set(base)) < len(base):
            raise ValueError(f"base={base!r} must name at least one loss, and none of them twice")
        self.base, self.background, self.alpha, self.reduction = base, background, alpha, reduction
        self.min_area, self.gamma, self.cross, self.connectivity = min_area, gamma, cross, connectivity

    @checked
    def forward(self, logits: MapLogits, target: SalientMasks, frames: Sequence[Frames] | None = None) -> Scalar:
        """The loss.

        Args:
            logits: (n, height, width), or (n, maps, height, width) of several outputs, whose losses are added.
            target: (n, height, width) or (n, 1, height, width) masks in {0, 1}.
            frames: (K, 4) boxes of each mask; found in the mask if absent.

        Returns:
            A scalar; zero with a warning where "auc" stands alone and no frame has both classes.

        Raises:
            ValueError: if shapes do not agree or frames lie outside the image.
        """
        target = target.flatten(0, 1) if target.ndim == 4 else target
        if frames is None:
            found = mask_frame_set(target, self.min_area, self.connectivity)
        else:
            found = as_frame_set(frames, target.shape)
        maps = logits[:, None] if logits.ndim == 3 else logits
        return self._of_frames(maps, target, found).to(logits.dtype)

    def extra_repr(self) -> str:
        """Settings as they were given."""
        names = "base", "background", "alpha", "reduction", "min_area", "gamma", "cross", "connectivity"
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def _of_frames(self, maps: Tensor, target: Tensor, frames: FrameSet) -> Tensor:
        truth = target[:, None].to(maps.dtype)
        total = attached_zero(maps).to(wide(maps))
        pixelwise = [name for name in self.base if name in _PIXEL]
        named = self.background in _PIXEL
        if pixelwise or named:
            regions = region_weights(frames, self.alpha, self.reduction == "mean")
            weight = regions.joint() if self.background == "auto" else regions.foreground()
            for name in pixelwise:
                total = total + _weighted(_PIXEL[name](maps, truth), weight)
            if named:
                total = total + _weighted(_of_mean_map(self.background, maps, truth), regions.background())
        if {"dice", "iou"} & set(self.base):
            total = total + self._overlap(maps.sigmoid(), truth, frames)
        if "auc" in self.base:
            total = total + self._ranked(maps, target, frames)
        return total / target.shape[0]

    def _overlap(self, p: Tensor, g: Tensor, frames: FrameSet) -> Tensor:
        """Dice and IoU of every frame, of masks without an object as a whole."""
        frames, share = self._shares(frames, p)
        p, g = p.transpose(0, 1), g.transpose(0, 1)
        both, of_p, of_g = (box_sums(each, frames) for each in (p * g, p, g))
        value = torch.zeros_like(both)
        if "dice" in self.base:
            value = value + 1 - (2 * both + _DICE) / (of_p + of_g + _DICE)
        if "iou" in self.base:
            value = value + 1 - (both + _IOU) / (of_p + of_g - both + _IOU)
        return (value * share).sum()

    def _shares(self, frames: FrameSet, like: Tensor) -> tuple[FrameSet, Tensor]:
        """Frames with a whole image where there is no object, and the weight of each."""
        _, height, width = frames.shape
        empty = (frames.objects == 0).nonzero()[:, 0]
        whole = frames.boxes.new_tensor([0, height, 0, width]).expand(len(empty), 4)
        added = FrameSet(
            torch.cat([frames.boxes, whole]),
            torch.cat([frames.image, empty]),
            frames.objects.clamp_min(1),
            frames.shape,
        )
        return added, self._weight(added, like)

    def _weight(self, frames: FrameSet, like: Tensor) -> Tensor:
        """(F,) of each frame in the sum over frames."""
        count = frames.objects[frames.image].to(wide(like))
        return 1 / count if self.reduction == "mean" else torch.ones_like(count)

    def _ranked(self, maps: Tensor, target: Tensor, frames: FrameSet) -> Tensor:
        """The square loss over the pairs of every frame."""
        p = maps.sigmoid().transpose(0, 1).flatten(1)
        pixel, frame = frame_pixels(frames)
        count = len(frames.boxes)
        positive = (target.flatten() > 0)[pixel]
        found = side_moments(p[:, pixel], 2 * frame + positive, 2 * count)
        neg, pos = (_side(found, side, count) for side in (0, 1))
        value = pair_loss(pos, neg, self.gamma)
        ranked = (pos.number > 0) & (neg.number > 0)
        if self.cross:
            covered = frames.covered()
            n = frames.shape[0]
            image = torch.arange(n, device=p.device).repeat_interleave(covered[0].numel())
            behind = side_moments(p, torch.where(covered.flatten(), n, image), n + 1)
            far = Moments(*(each[..., frames.image] for each in behind))
            near, beyond = ranked.to(value.dtype), ((pos.number > 0) & (far.number > 0)).to(value.dtype)
            weights = near + self.cross * beyond
            value = (value + self.cross * pair_loss(pos, far, self.gamma)) / torch.where(weights > 0, weights, 1.0)
            ranked = weights > 0
        alone = self.base == ("auc",) and self.background in ("auto", "none")
        if alone and not torch.compiler.is_compiling() and not bool(ranked.any()):
            warn_once(
                "SizeInvariantLoss of 'auc' alone is zero on a batch without a frame that has pixels of both classes; "
                "add a base such as 'bce'"
            )
        return (value * self._weight(frames, p)).sum()


class WarmupLoss(Phased):
    """The plain loss of a number of epochs, then the size-invariant one: frames of objects help once objects are found.

    Args:
        loss: the size-invariant loss; before it begins, the same bases are taken over whole images, a frame each.
        epochs: how many epochs are plain; the authors take 20 of 100.

    The trainer says which epoch it is: `set_epoch(loss, epoch)`.

    >>> loss = WarmupLoss(SizeInvariantLoss(), epochs=1)
    >>> logits, mask = torch.zeros(1, 4, 4), torch.eye(4, dtype=torch.long)[None]
    >>> round(float(loss(logits, mask)), 4)
    0.6931
    >>> loss.set_epoch(1)
    >>> round(float(loss(logits, mask)), 4)
    4.852

    Source: Li et al. (ICML 2024), the authors' code.
    """

    @checked
    def __init__(self, loss: SizeInvariantLoss, epochs: Whole = 20) -> None:
        super().__init__()
        self.loss, self.epochs = loss, epochs

    @checked
    def forward(self, logits: MapLogits, target: SalientMasks, frames: Sequence[Frames] | None = None) -> Scalar:
        """The loss of the epoch in progress; arguments as `SizeInvariantLoss`."""
        if self.epoch < self.epochs:
            height, width = target.shape[-2:]
            frames = [torch.tensor([[0, height, 0, width]], device=target.device)] * len(target)
        value: Tensor = self.loss(logits, target, frames)
        return value

    def extra_repr(self) -> str:
        """Settings as they were given."""
        return f"epochs={self.epochs}"


def _side(found: Moments, side: int, count: int) -> Moments:
    return Moments(*(each.view(*each.shape[:-1], count, 2)[..., side] for each in found))


def _weighted(losses: Tensor, weight: Tensor) -> Tensor:
    """Σ of (n, maps, height, width) losses with the weights of (n, height, width) pixels."""
    return (losses * weight[:, None].to(losses.dtype)).sum(dtype=wide(losses))


def _of_mean_map(name: str, maps: Tensor, truth: Tensor) -> Tensor:
    """A pixel loss of the mean probability of all maps, (n, 1, height, width)."""
    if maps.shape[1] == 1:
        return _PIXEL[name](maps, truth)
    if name != "bce":
        error = maps.sigmoid().mean(1, keepdim=True) - truth
        return error**2 if name == "mse" else error.abs()
    on, off = (logsigmoid(z).logsumexp(1, keepdim=True) - math.log(maps.shape[1]) for z in (maps, -maps))
    return -(truth * on + (1 - truth) * off)
