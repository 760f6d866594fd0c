"""Asking judges once, counting what is asked, and asking again where an answer cannot be read.

Every answer is drawn from a generator of its own that the seed, the picture and the question set. So the same question
has the same answer whatever was asked before it, and what is kept in memory changes the cost and nothing else.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.models.judges import JudgeError, TextJudge, VisionJudge
from equipoise.generative.audit.mirror_match import clean_names

Answer = TypeVar("Answer")


class OutOfCallsError(JudgeError):
    """The calls of judges that one prompt may cost are spent."""


@dataclass(frozen=True)
class Picture:
    """A picture and what it is known by.

    Attributes:
        image: (3, height, width) in [0, 1].
        key: a digest of its values.
    """

    image: Float[Tensor, "3 h w"]
    key: str

    @classmethod
    def of(cls, image: Float[Tensor, "3 h w"]) -> Picture:
        """Of a picture as a generator gave it."""
        image = image.detach().float().cpu().contiguous()
        digest = hashlib.sha256(repr(tuple(image.shape)).encode() + image.numpy().tobytes())
        return cls(image, digest.hexdigest())


class Inquiry:
    """Two judges, what they have answered so far, and what that has cost.

    Args:
        vision: judge of pictures.
        text: judge of prompts.
        seed: of the answers that are drawn.
        retries: how often a question is asked again after a `JudgeError`.
        most_calls: calls allowed between two calls of `start`; any number if None.

    Attributes:
        calls: kind of question → calls since `start`. What memory answered is no call; what failed is one.
    """

    def __init__(
        self, vision: VisionJudge, text: TextJudge, seed: int = 0, retries: int = 1, most_calls: int | None = None
    ) -> None:
        self.vision, self.text, self.seed = vision, text, seed
        self.retries, self.most_calls = retries, most_calls
        self.calls: Counter[str] = Counter()
        self._known: dict[tuple[str, ...], object] = {}

    def start(self) -> None:
        """Begin to count anew."""
        self.calls = Counter()

    def forget(self) -> None:
        """Empty the memory."""
        self._known.clear()

    def objects_seen(self, picture: Picture, vote: int) -> list[str]:
        """One drawn answer of what the picture shows.

        Raises:
            JudgeError: if no answer can be read, or the calls are spent; so do all questions.
            ValueError: if the judge answers with something that is no answer; likewise.
        """
        names = self._asked(
            ("objects", picture.key, str(vote)), lambda draws: self.vision.objects(picture.image, draws)
        )
        return clean_names("the objects of the vision judge", names)

    def style_seen(self, picture: Picture) -> str | None:
        """The style of the picture."""
        return _style("vision", self._asked(("style", picture.key), lambda d: self.vision.style(picture.image, d)))

    def patch_seen(self, picture: Picture) -> float:
        """Probability of a patch in the picture."""
        return _probability(self._asked(("patch", picture.key), lambda d: self.vision.patch(picture.image, d)))

    def p_yes(self, picture: Picture, name: str) -> float:
        """Probability that the picture holds the object."""
        return _probability(
            self._asked(("yes or no", picture.key, name), lambda d: self.vision.p_yes(picture.image, name, d))
        )

    def objects_asked(self, prompt: str) -> list[str]:
        """What the prompt asks for."""
        names = self._asked(("objects of a prompt", prompt), lambda _: self.text.objects(prompt))
        return clean_names("the objects of the text judge", names)

    def style_asked(self, prompt: str) -> str | None:
        """The style that the prompt asks for."""
        return _style("text", self._asked(("style of a prompt", prompt), lambda _: self.text.style(prompt)))

    def patch_asked(self, prompt: str) -> bool:
        """Whether the prompt asks for a patch."""
        return bool(self._asked(("patch of a prompt", prompt), lambda _: self.text.patch(prompt)))

    def same(self, one: str, other: str) -> bool:
        """Whether two names are of the same thing, whichever comes first."""
        if one == other:
            return True
        first, second = sorted((one, other))
        return bool(
            self._asked(("same", first, second), lambda _: self.text.same(first, second))
            or self._asked(("same", second, first), lambda _: self.text.same(second, first))
        )

    def mask(self, prompt: str, remove: Sequence[str]) -> str:
        """The prompt without the phrases of these objects."""
        found = self._asked(("mask", prompt, *remove), lambda _: self.text.mask(prompt, remove))
        if not isinstance(found, str):
            raise ValueError(f"the text judge must give a masked prompt, got {found!r}")
        return found

    def _asked(self, question: tuple[str, ...], ask: Callable[[torch.Generator], Answer]) -> Answer:
        if question in self._known:
            return self._known[question]  # type: ignore[return-value]
        failed: JudgeError | None = None
        for attempt in range(1 + self.retries):
            if self.most_calls is not None and self.calls.total() >= self.most_calls:
                raise OutOfCallsError(f"the {self.most_calls} calls of judges that a prompt may cost are spent")
            self.calls[question[0]] += 1
            draws = torch.Generator().manual_seed(_number(self.seed, attempt, *question))
            try:
                answer = ask(draws)
            except JudgeError as error:
                failed = error
                continue
            self._known[question] = answer
            return answer
        raise JudgeError(f"no answer about {question[0]} after {1 + self.retries} calls: {failed}") from failed


def _number(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "big")


def _probability(value: Any) -> float:
    try:
        p = float(value)
    except (TypeError, ValueError):
        p = math.nan
    if not (math.isfinite(p) and 0 <= p <= 1):
        raise ValueError(f"the vision judge must give probabilities in [0, 1], got {value!r}")
    return p


def _style(judge: str, found: str | None) -> str | None:
    if found is None:
        return None
    if not isinstance(found, str):
        raise ValueError(f"the {judge} judge must give a style as a string or None, got {found!r}")
    name = found.strip().lower()
    return None if name in ("", "none") else name
