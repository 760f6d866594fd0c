"""The tables that are written: items, everybody's own rankings, annotators, and the path."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from equipoise.data import Comparisons
from equipoise.workflows.rank.consensus import Consensus
from equipoise.workflows.rank.evidence import Annotator
from equipoise.workflows.rank.personal import Personal
from equipoise.workflows.spreadsheet import quoted


class Names:
    """Names as they are written into tables.

    Args:
        names: of items or annotators.
        escape: put a quote before what a spreadsheet would run.
    """

    def __init__(self, names: Sequence[str], escape: bool) -> None:
        self._names, self._escape = names, escape

    def __getitem__(self, place: int) -> str:
        name = self._names[place]
        return str(quoted(name)) if self._escape else name


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A CSV file; numbers with six digits, empty where they are not known or have no end."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows([_cell(value) for value in row] for row in rows)


def write_consensus(path: Path, found: Consensus, items: Names) -> None:
    """A row per item that was compared, by component and rank."""
    ranker, drawn, counts = found.ranker, found.intervals, found.counts
    rank = ranker.rank().tolist()
    group = {item: number for number, members in enumerate(drawn.groups if drawn else (), start=1) for item in members}
    sides = item_counts(found)
    ends = {item: "never lost" for group_ in ranker.never_lost_ for item in group_}
    ends |= {item: "never won" for group_ in ranker.never_won_ for item in group_}
    others = [name for name in found.rankers if name != found.chosen]
    order = sorted(range(counts.num_items), key=lambda item: (int(ranker.component_[item]), rank[item]))

    def row(item: int) -> list[object]:
        sure: list[object] = [None] * 5
        if drawn is not None:
            columns = (drawn.standard_error, drawn.low, drawn.high, drawn.rank_low, drawn.rank_high)
            sure = [column[item].item() for column in columns]
        scores = [float(found.rankers[name].scores_[item]) for name in others]
        return [
            items[item],
            int(ranker.component_[item]) + 1,
            rank[item],
            float(ranker.scores_[item]),
            *sure,
            group.get(item),
            *(float(column[item]) for column in sides),
            ends.get(item),
            *scores,
        ]

    header = ["item", "component", "rank", "score", "standard_error", "low", "high", "rank_low", "rank_high", "group"]
    header += ["wins", "losses", "ties", "separated", *(name.replace("-", "_") for name in others)]
    write_rows(path, header, (row(item) for item in order if ranker.compared_[item]))


def item_counts(found: Consensus) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(items,) wins, losses and ties of each item."""
    counts = found.counts
    won, lost, tied = (torch.zeros(counts.num_items, dtype=torch.float64) for _ in range(3))
    for mine, wins, losses in (
        (counts.first, counts.first_wins, counts.second_wins),
        (counts.second, counts.second_wins, counts.first_wins),
    ):
        won.index_add_(0, mine, wins)
        lost.index_add_(0, mine, losses)
        tied.index_add_(0, mine, counts.ties)
    return won, lost, tied


def write_individual(path: Path, personal: Personal, said: Comparisons, people: Names, items: Names) -> None:
    """A row per annotator and item: the bucket of tied items it stands in, 1 for the best."""
    size = said.num_items
    asked = torch.cat([said.annotator * size + said.left, said.annotator * size + said.right]).unique()

    def rows() -> Iterable[Sequence[object]]:
        for person, buckets, scores in personal.rankings():
            first, last = torch.searchsorted(asked, torch.tensor([person * size, (person + 1) * size])).tolist()
            compared = set((asked[first:last] - person * size).tolist())
            for number, bucket in enumerate(buckets, start=1):
                for item in bucket:
                    yield people[person], items[item], number, float(scores[item]), int(item in compared)

    write_rows(path, ["annotator", "item", "bucket", "score", "compared"], rows())


def write_annotators(path: Path, rows: Sequence[Annotator], escape: bool) -> None:
    """A row per annotator, those with most reasons to be looked at first."""
    fields = ["answers", "ties", "agreement", "expected", "agreement_p", "left", "expected_left", "left_p"]
    fields += ["leaves_at", "place", "deviation"]

    def row(one: Annotator) -> list[object]:
        name = quoted(one.name) if escape else one.name
        return [name, "; ".join(one.reasons), *(getattr(one, field) for field in fields)]

    write_rows(path, ["annotator", "reasons", *fields], map(row, rows))


def write_path(path: Path, personal: Personal) -> None:
    """A row per recorded time: who has left, and what held-out answers say; no rows without a path."""
    header = ["time", "left_consensus", "loss"]
    header += [f"{estimate}_{what}" for estimate in ("dense", "sparse") for what in ("judged", "held_out_loss")]
    rows: list[Sequence[object]] = []
    if personal.ranker is not None:
        whole, found = personal.ranker.path_, personal.ranker.cross_validation_
        gone = whole.support.sum(1)
        for place, time in enumerate(whole.times.tolist()):
            held: list[object] = []
            for estimate in ("dense", "sparse"):
                held += [float(table[estimate][:, place].mean()) for table in (found.values, found.losses)]
            rows.append([time, int(gone[place]), float(whole.losses[place]), *held])
    write_rows(path, header, rows)


def _cell(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else ""
    return "" if value is None else value
