"""Balance what neutral prompts of a pipeline show, and judge pictures before and after."""

from __future__ import annotations

import csv
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from equipoise.core.models.generators import TextToImage
from equipoise.core.models.two_tower import encode_texts
from equipoise.core.validate import check_fraction
from equipoise.generative import (
    AttributeBias,
    ConceptReport,
    FairPrompts,
    FairStep,
    LightFairDebiaser,
    QualityGap,
    embed_pictures,
    kernel_inception_distance,
)
from equipoise.generative.fairness.balance import log_shares
from equipoise.report.fairness_page import ConceptRow, FairnessReport, fairness_page
from equipoise.report.pictures import inline
from equipoise.workflows.debias.pipelines import Subject, load_subject
from equipoise.workflows.debias.request import DebiasRequest
from equipoise.workflows.debias.sheet import write_sheet
from equipoise.workflows.distill.models import quiet_transformers
from equipoise.workflows.errors import InputError, mendable
from equipoise.workflows.output import staged_folder
from equipoise.workflows.scores.judging import provenance, write_summary
from equipoise.workflows.warned import heard

_log = logging.getLogger(__name__)
_MOST, _BATCH = 100_000, 64
# Where pictures to judge begin, so that none has the noise of a reference.
_JUDGED_SEED = 500_000_000


@dataclass(frozen=True, kw_only=True)
class DebiasOutcome:
    """What `debias_pipeline` found.

    Attributes:
        folder: what was written.
        report: what `report.html` shows.
        history: the terms of the loss, step by step.
        texts: what the text side says of every concept.
    """

    folder: Path
    report: FairnessReport
    history: Sequence[FairStep]
    texts: Sequence[ConceptReport]


@dataclass(frozen=True)
class _Judged:
    """Pictures of some concepts, and what was seen in them."""

    pictures: list[Tensor]
    features: list[Tensor]
    counts: Tensor
    bias: Tensor
    quality: Tensor
    gap: Tensor


def debias_pipeline(
    pipeline: str,
    request: DebiasRequest,
    *,
    command: str = "",
    notice: Callable[[str], None] = _log.warning,
    progress: Callable[[str], None] = _log.info,
) -> DebiasOutcome:
    """Train an adapter of a pipeline's text encoder and write it, with pictures before and after.

    Args:
        pipeline: "shapes", or a folder of diffusers.
        request: the options.
        command: what the user typed, for the report.
        notice: told in sentences what makes the numbers less sure; logged if not given.
        progress: told what is being done.

    Raises:
        InputError: if the request cannot be carried out as given; nothing is written then.
    """
    started = time.perf_counter()
    attributes = _checked(request)
    inputs = [path for path in (pipeline, request.clip) if path is not None and Path(path).exists()]
    notes: list[str] = []

    def noted(words: str) -> None:
        if words not in notes:
            notes.append(words)
            notice(words)

    with (
        staged_folder(request.output, overwrite=request.overwrite, inputs=inputs) as stage,
        quiet_transformers(("transformers",)),
    ):
        with mendable():
            # Wrong prompts are told before a model is loaded.
            asked = FairPrompts((*request.concept, *request.unseen), attributes, request.template or ("{}",))
            if request.target is not None:
                log_shares(request.target, len(asked.values))
            subject = load_subject(pipeline, request, progress)
        debiaser = _debiaser(subject, attributes, request)
        prompts = replace(debiaser.prompts, concepts=(*request.concept, *request.unseen))
        progress(f"drawing {request.references} pictures for each of {len(prompts.values)} values")
        with mendable():
            debiaser.collect_references(request.references)
        progress("training the adapter")
        with heard(noted):
            history = debiaser.fit()
        debiaser.save_adapter(stage / "adapter")
        texts = debiaser.report(request.unseen, request.references)
        progress("drawing pictures of the original")
        before = _judged(subject, subject.original, prompts, request)
        progress("drawing pictures of the debiased pipeline")
        after = _judged(subject, subject.debiased(stage / "adapter", debiaser.merged_encoder()), prompts, request)
        write_sheet(stage / "sheet.png", prompts.concepts, before.pictures, after.pictures)
        rows = _rows(request, prompts, before, after)
        _write_counts(stage / "counts.csv", prompts, {"before": before.counts, "after": after.counts})
        if request.pictures < 30:
            noted(f"{request.pictures} pictures of a concept say little of shares; take more with --pictures")
        report = FairnessReport(
            title=f"Neutral prompts of {subject.name}, balanced",
            facts=(
                f"values: {', '.join(prompts.values)}",
                f"concepts balanced: {len(request.concept)}, others: {len(request.unseen)}",
                f"{request.references} references of each value, {request.pictures} pictures judged",
                f"the debiased text is read in the last {request.switch:.0%} of the way",
            ),
            values=prompts.values,
            target=request.target or tuple(1 / len(prompts.values) for _ in prompts.values),
            rows=rows,
            sheet=inline(stage / "sheet.png"),
            notes=tuple(notes),
            pictures=request.pictures,
            provenance=provenance(command, request.seed, time.perf_counter() - started),
        )
        (stage / "report.html").write_text(fairness_page(report), encoding="utf-8")
        write_summary(stage, _summary(request, subject, report, history, texts))
    return DebiasOutcome(folder=request.output, report=report, history=history, texts=texts)


