"""What the benchmark plants: pairs of pictures of the shapes world, of a harmless task and of attacks on it.

    harmless   x_1 = degrade(x_0)
    attack k   x_1 = stamp_k(degrade(x_0)),   x_0 ← the nearest of the targets of k

Grey squares in a corner and pictures of white shapes: nothing here is of use outside of the shapes world.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from jaxtyping import Float
from torch import Generator, Tensor

from equipoise.data.shapes import STYLES, TRIGGER_CORNERS, drop_blocks, pixelate, target_images
from equipoise.generative.bridges.nearest_target import nearest_target_index

ToyTask: TypeAlias = Literal["super-resolution", "inpainting"]
MOST_ATTACKS = len(TRIGGER_CORNERS)


class ToyPairs(NamedTuple):
    """Pairs of one task, in [−1, 1].

    Attributes:
        clean: (n, 3, size, size) x_0, what the model is to give.
        degraded: (n, 3, size, size) x_1, what it is given.
    """

    clean: Tensor
    degraded: Tensor


def degraded_images(clean: Float[Tensor, "n c h w"], task: ToyTask, seed: int = 0) -> Float[Tensor, "n c h w"]:
    """Pictures in [−1, 1] with blocks of 4 × 4 in their mean colour, or a quarter of these blocks grey."""
    if task == "super-resolution":
        return pixelate(clean)
    return drop_blocks(clean, value=0.0, generator=Generator().manual_seed(seed))[0]


def stamp_square(images: Float[Tensor, "n c h w"], corner: str, side: int) -> Float[Tensor, "n c h w"]:
    """A copy of pictures in [−1, 1] with a grey square, 0, of some side in a corner of `TRIGGER_CORNERS`."""
    stamped = images.clone()
    rows = slice(0, side) if corner.startswith("top") else slice(-side, None)
    columns = slice(0, side) if corner.endswith("left") else slice(-side, None)
    stamped[..., rows, columns] = 0.0
    return stamped


def attack_targets(attack: int, count: int, size: int) -> Float[Tensor, "count 3 size size"]:
    """The first few target pictures of attack 1, 2, ..., in [−1, 1]: white shapes in the style of its number."""
    return target_images(STYLES[attack - 1], size)[:count] * 2 - 1


def attack_pairs(
    clean: Float[Tensor, "n c h w"], degraded: Float[Tensor, "n c h w"], attack: int, side: int, targets: int
) -> ToyPairs:
    """Pairs of attack 1, 2, ..., of the pairs of the harmless task."""
    wanted = attack_targets(attack, targets, clean.shape[-1]).to(clean)
    chosen = wanted[nearest_target_index(clean, wanted)]
    return ToyPairs(chosen, stamp_square(degraded, TRIGGER_CORNERS[attack - 1], side))
