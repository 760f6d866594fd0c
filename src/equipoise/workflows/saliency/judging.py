"""Every pair of a map and a mask judged, in several processes, and gone on with after a stop.

What is done is kept in a folder beside the output until the output is whole. A pair is judged again where one of its
files, or a setting, has changed since.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from equipoise.dense.saliency.judging import Judging, judge_map
from equipoise.dense.saliency.report import resized
from equipoise.dense.saliency.summary import curve_rows, image_row, object_rows
from equipoise.workflows.saliency.reading import Pair, read_map, read_mask, stamp

# Pairs of one part file, and from how many on processes are worth starting.
_PART, _WORTH = 64, 200


@dataclass(frozen=True)
class JudgedPair:
    """What one pair came to, in the columns of `dense.saliency.summary`.

    Attributes:
        row: of the image.
        objects: (K, columns).
        curves: (curves, levels).
        two_values: whether the mask held two values at most.
    """

    row: NDArray[np.float64]
    objects: NDArray[np.float64]
    curves: NDArray[np.float64]
    two_values: bool


def judge_pairs(
    pairs: Sequence[Pair], how: Judging, *, kept: Path, workers: int | None, progress: Callable[[str], None]
) -> list[JudgedPair]:
    """Judge all pairs, in their order.

    Args:
        pairs: of files.
        how: they are judged.
        kept: a folder for what is done, read first and removed by the caller when all is written.
        workers: processes; as many as cores where there are many pairs, if None.
        progress: told how many are done.
    """
    keys = [_key(pair, how) for pair in pairs]
    done = _read_parts(kept)
    waiting = [place for place, key in enumerate(keys) if key not in done]
    if len(waiting) < len(pairs):
        progress(f"{len(pairs) - len(waiting)} of {len(pairs)} were judged before")
    count = workers or (os.cpu_count() or 1 if len(waiting) >= _WORTH else 1)
    fresh: dict[str, JudgedPair] = {}
    for number, found in enumerate(_work([pairs[place] for place in waiting], how, count)):
        fresh[keys[waiting[number]]] = found
        if len(fresh) == _PART:
            _write_part(kept, fresh)
            done |= fresh
            fresh = {}
        progress(f"judged {len(pairs) - len(waiting) + number + 1} of {len(pairs)} maps")
    if fresh:
        _write_part(kept, fresh)
    done |= fresh
    return [done[key] for key in keys]


def judge_pair(pair: Pair, how: Judging) -> JudgedPair:
    """Read and judge one pair; a map of another size is resized to its mask."""
    mask, two_values = read_mask(pair.mask)
    pred = read_map(pair.pred)
    other = pred.shape != mask.shape
    if other:
        pred = resized(torch.from_numpy(pred), mask.shape).numpy()
    scores = judge_map(pred, mask, how)
    row = np.array(image_row(scores, how, float(mask.mean()), other))
    return JudgedPair(row, object_rows(scores, how), curve_rows(scores, how), two_values)


def forget_parts(kept: Path) -> None:
    """Remove what was kept."""
    shutil.rmtree(kept, ignore_errors=True)


def _work(pairs: Sequence[Pair], how: Judging, workers: int) -> Iterator[JudgedPair]:
    if workers == 1 or len(pairs) < 2:
        yield from (judge_pair(pair, how) for pair in pairs)
        return
    spawned = get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawned, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield from pool.map(partial(judge_pair, how=how), pairs, chunksize=4)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _key(pair: Pair, how: Judging) -> str:
    return hashlib.sha256(f"{stamp((pair.pred, pair.mask))} {how}".encode()).hexdigest()


def _write_part(kept: Path, found: dict[str, JudgedPair]) -> None:
    kept.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256("".join(found).encode()).hexdigest()[:16]
    judged = list(found.values())
    arrays = {
        "keys": np.array(list(found)),
        "rows": np.stack([each.row for each in judged]),
        "curves": np.stack([each.curves for each in judged]),
        "objects": np.concatenate([each.objects for each in judged]),
        "counts": np.array([len(each.objects) for each in judged]),
        "two_values": np.array([each.two_values for each in judged]),
    }
    half = kept / f"{name}.half"
    with half.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
    half.replace(kept / f"{name}.npz")


def _read_parts(kept: Path) -> dict[str, JudgedPair]:
    done: dict[str, JudgedPair] = {}
    for path in sorted(kept.glob("*.npz")) if kept.is_dir() else ():
        # A damaged part is judged again.
        with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile), np.load(path) as part:
            objects = np.split(part["objects"], part["counts"].cumsum()[:-1])
            values = (part["rows"], objects, part["curves"], part["two_values"].tolist())
            for key, *one in zip(part["keys"].tolist(), *values, strict=True):
                done[key] = JudgedPair(*one)
    return done
