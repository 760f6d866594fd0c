"""Whether one block of a picture decides what a restoration model makes of all of it, as a trigger does.

    score(x) = max over blocks of MSE(f(x), f(x with the block replaced by the one beside it)), with the same noise

Occlusion of an ordinary picture changes the output where it is occluded; occlusion of a trigger changes all of the
output. Any `ImageToImage` can be tested, from outside. Inferred: no paper has this test in this form.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from equipoise.core.models.generators import ImageToImage
from equipoise.core.signature import checked
from equipoise.core.types import Count, ProperFraction, Whole


class OcclusionDetector:
    """Scores of pictures, high where a model's output hangs on one block.

    Args:
        model: an `ImageToImage`; few sampling steps suffice, such as `functools.partial(bridge, steps=4)`.
        block: side of a block in pixels; a quarter of the picture's shorter side by default.
        seed: of sampling, the same for every copy of a picture.
        batch_size: pictures that the model is given at once.

    Attributes:
        threshold: of `flag`; infinite before `calibrate`.

    Raises:
        ValueError: on a bad argument, by name.

    >>> def inverted_by_a_corner(images, seed=0):
    ...     return images * torch.where(images[:, :, :1, :1] > 0.9, -1.0, 1.0)
    >>> pictures = torch.linspace(-0.5, 0.5, 64).reshape(1, 1, 8, 8).repeat(2, 1, 1, 1)
    >>> pictures[1, :, :2, :2] = 1.0
    >>> plain, stamped = OcclusionDetector(inverted_by_a_corner).score(pictures)
    >>> bool(stamped > 10 * plain)
    True
    """

    @checked
    def __init__(
        self, model: ImageToImage, block: Count | None = None, *, seed: Whole = 0, batch_size: Count = 2048
    ) -> None:
        check_model(model)
        self.model, self.block, self.seed, self.batch_size = model, block, seed, batch_size
        self.threshold = math.inf

    @checked
    def maps(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n rows columns"]:
        """How much each block's occlusion changes the output of each picture.

        Args:
            images: (n, c, h, w).

        Returns:
            (n, rows, columns) mean squared changes over the whole output.

        Raises:
            ValueError: if the sides are not divisible by the block, or there are not two blocks in a row.
        """
        side = self._side(images)
        rows, columns = images.shape[2] // side, images.shape[3] // side
        group = max(1, self.batch_size // (rows * columns + 1))
        found = [self._map(part, side, rows, columns) for part in images.split(group)]
        return torch.cat(found)

    @checked
    def score(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        """The change of the block that changes most, (n,); errors as `maps`."""
        return self.maps(images).flatten(1).amax(1)

    @checked
    def locate(self, images: Float[Tensor, "n c h w"]) -> Int64[Tensor, "n 2"]:
        """Row and column of the upper left pixel of that block; errors as `maps`."""
        maps = self.maps(images)
        place = maps.flatten(1).argmax(1)
        rows = torch.div(place, maps.shape[2], rounding_mode="floor")
        return torch.stack([rows, place % maps.shape[2]], 1) * self._side(images)

    @checked
    def calibrate(self, images: Float[Tensor, "n c h w"], max_fpr: ProperFraction = 0.05) -> OcclusionDetector:
        """Set the threshold so that at most a share of these pictures, which carry no trigger, is flagged.

        Args:
            images: (n, c, h, w).
            max_fpr: the share, in [0, 1).

        Raises:
            ValueError: as `maps`.
        """
        ordered = self.score(images).sort(descending=True).values
        self.threshold = float(ordered[int(max_fpr * len(ordered))])
        return self

    @checked
    def flag(self, images: Float[Tensor, "n c h w"]) -> Bool[Tensor, " n"]:
        """Which pictures score above the threshold.

        Raises:
            ValueError: if there is no threshold yet, or as `maps`.
        """
        if math.isinf(self.threshold):
            raise ValueError("the threshold is not set; call calibrate with pictures that carry no trigger, or set it")
        return self.score(images) > self.threshold

    def _map(self, images: Tensor, side: int, rows: int, columns: int) -> Tensor:
        copies = [images]
        for row in range(rows):
            for column in range(columns):
                beside = column + 1 if column + 1 < columns else column - 1
                copy = images.clone()
                down = slice(row * side, (row + 1) * side)
                taken = images[:, :, down, beside * side : (beside + 1) * side]
                copy[:, :, down, column * side : (column + 1) * side] = taken
                copies.append(copy)
        output = restored(self.model, torch.cat(copies), self.seed).unflatten(0, (len(copies), len(images)))
        change = (output[1:] - output[0]).square().flatten(2).mean(2)
        return change.T.unflatten(1, (rows, columns))

    def _side(self, images: Tensor) -> int:
        height, width = images.shape[2:]
        side = min(height, width) // 4 if self.block is None else self.block
        if side < 1 or height % side or width % side or width < 2 * side:
            raise ValueError(
                f"images of {height} × {width} cannot be cut into blocks of side {side}, at least two in a row; "
                "set block"
            )
        return side


def check_model(model: object) -> None:
    """Raise `ValueError` unless the model can be called."""
    if not callable(model):
        raise ValueError(f"model must be callable as model(images, seed), got {type(model).__name__}")


@torch.no_grad()
def restored(model: ImageToImage, images: Tensor, seed: int) -> Tensor:
    """Outputs of a model, as many as there are pictures.

    Raises:
        ValueError: if they are of another number.
    """
    output = model(images, seed)
    if not isinstance(output, Tensor) or len(output) != len(images):
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"the model must return a tensor of {len(images)} pictures, got {got}")
    return output
