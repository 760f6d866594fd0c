"""Size-invariant measures beside PySODMetrics, losses beside loops over objects: `python benchmarks/saliency.py`.

PySODMetrics lives in an interpreter of its own, named by `--pysodmetrics` or by the variable EQUIPOISE_PYSODMETRICS;
without it its rows say "not run". It is a process that waits for its turn; each side times itself by processor time, on
one thread. Maps are 352 × 352, the usual size of evaluation: drawn ones, or those of `--sod`, a file with packed images
`masks` and `pred_picanet`. Both sides drop objects of fewer than 50 pixels. Values are compared as well.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

sys.path.insert(0, str(Path(__file__).parent))
from _timing import Row, ratio, table

from equipoise.dense import SaliencyReport, SizeInvariantLoss, object_frames

_SIDE, _MIN_AREA = 352, 50
_PEER = Path(__file__).with_name("_pysodmetrics.py")
Maps = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def _drawn(count: int) -> Maps:
    """Noisy maps of bytes with one to four rectangles of very different size."""
    generator = np.random.default_rng(0)
    masks = np.zeros((count, _SIDE, _SIDE), np.uint8)
    for mask in masks:
        for side in (150, 60, 25, 12)[: generator.integers(1, 5)]:
            top, left = generator.integers(0, _SIDE - side, 2)
            mask[top : top + side, left : left + side - 3] = 255
    noise = generator.random(masks.shape)
    return np.round(255 * np.clip(0.6 * (masks > 0) + 0.4 * noise, 0, 1)).astype(np.uint8), masks


def _real(path: str, count: int) -> Maps:
    from PIL import Image

    with np.load(path, allow_pickle=False) as file:
        packed = {name: (file[name], file[f"{name}_offsets"]) for name in ("pred_picanet", "masks")}
    found = []
    for name, how in (("pred_picanet", Image.Resampling.BILINEAR), ("masks", Image.Resampling.NEAREST)):
        data, ends = packed[name]
        images = [Image.open(io.BytesIO(data[a:b].tobytes())).convert("L") for a, b in pairwise(ends[: count + 1])]
        found.append(np.stack([np.asarray(image.resize((_SIDE, _SIDE), how)) for image in images]))
    return found[0], found[1]


@contextmanager
def _peer(interpreter: str, maps: Maps) -> Iterator[Callable[..., dict[str, Any]]]:
    """A process that takes turns."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "maps.npz")
        np.savez(path, maps=maps[0], masks=maps[1])
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        process = subprocess.Popen(
            [interpreter, str(_PEER), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **threads},
        )
        assert process.stdin is not None
        assert process.stdout is not None

        def turn(**asked: object) -> dict[str, Any]:
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
            answer: dict[str, Any] = json.loads(process.stdout.readline())
            return answer

        try:
            yield turn
        finally:
            process.stdin.close()
            process.wait()


def _ours(what: str, maps: Maps) -> tuple[float, dict[str, float]]:
    """Processor time, and the values."""
    report = SaliencyReport(min_area=_MIN_AREA, structural=what == "everything")
    start = process_time()
    for one, mask in zip(*maps, strict=True):
        report.update(torch.from_numpy(one / 255)[None], torch.from_numpy(mask > 0)[None])
    taken = process_time() - start
    return taken, {name: float(value) for name, value in report.compute().items()}


def _measures(quick: bool, interpreter: str | None, sod: str | None) -> list[Row]:
    count = 4 if quick else 24
    maps = _real(sod, count) if sod else _drawn(count)
    what = {
        "frames": ("SI-MAE and SI-F, with AUC and all measures of pixels", "SI-MAE and SI-F alone", 20.0),
        "everything": ("the whole report, all measures in both forms", "MAE, F, E, S, weighted F, SI-MAE, SI-F", 4.0),
    }
    kind = "SOD at 352 × 352" if sod else "352 × 352"
    if interpreter is None:
        note = "needs --pysodmetrics, an interpreter that has it"
        return [Row(f"{a}, {kind}", f"PySODMetrics: {b}", None, goal, note=note) for a, b, goal in what.values()]
    found = []
    with _peer(interpreter, maps) as turn:
        for name, (a, b, goal) in what.items():
            times, gap = [], 0.0
            for _ in range(2 if quick else 5):
                taken, values = _ours(name, maps)
                answer = turn(what=name, maps=count)
                times.append(answer["processor"] / taken)
                gap = max(abs(values[key] - value) for key, value in answer["values"].items())
            note = f"values within {gap:.0e}; {1000 * taken / count:.1f} ms a map"
            found.append(Row(f"{a}, {kind}", f"PySODMetrics: {b}", median(times), goal, note=note))
    return found


def _looped(logits: Tensor, masks: Tensor, frames: list[Tensor]) -> Tensor:
    total = logits.new_zeros(())
    for z, g, boxes in zip(logits, masks.float(), frames, strict=True):
        outside = torch.ones_like(g, dtype=torch.bool)
        for top, bottom, left, right in boxes.tolist():
            crop = slice(top, bottom), slice(left, right)
            total = total + binary_cross_entropy_with_logits(z[crop], g[crop])
            outside[crop] = False
        behind = int(outside.sum())
        weight = behind / (g.numel() - behind)
        total = total + weight * binary_cross_entropy_with_logits(z[outside], g[outside])
    return total / len(logits)


def _losses(quick: bool) -> list[Row]:
    return [row for objects, words in ((2, "2 objects"), (18, "324 objects")) for row in _loss(objects, words, quick)]


def _loss(side: int, words: str, quick: bool) -> list[Row]:
    """Two objects one above the other, or a square of so many rows."""
    masks = torch.zeros(2 if quick else 8, _SIDE, _SIDE, dtype=torch.long)
    step = _SIDE // side
    for row in range(side):
        for column in range(side if side > 2 else 1):
            masks[:, row * step + 2 : row * step + step - 2, column * step + 2 : column * step + step - 2] = 1
    logits = torch.randn(masks.shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    frames = [object_frames(mask) for mask in masks]
    loss, repeats = SizeInvariantLoss(), 3 if quick else 9

    def ours() -> None:
        loss(logits, masks, frames).backward()

    plain = ratio(ours, lambda: binary_cross_entropy_with_logits(logits, masks.float()).backward(), repeats=repeats)
    looped = ratio(lambda: _looped(logits, masks, frames).backward(), ours, repeats=repeats)
    name = f"SizeInvariantLoss, {words}, value + gradient"
    return [Row(name, "plain BCE", plain, larger_is_better=False), Row(name, "a loop over objects", looped)]


def rows(quick: bool, pysodmetrics: str | None = None, sod: str | None = None) -> list[Row]:
    """All rows of this file."""
    pysodmetrics = pysodmetrics or os.environ.get("EQUIPOISE_PYSODMETRICS")
    return [*_measures(quick, pysodmetrics, sod or os.environ.get("EQUIPOISE_SOD")), *_losses(quick)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer maps and rounds")
    parser.add_argument("--pysodmetrics", help="an interpreter that has PySODMetrics 1.6.2")
    parser.add_argument("--sod", help="maps and masks as an .npz file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(table(rows(options.quick, options.pysodmetrics, options.sod)))


if __name__ == "__main__":
    main()
