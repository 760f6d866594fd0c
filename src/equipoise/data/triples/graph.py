"""A knowledge graph as triples (head, relation, tail) in three parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from equipoise.core.validate import warn_once
from equipoise.data.triples.known import KnownTails, check_triples

Part: TypeAlias = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class KGDataset:
    """Triples to learn from, to choose by and to judge by. Built by `from_triples` or `read_triples`.

    Of M relations, number r + M stands for r read backwards; no part holds such a triple, `with_inverse` makes them.

    Attributes:
        train: (n, 3) int64, columns head, relation, tail.
        validation: (n, 3) int64; may have no row.
        test: (n, 3) int64; may have no row.
        num_entities: N; entities are 0 to N − 1.
        num_relations: M; relations are 0 to M − 1.
        entity_names: N names; None if there are none.
        relation_names: M names; None if there are none.
        items: item of a recommender → its entity, where the files say so.

    Raises:
        ValueError: if triples are not (n, 3) int64, nothing is in training, or there is not one name per number.
        IndexError: if an entity or relation is out of range.
    """

    train: Int[Tensor, "n_train 3"]
    validation: Int[Tensor, "n_validation 3"]
    test: Int[Tensor, "n_test 3"]
    num_entities: int
    num_relations: int
    entity_names: tuple[str, ...] | None = None
    relation_names: tuple[str, ...] | None = None
    items: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        for name in PARTS:
            part = getattr(self, name)
            if not isinstance(part, Tensor):
                raise ValueError(
                    f"{name} must be a torch.Tensor, got {type(part).__name__}; use KGDataset.from_triples"
                )
            check_triples(name, part, self.num_entities, self.num_relations)
            if part.dtype is not torch.int64:
                raise ValueError(f"{name} must be int64, got {part.dtype}; convert it with {name}.long()")
        if not len(self.train):
            raise ValueError("train holds no triple; at least one is needed to learn from")
        for kind, names, size in (
            ("entity_names", self.entity_names, self.num_entities),
            ("relation_names", self.relation_names, self.num_relations),
        ):
            if names is not None and len(names) != size:
                raise ValueError(f"{kind} must have one name for each of {size}, got {len(names)}")

    @classmethod
    def from_triples(
        cls,
        train: Any,
        validation: Any = None,
        test: Any = None,
        *,
        num_entities: int | None = None,
        num_relations: int | None = None,
        entity_names: Sequence[str] | None = None,
        relation_names: Sequence[str] | None = None,
        items: Mapping[str, int] | None = None,
    ) -> KGDataset:
        """A data set from tensors, arrays or lists of triples.

        A triple that is twice in a part counts once, which is warned of; so are triples of training that stand in
        another part as well, and stay there.

        Args:
            train: (n, 3) whole numbers, columns head, relation, tail.
            validation: likewise; none by default.
            test: likewise; none by default.
            num_entities: N; by default the number of names, or one more than the largest entity.
            num_relations: M; likewise.
            entity_names: N names.
            relation_names: M names.
            items: item of a recommender → its entity.

        Raises:
            ValueError: as the class.
            IndexError: as the class.

        >>> graph = KGDataset.from_triples([[0, 0, 1], [1, 0, 2]], test=[[0, 0, 2]])
        >>> graph.num_entities, graph.num_relations, graph.with_inverse(graph.test).tolist()
        (3, 1, [[0, 0, 2], [2, 1, 0]])
        """
        parts = [_as_triples(name, part) for name, part in zip(PARTS, (train, validation, test), strict=True)]
        whole = np.concatenate(parts)
        sizes = []
        for given, names, columns in (
            (num_entities, entity_names, whole[:, [0, 2]]),
            (num_relations, relation_names, whole[:, 1]),
        ):
            fallback = int(columns.max(initial=-1)) + 1 if names is None else len(names)
            sizes.append(max(fallback, 1) if given is None else given)
        own = [torch.from_numpy(_distinct(name, part)) for name, part in zip(PARTS, parts, strict=True)]
        found = cls(
            own[0],
            own[1],
            own[2],
            sizes[0],
            sizes[1],
            entity_names=None if entity_names is None else tuple(entity_names),
            relation_names=None if relation_names is None else tuple(relation_names),
            items=items,
        )
        _warn_of_leaks(found)
        return found

    def with_inverse(self, triples: Int[Tensor, "n 3"]) -> Int[Tensor, "two_n 3"]:
        """The triples, and behind them (t, r + M, h) for each (h, r, t)."""
        heads, relations, tails = triples.unbind(1)
        return torch.cat([triples, torch.stack([tails, relations + self.num_relations, heads], 1)])

    def known(self, *parts: Part) -> KnownTails:
        """The known answers of all queries, for `evaluate_link_prediction`.

        Args:
            parts: which parts hold them; all three by default, as is usual for the filter of the final test.
        """
        return KnownTails.from_triples(
            *(getattr(self, part) for part in parts or PARTS),
            num_entities=self.num_entities,
            num_relations=self.num_relations,
        )

    @property
    def unseen(self) -> Int[Tensor, " k"]:
        """Entities of validation and test that no training triple holds, ascending; nothing is learned of them."""
        return _absent(self.train[:, ::2], torch.cat([self.validation, self.test])[:, ::2], self.num_entities)

    @property
    def unseen_relations(self) -> Int[Tensor, " k"]:
        """Relations of validation and test that no training triple holds, ascending."""
        return _absent(self.train[:, 1], torch.cat([self.validation, self.test])[:, 1], self.num_relations)

    def words(self, triples: Int[Tensor, "n 3"]) -> list[tuple[str, str, str]]:
        """Triples by name; numbers where there are no names, and "r backwards" for a reciprocal relation."""
        entities = self.entity_names or tuple(map(str, range(self.num_entities)))
        relations = self.relation_names or tuple(map(str, range(self.num_relations)))
        both = (*relations, *(f"{name} backwards" for name in relations))
        return [(entities[h], both[r], entities[t]) for h, r, t in triples.tolist()]

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(getattr(self, part)):,} {part}" for part in PARTS)
        return f"KGDataset({self.num_entities:,} entities, {self.num_relations:,} relations; {sizes})"


def _as_triples(name: str, given: Any) -> Any:
    """(n, 3) int64 of NumPy."""
    if given is None:
        return np.zeros((0, 3), dtype=np.int64)
    try:
        found = np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given)
    except ValueError as error:
        raise ValueError(f"{name} must be (n, 3) whole numbers, got rows of different lengths") from error
    if found.size == 0:
        return np.zeros((0, 3), dtype=np.int64)
    if found.ndim != 2 or found.shape[1] != 3 or found.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must be (n, 3) whole numbers, columns head, relation, tail, got shape {found.shape} of "
            f"{found.dtype}"
        )
    if found.max() > np.iinfo(np.int64).max:
        raise IndexError(f"{name} holds the number {found.max()}, which int64 does not hold")
    return found.astype(np.int64)


def _distinct(name: str, triples: Any) -> Any:
    """The triples in their order, each once."""
    first = _first_places(triples)
    twice = len(triples) - len(first)
    if twice:
        warn_once(f"{twice} of {len(triples)} triples of {name} repeat an earlier one; each counts once")
    return triples[np.sort(first)] if twice else triples


def _first_places(triples: Any) -> Any:
    """Where each distinct triple stands first, in no particular order."""
    order = np.lexsort(triples.T)
    new = np.ones(len(triples), dtype=bool)
    new[1:] = (np.diff(triples[order], axis=0) != 0).any(1)
    return order[new]


def _warn_of_leaks(graph: KGDataset) -> None:
    for name in PARTS[1:]:
        part = getattr(graph, name)
        if len(part):
            joined = torch.cat([graph.train, part]).numpy()
            both = len(joined) - len(_first_places(joined))
            if both:
                warn_once(f"{both} of {len(part)} triples of {name} are in training too, and say little there")


def _absent(seen: Tensor, asked: Tensor, size: int) -> Tensor:
    new = torch.zeros(size, dtype=torch.bool)
    new[asked.flatten()] = True
    new[seen.flatten()] = False
    return new.nonzero().squeeze(1)
