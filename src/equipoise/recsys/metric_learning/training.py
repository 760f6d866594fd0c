"""Training loops of metric learning: one step per batch of observed pairs, or per batch of users without sampling.

With `sharded=True` every process of torch.distributed holds some of the users, their vectors and their items, and the
whole table of items; it is one training on all users, with the batches of the processes as one batch. Only the gradient
of the items is sent.

A trainer does one epoch at a time and can save and take up its state; `fit_recommender`, the loop of `core.epochs`,
runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Generator, Tensor
from torch.optim import Optimizer

from equipoise.core.distributed import most_of_processes, sum_of_processes
from equipoise.core.epochs import fit_epochs
from equipoise.core.reduction import attached_zero
from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, Positive, Whole
from equipoise.data.interactions.matrix import Interactions
from equipoise.recsys.metric_learning.diversity import DiversityControl
from equipoise.recsys.metric_learning.models import SFCML, MultiVectorCML
from equipoise.recsys.metric_learning.negatives import TwoStageNegatives, UniformNegatives
from equipoise.recsys.metric_learning.triplets import topk_negative_loss

# Mean losses, each with the number of samples that it is a mean of.
_Terms: TypeAlias = list[tuple[Tensor, int]]
_MOST_TERMS = 2


class SampledTrainer:
    """Metric learning against sampled items.

    Args:
        model: what is trained.
        interactions: the training part.
        sampler: of unobserved items; ten uniform ones by default.
        kept: K: how many of the sampled items count, the nearest ones: all by default, 1 for hard negatives.
        margin: λ.
        diversity: the penalty on the vectors of the users of a batch; none by default, and none where every user has
            one vector.
        diversity_weight: η.
        optimizer: of the model's parameters; Adam at `learning_rate` by default.
        learning_rate: of the default optimizer.
        batch_size: observed pairs per step.
        sharded: the users are those of this process, see the module; the items are the same everywhere. A sampler by
            popularity should be given that of all users.
        seed: of the order of the pairs, and of the default sampler.

    Raises:
        ValueError: on a bad setting, by name; if there are no interactions, or of another size than the model.

    >>> likes = Interactions.from_pairs([0, 0, 1, 1], [0, 1, 2, 3])
    >>> trainer = SampledTrainer(MultiVectorCML(2, 4, dim=4, num_vectors=1), likes, learning_rate=0.05)
    >>> losses = [trainer.epoch() for _ in range(30)]
    >>> losses[-1] < losses[0]
    True
    """

    @checked
    def __init__(
        self,
        model: MultiVectorCML,
        interactions: Interactions,
        *,
        sampler: UniformNegatives | None = None,
        kept: Count | None = None,
        margin: NonNegative = 1.0,
        diversity: DiversityControl | None = None,
        diversity_weight: NonNegative = 10.0,
        optimizer: Optimizer | None = None,
        learning_rate: Positive = 1e-3,
        batch_size: Count = 1024,
        sharded: bool = False,
        seed: Whole = 0,
    ) -> None:
        _check_sizes(interactions, len(model.user), len(model.item))
        self.model, self.interactions = model, interactions
        self.sampler = sampler or UniformNegatives(interactions, generator=Generator().manual_seed(seed))
        sampled = self.sampler.interactions
        if (sampled.num_users, sampled.num_items) != (interactions.num_users, interactions.num_items):
            raise ValueError("sampler is of other users or items than interactions")
        self.kept = kept or self.sampler.num_negatives
        if self.kept > self.sampler.num_negatives:
            raise ValueError(f"kept={kept} must lie in [1, {self.sampler.num_negatives}], the number of negatives")
        self.margin, self.diversity, self.diversity_weight = margin, diversity, diversity_weight
        self.optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
        self.batch_size, self.sharded, self._generator = batch_size, sharded, Generator().manual_seed(seed)
        self._pairs = interactions.users, interactions.items
        self._several = int(model.num_vectors.max()) > 1

    def epoch(self) -> float:
        """Train on every observed pair once, against freshly drawn items; the mean loss."""
        order = torch.randperm(len(self.interactions), generator=self._generator)
        return _epoch(self, order.split(self.batch_size), self._terms, len(self.interactions))

    def _terms(self, batch: Tensor) -> _Terms:
        users, items = (each[batch] for each in self._pairs)
        near, far = self.model(users, items, self._negatives(users, items))
        terms = [(topk_negative_loss(near, far, self.kept, self.margin), len(batch))]
        if self.diversity is not None and self._several:
            owners = users.unique()
            penalty = self.diversity(self.model.user[owners], self.model.num_vectors[owners])
            terms.append((self.diversity_weight * penalty, len(owners)))
        return terms

    def _negatives(self, users: Tensor, items: Tensor) -> Tensor:
        if isinstance(self.sampler, TwoStageNegatives):
            return self.sampler(users, items, self.model.item_vectors())
        return self.sampler(users)

    def state_dict(self) -> dict[str, Any]:
        """What an interrupted training needs to go on as if nothing had happened."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "order": self._generator.get_state(),
            "sampler": self.sampler.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["order"])
        self.sampler.generator.set_state(state["sampler"])


