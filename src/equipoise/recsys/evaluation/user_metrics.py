r"""Metrics of a ranked list per user, from the places of the relevant items alone.

A user's candidates are all items but the excluded ones, T of them relevant. With the relevant item in place p
(from 1), h(p) relevant items among the first p, and a list of k:

    precision@k   h(k) / k                              recall@k   h(k) / T
    hit_rate@k    1 if h(k) > 0                         ndcg@k     Σ_{p ≤ k} 1/log₂(p + 1)  over the best possible sum
    map@k         Σ_{p ≤ k} h(p)/p  / min(k, T)         mrr@k      1/p of the first relevant item if p ≤ k, else 0
    map, mrr      the same over the whole list          auc        pairs (relevant, other) in the right order, ties ½
    opauc         auc against the ⌊b · others⌋ others that rank highest, at least one

Sums run over the places p of relevant items. Libraries differ in three divisors; `Conventions` names the others.

Items that score the same stand in the order of their index ("index"), or every metric is the mean over all orders of
the tied items ("expected"), in closed form. Nothing is left to chance.

The protocol is that of the metric-learning papers (Bao et al., "The Minority Matters", NeurIPS 2022, read in their
code). The means over orders follow McSherry and Najork, "Computing Information Retrieval Performance Measures
Efficiently in the Presence of Tied Scores", 2008, derived anew here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from equipoise.core.curves.list_ranks import ListRanks
from equipoise.core.signature import checked

ListTies: TypeAlias = Literal["index", "expected"]
_F = NDArray[np.float64]


@checked
@dataclass(frozen=True, kw_only=True)
class Conventions:
    """What to divide by, where libraries differ.

    Attributes:
        map_divisor: of MAP@k: "reachable" for min(k, T), as RecBole; "relevant" for T, as the textbooks; "hits" for the
            relevant items found, as torchmetrics. MAP over the whole list divides by T.
        precision_divisor: of precision@k: "k", or "candidates" for min(k, candidates), for users with fewer than k.
        mrr: "first", the first relevant item; "mean", the mean of 1/p over all relevant items, as some papers print it.
    """

    map_divisor: Literal["reachable", "relevant", "hits"] = "reachable"
    precision_divisor: Literal["k", "candidates"] = "k"
    mrr: Literal["first", "mean"] = "first"


USUAL = Conventions()


def user_metrics(
    ranks: ListRanks,
    offsets: Int[Tensor, " users_and_one"],
    candidates: Int[Tensor, " users"],
    ks: tuple[int, ...],
    *,
    max_fpr: float | None = None,
    ties: ListTies = "index",
    conventions: Conventions = USUAL,
) -> dict[str, Float[Tensor, " users"]]:
    """Every metric of every user, float64.

    Args:
        ranks: of the relevant items, from `core.curves.list_ranks`.
        offsets: (users + 1,) bounds of each user's part of them.
        candidates: (users,) how many items each user could have been shown.
        ks: lengths of the list.
        max_fpr: b of the one-way partial AUC; left out by default.
        ties: "index" or "expected", see the module. The AUCs always count a tie as one half.
        conventions: the divisors.

    Returns:
        Name ("ndcg@10", "auc", ...) → (users,); NaN for users without a relevant item, and of the AUCs for users
        without another candidate.
    """
    counts = offsets.diff().cpu().numpy()
    users = np.repeat(np.arange(len(counts)), counts)
    above, tied, before = (each.cpu().numpy() for each in ranks)
    if ties == "index":
        blocks = _Blocks.of(users, above + before, np.ones_like(above), counts)
    else:
        blocks = _Blocks.of(users, above, tied + 1, counts)
    relevant = counts.astype(np.float64)
    found: dict[str, _F] = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        for k in ks:
            hits = blocks.sum(blocks.relevant * blocks.share(k))
            shown = np.minimum(k, candidates.cpu().numpy())
            found[f"precision@{k}"] = hits / (k if conventions.precision_divisor == "k" else shown)
            found[f"recall@{k}"] = hits / relevant
            found[f"hit_rate@{k}"] = blocks.any_hit(k)
            found[f"ndcg@{k}"] = blocks.discounted(k) / _best_discounted(counts, k)
            divisor = {"reachable": np.minimum(k, relevant), "relevant": relevant, "hits": hits}[
                conventions.map_divisor
            ]
            precisions = blocks.precisions(k)
            found[f"map@{k}"] = np.where(precisions == 0, 0.0, precisions / divisor)
            found[f"mrr@{k}"] = blocks.first(k) if conventions.mrr == "first" else blocks.reciprocals(k) / relevant
        whole = int(candidates.max()) if len(candidates) else 0
        found["map"] = blocks.precisions(whole) / relevant
        found["mrr"] = blocks.first(whole) if conventions.mrr == "first" else blocks.reciprocals(whole) / relevant
        for name, value in _areas(users, above, tied, counts, candidates.cpu().numpy(), max_fpr).items():
            found[name] = value
        missing = counts == 0
    return {name: torch.from_numpy(np.where(missing, np.nan, value)) for name, value in found.items()}


@dataclass(frozen=True)
class _Blocks:
    """Runs of candidates that score the same and hold a relevant item, in the order of users and then of places.

    Attributes:
        user: of each block.
        above: candidates that stand before it.
        size: candidates in it.
        relevant: relevant items in it.
        earlier: relevant items of the user before it.
        users: how many users there are.
    """

    user: NDArray[np.int64]
    above: _F
    size: _F
    relevant: _F
    earlier: _F
    users: int

    @classmethod
    def of(
        cls, users: NDArray[np.int64], above: NDArray[np.int64], size: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> _Blocks:
        order = np.lexsort((above, users))
        users, above, size = users[order], above[order], size[order]
        new = np.ones(len(users), dtype=bool)
        new[1:] = (users[1:] != users[:-1]) | (above[1:] != above[:-1])
        starts = np.flatnonzero(new)
        relevant = np.diff(np.append(starts, len(users)))
        place = starts - (np.cumsum(counts) - counts)[users[starts]]
        first, sizes, inside, earlier = (
            each.astype(np.float64) for each in (above[starts], size[starts], relevant, place)
        )
        return cls(users[starts], first, sizes, inside, earlier, len(counts))

    def sum(self, values: _F) -> _F:
        """The sum over the blocks of each user."""
        total: _F = np.bincount(self.user, weights=values, minlength=self.users).astype(np.float64)
        return total

    def inside(self, k: int) -> _F:
        """How many candidates of each block stand in the list."""
        return np.clip(k - self.above, 0, self.size)

    def share(self, k: int) -> _F:
        """The chance of each item of a block to stand in the list."""
        return self.inside(k) / self.size

    def any_hit(self, k: int) -> _F:
        """The chance of each user to find something relevant in the list."""
        missed = _ways(self.size - self.relevant, self.inside(k)) - _ways(self.size, self.inside(k))
        none = np.ones(self.users)
        np.multiply.at(none, self.user, np.exp(missed))
        return 1 - none

    def discounted(self, k: int) -> _F:
        """The discounted gain of each user's list."""
        gains = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])
        start = np.minimum(self.above, k).astype(np.int64)
        stop = np.minimum(self.above + self.size, k).astype(np.int64)
        return self.sum(self.relevant / self.size * (gains[stop] - gains[start]))

    def precisions(self, k: int) -> _F:
        """The sum of h(p)/p over the places p ≤ k of relevant items.

        In place i (from 1) of a block stands a relevant item in r of n orders, and then (i − 1)(r − 1)/(n − 1) of
        those before it in the block are relevant on average.
        """
        inside = self.inside(k)
        harmonic = _harmonic(self.above + inside) - _harmonic(self.above)
        others = (self.relevant - 1) / np.maximum(self.size - 1, 1)
        later = inside - (self.above + 1) * harmonic
        return self.sum(self.relevant / self.size * ((self.earlier + 1) * harmonic + others * later))

    def reciprocals(self, k: int) -> _F:
        """The sum of 1/p over the places p ≤ k of relevant items."""
        harmonic = _harmonic(self.above + self.inside(k)) - _harmonic(self.above)
        return self.sum(self.relevant / self.size * harmonic)

    def first(self, k: int) -> _F:
        """1/p of each user's first relevant item, 0 where p > k."""
        found = np.zeros(self.users)
        leads = self.earlier == 0
        single = leads & (self.size == 1)
        found[self.user[single]] = np.where(self.above[single] < k, 1 / (self.above[single] + 1), 0.0)
        for block in np.flatnonzero(leads & ~single):
            above, size, relevant = self.above[block], self.size[block], self.relevant[block]
            before = np.arange(max(min(size - relevant, k - above - 1) + 1, 0))
            chance = np.exp(_ways(size - 1 - before, relevant - 1) - _ways(size, relevant))
            found[self.user[block]] = np.sum(chance / (above + before + 1))
        return found


