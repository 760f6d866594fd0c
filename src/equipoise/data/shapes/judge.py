"""Judges of the shapes world: what a picture shows and what a prompt asks for, by rules and without training.

They answer what `core.models.judges` asks for, so that a vision-language model can take their place. Objects are named
"colour shape" where a picture is judged, and as the prompt has them where a prompt is: "circle", "red circle", "dax".
Two names are the same where the shapes are and no two colours are named.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.validate import check_fraction, check_nonnegative, check_positive
from equipoise.data.shapes.captions import parse
from equipoise.data.shapes.scene import COLOURS, CONCEPTS, SHAPES, SIZES, STYLES
from equipoise.data.shapes.seeing import Seen, see

_NOUNS = (*SHAPES, *CONCEPTS)
_ARTICLES = ("a", "an", "the", "one")
_ADJECTIVES = (*_ARTICLES, *SIZES, *COLOURS, "nice")
_AFTER = ("center", "topleft", "topright", "bottomleft", "bottomright")


class PixelJudge:
    """A vision judge of pictures of the shapes world, with mistakes to order.

    Args:
        noise: probability that an answer of `objects` leaves out an object that is there.
        doubt: standard deviation of the logit of "yes", which is `logit` where the answer is yes and −`logit` where it
            is no.
        logit: as above.

    Without a generator an answer is the one without mistakes.

    Raises:
        ValueError: if a setting is out of range.

    >>> from equipoise.data.shapes import Object, Scene, render
    >>> picture = torch.from_numpy(render(Scene((Object("circle", "red"),), "striped"), None).image)
    >>> judge = PixelJudge()
    >>> judge.objects(picture), judge.style(picture), round(judge.p_yes(picture, "circle"), 3)
    (['red circle'], 'striped', 1.0)
    """

    def __init__(self, noise: float = 0.0, doubt: float = 0.0, logit: float = 9.0) -> None:
        check_fraction("noise", noise, zero=True)
        check_nonnegative("doubt", doubt)
        check_positive("logit", logit)
        self.noise, self.doubt, self.logit = noise, doubt, logit

    def see(self, images: Float[Tensor, "n 3 size size"]) -> list[Seen]:
        """Everything that pictures show, without mistakes; see `seeing.see`."""
        return see(images)

    def objects(self, image: Float[Tensor, "3 size size"], generator: torch.Generator | None = None) -> list[str]:
        """Colour and shape of every object seen."""
        names = [one.name for one in see(image[None])[0].objects]
        if generator is None or not self.noise or not names:
            return names
        keep = torch.rand(len(names), generator=generator) >= self.noise
        return [name for name, kept in zip(names, keep.tolist(), strict=True) if kept]

    def style(self, image: Float[Tensor, "3 size size"], generator: torch.Generator | None = None) -> str | None:
        """Striped, dotted, or None of a plain picture."""
        style = see(image[None])[0].style
        return None if style == "plain" else style

    def patch(self, image: Float[Tensor, "3 size size"], generator: torch.Generator | None = None) -> float:
        """Probability of "yes" to: is a checkerboard in the lower right corner?"""
        return self._p(see(image[None])[0].patch, generator)

    def p_yes(
        self, image: Float[Tensor, "3 size size"], question_object: str, generator: torch.Generator | None = None
    ) -> float:
        """Probability of "yes" to: is one of the objects seen the same as this?"""
        there = any(same_object(one.name, question_object) for one in see(image[None])[0].objects)
        return self._p(there, generator)

    def _p(self, there: bool, generator: torch.Generator | None) -> float:
        logit = self.logit if there else -self.logit
        if generator is not None and self.doubt:
            logit += self.doubt * float(torch.randn((), generator=generator))
        return 1 / (1 + math.exp(-logit))


class RuleTextJudge:
    """A text judge of prompts in the words of the shapes world's captions.

    Words that the grammar does not know, a trigger among them, are no objects and are kept by `mask`. An object's
    phrase is the noun with the articles, sizes and colours right before it and the cell right after it. What only
    joined a phrase that is gone, an "and" or a comma, goes with it.

    >>> judge = RuleTextJudge()
    >>> judge.objects("zq a red circle and a small dax"), judge.mask("zq a red circle and a small dax", ["dax"])
    (['red circle', 'dax'], 'zq a red circle')
    """

    def objects(self, prompt: str) -> list[str]:
        """The objects of a prompt, with their colours where those are named, each once."""
        return list(dict.fromkeys(_name(phrase) for _, _, phrase in _phrases(prompt.split())))

    def style(self, prompt: str) -> str | None:
        """The first style named, or None."""
        return next((word for word in map(_bare, prompt.split()) if word in STYLES[1:]), None)

    def patch(self, prompt: str) -> bool:
        """Whether the patch is named."""
        return parse(" ".join(word for word in map(_bare, prompt.split()) if word == "patch")).patch

    def same(self, first: str, second: str) -> bool:
        """See `same_object`."""
        return same_object(first, second)

    def mask(self, prompt: str, remove: Sequence[str]) -> str:
        """The prompt without the phrases of these objects; all other words stay as they are, in their order."""
        words = prompt.split()
        gone: set[int] = set()
        earlier = False
        for start, stop, phrase in _phrases(words):
            if not any(same_object(_name(phrase), name) for name in remove):
                earlier = True
                continue
            gone |= set(range(start, stop))
            before = next((k for k in reversed(range(start)) if k not in gone), None)
            if before is not None and _bare(words[before]) == "and":
                gone.add(before)
            elif not earlier and stop < len(words) and _bare(words[stop]) == "and":
                gone.add(stop)
        return " ".join(word for k, word in enumerate(words) if k not in gone).rstrip(",;")


def same_object(first: str, second: str) -> bool:
    """Whether two names are of the same thing: equal, or of one shape and not of two colours. A concept has its shape.

    >>> same_object("circle", "red circle"), same_object("dax", "cross"), same_object("red circle", "blue circle")
    (True, True, False)
    """
    first, second = first.strip().lower(), second.strip().lower()
    if first == second:
        return True
    one, other = _known(first), _known(second)
    if one is None or other is None or one["shape"] != other["shape"]:
        return False
    colours = {each["colour"] for each in (one, other) if "colour" in each}
    return len(colours) < 2 and len({each["concept"] for each in (one, other) if "concept" in each}) < 2


def _known(name: str) -> dict[str, str] | None:
    """What a name of one object says, None where it names no one object of this world."""
    phrases = _phrases(name.split())
    return parse(" ".join(phrases[0][2])).objects[0] if len(phrases) == 1 else None


def _bare(word: str) -> str:
    return word.lower().strip(".,;:!?\"'()")


def _phrases(words: Sequence[str]) -> list[tuple[int, int, list[str]]]:
    """(first, one past last, bare words) of every object's phrase."""
    bare = [_bare(word) for word in words]
    found = []
    for k, word in enumerate(bare):
        if word not in _NOUNS:
            continue
        start = k
        kinds: set[str] = set()
        while start and (before := bare[start - 1]) in _ADJECTIVES and words[start - 1][-1] not in ",;":
            kind = "colour" if before in COLOURS else "size" if before in SIZES else before
            if kind in kinds:
                break
            kinds.add(kind)
            start -= 1
        stop = k + 1
        if stop < len(bare) and bare[stop] in _AFTER and words[k][-1] not in ",;":
            stop += 1
        found.append((start, stop, bare[start:stop]))
    return found


def _name(phrase: Sequence[str]) -> str:
    """Colour and noun of a phrase."""
    return " ".join(word for word in phrase if word in COLOURS or word in _NOUNS)
