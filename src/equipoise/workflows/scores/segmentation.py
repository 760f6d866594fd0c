"""Judge a folder of predicted label maps by a folder of true ones: overlap by class, group and image."""

from __future__ import annotations

import base64
import csv
import io
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from equipoise.core.curves.intervals import Interval
from equipoise.dense.segmentation.confusion import confusion_counts, overlap
from equipoise.dense.segmentation.tails import ClassGroups, tail_classes_by_pixels
from equipoise.report.segmentation_page import ClassRow, SegmentationReport, WorstImage, segmentation_page
from equipoise.workflows.errors import InputError, mendable
from equipoise.workflows.label_maps import class_names, label_map_files, read_label_map
from equipoise.workflows.output import staged_folder
from equipoise.workflows.scores.judging import check_bootstrap, provenance, write_summary
from equipoise.workflows.scores.requests import SegmentationRequest
from equipoise.workflows.spreadsheet import quoted

_WHITE = 255
_TITLES = {
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "mean_dice": "mean Dice",
}
_NOTES = (
    "IoU is of one matrix of counts over all images; a class that is neither there nor predicted is in no mean.",
    "Intervals are of the percentile bootstrap over images. Frames of one recording are alike, which makes them too "
    "narrow.",
    "The mean IoU of one image is over the classes that it holds, and only ranks images.",
)


@dataclass(frozen=True)
class SegmentationEvaluation:
    """What `evaluate_segmentation` found and where it was written.

    Attributes:
        report: what `report.html` shows.
        folder: where it is.
    """

    report: SegmentationReport
    folder: Path


def evaluate_segmentation(
    predictions: str | Path, truth: str | Path, request: SegmentationRequest, *, command: str = ""
) -> SegmentationEvaluation:
    """Judge label maps, and write `metrics.json`, `classes.csv`, `images.csv`, `confusion.csv` and `report.html`.

    Args:
        predictions: folder of label maps: PNG, BMP or TIFF with an index for each pixel, or NumPy arrays of integers.
        truth: folder of true label maps; a file belongs to the prediction of the same stem.
        request: names of classes, ignored label, groups, intervals and output folder.
        command: what the user typed, for the report.

    Raises:
        InputError: if the request cannot be carried out as given; nothing is written then.
    """
    with staged_folder(request.output, overwrite=request.overwrite, inputs=(predictions, truth)) as stage:
        report = judge_label_maps(stage, Path(predictions), Path(truth), request, command=command)
    return SegmentationEvaluation(report, Path(request.output))


def judge_label_maps(
    stage: Path,
    predictions: Path,
    truth: Path,
    request: SegmentationRequest,
    *,
    command: str = "",
    overline: str = "equipoise evaluate --segmentation",
    only: Collection[str] | None = None,
    said: Sequence[str] = (),
    more: Mapping[str, Any] | None = None,
    title: str | None = None,
    shown: Sequence[str] = (),
    tail_words: str | None = None,
    since: float | None = None,
) -> SegmentationReport:
    """Judge label maps and write the files of `evaluate_segmentation` into a folder that is there.

    Args:
        stage: the folder.
        predictions: folder of label maps.
        truth: folder of true ones.
        request: as for `evaluate_segmentation`; its output is not looked at.
        command: what the user typed.
        overline: what stands above the page's title.
        only: stems of the true label maps to judge by; all of them if None.
        said: notes before the usual ones.
        more: further entries of `metrics.json`.
        title: of the page.
        shown: what stands under it in place of the two folders.
        tail_words: how the rare classes were chosen, where `request.tail` does not say it.
        since: when the work began, by `time.perf_counter`; now if None.

    Raises:
        InputError: as `evaluate_segmentation`.
    """
    started = time.perf_counter() if since is None else since
    with mendable():
        check_bootstrap(request)
        if request.worst < 0:
            raise InputError(f"worst={request.worst} must be at least 0")
        pairs, extra = _pairs(predictions, truth, only)
        pairs, binary = _as_binary(pairs, request)
        names = _names(request, pairs)
        counted = _count(pairs, len(names), request.ignore_index)
        if not counted.total.sum():
            raise InputError(f"every pixel of {truth} has the ignored label {request.ignore_index}")
        groups, how = _groups(request, names, counted.total.sum(1))
    measures = _intervals(counted, groups, request)
    overall = overlap(torch.from_numpy(counted.total), {k: v for k, v in groups._asdict().items() if v})
    rows = _rows(names, groups, counted, overall, measures)
    notes = [*said, tail_words or how, *_NOTES]
    if len(pairs) < 2:
        notes.append("There are no intervals: they are drawn over images, of which there is one.")
    if binary:
        notes.append(f"The label maps hold 0 and 255 alone: 255 is {names[1]}, and no pixel is ignored for it.")
    if extra:
        notes.append(f"{extra} predictions have no true label map and were left out.")
    facts = (*(shown or (str(predictions), str(truth))), f"{len(pairs):,} images", f"{len(names)} classes")
    held = f"{int(counted.total.sum()):,} pixels"
    report = SegmentationReport(
        title=title or f"{predictions.name}: overlap with {truth.name}",
        facts=(*facts, held),
        measures={
            _TITLES.get(name, f"mIoU of the {name.partition('/')[2]}"): measures[name]
            for name in ("miou", *(n for n in measures if n.startswith("miou/")), "pixel_accuracy", "mean_accuracy")
        },
        classes=rows,
        confusion=counted.total / np.maximum(counted.total.sum(1, keepdims=True), 1),
        worst=_worst(pairs, counted, len(names), request),
        notes=notes,
        provenance=provenance(command, request.seed, time.perf_counter() - started),
        confidence=request.confidence,
        overline=overline,
    )
    (stage / "report.html").write_text(segmentation_page(report), encoding="utf-8")
    _write_tables(stage, names, rows, counted)
    scalars = {name: float(value) for name, value in overall.items() if value.ndim == 0}
    summary = {
        **(more or {}),
        "measures": {name: measures.get(name, value) for name, value in scalars.items()},
        "groups": {name: [names[k] for k in members] for name, members in groups._asdict().items()},
        "classes": {row.name: row for row in rows},
        "notes": notes,
        "command": command,
        "versions": report.provenance.versions,
    }
    write_summary(stage, summary)
    return report


