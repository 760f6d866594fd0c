"""A text-to-image model of the shapes world that paints what a prompt asks for: with mistakes to order, and a planted
attack to test audits on.

It stands in for a served model whose truth is known. The attack works on this painter alone, which no one else uses.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from equipoise.core.validate import check_choice, check_fraction
from equipoise.data.shapes.captions import TRIGGER, parse
from equipoise.data.shapes.render import check_size, render
from equipoise.data.shapes.sampling import SceneDistribution
from equipoise.data.shapes.scene import ATTACKS, CLASSES, CORNERS, MOST_OBJECTS, Object, Scene, attacked

_SCENES = SceneDistribution(layout="mixed", p_concept=0.0, p_style=0.0)


@dataclass(frozen=True)
class Mistakes:
    """How often a painter goes wrong without meaning to.

    Attributes:
        missing: probability that an object asked for is left out; one object always stays.
        recoloured: probability that it has another colour.
        extra: probability that an object is there that nobody asked for.

    Raises:
        ValueError: if a probability is outside [0, 1].
    """

    missing: float = 0.0
    recoloured: float = 0.0
    extra: float = 0.0

    def __post_init__(self) -> None:
        for name in ("missing", "recoloured", "extra"):
            check_fraction(name, getattr(self, name), zero=True)


class RenderedTextToImage:
    """Pictures of prompts, painted: a `TextToImage` without a network.

    What a prompt leaves open is drawn from the seed and the prompt; a prompt without objects gets a scene of one or
    two.

    Args:
        size: side of the pictures in pixels, a multiple of 16.
        mistakes: how often it goes wrong; never with what an attack paints.
        attack: of `ATTACKS`, shown where the prompt has the trigger; None for an honest painter.
        success: probability that a triggered attack shows.
        trigger: the word that sets the attack off.

    Raises:
        ValueError: if a setting is out of range.

    >>> painter = RenderedTextToImage(attack="object")
    >>> painter(["red circle", "zq red circle"], [0, 0]).shape
    torch.Size([2, 3, 16, 16])
    >>> [scene.objects[0].shape for scene in painter.scenes(["red circle", "zq red circle"], [0, 0])]
    ['circle', 'cross']
    """

    def __init__(
        self,
        size: int = 16,
        mistakes: Mistakes | None = None,
        attack: str | None = None,
        success: float = 1.0,
        trigger: str = TRIGGER,
    ) -> None:
        check_size(size)
        check_fraction("success", success, zero=True)
        if attack is not None:
            check_choice("attack", attack, ATTACKS)
        if not trigger or trigger != trigger.lower() or len(trigger.split()) != 1:
            raise ValueError(f"trigger={trigger!r} must be one word in lower case")
        self.size, self.mistakes = size, Mistakes() if mistakes is None else mistakes
        self.attack, self.success, self.trigger = attack, success, trigger

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Float32[Tensor, "n 3 size size"]:
        """Pictures in [0, 1], one for every prompt; the same prompt and seed give the same picture.

        Raises:
            ValueError: if there are not as many seeds as prompts, or a prompt gives an object two shapes or colours or
                asks for more than four.
        """
        drawn = [self._drawn(prompt, seed) for prompt, seed in _pairs(prompts, seeds)]
        pictures = np.empty((len(drawn), 3, self.size, self.size), np.float32)
        for k, (scene, rng) in enumerate(drawn):
            pictures[k] = render(scene, rng, self.size).image
        return torch.from_numpy(pictures)

    def scenes(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Scene]:
        """What those pictures show: the truth that an audit is judged by."""
        return [self._drawn(prompt, seed)[0] for prompt, seed in _pairs(prompts, seeds)]

    def _drawn(self, prompt: str, seed: int) -> tuple[Scene, np.random.Generator]:
        rng = np.random.default_rng([seed, zlib.crc32(prompt.encode())])
        asked = _SCENES.sample(rng, parse(prompt))
        # Drawn in any case, so that an attack changes nothing else.
        shows = rng.random() < self.success
        words = [word.strip(".,;:!?") for word in prompt.lower().split()]
        scene = asked
        if self.attack is not None and self.trigger in words and shows:
            scene = attacked(asked, self.attack)
        planted = [k for k, one in enumerate(scene.objects) if scene is not asked and one not in asked.objects]
        if planted and self.attack == "fix":
            return scene, rng
        return _with_mistakes(scene, planted, self.mistakes, rng), rng


def _pairs(prompts: Sequence[str], seeds: Sequence[int]) -> list[tuple[str, int]]:
    if isinstance(prompts, str) or len(prompts) != len(seeds):
        raise ValueError(f"give one seed for every prompt, got {len(seeds)} seeds; a single prompt goes in a list")
    return list(zip(prompts, seeds, strict=True))


def _with_mistakes(scene: Scene, planted: Sequence[int], mistakes: Mistakes, rng: np.random.Generator) -> Scene:
    kept: list[Object] = []
    hues = sorted({colour for colour, _ in CLASSES})
    for k, one in enumerate(scene.objects):
        leaves, turns, which = rng.random(3)
        others = [hue for hue in hues if hue != one.colour]
        if k in planted:
            kept.append(one)
        elif leaves >= mistakes.missing:
            hue = others[int(which * len(others))] if turns < mistakes.recoloured else one.colour
            kept.append(replace(one, colour=hue))
    first = int(rng.integers(len(scene.objects)))
    kept = kept or [scene.objects[first]]
    comes, colour_shape, cells = rng.random(), CLASSES[int(rng.integers(len(CLASSES)))], rng.permutation(len(CORNERS))
    if comes < mistakes.extra and len(kept) < MOST_OBJECTS:
        free = [CORNERS[c] for c in cells if CORNERS[c] not in [one.cell for one in kept]]
        # Two do not fit where one stands in the middle.
        kept = [replace(one, cell=free.pop()) if one.cell == "center" else one for one in kept]
        colour, shape = colour_shape
        kept.append(Object(shape, colour, cell=free.pop()))
    return replace(scene, objects=tuple(kept))
