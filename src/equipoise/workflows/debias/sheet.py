"""One picture of pictures: every concept before and after, the same noise above each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

SHOWN = 12
_LEAST, _MOST, _GAP, _MARGIN, _LINE = 48, 192, 4, 150, 16


def write_sheet(
    path: Path, names: Sequence[str], before: Sequence[Float[Tensor, "n 3 h w"]], after: Sequence[Tensor]
) -> None:
    """Two rows of up to a dozen pictures for every concept, before and after.

    Args:
        path: the PNG file.
        names: of the concepts.
        before: of each concept pictures in [0, 1].
        after: likewise.
    """
    from PIL import Image, ImageDraw

    columns = min(SHOWN, min(len(each) for each in (*before, *after)))
    side = max(before[0].shape[-2:])
    size = max(_LEAST, min(_MOST, side if side >= _LEAST else side * max(1, _LEAST // side)))
    step = size + _GAP
    whole = Image.new("RGB", (_MARGIN + columns * step, len(names) * (2 * step + _LINE)), (255, 255, 255))
    draw = ImageDraw.Draw(whole)
    for place, (name, first, last) in enumerate(zip(names, before, after, strict=True)):
        top = place * (2 * step + _LINE)
        for row, (words, pictures) in enumerate((("before", first), ("after", last))):
            y = top + row * step
            # The font of Pillow has no letters beyond Latin ones.
            title = f"{name}\n{words}" if row == 0 else words
            draw.text((4, y + 4), title.encode("ascii", "replace").decode("ascii"), fill=(0, 0, 0))
            for column in range(columns):
                pixels = np.rint(255 * pictures[column].clamp(0, 1).permute(1, 2, 0).numpy()).astype(np.uint8)
                small = Image.fromarray(pixels).resize((size, size), Image.Resampling.NEAREST)
                whole.paste(small, (_MARGIN + column * step, y))
    whole.save(path, "PNG", optimize=True)