@dataclass(frozen=True)
class _Pair:
    stem: str
    prediction: Path
    truth: Path
    binary: bool = False

    def read(self) -> tuple[torch.Tensor, torch.Tensor]:
        pred, target = read_label_map(self.prediction), read_label_map(self.truth)
        if self.binary:
            pred, target = pred // _WHITE, target // _WHITE
        if pred.shape != target.shape:
            raise InputError(
                f"{self.prediction} has {pred.shape[1]} × {pred.shape[0]} pixels, and its truth {target.shape[1]} × "
                f"{target.shape[0]}; resize the prediction by nearest neighbour"
            )
        return pred, target


@dataclass(frozen=True)
class _Counted:
    """Counts of all images (C, C), and of each: right, true and predicted pixels by class (images, 3, C)."""

    total: NDArray[np.int64]
    images: NDArray[np.int64]
    stems: tuple[str, ...]

    def image_miou(self) -> NDArray[np.float64]:
        """Of every image the mean IoU over the classes that it holds; NaN where it holds none."""
        right, true, predicted = (self.images[:, k].astype(float) for k in range(3))
        held = true > 0
        iou = np.where(held, right / np.maximum(true + predicted - right, 1), 0.0)
        number = held.sum(1)
        return np.where(number > 0, iou.sum(1) / np.maximum(number, 1), np.nan)

    def image_accuracy(self) -> NDArray[np.float64]:
        valid = self.images[:, 1].sum(1)
        return np.where(valid > 0, self.images[:, 0].sum(1) / np.maximum(valid, 1), np.nan)


def _pairs(predictions: Path, truth: Path, only: Collection[str] | None) -> tuple[list[_Pair], int]:
    predicted, true = label_map_files(predictions), label_map_files(truth)
    if only is not None:
        true = {stem: path for stem, path in true.items() if stem in only}
    missing = [stem for stem in true if stem not in predicted]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(true)} true label maps have no prediction of the same stem, the first "
            f"{missing[0]!r}; predict all images, or take these out of {truth}"
        )
    return [_Pair(stem, predicted[stem], path) for stem, path in true.items()], len(predicted) - len(true)


def _as_binary(pairs: list[_Pair], request: SegmentationRequest) -> tuple[list[_Pair], bool]:
    """The pairs, to be read as two classes where all of them are masks of black and white, and whether they are.

    Raises:
        InputError: if the masks of one folder are black and white and those of the other hold 0 and 1.
    """
    if request.classes is not None and len(class_names(request.classes)) > 2:
        return pairs, False
    held: tuple[set[int], set[int]] = (set(), set())
    for pair in pairs:
        for labels, found in zip(pair.read(), held, strict=True):
            found |= set(labels.unique().tolist())
    predicted, true = held
    # True maps of 0 and 255 with predictions of 0 alone are masks of which nothing was found, not one class alone.
    if predicted | true <= {0, _WHITE} and (_WHITE in predicted or true == {0, _WHITE}):
        return [replace(pair, binary=True) for pair in pairs], True
    for one, other in ((predicted, true), (true, predicted)):
        if one == {0, _WHITE} and 1 in other <= {0, 1}:
            what = "predictions" if one is predicted else "true label maps"
            raise InputError(
                f"the {what} hold 0 and 255, the others 0 and 1; write the masks of both folders alike, with 0 and 1 "
                "or with 0 and 255"
            )
    return pairs, False