def _ways(n: Any, k: Any) -> Any:
    """The logarithm of n choose k; minus infinity where k > n."""
    n, k = np.broadcast_arrays(np.asarray(n, dtype=np.float64), np.asarray(k, dtype=np.float64))
    inside = k <= n
    gaps = _log_factorial(n) - _log_factorial(k) - _log_factorial(np.where(inside, n - k, 0))
    return np.where(inside, gaps, -np.inf)


def _log_factorial(n: Any) -> Any:
    return torch.lgamma(torch.as_tensor(n, dtype=torch.float64) + 1).numpy()


def _harmonic(n: _F) -> _F:
    """1 + 1/2 + ... + 1/n."""
    most = int(n.max(initial=0))
    table = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, most + 1))])
    return table[n.astype(np.int64)]


def _best_discounted(counts: NDArray[np.int64], k: int) -> _F:
    gains = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])
    return gains[np.minimum(counts, k)]


def _areas(
    users: NDArray[np.int64],
    above: NDArray[np.int64],
    tied: NDArray[np.int64],
    counts: NDArray[np.int64],
    candidates: NDArray[np.int64],
    max_fpr: float | None,
) -> dict[str, _F]:
    """The areas under each user's ROC curve, from how many of the others stand above each relevant item."""
    order = np.lexsort((above, users))
    users, above, tied = users[order], above[order], tied[order]
    starts = np.cumsum(counts) - counts
    new = np.ones(len(users), dtype=bool)
    new[1:] = (users[1:] != users[:-1]) | (above[1:] != above[:-1])
    block = np.cumsum(new) - 1
    first, size = np.flatnonzero(new), np.bincount(block, minlength=int(new.sum()))
    others_above = above - (first[block] - starts[users])
    others_tied = tied - (size[block] - 1)
    others = candidates - counts
    found = {}
    for name, range_ in (("auc", 1.0), ("opauc", max_fpr)):
        if range_ is None:
            continue
        # 0.3 · 10 must be 3 and not 2.9999.
        kept = np.maximum(np.floor(range_ * others + 1e-9), 1) * (others > 0)
        before = np.minimum(others_above, kept[users])
        reached = np.minimum(others_above + others_tied, kept[users])
        lost = np.bincount(users, weights=(before + reached) / 2, minlength=len(counts))
        found[name] = 1 - lost / (counts * kept)
    return found
