"""One weight per pixel that makes the sum of any pixel loss the mean over objects and a share of the background.

    w(x) = Σ_k 1[x ∈ C_k] / |C_k| + α 1[x ∈ C_0] / |C_0|

with the frames C_1..C_K of objects and the background C_0 in none of them. α = |C_0| / |∪ C_k| gives every background
pixel the weight 1 / |∪ C_k|: that of a pixel of a frame as large as all frames together.

A frame adds to four corners of a difference array, whose double running sum is the map: O(pixels + K).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float64
from torch import Tensor

from equipoise.core.pairs.means import wide
from equipoise.core.signature import checked
from equipoise.core.types import NonNegative, Whole
from equipoise.dense.regions.frames import Connectivity, find_objects, object_frames
from equipoise.dense.regions.types import Frames, SalientMask

Alpha: TypeAlias = Literal["ratio"] | NonNegative


class FrameSet(NamedTuple):
    """The frames of a batch of masks.

    Attributes:
        boxes: (F, 4) int64 boxes (top, bottom, left, right).
        image: (F,) int64 the mask of each.
        objects: (n,) int64 frames of each mask; 0 where it has no object.
        shape: (n, height, width).
    """

    boxes: Tensor
    image: Tensor
    objects: Tensor
    shape: tuple[int, int, int]

    @property
    def pixels(self) -> Tensor:
        """(F,) pixels of each frame."""
        top, bottom, left, right = self.boxes.unbind(1)
        return (bottom - top) * (right - left)

    def corners(self) -> Tensor:
        """(4, F) places of the corners (bottom right, top right, bottom left, top left) in flat tables of one row and
        one column more than the masks.
        """
        _, height, width = self.shape
        top, bottom, left, right = self.boxes.unbind(1)
        first = self.image * (height + 1) * (width + 1)
        rows = torch.stack([bottom, top, bottom, top])
        return first + rows * (width + 1) + torch.stack([right, right, left, left])

    def spread(self, value: Tensor) -> Tensor:
        """(n, height, width) the sum over the frames on each pixel of a value (F,) of each frame."""
        n, height, width = self.shape
        table = value.new_zeros(n * (height + 1) * (width + 1))
        for corner, sign in zip(self.corners(), (1, -1, -1, 1), strict=True):
            table.index_add_(0, corner, sign * value)
        return table.view(n, height + 1, width + 1).cumsum(1).cumsum(2)[:, :height, :width]

    def covered(self) -> Tensor:
        """(n, height, width) whether a pixel is in a frame; the whole of a mask without an object is not."""
        return self.spread(torch.ones_like(self.image)) > 0


class RegionWeights(NamedTuple):
    """Weights of the pixels of a batch, by the region that they are in.

    Attributes:
        covered: (n, height, width) which pixels are in a frame.
        inside: (n, height, width) the weight there.
        level: (n, 1, 1) the weight of the pixels of the background.
        empty: (n, 1, 1) which masks have no object.
    """

    covered: Tensor
    inside: Tensor
    level: Tensor
    empty: Tensor

    def joint(self) -> Tensor:
        """(n, height, width) of frames and background."""
        return torch.where(self.covered, self.inside, torch.where(self.empty, self._whole, self.level))

    def foreground(self) -> Tensor:
        """(n, height, width) of frames."""
        return torch.where(self.covered, self.inside, torch.where(self.empty, self._whole, 0.0))

    def background(self) -> Tensor:
        """(n, height, width) of the background."""
        return torch.where(self.covered | self.empty, 0.0, self.level)

    @property
    def _whole(self) -> float:
        return 1 / self.covered[0].numel()


@checked
def frame_weight_map(
    mask: SalientMask, min_area: Whole = 0, alpha: Alpha = "ratio", connectivity: Connectivity = 4
) -> Float64[Tensor, "height width"]:
    """The weight of every pixel, with which the sum of any separable loss is size-invariant, see the module.

    Args:
        mask: (height, width) in {0, 1}.
        min_area: as in `object_frames`.
        alpha: the weight of the background: "ratio", or a number; 0 leaves it out.
        connectivity: as in `object_frames`.

    Returns:
        (height, width) float64, computed once per mask and kept with it. It adds up to K + α; of a mask without objects
        it is one over the number of pixels.

    >>> mask = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 1]])
    >>> frame_weight_map(mask)
    tensor([[0.2500, 0.2500, 0.2000, 0.2000],
            [0.2500, 0.2500, 0.2000, 1.0000]], dtype=torch.float64)

    Source: Li et al. (ICML 2024), the separable case of the loss, as in the authors' code (reconstructed: α of the
    paper).
    """
    found = object_frames(mask, min_area, connectivity)
    return region_weights(as_frame_set([found], (1, *mask.shape)), alpha).joint()[0]


def mask_frame_set(masks: Tensor, min_area: int, connectivity: int) -> FrameSet:
    """The frames of the objects of (n, height, width) masks in {0, 1}."""
    arrays = masks.detach().cpu().numpy() > 0
    found = [torch.from_numpy(find_objects(each, min_area, connectivity).boxes) for each in arrays]
    return as_frame_set([each.to(masks.device) for each in found], masks.shape)


@checked
def as_frame_set(frames: Sequence[Frames], shape: Sequence[int]) -> FrameSet:
    """Frames of each mask of a batch as one set.

    Args:
        frames: (K, 4) boxes of each mask, none for a mask without objects.
        shape: (n, height, width) of the masks.

    Raises:
        ValueError: if there are not as many as masks, or a box is empty, inverted or not inside.

    >>> as_frame_set([torch.tensor([[0, 1, 0, 2]])], (1, 2, 2)).pixels
    tensor([2])
    """
    n, height, width = shape
    if len(frames) != n:
        raise ValueError(f"frames holds the boxes of {len(frames)} masks, but there are {n}; give one tensor per mask")
    boxes = torch.cat([each.long() for each in frames])
    counts = [len(each) for each in frames]
    if not torch.compiler.is_compiling():
        top, bottom, left, right = boxes.unbind(1)
        wrong = (top < 0) | (bottom <= top) | (bottom > height) | (left < 0) | (right <= left) | (right > width)
        if bool(wrong.any()):
            first = tuple(boxes[wrong][0].tolist())
            raise ValueError(
                f"frames holds the box {first}, wanted (top, bottom, left, right) with 0 ≤ top < bottom ≤ {height} and "
                f"0 ≤ left < right ≤ {width}"
            )
    count = torch.tensor(counts, device=boxes.device)
    return FrameSet(boxes, torch.arange(n, device=boxes.device).repeat_interleave(count), count, (n, height, width))


def region_weights(frames: FrameSet, alpha: float | str, per_object: bool = False) -> RegionWeights:
    """Weights of the pixels of a batch.

    Args:
        frames: of a batch.
        alpha: of the background, see `frame_weight_map`.
        per_object: divide the frames' part by the number of objects.

    A mask without objects counts as a whole, with the weight of one frame and without a background.
    """
    dtype = wide(frames.boxes)
    _, height, width = frames.shape
    size = height * width
    empty = (frames.objects == 0)[:, None, None]
    if not len(frames.boxes):
        nothing = torch.zeros(frames.shape, dtype=dtype, device=frames.boxes.device)
        return RegionWeights(nothing.bool(), nothing, nothing[:, :1, :1], empty)
    share = 1 / frames.pixels.to(dtype)
    if per_object:
        share = share / frames.objects[frames.image]
    inside = frames.spread(share)
    # A running sum leaves a trace of rounding where it should be back at zero.
    covered = inside > 0.5 * share.min()
    union = covered.sum((1, 2), keepdim=True)
    if isinstance(alpha, str):
        level = 1 / union.clamp_min(1).to(dtype)
    else:
        level = alpha / (size - union).clamp_min(1).to(dtype)
    return RegionWeights(covered, inside, level, empty)


def frame_pixels(frames: FrameSet) -> tuple[Tensor, Tensor]:
    """The pixels of all frames, one after another: their place in the flat masks, and the frame of each."""
    _, height, width = frames.shape
    pixels = frames.pixels
    frame = torch.arange(len(pixels), device=pixels.device).repeat_interleave(pixels)
    inside = torch.arange(len(frame), device=pixels.device) - (pixels.cumsum(0) - pixels)[frame]
    top, _, left, right = frames.boxes[frame].unbind(1)
    across = right - left
    row = frames.image[frame] * height + top + inside // across
    return row * width + left + inside % across, frame


def box_sums(values: Tensor, frames: FrameSet) -> Tensor:
    """(..., F) sums of (..., n, height, width) values over each frame, by tables of summed areas."""
    table = torch.nn.functional.pad(values.to(wide(values)).cumsum(-2).cumsum(-1), (1, 0, 1, 0)).flatten(-3)
    ends = table[..., frames.corners().flatten()].unflatten(-1, (4, -1))
    return ends[..., 0, :] - ends[..., 1, :] - ends[..., 2, :] + ends[..., 3, :]
