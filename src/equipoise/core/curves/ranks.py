"""Ranks and counts of pairs from sorted values, with one tie policy that every metric names.

    half          a tie is half a win: the midrank, and what the area under the ROC curve means
    optimistic    a tie is a win
    pessimistic   a tie is a loss: the item stands behind all that score the same
    strict        the same, by the name that papers use which define a win by s > s'

Everything counts in whole numbers, so that the result is exact whatever the order of the input.

Sorting is what all of this costs. NumPy sorts plain numbers with vector instructions, an order of magnitude faster than
any sort that carries indices along. So labels travel inside the numbers: the 32 bits of a float, made to sort like an
integer, become the upper half of an int64, and the label its lower half.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from equipoise.core.validate import check_choice

_WIN_OF_TIE = {"half": 0.5, "optimistic": 1.0, "pessimistic": 0.0, "strict": 0.0}
TIES = tuple(_WIN_OF_TIE)

# Passes over large arrays go through pieces that stay in the cache.
_PIECE = 1 << 16
_LABEL_BITS = 31


class PairCounts(NamedTuple):
    """How many of the pairs (positive, negative) the positive wins, ties and loses, or the weights of those pairs."""

    wins: float
    ties: float
    losses: float

    @property
    def pairs(self) -> float:
        """How many pairs there are."""
        return sum(self)

    def win_rate(self, ties: str = "half") -> float:
        """The share of pairs that the positive wins, a tie counting as the policy says; NaN without pairs.

        Raises:
            ValueError: if the policy is unknown.

        >>> PairCounts(wins=3, ties=1, losses=0).win_rate("half")
        0.875
        """
        check_choice("ties", ties, TIES)
        return (self.wins + _WIN_OF_TIE[ties] * self.ties) / self.pairs if self.pairs else float("nan")

    def from_the_other_side(self) -> PairCounts:
        """The same pairs with the roles exchanged."""
        return PairCounts(self.losses, self.ties, self.wins)


def sort_values(values: Float[Tensor, "... n"]) -> Float[Tensor, "... n"]:
    """Sort along the last dimension, ascending, without the permutation.

    Half precision comes back as float32, in which every value is exact.
    """
    values = _at_least_float32(values)
    if values.device.type != "cpu":
        return values.sort(-1).values
    return torch.from_numpy(np.sort(values.numpy(), axis=-1))


def sort_labelled(
    values: Float[Tensor, " n"], labels: Int[Tensor, " n"] | Bool[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Sort values, the highest first, and bring the labels into the same order.

    Args:
        values: (n,) finite scores.
        labels: (n,) whole numbers from 0 to 2³¹ − 1.

    Returns:
        The values, half precision as float32, and the labels; labels of equal values come in no particular order.

    >>> sort_labelled(torch.tensor([0.1, 0.9, 0.5]), torch.tensor([4, 2, 7]))
    (tensor([0.9000, 0.5000, 0.1000]), tensor([2, 7, 4]))
    """
    values = _at_least_float32(values)
    if values.device.type != "cpu":
        ordered, order = values.sort(descending=True)
        return ordered, labels.long()[order]
    if not _fits_a_key(values):
        order_np = np.argsort(values.numpy())[::-1]
        return torch.from_numpy(values.numpy()[order_np]), torch.from_numpy(labels.long().numpy()[order_np])
    keys = _sorted_keys(values.numpy(), labels.numpy())
    ordered_np, labels_np = np.empty(len(keys), np.float32), np.empty(len(keys), np.int64)
    for start in range(0, len(keys), _PIECE):
        piece = slice(start, start + _PIECE)
        ordered_np[piece] = _as_integers((~(keys[piece] >> _LABEL_BITS)).astype(np.int32)).view(np.float32)
        np.bitwise_and(keys[piece], (1 << _LABEL_BITS) - 1, out=labels_np[piece])
    return torch.from_numpy(ordered_np), torch.from_numpy(labels_np)


def block_ends(ordered: Float[Tensor, " n"]) -> Int[Tensor, " blocks"]:
    """Where each block of equal values ends: the index of its last one.

    >>> block_ends(torch.tensor([0.9, 0.5, 0.5, 0.1]))
    tensor([0, 2, 3])
    """
    if ordered.device.type == "cpu":
        values = ordered.numpy()
        inner = np.flatnonzero(values[1:] != values[:-1])
        return torch.from_numpy(np.append(inner, len(values) - 1) if len(values) else inner)
    last = torch.ones_like(ordered, dtype=torch.bool)
    torch.ne(ordered[1:], ordered[:-1], out=last[:-1])
    return last.nonzero().squeeze(1)


def count_pairs(pos: Float[Tensor, " n_pos"], neg: Float[Tensor, " n_neg"]) -> PairCounts:
    """Count who wins each pair of a positive and a negative, exactly.

    Args:
        pos: scores of the positives.
        neg: scores of the negatives.

    >>> count_pairs(torch.tensor([0.9, 0.5]), torch.tensor([0.5, 0.1]))
    PairCounts(wins=3, ties=1, losses=0)
    """
    # Searching the few in the many touches the least memory.
    if pos.shape[0] > neg.shape[0]:
        return count_pairs(neg, pos).from_the_other_side()
    pos, neg = sort_values(pos), sort_values(neg)
    pos, neg = (x.to(torch.promote_types(pos.dtype, neg.dtype)) for x in (pos, neg))
    below, upto = (int(torch.searchsorted(neg, pos, right=right).sum()) for right in (False, True))
    return PairCounts(below, upto - below, pos.shape[0] * neg.shape[0] - upto)


