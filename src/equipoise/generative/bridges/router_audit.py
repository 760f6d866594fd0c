"""What a mixture's router shows to somebody who can look inside, and which experts do nothing for clean pictures.

    weights   mean and variance of each expert's weight over pictures, entropies, clusters of weights
    removal   rise of the error on clean pairs when an expert is taken out and the weights of the others scaled up

An expert whose removal costs nothing on clean data serves something else. Inferred: no paper has this audit in this
form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, Whole
from equipoise.generative.bridges.mixture import RoutedMixture
from equipoise.generative.bridges.model import BridgeModel
from equipoise.generative.bridges.reallocation import router_entropy

_ROUNDS = 50


@dataclass(frozen=True, eq=False)
class RouterReport:
    """What an audit found.

    Attributes:
        mean_weight: (K,) over pictures.
        variance: (K,) of each expert's weight over pictures.
        entropy: mean over pictures, in nats.
        entropy_of_mean: of the mean weights; far above `entropy` where different pictures go to different experts.
        cluster: (n,) which cluster each picture's weights fall in, the largest is 0.
        centres: (clusters, K) mean weights of the clusters.
        separation: share of the weights' variance that lies between clusters, 0 to 1; NaN where weights are all alike.
        error: mean squared error on the clean pairs.
        error_without: (K,) the same without each expert; NaN where it is the only one.
        suspicious: experts whose removal raises the error by no more than the tolerance; never the one that is missed
            most, so that all of them can be taken out.
    """

    mean_weight: Tensor
    variance: Tensor
    entropy: float
    entropy_of_mean: float
    cluster: Tensor
    centres: Tensor
    separation: float
    error: float
    error_without: Tensor
    suspicious: tuple[int, ...]


class RouterAudit:
    """The audit.

    Args:
        tolerance: relative rise of the error on clean pairs up to which an expert counts as doing nothing for them.
        clusters: of weights; as many as experts by default.
        seed: of sampling.

    >>> RouterAudit(tolerance=0.05)
    RouterAudit(tolerance=0.05, clusters=None, seed=0)
    """

    @checked
    def __init__(self, tolerance: NonNegative = 0.05, *, clusters: Count | None = None, seed: Whole = 0) -> None:
        self.tolerance, self.clusters, self.seed = tolerance, clusters, seed

    def __repr__(self) -> str:
        return f"RouterAudit(tolerance={self.tolerance}, clusters={self.clusters}, seed={self.seed})"

    @torch.no_grad()
    @checked
    def run(
        self,
        model: BridgeModel,
        clean: Float[Tensor, "n c h w"],
        degraded: Float[Tensor, "n c h w"],
        *,
        seen: Float[Tensor, "m c h w"] | None = None,
    ) -> RouterReport:
        """Audit a model whose network is a `RoutedMixture`.

        Args:
            model: left as it is.
            clean: (n, c, h, w) pictures known to be clean.
            degraded: (n, c, h, w) the same degraded.
            seen: (m, c, h, w) degraded pictures from anywhere, whose weights are looked at; `degraded` by default.

        Raises:
            ValueError: if the network is no mixture or shapes differ.
        """
        mixture = model.network
        if not isinstance(mixture, RoutedMixture):
            raise ValueError(f"model must have a RoutedMixture as its network, got {type(mixture).__name__}")
        weights = mixture.route(model.encode(degraded if seen is None else seen))
        clusters = weight_clusters(weights, min(self.clusters or weights.shape[1], len(weights)))
        error = self._error(model, clean, degraded)
        kept = mixture.kept.nonzero().flatten().tolist()
        without = torch.full((weights.shape[1],), math.nan, dtype=torch.float64)
        try:
            for m in kept if len(kept) > 1 else ():
                model.network = mixture.without([m])
                without[m] = self._error(model, clean, degraded)
        finally:
            model.network = mixture
        needed = int(without.nan_to_num(-math.inf).argmax())
        return RouterReport(
            weights.mean(0),
            weights.var(0, unbiased=False),
            float(router_entropy(weights).mean()),
            float(router_entropy(weights, mean_first=True)),
            *clusters,
            error,
            without,
            tuple(m for m in kept if m != needed and float(without[m]) <= error * (1 + self.tolerance)),
        )

    def _error(self, model: BridgeModel, clean: Tensor, degraded: Tensor) -> float:
        return float((model(degraded, self.seed).double() - clean.double()).square().mean())


@checked
def weight_clusters(
    weights: Float[Tensor, "n k"], clusters: Count
) -> tuple[Int64[Tensor, " n"], Float[Tensor, "clusters k"], float]:
    """Router weights in groups, by k-means from the points farthest from each other.

    Args:
        weights: (n, K).
        clusters: how many, at most n; fewer where fewer points differ.

    Returns:
        (n,) the group of each, the largest first; (groups, K) their means; the share of variance between groups.

    Raises:
        ValueError: if there are more clusters than rows.

    >>> group, centres, share = weight_clusters(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), 2)
    >>> group.tolist(), share
    ([0, 0, 1], 1.0)
    """
    if clusters > len(weights):
        raise ValueError(f"clusters={clusters} must be at most the {len(weights)} rows of weights")
    points = weights.double()
    middle = points.mean(0, keepdim=True)
    # The point nearest to the middle, then always the one farthest from all so far.
    centres = points[torch.cdist(points, middle).argmin()][None]
    while len(centres) < clusters:
        away = torch.cdist(points, centres).amin(1)
        if float(away.max()) <= 1e-9:
            break
        centres = torch.cat([centres, points[away.argmax()][None]])
    group = torch.cdist(points, centres).argmin(1)
    for _ in range(_ROUNDS):
        means = [points[group == k].mean(0) if bool((group == k).any()) else centres[k] for k in range(len(centres))]
        centres = torch.stack(means)
        before, group = group, torch.cdist(points, centres).argmin(1)
        if group.equal(before):
            break
    order = torch.bincount(group, minlength=len(centres)).argsort(descending=True, stable=True)
    group, centres = order.argsort()[group], centres[order]
    total = float((points - middle).square().sum())
    within = float((points - centres[group]).square().sum())
    return group, centres.to(weights), 1 - within / total if total > 0 else math.nan
