"""Pictures of single maps, small enough for a page."""

from __future__ import annotations

import io

import numpy as np
import torch

from equipoise.dense.saliency.report import resized
from equipoise.workflows.saliency.reading import Pair, read_map, read_mask

_LONGEST = 320
_BOX, _GAP = (240, 150, 40), 6


def beside(pair: Pair, boxes: list[list[int]]) -> bytes:
    """Mask with boxes and map side by side, as a PNG."""
    from PIL import Image, ImageDraw

    mask, _ = read_mask(pair.mask)
    pred = resized(torch.from_numpy(read_map(pair.pred)), mask.shape).numpy()
    height, width = mask.shape
    scale = min(1.0, _LONGEST / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    whole = Image.new("RGB", (2 * size[0] + _GAP, size[1]), (128, 128, 128))
    for place, pixels in enumerate((255 * mask, np.rint(255 * pred))):
        shown = Image.fromarray(pixels.astype(np.uint8)).resize(size, Image.Resampling.BOX)
        whole.paste(shown.convert("RGB"), (place * (size[0] + _GAP), 0))
    draw = ImageDraw.Draw(whole)
    for top, bottom, left, right in boxes:
        draw.rectangle([left * scale, top * scale, right * scale - 1, bottom * scale - 1], outline=_BOX)
    stream = io.BytesIO()
    whole.save(stream, "PNG", optimize=True)
    return stream.getvalue()