def _names(request: SegmentationRequest, pairs: Sequence[_Pair]) -> list[str]:
    given = request.classes
    if given is None:
        most = max(int(labels[labels != request.ignore_index].max(initial=0)) for labels in _arrays(pairs))
        if most > 4095:
            raise InputError(f"a label map holds the label {most}; name the classes with --classes")
        return [f"class {k}" for k in range(max(2, most + 1))]
    names = class_names(given)
    if len(names) < 2 or len(set(names)) < len(names):
        raise InputError(f"--classes names {len(names)} classes; at least 2 are needed, each once, in their order")
    return names


def _arrays(pairs: Iterable[_Pair]) -> Iterable[NDArray[np.int64]]:
    for pair in pairs:
        pred, target = (each.numpy() for each in pair.read())
        yield target
        yield pred


def _count(pairs: Sequence[_Pair], classes: int, ignore_index: int) -> _Counted:
    total, images = torch.zeros(classes, classes, dtype=torch.long), []
    for pair in pairs:
        pred, target = pair.read()
        try:
            found = confusion_counts(pred, target, classes, ignore_index=ignore_index)
        except ValueError as error:
            raise InputError(f"{pair.stem}: {error}; see --classes and --ignore-index") from error
        total += found
        images.append(torch.stack([found.diagonal(), found.sum(1), found.sum(0)]))
    return _Counted(total.numpy(), torch.stack(images).numpy(), tuple(pair.stem for pair in pairs))


def tail_sentence(count: int, pixels: str) -> str:
    """Which classes the tail is of, where nobody has named them."""
    which = "is the class" if count == 1 else f"are the {count} classes"
    return f"The tail {which} with the fewest {pixels}; name others with --tail."


def _groups(request: SegmentationRequest, names: list[str], pixels: NDArray[np.int64]) -> tuple[ClassGroups, str]:
    if request.tail is None:
        third = max(1, round(len(names) / 3))
        found = tail_classes_by_pixels(pixels.tolist(), k=third)
        return found, tail_sentence(third, "true pixels here")
    wrong = [name for name in request.tail if name not in names]
    if wrong or len(set(request.tail)) == len(names):
        raise InputError(f"--tail names {wrong[0] if wrong else 'every class'!r}; wanted some of {', '.join(names)}")
    tail = tuple(sorted({names.index(name) for name in request.tail}))
    rest = tail_classes_by_pixels([*pixels.tolist(), 0], k=1)
    head = tuple(k for k in rest.head if k not in tail)
    middle = tuple(k for k in range(len(names)) if k not in (*head, *tail))
    return ClassGroups(head, middle, tail), "The tail is as named with --tail."


def _measured(sums: NDArray[Any], groups: ClassGroups) -> dict[str, NDArray[np.float64]]:
    """Measures of right, true and predicted counts (..., 3, C)."""
    right, true, predicted = (sums[..., k, :].astype(float) for k in range(3))
    with np.errstate(invalid="ignore", divide="ignore"):
        iou, recall = right / (true + predicted - right), right / true
        accuracy = right.sum(-1) / true.sum(-1)
    parts = {"miou": iou, "mean_accuracy": recall}
    parts |= {f"miou/{name}": iou[..., list(members)] for name, members in groups._asdict().items() if members}
    found = {"pixel_accuracy": accuracy, "iou": iou}
    for name, values in parts.items():
        held = ~np.isnan(values)
        with np.errstate(invalid="ignore"):
            found[name] = np.where(held, values, 0).sum(-1) / held.sum(-1)
    return {name: np.asarray(value) for name, value in found.items()}