class SamplingFreeTrainer:
    """Metric learning against all unobserved items.

    Args:
        model: what is trained.
        interactions: the training part; users with no item or all items are left out.
        optimizer: of the model's parameters; Adagrad at `learning_rate` with a weight decay of 1e-5 by default, as in
            the authors' code.
        learning_rate: of the default optimizer.
        batch_users: users per step.
        sharded: the users are those of this process, see the module; the items are the same everywhere.
        seed: of the order of the users.

    Raises:
        ValueError: on a bad setting, by name; if no user has both kinds of items, or the model is of another size.

    >>> likes = Interactions.from_pairs([0, 0, 1, 1], [0, 1, 2, 3])
    >>> trainer = SamplingFreeTrainer(SFCML(2, 4, dim=4), likes)
    >>> losses = [trainer.epoch() for _ in range(30)]
    >>> losses[-1] < losses[0]
    True
    """

    @checked
    def __init__(
        self,
        model: SFCML,
        interactions: Interactions,
        *,
        optimizer: Optimizer | None = None,
        learning_rate: Positive = 0.05,
        batch_users: Count = 256,
        sharded: bool = False,
        seed: Whole = 0,
    ) -> None:
        _check_sizes(interactions, len(model.user), len(model.item))
        taken = interactions.per_user
        self._users = ((taken > 0) & (taken < interactions.num_items)).nonzero().squeeze(1)
        if not len(self._users):
            raise ValueError("no user has both observed and unobserved items")
        self.model, self.interactions, self.batch_users, self.sharded = model, interactions, batch_users, sharded
        self.optimizer = optimizer or torch.optim.Adagrad(model.parameters(), lr=learning_rate, weight_decay=1e-5)
        self._generator = Generator().manual_seed(seed)

    def epoch(self) -> float:
        """Train on every user once; the mean loss."""
        order = self._users[torch.randperm(len(self._users), generator=self._generator)]
        return _epoch(self, order.split(self.batch_users), self._terms, len(self._users))

    def _terms(self, users: Tensor) -> _Terms:
        return [(self.model.loss(users, self.interactions), len(users))]

    def state_dict(self) -> dict[str, Any]:
        """What an interrupted training needs to go on as if nothing had happened."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "order": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["order"])


fit_recommender = fit_epochs
"""The loop of `core.epochs` under the name that this room has for it."""


def _epoch(
    trainer: SampledTrainer | SamplingFreeTrainer,
    batches: Sequence[Tensor],
    terms_of: Callable[[Tensor], _Terms],
    samples: int,
) -> float:
    """A step for each batch; the mean loss of all samples, of all processes where the users are sharded."""
    if not trainer.sharded:
        return sum(_step(trainer, terms) * terms[0][1] for terms in map(terms_of, batches)) / samples
    total = torch.zeros(2, dtype=torch.float64)
    for step in range(int(most_of_processes(torch.tensor(len(batches))))):
        if step < len(batches):
            terms = terms_of(batches[step])
        else:  # the others are not done
            terms = [(attached_zero(trainer.model.user, trainer.model.item), 0)]
        counts = torch.tensor([count for _, count in terms] + [0] * (_MOST_TERMS - len(terms)), dtype=torch.float64)
        whole = sum_of_processes(counts)
        shares = [(loss * (count / float(whole[k])), count) for k, (loss, count) in enumerate(terms) if whole[k]]
        total += torch.tensor([_step(trainer, shares) * float(whole[0]), counts[0]], dtype=torch.float64)
    total = sum_of_processes(total)
    return float(total[0] / total[1])


def _step(trainer: SampledTrainer | SamplingFreeTrainer, terms: _Terms) -> float:
    model, optimizer = trainer.model, trainer.optimizer
    loss = sum((term for term, _ in terms[1:]), terms[0][0])
    optimizer.zero_grad()
    loss.backward()
    if trainer.sharded:
        assert model.item.grad is not None
        model.item.grad = sum_of_processes(model.item.grad)
    optimizer.step()
    model.project_()
    return float(loss.detach())


def _check_sizes(interactions: Interactions, users: int, items: int) -> None:
    if not len(interactions):
        raise ValueError("interactions are empty: there is nothing to learn from")
    if (interactions.num_users, interactions.num_items) != (users, items):
        raise ValueError(
            f"interactions are of {interactions.num_users} users and {interactions.num_items} items, the model of "
            f"{users} and {items}"
        )
