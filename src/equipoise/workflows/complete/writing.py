"""The tables that are written: novel triples one by one, and a row per relation."""

from __future__ import annotations

import csv
import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from equipoise.knowledge import KnowledgeGraphCompleter, LinkReport, RelationTable
from equipoise.report.knowledge_page import NovelTriple
from equipoise.workflows.complete.judging import DIRECTIONS, SHOWN
from equipoise.workflows.complete.parts import entity_names, relation_names
from equipoise.workflows.spreadsheet import quoted

_PROFILED = (
    "triples",
    "train",
    "validation",
    "test",
    "entities",
    "type",
    "tails_per_head",
    "heads_per_tail",
    "symmetry",
    "hierarchy",
    "curvature",
    "triangles",
    "components",
    "largest",
    "geometry",
)
_EXAMPLES = 3


def write_novel_triples(
    path: Path,
    completer: KnowledgeGraphCompleter,
    k: int,
    *,
    heads: Tensor | None,
    relations: Tensor | None,
    escape: bool,
    progress: Callable[[str], None],
) -> tuple[int, Mapping[str, Sequence[NovelTriple]]]:
    """Write novel triples as they come.

    Returns:
        How many, and of each relation the best answers of the heads that have the highest scores.
    """
    graph = completer.graph
    entities, kinds = entity_names(graph), relation_names(graph)
    shown = (lambda name: str(quoted(name))) if escape else str
    loops = set(graph.train[graph.train[:, 0] == graph.train[:, 2], 1].tolist())
    best: dict[int, list[tuple[float, int, int]]] = {}
    written = 0
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["head", "relation", "tail", "score", "rank"])
        # One more than asked for, because an entity that answers itself may have to be left out.
        for triples, scores in completer.novel_triples(k + 1, heads=heads, relations=relations):
            last, rank = -1, 0
            for (head, relation, tail), score in zip(triples.tolist(), scores.tolist(), strict=True):
                rank = rank if head == last else 0
                last = head
                if rank == k or (head == tail and relation not in loops):
                    continue
                rank += 1
                names = shown(entities[head]), shown(kinds[relation]), shown(entities[tail])
                writer.writerow([*names, f"{score:.6g}", rank])
                written += 1
                if rank == 1:
                    heap = best.setdefault(relation, [])
                    (heapq.heappush if len(heap) < _EXAMPLES else heapq.heappushpop)(heap, (score, head, tail))
            progress(f"novel triples: {written:,}, {kinds[int(triples[-1, 1])]}" if len(triples) else "novel triples")
    return written, {
        kinds[relation]: [
            NovelTriple(entities[head], kinds[relation], entities[tail], score)
            for score, head, tail in sorted(heap, reverse=True)
        ]
        for relation, heap in best.items()
    }


def write_relations(
    path: Path,
    profile: RelationTable,
    found: LinkReport,
    attention: Tensor | None,
    spaces: Sequence[str],
    *,
    escape: bool,
) -> None:
    """Write a row per relation: what it looks like, and what became of its triples of the test part."""
    directions = {"": found.by_relation(), "_tail": found.by_relation("tail"), "_head": found.by_relation("head")}
    measured = [f"{name}{suffix}" for suffix in directions for name in SHOWN]
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["relation", *_PROFILED, *measured, *(f"attention_{space}" for space in spaces)])
        for each in profile:
            row = [each.name if not escape else quoted(each.name), *(_cell(getattr(each, name)) for name in _PROFILED)]
            for metrics in directions.values():
                row += [_cell(metrics[each.relation][name]) if each.relation in metrics else "" for name in SHOWN]
            if attention is not None:
                row += [_cell(weight) for weight in attention[each.relation].tolist()]
            writer.writerow(row)


def relation_summary(profile: RelationTable, found: LinkReport) -> dict[str, Any]:
    """Metrics of each relation of the test part, by name, for both directions together and each by itself."""
    sides = {side: found.by_relation(side) for side in DIRECTIONS}
    return {
        profile[relation].name: {side: metrics[relation] for side, metrics in sides.items()}
        for relation in sides["both"]
    }


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return "" if value is None else str(value)