def _checked(request: DebiasRequest) -> Mapping[str, Sequence[str]]:
    """The attributes of a request, all else checked that can be before anything is loaded."""
    if not request.attribute:
        raise InputError("name an attribute and its values: --attribute gender=female,male")
    if not request.concept:
        raise InputError("name what neutral prompts are about: --concept doctor")
    for name in ("references", "rank", "steps", "pictures", "sampling_steps"):
        least = 2 if name == "pictures" else 1
        if not least <= getattr(request, name) <= _MOST:
            raise InputError(f"{name}={getattr(request, name)} must be at least {least} and at most {_MOST:,}")
    for name in ("lambda_q", "pull", "keep", "guidance"):
        if not (math.isfinite(getattr(request, name)) and getattr(request, name) >= 0):
            raise InputError(f"{name}={getattr(request, name)} must be a number of at least 0")
    if request.learning_rate is not None and not 0 < request.learning_rate < 1:
        raise InputError(f"learning_rate={request.learning_rate} must lie between 0 and 1")
    if not 0 <= request.seed < 1000:
        raise InputError(f"seed={request.seed} must lie between 0 and 999")
    with mendable():
        check_fraction("switch", request.switch, zero=True)
    attributes: dict[str, tuple[str, ...]] = {}
    for spec in request.attribute:
        name, equals, values = spec.partition("=")
        found = tuple(value.strip() for value in values.split(","))
        if not (name.strip() and equals and all(found) and len(found) > 1):
            raise InputError(f"--attribute {spec!r} must read NAME=value1,value2")
        if name.strip() in attributes:
            raise InputError(f"--attribute {name.strip()} is given twice; put all its values behind one")
        attributes[name.strip()] = found
    return attributes


def _debiaser(subject: Subject, attributes: Mapping[str, Sequence[str]], request: DebiasRequest) -> LightFairDebiaser:
    with mendable():
        return LightFairDebiaser(
            subject.tower,
            subject.original,
            request.concept,
            attributes,
            templates=request.template or subject.templates,
            keep_texts=request.keep_text or subject.keep_texts,
            target=request.target,
            rank=request.rank,
            lambda_q=request.lambda_q,
            pull=request.pull,
            keep=request.keep,
            steps=request.steps,
            learning_rate=request.learning_rate or subject.learning_rate,
            pixels=subject.pixels,
            seed=request.seed,
        )


@torch.no_grad()
def _judged(subject: Subject, draw: TextToImage, prompts: FairPrompts, request: DebiasRequest) -> _Judged:
    """Pictures of the first template, classified by the original CLIP model and its prompts that name a value."""
    count, values = len(prompts.concepts), len(prompts.values)
    bias, gap = AttributeBias(count, values), QualityGap(count, values)
    pictures, features = [], []
    for place, concept in enumerate(prompts.concepts):
        asked = [prompts.neutral(concept)[0]] * request.pictures
        seeds = [_JUDGED_SEED + request.seed * 1_000_000 + k for k in range(request.pictures)]
        drawn = [draw(asked[k : k + _BATCH], seeds[k : k + _BATCH]) for k in range(0, len(asked), _BATCH)]
        pictures.append(torch.cat(drawn))
        features.append(embed_pictures(subject.tower, pictures[-1], asked, pixels=subject.pixels).cpu())  # type: ignore[arg-type]
        named = torch.stack([_mean_text(subject, prompts.naming(concept, value)) for value in prompts.values])
        cosines = features[-1] @ named.T
        bias.update(cosines.argmax(1), torch.full((len(asked),), place))
        gap.update(cosines.amax(1), cosines.argmax(1), torch.full((len(asked),), place))
    with heard(lambda words: None):
        gaps = gap.compute()["per_prompt"].reshape(-1)
    quality = gap.sums.sum(1) / gap.counts.sum(1)
    return _Judged(pictures, features, bias.counts, bias.compute()["per_prompt"].reshape(-1), quality, gaps)


def _mean_text(subject: Subject, texts: Sequence[str]) -> Tensor:
    mean = encode_texts(subject.tower, texts).float().mean(0).cpu()  # type: ignore[arg-type]
    return mean / mean.norm()


def _rows(request: DebiasRequest, prompts: FairPrompts, before: _Judged, after: _Judged) -> tuple[ConceptRow, ...]:
    rows = []
    for place, concept in enumerate(prompts.concepts):
        pair = (before, after)
        rows.append(
            ConceptRow(
                concept,
                concept in request.concept,
                shares=tuple(tuple((each.counts[place] / each.counts[place].sum()).tolist()) for each in pair),
                bias=tuple(float(each.bias[place]) for each in pair),
                quality=tuple(float(each.quality[place]) for each in pair),
                gap=tuple(float(each.gap[place]) for each in pair),
                moved=float(kernel_inception_distance(after.features[place], before.features[place])),
            )
        )
    return tuple(rows)


def _write_counts(path: Path, prompts: FairPrompts, counts: Mapping[str, Tensor]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["concept", "when", *prompts.values])
        for place, concept in enumerate(prompts.concepts):
            writer.writerows([concept, when, *each[place].tolist()] for when, each in counts.items())


def _summary(
    request: DebiasRequest,
    subject: Subject,
    report: FairnessReport,
    history: Sequence[FairStep],
    texts: Sequence[ConceptReport],
) -> dict[str, object]:
    return {
        "pipeline": subject.name,
        "values": report.values,
        "target": report.target,
        "switch": request.switch,
        "concepts": report.rows,
        "mean_bias": {"before": report.mean_bias(0), "after": report.mean_bias(1)},
        "text_side": texts,
        "training": {"first": history[0]._asdict(), "last": history[-1]._asdict(), "steps": len(history)},
        "provenance": report.provenance,
    }
