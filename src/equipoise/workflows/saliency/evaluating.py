"""Judge a folder of saliency maps by a folder of masks, and write tables, curves and a page."""

from __future__ import annotations

import csv
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.core.curves.intervals import Interval
from equipoise.dense.saliency.judging import Judging
from equipoise.dense.saliency.summary import (
    COUNTS,
    TITLES,
    image_columns,
    mean_curves,
    object_columns,
    summarise,
    undefined_words,
)
from equipoise.report.saliency_page import (
    MeasureRow,
    SaliencyPage,
    SizeRow,
    WorstMap,
    saliency_page,
    salient_share,
)
from equipoise.workflows.errors import InputError, mendable
from equipoise.workflows.output import staged_folder
from equipoise.workflows.saliency.judging import JudgedPair, forget_parts, judge_pairs
from equipoise.workflows.saliency.pictures import beside
from equipoise.workflows.saliency.reading import Matched, match_files
from equipoise.workflows.saliency.request import SaliencyRequest
from equipoise.workflows.scores.judging import provenance, write_summary
from equipoise.workflows.spreadsheet import quoted

_log = logging.getLogger(__name__)

_THIRDS = ("smallest third", "middle third", "largest third")
_FEWEST = 12
_NORMAL = 1.959963984540054


@dataclass(frozen=True)
class SaliencyOutcome:
    """What `evaluate_saliency` found.

    Attributes:
        folder: what was written.
        summary: measures and counts by the names of `SaliencyReport.compute`.
        page: what the page shows.
    """

    folder: Path
    summary: Mapping[str, float]
    page: SaliencyPage


def evaluate_saliency(
    maps: str | Path,
    masks: str | Path,
    request: SaliencyRequest,
    *,
    command: str = "",
    notice: Callable[[str], None] = _log.warning,
    progress: Callable[[str], None] = _log.info,
) -> SaliencyOutcome:
    """Judge every map by the mask of the same name, over pixels and over objects.

    Args:
        maps: folder of grey images, a probability for every pixel.
        masks: folder of masks of 0 and 1, or of 0 and 255.
        request: the options.
        command: what the user typed, for the page.
        notice: told in sentences what makes the numbers less sure; logged if not given.
        progress: told what is being done.

    Raises:
        InputError: if the request cannot be carried out as given; nothing is written then. What was judged before a
            stop is kept beside the output and gone on with.
    """
    started = time.perf_counter()
    for name, least in (("min_area", 0), ("worst", 0), ("workers", 1)):
        value = getattr(request, name)
        if value is not None and value < least:
            raise InputError(f"{name}={value} must be at least {least}")
    how = Judging(min_area=request.min_area, normalize=request.normalize, structural=not request.pixelwise)
    place = Path(request.output).resolve()
    kept = place.with_name(f".{place.name}.equipoise-maps")
    with staged_folder(request.output, overwrite=request.overwrite, inputs=(maps, masks)) as stage:
        with mendable():
            matched = match_files(Path(maps), Path(masks))
            judged = judge_pairs(matched.pairs, how, kept=kept, workers=request.workers, progress=progress)
        progress("writing")
        rows = np.stack([each.row for each in judged])
        sums = np.sum([each.curves for each in judged], axis=0)
        summary = summarise(rows, sums, how)
        told = [*_files_words(matched, judged, summary), *filter(None, [undefined_words(summary)])]
        for words in told:
            notice(words)
        curves = mean_curves(sums, len(judged), int(summary["n_empty"]), how)
        worst = _worst(matched, judged, how, request.worst)
        areas, errors = (_column(judged, how, name) for name in ("area", "mae"))
        page = SaliencyPage(
            title=f"{Path(maps).name}: saliency by pixels and by objects",
            facts=_facts(rows, how, summary),
            measures=_measures(rows, summary, how),
            sizes=_sizes(judged, how),
            curves=curves,
            areas=areas,
            errors=errors,
            worst=worst,
            warnings=told,
            provenance=provenance(command, 0, time.perf_counter() - started),
        )
        (stage / "report.html").write_text(saliency_page(page), encoding="utf-8")
        _write_tables(stage, matched, judged, curves, how)
        for number, each in enumerate(worst, 1):
            (stage / "worst").mkdir(exist_ok=True)
            (stage / "worst" / f"{number:02d}.png").write_bytes(each.png)
        asked = {name: getattr(request, name) for name in ("min_area", "normalize", "pixelwise")}
        written: dict[str, Any] = {
            "measures": {name: value for name, value in summary.items() if name not in COUNTS},
            "counts": {name: int(summary[name]) for name in COUNTS},
            "sizes": list(page.sizes),
            "request": asked,
            "maps without a mask": matched.lone_maps,
            "masks without a map": matched.lone_masks,
            "command": command,
            "versions": page.provenance.versions,
        }
        write_summary(stage, written)
    forget_parts(kept)
    return SaliencyOutcome(Path(request.output), summary, page)


