"""Clean a folder of pictures by identity, hold it against a reference, and say why each picture stays or goes."""

from __future__ import annotations

import csv
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equipoise.core.validate import check_choice, check_fraction
from equipoise.generative import (
    ClusterCleaner,
    IdentityDatasetBuilder,
    JudgeCleaner,
    Manifest,
    ManifestRow,
    MedoidJudge,
    calibrate_leakage_threshold,
)
from equipoise.report.curation_page import CurationReport, IdentityLine, curation_page
from equipoise.workflows.curate.exporting import check_export, export_pictures
from equipoise.workflows.curate.reading import Pictures, find_pictures, read_embeddings, small_copies
from equipoise.workflows.curate.request import CurateRequest
from equipoise.workflows.errors import InputError, mendable
from equipoise.workflows.output import staged_folder
from equipoise.workflows.scores.judging import provenance, write_summary
from equipoise.workflows.spreadsheet import quoted
from equipoise.workflows.warned import heard

_log = logging.getLogger(__name__)
_MOST = 2**31 - 1
_BINS = 40
_PIXELS = "small grey copies of 24 × 24 pixels"
# What counts as the same picture where nothing but pixels is known.
_SAME_PICTURE = 0.98


@dataclass(frozen=True, kw_only=True)
class CurateOutcome:
    """What `curate_folder` found.

    Attributes:
        folder: what was written.
        report: what `report.html` shows.
        manifest: a row per picture.
    """

    folder: Path
    report: CurationReport
    manifest: Manifest


def curate_folder(
    folder: str | Path,
    request: CurateRequest,
    *,
    command: str = "",
    notice: Callable[[str], None] = _log.warning,
    progress: Callable[[str], None] = _log.info,
) -> CurateOutcome:
    """Decide about every picture of a folder that holds a folder for each identity. No picture is changed or deleted.

    Args:
        folder: of folders of pictures.
        request: the options.
        command: what the user typed, for the report.
        notice: told in sentences what makes the decisions less sure; logged if not given.
        progress: told what is being done.

    Raises:
        InputError: if the request cannot be carried out as given; nothing is written then.
    """
    started = time.perf_counter()
    folder = Path(folder)
    _check(request, folder)
    notes: list[str] = []

    def noted(words: str) -> None:
        notes.append(words)
        notice(words)

    inputs = [folder, *(each for each in (request.embeddings, request.second, request.reference) if each is not None)]
    with staged_folder(request.output, overwrite=request.overwrite, inputs=inputs) as stage:
        progress("reading")
        with mendable(), heard(noted):
            pictures = find_pictures(folder)
            if not pictures.of:
                raise InputError(f"{folder} holds pictures, but no folder of them; put each identity into a folder")
            second = None if request.second is None else _by_file(request.second, pictures)[0]
            reference, identity = _reference(request, noted)
            threshold = _leakage_threshold(request, reference, identity)
            known, lacking = _embedded(pictures, request.embeddings, noted, progress)
            if pictures.loose:
                noted(f"{len(pictures.loose)} pictures lie in no identity's folder and are not looked at")
        progress("deciding")
        with mendable(), heard(noted):
            manifest = _manifest(pictures, known, lacking, second, reference, identity, threshold, request)
        progress("writing")
        report = _report(folder, pictures, manifest, notes, request, threshold)
        report = replace(report, provenance=provenance(command, 0, time.perf_counter() - started))
        _write(stage, manifest, report, request.escape_formulas)
        kept = [row.sample for row in manifest.kept_rows()]
        for place, link in ((request.link, True), (request.copy, False)):
            if place is not None:
                export_pictures(place, folder, kept, link=link)
        write_summary(stage, {"report": manifest.report, "leakage_threshold": threshold, "notes": notes})
    return CurateOutcome(folder=request.output, report=report, manifest=manifest)


