"""Train models of a knowledge graph, judge them by filtered ranking, and write triples that it does not hold."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equipoise.core.validate import check_choice
from equipoise.data import KGDataset
from equipoise.knowledge import (
    MODELS,
    CompleterSettings,
    KnowledgeGraphCompleter,
    RelationTable,
    relation_profile,
)
from equipoise.report import KnowledgeReport, knowledge_page
from equipoise.report.knowledge_page import NovelTriple
from equipoise.workflows.complete.frequency import FrequentAnswers
from equipoise.workflows.complete.judging import (
    DIRECTIONS,
    FREQUENCY,
    LEVEL,
    METRICS,
    Contender,
    judge,
    judged_model,
    relation_rows,
    type_rows,
)
from equipoise.workflows.complete.parts import (
    asked_for,
    entity_names,
    everything,
    read_parts,
    relation_names,
    seen_rows,
)
from equipoise.workflows.complete.request import CompleteRequest
from equipoise.workflows.complete.writing import relation_summary, write_novel_triples, write_relations
from equipoise.workflows.errors import InputError, mendable
from equipoise.workflows.output import check_checkpoints, staged_folder
from equipoise.workflows.scores.judging import provenance, write_summary

_log = logging.getLogger(__name__)
_EXAMPLES = 9
# Regularisers of head times relation, and models in which that is no image of the head.
_OF_PRODUCTS, _WITHOUT_PRODUCTS = ("dura", "er"), ("atth", "gie", "murp", "refh", "rote", "roth")
# Entities below which a step of training is little work.
_SMALL = 5000
# What libraries count in 32 and in 64 bits.
_MOST, _MOST_SEED = 2**31 - 1, 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class CompleteOutcome:
    """What `complete_graph` found.

    Attributes:
        folder: what was written.
        report: what `report.html` shows.
        chosen: the model that won.
        novel: how many novel triples were written.
    """

    folder: Path
    report: KnowledgeReport
    chosen: str
    novel: int


def complete_graph(
    triples: str | Path,
    request: CompleteRequest,
    *,
    command: str = "",
    notice: Callable[[str], None] = _log.warning,
    progress: Callable[[str], None] = _log.info,
) -> CompleteOutcome:
    """Compare models on a knowledge graph, refit the best one on all of it, and write triples that it does not hold.

    Args:
        triples: a file or folder that `equipoise.data.read_triples` reads.
        request: the options.
        command: what the user typed, for the report.
        notice: told in sentences what makes the numbers less sure; logged if not given.
        progress: told what is being done.

    Raises:
        InputError: if the request cannot be carried out as given; nothing is written then.
    """
    started = time.perf_counter()
    settings = _checked_settings(request)
    notes: list[str] = []

    def noted(words: str) -> None:
        notes.append(words)
        notice(words)

    with staged_folder(request.output, overwrite=request.overwrite, inputs=[triples]) as stage:
        for name, each in settings:
            if each.regularizer in _OF_PRODUCTS and name in _WITHOUT_PRODUCTS:
                noted(f"{each.regularizer} acts on head times relation, which means nothing in {name}; f2 or n3 fit it")
        progress("reading")
        with mendable():
            if request.checkpoints is not None:
                request.checkpoints.mkdir(parents=True, exist_ok=True)
        graph, parts = read_parts(triples, request, noted)
        heads = asked_for("entity", request.heads, entity_names(graph))
        relations = asked_for("relation", request.relations, relation_names(graph))
        progress(f"looking at {graph.num_relations:,} relations")
        with mendable(), _room(graph, request):
            profile = relation_profile(graph, parts=("train", "validation", "test"), seed=request.seed)
        with _threads(graph), _room(graph, request):
            contenders = {name: _trained(name, chosen, graph, profile, request, progress) for name, chosen in settings}
            chosen = max(contenders, key=lambda name: contenders[name].value)
            contenders[FREQUENCY] = _frequent(graph, profile, request)
            final = _refitted(chosen, contenders[chosen], everything(graph), request, progress)
        final.save(stage / "model")
        novel, found = write_novel_triples(
            stage / "novel_triples.csv",
            final,
            request.k,
            heads=heads,
            relations=relations,
            escape=request.escape_formulas,
            progress=progress,
        )
        attention, spaces = _attention(final, contenders)
        test = contenders[chosen].test
        write_relations(stage / "relations.csv", profile, test, attention, spaces, escape=request.escape_formulas)
        best = contenders[chosen]
        report = KnowledgeReport(
            title=f"{novel:,} novel triples by {chosen}",
            facts=_facts(graph, parts),
            metric=request.metric,
            chosen=chosen,
            baseline=FREQUENCY,
            judged=[judged_model(name, one, best, request.metric) for name, one in contenders.items()],
            types=type_rows(test, request.metric),
            relations=relation_rows(test, request.metric, profile, attention),
            spaces=spaces,
            examples=_examples(found, profile),
            notes=notes,
            level=LEVEL,
            provenance=provenance(command, request.seed, time.perf_counter() - started),
        )
        (stage / "report.html").write_text(knowledge_page(report), encoding="utf-8")
        write_summary(stage, _summary(request, graph, contenders, report, profile, novel))
    return CompleteOutcome(folder=request.output, report=report, chosen=chosen, novel=novel)


def _checked_settings(request: CompleteRequest) -> list[tuple[str, CompleterSettings]]:
    """Each model with its settings, as far as they can be checked without the graph."""
    if not request.models:
        raise InputError("name at least one model")
    for name in ("k", "epochs", "dim", "batch_size"):
        if not 1 <= getattr(request, name) <= _MOST:
            raise InputError(f"{name}={getattr(request, name)} must be at least 1 and at most {_MOST:,}")
    if request.seed > _MOST_SEED:
        raise InputError(f"seed={request.seed} must be at most {_MOST_SEED}")
    check_checkpoints(request.output, request.checkpoints)
    if not 0 < request.test_size < 0.5:
        raise InputError(f"test_size={request.test_size} must lie between 0 and 0.5")
    for name in ("heads", "relations"):
        if getattr(request, name) is not None and not len(getattr(request, name)):
            raise InputError(f"name at least one of the {name}, or leave --{name} out for all of them")
    names = ("epochs", "dim", "batch_size", "learning_rate", "regularizer", "weight")
    changes = {name: getattr(request, name) for name in names if getattr(request, name) is not None}
    with mendable():
        check_choice("metric", request.metric, METRICS)
        for model in request.models:
            check_choice("model", model, MODELS)
        found = {
            model: CompleterSettings.usual(model, seed=request.seed, **changes)
            for model in dict.fromkeys(request.models)
        }
    if request.weight is not None and all(each.regularizer == "none" for each in found.values()):
        raise InputError("--weight is that of a regularizer, and no model has one; name it with --regularizer")
    return list(found.items())


@contextmanager
def _room(graph: KGDataset, request: CompleteRequest) -> Iterator[None]:
    """Turn a lack of memory into what can be done about it."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate" not in str(error):
            raise
        raise InputError(
            f"{graph.num_entities:,} entities and {graph.num_relations:,} relations with dim={request.dim} need more "
            "memory than there is; give a smaller --dim or --batch-size, and number entities and relations without gaps"
        ) from error