def _facts(rows: NDArray[np.float64], how: Judging, summary: Mapping[str, float]) -> list[str]:
    share = rows[:, image_columns(how).index("salient_share")]
    many = int(summary["n_objects"])
    return [
        f"{len(rows):,} image{'s' * (len(rows) != 1)}",
        f"{many:,} object{'s' * (many != 1)}",
        f"{salient_share(share.tolist())} of the pixels salient",
    ]


def _files_words(matched: Matched, judged: Sequence[JudgedPair], summary: Mapping[str, float]) -> list[str]:
    """What was odd about the files, in sentences."""
    told = []
    for names, what, other in ((matched.lone_maps, "map", "mask"), (matched.lone_masks, "mask", "map")):
        if names:
            few = ", ".join(names[:5]) + (" and others" if len(names) > 5 else "")
            verb = "has" if len(names) == 1 else "have"
            told.append(f"{len(names)} {what}{'s' * (len(names) > 1)} {verb} no {other} and were left out: {few}")
    if changed := int(summary["n_resized"]):
        told.append(f"{changed} of {len(judged)} maps were of another size than their mask and were resized to it")
    if grey := sum(not each.two_values for each in judged):
        told.append(f"{grey} of {len(judged)} masks hold more than two values and were cut at half of their range")
    if empty := int(summary["n_empty"]):
        told.append(f"{empty} of {len(judged)} masks hold no object: their F is 0, and other measures are of the image")
    return told


def _measures(rows: NDArray[np.float64], summary: Mapping[str, float], how: Judging) -> list[MeasureRow]:
    columns = image_columns(how)

    def of(name: str) -> Interval:
        """The mean of images with an interval; measures of mean curves have none."""
        value = summary[name]
        if "_max" in name or "_mean" in name:
            return Interval(value, math.nan, math.nan)
        each = rows[:, columns.index(name)]
        each = each[~np.isnan(each)]
        if len(each) < 2:
            return Interval(value, math.nan, math.nan)
        width = _NORMAL * float(each.std(ddof=1)) / math.sqrt(len(each))
        return Interval(value, max(0.0, value - width), min(1.0, value + width))

    return [MeasureRow(title, of(name), of(f"si_{name}")) for name, title in TITLES if name in columns]


def _sizes(judged: Sequence[JudgedPair], how: Judging) -> list[SizeRow]:
    areas, errors, f = (_column(judged, how, name) for name in ("area", "mae", "f_mean"))
    if len(areas) < _FEWEST:
        return []
    thirds = np.array_split(np.argsort(areas, kind="stable"), 3)
    return [
        SizeRow(
            name,
            int(areas[each[0]]),
            int(areas[each[-1]]),
            len(each),
            float(errors[each].mean()),
            float(f[each].mean()),
        )
        for name, each in zip(_THIRDS, thirds, strict=True)
    ]


def _column(judged: Sequence[JudgedPair], how: Judging, name: str) -> NDArray[np.float64]:
    place = object_columns(how).index(name)
    return np.concatenate([each.objects[:, place] for each in judged])


def _worst(matched: Matched, judged: Sequence[JudgedPair], how: Judging, number: int) -> list[WorstMap]:
    columns = image_columns(how)
    of_objects, of_pixels = columns.index("si_mae"), columns.index("mae")
    order = sorted(range(len(judged)), key=lambda k: -judged[k].row[of_objects])[:number]
    return [
        WorstMap(
            name=matched.pairs[k].name,
            png=beside(matched.pairs[k], judged[k].objects[:, :4].astype(int).tolist()),
            si_mae=float(judged[k].row[of_objects]),
            mae=float(judged[k].row[of_pixels]),
            objects=len(judged[k].objects),
        )
        for k in order
    ]


def _write_tables(
    stage: Path,
    matched: Matched,
    judged: Sequence[JudgedPair],
    curves: Mapping[str, NDArray[np.float64]],
    how: Judging,
) -> None:
    """images.csv, objects.csv and curves.csv; an empty cell is undefined."""
    names = [quoted(pair.name) for pair in matched.pairs]
    images = [[name, *map(_cell, each.row)] for name, each in zip(names, judged, strict=True)]
    objects = [
        [name, number, *map(_cell, row)]
        for name, each in zip(names, judged, strict=True)
        for number, row in enumerate(each.objects, 1)
    ]
    levels = [[level, *map(_cell, row)] for level, row in enumerate(np.stack(list(curves.values()), 1))]
    tables: dict[str, tuple[list[str], list[list[Any]]]] = {
        "images.csv": (["image", *image_columns(how)], images),
        "objects.csv": (["image", "object", *object_columns(how)], objects),
        "curves.csv": (["level", *curves], levels),
    }
    for name, (header, lines) in tables.items():
        with (stage / name).open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(header)
            writer.writerows(lines)


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.9g}"
