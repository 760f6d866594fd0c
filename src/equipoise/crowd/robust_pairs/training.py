"""Training a network on answers of which some are wrong, in two stages or in one.

Two stages (`OutlierAlternator`): some epochs with the outlier terms held, then one pass over all items and the best
term of every answer, and again. One stage (`fit_pairwise_ranker`): the loss with the terms minimised out, which has the
same joint minima and stores no terms.

Xu et al., CVPR 2019, with the schedule of the authors' code, which decays weights in Adam: λ₂‖Θ‖² of the paper is
`weight_decay` = 2 λ₂.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, Positive, Whole
from equipoise.core.validate import check_finite, warn_once
from equipoise.crowd.robust_pairs.graph import ComparisonGraph
from equipoise.crowd.robust_pairs.loss import LossMode, pair_outlier_loss
from equipoise.crowd.robust_pairs.network import PairwiseRanker, reader, scored_pairs
from equipoise.crowd.robust_pairs.outlier_table import OutlierTable
from equipoise.crowd.robust_pairs.outliers import OutlierModel


@dataclass(frozen=True, eq=False)
class PairwiseFit:
    """What `fit_pairwise_ranker` returns.

    Attributes:
        ranker: the trained network, in evaluation mode.
        losses: mean loss per edge of each epoch.
        outliers: every edge with its outlier term at the end.
    """

    ranker: PairwiseRanker
    losses: list[float]
    outliers: OutlierTable


class AlternationRound(NamedTuple):
    """A round of the alternation.

    Attributes:
        losses: mean loss per edge of each of its epochs, at the terms of the round before.
        ratio: share of all answers that were outliers after it.
        warmup: whether its epochs were trained without outlier terms, before the first step on them.
    """

    losses: list[float]
    ratio: float
    warmup: bool


class OutlierAlternator:
    """Alternation between epochs of training and exact steps on the outlier terms.

    Args:
        ranker: the network, trained in place.
        items: inputs (items, ...) of all items, or a function from (k,) indices to inputs (k, ...).
        graph: the answers.
        lambda1: price of an outlier term of 1, above 0.
        model: "squared" or "logistic".
        epochs: most epochs of a round; the authors' code has 30 rounds of 3 for "squared", of 5 and 10 for "logistic".
        gamma_warmup: epochs without outlier terms before the first step on them: early scores accuse good answers.
        learning_rate: of Adam.
        weight_decay: of Adam.
        milestones: epochs, counted over all rounds, after which the learning rate is divided by 10.
        batch_size: edges of a step; None takes all.
        tolerance: a round ends when the mean loss changes by less than this from epoch to epoch.
        seed: of the order of edges.

    Attributes:
        gamma: (edges,) the outlier terms, 0 at first.
        rounds: a `AlternationRound` of each.

    Raises:
        ValueError: on a bad argument, by name.

    >>> graph = ComparisonGraph.from_edges(torch.tensor([0, 1, 0]), torch.tensor([1, 2, 2]), torch.tensor([1, 1, 1]))
    >>> ranker = PairwiseRanker(torch.nn.Linear(3, 4), width=4)
    >>> course = OutlierAlternator(ranker, torch.eye(3), graph, lambda1=0.3, epochs=5, learning_rate=0.1).fit(2)
    >>> len(course.rounds), course.outliers().is_outlier.tolist()
    (2, [False, False, False])
    """

    @checked
    def __init__(
        self,
        ranker: PairwiseRanker,
        items: Any,
        graph: ComparisonGraph,
        *,
        lambda1: Positive = 0.5,
        model: OutlierModel = "logistic",
        epochs: Count = 5,
        gamma_warmup: Whole = 0,
        learning_rate: Positive = 1e-4,
        weight_decay: NonNegative = 0.0,
        milestones: Sequence[Count] = (),
        batch_size: Count | None = 32,
        tolerance: NonNegative = 1e-4,
        seed: Whole = 0,
    ) -> None:
        self.graph, self.lambda1, self.model = graph, lambda1, model
        self.epochs, self.gamma_warmup, self.tolerance = epochs, gamma_warmup, tolerance
        self._course = _Course(ranker, items, graph, learning_rate, weight_decay, milestones, batch_size, seed)
        self.gamma: Float[Tensor, " edges"] = torch.zeros(len(graph))
        self.rounds: list[AlternationRound] = []

    @property
    def ranker(self) -> PairwiseRanker:
        """The network."""
        return self._course.ranker

    @checked
    def fit(self, rounds: Count = 10) -> OutlierAlternator:
        """Train for some rounds; the warm-up, where there is one, comes before the first and is a round of its own."""
        if self.gamma_warmup and not self.rounds:
            losses = self.train(self.gamma_warmup)
            self.rounds.append(AlternationRound(losses, self._update(), True))
        for _ in range(rounds):
            losses = self.train(self.epochs)
            self.rounds.append(AlternationRound(losses, self._update(), False))
        self.ranker.eval()
        return self

    @checked
    def train(self, epochs: Count) -> list[float]:
        """The losses of some epochs with the outlier terms held, fewer if the loss settles."""
        losses: list[float] = []
        for _ in range(epochs):
            losses.append(self._course.epoch(self.lambda1, self.model, self.gamma))
            if len(losses) > 1 and abs(losses[-1] - losses[-2]) < self.tolerance:
                break
        return losses

    def update_gamma(self) -> Float[Tensor, " edges"]:
        """The best outlier term of every edge at the present scores, which training goes on with."""
        self._update()
        return self.gamma

    def outliers(self) -> OutlierTable:
        """Every edge with its best outlier term at the present scores."""
        return OutlierTable.at(self.graph, self._course.scores(), self.lambda1, self.model)

    def _update(self) -> float:
        table = self.outliers()
        self.gamma = table.gamma
        return table.ratio


@checked
def fit_pairwise_ranker(
    ranker: PairwiseRanker,
    items: Any,
    graph: ComparisonGraph,
    *,
    lambda1: Positive = 0.5,
    model: OutlierModel = "logistic",
    epochs: Count = 50,
    gamma_warmup: Whole = 0,
    learning_rate: Positive = 1e-4,
    weight_decay: NonNegative = 0.0,
    milestones: Sequence[Count] = (),
    batch_size: Count | None = 32,
    progress: Callable[[int, float], None] | None = None,
    seed: Whole = 0,
) -> PairwiseFit:
    """Train a network on the loss with the outlier terms minimised out, in place.

    Args:
        ranker: the network.
        items: inputs (items, ...) of all items, or a function from (k,) indices to inputs (k, ...).
        graph: the answers.
        lambda1: price of an outlier term of 1, above 0.
        model: "squared" or "logistic".
        epochs: passes over the edges.
        gamma_warmup: the first of these, which are trained without outlier terms.
        learning_rate: of Adam.
        weight_decay: of Adam.
        milestones: epochs after which the learning rate is divided by 10.
        batch_size: edges of a step; None takes all.
        progress: told the epoch, from 1, and its loss.
        seed: of the order of edges.

    Raises:
        ValueError: on a bad argument, by name.

    >>> graph = ComparisonGraph.from_edges(torch.tensor([0, 1]), torch.tensor([1, 2]), torch.tensor([1, 1]))
    >>> found = fit_pairwise_ranker(PairwiseRanker(torch.nn.Identity(), 3), torch.eye(3), graph, learning_rate=0.1)
    >>> found.ranker.score(torch.eye(3)).squeeze(1).argsort().tolist()
    [2, 1, 0]
    """
    course = _Course(ranker, items, graph, learning_rate, weight_decay, milestones, batch_size, seed)
    losses: list[float] = []
    for epoch in range(epochs):
        gamma = torch.zeros(len(graph)) if epoch < gamma_warmup else None
        losses.append(course.epoch(lambda1, model, gamma))
        if progress is not None:
            progress(epoch + 1, losses[-1])
    ranker.eval()
    return PairwiseFit(ranker, losses, OutlierTable.at(graph, course.scores(), lambda1, model))


class _Course:
    """Epochs over the edges of a graph."""

    def __init__(
        self,
        ranker: PairwiseRanker,
        items: Any,
        graph: ComparisonGraph,
        learning_rate: float,
        weight_decay: float,
        milestones: Sequence[int],
        batch_size: int | None,
        seed: int,
    ) -> None:
        if graph.num_attributes > ranker.num_attributes:
            raise ValueError(f"graph has {graph.num_attributes} attributes, ranker has {ranker.num_attributes} heads")
        if isinstance(items, Tensor):
            if len(items) != graph.num_items:
                raise ValueError(f"items have {len(items)} rows, graph has {graph.num_items} items")
            if items.is_floating_point():
                check_finite("items", items)
        self.ranker, self.items, self.graph, self._take = ranker, items, graph, reader(items)
        self._size = batch_size or len(graph)
        self._generator = Generator().manual_seed(seed)
        self._optimizer = torch.optim.Adam(ranker.parameters(), learning_rate, weight_decay=weight_decay)
        self._schedule = torch.optim.lr_scheduler.MultiStepLR(self._optimizer, list(milestones), 0.1)
        unused = sorted(set(range(ranker.num_attributes)) - set(graph.attribute.tolist()))
        if unused:
            warn_once(f"attributes {', '.join(map(str, unused))} have no edges; their heads stay as they are")
        self._unused = torch.tensor(unused, dtype=torch.long)

    def epoch(self, lambda1: float, model: OutlierModel, gamma: Tensor | None) -> float:
        """Train on every edge once, with these outlier terms or, without any, with the best ones; the mean loss."""
        graph, total = self.graph, 0.0
        mode: LossMode = "profile" if gamma is None else "given_gamma"
        kept = [each.detach()[self._unused].clone() for each in (self.ranker.weight, self.ranker.bias)]
        self.ranker.train()
        for rows in torch.randperm(len(graph), generator=self._generator).split(self._size):
            scores = scored_pairs(
                self.ranker, self._take, graph.item_i[rows], graph.item_j[rows], graph.attribute[rows]
            )
            like = scores.score_i
            loss = pair_outlier_loss(
                *scores,
                graph.y[rows].to(like.device),
                graph.strength[rows].to(like),
                None if gamma is None else gamma[rows].to(like),
                lambda1=lambda1,
                model=model,
                mode=mode,
            )
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            total += float(loss.detach()) * len(rows)
            if len(self._unused):
                # Weight decay alone would move them.
                with torch.no_grad():
                    self.ranker.weight[self._unused], self.ranker.bias[self._unused] = kept
        self._schedule.step()
        return total / len(graph)

    def scores(self) -> Tensor:
        """Scores of all items by the attributes of the graph, in evaluation mode."""
        found = self.ranker.score(self.items, num_items=self.graph.num_items)
        return found[:, : self.graph.num_attributes].cpu()
