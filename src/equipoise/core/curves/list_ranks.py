"""Where wanted candidates stand in a list too long to sort: by counting, exactly, with the excluded left out.

A row holds the scores of all candidates of a user or a query, of which a few are wanted (the test items, the true tail
of a triple) and some are excluded (what was in the training part). For the metrics of top lists, of whole lists and for
the area under the ROC curve it is enough to know of each wanted candidate

    above    how many others score higher
    tied     how many others score the same
    before   how many of these have a smaller index

Counting above a score is one pass over the row, much cheaper than a sort. Where many are wanted the row is sorted once,
without its permutation. The excluded ones are counted out, so that no score is written over. One that is both wanted
and excluded is ranked among the candidates that are left, and does not count for the others: so stands one true
tail of a query among several, each of which is wanted while the others are left out.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

# With more wanted candidates a sort of the row (1.5 ms at 50,000) is cheaper than two passes for each (11 µs).
_FEW = 128


class ListRanks(NamedTuple):
    """Counts of other candidates for each wanted one, int64 in the order in which they were given.

    Attributes:
        above: those that score higher.
        tied: those that score the same.
        before: those of the tied that have a smaller index.
    """

    above: Int[Tensor, " wanted"]
    tied: Int[Tensor, " wanted"]
    before: Int[Tensor, " wanted"]


def list_ranks(
    scores: Float[Tensor, "rows candidates"],
    offsets: Int[Tensor, " rows_and_one"],
    wanted: Int[Tensor, " wanted"],
    excluded_offsets: Int[Tensor, " rows_and_one"] | None = None,
    excluded: Int[Tensor, " excluded"] | None = None,
) -> ListRanks:
    """Count the candidates that stand before each wanted one.

    Args:
        scores: (rows, candidates), the higher the earlier; infinities allowed, NaN is not looked for.
        offsets: (rows + 1,) bounds of each row's part of `wanted`.
        wanted: indices of candidates, no index twice in a row.
        excluded_offsets: (rows + 1,) bounds of each row's part of `excluded`; nothing is excluded by default.
        excluded: indices of candidates that do not count, no index twice in a row; some of them may be wanted.

    >>> scores = torch.tensor([[0.9, 0.5, 0.7, 0.5]])
    >>> list_ranks(scores, torch.tensor([0, 1]), torch.tensor([3]), torch.tensor([0, 1]), torch.tensor([0]))
    ListRanks(above=tensor([1]), tied=tensor([1]), before=tensor([1]))
    """
    if excluded_offsets is None or excluded is None:
        excluded_offsets, excluded = torch.zeros_like(offsets), offsets.new_zeros(0)
    scores = _wide(scores)
    counts = list_counts(scores, offsets, wanted)
    return _ranks(scores, wanted, counts, _places(offsets)[0], excluded_offsets, excluded)


class ListCounts(NamedTuple):
    """Counts of candidates for each wanted one, int64 in the order in which they were given.

    Attributes:
        above: those that score higher.
        reached: those that score at least as high, the wanted one among them.
    """

    above: Int[Tensor, " wanted"]
    reached: Int[Tensor, " wanted"]


def list_counts(
    scores: Float[Tensor, "rows candidates"], offsets: Int[Tensor, " rows_and_one"], wanted: Int[Tensor, " wanted"]
) -> ListCounts:
    """The passes over the scores alone, where what is excluded is counted out later, for many batches at once.

    Args:
        scores: as in `list_ranks`; a block that fits the cache is read fastest.
        offsets: as in `list_ranks`.
        wanted: as in `list_ranks`.

    >>> list_counts(torch.tensor([[0.9, 0.5, 0.7, 0.5]]), torch.tensor([0, 1]), torch.tensor([3]))
    ListCounts(above=tensor([2]), reached=tensor([4]))
    """
    scores = _wide(scores)
    if scores.device.type == "cpu":
        return _by_counting(scores, offsets, wanted)
    return _by_sorting(scores, offsets, wanted)


def counts_among(
    values: Float[Tensor, " wanted"],
    row: Int[Tensor, " wanted"],
    others: Float[Tensor, " excluded"],
    other_row: Int[Tensor, " excluded"],
) -> ListCounts:
    """How many of the others of its row are above each value, and how many reach it.

    Args:
        values: scores of wanted candidates.
        row: the row of each, from 0.
        others: scores to be counted, in any order.
        other_row: the row of each.

    >>> counts_among(torch.tensor([0.5, 0.5]), torch.tensor([0, 1]), torch.tensor([0.5, 0.9]), torch.tensor([0, 0]))
    ListCounts(above=tensor([1, 0]), reached=tensor([2, 0]))
    """
    # Scores become their places among all distinct ones, so that row and score are one whole number to sort by.
    distinct, code = torch.cat([others, values]).unique(return_inverse=True)
    key = torch.cat([other_row, row]) * len(distinct) + code
    ordered, own = key[: len(others)].sort().values, key[len(others) :]
    end = torch.searchsorted(ordered, (row + 1) * len(distinct))
    return ListCounts(end - torch.searchsorted(ordered, own, right=True), end - torch.searchsorted(ordered, own))


def _wide(scores: Tensor) -> Tensor:
    scores = scores.detach()
    return scores if scores.dtype in (torch.float32, torch.float64) else scores.float()


def _by_counting(scores: Tensor, offsets: Tensor, wanted: Tensor) -> ListCounts:
    above, reached = (np.zeros(len(wanted), dtype=np.int64) for _ in range(2))
    rows, bounds, items = scores.numpy(), offsets.tolist(), wanted.numpy()
    passed = np.empty(scores.shape[1], dtype=bool)
    for row, (start, stop) in zip(rows, itertools.pairwise(bounds), strict=True):
        if stop - start > _FEW:
            above[start:stop], reached[start:stop] = _counts_from(np.sort(row), row[items[start:stop]])
            continue
        for place in range(start, stop):
            value = row[items[place]]
            above[place] = np.count_nonzero(np.greater(row, value, out=passed))
            reached[place] = np.count_nonzero(np.greater_equal(row, value, out=passed))
    return ListCounts(torch.from_numpy(above), torch.from_numpy(reached))


def _counts_from(
    ordered: NDArray[np.floating], values: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many of the ascending values are greater, and how many at least as great."""
    n = len(ordered)
    return n - np.searchsorted(ordered, values, side="right"), n - np.searchsorted(ordered, values, side="left")


