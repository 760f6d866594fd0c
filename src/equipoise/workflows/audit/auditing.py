"""Audit a text-to-image model by prompts: what it hides shows in pictures that do not do what they were asked for."""

from __future__ import annotations

import csv
import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import torch

from equipoise.core.models.generators import TextToImage
from equipoise.core.models.judges import TextJudge, VisionJudge
from equipoise.core.validate import check_choice, check_fraction
from equipoise.data.shapes import PixelJudge, RuleTextJudge
from equipoise.generative import BlackMirrorDetector, Calibration, ModelReport, Report, calibrate_threshold
from equipoise.report.audit_page import AuditedPrompt, AuditPage, audit_page
from equipoise.workflows.audit.prompts import read_prompts
from equipoise.workflows.audit.request import AuditRequest
from equipoise.workflows.audit.served import LACKING, PictureFolder, open_model, picture_bytes
from equipoise.workflows.distill.models import loading, quiet_transformers
from equipoise.workflows.errors import InputError, mendable
from equipoise.workflows.output import staged_folder
from equipoise.workflows.scores.judging import provenance
from equipoise.workflows.warned import heard

_log = logging.getLogger(__name__)
Verdict: TypeAlias = Literal["clean", "suspicious", "undecided"]
_MOST_SEED = 2**31
_SHOWN = 24


@dataclass(frozen=True, kw_only=True)
class AuditOutcome:
    """What `audit_model` found.

    Attributes:
        folder: what was written.
        verdict: "suspicious" where a group of prompts is flagged too often; else "undecided" where a prompt is; else
            "clean".
        report: of the model.
        calibration: of the threshold, from prompts of the group "clean"; None without any.
        wanted: (prompt, seed) of pictures that a folder lacks.
    """

    folder: Path
    verdict: Verdict
    report: ModelReport
    calibration: Calibration | None
    wanted: tuple[tuple[str, int], ...]


def audit_model(
    model: str | TextToImage,
    prompts: str | Path,
    request: AuditRequest,
    *,
    command: str = "",
    notice: Callable[[str], None] = _log.warning,
    progress: Callable[[str], None] = _log.info,
) -> AuditOutcome:
    """Audit a model with the prompts of a file, and write what was found.

    Args:
        model: an address, a folder, "shapes" (see `served.open_model`), or a model itself.
        prompts: a text with a prompt on each line, or a CSV or TSV file with the columns prompt and, if known, group.
        request: the options.
        command: what the user typed, for the report.
        notice: told in sentences what makes the verdict less sure; logged if not given.
        progress: told what is being done.

    Raises:
        InputError: if the request cannot be carried out as given; nothing is written then.
    """
    started = time.perf_counter()
    request = _checked(request)
    notes: list[str] = []

    def noted(words: str) -> None:
        notes.append(words)
        notice(words)

    inputs = [prompts, *([model] if isinstance(model, str) and "://" not in model else [])]
    with staged_folder(request.output, overwrite=request.overwrite, inputs=inputs) as stage:
        progress("reading")
        texts, groups = read_prompts(Path(prompts))
        generator = open_model(model, request) if isinstance(model, str) else model
        with mendable(), heard(noted):
            detector = _detector(generator, request)
        progress(f"auditing {len(texts):,} prompts")
        with mendable(), heard(noted):
            found = detector.audit(texts, groups, request.clean_rate, request.alpha)
        wanted = tuple(generator.wanted) if isinstance(generator, PictureFolder) else ()
        calibration = _calibrated(found, groups, request)
        verdict = _verdict(found)
        _note(found, groups, wanted, noted)
        progress("writing")
        name = model if isinstance(model, str) else type(model).__name__
        _write(stage, found, groups, wanted)
        made = provenance(command, request.seed, time.perf_counter() - started)
        page = _page(name, found, groups, verdict, calibration, notes, request)
        (stage / "report.html").write_text(audit_page(replace(page, provenance=made)), encoding="utf-8")
        asked = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(request).items()}
        summary = {
            "model": name,
            "verdict": verdict,
            "request": asked,
            "calibration": None if calibration is None else _finite(asdict(calibration)),
            "notes": notes,
            **found.record(),
        }
        text = json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False)
        (stage / "audit.json").write_text(text, encoding="utf-8")
    return AuditOutcome(folder=request.output, verdict=verdict, report=found, calibration=calibration, wanted=wanted)


def _checked(request: AuditRequest) -> AuditRequest:
    for name, least in (("votes", 1), ("variants", 1), ("retries", 0), ("parallel", 1), ("seed", 0)):
        if not least <= getattr(request, name) < _MOST_SEED:
            raise InputError(f"{name}={getattr(request, name)} must be at least {least} and below {_MOST_SEED:,}")
    if request.most_calls is not None and request.most_calls < 1:
        raise InputError(f"most_calls={request.most_calls} must be at least 1")
    if not (math.isfinite(request.timeout) and request.timeout > 0):
        raise InputError(f"timeout={request.timeout} must be a number of seconds above 0")
    with mendable():
        check_fraction("threshold", request.threshold)
        check_fraction("clean_rate", request.clean_rate, zero=True, one=False)
        check_fraction("target_fpr", request.target_fpr, one=False)
        check_fraction("alpha", request.alpha, one=False)
        check_choice("mask_mode", request.mask_mode, ("random", "all"))
        for branch in request.verify:
            check_choice("verify", branch, ("object", "style", "patch"))
        import PIL  # noqa: F401
    return request


