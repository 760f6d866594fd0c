"""Tune an image encoder by a denoiser, and say what it sees and tells apart before and after."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from equipoise.core.models.two_tower import encode_texts
from equipoise.core.validate import check_choice
from equipoise.data.tiny_clip import tiny_clip
from equipoise.integrations.clip import CLIPTower
from equipoise.integrations.clip_image_encoder import CLIPImageEncoder, put_back
from equipoise.multimodal import (
    ConditionProjector,
    ConflictMeter,
    DCRLoss,
    DCRTrainer,
    DetailAugmentation,
    DetailBenchmark,
    LoRASettings,
    PixelNorm,
)
from equipoise.report.encoder_page import EncoderReport, encoder_page
from equipoise.workflows.distill.models import quiet_transformers
from equipoise.workflows.errors import InputError, mendable
from equipoise.workflows.output import staged_folder
from equipoise.workflows.scores.judging import provenance, write_summary
from equipoise.workflows.tune_encoder.denoising import Denoising, own_denoising, tiny_denoising
from equipoise.workflows.tune_encoder.pictures import SHAPES_WORLD, Pictures, read_pictures, shapes_pictures
from equipoise.workflows.tune_encoder.request import TuneEncoderRequest
from equipoise.workflows.warned import heard

_log = logging.getLogger(__name__)
TINY = "tiny"
_LOSSES, _DENOISERS = ("dcr", "rec", "con", "con+rec"), ("own", "tiny")
_ASIDES = (
    "All measures are of held-out pictures, on which neither the denoiser was trained nor the encoder tuned.",
    "Probes are logistic regressions on embeddings, fitted on half of the held-out pictures, scored on the others.",
    "Clusters are the best of ten runs of k-means on unit embeddings, matched with classes one to one.",
    "Zero-shot accuracy asks which text, a picture of a class, is nearest; the text tower is as it was.",
    "No figure has an interval, and one run has one seed: small changes may be chance. Try another --seed.",
)


@dataclass(frozen=True, kw_only=True)
class TuneEncoderOutcome:
    """What `tune_encoder` found.

    Attributes:
        folder: what was written.
        report: what `report.html` shows.
    """

    folder: Path
    report: EncoderReport


def tune_encoder(
    encoder: str,
    images: str | Path,
    request: TuneEncoderRequest,
    *,
    command: str = "",
    notice: Callable[[str], None] = _log.warning,
    progress: Callable[[str], None] = _log.info,
) -> TuneEncoderOutcome:
    """Tune the image tower of a CLIP model on pictures without captions, and compare it with what it was.

    Args:
        encoder: "tiny" for the CLIP of the shapes world, or the folder of a transformers CLIP model.
        images: a folder of pictures, classes in subfolders where there are any; "shapes" for the shapes world.
        request: the options.
        command: what the user typed, for the report.
        notice: told in sentences what makes the numbers less sure; logged if not given.
        progress: told what is being done.

    Raises:
        InputError: if the request cannot be carried out as given; no output is written then.
    """
    started = time.perf_counter()
    notes: list[str] = []

    def noted(words: str) -> None:
        notes.append(words)
        notice(words)

    _check(request)
    of_world = str(images) == SHAPES_WORLD
    if of_world and request.factors is not None:
        raise InputError("--factors is of use with a folder of pictures; those of the shapes world have their own")
    inputs: list[str | Path] = [*([] if of_world else [images]), *([] if encoder == TINY else [encoder])]
    with staged_folder(request.output, overwrite=request.overwrite, inputs=inputs) as stage, quiet_transformers():
        progress("loading")
        tower = _tower(encoder)
        side, pixels = _sight(tower)
        progress("reading")
        if of_world:
            pictures = shapes_pictures(request.seed)
            if side != pictures.images.shape[-1]:
                bigger = nn.functional.interpolate(pictures.images, (side, side), mode="bicubic").clamp(0, 1)
                pictures = Pictures(bigger, pictures.classes, pictures.label, pictures.factors, pictures.values)
        else:
            pictures = read_pictures(Path(images), side, request.factors)
        train, held = _split(len(pictures.images), request)
        benchmark = _benchmark(pictures, held, tower, pixels, request, noted)
        plain = CLIPImageEncoder(tower.model)
        progress("judging the encoder before")
        with mendable(), heard(noted):
            before = benchmark.measure(plain)
        tuned_on = pictures.images[train]
        progress("making a denoiser")
        with mendable():
            denoising = _denoising(request, of_world, tuned_on)
        meter = ConflictMeter(every=max(1, request.steps // 20))
        trainer = _trainer(plain, denoising, pixels, request)
        with mendable(), heard(noted):
            progress("aligning the projector")
            align = trainer.fit_projector(
                tuned_on,
                steps=request.align_steps,
                learning_rate=2e-3,
                batch_size=2 * request.batch_size,
                round_steps=max(1, request.align_steps // 20),
            )
            progress("tuning the encoder")
            enhance = trainer.fit_encoder(
                tuned_on,
                steps=request.steps,
                learning_rate=request.learning_rate,
                batch_size=request.batch_size,
                round_steps=max(1, request.steps // 20),
                callbacks=[meter],
            )
        tuned = trainer.export()
        progress("judging the encoder after")
        with mendable():
            after = benchmark.measure(tuned)
        if request.denoiser == "tiny" and not of_world:
            noted("the tiny denoiser knows the shapes world only; for other pictures leave --denoiser out")
        put_back(tower.model, tuned)
        _save(tower, stage / "encoder")
        report = EncoderReport(
            title=f"{Path(encoder).name or encoder} tuned by {request.loss}",
            facts=(
                f"{len(train):,} pictures to tune on",
                f"{len(held):,} held out",
                denoising.words,
                *([f"{len(pictures.classes)} classes"] if pictures.classes else []),
            ),
            before=before.values(),
            after=after.values(),
            majority={f"probe: {name}": value for name, value in before.majority.items()},
            align=align.losses,
            enhance=enhance.losses,
            loss=request.loss,
            conflicts=meter.share_of_conflicts,
            notes=notes,
            asides=_ASIDES,
            provenance=provenance(command, request.seed, time.perf_counter() - started),
        )
        (stage / "report.html").write_text(encoder_page(report), encoding="utf-8")
        write_summary(stage, _summary(request, pictures, report))
    return TuneEncoderOutcome(folder=request.output, report=report)


def _check(request: TuneEncoderRequest) -> None:
    with mendable():
        check_choice("loss", request.loss, _LOSSES)
        if request.denoiser is not None:
            check_choice("denoiser", request.denoiser, _DENOISERS)
    for name in ("denoiser_steps", "align_steps", "steps", "rank"):
        if getattr(request, name) < 1:
            raise InputError(f"{name}={getattr(request, name)} must be at least 1")
    if request.batch_size < 2:
        raise InputError(f"batch_size={request.batch_size} must be at least 2, since pictures are contrasted")
    if not 4 <= request.side <= 64:
        raise InputError(f"side={request.side} must lie between 4 and 64: a denoiser of principal components is small")
    if request.chunk is not None and request.chunk < 1:
        raise InputError(f"chunk={request.chunk} must be at least 1")
    for name in ("learning_rate", "temperature"):
        if not (math.isfinite(value := getattr(request, name)) and value > 0):
            raise InputError(f"{name}={value} must be greater than 0")
    if not 0 < request.test_size < 1:
        raise InputError(f"test_size={request.test_size} must lie in (0, 1)")
    if not 0 <= request.seed < 2**31:
        raise InputError(f"seed={request.seed} must be at least 0 and below 2^31")


def _tower(encoder: str) -> CLIPTower:
    with mendable():
        if encoder == TINY:
            return CLIPTower.from_pretrained(tiny_clip())
        if not (Path(encoder) / "config.json").is_file():
            raise InputError(f"encoder {encoder!r} is no folder of a transformers CLIP model; name one, or '{TINY}'")
        try:
            return CLIPTower.from_pretrained(encoder)
        except (RuntimeError, KeyError, AttributeError) as error:
            raise InputError(f"encoder {encoder!r} cannot be loaded: {' '.join(str(error).split())[:300]}") from error


def _sight(tower: CLIPTower) -> tuple[int, PixelNorm]:
    """The side of the pictures that a tower reads, and how it wants their pixels."""
    side = int(tower.model.config.vision_config.image_size)
    processor = tower.image_processor
    if processor is None or not getattr(processor, "do_normalize", False):
        return side, PixelNorm()
    return side, PixelNorm(tuple(processor.image_mean), tuple(processor.image_std))


def _split(count: int, request: TuneEncoderRequest) -> tuple[Tensor, Tensor]:
    order = torch.randperm(count, generator=Generator().manual_seed(request.seed))
    held = round(request.test_size * count)
    if held < 8 or count - held < 8:
        raise InputError(f"{count} pictures with test_size={request.test_size} leave a side fewer than 8; give more")
    return order[held:], order[:held]


def _benchmark(
    pictures: Pictures,
    held: Tensor,
    tower: CLIPTower,
    pixels: PixelNorm,
    request: TuneEncoderRequest,
    notice: Callable[[str], None],
) -> DetailBenchmark:
    label = None if pictures.label is None else pictures.label[held]
    if label is None and not pictures.factors:
        raise InputError(
            "there is nothing to judge by: put pictures of each class into a subfolder of its own, or give a table of "
            "details with --factors"
        )
    texts = None
    if label is None:
        notice("pictures are in no subfolders, so that nothing is known of classes: only detail is judged")
    elif len(label.unique()) < 2:
        raise InputError("held-out pictures are of one class only; give more pictures or a larger --test-size")
    else:
        texts = _class_texts(pictures, tower)
        if texts is None:
            notice("the text tower does not know all names of the classes, so that zero-shot accuracy is left out")
    if not pictures.factors:
        notice("no table of details was given (--factors), so that only classes are judged, and not what is gained")
    factors = {name: values[held] for name, values in pictures.factors.items()}
    with mendable():
        return DetailBenchmark(
            pictures.images[held], label, factors, class_texts=texts, pixels=pixels, seed=request.seed
        )


@torch.no_grad()
def _class_texts(pictures: Pictures, tower: CLIPTower) -> Tensor | None:
    """Embedded names of the classes; None where the tokenizer has no words for one."""
    names = [name.replace("_", " ").replace("-", " ") for name in pictures.classes]
    unknown = tower.tokenizer.unk_token_id
    for name in names:
        ids = tower.word_ids(name)
        # CLIP's own tokenizer spells everything, and has its end token for what is unknown.
        if not ids or (unknown is not None and unknown != tower.end_token and unknown in ids):
            return None
    try:
        return encode_texts(tower, [f"a picture of the {name}" for name in names])
    except ValueError:
        return None


def _denoising(request: TuneEncoderRequest, of_world: bool, images: Tensor) -> Denoising:
    if (request.denoiser or ("tiny" if of_world else "own")) == "tiny":
        return tiny_denoising()
    return own_denoising(images, request.side, request.denoiser_steps, request.seed)


def _trainer(
    encoder: CLIPImageEncoder, denoising: Denoising, pixels: PixelNorm, request: TuneEncoderRequest
) -> DCRTrainer:
    width = int(encoder.visual_projection.out_features)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.seed)
        projector = ConditionProjector(
            width, denoising.condition, hidden=max(width, 2 * denoising.condition), unit=denoising.unit
        )
    return DCRTrainer(
        encoder,
        projector,
        denoising.denoiser,
        denoising.autoencoder,
        DetailAugmentation(vertical_flip=request.vertical_flip),
        chunk=request.chunk,
        lora=LoRASettings(rank=request.rank, scale=float(request.rank)),
        seed=request.seed,
        stage2_loss=request.loss,  # type: ignore[arg-type]
        loss=DCRLoss(request.temperature),
        encoder_pixels=pixels,
    )


def _save(tower: CLIPTower, folder: Path) -> None:
    tower.model.save_pretrained(folder)
    tower.tokenizer.save_pretrained(folder)
    if tower.image_processor is not None:
        tower.image_processor.save_pretrained(folder)


def _summary(request: TuneEncoderRequest, pictures: Pictures, report: EncoderReport) -> dict[str, Any]:
    asked = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(request).items()}
    return {
        "request": asked,
        "classes": list(pictures.classes),
        "details": pictures.values,
        "before": dict(report.before),
        "after": dict(report.after),
        "commonest_value": dict(report.majority),
        "losses": {"align": list(report.align), "enhance": list(report.enhance)},
        "share_of_conflicts": report.conflicts,
        "notes": list(report.notes),
    }
