"""Training of a model of triples, by steps of a loss and a regulariser, in one process or with entities in several."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from torch import Generator, Tensor
from torch.optim import Optimizer

from equipoise.core.signature import checked
from equipoise.core.types import Count, Positive, Whole
from equipoise.knowledge.models.base import KGEModel
from equipoise.knowledge.regularization.base import KGRegularizer
from equipoise.knowledge.training.gradients import (
    add_negatives,
    add_one_vs_all,
    add_regularizer,
    check_triples,
    check_weight,
)
from equipoise.knowledge.training.losses import EntityWeight, LogisticNegativeLoss, Triples
from equipoise.knowledge.training.sharding import EntityShards, EntityTables

LossName: TypeAlias = Literal["auto", "one_vs_all", "negatives"]
OptimizerName: TypeAlias = Literal["adagrad", "adam"]
_MOST_ENTITIES = 50_000


class KGTrainer:
    """Training on triples and their reciprocals, an epoch at a time, for `core.epochs.fit_epochs`.

    Args:
        model: what is trained.
        triples: (n, 3) head, relation, tail, without reciprocal ones, which are added.
        loss: "one_vs_all", see `OneVsAllCrossEntropy`; "negatives", see `LogisticNegativeLoss`; "auto" is the first
            of up to 50,000 entities.
        num_negatives: K, of each triple.
        double_negatives: replace the head of a negative, too.
        entity_weight: (N,) weight of a triple by its tail, for "one_vs_all", see `frequency_weights`.
        regularizer: of the factors of each batch; what it learns is trained along.
        optimizer: "adagrad", "adam", or one that is made, of the parameters of model and regulariser.
        batch_size: triples per step.
        learning_rate: of an optimizer that is named.
        score_rows: triples that are scored against all entities at a time, see `one_vs_all_backward`.
        sharded: every process of torch.distributed holds some of the entities. True cuts the model by `EntityShards`,
            which may also be given, to move the model or make its optimizer in between. All processes are given the
            same triples and settings; each does every batch, and together they take the steps of one process. A
            checkpoint is that of a process, in a file of its own.
        seed: of the order of the triples, and of the negatives.

    Raises:
        ValueError: on a bad setting, by name; if an optimizer is given of tables that are still to be cut, or entity
            weights to negatives; if the shards are those of another model.
        IndexError: if a triple is not of the model.
    """

    @checked
    def __init__(
        self,
        model: KGEModel,
        triples: Triples,
        *,
        loss: LossName = "auto",
        num_negatives: Whole = 50,
        double_negatives: bool = False,
        entity_weight: EntityWeight | None = None,
        regularizer: KGRegularizer | None = None,
        optimizer: OptimizerName | Optimizer = "adagrad",
        batch_size: Count = 1000,
        learning_rate: Positive = 0.1,
        score_rows: Count | None = None,
        sharded: bool | EntityShards = False,
        seed: Whole = 0,
    ) -> None:
        check_triples(triples, model.num_entities, model.num_relations)
        check_weight(entity_weight, model.num_entities)
        if loss == "auto":
            loss = "one_vs_all" if model.num_entities <= _MOST_ENTITIES else "negatives"
        if entity_weight is not None and loss == "negatives":
            raise ValueError("entity_weight counts with loss='one_vs_all' only, got loss='negatives'")
        if sharded is True and isinstance(optimizer, Optimizer):
            raise ValueError(
                "optimizer must be made after the tables are cut: name it, or give sharded=EntityShards(model)"
            )
        if isinstance(sharded, EntityShards) and sharded.model is not model:
            raise ValueError("sharded must be of this model, got the shards of another one")
        if regularizer is not None:
            regularizer.check_sizes(model.num_entities, model.num_relations)
        self.model, self.loss, self.entity_weight, self.regularizer = model, loss, entity_weight, regularizer
        self.batch_size, self.score_rows = batch_size, score_rows
        self.negatives = LogisticNegativeLoss(num_negatives, double_negatives)
        if isinstance(sharded, EntityShards):
            self.tables: EntityTables = sharded
        else:
            self.tables = EntityShards(model) if sharded else EntityTables(model)
        known = triples.long()
        heads, relations, tails = known.unbind(1)
        self._triples = torch.cat([known, torch.stack([tails, model.inverse(relations), heads], 1)])
        if isinstance(optimizer, Optimizer):
            self.optimizer = optimizer
        else:
            kind = torch.optim.Adagrad if optimizer == "adagrad" else torch.optim.Adam
            learned = [*model.parameters(), *(regularizer.parameters() if regularizer is not None else ())]
            self.optimizer = kind(learned, lr=learning_rate)
        self._order, self._draws = Generator().manual_seed(seed), Generator().manual_seed(seed)

    def epoch(self) -> float:
        """Train on every triple and its reciprocal once; the mean loss with the regulariser, before each step."""
        order = torch.randperm(len(self._triples), generator=self._order)
        total = 0.0
        for part in order.split(self.batch_size):
            # Some triples at a time go to where the model is; the others stay.
            batch = self._triples[part.to(self._triples.device)].to(self.model.device)
            total += self._step(batch) * len(batch)
        return total / len(order)

    def gathered(self) -> KGEModel:
        """The model with whole tables, to rank with: itself, or of a sharded training a copy, for all processes."""
        return self.tables.gathered()

    def _step(self, batch: Tensor) -> float:
        self.optimizer.zero_grad()
        loss = self._one_vs_all(batch) if self.loss == "one_vs_all" else self._with_negatives(batch)
        self.tables.finish(*([] if self.regularizer is None else [self.regularizer]))
        self.optimizer.step()
        return float(loss)

    def _one_vs_all(self, batch: Tensor) -> Tensor:
        heads = self.tables.fetch(batch[:, 0])
        loss = add_one_vs_all(self.tables, heads, batch, self.entity_weight, self.score_rows)
        if self.regularizer is not None:
            tails = self.tables.fetch(batch[:, 2])
            loss = loss + add_regularizer(self.tables, self.regularizer, heads, tails, batch)
            self.tables.give_back(batch[:, 2], tails)
        self.tables.give_back(batch[:, 0], heads)
        return loss

    def _with_negatives(self, batch: Tensor) -> Tensor:
        heads, relations, tails = batch.unbind(1)
        more_heads, more_tails = self.negatives.draw(batch, self.model.num_entities, self._draws)
        if self.negatives.double_negatives:
            heads = torch.cat([heads[:, None], more_heads], 1).flatten()
        tails = torch.cat([tails[:, None], more_tails], 1).flatten()
        of_heads, of_tails = self.tables.fetch(heads), self.tables.fetch(tails)
        loss = add_negatives(self.tables, of_heads, of_tails, relations, self.negatives)
        if self.regularizer is not None:
            # Each triple comes before its negatives.
            first, second = ({k: v[:: len(v) // len(batch)] for k, v in each.items()} for each in (of_heads, of_tails))
            loss = loss + add_regularizer(self.tables, self.regularizer, first, second, batch)
        self.tables.give_back(heads, of_heads)
        self.tables.give_back(tails, of_tails)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """What an interrupted training needs to go on as if nothing had happened."""
        return {
            "model": self.model.state_dict(),
            "regularizer": {} if self.regularizer is None else self.regularizer.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "order": self._order.get_state(),
            "draws": self._draws.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self.model.load_state_dict(state["model"])
        if self.regularizer is not None:
            self.regularizer.load_state_dict(state["regularizer"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._order.set_state(state["order"])
        self._draws.set_state(state["draws"])
