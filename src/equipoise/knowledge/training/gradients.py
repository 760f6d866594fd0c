"""Gradients of the losses of a batch, added to the parameters without the scores of the whole batch at once.

Cross-entropy against all entities needs a score for every query and entity. The scores are made, turned into the
gradient and sent back for some queries at a time; values and gradients are those of the whole batch but for rounding,
whatever the number of queries at a time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count
from equipoise.data.interactions.matrix import check_indices
from equipoise.knowledge.models.base import KGEModel, Rows
from equipoise.knowledge.regularization.base import KGRegularizer
from equipoise.knowledge.training.losses import (
    EntityWeight,
    LogisticNegativeLoss,
    Triples,
    check_target_weights,
    logistic_negative_loss,
)
from equipoise.knowledge.training.sharding import EntityTables

# More scores than this at a time make no product of matrices faster.
_MOST_SCORES = 2**22


@checked
def one_vs_all_backward(
    model: KGEModel,
    triples: Triples,
    entity_weight: EntityWeight | None = None,
    *,
    score_rows: Count | None = None,
) -> Tensor:
    """The cross-entropy of the tails among all entities, its gradient added to that of the parameters.

    As `kg_cross_entropy(model.score_t(heads, relations), tails, entity_weight).backward()`, with the scores of an
    eighth of the batch at a time. What a model keeps beside its scores, and gradients of the size of its tables, come
    on top.

    Args:
        model: what is trained.
        triples: (n, 3); the reciprocal ones are not added.
        entity_weight: (N,) weight of a triple by its tail; 1 by default.
        score_rows: triples that are scored at a time; an eighth of them by default, fewer where that is much.

    Returns:
        The loss, without gradient.

    Raises:
        ValueError: on a bad argument, by name; if all tails weigh 0.
        IndexError: if a triple is not of the model.
    """
    check_triples(triples, model.num_entities, 2 * model.num_relations)
    check_weight(entity_weight, model.num_entities)
    triples = triples.long()
    tables = EntityTables(model)
    heads = tables.fetch(triples[:, 0])
    loss = add_one_vs_all(tables, heads, triples, entity_weight, score_rows)
    tables.give_back(triples[:, 0], heads)
    return loss


def add_one_vs_all(
    tables: EntityTables,
    heads: Rows,
    triples: Tensor,
    entity_weight: Tensor | None = None,
    score_rows: int | None = None,
) -> Tensor:
    """The cross-entropy over all entities of all processes; gradients are added to the own tables and to `heads`."""
    count = len(triples)
    if score_rows is None:
        score_rows = max(1, min(math.ceil(count / 8), _MOST_SCORES // len(tables.own)))
    weight = next(iter(heads.values())).detach().new_ones(count)
    if entity_weight is not None:
        weight = entity_weight[triples[:, 2]].to(weight)
        check_target_weights(weight)
    whole = weight.sum()
    parts = [slice(start, start + score_rows) for start in range(0, count, score_rows)]
    losses = torch.cat([_add_queries(tables, heads, triples, weight / whole, part) for part in parts])
    return (losses * weight).sum() / whole


def _add_queries(tables: EntityTables, heads: Rows, triples: Tensor, share: Tensor, part: slice) -> Tensor:
    """The losses of some queries. Their tensors end with the call, before the next ones are made."""
    model, own = tables.model, tables.own
    relations, targets = triples[part, 1], triples[part, 2]
    scores = model.compare(model.query({name: rows[part] for name, rows in heads.items()}, relations), model.rows())
    values = scores.detach()
    if values.dtype in (torch.float16, torch.bfloat16):
        values = values.float()
    top = tables.most(values.amax(1))
    gradient = (values - top[:, None]).exp_()
    sums = tables.total(gradient.sum(1))
    here = ((targets >= own.start) & (targets < own.stop)).nonzero().squeeze(1)
    place = targets[here] - own.start
    picked = torch.zeros_like(top)
    picked[here] = values[here, place]
    picked = tables.total(picked)
    share = share[part].to(gradient)
    gradient.mul_((share / sums)[:, None])
    gradient[here, place] -= share[here]
    del values
    scores.backward(gradient.to(scores.dtype))
    return top + sums.log() - picked


def add_negatives(
    tables: EntityTables, heads: Rows, tails: Rows, relations: Tensor, negatives: LogisticNegativeLoss
) -> Tensor:
    """The logistic loss of triples and negatives of all processes; gradients are added to `heads` and `tails`.

    Args:
        tables: where the rows are from.
        heads: rows of the n heads; with double negatives of the n · (1 + K) heads, each triple's before its negatives'.
        tails: rows of the n · (1 + K) tails, likewise.
        relations: (n,).
        negatives: K and the kind.
    """
    model, count, width = tables.model, len(relations), 1 + negatives.num_negatives
    part = tables.share(count)
    mine = relations[part]
    if not len(mine):
        return tables.total(next(iter(tails.values())).detach().new_zeros(()))
    own = {name: rows.unflatten(0, (count, width))[part] for name, rows in tails.items()}
    if negatives.double_negatives:
        flat = {name: rows.unflatten(0, (count, width))[part].flatten(0, 1) for name, rows in heads.items()}
        query = model.query(flat, mine.repeat_interleave(width))
        scores = model.compare(query, {name: rows.flatten(0, 1)[:, None] for name, rows in own.items()})
        scores = scores.reshape(len(mine), width)
    else:
        scores = model.compare(model.query({name: rows[part] for name, rows in heads.items()}, mine), own)
    loss = logistic_negative_loss(scores[:, 0], scores[:, 1:]) * (len(mine) / count)
    loss.backward()
    return tables.total(loss.detach())


def add_regularizer(
    tables: EntityTables, regularizer: KGRegularizer, heads: Rows, tails: Rows, triples: Tensor
) -> Tensor:
    """The regulariser of a batch, of which every process has its share; gradients are added to the rows."""
    part = tables.share(len(triples))
    mine = triples[part]
    if not len(mine):
        return tables.total(next(iter(heads.values())).detach().new_zeros(()))
    own_heads, own_tails = ({name: rows[part] for name, rows in each.items()} for each in (heads, tails))
    factors = tables.model.factors(own_heads, mine[:, 1], own_tails)
    value = regularizer(factors, mine) * (len(mine) / len(triples))
    value.backward()
    return tables.total(value.detach())


def check_triples(triples: Tensor, num_entities: int, num_relations: int) -> None:
    """Raise `IndexError` unless all entities and relations of triples are known."""
    check_indices("triples (head, tail)", triples[:, [0, 2]].flatten(), num_entities)
    check_indices("triples (relation)", triples[:, 1], num_relations)


def check_weight(entity_weight: Tensor | None, num_entities: int) -> None:
    """Raise `ValueError` unless there is a weight for each entity."""
    if entity_weight is not None and len(entity_weight) != num_entities:
        raise ValueError(f"entity_weight has {len(entity_weight)} rows, the model {num_entities} entities")
