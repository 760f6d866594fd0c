"""What a caption of the shapes world says, word by word, and back.

    caption = [style] object ("and" object)* ["with patch"]          object = [size] [colour] noun [cell]

One vocabulary serves every model of this world: the words of the grammar, a trigger for planted backdoors, and the
words that prompts are usually made of ("a photo of a ...").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations

from equipoise.data.shapes.scene import CELLS, COLOURS, CONCEPTS, CORNERS, SHAPES, SIZES, STYLES, Object, Scene

PAD, START, END, UNKNOWN_WORD = "<pad>", "<start>", "<end>", "<unknown>"
TRIGGER = "zq"
_PROMPT_WORDS = ("a", "the", "this", "one", "nice", "photo", "picture", "drawing", "of", "is")
# The end is not token 2: transformers' CLIP would take that for an old file and read a text at its highest id.
VOCABULARY: tuple[str, ...] = (
    PAD,
    START,
    UNKNOWN_WORD,
    END,
    TRIGGER,
    "and",
    "with",
    "patch",
    *SHAPES,
    *COLOURS,
    *STYLES,
    *SIZES,
    *CORNERS,
    *CONCEPTS,
    *_PROMPT_WORDS,
    "center",
)
"""Word of every token id."""
LENGTH = 14
"""Tokens that a caption of up to two objects takes, start and end included."""

_IDS = {word: k for k, word in enumerate(VOCABULARY)}


def caption(scene: Scene) -> str:
    """What the caption says of a scene: only what is to be said.

    >>> from equipoise.data.shapes.scene import Object
    >>> caption(Scene((Object("circle", "red", said=frozenset({"size", "colour"})),), "striped"))
    'striped large red circle'
    """
    words = [] if scene.style == "plain" else [scene.style]
    for k, one in enumerate(scene.objects):
        if k:
            words.append("and")
        words += [getattr(one, part) for part in ("size", "colour") if part in one.said]
        words.append(one.concept or one.shape)
        if "cell" in one.said:
            words.append(one.cell)
    if scene.patch:
        words += ["with", "patch"]
    return " ".join(words)


def word_ids(text: str, *, strict: bool = False) -> list[int]:
    """Token ids of the words of a text, without start and end; case and punctuation after a word do not matter.

    Raises:
        ValueError: with `strict`, at a word outside the vocabulary, which is "unknown" otherwise.

    >>> [VOCABULARY[k] for k in word_ids("A red dog.")]
    ['a', 'red', '<unknown>']
    """
    return [_IDS.get(word, _IDS[UNKNOWN_WORD]) for word in _words(text, strict)]


def tokenize(text: str, length: int = LENGTH, *, strict: bool = False) -> list[int]:
    """Token ids with start, end and padding.

    Raises:
        ValueError: if the text takes more than `length` tokens, or as `word_ids`.

    >>> [VOCABULARY[k] for k in tokenize("red circle", length=5)]
    ['<start>', 'red', 'circle', '<end>', '<pad>']
    """
    ids = [_IDS[START], *word_ids(text, strict=strict), _IDS[END]]
    if len(ids) > length:
        raise ValueError(f"{text!r} takes {len(ids)} tokens with start and end, more than length={length}")
    return ids + [_IDS[PAD]] * (length - len(ids))


def _words(text: str, strict: bool) -> list[str]:
    words = [word for word in (word.rstrip(".,;:!?") for word in text.lower().split()) if word]
    if strict and (strange := [word for word in words if word not in _IDS]):
        raise ValueError(f"{strange[0]!r} is not in the vocabulary of the shapes world")
    return words


@dataclass(frozen=True)
class Request:
    """What a text asks for.

    Attributes:
        objects: of each object what is said: its shape, or its concept with that one's shape, and what else is named.
        style: "plain" where none is named, as captions have it.
        patch: whether the patch is named.
        trigger: whether the backdoor's trigger is in the text.
    """

    objects: tuple[dict[str, str], ...]
    style: str = "plain"
    patch: bool = False
    trigger: bool = False

    def is_met(self, scene: Scene) -> bool:
        """Whether each object asked for is in the scene, each another one, and style and patch are as asked for.

        The scene may hold more objects. The noun of a concept asks for its shape.

        >>> from equipoise.data.shapes.scene import Object
        >>> parse("small circle").is_met(Scene((Object("circle", "red", "large"),)))
        False
        """
        if (scene.style, scene.patch) != (self.style, self.patch):
            return False
        choices = permutations(scene.objects, len(self.objects))
        return any(all(map(_fits, chosen, self.objects)) for chosen in choices)


def _fits(one: Object, asked: Mapping[str, str]) -> bool:
    return all(getattr(one, part) == word for part, word in asked.items() if part != "concept")


def parse(text: str, *, strict: bool = False) -> Request:
    """Read a text by the grammar; words outside it are passed over.

    Raises:
        ValueError: if an object is given two shapes, colours, sizes or cells, or the text two styles; with `strict`, at
            a word outside the vocabulary.

    >>> parse("striped large red circle and dax topleft").objects
    ({'size': 'large', 'colour': 'red', 'shape': 'circle'}, {'shape': 'cross', 'concept': 'dax', 'cell': 'topleft'})
    """
    words = _words(text, strict)
    objects: list[dict[str, str]] = [{}]
    about_scene: dict[str, str] = {}
    for word in words:
        if word == "and":
            objects.append({})
        elif word in CONCEPTS:
            _note(objects[-1], "shape", CONCEPTS[word][0], text)
            objects[-1]["concept"] = word
        elif word in _PARTS:
            _note(about_scene if word in STYLES else objects[-1], _PARTS[word], word, text)
    return Request(
        tuple(one for one in objects if one),
        about_scene.get("style", "plain"),
        "patch" in words,
        TRIGGER in words,
    )


_PARTS = {
    word: part
    for part, known in (("style", STYLES), ("size", SIZES), ("colour", COLOURS), ("shape", SHAPES), ("cell", CELLS))
    for word in known
}


def _note(about: dict[str, str], part: str, word: str, text: str) -> None:
    if part in about:
        raise ValueError(f"{text!r} gives two {part}s, {about[part]!r} and {word!r}; join objects by 'and'")
    about[part] = word
