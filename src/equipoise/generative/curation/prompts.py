"""Descriptions of new identities: a person, and everything that should vary around them, drawn by a seed.

"Hybrid Generative Fusion", ICCV workshops 2025: the parts of the description and the weights of poses as in the
authors' code; the words are of this library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from equipoise.core.signature import checked
from equipoise.core.types import Whole

Choices: TypeAlias = Sequence[str] | Mapping[str, float]
POSES: Mapping[str, float] = {
    "facing the camera": 0.05,
    "turned to the left": 0.25,
    "turned to the right": 0.25,
    "head tilted to the left": 0.15,
    "head tilted to the right": 0.15,
    "chin up": 0.075,
    "glancing aside": 0.075,
}
PARTS: Mapping[str, Choices] = {
    "pose": POSES,
    "expression": ("calm", "smiling", "laughing", "serious", "surprised"),
    "light": ("soft daylight", "hard sunlight", "warm indoor light", "dim evening light", "light from one side"),
    "camera": ("close portrait", "head and shoulders", "photographed from a distance"),
    "background": ("plain wall", "street", "office", "park", "living room"),
    "accessory": ("no accessory", "glasses", "a hat", "a scarf", "earrings"),
}


class IdentityPrompts:
    """The description that belongs to a seed.

    Args:
        bases: whom to show, as many as wanted.
        parts: what varies, in the order of the sentence, each a list of words or words with weights.

    >>> IdentityPrompts(["a person of forty"])(3)
    'a person of forty, turned to the left, smiling, light from one side, head and shoulders, plain wall, a hat'
    """

    @checked
    def __init__(self, bases: Sequence[str], parts: Mapping[str, Choices] = PARTS) -> None:
        if not bases:
            raise ValueError("bases is empty; describe at least one person")
        self.bases = bases
        self.parts = {name: _weighed(name, choices) for name, choices in parts.items()}

    @checked
    def __call__(self, seed: Whole) -> str:
        """The description of a seed."""
        generator = np.random.default_rng(seed)
        chosen = [self.bases[int(generator.integers(len(self.bases)))]]
        for words, weights in self.parts.values():
            chosen.append(words[int(generator.choice(len(words), p=weights))])
        return ", ".join(chosen)


def _weighed(name: str, choices: Choices) -> tuple[list[str], list[float]]:
    words = list(choices)
    weights = [float(choices[word]) for word in words] if isinstance(choices, Mapping) else [1.0] * len(words)
    if not words or any(not 0 <= weight < float("inf") for weight in weights) or not sum(weights):
        raise ValueError(f"parts[{name!r}] must hold words, with weights of at least 0 that are not all 0")
    return words, [weight / sum(weights) for weight in weights]
