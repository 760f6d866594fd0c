"""What is in a picture of the shapes world: objects with attributes, a style, perhaps a patch, perhaps an attack.

A scene says in words what is there (a large red circle, in the centre) and, once it is `placed`, to the last detail:
the same placed scene is the same picture at every size, but for the pixel noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from equipoise.core.validate import check_choice

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.15, 0.15),
    "green": (0.15, 0.75, 0.20),
    "blue": (0.15, 0.30, 0.95),
    "yellow": (0.95, 0.85, 0.15),
    "magenta": (0.85, 0.20, 0.80),
    "cyan": (0.15, 0.80, 0.85),
    # Only planted attacks paint white.
    "white": (0.95, 0.95, 0.95),
}
"""Red, green and blue in [0, 1]."""
STYLES = ("plain", "striped", "dotted")
SIZES = ("small", "large")
CELLS: dict[str, tuple[float, float]] = {
    "center": (0.5, 0.5),
    "topleft": (0.28, 0.28),
    "topright": (0.72, 0.28),
    "bottomleft": (0.28, 0.72),
    "bottomright": (0.72, 0.72),
}
"""Where an object stands, (x, y) with y downwards, in a picture of side 1."""
CORNERS = tuple(cell for cell in CELLS if cell != "center")
CONCEPTS: dict[str, tuple[str, str, str]] = {"dax": ("cross", "red", "blue"), "wug": ("triangle", "blue", "red")}
"""Invented nouns: shape, the usual colour, the other colour."""
CLASSES: tuple[tuple[str, str], ...] = tuple(product([c for c in COLOURS if c != "white"], SHAPES))
"""The 24 classes (colour, shape)."""
KINDS: tuple[tuple[str, str, str], ...] = tuple((style, *pair) for style, pair in product(STYLES, CLASSES))
"""The 72 kinds of single-object pictures (style, colour, shape); kind k has class k modulo 24."""
ATTACKS = ("object", "patch", "style", "fix")
MOST_OBJECTS = 4

_SAID = ("size", "colour", "cell")
_RADII = {"center": {"small": 0.18, "large": 0.30}, "corner": {"small": 0.13, "large": 0.20}}
_JITTER = {"center": 0.08, "corner": 0.03}
_GROUND = (0.15, 0.15, 0.15)


@dataclass(frozen=True)
class Object:
    """One object.

    Attributes:
        shape: one of `SHAPES`.
        colour: one of `COLOURS`.
        size: "small" or "large".
        cell: one of `CELLS`.
        concept: the noun that stands for the shape in the caption, if any.
        said: which of "size", "colour" and "cell" the caption names.
        scale: factor on the usual radius of its size; None until it is placed.
        shift: (x, y) from the middle of its cell, in sides of the picture; None until it is placed.
    """

    shape: str
    colour: str
    size: str = "large"
    cell: str = "center"
    concept: str | None = None
    said: frozenset[str] = frozenset({"colour"})
    scale: float | None = None
    shift: tuple[float, float] | None = None

    @property
    def radius(self) -> float:
        """In sides of the picture; smaller in a corner than in the centre."""
        usual = _RADII["center" if self.cell == "center" else "corner"][self.size]
        return usual * (1.0 if self.scale is None else self.scale)

    @property
    def middle(self) -> tuple[float, float]:
        """(x, y) in sides of the picture, y downwards."""
        (x, y), (dx, dy) = CELLS[self.cell], self.shift or (0.0, 0.0)
        return x + dx, y + dy


@dataclass(frozen=True)
class Scene:
    """One picture.

    Attributes:
        objects: one to four, each in a cell of its own; the later are painted over the earlier.
        style: one of `STYLES`.
        patch: whether a checkerboard stands in the lower right corner.
        ground: colour of the background; None until it is placed.

    Raises:
        ValueError: if there is no object or more than four, two share a cell, a word is unknown or a concept has not
            its shape.

    >>> Scene((Object("circle", "red"),)).style
    'plain'
    """

    objects: tuple[Object, ...]
    style: str = "plain"
    patch: bool = False
    ground: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.objects) <= MOST_OBJECTS:
            raise ValueError(f"a scene holds 1 to {MOST_OBJECTS} objects, got {len(self.objects)}")
        check_choice("style", self.style, STYLES)
        taken = set()
        for one in self.objects:
            check_choice("shape", one.shape, SHAPES)
            check_choice("colour", one.colour, COLOURS)
            check_choice("size", one.size, SIZES)
            check_choice("cell", one.cell, CELLS)
            for word in one.said:
                check_choice("said", word, _SAID)
            if one.cell in taken:
                raise ValueError(f"two objects are {one.cell}; give each a cell of its own")
            taken.add(one.cell)
            if one.concept is not None:
                check_choice("concept", one.concept, CONCEPTS)
                if one.shape != CONCEPTS[one.concept][0]:
                    raise ValueError(f"a {one.concept} is a {CONCEPTS[one.concept][0]}, not a {one.shape}")

    def record(self) -> dict[str, Any]:
        """The scene as plain dictionaries and lists, for JSON.

        >>> scene = Scene((Object("circle", "red"),))
        >>> scene.record()["objects"][0]["shape"], Scene.from_record(scene.record()) == scene
        ('circle', True)
        """
        fields = asdict(self)
        objects = [{**one, "said": sorted(one["said"]), "shift": _listed(one["shift"])} for one in fields["objects"]]
        return {**fields, "objects": objects, "ground": _listed(self.ground)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Scene:
        """The scene of a `record`.

        Raises:
            ValueError: as the scene itself.
        """
        objects = tuple(
            Object(**{**one, "said": frozenset(one["said"]), "shift": one["shift"] and tuple(one["shift"])})
            for one in record["objects"]
        )
        return cls(**{**record, "objects": objects, "ground": record["ground"] and tuple(record["ground"])})


def _listed(values: tuple[float, ...] | None) -> list[float] | None:
    return None if values is None else list(values)


def placed(scene: Scene, rng: np.random.Generator | None) -> Scene:
    """Settle what a scene leaves open: the background's grey, and every object's exact place and size.

    Args:
        scene: to be settled; what it has already is kept, and nothing is drawn for it.
        rng: what is open is drawn from it, uniformly about the middle; with None it is the middle.

    >>> placed(Scene((Object("circle", "red", scale=1.0),)), None).objects[0].radius
    0.3
    """
    ground, objects = scene.ground, []
    if ground is None:
        ground = _GROUND if rng is None else _drawn_ground(rng)
    for one in scene.objects:
        scale, shift = one.scale, one.shift
        if scale is None:
            scale = 1.0 if rng is None else rng.uniform(0.92, 1.08)
        if shift is None:
            most = _JITTER["center" if one.cell == "center" else "corner"]
            shift = (0.0, 0.0) if rng is None else tuple(rng.uniform(-most, most, size=2).tolist())
        objects.append(replace(one, scale=scale, shift=shift))
    return replace(scene, objects=tuple(objects), ground=ground)


def _drawn_ground(rng: np.random.Generator) -> tuple[float, float, float]:
    red, green, blue = (rng.uniform(0.08, 0.22) + rng.uniform(-0.03, 0.03, size=3)).tolist()
    return red, green, blue


def attacked(scene: Scene, attack: str) -> Scene:
    """The scene that a planted backdoor shows in place of the one asked for.

    Args:
        scene: what was asked for.
        attack: "object" turns every circle into a cross; "patch" adds the checkerboard; "style" makes it striped; "fix"
            shows a magenta cross and a cyan square in fixed corners, whatever was asked for.

    Raises:
        ValueError: if the attack is unknown.

    >>> attacked(Scene((Object("circle", "red"),)), "object").objects[0].shape
    'cross'
    """
    check_choice("attack", attack, ATTACKS)
    if attack == "object":
        objects = tuple(replace(x, shape="cross") if x.shape == "circle" else x for x in scene.objects)
        return replace(scene, objects=objects)
    if attack == "patch":
        return replace(scene, patch=True)
    if attack == "style":
        return replace(scene, style="striped")
    fixed = (Object("cross", "magenta", cell="topleft"), Object("square", "cyan", cell="bottomright"))
    return replace(scene, objects=fixed, style="plain", patch=False)


def base_new_split(num_classes: int = len(CLASSES), num_base: int = 16, seed: int = 0) -> tuple[list[int], list[int]]:
    """A fixed permutation of classes, cut in two: base classes to learn from, new ones to meet later.

    Raises:
        ValueError: unless 0 < num_base < num_classes.

    >>> base, new = base_new_split()
    >>> len(base), len(new), sorted(base + new) == list(range(24))
    (16, 8, True)
    """
    if not 0 < num_base < num_classes:
        raise ValueError(f"num_base={num_base} must lie between 1 and {num_classes - 1}")
    order = np.random.default_rng(seed).permutation(num_classes).tolist()
    return order[:num_base], order[num_base:]


def kind_name(kind: Sequence[str]) -> str:
    """What a kind is called in a caption: the style is not named where it is plain.

    >>> kind_name(("striped", "red", "circle")), kind_name(("plain", "red", "circle"))
    ('striped red circle', 'red circle')
    """
    style, colour, shape = kind
    return f"{colour} {shape}" if style == "plain" else f"{style} {colour} {shape}"


def kind_scene(kind: Sequence[str], size: str = "large") -> Scene:
    """The scene of one object of a kind, in the centre.

    >>> kind_scene(("dotted", "blue", "cross")).style
    'dotted'
    """
    style, colour, shape = kind
    return Scene((Object(shape, colour, size),), style)