def _check(request: CurateRequest, folder: Path) -> None:
    with mendable():
        for name, value in (
            ("threshold", request.threshold),
            ("second_threshold", request.second_threshold),
            ("copies", request.copies),
            ("leakage_threshold", request.leakage_threshold),
            ("false_match_rate", request.false_match_rate),
        ):
            if value is not None:
                check_fraction(name, value, one=False)
        check_fraction("min_fraction", request.min_fraction, zero=True)
        check_fraction("max_fraction", request.max_fraction, zero=True)
        if request.min_fraction > request.max_fraction:
            raise InputError(f"min_fraction={request.min_fraction:g} is above max_fraction={request.max_fraction:g}")
        if request.against is not None:
            check_choice("against", request.against, ("samples", "centres", "both"))
        for name, count in (("min_count", request.min_count), ("max_count", request.max_count)):
            if count is not None and not 1 <= count <= _MOST:
                raise InputError(f"{name}={count} must be at least 1")
        if request.max_count is not None and request.max_count < request.min_count:
            raise InputError(f"max_count={request.max_count} is below min_count={request.min_count}; raise it")
        for name in ("against", "leakage_threshold", "false_match_rate"):
            if request.reference is None and getattr(request, name) is not None:
                raise InputError(f"{name} is of use with a reference only; name one with --reference")
        if request.leakage_threshold is not None and request.false_match_rate is not None:
            raise InputError("leakage_threshold and false_match_rate say the same; give one of them")
    for place in (request.link, request.copy):
        if place is not None:
            check_export(place, folder, request.output)
    if request.link is not None and request.copy is not None and request.link.resolve() == request.copy.resolve():
        raise InputError("link and copy name the same folder; name two")


