"""Rank what a crowd has compared, say how sure that is, rank for each annotator, and name those to look at."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.core.curves.intervals import Interval
from equipoise.core.validate import check_choice, check_fraction
from equipoise.data import Comparisons, read_comparisons
from equipoise.report.crowd_page import CrowdReport, RankedItem, Suspect, crowd_page
from equipoise.report.pictures import draw_path
from equipoise.workflows.errors import InputError, mendable
from equipoise.workflows.output import check_checkpoints, staged_folder
from equipoise.workflows.rank.consensus import METHODS, Consensus, find_consensus
from equipoise.workflows.rank.evidence import Annotator, look_at
from equipoise.workflows.rank.personal import Personal, find_personal
from equipoise.workflows.rank.request import RankRequest
from equipoise.workflows.rank.writing import (
    Names,
    write_annotators,
    write_consensus,
    write_individual,
    write_path,
)
from equipoise.workflows.scores.judging import provenance, write_summary
from equipoise.workflows.warned import heard

_log = logging.getLogger(__name__)
_METRICS = ("likelihood", "micro", "macro")
_MOST, _MOST_SEED = 2**31 - 1, 2**63 - 1
_NAMED, _MARKED, _OWN = 8, 8, 6
# What the rooms warn of, and is said here in other words.
_SAID = ("the items fall into", "users made fewer than")


@dataclass(frozen=True, kw_only=True)
class RankOutcome:
    """What `rank_items` found.

    Attributes:
        folder: what was written.
        report: what `report.html` shows.
        consensus: rankings of everybody, by method.
        annotators: everybody who answered, those with most reasons to be looked at first.
    """

    folder: Path
    report: CrowdReport
    consensus: Consensus
    annotators: Sequence[Annotator]


def rank_items(
    comparisons: str | Path,
    request: RankRequest,
    *,
    command: str = "",
    notice: Callable[[str], None] = _log.warning,
    progress: Callable[[str], None] = _log.info,
    understood: Callable[[str], None] = _log.info,
) -> RankOutcome:
    """Rank the items of a table of comparisons, for all and for each annotator.

    Args:
        comparisons: a file that `equipoise.data.read_comparisons` reads.
        request: the options.
        command: what the user typed, for the report.
        notice: told in sentences what makes the numbers less sure; logged if not given.
        progress: told what is being done.
        understood: told how columns and labels were read.

    Raises:
        InputError: if the request cannot be carried out as given; nothing is written then.
    """
    started = time.perf_counter()
    request = _checked(request)
    notes: list[str] = []

    def noted(words: str) -> None:
        if words not in notes:
            notes.append(words)
            notice(words)

    with staged_folder(request.output, overwrite=request.overwrite, inputs=[comparisons]) as stage:
        progress("reading")
        with mendable():
            said, read = _read(comparisons, request)
        for words in read:
            understood(words)
        with mendable(), heard(noted, _SAID):
            personal = find_personal(said, request, noted, progress)
            found = find_consensus(said, request, noted, progress)
        _say_what_is_apart(said, found, noted)
        progress("looking at annotators")
        people_names = said.annotator_names or ()
        with heard(noted, _SAID):
            people = look_at(said, people_names, personal, request.ridge, request.seed)
        progress("writing")
        items = Names(said.item_names or (), request.escape_formulas)
        names = Names(people_names, request.escape_formulas)
        write_consensus(stage / "consensus.csv", found, items)
        write_individual(stage / "individual.csv", personal, said, names, items)
        write_annotators(stage / "annotators.csv", people, request.escape_formulas)
        write_path(stage / "path.csv", personal)
        picture = _draw(stage / "path.png", personal, people, people_names)
        _save(stage / "model", found, personal)
        report = _report(said, read, found, personal, people, notes, request, picture)
        report = replace(report, provenance=provenance(command, request.seed, time.perf_counter() - started))
        (stage / "report.html").write_text(crowd_page(report), encoding="utf-8")
        write_summary(stage, _summary(request, said, report, found, personal, people))
    return RankOutcome(folder=request.output, report=report, consensus=found, annotators=people)


def _checked(request: RankRequest) -> RankRequest:
    request = replace(request, method=request.method.replace("_", "-"))
    for name, least in (("resamples", 2), ("folds", 2), ("num_times", 2), ("min_comparisons", 1)):
        if not least <= getattr(request, name) <= _MOST:
            raise InputError(f"{name}={getattr(request, name)} must be at least {least} and at most {_MOST:,}")
    if not 0 <= request.seed <= _MOST_SEED:
        raise InputError(f"seed={request.seed} must be at least 0 and at most {_MOST_SEED}")
    if not (math.isfinite(request.ridge) and request.ridge >= 0):
        raise InputError(f"ridge={request.ridge} must be a number of at least 0")
    if not (math.isfinite(request.time_ratio) and request.time_ratio > 1):
        raise InputError(f"time_ratio={request.time_ratio} must be greater than 1")
    with mendable():
        check_choice("method", request.method, METHODS)
        check_choice("metric", request.metric, _METRICS)
        if request.zero is not None:
            check_choice("zero", request.zero, ("tie", "right"))
        check_fraction("confidence", request.confidence, one=False)
        import matplotlib  # noqa: F401
    check_checkpoints(request.output, request.checkpoints)
    return request


def _read(path: str | Path, request: RankRequest) -> tuple[Comparisons, tuple[str, ...]]:
    columns = {name: getattr(request, name) for name in ("annotator", "left", "right", "label", "weight", "zero")}
    try:
        said, read = read_comparisons(path, **columns)
    except ValueError as error:
        if "zero='tie' or zero='right'" in str(error):
            raise InputError(str(error).replace("zero='tie' or zero='right'", "--zero tie or --zero right")) from error
        raise
    if "annotator" not in {words.split(":")[0] for words in read}:
        read = (*read, "no column of annotators: all answers are taken for those of one")
    return said, read


def _say_what_is_apart(said: Comparisons, found: Consensus, notice: Callable[[str], None]) -> None:
    names, ranker = said.item_names or (), found.ranker
    linked = ranker.component_[ranker.compared_]
    parts = linked.unique().tolist()
    if len(parts) > 1:
        shown = [
            _listed([names[item] for item in ((ranker.component_ == part) & ranker.compared_).nonzero()[:, 0].tolist()])
            for part in parts[1:4]
        ]
        more = f"; and {len(parts) - 4} more" if len(parts) > 4 else ""
        notice(
            f"the items fall into {len(parts)} components without a comparison between them, beside the largest: "
            f"{'; '.join(shown)}{more}; scores and ranks compare within a component"
        )
    for groups, words in ((ranker.never_lost_, "never lost to"), (ranker.never_won_, "never won against")):
        if groups:
            members = [names[item] for group in groups for item in group]
            notice(
                f"{_listed(members)} {words} the rest of the component, so that only the ridge holds the scores of "
                "bradley-terry and thurstone together"
            )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _draw(path: Path, personal: Personal, people: Sequence[Annotator], names: Sequence[str]) -> Path | None:
    if personal.ranker is None:
        return None
    whole, found = personal.ranker.path_, personal.ranker.cross_validation_
    row = {names[person]: place for place, person in enumerate(personal.people)}
    marked = [(row[one.name], one.name) for one in people if one.reasons and one.name in row][:_MARKED]
    losses = {name: values.mean(0).numpy() for name, values in found.losses.items()}
    lengths = whole.gamma_norm.double().numpy()
    draw_path(path, whole.times.numpy(), lengths, marked, personal.until, {str(k): v for k, v in losses.items()})
    return path


def _save(folder: Path, found: Consensus, personal: Personal) -> None:
    folder.mkdir()
    found.ranker.save(folder / "consensus.json")
    if personal.together is not None:
        personal.together.save(folder / "together.json")
    if personal.ranker is not None:
        personal.ranker.save(folder / "path")


def _report(
    said: Comparisons,
    read: Sequence[str],
    found: Consensus,
    personal: Personal,
    people: Sequence[Annotator],
    notes: Sequence[str],
    request: RankRequest,
    picture: Path | None,
) -> CrowdReport:
    items, best = ranked_items(said, found), found.ranker
    suspects = [one for one in people if one.reasons]
    facts = (
        f"{int(best.compared_.sum()):,} items",
        f"{len(people):,} annotators" if len(people) != 1 else "one annotator",
        f"{len(said):,} answers",
        f"{said.ties:,} ties",
    )
    inconsistency = found.rankers["hodge"].inconsistency_ or 0.0
    return CrowdReport(
        title=f"{len(items):,} items ranked by {len(people):,} {'annotator' if len(people) == 1 else 'annotators'}",
        facts=facts,
        method=found.chosen,
        items=items,
        groups=None if found.intervals is None else len(found.intervals.groups),
        accuracy=found.accuracy,
        agreement=found.agreement,
        inconsistency=inconsistency,
        suspects=[_suspect(one) for one in suspects],
        annotators=len(people),
        read=read,
        path=picture,
        path_words=_path_words(personal, len(people)),
        own=_own(personal, said),
        notes=list(notes),
        confidence=request.confidence,
    )


def ranked_items(said: Comparisons, found: Consensus) -> list[RankedItem]:
    """The items that were compared, by component and rank."""
    ranker, drawn, names = found.ranker, found.intervals, said.item_names or ()
    ranks = {name: one.rank().tolist() for name, one in found.rankers.items()}
    group = {item: number for number, members in enumerate(drawn.groups if drawn else (), start=1) for item in members}
    rows = []
    for item in ranker.compared_.nonzero()[:, 0].tolist():
        score = float(ranker.scores_[item])
        ends = (math.nan, math.nan) if drawn is None else (float(drawn.low[item]), float(drawn.high[item]))
        rows.append(
            RankedItem(
                name=names[item],
                component=int(ranker.component_[item]) + 1,
                rank=ranks[found.chosen][item],
                score=Interval(score, *ends),
                standard_error=math.nan if drawn is None else float(drawn.standard_error[item]),
                ranks=None if drawn is None else (int(drawn.rank_low[item]), int(drawn.rank_high[item])),
                group=group.get(item),
                others={name: values[item] for name, values in ranks.items() if name != found.chosen},
            )
        )
    return sorted(rows, key=lambda row: (row.component, row.rank))


def _suspect(one: Annotator) -> Suspect:
    return Suspect(
        one.name,
        one.answers,
        one.agreement,
        one.expected,
        one.left,
        one.expected_left,
        one.place,
        one.reasons,
    )


def _path_words(personal: Personal, people: int) -> list[str]:
    if personal.ranker is None:
        return []
    path, found, at = personal.ranker.path_, personal.ranker.cross_validation_, personal.ranker.time_index_
    gone = int(path.support[at["sparse"]].sum())
    dense, sparse = (float(found.losses[name][:, at[name]].mean()) for name in ("dense", "sparse"))
    first = float(found.losses["sparse"][:, 0].mean())
    return [
        "Nobody deviates at first; people leave the earlier, the more unlike the others they answer.",
        f"At the time that held-out answers choose, {gone:,} of {people:,} have left.",
        f"The mean loss of a held-out answer is {first:.4f} for the consensus at the first time, {sparse:.4f} with own "
        f"scores of those who have left, and {dense:.4f} with own scores of everybody.",
    ]


def _own(personal: Personal, said: Comparisons) -> dict[str, list[list[str]]]:
    """Buckets of those who are furthest from the consensus."""
    items, names = said.item_names or (), said.annotator_names or ()
    distance = {person: length for person, (_, _, length) in personal.leaving.items()}
    chosen = sorted(personal.people, key=lambda person: -distance.get(person, 0.0))[: _OWN if distance else 1]
    found = {person: buckets for person, buckets, _ in personal.rankings() if person in chosen}
    return {names[person]: [[items[item] for item in bucket] for bucket in found[person]] for person in chosen}


def _summary(
    request: RankRequest,
    said: Comparisons,
    report: CrowdReport,
    found: Consensus,
    personal: Personal,
    people: Sequence[Annotator],
) -> dict[str, Any]:
    asked = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(request).items()}
    names, ranker = said.item_names or (), found.ranker
    path: dict[str, Any] | None = None
    if personal.ranker is not None:
        cv = personal.ranker.cross_validation_
        path = {
            "times": personal.ranker.path_.times.tolist(),
            "chosen": personal.ranker.time_index_,
            "held_out_loss": {name: np.asarray(values.mean(0)).tolist() for name, values in cv.losses.items()},
            "judged": {name: np.asarray(values.mean(0)).tolist() for name, values in cv.values.items()},
        }
    return {
        "request": asked,
        "read": list(report.read),
        "answers": len(said),
        "ties": said.ties,
        "annotators": len(people),
        "items": len(report.items),
        "inconsistency": report.inconsistency,
        "groups": report.groups,
        "components": [
            [names[item] for item in ((ranker.component_ == part) & ranker.compared_).nonzero()[:, 0].tolist()]
            for part in ranker.component_[ranker.compared_].unique().tolist()
        ],
        "never_lost": [[names[item] for item in group] for group in ranker.never_lost_],
        "never_won": [[names[item] for item in group] for group in ranker.never_won_],
        "methods": {
            name: {"held_out_accuracy": found.accuracy[name], "kendall_tau": found.agreement[name]}
            for name in found.rankers
        },
        "redrawn": None if found.intervals is None else found.intervals.redrawn,
        "path": path,
        "to_look_at": {one.name: list(one.reasons) for one in people if one.reasons},
        "notes": list(report.notes),
    }