@contextmanager
def _threads(graph: KGDataset) -> Iterator[None]:
    """One thread for a small graph, whose steps would take longer on several that wait for each other."""
    before = torch.get_num_threads()
    if graph.num_entities < _SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _trained(
    name: str,
    settings: CompleterSettings,
    graph: KGDataset,
    profile: RelationTable,
    request: CompleteRequest,
    progress: Callable[[str], None],
) -> Contender:
    started = time.perf_counter()
    progress(f"training {name}")
    completer = _fitted(name, f"training {name}", settings, graph, request, progress)
    seconds = time.perf_counter() - started
    history = completer.history
    progress(f"judging {name}")
    test = judge(completer.model, graph.test, graph.known(), graph, profile)
    best = history.best_epoch
    return Contender(completer, settings, best + 1, history.values[best], test, seconds)


def _fitted(
    name: str,
    words: str,
    settings: CompleterSettings,
    graph: KGDataset,
    request: CompleteRequest,
    progress: Callable[[str], None],
) -> KnowledgeGraphCompleter:
    """A fitted completer, from its checkpoint if there is one; what training raises said with the option to change."""

    def told(epoch: int, loss: float, value: float | None) -> None:
        shown = f"{words}: epoch {epoch + 1} of {settings.epochs}, loss {loss:.4f}"
        progress(shown if value is None else f"{shown}, on the validation part {value:.4f}")

    part = "" if len(graph.validation) else "-everything"
    checkpoint = None if request.checkpoints is None else request.checkpoints / f"{name}{part}.pt"
    try:
        with mendable():
            return KnowledgeGraphCompleter(settings).fit(
                graph, metric=request.metric, progress=told, checkpoint=checkpoint
            )
    except FloatingPointError as error:
        raise InputError(f"{name}: {error} with --learning-rate") from error
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _frequent(graph: KGDataset, profile: RelationTable, request: CompleteRequest) -> Contender:
    model = FrequentAnswers(graph)
    validation = judge(model, graph.validation, graph.known("train", "validation"), graph, profile)
    test = judge(model, graph.test, graph.known(), graph, profile)
    return Contender(None, None, 0, validation.metrics()[request.metric], test, 0.0)


