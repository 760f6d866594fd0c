r"""Losses of triples: against all entities, or against some that are drawn.

    cross-entropy   Σ_i w(t_i) · ( log Σ_e exp s_ie − s_it ) / Σ_i w(t_i)            all entities e as tails
    logistic        mean over positives and negatives of log(1 + exp(−Y φ))          Y = 1, −1

Each negative weighs as much as a positive, so K negatives outweigh their positive K to one. Entity weights
low + (1 − low) · count / max count make frequent targets count more.

Cao et al., "Geometry Interaction Knowledge Graph Embeddings", AAAI 2022, eq. 11 and the authors' code (double
negatives); Cao et al., "ER: Equivariance Regularizer for Knowledge Graph Completion", AAAI 2022, with the entity
weights of code of the same family.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import torch
from jaxtyping import Float, Integer
from torch import Generator, Tensor, nn
from torch.nn import functional

from equipoise.core.signature import checked
from equipoise.core.types import ClassIndex, Count, MayBeEmpty, Probability, Range, Scalar, Scores, Whole
from equipoise.data.interactions.matrix import check_indices

EntityScores: TypeAlias = Float[Tensor, "n entities"]
EntityTarget: TypeAlias = Annotated[Integer[Tensor, " n"], ClassIndex("entities")]
EntityWeight: TypeAlias = Annotated[Float[Tensor, " entities"], Range(0)]
Triples: TypeAlias = Integer[Tensor, "n 3"]


class OneVsAllCrossEntropy(nn.Module):
    """Cross-entropy of the true tail among all entities.

    Args:
        entity_weight: (N,) weight of a query by its target, see `frequency_weights`; 1 by default.

    Raises:
        ValueError: if a weight is negative.

    >>> OneVsAllCrossEntropy()(torch.zeros(1, 2), torch.tensor([1]))
    tensor(0.6931)
    """

    entity_weight: Tensor | None

    @checked
    def __init__(self, entity_weight: EntityWeight | None = None) -> None:
        super().__init__()
        self.register_buffer("entity_weight", entity_weight)

    @checked
    def forward(self, scores: EntityScores, target: EntityTarget) -> Scalar:
        """The weighted mean over queries.

        Args:
            scores: (n, N) of all entities.
            target: (n,) the entity that is right.

        Raises:
            ValueError: on a bad argument, by name; if all targets weigh 0.
        """
        return kg_cross_entropy(scores, target, self.entity_weight)


class LogisticNegativeLoss(nn.Module):
    """Logistic loss of triples against triples that are drawn.

    Args:
        num_negatives: K, of each triple; with 0 only the triples themselves count.
        double_negatives: replace head and tail of a negative by two independent entities, not the tail alone.

    Raises:
        ValueError: on a bad setting, by name.

    >>> LogisticNegativeLoss(num_negatives=1)(torch.zeros(1), torch.zeros(1, 1))
    tensor(0.6931)
    """

    @checked
    def __init__(self, num_negatives: Whole = 50, double_negatives: bool = False) -> None:
        super().__init__()
        self.num_negatives, self.double_negatives = num_negatives, double_negatives

    @checked
    def forward(self, positive: Scores, negative: Annotated[Float[Tensor, "n negatives"], MayBeEmpty()]) -> Scalar:
        """The mean over positives and negatives.

        Args:
            positive: (n,) scores of triples.
            negative: (n, K) scores of the negatives of each.

        Raises:
            ValueError: on a bad argument, by name.
        """
        return logistic_negative_loss(positive, negative)

    @checked
    def draw(self, triples: Triples, num_entities: Count, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """Heads and tails of negatives, uniform over all entities, the true ones among them.

        Args:
            triples: (n, 3).
            num_entities: N.
            generator: of the draws.

        Returns:
            (n, K) heads and (n, K) tails; the relation is that of the triple.
        """
        shape = len(triples), self.num_negatives
        heads = triples[:, :1].expand(shape)
        if self.double_negatives:
            heads = torch.randint(num_entities, shape, generator=generator).to(triples.device)
        return heads, torch.randint(num_entities, shape, generator=generator).to(triples.device)


@checked
def kg_cross_entropy(scores: EntityScores, target: EntityTarget, entity_weight: EntityWeight | None = None) -> Scalar:
    """Cross-entropy of the true tail among all entities, a mean weighted by the targets.

    Args:
        scores: (n, N).
        target: (n,) the entity that is right.
        entity_weight: (N,) weight of a query by its target; 1 by default.

    Raises:
        ValueError: on a bad argument, by name; if all targets weigh 0.

    >>> kg_cross_entropy(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 0]), torch.tensor([1.0, 0.0]))
    tensor(0.4100)
    """
    if entity_weight is not None:
        check_target_weights(entity_weight[target])
        entity_weight = entity_weight.to(scores.dtype)
    return functional.cross_entropy(scores, target, weight=entity_weight)


@checked
def logistic_negative_loss(positive: Scores, negative: Annotated[Float[Tensor, "n negatives"], MayBeEmpty()]) -> Scalar:
    """The mean over positives and negatives of log(1 + exp(−Y φ)).

    Args:
        positive: (n,) scores of triples.
        negative: (n, K) scores of the negatives of each; K may be 0.

    Raises:
        ValueError: on a bad argument, by name.

    >>> logistic_negative_loss(torch.tensor([2.0]), torch.tensor([[-2.0, -2.0]]))
    tensor(0.1269)
    """
    losses = functional.softplus(torch.cat([-positive[:, None], negative], 1))
    return losses.mean()


@checked
def frequency_weights(triples: Triples, num_entities: Count, low: Probability = 0.1) -> Float[Tensor, " entities"]:
    """Weights of entities by how often they are head or tail, from `low` for none to 1 for the most frequent.

    Args:
        triples: (n, 3).
        num_entities: N.
        low: weight of an entity that is in no triple.

    Returns:
        (N,) low + (1 − low) · count / max count.

    Raises:
        ValueError: on a bad argument, by name.
        IndexError: if a triple has an entity beyond N.

    >>> frequency_weights(torch.tensor([[0, 0, 1], [0, 0, 0]]), 3)
    tensor([1.0000, 0.4000, 0.1000])
    """
    entities = triples[:, [0, 2]].long().flatten()
    check_indices("triples", entities, num_entities)
    counts = entities.bincount(minlength=num_entities)
    return low + (1 - low) * (counts / counts.max())


def check_target_weights(weights: Tensor) -> None:
    """Raise `ValueError` if all weights of the targets of a batch are 0."""
    if not torch.compiler.is_compiling() and not bool((weights > 0).any()):
        raise ValueError("entity_weight is 0 for all targets of the batch: there is no mean of nothing")
