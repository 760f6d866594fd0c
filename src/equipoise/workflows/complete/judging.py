"""What became of the triples of a part: by model, by relation and by kind of relation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from equipoise.core.curves.intervals import Interval
from equipoise.data import KGDataset, KnownTails
from equipoise.knowledge import (
    CompleterSettings,
    KnowledgeGraphCompleter,
    LinkReport,
    RelationTable,
    TailScorer,
    evaluate_link_prediction,
)
from equipoise.report.knowledge_page import Direction, JudgedModel, RelationRow, TypeRow
from equipoise.workflows.complete.parts import seen_rows

LEVEL = 0.95
FREQUENCY = "frequency"
METRICS = ("mrr", "hits@1", "hits@3", "hits@10", "adjusted_mean_rank_index")
DIRECTIONS: tuple[Direction, ...] = ("both", "tail", "head")
SHOWN = ("mrr", "hits@1", "hits@3", "hits@10")
# Of fewer triples a normal interval says nothing, nor of some that are all alike.
_FEW = 5
_NONE = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Contender:
    """A trained model and how it was judged.

    Attributes:
        completer: fitted on the training part; None for frequent answers.
        settings: of it.
        epochs: that were best.
        value: of the metric on the validation part.
        test: its report on the test part.
        seconds: of training.
    """

    completer: KnowledgeGraphCompleter | None
    settings: CompleterSettings | None
    epochs: int
    value: float
    test: LinkReport
    seconds: float


def judge(
    model: TailScorer, triples: Tensor, known: KnownTails, graph: KGDataset, profile: RelationTable
) -> LinkReport:
    """The report of some triples, with kinds of relations by the profile, and who is unseen."""
    found = evaluate_link_prediction(model, triples, known)
    kinds = tuple(each.type for each in profile)
    return replace(found, unseen=~seen_rows(triples, graph), relation_types=kinds)


def judged_model(name: str, one: Contender, best: Contender, metric: str) -> JudgedModel:
    """A model for the page; by how much the best one is better, over the same triples."""
    return JudgedModel(
        name=name,
        means=_means(one.test),
        tail=one.test.metrics("tail")[metric],
        head=one.test.metrics("head")[metric],
        behind=None if one is best else difference(best.test, one.test, metric),
        validation=one.value,
        epochs=one.epochs,
        seconds=one.seconds,
    )


def difference(ours: LinkReport, theirs: LinkReport, metric: str) -> Interval:
    """The mean difference over triples of the same part, with a normal interval."""
    gaps = _per_triple(ours, metric) - _per_triple(theirs, metric)
    normal = float(torch.special.ndtri(torch.tensor((1 + LEVEL) / 2, dtype=torch.float64)))
    width = normal * float(gaps.std()) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.inf
    mean = float(gaps.mean())
    return Interval(mean, mean - width, mean + width)


def _per_triple(found: LinkReport, metric: str) -> Tensor:
    """Values whose mean is the metric, but for a constant that all models share."""
    ranks = found.ranks()
    if metric == "mrr":
        return (1 / ranks).mean(1)
    if metric.startswith("hits@"):
        return (ranks <= int(metric.removeprefix("hits@"))).double().mean(1)
    # Expected at random is the mean of (candidates + 1) / 2, from which rank 1 is subtracted.
    return -ranks.mean(1) / ((found.candidates.double().mean() + 1) / 2 - 1)


def type_rows(found: LinkReport, metric: str) -> list[TypeRow]:
    """The metric of each kind of relation, in both directions."""
    kinds = found.relation_types or ()
    rows = []
    for kind in ("1-1", "1-N", "N-1", "N-N"):
        of_kind = torch.tensor([each == kind for each in kinds])
        some = found.select(of_kind[found.triples[:, 1]])
        if len(some):
            rows.append(TypeRow(kind, len(some), _mean(some, metric, "tail"), _mean(some, metric, "head")))
    return rows


def relation_rows(
    found: LinkReport, metric: str, profile: RelationTable, attention: Tensor | None
) -> list[RelationRow]:
    """Every relation for the page."""
    weights = [()] * len(profile) if attention is None else attention.tolist()
    rows = []
    for each, shares in zip(profile, weights, strict=True):
        some = found.select(found.triples[:, 1] == each.relation)
        rows.append(
            RelationRow(
                name=each.name,
                triples=each.triples,
                type=each.type,
                symmetry=each.symmetry,
                hierarchy=each.hierarchy,
                curvature=each.curvature,
                geometry=each.geometry,
                judged=len(some),
                both=_mean(some, metric, "both"),
                tail=_mean(some, metric, "tail"),
                head=_mean(some, metric, "head"),
                attention=tuple(shares),
            )
        )
    return rows


def _mean(found: LinkReport, metric: str, direction: Direction) -> Interval:
    if not len(found):
        return _NONE
    value = _means(found, direction)[metric]
    return value if len(found) >= _FEW and value.low < value.high else Interval(value.estimate, math.nan, math.nan)


def _means(found: LinkReport, direction: Direction = "both") -> dict[str, Interval]:
    """Means with intervals, whose ends are kept within [0, 1] where every value is."""
    means = found.intervals(direction, level=LEVEL)
    return {
        name: Interval(each.estimate, max(each.low, 0.0), min(each.high, 1.0)) if name in SHOWN else each
        for name, each in means.items()
    }