def _refitted(
    name: str, winner: Contender, whole: KGDataset, request: CompleteRequest, progress: Callable[[str], None]
) -> KnowledgeGraphCompleter:
    """The model that is shipped: trained on everything, for as many epochs as were best."""
    progress(f"refitting {name} on everything")
    assert winner.settings is not None
    settings = replace(winner.settings, epochs=winner.epochs)
    return _fitted(name, "the model to keep", settings, whole, request, progress)


def _attention(
    final: KnowledgeGraphCompleter, contenders: Mapping[str, Contender]
) -> tuple[Tensor | None, tuple[str, ...]]:
    """What relations attend to, by the model that is kept or else by another one that can say."""
    others = [one.completer for one in contenders.values() if one.completer is not None]
    for completer in (final, *others):
        weights = completer.geometry_weights()
        if weights is not None:
            return weights, tuple(completer.model.spaces)  # type: ignore[arg-type]
    return None, ()


def _facts(graph: KGDataset, parts: str) -> tuple[str, ...]:
    sizes = [len(part) for part in (graph.train, graph.validation, graph.test)]
    return (
        f"{graph.num_entities:,} entities",
        f"{graph.num_relations:,} relations",
        f"{sum(sizes):,} triples",
        f"{sizes[0]:,} to learn from, {sizes[1]:,} to choose by, {sizes[2]:,} to judge by",
        parts,
    )


def _examples(found: Mapping[str, Sequence[NovelTriple]], profile: RelationTable) -> dict[str, Sequence[NovelTriple]]:
    """Those of the relations with the most triples."""
    order = [each.name for each in sorted(profile, key=lambda each: -each.triples) if found.get(each.name)]
    return {name: found[name] for name in order[:_EXAMPLES]}


def _summary(
    request: CompleteRequest,
    graph: KGDataset,
    contenders: Mapping[str, Contender],
    report: KnowledgeReport,
    profile: RelationTable,
    novel: int,
) -> dict[str, Any]:
    asked = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(request).items()}
    return {
        "request": asked,
        "chosen": report.chosen,
        "metric": report.metric,
        "novel_triples": novel,
        "graph": {
            "entities": graph.num_entities,
            "relations": graph.num_relations,
            **{part: len(getattr(graph, part)) for part in ("train", "validation", "test")},
            "unseen_entities": len(graph.unseen),
            "unseen_relations": len(graph.unseen_relations),
            "test_triples_with_unseen": int((~seen_rows(graph.test, graph)).sum()),
            "curvature": profile.curvature,
        },
        "models": {
            one.name: {
                "validation": one.validation,
                "test": one.means,
                **_by_direction_and_type(contenders[one.name]),
                "behind_the_chosen": one.behind,
                "epochs": one.epochs,
                "seconds": one.seconds,
                "settings": None if (settings := contenders[one.name].settings) is None else asdict(settings),
            }
            for one in report.judged
        },
        "relations": relation_summary(profile, contenders[report.chosen].test),
    }


def _by_direction_and_type(one: Contender) -> dict[str, Any]:
    seen = one.test.seen()
    return {
        "test_by_direction": one.test.by_direction(),
        "test_by_relation_type": {side: one.test.by_relation_type(side) for side in DIRECTIONS},
        "test_of_what_training_has": seen.metrics() if len(seen) else None,
    }