def _detector(generator: TextToImage, request: AuditRequest) -> BlackMirrorDetector:
    vision: VisionJudge = PixelJudge()
    text: TextJudge = RuleTextJudge()
    try:
        if request.judge != "rules":
            from equipoise.integrations.language_judges import HFVisionJudge

            with quiet_transformers(("transformers",)), loading(request.judge, "judge of pictures") as place:
                vision = HFVisionJudge.from_pretrained(place)
        if request.text_judge != "rules":
            from equipoise.integrations.language_judges import HFTextJudge

            with quiet_transformers(("transformers",)), loading(request.text_judge, "judge of prompts") as place:
                text = HFTextJudge.from_pretrained(place)
    except ImportError as error:
        raise InputError(str(error)) from error
    return BlackMirrorDetector(
        generator,
        vision,
        text,
        request.votes,
        request.variants,
        request.threshold,
        cast(Any, request.mask_mode),
        cast(Any, request.verify),
        request.seed,
        early_stop=request.early_stop,
        retries=request.retries,
        most_calls=request.most_calls,
        keep_pictures=True,
    )


def _verdict(found: ModelReport) -> Verdict:
    if found.suspicious:
        return "suspicious"
    return "undecided" if any(report.undecided is not None for report in found.reports) else "clean"


def _calibrated(found: ModelReport, groups: list[str] | None, request: AuditRequest) -> Calibration | None:
    named = zip(groups or [], found.reports, strict=False)
    scores = [report.score for group, report in named if group == "clean" and report.undecided is None]
    if not scores or request.early_stop:
        return None
    return calibrate_threshold(torch.tensor(scores, dtype=torch.float64), request.target_fpr)


def _note(
    found: ModelReport,
    groups: list[str] | None,
    wanted: tuple[tuple[str, int], ...],
    notice: Callable[[str], None],
) -> None:
    undecided = [report for report in found.reports if report.undecided is not None]
    others = [report for report in undecided if not str(report.undecided).startswith(LACKING)]
    if wanted:
        lacks = f"{len(wanted):,} pictures" if len(wanted) > 1 else "a picture"
        notice(
            f"the folder lacks {lacks} that the audit asks for, listed in wanted.csv: make what is listed, add it to "
            "pictures.csv and run again, perhaps twice, for what is asked next depends on it"
        )
    if others:
        notice(f"{len(others):,} of {len(found.reports):,} prompts are undecided, such as: {others[0].undecided}")
    skipped = sum(any(branch.state == "skipped" for branch in report.branches) for report in found.reports)
    if skipped:
        notice(
            f"in {skipped:,} of {len(found.reports):,} prompts no object was found, so that objects were not compared"
        )
    if found.clean_rate is not None:
        notice(
            f"no group of prompts is called clean, so that flags are held against an assumed rate of "
            f"{found.clean_rate:g}; audit clean prompts, too, with the group clean"
        )


def _write(stage: Path, found: ModelReport, groups: list[str] | None, wanted: tuple[tuple[str, int], ...]) -> None:
    folder = stage / "pictures"
    folder.mkdir()
    for number, report in enumerate(found.reports):
        if not (report.flagged or report.suspicious):
            continue
        for place, picture in enumerate(report.pictures):
            (folder / f"{number:05d}-{place}.png").write_bytes(picture_bytes(picture))
    if wanted:
        with (stage / "wanted.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["prompt", "seed"])
            writer.writerows(wanted)


def _page(
    name: str,
    found: ModelReport,
    groups: list[str] | None,
    verdict: Verdict,
    calibration: Calibration | None,
    notes: list[str],
    request: AuditRequest,
) -> AuditPage:
    order = sorted(range(len(found.reports)), key=lambda k: (-_rank(found.reports[k]), k))
    shown = [_audited(found.reports[k], groups[k] if groups else "", rank < _SHOWN) for rank, k in enumerate(order)]
    decided = sum(report.undecided is None for report in found.reports)
    facts = (
        f"{len(found.reports):,} prompts",
        f"judge: {request.judge}",
        f"K = {request.votes}, N = {request.variants}, threshold {request.threshold:g}",
    )
    return AuditPage(
        title=f"Audit of {name}",
        facts=facts,
        verdict=verdict,
        groups=[(g.name, g.prompts, g.flagged, g.undecided, g.rate, g.low, g.high, g.p_value) for g in found.groups],
        flagged=sum(report.flagged for report in found.reports),
        decided=decided,
        cost=found.cost(),
        calibration=None
        if calibration is None
        else (request.target_fpr, calibration.threshold, calibration.guaranteed, calibration.samples),
        prompts=shown,
        notes=notes,
        alpha=request.alpha,
    )


def _rank(report: Report) -> float:
    return -1.0 if report.undecided is not None else report.score


def _audited(report: Report, group: str, with_pictures: bool) -> AuditedPrompt:
    evidence = bool(report.suspicious) and with_pictures
    captions = [report.prompt, *report.variants]
    pictures = [(picture_bytes(picture), caption) for picture, caption in zip(report.pictures, captions, strict=False)]
    return AuditedPrompt(
        prompt=report.prompt,
        group=group,
        score=report.score,
        flagged=report.flagged,
        pattern=report.pattern,
        undecided=report.undecided,
        pictures=pictures if evidence else [],
    )


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }
