"""Entity tables in pieces: every process of torch.distributed holds some of the rows.

The rest of the model is on every process, and every process is given the same batches. A step then is

    fetch      rows of heads and tails from the processes that own them, the same leaves everywhere
    score      the own entities, or the own share of the batch; backward reaches the own tables and the leaves
    give back  the gradient of the leaves, summed over processes, to the owners
    finish     the sum over processes of the gradient of everything that is on all of them

and has the gradient of one process with all rows. `EntityTables` is that of one process, with nothing to send.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from equipoise.core.distributed import (
    Group,
    gather_rows,
    most_of_processes,
    of_first_process,
    rank_of_process,
    sum_of_processes,
    world_size,
)
from equipoise.knowledge.models.base import KGEModel


class EntityTables:
    """The entity tables of a model that lie whole in this process.

    Args:
        model: what they belong to.

    Attributes:
        own: which entities this process scores.
    """

    def __init__(self, model: KGEModel) -> None:
        self.model = model
        self.own = range(model.num_entities)

    def fetch(self, index: Tensor) -> dict[str, Tensor]:
        """Rows of the tables, (n, width) each, as leaves that gather a gradient.

        Args:
            index: (n,) entities.
        """
        return {name: table.detach()[index].requires_grad_() for name, table in self._tables()}

    def give_back(self, index: Tensor, rows: dict[str, Tensor]) -> None:
        """Add the gradient of fetched rows to that of the tables."""
        for name, table in self._tables():
            if (gradient := rows[name].grad) is not None:
                self._add(table, index, gradient)

    def share(self, count: int) -> slice:
        """Which samples of a batch this process has the loss of."""
        return slice(0, count)

    def total(self, values: Tensor) -> Tensor:
        """The sum over processes."""
        return values

    def most(self, values: Tensor) -> Tensor:
        """The largest value over processes."""
        return values

    def finish(self, *others: nn.Module) -> None:
        """Bring the gradient of all that is on every process together, that of other modules, too."""

    def gathered(self) -> KGEModel:
        """The model with whole tables."""
        return self.model

    def _tables(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, self.model.get_parameter(name)) for name in self.model.entity_tables]

    @staticmethod
    def _add(table: nn.Parameter, index: Tensor, gradient: Tensor) -> None:
        if not table.requires_grad:
            return
        if table.grad is None:
            table.grad = torch.zeros_like(table)
        table.grad.index_add_(0, index, gradient)


class EntityShards(EntityTables):
    """The entity tables of a model in pieces of nearly equal size, one in each process.

    The model is changed: its tables keep the rows of this process alone, so that `KGEModel.compare` with `rows()` gives
    the scores of these entities, and only of these. Every process takes over the weights of the first one.

    Make optimizers afterwards: their state has the size of the tables. To rank, `gathered()` gives a whole model.

    Args:
        model: with whole tables, built in every process.
        group: the processes; all by default.

    Raises:
        ValueError: if there are fewer entities than processes, or the tables are in pieces already.

    >>> from equipoise.knowledge.models.base import KGEModel
    >>> EntityShards.rows_of(10, rank=1, world=3)
    range(3, 6)
    """

    def __init__(self, model: KGEModel, group: Group = None) -> None:
        super().__init__(model)
        self.group, self.rank, self.world = group, rank_of_process(group), world_size(group)
        if model.num_entities < self.world:
            raise ValueError(f"{model.num_entities} entities cannot lie on {self.world} processes; use fewer processes")
        for name, table in self._tables():
            if len(table) != model.num_entities:
                raise ValueError(f"{name} has {len(table)} rows of {model.num_entities} entities: it is cut already")
        self.own = self.rows_of(model.num_entities, self.rank, self.world)
        with torch.no_grad():
            for each in (*model.parameters(), *model.buffers()):
                each.copy_(of_first_process(each, group))
        for _, table in self._tables():
            table.data = table.data[self.own.start : self.own.stop].clone()

    @staticmethod
    def rows_of(num_entities: int, rank: int, world: int) -> range:
        """The entities of a process."""
        return range(rank * num_entities // world, (rank + 1) * num_entities // world)

    def fetch(self, index: Tensor) -> dict[str, Tensor]:
        """Rows of the tables from their owners, (n, width) each, as leaves; every process must ask for the same ones.

        Args:
            index: (n,) entities.
        """
        own, place = self._here(index)
        found = {}
        for name, table in self._tables():
            rows = table.new_zeros((len(index), *table.shape[1:]))
            rows[own] = table.detach()[place]
            found[name] = self.total(rows).requires_grad_()
        return found

    def give_back(self, index: Tensor, rows: dict[str, Tensor]) -> None:
        """Add the gradient of fetched rows, summed over processes, to that of the own rows."""
        own, place = self._here(index)
        for name, table in self._tables():
            gradient = rows[name].grad
            whole = self.total(torch.zeros_like(rows[name]) if gradient is None else gradient)
            self._add(table, place, whole[own])

    def share(self, count: int) -> slice:
        """Which samples of a batch this process has the loss of; none where there are fewer than processes."""
        return slice(self.rank * count // self.world, (self.rank + 1) * count // self.world)

    def total(self, values: Tensor) -> Tensor:
        """The sum over processes, without gradient."""
        return sum_of_processes(values.detach(), self.group)

    def most(self, values: Tensor) -> Tensor:
        """The largest value over processes, without gradient."""
        return most_of_processes(values.detach(), self.group)

    def finish(self, *others: nn.Module) -> None:
        """Sum the gradient of all that is on every process, that of other modules, too."""
        pieces = {id(table) for _, table in self._tables()}
        for module in (self.model, *others):
            for parameter in module.parameters():
                if parameter.requires_grad and id(parameter) not in pieces:
                    given = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                    parameter.grad = self.total(given)

    def gathered(self) -> KGEModel:
        """A copy of the model with whole tables, to rank or to save; every process must ask for it."""
        whole = copy.deepcopy(self.model)
        for name, table in self._tables():
            whole.get_parameter(name).data = gather_rows(table.detach(), self.group).clone()
        return whole

    def _here(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Which of the entities are the own ones, and their place in the own rows."""
        own = (index >= self.own.start) & (index < self.own.stop)
        return own, index[own] - self.own.start
