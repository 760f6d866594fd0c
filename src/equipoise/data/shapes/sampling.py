"""How scenes of the shapes world are drawn: layouts, rarity, unseen combinations, a planted attribute bias.

What a caption leaves unsaid is drawn together with the rest, because the bias acts where the caption is silent: the
concept "dax" is a cross, red with probability `bias` unless its colour is named.

Every decision reads its own place of one row of uniform numbers. So two distributions that differ in one setting give,
from one seed, scenes that differ by that setting only.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
from jaxtyping import Float64

from equipoise.core.validate import check_choice, check_fraction
from equipoise.data.shapes.captions import Request
from equipoise.data.shapes.scene import (
    CLASSES,
    COLOURS,
    CONCEPTS,
    CORNERS,
    MOST_OBJECTS,
    SHAPES,
    SIZES,
    STYLES,
    Object,
    Scene,
)

LAYOUTS = ("single", "mixed", "cells", "contrast")

_HUES = tuple(colour for colour in COLOURS if colour != "white")

_P_SIZE, _P_COLOUR, _P_CONCEPT_COLOUR, _P_CELL = 0.5, 0.8, 0.5, 0.7
# In "contrast" the areas of the two objects are in the ratio of about nine.
_CONTRAST = {"large": 1.5, "small": 0.75}
_OF_SCENE, _OF_OBJECT = 8, 9


@dataclass(frozen=True)
class SceneDistribution:
    """How scenes are drawn.

    The rarity of a class is `imbalance` times what `keep` says of it. Concepts have the frequency `p_concept` and
    follow `bias` instead; a concept one of whose two classes is left out does not occur.

    Attributes:
        layout: "single", one object in the centre; "mixed", two in corners with probability `p_pair`, else one in the
            centre; "cells", two to four in corners; "contrast", a very large and a very small one in opposite corners.
        p_pair: of "mixed".
        p_concept: probability that an object is a concept rather than a plain shape.
        p_style: probability that a scene is of one of `styles`, each as likely.
        p_patch: probability of the patch, which the caption names.
        p_large: probability that an object is large, or that of some shapes, as in `{"cross": 0.0}`; the others' is .5.
        bias: probability of a concept's usual colour where the caption is silent; one half where it is not.
        concept_colours: of each concept that occurs the usual and the other colour, if not those of `CONCEPTS`.
        classes: indices into `CLASSES` that objects may have, all if None: leave combinations out, and they are unseen.
        styles: what a scene that is not plain may be.
        imbalance: how many times as frequent the first of these classes is as the last; in between, a power law.
        keep: factors on how frequent objects are, by words: `{"cross": 0.1}` makes crosses rare, and
            `{"striped red circle": 0}` leaves out one kind of three words. Several that apply are multiplied.

    Raises:
        ValueError: if a probability is outside [0, 1], a name unknown, or nothing is left to draw.

    >>> rare = SceneDistribution(layout="single", imbalance=100.0)
    >>> [round(float(p), 4) for p in rare.class_probabilities()[[0, 23]]]
    [0.183, 0.0018]
    """

    layout: str = "mixed"
    p_pair: float = 0.25
    p_concept: float = 0.35
    p_style: float = 0.25
    bias: float = 0.85
    classes: tuple[int, ...] | None = None
    styles: tuple[str, ...] = ("striped", "dotted")
    imbalance: float = 1.0
    keep: Mapping[str, float] | None = None
    p_patch: float = 0.0
    p_large: float | Mapping[str, float] = 0.5
    concept_colours: Mapping[str, tuple[str, str]] | None = None

    def __post_init__(self) -> None:
        check_choice("layout", self.layout, LAYOUTS)
        for name in ("p_pair", "p_concept", "p_style", "p_patch", "bias"):
            check_fraction(name, getattr(self, name), zero=True)
        for style in self.styles:
            check_choice("styles", style, STYLES[1:])
        if not self.styles and self.p_style > 0:
            raise ValueError("styles is empty; give p_style=0 for plain scenes only")
        if isinstance(self.p_large, Mapping):
            for shape, share in self.p_large.items():
                check_choice("p_large", shape, SHAPES)
                check_fraction(f"p_large of {shape}", share, zero=True)
        else:
            check_fraction("p_large", self.p_large, zero=True)
        for concept, colours in (self.concept_colours or {}).items():
            check_choice("concept_colours", concept, CONCEPTS)
            for colour in colours:
                check_choice(f"concept_colours of {concept}", colour, _HUES)
            if len(set(colours)) != 2:
                raise ValueError(f"concept_colours of {concept} must be two different colours, got {colours}")
        self._check_rarity()

    def _check_rarity(self) -> None:
        if self.classes is not None:
            strange = [c for c in self.classes if not 0 <= c < len(CLASSES)]
            if strange or not self.classes or len(set(self.classes)) < len(self.classes):
                raise ValueError(
                    f"classes must be different indices from 0 to {len(CLASSES) - 1}, at least one, got {self.classes}"
                )
        if not 1 <= self.imbalance < math.inf:
            raise ValueError(f"imbalance={self.imbalance!r} must be at least 1, the ratio of most to least frequent")
        for name, factor in (self.keep or {}).items():
            words = name.split()
            for word in words:
                check_choice("keep", word, (*STYLES, *_HUES, *SHAPES))
            styles, hues, shapes = (sum(word in known for word in words) for known in (STYLES, _HUES, SHAPES))
            if max(styles, hues, shapes) > 1 or hues + shapes == 0 or not 0 <= factor < math.inf:
                raise ValueError(
                    f"keep={{{name!r}: {factor!r}}} must name one colour, one shape or both, at most one style, and a "
                    "factor of at least 0; how frequent styles are is for p_style and styles to say"
                )
        drawn = (["plain"] if self.p_style < 1 else []) + (list(self.styles) if self.p_style > 0 else [])
        for style in drawn:
            if not self._weights(style).any():
                raise ValueError(f"keep and classes leave no object for {style} scenes")

    def sample(self, rng: np.random.Generator, request: Request | None = None) -> Scene:
        """Draw a scene, all but its exact places, for which see `placed`.

        Args:
            rng: to draw from.
            request: what a text asks for, of `parse`; what it does not name is drawn. Its scene is plain and without
                the patch unless it names them, as a caption would; without objects it leaves them to the layout.

        Raises:
            ValueError: if a request asks for what is left out or more than there is room for.

        >>> from equipoise.data.shapes.captions import caption, parse
        >>> caption(SceneDistribution().sample(np.random.default_rng(0), parse("a striped cross and a small wug")))
        'striped cross and small wug'
        """
        draws = rng.random(_OF_SCENE + _OF_OBJECT * MOST_OBJECTS).tolist()
        is_styled, which_style, has_patch, how_many, *places = draws[:_OF_SCENE]
        style = self.styles[int(which_style * len(self.styles))] if is_styled < self.p_style else "plain"
        patch = has_patch < self.p_patch
        wanted: tuple[Mapping[str, str] | None, ...] = (None,) * self._count(how_many)
        if request is not None:
            style, patch = request.style, request.patch
            wanted = request.objects or wanted
        if len(wanted) > MOST_OBJECTS:
            raise ValueError(f"a scene holds at most {MOST_OBJECTS} objects, {len(wanted)} are asked for")
        contrast = self.layout == "contrast" and wanted[0] is None
        cells = self._cells(wanted, places, contrast)
        objects = []
        for k, (cell, asked) in enumerate(zip(cells, wanted, strict=True)):
            first = _OF_SCENE + k * _OF_OBJECT
            size = None
            if contrast:
                # Which of the two comes first, so is named first and painted below, is left to chance.
                size = SIZES[(how_many < 0.5) != (k == 0)]
            objects.append(self._object(draws[first : first + _OF_OBJECT], style, cell, asked, size))
        return Scene(tuple(objects), style, patch)

    @property
    def most_objects(self) -> int:
        """In one scene."""
        return {"single": 1, "mixed": 2 if self.p_pair > 0 else 1, "cells": MOST_OBJECTS, "contrast": 2}[self.layout]

    @property
    def most_words(self) -> int:
        """In one caption."""
        per_object = 3 if self.most_objects == 1 else 4
        return (self.p_style > 0) + self.most_objects * (per_object + 1) - 1 + 2 * (self.p_patch > 0)

    def class_probabilities(self, style: str = "plain") -> Float64[np.ndarray, " 24"]:
        """Of the classes, for objects that are no concept, in scenes of a style.

        Raises:
            ValueError: if the style is unknown or every class is left out of it.
        """
        check_choice("style", style, STYLES)
        weights = self._weights(style)
        if not weights.any():
            raise ValueError(f"keep and classes leave no object for {style} scenes")
        return weights / weights.sum()

    def _weights(self, style: str) -> Float64[np.ndarray, " 24"]:
        chosen = range(len(CLASSES)) if self.classes is None else self.classes
        weights = np.zeros(len(CLASSES))
        weights[list(chosen)] = float(self.imbalance) ** (-np.arange(len(chosen)) / max(len(chosen) - 1, 1))
        for name, factor in (self.keep or {}).items():
            words = set(name.split())
            weights *= [factor if words <= {style, *pair} else 1.0 for pair in CLASSES]
        return weights

    @cached_property
    def _tables(self) -> dict[str, tuple[list[float], dict[str, tuple[str, str, str]]]]:
        """Of each style the weights of the classes, and the concepts that occur: shape, usual and other colour."""
        concepts = dict(CONCEPTS)
        if self.concept_colours is not None:
            concepts = {name: (CONCEPTS[name][0], *colours) for name, colours in self.concept_colours.items()}
        tables = {}
        for style in STYLES:
            kept = dict(zip(CLASSES, self._weights(style).tolist(), strict=True))
            occur = {
                name: (shape, usual, other)
                for name, (shape, usual, other) in concepts.items()
                if kept[usual, shape] and kept[other, shape]
            }
            tables[style] = (list(kept.values()), occur)
        return tables

    def _count(self, draw: float) -> int:
        if self.layout == "cells":
            return 2 + int(draw * (MOST_OBJECTS - 1))
        return 2 if self.layout == "contrast" or (self.layout == "mixed" and draw < self.p_pair) else 1

    def _cells(
        self, wanted: tuple[Mapping[str, str] | None, ...], places: list[float], contrast: bool
    ) -> tuple[str, ...]:
        asked = [None if one is None else one.get("cell") for one in wanted]
        if len(asked) == 1:
            return (asked[0] or "center",)
        free = [cell for _, cell in sorted(zip(places, CORNERS, strict=True)) if cell not in asked]
        if contrast:
            # CORNERS goes row by row, so that opposite corners are first and last, or the two between.
            return free[0], CORNERS[len(CORNERS) - 1 - CORNERS.index(free[0])]
        return tuple(cell or free.pop() for cell in asked)

    def _object(
        self, draws: list[float], style: str, cell: str, asked: Mapping[str, str] | None, size: str | None
    ) -> Object:
        is_concept, which_concept, which_colour, which_class, is_large, *says, grows = draws
        weights, concepts = self._tables[style]
        want = asked or {}
        concept, colour, shape = want.get("concept"), want.get("colour"), want.get("shape")
        if asked is None and is_concept < self.p_concept and concepts:
            concept = tuple(concepts)[int(which_concept * len(concepts))]
        if concept is not None and concept not in concepts:
            raise ValueError(f"{concept!r} is asked for, but left out of this distribution's {style} scenes")
        p_colour = _P_COLOUR if concept is None else _P_CONCEPT_COLOUR
        shares = {"size": _P_SIZE, "colour": p_colour, "cell": _P_CELL if cell != "center" else 0.0}
        said = frozenset(name for (name, p), draw in zip(shares.items(), says, strict=True) if draw < p)
        if asked is not None:
            said = frozenset(name for name in shares if name in asked)
        if concept is None:
            colour, shape = _choose(weights, which_class, colour, shape, style)
        else:
            shape, usual, other = concepts[concept]
            if colour is None:
                colour = usual if which_colour < (0.5 if "colour" in said else self.bias) else other
        p_large = self.p_large.get(shape, 0.5) if isinstance(self.p_large, Mapping) else self.p_large
        scale = None
        if size is None:
            size = want.get("size") or SIZES[is_large < p_large]
        else:
            scale = _CONTRAST[size] * (0.92 + 0.16 * grows)
        return Object(shape, colour, size, cell, concept, said, scale)


def _choose(weights: list[float], draw: float, colour: str | None, shape: str | None, style: str) -> tuple[str, str]:
    """A class by its weight, among those of the asked colour and shape."""
    if colour == "white":
        return "white", _choose(weights, draw, None, shape, style)[1]
    fits = weights
    if colour is not None or shape is not None:
        fits = [
            weight if colour in (None, its_colour) and shape in (None, its_shape) else 0.0
            for weight, (its_colour, its_shape) in zip(weights, CLASSES, strict=True)
        ]
    bounds = list(accumulate(fits))
    if not bounds[-1]:
        name = " ".join(filter(None, (style, colour, shape)))
        raise ValueError(f"{name!r} is asked for, but left out of this distribution")
    # A draw just below 1 may be rounded up to the last bound.
    last = max(k for k, weight in enumerate(fits) if weight)
    return CLASSES[min(bisect_right(bounds, draw * bounds[-1]), last)]
