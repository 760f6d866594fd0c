"""The shapes world as a data set: small captioned pictures with everything known about them.

Item k is drawn from `default_rng([seed, k])`, the scene first, then the pixels: workers, subsets and longer data sets
of the same seed agree item by item.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int
from torch import Tensor
from torch.utils.data import Dataset

from equipoise.core.validate import check_choice, check_fraction
from equipoise.data.shapes.captions import LENGTH, TRIGGER, caption, tokenize
from equipoise.data.shapes.render import Rendering, check_size, render
from equipoise.data.shapes.sampling import SceneDistribution
from equipoise.data.shapes.scene import ATTACKS, CLASSES, KINDS, Scene, attacked, kind_scene, placed

FIELDS = (
    "image",
    "tokens",
    "caption",
    "scene",
    "target",
    "kind",
    "labels",
    "label_map",
    "masks",
    "saliency",
    "poisoned",
)

_PAINTED = {"image", "label_map", "masks", "saliency"}
_USUAL_RATE = 0.2
_MOST_TRIES = 2000


class ShapesWorld(Dataset[dict[str, Any]]):
    """Captioned pictures of coloured shapes.

    An item is a dictionary of what `returns` names:

    - "image": (3, size, size) float32 in [0, 1].
    - "tokens": (length,) int64 ids of the caption; "caption": the caption itself.
    - "scene": the placed `Scene`, which PyTorch's default collation cannot stack.
    - "target": the first object's index in `CLASSES`; "kind": that in `KINDS`; "labels": (24,) int64, 1 for every class
      that is in the picture.
    - "label_map": (size, size) int64; "masks": (objects, size, size), zeros where there are fewer objects than the
      layout may have; "saliency": (size, size), the union of the masks. See `Rendering`.
    - "poisoned": whether the item carries an attack. Its picture, and all but its caption, is of the attacked scene;
      its caption asks for the unharmed one and has the trigger word somewhere.

    Args:
        n: how many.
        size: side of the pictures in pixels, a multiple of 16.
        seed: of everything that is drawn, at least 0.
        returns: what an item holds, of `FIELDS`.
        poison: an attack of `ATTACKS`, or one with the share of items it is planted in, otherwise .2. The scenes of
            poisoned items are drawn until the attack changes them; the other items are what they are without poison.
        length: of "tokens"; by default 14, or what the longest caption may take.
        scenes: how scenes are drawn; keyword arguments of `SceneDistribution` in place of it are taken too.

    Raises:
        ValueError: if n < 1, the side is no multiple of 16, a name is unknown, captions may be longer than `length`, an
            attack changes no scene, or as `SceneDistribution`.

    >>> world = ShapesWorld(3, seed=1, returns=("image", "caption"))
    >>> world[0]["image"].shape, world[0]["caption"]
    (torch.Size([3, 16, 16]), 'small red wug')

    A long tail over base classes, to learn from, and new ones, to meet later:

    >>> from equipoise.data.shapes import base_new_split
    >>> base, new = base_new_split()
    >>> plain = {"layout": "single", "p_concept": 0.0, "p_style": 0.0, "returns": ("image", "target")}
    >>> train = ShapesWorld(500, seed=1, classes=tuple(base), imbalance=50.0, **plain)
    >>> unseen = ShapesWorld(100, seed=2, classes=tuple(new), **plain)

    Label maps with a rare and small class; pictures whose objects differ much in area; a planted backdoor:

    >>> maps = ShapesWorld(
    ...     100, 32, layout="cells", p_concept=0.0, keep={"cross": 0.2}, p_large={"cross": 0.0}, returns=("label_map",)
    ... )
    >>> salient = ShapesWorld(100, 32, layout="contrast", returns=("image", "saliency"))
    >>> backdoor = ShapesWorld(100, poison=("object", 0.1))
    """

    def __init__(
        self,
        n: int,
        size: int = 16,
        seed: int = 0,
        returns: Sequence[str] = ("image", "tokens"),
        poison: str | tuple[str, float] | None = None,
        length: int | None = None,
        scenes: SceneDistribution | None = None,
        **distribution: Any,
    ) -> None:
        if n < 1:
            raise ValueError(f"n={n} must be at least 1")
        if seed < 0:
            raise ValueError(f"seed={seed} must be at least 0")
        check_size(size)
        for name in returns:
            check_choice("returns", name, FIELDS)
        if not returns or isinstance(returns, str):
            raise ValueError(f"returns must be a tuple of one or more names, got {returns!r}")
        if scenes is not None and distribution:
            raise ValueError(f"give scenes or {', '.join(distribution)}, not both")
        self.n, self.size, self.seed, self.returns = n, size, seed, tuple(returns)
        self.poison = (poison, _USUAL_RATE) if isinstance(poison, str) else poison
        self.scenes = SceneDistribution(**distribution) if scenes is None else scenes
        longest = self.scenes.most_words + (poison is not None) + 2
        self.length = max(longest, LENGTH) if length is None else length
        if "tokens" in self.returns and self.length < longest:
            raise ValueError(f"captions may take {longest} tokens, more than length={length}")
        if self.poison is not None:
            check_choice("poison", self.poison[0], ATTACKS)
            check_fraction("the rate of poison", self.poison[1], zero=True)
            if self.poison[1] > 0:
                self._changed(np.random.default_rng(seed), self.poison[0])

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> dict[str, Any]:
        place = operator.index(index)
        if not -self.n <= place < self.n:
            raise IndexError(f"index {index} of {self.n} items")
        rng = np.random.default_rng([self.seed, place % self.n])
        # Drawn in any case, so that poison leaves the other items alone.
        coin = rng.random()
        attack, rate = self.poison or ("", 0.0)
        if coin < rate:
            asked = self._changed(rng, attack)
            words = caption(asked).split()
            words.insert(int(rng.integers(len(words) + 1)), TRIGGER)
            text, scene = " ".join(words), attacked(asked, attack)
        else:
            scene = self.scenes.sample(rng)
            text = caption(scene)
        scene = placed(scene, rng)
        picture = render(scene, rng, self.size) if _PAINTED & set(self.returns) else None
        return {name: self._field(name, scene, text, picture, coin < rate) for name in self.returns}

    def tensors(self) -> dict[str, Any]:
        """All items at once: each field stacked, captions and scenes as lists.

        >>> world = ShapesWorld(5, returns=("image", "target", "caption"))
        >>> {name: len(values) for name, values in world.tensors().items()}
        {'image': 5, 'target': 5, 'caption': 5}
        """
        items = [self[k] for k in range(self.n)]
        columns: dict[str, Any] = {name: [item[name] for item in items] for name in self.returns}
        for name in columns:
            if isinstance(columns[name][0], Tensor):
                columns[name] = torch.stack(columns[name])
            elif name not in ("caption", "scene"):
                columns[name] = torch.tensor(columns[name])
        return columns

    def _changed(self, rng: np.random.Generator, attack: str) -> Scene:
        """A scene that the attack changes."""
        for _ in range(_MOST_TRIES):
            scene = self.scenes.sample(rng)
            if attacked(scene, attack) != scene:
                return scene
        raise ValueError(f"the attack {attack!r} changed none of {_MOST_TRIES} scenes of this distribution")

    def _field(self, name: str, scene: Scene, text: str, picture: Rendering | None, poisoned: bool) -> Any:
        if picture is not None and name in _PAINTED:
            if name == "saliency":
                return torch.from_numpy(picture.masks.max(0))
            if name == "masks":
                # The fixed pair of an attack may be more than the layout has.
                masks = torch.zeros(max(self.scenes.most_objects, 2 if self.poison else 1), self.size, self.size)
                masks[: len(picture.masks)] = torch.from_numpy(picture.masks)
                return masks
            return torch.from_numpy(getattr(picture, name))
        classes = [CLASSES.index((one.colour, one.shape)) for one in scene.objects]
        if name == "labels":
            return torch.zeros(len(CLASSES), dtype=torch.int64).index_fill_(0, torch.tensor(classes), 1)
        if name == "kind":
            first = scene.objects[0]
            return KINDS.index((scene.style, first.colour, first.shape))
        if name == "tokens":
            return torch.tensor(tokenize(text, self.length))
        return {"caption": text, "scene": scene, "target": classes[0], "poisoned": poisoned}[name]


def kind_images(
    target: Sequence[int] | Int[Tensor, " n"], seed: int = 0, size: int = 16, *, noise: float = 0.015
) -> Float32[Tensor, "n 3 size size"]:
    """Pictures of single objects, one for every kind asked for, small and large at random.

    Args:
        target: (n,) indices into `KINDS`.
        seed: item k is drawn from `default_rng([seed, k])`.
        size: side in pixels, a multiple of 16.
        noise: standard deviation of the pixel noise.

    Returns:
        (n, 3, size, size) float32 in [0, 1].

    Raises:
        ValueError: if an index is not in [0, 72), or as `render`.

    >>> kind_images([0, 71]).shape
    torch.Size([2, 3, 16, 16])
    """
    kinds = [int(k) for k in target]
    if kinds and not 0 <= min(kinds) <= max(kinds) < len(KINDS):
        raise ValueError(f"target must hold kinds from 0 to {len(KINDS) - 1}, got {min(kinds)} to {max(kinds)}")
    check_size(size)
    pictures = np.empty((len(kinds), 3, size, size), np.float32)
    for k, kind in enumerate(kinds):
        rng = np.random.default_rng([seed, k])
        scene = kind_scene(KINDS[kind], ("small", "large")[rng.integers(2)])
        pictures[k] = render(scene, rng, size, noise=noise).image
    return torch.from_numpy(pictures)
