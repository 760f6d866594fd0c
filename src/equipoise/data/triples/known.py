"""Which answers of a query (head, relation, ?) are known to be true, in both directions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class KnownTails:
    """The known tails of every pair of head and relation, r + M being r read backwards. Built by `from_triples`.

    Attributes:
        keys: (pairs,) head · 2M + relation, ascending.
        offsets: (pairs + 1,); the tails of pair k are `tails[offsets[k] : offsets[k + 1]]`.
        tails: (n,) ascending for each pair.
        num_entities: N.
        num_relations: M.

    >>> known = KnownTails.from_triples(torch.tensor([[0, 0, 2], [0, 0, 1]]), num_entities=3, num_relations=1)
    >>> known.of(torch.tensor([0, 1, 2]), torch.tensor([0, 0, 1]))
    (tensor([0, 2, 2, 3]), tensor([1, 2, 0]))
    """

    keys: Int[Tensor, " pairs"]
    offsets: Int[Tensor, " pairs_and_one"]
    tails: Int[Tensor, " n"]
    num_entities: int
    num_relations: int

    @classmethod
    def from_triples(cls, *parts: Int[Tensor, "_ 3"], num_entities: int, num_relations: int) -> KnownTails:
        """The answers that some parts know; a triple that several hold counts once.

        Args:
            parts: (n, 3) triples with relations 0 to M − 1; both directions are made of each.
            num_entities: N.
            num_relations: M.

        Raises:
            ValueError: if there is no part, one is not (n, 3) whole numbers, or int64 cannot number all pairs.
            IndexError: if an entity or relation is out of range.
        """
        if not parts:
            raise ValueError("parts are missing; give at least one tensor of triples")
        for part in parts:
            check_triples("parts", part, num_entities, num_relations)
        if 2 * num_entities * num_relations > np.iinfo(np.int64).max:
            raise ValueError(
                f"{num_entities} entities × {2 * num_relations} relations are more pairs than int64 counts; number "
                "them from 0"
            )
        heads, relations, tails = torch.cat(parts).cpu().numpy().astype(np.int64).T
        width = 2 * num_relations
        pairs = np.concatenate([heads * width + relations, tails * width + relations + num_relations])
        answers = np.concatenate([tails, heads])
        order = np.lexsort((answers, pairs))
        pairs, answers = pairs[order], answers[order]
        new = np.ones(len(pairs), dtype=bool)
        new[1:] = (np.diff(pairs) != 0) | (np.diff(answers) != 0)
        pairs, answers = pairs[new], answers[new]
        starts = np.flatnonzero(np.diff(pairs, prepend=-1))
        return cls(
            torch.from_numpy(pairs[starts]),
            torch.from_numpy(np.append(starts, len(pairs))),
            torch.from_numpy(answers),
            num_entities,
            num_relations,
        )

    def __len__(self) -> int:
        return len(self.tails)

    def of(
        self, heads: Int[Tensor, " n"], relations: Int[Tensor, " n"]
    ) -> tuple[Int[Tensor, " n_and_one"], Int[Tensor, " held"]]:
        """The known tails of some queries.

        Args:
            heads: (n,) in 0 to N − 1.
            relations: (n,) in 0 to 2M − 1.

        Returns:
            Offsets (n + 1,) and tails: those of query k are `tails[offsets[k] : offsets[k + 1]]`, ascending.

        Raises:
            IndexError: if an entity or relation is out of range.
        """
        for name, given, size in (
            ("heads", heads, self.num_entities),
            ("relations", relations, 2 * self.num_relations),
        ):
            _check_range(name, given, size)
        wanted = heads.cpu().long() * (2 * self.num_relations) + relations.cpu().long()
        place = torch.searchsorted(self.keys, wanted).clamp_max(max(len(self.keys) - 1, 0))
        if not len(self.keys):
            return wanted.new_zeros(len(wanted) + 1), self.tails
        counts = torch.where(self.keys[place] == wanted, self.offsets.diff()[place], 0)
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        within = torch.arange(int(offsets[-1])) - torch.repeat_interleave(offsets[:-1], counts)
        return offsets, self.tails[torch.repeat_interleave(self.offsets[place], counts) + within]


def check_triples(name: str, triples: Tensor, num_entities: int, num_relations: int) -> None:
    """Raise `ValueError` unless triples are (n, 3) whole numbers, `IndexError` unless they are in range."""
    whole = not (triples.is_floating_point() or triples.is_complex() or triples.dtype is torch.bool)
    if triples.ndim != 2 or triples.shape[1] != 3 or not whole:
        raise ValueError(
            f"{name} must be (n, 3) whole numbers, columns head, relation, tail, got shape {tuple(triples.shape)} of "
            f"{triples.dtype}"
        )
    _check_range(f"{name} (entities)", triples[:, ::2], num_entities)
    _check_range(f"{name} (relations)", triples[:, 1], num_relations)


def _check_range(name: str, given: Tensor, size: int) -> None:
    wrong = (given < 0) | (given >= size)
    if bool(wrong.any()):
        raise IndexError(f"{name} holds the number {int(given[wrong][0])}, wanted 0 to {size - 1}")