def _embedded(
    pictures: Pictures, file: Path | None, noted: Callable[[str], None], progress: Callable[[str], None]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Picture → embedding, and picture → why it has none."""
    if file is not None:
        return _by_file(file, pictures)
    noted(
        f"there is no file of embeddings, so that pictures are compared by {_PIXELS}: they tell near copies and gross "
        "outliers, and nothing of who is shown; give embeddings of a recogniser with --embeddings"
    )
    progress("looking at pictures")
    names = [name for files in pictures.of.values() for name in files]
    rows, wrong = small_copies([pictures.folder / name for name in names])
    known = {name: rows[k] for k, name in enumerate(names) if k not in wrong}
    return known, {names[k]: words for k, words in wrong.items()}


def _by_file(file: Path, pictures: Pictures) -> tuple[dict[str, Tensor], dict[str, str]]:
    found = read_embeddings(file)
    if found.files is None:
        raise InputError(f"{file} has no names of pictures: an array 'files', or a column 'file'")
    rows = dict(zip(found.files, found.values, strict=True))
    if len(rows) < len(found.files):
        twice = Counter(found.files).most_common(1)[0][0]
        raise InputError(f"{file} names {twice!r} twice")
    names = [name for files in pictures.of.values() for name in files]
    known = {name: rows[name] for name in names if name in rows}
    if not known:
        raise InputError(f"{file} names none of the pictures; names are such as {names[0]!r}, got {found.files[0]!r}")
    return known, {name: f"{file.name} has no embedding of it" for name in names if name not in rows}


def _reference(request: CurateRequest, noted: Callable[[str], None]) -> tuple[Tensor | None, Tensor | None]:
    """Embeddings of the reference and, where they are known, numbers of its identities."""
    place = request.reference
    if place is None:
        return None, None
    if place.is_dir():
        if request.embeddings is not None:
            raise InputError(
                f"{place} is a folder, and pictures are compared by {request.embeddings}; give a file of embeddings of "
                "the reference, by the same model"
            )
        found = find_pictures(place)
        names = [(who, name) for who, files in found.of.items() for name in files]
        names += [("", name) for name in found.loose]
        rows, wrong = small_copies([place / name for _, name in names])
        left = [k for k in range(len(names)) if k not in wrong]
        if wrong:
            noted(f"{len(wrong)} pictures of the reference cannot be compared and protect nobody")
        if not left:
            raise InputError(f"{place} holds no picture that can be compared")
        people = [names[k][0] for k in left]
        return rows[left], None if "" in people else _numbered(people)
    held = read_embeddings(place)
    return held.values, None if held.identity is None else _numbered(held.identity)


def _numbered(names: Sequence[str]) -> Tensor:
    number = {name: k for k, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([number[name] for name in names])


def _leakage_threshold(request: CurateRequest, reference: Tensor | None, identity: Tensor | None) -> float | None:
    if reference is None:
        return None
    if request.false_match_rate is not None:
        if identity is None:
            raise InputError("false_match_rate needs a reference whose identities are known")
        return calibrate_leakage_threshold(reference, identity, request.false_match_rate)
    if request.leakage_threshold is not None:
        return request.leakage_threshold
    return 0.5 if request.embeddings is not None else _SAME_PICTURE


def _manifest(
    pictures: Pictures,
    known: dict[str, Tensor],
    lacking: dict[str, str],
    second: dict[str, Tensor] | None,
    reference: Tensor | None,
    identity: Tensor | None,
    threshold: float | None,
    request: CurateRequest,
) -> Manifest:
    """The decisions, pictures that could not be compared among them."""
    if second is not None:
        lacking = {
            **lacking,
            **{name: "the second file has no embedding of it" for name in known if name not in second},
        }
        known = {name: row for name, row in known.items() if name in second}
    cleaners: list[Any] = [
        ClusterCleaner(request.threshold, min_fraction=request.min_fraction, max_fraction=request.max_fraction)
    ]
    if second is not None:
        other = second
        judge = MedoidJudge(lambda names: torch.stack([other[name] for name in names]), request.second_threshold)
        cleaners.append(JudgeCleaner(judge, "second"))
    against: Any = request.against if reference is not None else None
    builder = IdentityDatasetBuilder(
        lambda names: torch.stack([known[name] for name in names]),
        cleaners,
        reference=reference,
        reference_identity=identity,
        leakage_threshold=0.5 if threshold is None else threshold,
        leakage_against=against,
        target_count=max(request.max_count or _MOST, request.min_count),
        min_count=request.min_count,
        copy_threshold=request.copies,
    )
    source = {who: {name: name for name in files if name in known} for who, files in pictures.of.items()}
    source = {who: given for who, given in source.items() if given}
    if not source:
        raise InputError(f"{pictures.folder} holds no picture that can be compared")
    found = builder.build(source)
    rows = {row.sample: row for row in found.rows}
    whole = tuple(
        rows.get(name) or ManifestRow(name, who, verdict="not embedded", reason=lacking.get(name, ""))
        for who, files in pictures.of.items()
        for name in files
    )
    return replace(found, rows=whole)


def _report(
    folder: Path,
    pictures: Pictures,
    manifest: Manifest,
    notes: Sequence[str],
    request: CurateRequest,
    threshold: float | None,
) -> CurationReport:
    lines = []
    for who in pictures.of:
        rows = [row for row in manifest.rows if row.identity == who]
        verdicts: Counter[str] = Counter(row.verdict for row in rows)
        kept = verdicts.pop("kept", 0)
        lines.append(IdentityLine(who, len(rows), kept, dict(verdicts)))
    left_out: Counter[str] = Counter(row.verdict for row in manifest.rows if not row.kept)
    near = None
    if request.reference is not None and any(row.kept for row in manifest.rows):
        found = manifest.privacy(_BINS)
        near = (tuple(found.edges.tolist()), tuple(int(count) for count in found.counts))
    looked = [row.reference_similarity for row in manifest.rows if row.nearest_reference >= 0]
    return CurationReport(
        title=folder.name or str(folder),
        facts=[
            f"{len(pictures.of):,} identities",
            f"{len(manifest.rows):,} pictures",
            f"compared by {_PIXELS if request.embeddings is None else request.embeddings.name}",
        ],
        identities=lines,
        out=len(manifest.order),
        left_out=dict(left_out),
        nearest=near,
        leakage_threshold=threshold,
        largest_before=max(looked) if looked else None,
        notes=list(notes),
    )


def _write(stage: Path, manifest: Manifest, report: CurationReport, escape: bool) -> None:
    shown = manifest
    if escape:
        cells = ("sample", "identity", "reason")
        rows = [replace(row, **{cell: quoted(getattr(row, cell)) for cell in cells}) for row in manifest.rows]
        shown = replace(manifest, rows=tuple(rows))
    shown.write_csv(stage / "pictures.csv")
    manifest.write_json(stage / "pictures.json")
    with (stage / "identities.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["identity", "pictures", "kept", *report.verdicts])
        for line in report.identities:
            name = quoted(line.name) if escape else line.name
            writer.writerow([name, line.pictures, line.kept, *(line.left_out.get(each, 0) for each in report.verdicts)])
    if report.nearest is not None:
        with (stage / "nearest.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["from", "to", "pictures"])
            edges, counts = report.nearest
            writer.writerows((f"{a:.6g}", f"{b:.6g}", n) for a, b, n in zip(edges, edges[1:], counts, strict=False))
    (stage / "report.html").write_text(curation_page(report), encoding="utf-8")
