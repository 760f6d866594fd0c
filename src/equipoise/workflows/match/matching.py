"""Judge how well embeddings of two modalities match: 1:N matching, verification and retrieval, in both directions."""

from __future__ import annotations

import csv
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from torch import Tensor

from equipoise.core.curves.intervals import Interval
from equipoise.core.validate import check_choice, check_fraction
from equipoise.multimodal import AssociationScores, association_scores
from equipoise.multimodal.association.matching import Ties
from equipoise.report.match_page import MatchReport, MatchRow, match_page
from equipoise.workflows.errors import InputError, mendable
from equipoise.workflows.match.reading import Modalities, Modality, read_modalities
from equipoise.workflows.match.request import MatchRequest
from equipoise.workflows.output import staged_folder
from equipoise.workflows.scores.judging import provenance, write_summary

_log = logging.getLogger(__name__)
_ANY, _WITHIN = "any candidates", "candidates of the own group"
_FEW = 10
_MOST_CANDIDATES = 1000


@dataclass(frozen=True, kw_only=True)
class MatchOutcome:
    """What `match_embeddings` found.

    Attributes:
        folder: what was written.
        report: what `report.html` shows.
        scores: (whose negatives, direction) → figures.
    """

    folder: Path
    report: MatchReport
    scores: dict[tuple[str, str], AssociationScores]


def match_embeddings(
    first: str | Path,
    second: str | Path,
    request: MatchRequest,
    *,
    command: str = "",
    notice: Callable[[str], None] = _log.warning,
    progress: Callable[[str], None] = _log.info,
) -> MatchOutcome:
    """Write how well the embeddings of two files match, in both directions, for all and by group.

    Args:
        first: CSV, TSV or Parquet with a column for each number of the embedding and one of identities, or .npz with
            the arrays "embeddings" (n, d) and identities (n,).
        second: the same of the other modality, in the same space.
        request: the options.
        command: what the user typed, for the report.
        notice: told in sentences what makes the numbers less sure; logged if not given.
        progress: told what is being done.

    Raises:
        InputError: if the request cannot be carried out as given; nothing is written then.
    """
    started = time.perf_counter()
    _check(request)
    with staged_folder(request.output, overwrite=request.overwrite, inputs=[first, second]) as stage:
        progress("reading")
        data = read_modalities(Path(first), Path(second), request.identity, request.group)
        scores, notes = _judged(data, request, progress)
        for words in notes:
            notice(words)
        report = MatchReport(
            title=f"{data.first.name} and {data.second.name}",
            facts=(
                f"{len(data.first.identity):,} and {len(data.second.identity):,} rows",
                f"{data.first.embeddings.shape[1]} numbers",
                f"{_shared(data):,} identities in both",
            ),
            rows=[
                MatchRow(
                    negatives, direction, found.queries, found.matching, found.auc, found.retrieval, found.prevalence
                )
                for (negatives, direction), found in scores.items()
            ],
            notes=notes,
            provenance=provenance(command, request.seed, time.perf_counter() - started),
        )
        _write_matching(stage / "matching.csv", scores)
        _write_scores(stage / "scores.csv", scores)
        (stage / "report.html").write_text(match_page(report), encoding="utf-8")
        write_summary(stage, summary(request, scores, notes))
    return MatchOutcome(folder=request.output, report=report, scores=scores)


def summary(
    request: MatchRequest, scores: dict[tuple[str, str], AssociationScores], notes: Sequence[str]
) -> dict[str, Any]:
    """What `metrics.json` holds."""
    return {
        "identity": request.identity,
        "group": request.group,
        "ties": request.ties,
        "confidence": request.confidence,
        "notes": list(notes),
        "scores": [
            {
                "negatives": negatives,
                "direction": direction,
                "queries": found.queries,
                "identities": found.identities,
                "positive_pairs": found.pairs,
                "prevalence": found.prevalence,
                "matching": {f"1:{n}": value for n, value in found.matching.items()},
                "verification_auc": found.auc,
                "retrieval_map": found.retrieval,
            }
            for (negatives, direction), found in scores.items()
        ],
    }


