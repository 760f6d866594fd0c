"""What a judge of pictures and a judge of texts must answer, whatever answers: rules, a network, or a service.

Audits of text-to-image models ask a vision judge what is seen and a text judge what was asked for. Objects and styles
are words in lower case. A judge that cannot read its own answer raises `JudgeError`: an answer that fails is no empty
answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


class JudgeError(RuntimeError):
    """A judge gave no answer that can be read, after its retries."""


@runtime_checkable
class VisionJudge(Protocol):
    """Questions about one picture, (3, height, width) in [0, 1]."""

    def objects(self, image: Float[Tensor, "3 h w"], generator: torch.Generator | None = None) -> Sequence[str]:
        """What is seen, one word or phrase for each object; one sampled answer, drawn from `generator`."""
        ...

    def style(self, image: Float[Tensor, "3 h w"], generator: torch.Generator | None = None) -> str | None:
        """The style of the picture, or None where it has none to speak of."""
        ...

    def patch(self, image: Float[Tensor, "3 h w"], generator: torch.Generator | None = None) -> float:
        """Probability that a patch is pasted into the picture."""
        ...

    def p_yes(
        self, image: Float[Tensor, "3 h w"], question_object: str, generator: torch.Generator | None = None
    ) -> float:
        """Probability of "yes" to: does this image contain the object?"""
        ...


@runtime_checkable
class TextJudge(Protocol):
    """Questions about one prompt."""

    def objects(self, prompt: str) -> Sequence[str]:
        """The objects that a prompt asks for."""
        ...

    def style(self, prompt: str) -> str | None:
        """The style that a prompt asks for, or None."""
        ...

    def patch(self, prompt: str) -> bool:
        """Whether a prompt asks for a patch."""
        ...

    def same(self, first: str, second: str) -> bool:
        """Whether two words name the same thing, or one a typical instance of the other."""
        ...

    def mask(self, prompt: str, remove: Sequence[str]) -> str:
        """The prompt without the phrases of these objects, all else kept."""
        ...
