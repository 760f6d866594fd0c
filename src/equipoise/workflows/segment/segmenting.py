"""Train a small network on a pretrained encoder with several losses, choose one, judge it and label further images."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from equipoise.core.validate import check_choice, check_fraction, check_positive
from equipoise.data.pretrained import ImageEncoder, image_encoder
from equipoise.dense import ClassGroups, PyramidSegmenter, tail_classes_by_pixels
from equipoise.report.segmentation_page import SegmentationReport
from equipoise.workflows.errors import InputError, mendable
from equipoise.workflows.output import staged_folder
from equipoise.workflows.scores.requests import SegmentationRequest
from equipoise.workflows.scores.segmentation import judge_label_maps, tail_sentence
from equipoise.workflows.segment.images import Labelled, image_files, read_image, read_labelled
from equipoise.workflows.segment.request import SegmentRequest
from equipoise.workflows.segment.training import LOSSES, Contender, channels, measured, predict, state, train

_METRICS = ("miou", "tail")


@dataclass(frozen=True, kw_only=True)
class SegmentOutcome:
    """What `segment_images` found and where it was written.

    Attributes:
        folder: where it is.
        chosen: the loss with the highest value on the validation images.
        contenders: of every loss the measures on the validation images and the seconds of training.
        report: of the chosen network on the images to judge by.
        predicted: how many further images were labelled.
    """

    folder: Path
    chosen: str
    contenders: dict[str, dict[str, float]]
    report: SegmentationReport
    predicted: int


def segment_images(
    images: str | Path,
    masks: str | Path,
    request: SegmentRequest,
    *,
    command: str = "",
    progress: Callable[[str], None] | None = None,
) -> SegmentOutcome:
    """Train, choose, judge and label; see `SegmentRequest.output` for what is written.

    Args:
        images: folder of pictures.
        masks: folder of label maps; a file belongs to the picture of the same stem.
        request: losses, sizes, parts and output folder.
        command: what the user typed, for the report.
        progress: told what is being done.

    Raises:
        InputError: if the request cannot be carried out as given; nothing is written then.
    """
    started = time.perf_counter()
    images, masks = Path(images), Path(masks)
    say = progress or (lambda words: None)
    inputs = [images, masks, *([] if request.predict is None else [request.predict])]
    with staged_folder(request.output, overwrite=request.overwrite, inputs=inputs) as stage:
        with mendable():
            _check(request)
            further = {} if request.predict is None else image_files(Path(request.predict))
            data = read_labelled(images, masks, request)
            groups, said = _groups(data, request)
            encoder = _encoder(request)
            for path in further.values():  # a damaged one is told before hours of training, not after
                read_image(path, request.size)
        found = [_contend(loss, data, encoder, groups, request, say) for loss in request.losses]
        best = max(found, key=lambda one: _rank(one.val[request.metric]))
        for folder, some in (("predictions", _judged(data)), ("labelled", further)):
            if some:
                (stage / folder).mkdir()
            for number, (stem, path) in enumerate(some.items(), 1):
                say(f"labelling {number} of {len(some)}")
                image, own = read_image(path, request.size)
                _write(stage / folder / f"{stem}.png", predict(best.network, image, own) * data.white)
        contenders = {one.loss: {**one.val, "seconds": one.seconds} for one in found}
        _save(stage / "model", best, data, encoder, request)
        report = judge_label_maps(
            stage,
            stage / "predictions",
            masks,
            SegmentationRequest(
                classes=data.names,
                ignore_index=request.ignore_index,
                tail=[data.names[k] for k in groups.tail] if groups.tail else None,
                worst=request.worst,
                seed=request.seed,
            ),
            command=command,
            overline="equipoise segment",
            only=set(_judged(data)),
            said=[*_notes(best, found, data, request), *data.notes],
            title=f"{best.loss} on images of {images.name}",
            shown=(str(images), str(masks)),
            tail_words=said,
            since=started,
            more={"request": _plain(request), "chosen": best.loss, "validation": contenders},
        )
    return SegmentOutcome(
        folder=Path(request.output), chosen=best.loss, contenders=contenders, report=report, predicted=len(further)
    )


def _check(request: SegmentRequest) -> None:
    if not request.losses:
        raise InputError("losses is empty; name one or more of " + ", ".join(LOSSES))
    for loss in request.losses:
        check_choice("losses", loss, LOSSES)
    check_choice("metric", request.metric, _METRICS)
    for name in ("val_size", "test_size"):
        check_fraction(name, getattr(request, name))
    check_positive("lr", request.lr)
    for name in ("steps", "batch_size", "width"):
        if getattr(request, name) < 1:
            raise InputError(f"{name}={getattr(request, name)} must be at least 1")
    for name in ("worst", "seed"):
        if getattr(request, name) < 0:
            raise InputError(f"{name}={getattr(request, name)} must be at least 0")
    if request.size < 64 or request.size % 32:
        raise InputError(f"size={request.size} must be a multiple of 32, at least 64")


def _encoder(request: SegmentRequest) -> ImageEncoder:
    try:
        encoder = image_encoder(request.encoder, size=request.size)
        channels(encoder)
        return encoder
    except (ImportError, OSError, NotImplementedError) as error:
        raise InputError(str(error)) from error


def _groups(data: Labelled, request: SegmentRequest) -> tuple[ClassGroups, str]:
    pixels = data.pixels("train", request.ignore_index)
    if request.tail is None:
        third = max(1, round(len(data.names) / 3))
        found = tail_classes_by_pixels(pixels.tolist(), k=third)
        return found, tail_sentence(third, "pixels in training")
    wrong = [name for name in request.tail if name not in data.names]
    if wrong or len(set(request.tail)) == len(data.names):
        raise InputError(
            f"--tail names {wrong[0] if wrong else 'every class'!r}; wanted some of {', '.join(data.names)}"
        )
    tail = tuple(sorted({data.names.index(name) for name in request.tail}))
    rest = tuple(k for k in range(len(data.names)) if k not in tail)
    return ClassGroups(rest, (), tail), "The tail is as named with --tail."


def _contend(
    loss: str,
    data: Labelled,
    encoder: ImageEncoder,
    groups: ClassGroups,
    request: SegmentRequest,
    say: Callable[[str], None],
) -> Contender:
    started = time.perf_counter()
    network = train(loss, data, encoder, groups, request, lambda step: say(f"{loss}: step {step} of {request.steps}"))
    seconds = time.perf_counter() - started
    return Contender(loss, network, measured(network, data, groups, request), seconds)


def _rank(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _judged(data: Labelled) -> dict[str, Path]:
    return {data.stems[k]: data.files[k] for k in data.of("test")}


def _notes(best: Contender, found: list[Contender], data: Labelled, request: SegmentRequest) -> list[str]:
    parts = [len(data.of(part)) for part in ("train", "val", "test")]
    words = {"miou": "mean IoU", "tail": "mean IoU of the tail"}[request.metric]
    others = ", ".join(f"{one.loss} {one.val[request.metric]:.3f}" for one in found)
    return [
        f"{parts[0]} images to learn from, {parts[1]} to choose by, {parts[2]} to judge by, divided by chance: frames "
        "of one recording that fall into several parts make the figures too good.",
        f"The loss was chosen by the {words} of the images to choose by, at {request.size} pixels, of one training "
        f"each: {others}.",
        f"The figures of this page are of {best.loss} on the images to judge by, at their own size.",
    ]


def _write(path: Path, labels: Tensor) -> None:
    from PIL import Image

    kind = np.uint8 if int(labels.max()) < 256 else np.uint16
    Image.fromarray(labels.numpy().astype(kind)).save(path)


def _save(folder: Path, best: Contender, data: Labelled, encoder: ImageEncoder, request: SegmentRequest) -> None:
    from safetensors.torch import save_file

    folder.mkdir()
    save_file(state(best.network), folder / "weights.safetensors")
    about = {
        "classes": data.names,
        "encoder": {"name": request.encoder, "card": asdict(encoder.card)},
        "channels": channels(encoder),
        "width": request.width,
        "white": data.white,
        "size": request.size,
        "loss": best.loss,
    }
    (folder / "segmenter.json").write_text(json.dumps(about, indent=1, ensure_ascii=False), encoding="utf-8")


def load_segmenter(folder: str | Path) -> tuple[PyramidSegmenter, dict[str, Any]]:
    """The network of a `model` folder upon its encoder, in evaluation mode, and what its JSON file says.

    Raises:
        InputError: if the folder is not one of these, or the encoder is not there or has other weights.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    try:
        about = json.loads((folder / "segmenter.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "weights.safetensors")
        name, card = about["encoder"]["name"], about["encoder"]["card"]
        encoder = image_encoder(name, size=about["size"])
        if encoder.card.weights != card["weights"]:
            raise InputError(f"the encoder {name!r} of this machine has other weights than that of {folder}")
        network = PyramidSegmenter(encoder.pyramid, about["channels"], len(about["classes"]), about["width"])
        network.load_state_dict(weights)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{folder} is not a whole model of `segment`: {error}") from error
    return network.eval(), about


def _plain(request: SegmentRequest) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(request).items()}