def _by_sorting(scores: Tensor, offsets: Tensor, wanted: Tensor) -> ListCounts:
    """The same on a device that sorts fast and loops slowly."""
    row, place = _places(offsets)
    padded = scores.new_full((len(scores), int(place.max()) + 1 if len(place) else 1), torch.inf)
    padded[row, place] = scores[row, wanted]
    ordered, width = scores.sort(-1).values, scores.shape[1]
    above = width - torch.searchsorted(ordered, padded, right=True)
    reached = width - torch.searchsorted(ordered, padded)
    return ListCounts(above[row, place], reached[row, place])


def _ranks(
    scores: Tensor, wanted: Tensor, counts: ListCounts, row: Tensor, barred_offsets: Tensor, barred: Tensor
) -> ListRanks:
    """Ranks from the counts of all candidates, the excluded counted out."""
    above, reached = counts
    if len(barred) and len(wanted):
        barred_row, width = _places(barred_offsets)[0], scores.shape[1]
        outside = counts_among(scores[row, wanted], row, scores[barred_row, barred], barred_row)
        itself = torch.isin(row * width + wanted, barred_row * width + barred)
        above, reached = above - outside.above, reached - outside.reached + itself
    tied = reached - above - 1
    before = torch.zeros_like(tied)
    places = tied.nonzero().squeeze(1)
    if len(places):
        before[places] = _ties_before(scores, wanted[places], row[places], barred_offsets, barred).to(before.device)
    return ListRanks(above, tied, before)


def _ties_before(scores: Tensor, wanted: Tensor, row: Tensor, barred_offsets: Tensor, barred: Tensor) -> Tensor:
    """How many candidates that are not excluded score the same as each wanted one and have a smaller index."""
    # Under a constant model everything is tied, and a few small steps in torch each would cost more than the counting.
    table, away = scores.cpu().numpy(), barred.cpu().numpy()
    bounds, found = barred_offsets.tolist(), []
    for item, line in zip(wanted.tolist(), row.tolist(), strict=True):
        values, out = table[line], away[bounds[line] : bounds[line + 1]]
        same = np.count_nonzero(values[:item] == values[item])
        found.append(same - np.count_nonzero(values[out[out < item]] == values[item]))
    return torch.tensor(found)


def _places(offsets: Tensor) -> tuple[Tensor, Tensor]:
    """The row of each element, and its place in the row."""
    counts = offsets.diff()
    row = torch.repeat_interleave(torch.arange(len(counts), device=offsets.device), counts)
    return row, torch.arange(len(row), device=offsets.device) - offsets[:-1][row]