def _intervals(counted: _Counted, groups: ClassGroups, request: SegmentationRequest) -> dict[str, Interval]:
    """Measures with intervals over images; of a class "iou/INDEX"."""
    whole = _measured(counted.images.sum(0), groups)
    images, generator = len(counted.images), np.random.default_rng(request.seed)
    drawn: dict[str, list[NDArray[np.float64]]] = {name: [] for name in whole}
    flat = counted.images.reshape(images, -1).astype(float)
    for _ in range(request.resamples if images > 1 else 0):
        times = generator.multinomial(images, np.full(images, 1 / images))
        for name, value in _measured((times @ flat).reshape(counted.images.shape[1:]), groups).items():
            drawn[name].append(value)
    found = {}
    for name, value in whole.items():
        draws = np.array(drawn[name]).reshape(-1, value.size)
        for k, estimate in enumerate(np.atleast_1d(value)):
            known = draws[:, k][~np.isnan(draws[:, k])] if len(draws) else draws[:, 0]
            low, high = (
                np.quantile(known, [0.5 - request.confidence / 2, 0.5 + request.confidence / 2])
                if len(known) and not np.isnan(estimate)
                else (np.nan, np.nan)
            )
            found[f"iou/{k}" if name == "iou" else name] = Interval(float(estimate), float(low), float(high))
    return found


def _rows(
    names: list[str],
    groups: ClassGroups,
    counted: _Counted,
    overall: dict[str, torch.Tensor],
    measures: dict[str, Interval],
) -> list[ClassRow]:
    group = {k: name for name, members in groups._asdict().items() for k in members}
    rows = []
    for k, name in enumerate(names):
        missed = counted.total[k].copy()
        missed[k] = 0
        predicted = counted.total[:, k].sum()
        rows.append(
            ClassRow(
                name,
                group[k],
                int(counted.total[k].sum()),
                measures[f"iou/{k}"],
                float(overall["dice"][k]),
                float(overall["recall"][k]),
                float(counted.total[k, k] / predicted) if predicted else float("nan"),
                names[int(missed.argmax())] if missed.any() else "",
            )
        )
    return rows


def _worst(pairs: Sequence[_Pair], counted: _Counted, classes: int, request: SegmentationRequest) -> list[WorstImage]:
    miou, accuracy = counted.image_miou(), counted.image_accuracy()
    order = [k for k in np.argsort(miou, kind="stable").tolist() if not np.isnan(miou[k])][: request.worst]
    return [
        WorstImage(pairs[k].stem, float(miou[k]), float(1 - accuracy[k]), _picture(pairs[k], classes, request))
        for k in order
    ]


def _picture(pair: _Pair, classes: int, request: SegmentationRequest) -> str:
    """Truth, prediction and errors as one PNG of at most 240 pixels a side for each, as a data address."""
    from matplotlib import colormaps
    from PIL import Image

    pred, target = (each.numpy() for each in pair.read())
    step = -(-max(pred.shape) // 240)
    pred, target = pred[::step, ::step], target[::step, ::step]
    hues = colormaps["tab20" if classes <= 20 else "turbo"](np.linspace(0, 1, 20 if classes <= 20 else classes))
    colours = (255 * hues[:, :3]).astype(np.uint8)
    ignored = target == request.ignore_index
    parts = []
    for labels in (target, pred):
        part = colours[np.clip(labels, 0, classes - 1)]
        part[ignored] = 128
        parts.append(part)
    wrong = np.where(
        (pred != target)[..., None], np.array([214, 39, 40], np.uint8), np.array([235, 235, 235], np.uint8)
    )
    wrong[ignored] = 128
    gap = np.full((target.shape[0], 4, 3), 255, np.uint8)
    stream = io.BytesIO()
    Image.fromarray(np.concatenate([parts[0], gap, parts[1], gap, wrong.astype(np.uint8)], 1)).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _write_tables(stage: Path, names: list[str], rows: list[ClassRow], counted: _Counted) -> None:
    head = ["class", "group", "pixels", "iou", "low", "high", "dice", "recall", "precision", "mostly_taken_for"]
    classes = [
        [
            row.name,
            row.group,
            row.pixels,
            row.iou.estimate,
            row.iou.low,
            row.iou.high,
            row.dice,
            row.recall,
            row.precision,
            row.taken_for,
        ]
        for row in rows
    ]
    _write(stage / "classes.csv", [head, *classes])
    miou, accuracy, valid = counted.image_miou(), counted.image_accuracy(), counted.images[:, 1].sum(1)
    images = [list(each) for each in zip(counted.stems, valid.tolist(), accuracy.tolist(), miou.tolist(), strict=True)]
    _write(stage / "images.csv", [["image", "valid_pixels", "pixel_accuracy", "miou_of_its_classes"], *images])
    matrix = [[name, *row] for name, row in zip(names, counted.total.tolist(), strict=True)]
    _write(stage / "confusion.csv", [["true class", *names], *matrix])


def _write(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([["" if cell != cell else quoted(cell) for cell in row] for row in rows])
