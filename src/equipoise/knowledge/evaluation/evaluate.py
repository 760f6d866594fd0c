"""Judge a model of a knowledge graph by ranking all entities, for both directions of every triple."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn

from equipoise.core.curves.list_ranks import counts_among, list_counts
from equipoise.core.distributed import world_size
from equipoise.core.signature import checked
from equipoise.core.types import Count, MayBeEmpty
from equipoise.core.validate import warn_once
from equipoise.data.triples.known import KnownTails
from equipoise.knowledge.diagnostics.relation_types import relation_types
from equipoise.knowledge.evaluation.filtered_ranking import check_entities
from equipoise.knowledge.evaluation.report import LinkReport, RankTies

# Scores that are held at once, unless said otherwise: 4 MiB, which are still in the cache when they are counted.
_CELLS = 1 << 20
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
        batch_size: queries scored at once, rounded up to a multiple of 16; by default as many as make about a
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
    asked = _Questions.of(triples.long(), model.num_relations)
    with _judging(model), torch.no_grad():
        optimistic, pessimistic, candidates = _ranked(model, asked, known, batch_size)
    return LinkReport(
        triples.long(),
        optimistic[asked.place].reshape(2, -1).T,
        pessimistic[asked.place].reshape(2, -1).T,
        candidates[asked.place].reshape(2, -1).T,
        None if training is None else _unseen(triples, training),
        None if training is None else relation_types(training, model.num_relations),
        tuple(ks),
        ties,
    )


class _Questions(NamedTuple):
    """The distinct queries of some triples in both directions, and the answers that are looked for.

    Attributes:
        heads: of each query, in ascending order of head and relation.
        relations: of each query.
        offsets: bounds of each query's part of `wanted`.
        wanted: answers, ascending for each query, each once.
        place: (2n,) the answer in `wanted` of (head, relation, ?) of each triple, then of (?, relation, tail).
    """

    heads: Tensor
    relations: Tensor
    offsets: Tensor
    wanted: Tensor
    place: Tensor

    @classmethod
    def of(cls, triples: Tensor, num_relations: int) -> _Questions:
        heads, relations, tails = triples.unbind(1)
        wrong = (relations < 0) | (relations >= num_relations)
        if bool(wrong.any()):
            raise IndexError(f"triples holds the relation {int(relations[wrong][0])}, wanted 0 to {num_relations - 1}")
        if bool((triples[:, ::2] < 0).any()):
            raise IndexError(f"triples holds the entity {int(triples[:, ::2].min())}, wanted 0 or more")
        answers, width = torch.cat([tails, heads]), 2 * num_relations
        asked = torch.cat([heads, tails]) * width + torch.cat([relations, relations + num_relations])
        queries, query = asked.unique(return_inverse=True)
        # Two numbers are sorted as one, which the numbers of queries and entities of a graph leave room for.
        span = int(answers.max()) + 1 if len(answers) else 1
        pairs, place = (query * span + answers).unique(return_inverse=True)
        counts = torch.bincount(pairs // span, minlength=len(queries))
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return cls(queries // width, queries % width, offsets, pairs % span, place)


def _ranked(
    model: TailScorer, asked: _Questions, known: KnownTails | None, batch_size: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Optimistic and pessimistic rank of each wanted answer, and how many candidates it had."""
    if not len(asked.wanted):
        return asked.wanted, asked.wanted, asked.wanted
    device = asked.wanted.device
    barred_offsets, barred = torch.zeros_like(asked.offsets), asked.wanted[:0]
    if known is not None:
        barred_offsets, barred = (each.to(device) for each in known.of(asked.heads, asked.relations))
    row, barred_row = (_row_of(offsets) for offsets in (asked.offsets, barred_offsets))
    bounds, barred_bounds = asked.offsets.tolist(), barred_offsets.tolist()
    counts, values, others = [], [], []
    start, width = 0, 0
    while start < len(asked.heads):
        # The first queries say how many entities there are.
        step = batch_size or (max(1, _CELLS // width // _GROUP) * _GROUP if width else _GROUP)
        stop = min(start + step, len(asked.heads))
        scores = _scores(model, asked.heads[start:stop], asked.relations[start:stop])
        if not width:
            width = scores.shape[1]
            check_entities("triples", torch.cat([asked.wanted, asked.heads]), width)
            if known is not None and (known.num_entities, known.num_relations) != (width, model.num_relations):
                raise ValueError(
                    f"known is of {known.num_entities} entities and {known.num_relations} relations, the model of "
                    f"{width} and {model.num_relations}"
                )
        own, away = slice(bounds[start], bounds[stop]), slice(barred_bounds[start], barred_bounds[stop])
        here = scores.device
        offsets = asked.offsets[start : stop + 1] - bounds[start]
        counts.append(list_counts(scores, offsets.to(here), asked.wanted[own].to(here)))
        values.append(scores[(row[own] - start).to(here), asked.wanted[own].to(here)])
        others.append(scores[(barred_row[away] - start).to(here), barred[away].to(here)])
        start = stop
    above, reached = (torch.cat(each).to(device) for each in zip(*counts, strict=True))
    candidates = torch.full_like(above, width)
    if len(barred):
        outside = counts_among(torch.cat(values).to(device), row, torch.cat(others).to(device), barred_row)
        # What is wanted is among the known ones as a rule; it stays.
        itself = torch.isin(row * width + asked.wanted, barred_row * width + barred)
        above, reached = above - outside.above, reached - outside.reached + itself
        candidates = width - barred_offsets.diff()[row] + itself
    return above + 1, reached, candidates


def _row_of(offsets: Tensor) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(offsets) - 1, device=offsets.device), offsets.diff())


def _scores(model: TailScorer, heads: Tensor, relations: Tensor) -> Tensor:
    n, more = len(heads), -len(heads) % _GROUP
    full = [torch.cat([each, each[-1:].expand(more)]) if more else each for each in (heads, relations)]
    scores = model.score_t(*full)
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
    ends = triples[:, [0, 2]]
    new = ~torch.isin(ends, training[:, [0, 2]].to(triples.device))
    if bool(new.any()):
        entities, rows = len(ends[new].unique()), int(new.any(1).sum())
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
