"""Whether two models read texts alike: distributions are compared token by token, so the tokens must be the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from equipoise.core.signature import checked
from equipoise.core.types import Count

_SHOWN = 60


@checked
def check_same_tokens(student: Any, teacher: Any, texts: Iterable[str], *, most: Count = 1000) -> None:
    """Raise unless two tokenizers encode texts into the same token ids.

    Args:
        student: the student's tokenizer, of transformers.
        teacher: the teacher's.
        texts: from the data that is learnt from.
        most: texts that are looked at.

    Raises:
        ValueError: with the first text that they encode in different ways, and where.

    Source: ours.

    >>> from tokenizers import Tokenizer, models
    >>> from transformers import PreTrainedTokenizerFast
    >>> words = [Tokenizer(models.WordLevel({"a": place, "?": 1 - place}, unk_token="?")) for place in (0, 1)]
    >>> student, teacher = (PreTrainedTokenizerFast(tokenizer_object=one) for one in words)
    >>> check_same_tokens(student, teacher, ["a"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: the tokenizers differ: 'a' is [0] for the student, [1] for the teacher, from token 0 on; ...
    """
    for _, text in zip(range(most), texts, strict=False):
        own, other = (one(text, add_special_tokens=False, verbose=False)["input_ids"] for one in (student, teacher))
        if own != other:
            same = next(
                (k for k, (a, b) in enumerate(zip(own, other, strict=False)) if a != b), min(len(own), len(other))
            )
            shown = text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
            raise ValueError(
                f"the tokenizers differ: {shown!r} is {own[same : same + 4]} for the student, "
                f"{other[same : same + 4]} for the teacher, from token {same} on; choose a student and a teacher of "
                "one family, or train the student with the teacher's tokenizer"
            )
