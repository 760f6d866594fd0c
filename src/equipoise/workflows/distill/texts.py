"""Texts to learn from and texts to judge by, as tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.language.distillation.data import IGNORED, TextRow, TokenRow, encode_texts, read_text_rows
from equipoise.workflows.distill.request import TrainingRequest
from equipoise.workflows.errors import InputError, mendable


@dataclass(frozen=True)
class Texts:
    """The data of one training, rows numbered through.

    Attributes:
        train: to learn from.
        held: to judge by.
        rows: texts as read, of both.
        running: whether they are a running text, without prompts.
    """

    train: Sequence[TokenRow]
    held: Sequence[TokenRow]
    rows: Sequence[TextRow]
    running: bool

    def facts(self) -> tuple[str, ...]:
        """Sizes in words."""
        tokens = sum(label != IGNORED for row in self.train for label in row.labels)
        return (
            f"{len(self.train):,} rows to learn from, {len(self.held):,} to judge by",
            f"{tokens:,} tokens to learn",
        )


def load_texts(data: Path, request: TrainingRequest, tokenizer: Any, noted: Callable[[str], None]) -> Texts:
    """Read, encode and split.

    Raises:
        InputError: if a file cannot be read, or is too small to hold texts out.
    """
    with mendable():
        rows = read_text_rows(data)
        others = None if request.validation is None else read_text_rows(request.validation)
        running = all(row.whole for row in rows)
        if others is not None:
            train, held = (_encoded(each, request, tokenizer, noted) for each in (rows, others))
        elif len(rows) > 1:
            order = np.random.default_rng(request.seed).permutation(len(rows))
            count = max(1, round(request.test_size * len(rows)))
            parts = ([rows[place] for place in sorted(part)] for part in (order[count:], order[:count]))
            train, held = (_encoded(part, request, tokenizer, noted) for part in parts)
        else:
            # A running text is judged by its end.
            pieces = _encoded(rows, request, tokenizer, noted)
            count = max(1, round(request.test_size * len(pieces)))
            train, held = pieces[:-count], pieces[-count:]
    if not train or not held:
        raise InputError(
            f"{data} has {len(train)} rows with tokens to learn and {len(held)} to judge by, wanted some of both; give "
            "more texts, a smaller --max-length for a running text, or --validation"
        )
    numbered = [replace(row, row=place) for place, row in enumerate([*train, *held])]
    return Texts(numbered[: len(train)], numbered[len(train) :], [*rows, *(others or [])], running)


def load_corpus(path: Path, request: TrainingRequest, tokenizer: Any, noted: Callable[[str], None]) -> list[TokenRow]:
    """Plain texts whose cross-entropy is added."""
    with mendable():
        return _encoded(read_text_rows(path), request, tokenizer, noted)


def _encoded(
    rows: Sequence[TextRow], request: TrainingRequest, tokenizer: Any, noted: Callable[[str], None]
) -> list[TokenRow]:
    found = encode_texts(rows, tokenizer, max_length=request.max_length)
    if found.cut:
        noted(f"{found.cut:,} of {len(rows):,} texts are longer than {request.max_length} tokens and lost their end")
    if found.dropped:
        noted(f"{found.dropped:,} of {len(rows):,} texts have no token to learn and were left out")
    return list(found)
