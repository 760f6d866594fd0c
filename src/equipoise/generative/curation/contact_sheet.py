"""All samples of an identity on one numbered sheet, and the answer of whoever is asked about it.

An answer is taken only if it is a list of numbers on the sheet, such as "3, 7", or "none"; otherwise the question is
asked again. The sheet goes to the function that the caller passes, and nowhere else. "Hybrid Generative Fusion", ICCV
workshops 2025: the sheet, what is asked and three tries as in the authors' code, whose check of answers is not called.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count
from equipoise.generative.curation.judges import JudgeError

Ask: TypeAlias = Callable[[bytes, str], str]
"""(sheet as PNG, question) → answer."""
QUESTION = (
    "The sheet shows {size} numbered pictures. Most of them show the same identity. Which numbers show another one? "
    "Answer with the numbers only, separated by commas, or with the word none."
)
_LIST = re.compile(r"\s*(none|\d{1,9}(\s*,\s*\d{1,9})*)\s*\.?\s*", re.IGNORECASE)
_LABEL = 14


class ContactSheetJudge:
    """A judge that is asked about a numbered sheet of all samples.

    Args:
        ask: (PNG, question) → answer; a person, a model on this machine, or a remote one if that is wanted.
        tries: questions until an answer can be used, at least 1.
        question: what is asked, where {size} stands for the number of pictures.
        columns: pictures in a row; nearly square by default.
        cell: pixels of the longer side of a picture.

    Raises:
        ValueError: if the question holds other braces.

    >>> judge = ContactSheetJudge(lambda png, question: "2")
    >>> judge.outliers([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    [1]
    """

    @checked
    def __init__(
        self,
        ask: Ask,
        tries: Count = 3,
        question: str = QUESTION,
        columns: Count | None = None,
        cell: Count = 112,
    ) -> None:
        try:
            question.format(size=1)
        except (KeyError, IndexError, ValueError, AttributeError):
            raise ValueError(
                f"question={question!r} must hold no braces but those of {{size}}; double others"
            ) from None
        self.ask, self.tries, self.question, self.columns, self.cell = ask, tries, question, columns, cell

    def outliers(self, images: Sequence[Any]) -> list[int]:
        """Numbers, from 0, of the samples that the answer names.

        Raises:
            JudgeError: if no try brought an answer that can be used.
        """
        if not len(images):
            return []
        stream = io.BytesIO()
        contact_sheet(images, columns=self.columns, cell=self.cell).save(stream, "PNG")
        question = self.question.format(size=len(images))
        answer = ""
        for _ in range(self.tries):
            answer = self.ask(stream.getvalue(), question)
            found = parse_answer(answer, len(images))
            if found is not None:
                return found
        raise JudgeError(f"{self.tries} answers were no list of numbers from 1 to {len(images)}; the last: {answer!r}")


def parse_answer(answer: object, size: int) -> list[int] | None:
    """The numbers of an answer less 1, ascending; None where it is not a list of numbers on the sheet.

    >>> parse_answer("3, 1", 5), parse_answer("None.", 5), parse_answer("6", 5), parse_answer("all but 2", 5)
    ([0, 2], [], None, None)
    """
    if not isinstance(answer, str) or not (match := _LIST.fullmatch(answer)):
        return None
    if match[1].lower() == "none":
        return []
    numbers = sorted({int(number) for number in match[1].split(",")})
    return [number - 1 for number in numbers] if numbers[0] >= 1 and numbers[-1] <= size else None


@checked
def contact_sheet(images: Sequence[Any] | Tensor, columns: Count | None = None, cell: Count = 112) -> Any:
    """The pictures side by side, numbered from 1, as a picture of Pillow.

    Args:
        images: files, pictures of Pillow, or tensors (3, h, w) or (1, h, w) in [0, 1].
        columns: in a row; nearly square by default.
        cell: pixels of the longer side of a picture.

    Raises:
        ValueError: if there is no picture, or one cannot be shown.

    >>> contact_sheet([torch.zeros(3, 4, 8)] * 3, columns=2, cell=20).size
    (44, 72)
    """
    from PIL import Image, ImageDraw

    pictures = [as_picture(f"images[{number}]", image) for number, image in enumerate(images)]
    if not pictures:
        raise ValueError("images is empty; there is nothing to show")
    across = columns or math.ceil(math.sqrt(len(pictures)))
    width, height = cell + 2, cell + _LABEL + 2
    sheet = Image.new("RGB", (across * width, math.ceil(len(pictures) / across) * height), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for number, picture in enumerate(pictures):
        left, top = number % across * width, number // across * height
        scale = cell / max(picture.size)
        size = max(1, round(picture.size[0] * scale)), max(1, round(picture.size[1] * scale))
        sheet.paste(picture.resize(size, Image.Resampling.BILINEAR), (left + 1, top + _LABEL))
        draw.text((left + 2, top + 1), str(number + 1), fill=(0, 0, 0))
    return sheet


def as_picture(name: str, image: Any) -> Any:
    """A picture of Pillow in RGB, from a file, another picture or a tensor.

    Raises:
        ValueError: if it is none of them, or cannot be read.

    >>> as_picture("image", torch.zeros(1, 2, 3)).size
    (3, 2)
    """
    from PIL import Image

    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] not in (1, 3):
            raise ValueError(f"{name} must have shape (3, h, w) or (1, h, w), got {tuple(image.shape)}")
        pixels = image.detach().float().expand(3, -1, -1)
        if not bool(torch.isfinite(pixels).all()) or float(pixels.min()) < 0 or float(pixels.max()) > 1:
            raise ValueError(f"{name} holds values outside of [0, 1]; scale it")
        return Image.fromarray((255 * pixels).round().byte().permute(1, 2, 0).cpu().numpy().astype(np.uint8))
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if isinstance(image, str | Path):
        try:
            with Image.open(image) as opened:
                return opened.convert("RGB")
        except Exception as error:  # a broken file fails in whatever way its decoder does
            raise ValueError(f"{name}: {image} cannot be read as an image: {error}") from error
    raise ValueError(f"{name} must be a file, a picture or a tensor, got {type(image).__name__}")
