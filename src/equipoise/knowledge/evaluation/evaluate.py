"""Judge a model of a knowledge graph by ranking all entities, for both directions of every triple."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn

from equipoise.core.distributed import world_size
from equipoise.core.signature import checked
from equipoise.core.types import Count, MayBeEmpty
from equipoise.core.validate import warn_once
from equipoise.data.triples.known import KnownTails
from equipoise.knowledge.diagnostics.relation_types import relation_types
from equipoise.knowledge.evaluation.filtered_ranking import FilteredRanks, check_entities, ranks_of
from equipoise.knowledge.evaluation.report import LinkReport, RankTies

# Scores that are held at once, unless said otherwise: 32 MiB.
_CELLS = 1 << 23
# Libraries sum the rows of a product that are left over from groups of 4 (MKL, on the machines tried) in another order.
_GROUP = 16


@runtime_checkable
class TailScorer(Protocol):
    """What scores all entities as tails; relation r + M is r read backwards.

    Attributes:
        num_relations: M, without the reciprocal ones.
    """

    num_relations: int

    def score_t(self, heads: Int[Tensor, " n"], relations: Int[Tensor, " n"]) -> Float[Tensor, "n entities"]:
        """(n, entities), the higher the likelier."""
        ...


@checked
def evaluate_link_prediction(
    model: TailScorer,
    triples: Annotated[Integer[Tensor, "n 3"], MayBeEmpty()],
    known: KnownTails | None = None,
    *,
    training: Integer[Tensor, "_ 3"] | None = None,
    ks: Sequence[Count] = (1, 3, 10),
    ties: RankTies = "realistic",
    batch_size: Count | None = None,
) -> LinkReport:
    """Rank the tail of (head, relation, ?) and the head of (?, relation, tail) among all entities.

    Queries that several triples share are scored once. The model is always asked for a multiple of 16 rows, the last
    query filling up, because matrix products round left-over rows otherwise: so ranks do not depend on the batches, as
    long as the model scores every row by itself.

    Args:
        model: has `num_relations` and `score_t(heads, relations)`, any `KGEModel` for one. A module is put into
            evaluation mode for the time.
        triples: (n, 3) which are judged, where the model takes them. In several processes each may have its own, even
            none: see `LinkReport.gathered`.
        known: answers known to be true, which do not stand in the way of others: usually those of training, validation
            and test, `KGDataset.known()`. None for raw ranks.
        training: (k, 3) what was learned from, for `LinkReport.by_relation_type` and `LinkReport.seen`; it is warned of
            entities that are not in it, of which the model knows nothing.
        ks: of Hits@k.
        ties: of equal scores the true answer comes first ("optimistic"), last ("pessimistic") or in the middle. The
            report has all three.
        batch_size: queries scored at once, rounded up to a multiple of 16; by default as many as make about eight
            million scores. It does not change the result.

    Raises:
        ValueError: on a bad argument, by name, if there is no triple, or if the model gives NaN.
        IndexError: if an entity or relation is out of range.

    >>> from equipoise.data import make_family_graph
    >>> class Shrug:
    ...     num_relations = 4
    ...     def score_t(self, heads, relations):
    ...         return torch.zeros(len(heads), 94)
    >>> graph = make_family_graph()
    >>> found = evaluate_link_prediction(Shrug(), graph.test, graph.known(), training=graph.train)
    >>> round(found.metrics()["adjusted_mean_rank_index"], 6)
    0.0
    """
    if not len(triples) and world_size() == 1:
        raise ValueError("triples holds no row; at least one triple is needed")
    count = model.num_relations
    rows, place = triples.long().unique(dim=0, return_inverse=True)
    heads, relations, tails = rows.unbind(1)
    wrong = (relations < 0) | (relations >= count)
    if bool(wrong.any()):
        raise IndexError(f"triples holds the relation {int(relations[wrong][0])}, wanted 0 to {count - 1}")
    if bool((rows[:, ::2] < 0).any()):
        raise IndexError(f"triples holds the entity {int(rows[:, ::2].min())}, wanted 0 or more")
    asked = torch.stack([torch.cat([heads, tails]), torch.cat([relations, relations + count])], 1)
    wanted = torch.cat([tails, heads])
    queries, query = asked.unique(dim=0, return_inverse=True)
    order = torch.argsort(query * (int(wanted.max()) + 1) + wanted) if len(wanted) else wanted
    with _judging(model), torch.no_grad():
        parts = list(_ranked(model, queries, query[order], wanted[order], known, batch_size))
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=order.device)
    found = [torch.cat(each)[back].reshape(2, -1).T[place] for each in zip(*parts, strict=True)] if parts else None
    optimistic, pessimistic, _, candidates = found or [triples.long().new_zeros((0, 2))] * 4
    return LinkReport(
        triples.long(),
        optimistic,
        pessimistic,
        candidates,
        None if training is None else _unseen(triples, training),
        None if training is None else relation_types(training, count),
        tuple(ks),
        ties,
    )


def _ranked(
    model: TailScorer, queries: Tensor, query: Tensor, wanted: Tensor, known: KnownTails | None, batch_size: int | None
) -> Iterator[FilteredRanks]:
    """Ranks of the wanted answers, in order of their queries, batch by batch."""
    bounds = torch.cat([query.new_zeros(1), torch.bincount(query, minlength=len(queries)).cumsum(0)])
    start = 0
    # The first queries say how many entities there are.
    step = batch_size or _GROUP
    while start < len(queries):
        heads, relations = queries[start : start + step].unbind(1)
        scores = _scores(model, heads, relations)
        stop = start + len(heads)
        answers = wanted[bounds[start] : bounds[stop]]
        check_entities("triples", torch.cat([answers, heads]), scores.shape[1])
        offsets = (bounds[start : stop + 1] - bounds[start]).to(scores.device)
        known_offsets, tails = torch.zeros_like(offsets), offsets[:0]
        if known is not None:
            if (known.num_entities, known.num_relations) != (scores.shape[1], model.num_relations):
                raise ValueError(
                    f"known is of {known.num_entities} entities and {known.num_relations} relations, the model of "
                    f"{scores.shape[1]} and {model.num_relations}"
                )
            known_offsets, tails = (each.to(scores.device) for each in known.of(heads, relations))
        found = ranks_of(scores, offsets, answers.to(scores.device), known_offsets, tails)
        yield FilteredRanks(*(each.to(queries.device) for each in found))
        start, step = stop, batch_size or max(1, _CELLS // scores.shape[1] // _GROUP) * _GROUP


def _scores(model: TailScorer, heads: Tensor, relations: Tensor) -> Tensor:
    n, more = len(heads), -len(heads) % _GROUP
    pair = (torch.cat([each, each[-1:].expand(more)]) for each in (heads, relations))
    scores = model.score_t(*pair)
    if scores.ndim != 2 or len(scores) != n + more or not scores.dtype.is_floating_point:
        raise ValueError(
            f"the model gives scores of shape {tuple(scores.shape)} and {scores.dtype} for {n + more} queries, wanted "
            "one row of floating-point numbers each"
        )
    scores = scores[:n]
    # A sum is NaN if one of them is: one cheap pass clears the usual case. Both infinities together are looked at.
    if scores.sum().isnan() and scores.isnan().any():
        row = int(scores.isnan().any(1).nonzero()[0])
        raise ValueError(f"the model gives NaN for the query ({int(heads[row])}, {int(relations[row])}, ?)")
    return scores


def _unseen(triples: Tensor, training: Tensor) -> Tensor:
    new = ~torch.isin(triples[:, ::2], training[:, ::2].to(triples.device))
    if bool(new.any()):
        entities, rows = len(triples[:, ::2][new].unique()), int(new.any(1).sum())
        warn_once(
            f"{rows} of {len(triples)} triples hold one of {entities} entities that training does not have; the model "
            "scores them by initial vectors, and LinkReport.seen leaves them out"
        )
    return new.any(1)


@contextmanager
def _judging(model: Any) -> Iterator[None]:
    """A module in evaluation mode, and every part of it back in its own afterwards."""
    modes = [(part, part.training) for part in model.modules()] if isinstance(model, nn.Module) else []
    try:
        for part, _ in modes:
            part.training = False
        yield
    finally:
        for part, mode in modes:
            part.training = mode