def count_labelled_pairs(scores: Float[Tensor, " n"], positive: Bool[Tensor, " n"]) -> PairCounts:
    """`count_pairs` of the scores that are positive and those that are not, in less time on large input.

    Args:
        scores: (n,) finite scores.
        positive: (n,) which of them are positive.

    >>> count_labelled_pairs(torch.tensor([0.9, 0.5, 0.5, 0.1]), torch.tensor([True, True, False, False]))
    PairCounts(wins=3, ties=1, losses=0)
    """
    scores = _at_least_float32(scores)
    on_cpu = scores.device.type == "cpu"
    # On the CPU, NumPy counts and picks by a mask several times faster than PyTorch.
    n, n_pos = scores.shape[0], int(np.count_nonzero(positive.numpy()) if on_cpu else positive.sum())
    if 2 * n_pos > n:
        return count_labelled_pairs(scores, ~positive).from_the_other_side()
    pairs = n_pos * (n - n_pos)
    # One search costs about as much as carrying the label of six samples through the sort.
    if 6 * n_pos > n and _fits_a_key(scores):
        return _count_in_keys(_sorted_keys(scores.numpy(), positive.numpy()), n_pos)
    # The few are looked up among all, themselves included; so the many need not be picked out.
    picked = torch.from_numpy(scores.numpy()[positive.numpy()]) if on_cpu else scores[positive]
    everyone, picked = sort_values(scores), sort_values(picked)
    upto = int(torch.searchsorted(everyone, picked, right=True).sum())
    if not _has_equal_neighbours(everyone):
        wins = upto - n_pos * (n_pos + 1) // 2
        return PairCounts(wins, 0, pairs - wins)
    below = int(torch.searchsorted(everyone, picked).sum())
    own_below, own_upto = (int(torch.searchsorted(picked, picked, right=right).sum()) for right in (False, True))
    return PairCounts(below - own_below, (upto - own_upto) - (below - own_below), pairs - (upto - own_upto))


def ranks(
    values: Float[Tensor, " n"], ties: str = "half", *, descending: bool = True
) -> Float[Tensor, " n"] | Int[Tensor, " n"]:
    """The rank of every value from 1, the best first.

    Args:
        values: (n,) scores.
        ties: what tied values share: the midrank ("half"), the first ("optimistic") or the last ("pessimistic",
            "strict") of the places they take.
        descending: whether the highest value ranks first.

    Returns:
        float64 midranks for "half", int64 ranks otherwise.

    Raises:
        ValueError: if the policy is unknown.

    >>> ranks(torch.tensor([0.9, 0.5, 0.5, 0.1]))
    tensor([1.0000, 2.5000, 2.5000, 4.0000], dtype=torch.float64)
    """
    check_choice("ties", ties, TIES)
    ordered = sort_values(-values if descending else values)
    queries = (-values if descending else values).to(ordered.dtype)
    if ties == "optimistic":
        return torch.searchsorted(ordered, queries) + 1
    last = torch.searchsorted(ordered, queries, right=True)
    if ties != "half":
        return last
    return (torch.searchsorted(ordered, queries) + 1 + last).double() / 2


def _at_least_float32(values: Tensor) -> Tensor:
    values = values.detach()
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _has_equal_neighbours(ordered: Tensor) -> bool:
    if ordered.device.type == "cpu":
        return bool((ordered.numpy()[1:] == ordered.numpy()[:-1]).any())
    return bool((ordered[1:] == ordered[:-1]).any())


def _fits_a_key(values: Tensor) -> bool:
    return values.device.type == "cpu" and values.dtype == torch.float32


def _as_integers(bits: NDArray[np.int32]) -> NDArray[np.int32]:
    """Map float bits to integers that sort like the floats, and such integers back: the map is its own inverse."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _sorted_keys(values: NDArray[np.float32], labels: NDArray[np.integer] | NDArray[np.bool_]) -> NDArray[np.int64]:
    """Keys of (value, the highest first; label, the lowest first), sorted."""
    keys = np.empty(len(values), np.int64)
    for start in range(0, len(keys), _PIECE):
        piece = slice(start, start + _PIECE)
        # Adding zero turns −0 into 0, so that equal values have equal bits.
        np.invert(_as_integers((values[piece] + np.float32(0)).view(np.int32)), out=keys[piece])
        keys[piece] <<= _LABEL_BITS
        keys[piece] |= labels[piece]
    keys.sort()
    return keys


def _count_in_keys(keys: NDArray[np.int64], n_pos: int) -> PairCounts:
    """Count the pairs of label 1 (positive) and label 0 from sorted keys."""
    places = 0
    mixed = []
    for start in range(0, len(keys), _PIECE):
        piece = keys[start : start + _PIECE]
        found = np.flatnonzero((piece & 1).astype(bool))
        places += start * len(found) + int(found.sum())
        # Where a value has both labels, its negatives end and its positives begin at neighbours that differ in one bit.
        ahead = keys[start + 1 : start + _PIECE + 1]
        mixed.append(start + np.flatnonzero((piece[: len(ahead)] ^ ahead) == 1))
    edge = np.concatenate(mixed)
    first, end = np.searchsorted(keys, keys[edge]), np.searchsorted(keys, keys[edge + 1], side="right")
    ties = int(((edge + 1 - first) * (end - edge - 1)).sum())
    # Before a positive stand the positives that come first, all negatives above it and all that tie with it.
    not_won = places - n_pos * (n_pos - 1) // 2
    return PairCounts(n_pos * (len(keys) - n_pos) - not_won, ties, not_won - ties)
