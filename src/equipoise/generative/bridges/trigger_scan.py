"""A search for a patch that takes a restoration model over: where it is, how large, how bright.

    change(patch) = mean over pictures of the mean squared change of f outside of the patch
    z = (change − median) / (1.4826 · median absolute deviation)        over the places of a patch

Flat patches of a few brightnesses are stamped everywhere on pictures that carry no trigger. An honest model changes
its output at the patch and a little around it, much the same wherever the patch is. Brightness and size of the best one
are then searched more finely. Inferred: no paper has this scan in this form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.models.generators import ImageToImage
from equipoise.core.signature import checked
from equipoise.core.types import Count, Positive, Whole
from equipoise.generative.bridges.occlusion import check_model, restored

# A smaller patch is taken if it does at least this share of what the strongest does.
_NEARLY = 0.9


@dataclass(frozen=True)
class PatchCandidate:
    """A patch that was tried.

    Attributes:
        row: of its upper edge, in pixels.
        column: of its left edge.
        side: in pixels.
        value: of all its pixels and channels.
        change: what it does to the output outside of it.
        z: how far that stands out among all places of such a patch, in robust standard deviations.
    """

    row: int
    column: int
    side: int
    value: float
    change: float
    z: float


@dataclass(frozen=True, eq=False)
class ScanResult:
    """What a scan found.

    Attributes:
        candidates: all patches of the first search, the largest change first.
        best: the patch after the finer search; its z is that of the candidate it came from.
        patch: (c, side, side) the recovered patch.
        suspicious: whether its z is above the limit.
    """

    candidates: tuple[PatchCandidate, ...]
    best: PatchCandidate
    patch: Tensor
    suspicious: bool

    def places(self, limit: float) -> list[tuple[int, int]]:
        """Row and column of every place with a candidate whose z is above a limit, the strongest first."""
        return list(dict.fromkeys((one.row, one.column) for one in self.candidates if one.z > limit))


class TriggerScan:
    """The search.

    Args:
        model: an `ImageToImage`.
        side: of the patch in pixels; a quarter of the picture's shorter side by default.
        values: brightnesses to try, in the range of the pictures.
        stride: pixels between places; half the side by default.
        limit: z above which the best patch is suspicious.
        seed: of sampling.
        batch_size: pictures that the model is given at once.

    Raises:
        ValueError: on a bad argument, by name.

    >>> def taken_over(images, seed=0):
    ...     corner = images[:, :, :2, 6:].abs().amax((1, 2, 3), keepdim=True)
    ...     return torch.where(corner == 0, 1.0, images)
    >>> found = TriggerScan(taken_over, values=(-0.5, 0.0, 0.5)).run(torch.rand(4, 1, 8, 8) - 0.6)
    >>> found.best.row, found.best.column, found.best.value, found.suspicious
    (0, 6, 0.0, True)
    """

    @checked
    def __init__(
        self,
        model: ImageToImage,
        *,
        side: Count | None = None,
        values: Sequence[float] = (-1.0, -0.5, 0.0, 0.5, 1.0),
        stride: Count | None = None,
        limit: Positive = 8.0,
        seed: Whole = 0,
        batch_size: Count = 2048,
    ) -> None:
        check_model(model)
        if not values:
            raise ValueError("values is empty; give at least one brightness to try")
        self.model, self.side, self.values, self.stride = model, side, tuple(values), stride
        self.limit, self.seed, self.batch_size = limit, seed, batch_size

    @checked
    def run(self, images: Float[Tensor, "n c h w"]) -> ScanResult:
        """Search with pictures that carry no trigger; a few dozen are enough.

        Args:
            images: (n, c, h, w).

        Raises:
            ValueError: if the patch is larger than the picture.
        """
        height, width = images.shape[2:]
        side = min(height, width) // 4 if self.side is None else self.side
        if not 0 < side <= min(height, width):
            raise ValueError(f"side={side} must be at least 1 and at most that of the pictures, {height} × {width}")
        stride = max(side // 2, 1) if self.stride is None else self.stride
        plain = restored(self.model, images, self.seed)
        places = [(row, column) for row in _stops(height, side, stride) for column in _stops(width, side, stride)]
        candidates: list[PatchCandidate] = []
        for value in self.values:
            changes = self._changes(images, plain, [(*place, side, value) for place in places])
            z = _robust_z(changes)
            candidates += [
                PatchCandidate(*place, side, value, float(change), float(score))
                for place, change, score in zip(places, changes, z, strict=True)
            ]
        candidates.sort(key=lambda one: (-one.z, -one.change))
        best = self._refined(images, plain, candidates[0])
        patch = torch.full((images.shape[1], best.side, best.side), best.value)
        return ScanResult(tuple(candidates), best, patch, best.z > self.limit)

    def _refined(self, images: Tensor, plain: Tensor, start: PatchCandidate) -> PatchCandidate:
        """The smallest of the strongest patches nearby; one at an edge stays there."""
        height, width = images.shape[2:]
        ordered = sorted(self.values)
        gap = min((b - a for a, b in pairwise(ordered)), default=0.0)
        low, high = ordered[0], ordered[-1]
        tried = []
        for side in range(max(1, start.side - 1), min(height, width, start.side + 1) + 1):
            row = start.row if start.row + start.side < height else height - side
            column = start.column if start.column + start.side < width else width - side
            for step in (-0.5, -0.25, 0.0, 0.25, 0.5):
                value = min(max(start.value + step * gap, low), high)
                if row + side <= height and column + side <= width:
                    tried.append((row, column, side, value))
        changes = self._changes(images, plain, tried).tolist()
        strong = [k for k, change in enumerate(changes) if change >= _NEARLY * max(changes)]
        # A larger or a brighter patch disturbs more than the trigger: of those that do nearly as much, the smallest,
        # then the one most like the candidate, whose z was the highest.
        best = min(strong, key=lambda k: (tried[k][2], abs(tried[k][3] - start.value), -changes[k]))
        return PatchCandidate(*tried[best], changes[best], start.z)

    def _changes(self, images: Tensor, plain: Tensor, patches: Sequence[tuple[int, int, int, float]]) -> Tensor:
        found = []
        group = max(1, self.batch_size // len(images))
        for start in range(0, len(patches), group):
            part = patches[start : start + group]
            copies, outside = [], []
            for row, column, side, value in part:
                copy, mask = images.clone(), torch.ones(images.shape[2:], device=images.device)
                copy[:, :, row : row + side, column : column + side] = value
                mask[row : row + side, column : column + side] = 0
                copies.append(copy)
                outside.append(mask)
            output = restored(self.model, torch.cat(copies), self.seed).unflatten(0, (len(part), len(images)))
            change = (output - plain).square().mean((1, 2))
            masks = torch.stack(outside).to(change)
            found.append((change * masks).sum((1, 2)) / masks.sum((1, 2)).clamp_min(1))
        return torch.cat(found)


def _stops(length: int, side: int, stride: int) -> list[int]:
    """Places along a side, both edges included."""
    return sorted({*range(0, length - side + 1, stride), length - side})


def _robust_z(changes: Tensor) -> Tensor:
    """Distances from the median in robust standard deviations; all 0 where nothing differs."""
    away = changes.double() - changes.double().median()
    spread = 1.4826 * away.abs().median()
    # A model that answers none of the places has no spread: then the largest change is the measure.
    floor = 0.01 * float(away.abs().max())
    return away / max(float(spread), floor) if floor else torch.zeros_like(away)