def _check(request: MatchRequest) -> None:
    with mendable():
        check_choice("ties", request.ties, get_args(Ties))
        check_fraction("confidence", request.confidence, one=False)
    if not 2 <= request.most <= _MOST_CANDIDATES:
        raise InputError(f"most={request.most} must lie between 2 and {_MOST_CANDIDATES} candidates")
    if request.resamples < 0:
        raise InputError(f"resamples={request.resamples} must be at least 0")
    if request.seed < 0:
        raise InputError(f"seed={request.seed} must be at least 0")
    if request.group == request.identity:
        raise InputError(f"--group and --identity both name {request.identity!r}; a group holds several identities")


def _judged(
    data: Modalities, request: MatchRequest, progress: Callable[[str], None]
) -> tuple[dict[tuple[str, str], AssociationScores], list[str]]:
    scores: dict[tuple[str, str], AssociationScores] = {}
    notes: list[str] = []
    for query, gallery in ((data.first, data.second), (data.second, data.first)):
        direction = f"{query.name} → {gallery.name}"
        progress(direction)
        with mendable():
            scores[_ANY, direction] = _scores(query, gallery, request)
            if query.group is not None and gallery.group is not None:
                scores[_WITHIN, direction] = _scores(query, gallery, request, query.group, gallery.group)
        for code, name in enumerate(data.groups):
            sides = [_part(side, side.group == code) for side in (query, gallery) if side.group is not None]
            label = f"{request.group} {name}"
            try:
                scores[label, direction] = _scores(sides[0], sides[1], request)
            except ValueError:
                notes.append(f"{label}, {direction}: there is nothing to compare, so it is left out.")
    order = {name: place for place, name in enumerate(dict.fromkeys(key[0] for key in scores))}
    scores = dict(sorted(scores.items(), key=lambda item: order[item[0][0]]))
    for (negatives, direction), found in scores.items():
        if found.identities < _FEW:
            notes.append(
                f"{negatives}, {direction}: {found.identities} identities are too few for the interval to be relied on."
            )
        missing = [n for n, value in found.matching.items() if math.isnan(value.estimate)]
        if missing:
            notes.append(
                f"{negatives}, {direction}: no query has enough other candidates for lists of {missing[0]} or more."
            )
    return scores, notes


def _scores(
    query: Modality,
    gallery: Modality,
    request: MatchRequest,
    query_group: Tensor | None = None,
    gallery_group: Tensor | None = None,
) -> AssociationScores:
    if not len(query.identity) or not len(gallery.identity):
        raise ValueError("there are no rows")
    dtype = max((query.embeddings.dtype, gallery.embeddings.dtype), key=lambda each: each.itemsize)
    return association_scores(
        query.embeddings.to(dtype),
        gallery.embeddings.to(dtype),
        query.identity,
        gallery.identity,
        query_group,
        gallery_group,
        n_way=tuple(range(2, request.most + 1)),
        ties=cast(Ties, request.ties),
        resamples=request.resamples,
        confidence=request.confidence,
        seed=request.seed,
    )


def _part(side: Modality, rows: Tensor) -> Modality:
    return Modality(side.name, side.embeddings[rows], side.identity[rows], None)


def _shared(data: Modalities) -> int:
    return len(set(data.first.identity.tolist()) & set(data.second.identity.tolist()))


def _cells(value: Interval) -> list[str]:
    return [f"{each:.6g}" if math.isfinite(each) else "" for each in (value.estimate, value.low, value.high)]


def _write_matching(path: Path, scores: dict[tuple[str, str], AssociationScores]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["negatives", "direction", "candidates", "accuracy", "low", "high", "chance"])
        for key, found in scores.items():
            writer.writerows([*key, n, *_cells(value), f"{1 / n:.6g}"] for n, value in found.matching.items())


def _write_scores(path: Path, scores: dict[tuple[str, str], AssociationScores]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["negatives", "direction", "measure", "value", "low", "high", "chance", "queries"])
        for key, found in scores.items():
            writer.writerow([*key, "verification AUC", *_cells(found.auc), "0.5", found.queries])
            chance = f"{found.prevalence:.6g}"
            writer.writerow([*key, "retrieval mAP", *_cells(found.retrieval), chance, found.queries])
