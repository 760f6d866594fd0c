"""The shapes world: small captioned pictures of coloured shapes, with attributes, rarity and planted flaws to order."""

from __future__ import annotations

from equipoise.data.shapes.captions import LENGTH, TRIGGER, VOCABULARY, Request, caption, parse, tokenize, word_ids
from equipoise.data.shapes.judge import PixelJudge, RuleTextJudge, same_object
from equipoise.data.shapes.render import Rendering, render
from equipoise.data.shapes.restoration import TRIGGER_CORNERS, drop_blocks, pixelate, stamp_trigger, target_images
from equipoise.data.shapes.sampling import LAYOUTS, SceneDistribution
from equipoise.data.shapes.scene import (
    ATTACKS,
    CELLS,
    CLASSES,
    COLOURS,
    CONCEPTS,
    KINDS,
    SHAPES,
    SIZES,
    STYLES,
    Object,
    Scene,
    attacked,
    base_new_split,
    kind_name,
    kind_scene,
    placed,
)
from equipoise.data.shapes.seeing import Seen, SeenObject, see
from equipoise.data.shapes.text_to_image import Mistakes, RenderedTextToImage
from equipoise.data.shapes.world import FIELDS, ShapesWorld, kind_images

__all__ = [
    "ATTACKS",
    "CELLS",
    "CLASSES",
    "COLOURS",
    "CONCEPTS",
    "FIELDS",
    "KINDS",
    "LAYOUTS",
    "LENGTH",
    "SHAPES",
    "SIZES",
    "STYLES",
    "TRIGGER",
    "TRIGGER_CORNERS",
    "VOCABULARY",
    "Mistakes",
    "Object",
    "PixelJudge",
    "RenderedTextToImage",
    "Rendering",
    "Request",
    "RuleTextJudge",
    "Scene",
    "SceneDistribution",
    "Seen",
    "SeenObject",
    "ShapesWorld",
    "attacked",
    "base_new_split",
    "caption",
    "drop_blocks",
    "kind_images",
    "kind_name",
    "kind_scene",
    "parse",
    "pixelate",
    "placed",
    "render",
    "same_object",
    "see",
    "stamp_trigger",
    "target_images",
    "tokenize",
    "word_ids",
]
