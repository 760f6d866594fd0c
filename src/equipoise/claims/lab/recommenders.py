"""Recommenders that the claims of `recsys` train on worlds of several interests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from equipoise.data import Interactions, split_interactions
from equipoise.data.interactions.interest_world import make_interest_world
from equipoise.recsys import (
    SFCML,
    DiversityControl,
    MultiVectorCML,
    PopularityNegatives,
    SampledTrainer,
    SamplingFreeTrainer,
    UniformNegatives,
    ranking_metrics,
)


@dataclass(frozen=True)
class InterestSplit:
    """A world of interests, split.

    Attributes:
        train: to learn from.
        test: to judge by.
        small: of the test items, those of the user's two smallest interests.
    """

    train: Interactions
    test: Interactions
    small: Interactions


@dataclass(frozen=True)
class Sampled:
    """An arm of sampled metric learning.

    Attributes:
        vectors: per user.
        candidates: S.
        kept: K.
        popular: candidates by popularity instead of uniform ones.
        diversity: with the penalty of the paper (.05, .25, η = 10), or without.
    """

    vectors: int = 1
    candidates: int = 10
    kept: int = 10
    popular: bool = False
    diversity: bool = False


@dataclass(frozen=True)
class Budget:
    """What every arm of an experiment may spend.

    Attributes:
        dim: of the vectors.
        epochs: over the training pairs.
        batch: pairs per step.
        margin: of the hinge.
    """

    dim: int = 8
    epochs: int = 30
    batch: int = 512
    margin: float = 1.0


def interest_split(seed: int, *, held_out: float = 0.4, **sizes: int) -> InterestSplit:
    """A world of a seed, and 40 % of each user's items held out."""
    world = make_interest_world(seed=seed, **sizes)
    split = split_interactions(world.interactions, (1 - held_out, 0.0, held_out), seed=seed)
    users, items = split.test.users, split.test.items
    smallest = (world.item_group[items][:, None] == world.interests[users][:, 2:]).any(1)
    whole = world.interactions
    small = Interactions.from_pairs(
        users[smallest], items[smallest], num_users=whole.num_users, num_items=whole.num_items
    )
    return InterestSplit(split.train, split.test, small)


def inner_split(split: InterestSplit, seed: int) -> InterestSplit:
    """A third of the training part as validation, for the choice of settings: the test part is not touched."""
    inner = split_interactions(split.train, (2, 0, 1), seed=seed)
    return replace(split, train=inner.train, test=inner.test)


def train_sampled(
    train: Interactions, arm: Sampled, budget: Budget, *, learning_rate: float, seed: int
) -> MultiVectorCML:
    """A model of the arm; arms of one seed see the pairs in the same order."""
    model = MultiVectorCML(train.num_users, train.num_items, budget.dim, arm.vectors, seed=seed)
    kind = PopularityNegatives if arm.popular else UniformNegatives
    trainer = SampledTrainer(
        model,
        train,
        sampler=kind(train, arm.candidates, generator=Generator().manual_seed(seed)),
        kept=arm.kept,
        margin=budget.margin,
        diversity=DiversityControl(0.05, 0.25) if arm.diversity else None,
        learning_rate=learning_rate,
        batch_size=budget.batch,
        seed=seed,
    )
    for _ in range(budget.epochs):
        trainer.epoch()
    return model


def train_sampling_free(
    train: Interactions, *, dim: int, margin: float, learning_rate: float, epochs: int, seed: int
) -> SFCML:
    """A model against all unobserved items."""
    model = SFCML(train.num_users, train.num_items, dim, margin, seed=seed)
    trainer = SamplingFreeTrainer(model, train, learning_rate=learning_rate, seed=seed)
    for _ in range(epochs):
        trainer.epoch()
    return model


def judged(model: MultiVectorCML | SFCML, split: InterestSplit) -> dict[str, float]:
    """Full ranking of all items but the training ones."""
    with torch.no_grad():
        scores: Tensor = model.predict(torch.arange(split.train.num_users))
    found: Mapping[str, Tensor] = ranking_metrics(scores, split.test, split.train, k=20)
    small = ranking_metrics(scores, split.small, split.train, k=20)
    return {
        "NDCG@20": float(found["ndcg@20"]),
        "MAP": float(found["map"]),
        "AUC": float(found["auc"]),
        "recall@20, two smallest interests": float(small["recall@20"]),
    }
