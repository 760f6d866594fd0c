"""What became of every triple of a link prediction, to be summed by direction, relation or kind of relation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from equipoise.core.curves.intervals import Interval
from equipoise.core.distributed import gather_rows, world_size
from equipoise.core.signature import checked
from equipoise.core.types import OpenFraction
from equipoise.knowledge.diagnostics.relation_types import RELATION_TYPES, RelationType
from equipoise.knowledge.evaluation.rank_metrics import rank_intervals, rank_metrics

RankTies: TypeAlias = Literal["realistic", "optimistic", "pessimistic"]
Direction: TypeAlias = Literal["both", "tail", "head"]
_COLUMNS: dict[str, list[int]] = {"both": [0, 1], "tail": [0], "head": [1]}


@dataclass(frozen=True, eq=False)
class LinkReport:
    """The ranks of triples in both directions: column 0 is (head, relation, ?), column 1 is (?, relation, tail).

    Attributes:
        triples: (n, 3) which triples these are.
        optimistic: (n, 2) ranks if of equal scores the true answer comes first.
        pessimistic: (n, 2) ranks if it comes last.
        candidates: (n, 2) how many entities were ranked.
        unseen: (n,) whether head or tail is in no training triple; None if the training part was not given.
        relation_types: kind of each relation in training, None for one that is not there; None if training was not
            given.
        ks: of Hits@k.
        ties: which ranks count unless said otherwise.
    """

    triples: Int[Tensor, "n 3"]
    optimistic: Int[Tensor, "n 2"]
    pessimistic: Int[Tensor, "n 2"]
    candidates: Int[Tensor, "n 2"]
    unseen: Bool[Tensor, " n"] | None
    relation_types: tuple[RelationType | None, ...] | None
    ks: tuple[int, ...]
    ties: RankTies

    def __len__(self) -> int:
        return len(self.triples)

    @checked
    def ranks(self, ties: RankTies | None = None) -> Float[Tensor, "n 2"]:
        """(n, 2) float64; realistic ones are the mean of optimistic and pessimistic."""
        kind = ties or self.ties
        first = self.optimistic if kind == "optimistic" else self.pessimistic
        return first.double() if kind != "realistic" else (self.optimistic + self.pessimistic).double() / 2

    @checked
    def metrics(self, direction: Direction = "both", *, ties: RankTies | None = None) -> dict[str, float]:
        """The metrics, as in `rank_metrics`.

        Args:
            direction: "tail" for (head, relation, ?), "head" for (?, relation, tail), or all queries.
            ties: as `LinkReport.ties`. What would be expected at random is that of realistic ranks, in all.

        Raises:
            ValueError: if there is no triple.
        """
        self._refuse_empty()
        columns = _COLUMNS[direction]
        return rank_metrics(self.ranks(ties)[:, columns].flatten(), self.candidates[:, columns].flatten(), self.ks)

    @checked
    def intervals(
        self, direction: Direction = "both", *, level: OpenFraction = 0.95, ties: RankTies | None = None
    ) -> dict[str, Interval]:
        """Metrics that are means over triples, and their adjusted forms, with normal intervals.

        Args:
            direction: as in `metrics`.
            level: of the intervals. A triple is the unit: that its two queries hang together does not narrow them.
            ties: as in `metrics`.

        Raises:
            ValueError: if there is no triple.
        """
        self._refuse_empty()
        columns = _COLUMNS[direction]
        return dict(rank_intervals(self.ranks(ties)[:, columns], self.candidates[:, columns], self.ks, level))

    def by_direction(self) -> dict[str, dict[str, float]]:
        """`metrics` of "tail" and of "head"."""
        return {direction: self.metrics(direction) for direction in ("tail", "head")}

    @checked
    def by_relation(self, direction: Direction = "both") -> dict[int, dict[str, float]]:
        """`metrics` of each relation that has a triple, with `triples`, their number."""
        relations = self.triples[:, 1]
        return {int(one): self.select(relations == one)._counted(direction) for one in relations.unique()}

    @checked
    def by_relation_type(self, direction: Direction = "both") -> dict[str, dict[str, float]]:
        """`metrics` of each kind of relation, "1-1", "1-N", "N-1" and "N-N", with `triples`, their number.

        The hard side of a 1-N relation is its tail, so one looks at a direction by itself. Relations that training does
        not have are "unseen".

        Raises:
            ValueError: if the training part was not given to `evaluate_link_prediction`.
        """
        if self.relation_types is None:
            raise ValueError("kinds of relations come from training; give evaluate_link_prediction training=triples")
        kinds = [*RELATION_TYPES, None]
        number = torch.tensor([kinds.index(kind) for kind in self.relation_types], device=self.triples.device)
        found = number[self.triples[:, 1]]
        return {
            kinds[one] or "unseen": self.select(found == one)._counted(direction) for one in found.unique().tolist()
        }

    def seen(self) -> LinkReport:
        """The report of the triples whose entities are both in training.

        Raises:
            ValueError: if the training part was not given to `evaluate_link_prediction`.
        """
        if self.unseen is None:
            raise ValueError("who is unseen depends on training; give evaluate_link_prediction training=triples")
        return self.select(~self.unseen)

    def select(self, chosen: Bool[Tensor, " n"]) -> LinkReport:
        """The report of some of the triples."""
        return replace(
            self,
            triples=self.triples[chosen],
            optimistic=self.optimistic[chosen],
            pessimistic=self.pessimistic[chosen],
            candidates=self.candidates[chosen],
            unseen=None if self.unseen is None else self.unseen[chosen],
        )

    def joined(self, *others: LinkReport) -> LinkReport:
        """The report of all triples of several reports, such as those of shards.

        Raises:
            ValueError: if they were not made with the same settings.
        """
        reports = (self, *others)
        for each in others:
            if (each.ks, each.ties, each.relation_types) != (self.ks, self.ties, self.relation_types):
                raise ValueError("the reports were not made with the same ks, ties and training part")
        return self._from_parts([each._tensors() for each in reports])

    def gathered(self) -> LinkReport:
        """The report of the triples of all processes of torch.distributed, on every process."""
        return self if world_size() == 1 else self._from_parts([[gather_rows(each) for each in self._tensors()]])

    def _tensors(self) -> list[Tensor]:
        unseen = [] if self.unseen is None else [self.unseen]
        return [self.triples, self.optimistic, self.pessimistic, self.candidates, *unseen]

    def _from_parts(self, parts: Sequence[Sequence[Tensor]]) -> LinkReport:
        triples, optimistic, pessimistic, candidates, *unseen = (torch.cat(each) for each in zip(*parts, strict=True))
        return replace(
            self,
            triples=triples,
            optimistic=optimistic,
            pessimistic=pessimistic,
            candidates=candidates,
            unseen=unseen[0] if unseen else None,
        )

    def _counted(self, direction: Direction) -> dict[str, float]:
        return {"triples": float(len(self)), **self.metrics(direction)}

    def _refuse_empty(self) -> None:
        if not len(self):
            raise ValueError("the report holds no triple, so there is nothing to take a mean of")
