"""How a sketch forgets: counts of exact scores are folded into dyadic cells until they fit.

A finite float becomes a whole number of 64 bits that sorts like it, its image. Halving the line of images again and
again gives the dyadic cells; any two are nested or disjoint. What a sketch holds is

    points    (image; positives, negatives)     counts of one score, exactly
    cells     (centre; positives, negatives)    counts of which only the cell is known that they lie in

A cell is named by the first image of its upper half, its centre: the lowest set bit of a centre tells the size. Cells
may nest: a cell that became too heavy is split for what arrives later, and what it already holds stays with it.

`fold` walks from the top down and splits whatever hides most pairs. The cost of not splitting a cell of p positives and
n negatives is

    p / (positives not above it)  ·  n / (samples not below it)

which bounds, up to a constant, what the cell adds to the uncertainty of any partial area normalised by its own region
and of average precision. It never grows from a cell to its halves, so that one threshold says which cells to split.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint64]
Numbers = NDArray[np.int64]
Values = NDArray[np.float64]
_Ranges = NDArray[np.int64]

_TOP = np.uint64(1 << 63)
_ONE = np.uint64(1)
_LAST = np.uint64(2**64 - 1)
# One sample more of each class than was seen: a cell that is pure by chance will not stay so.
_UNSEEN = 1.0
# Below these shares of a class a region is too small to be worth more and more cells.
_LEAST_NEGATIVES, _LEAST_POSITIVES = 1e-5, 1e-1


class Counts(NamedTuple):
    """Positives and negatives at ascending images, or in the cells of ascending centres."""

    at: Images
    positives: Numbers
    negatives: Numbers

    @classmethod
    def none(cls) -> Counts:
        """Nothing counted."""
        return cls(np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64))

    def plus(self, other: Counts) -> Counts:
        """Both together, the counts of the same image added."""
        if not len(other.at):
            return self
        at, where = np.unique(np.concatenate([self.at, other.at]), return_inverse=True)
        sums = np.zeros((2, len(at)), np.int64)
        for row, parts in zip(sums, zip(self[1:], other[1:], strict=True), strict=True):
            np.add.at(row, where, np.concatenate(parts))
        return Counts(at, sums[0], sums[1])

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Counts:
        """Some of the rows."""
        return Counts(self.at[rows], self.positives[rows], self.negatives[rows])


class Batch(NamedTuple):
    """Raw scores: all of them and those of the positives, both ascending."""

    scores: Values
    positives: Values

    @classmethod
    def of(cls, scores: Values, positive: NDArray[np.bool_]) -> Batch:
        """Sort; the negatives are never picked out, since what is not positive is negative."""
        return cls(np.sort(scores), np.sort(scores[positive]))

    def points(self) -> Counts:
        """The exact counts of each score."""
        last = np.append(np.flatnonzero(self.scores[1:] != self.scores[:-1]), len(self.scores) - 1)
        if not len(self.scores):
            return Counts.none()
        values = self.scores[last]
        upto = np.searchsorted(self.positives, values, side="right")
        positives = np.diff(upto, prepend=0)
        return Counts(images(values), positives, np.diff(last, prepend=-1) - positives)

    def distinct(self) -> int:
        """How many scores differ."""
        return int(np.count_nonzero(self.scores[1:] != self.scores[:-1])) + 1 if len(self.scores) else 0


def images(values: Values) -> Images:
    """Whole numbers that sort like these floats; both zeros have the same."""
    bits = (values + 0.0).view(np.uint64)
    return bits ^ ((np.uint64(0) - (bits >> np.uint64(63))) | _TOP)


def values_of(at: Images) -> Values:
    """The floats of these images."""
    return (at ^ (((at >> np.uint64(63)) - _ONE) | _TOP)).view(np.float64)


def cell_ends(centres: Images) -> tuple[Images, Images]:
    """The first and the last image of each cell."""
    half: Images = centres & (~centres + _ONE)
    return centres - half, centres + (half - _ONE)


class _Sources:
    """Everything that is to be folded, with the counts of any range in constant time."""

    def __init__(self, points: Counts, cells: Counts, batch: Batch) -> None:
        self.points, self.cells, self.batch = points, cells, batch
        self._sums = [
            (_running(part.positives), _running(part.negatives))  # one entry more than there are rows
            for part in (points, cells)
        ]
        if len(cells.at):
            self.cell_low, self.cell_high = cell_ends(cells.at)

    def everything(self) -> _Ranges:
        """The range that holds all, as one column: begin and end in batch, its positives, points and cells."""
        sizes = [len(part) for part in (self.batch.scores, self.batch.positives, self.points.at, self.cells.at)]
        return np.array([[0, size] for size in sizes], np.int64).reshape(8, 1)

    def count(self, ranges: _Ranges) -> tuple[Numbers, Numbers]:
        """Positives and negatives in each range."""
        i0, i1, k0, k1, *rest = ranges
        positives, negatives = k1 - k0, (i1 - i0) - (k1 - k0)
        for (pos, neg), begin, end in zip(self._sums, rest[::2], rest[1::2], strict=True):
            positives = positives + (pos[end] - pos[begin])
            negatives = negatives + (neg[end] - neg[begin])
        return positives, negatives

    def span(self, ranges: _Ranges) -> tuple[Images, Images]:
        """The lowest and the highest image that each range touches."""
        i0, i1, _, _, j0, j1, c0, c1 = ranges
        low, high = np.full(ranges.shape[1], _LAST), np.zeros(ranges.shape[1], np.uint64)
        there = i1 > i0
        low[there], high[there] = images(self.batch.scores[i0[there]]), images(self.batch.scores[i1[there] - 1])
        there = j1 > j0
        low[there] = np.minimum(low[there], self.points.at[j0[there]])
        high[there] = np.maximum(high[there], self.points.at[j1[there] - 1])
        there = c1 > c0
        if there.any():
            # The smallest cell around the first and the last of a row of cells is around all of them.
            for edge in (c0[there], c1[there] - 1):
                low[there] = np.minimum(low[there], self.cell_low[edge])
                high[there] = np.maximum(high[there], self.cell_high[edge])
        return low, high


class _Tree(NamedTuple):
    """Cells that were looked at, and what is known of them."""

    ranges: _Ranges
    at: Images  # the centre of a cell, the image of a point
    is_point: NDArray[np.bool_]
    own: _Ranges  # begin and end of the same cell in the sketch, (2, m)
    cost: Values
    parent_cost: Values

    def take(self, rows: NDArray[np.bool_]) -> _Tree:
        return _Tree(*(part[..., rows] for part in self))  # type: ignore[arg-type]


def fold(points: Counts, cells: Counts, batch: Batch, most: int) -> tuple[Counts, Counts]:
    """Points and cells that together are at most `most` and hold all that was given.

    Args:
        points: exact counts.
        cells: counts known up to a cell.
        batch: raw scores.
        most: how many rows the result may have, at least 2.
    """
    sources = _Sources(points, cells, batch)
    looked_at: list[_Tree] = []
    closed: list[_Tree] = []
    # From where few cells are split, so that not many more are looked at than are wanted.
    threshold = 1.0 / most
    frontier = _look(sources, sources.everything(), np.array([np.inf]))
    slots = 0
    while True:
        while len(frontier.at):
            looked_at.append(frontier)
            opened = frontier.cost > threshold
            held = frontier.own[1] > frontier.own[0]
            slots += int((~opened).sum() + (opened & held).sum())
            closed.append(frontier.take(~opened & (frontier.cost > 0)))
            frontier = _halves(sources, frontier.take(opened))
        if slots >= most:
            break
        waiting = _Tree(*(np.concatenate(parts, axis=-1) for parts in zip(*closed, strict=True)))
        if not len(waiting.at):
            break
        threshold /= 3.0
        opened = waiting.cost > threshold
        closed = [waiting.take(~opened)]
        now = waiting.take(opened)
        slots += int((now.own[1] > now.own[0]).sum()) - len(now.at)
        frontier = _halves(sources, now)
    tree = _Tree(*(np.concatenate(parts, axis=-1) for parts in zip(*looked_at, strict=True)))
    return _harvest(sources, tree, _fitting_threshold(tree, threshold, most))


def _look(sources: _Sources, ranges: _Ranges, parent_cost: Values) -> _Tree:
    """The smallest cell around each range, and the cost of leaving it whole."""
    low, high = sources.span(ranges)
    below = low ^ high
    for shift in (1, 2, 4, 8, 16, 32):
        below |= below >> np.uint64(shift)
    # `below` has a bit for every binary place in which images of the cell may differ.
    is_point = below == 0
    at = np.where(is_point, low, (low & ~below) | (below ^ (below >> _ONE)))
    own = np.stack([np.searchsorted(sources.cells.at, at, side=side) for side in ("left", "right")])
    own[1][is_point] = own[0][is_point]
    positives, negatives = sources.count(ranges)
    kept_pos, kept_neg = sources.count(_only_cells(own))
    whole = sources.everything()
    total_pos, total_neg = (int(part[0]) for part in sources.count(whole))
    upto = ranges.copy()
    upto[::2] = 0
    upto_pos, _ = sources.count(upto)
    beyond = ranges.copy()
    beyond[1::2] = whole[1::2]
    beyond_pos, beyond_neg = sources.count(beyond)
    splits_pos, splits_neg = positives - kept_pos, negatives - kept_neg
    cost = (splits_pos + _UNSEEN) * (splits_neg + _UNSEEN)
    cost /= upto_pos + _LEAST_POSITIVES * total_pos + _UNSEEN
    cost /= beyond_pos + beyond_neg + _LEAST_NEGATIVES * total_neg + _UNSEEN
    cost[is_point | (splits_pos + splits_neg == 0)] = 0.0
    return _Tree(ranges, at, is_point, own, np.minimum(cost, parent_cost), parent_cost)


def _halves(sources: _Sources, tree: _Tree) -> _Tree:
    """The two halves of each cell that hold something, in ascending order."""
    middle = values_of(tree.at)
    cuts = (
        np.searchsorted(sources.batch.scores, middle),
        np.searchsorted(sources.batch.positives, middle),
        np.searchsorted(sources.points.at, tree.at),
    )
    halves = np.repeat(tree.ranges, 2, axis=1)
    for row, cut in enumerate(cuts):
        halves[2 * row + 1, 0::2] = cut
        halves[2 * row, 1::2] = cut
    halves[7, 0::2], halves[6, 1::2] = tree.own
    filled = (halves[1] > halves[0]) | (halves[5] > halves[4]) | (halves[7] > halves[6])
    return _look(sources, halves[:, filled], np.repeat(tree.cost, 2)[filled])


def _fitting_threshold(tree: _Tree, least: float, most: int) -> float:
    """The lowest cost, not below `least`, at which no more than `most` rows are left."""
    held = tree.own[1] > tree.own[0]
    candidates = np.unique(np.append(tree.cost[tree.cost >= least], least))
    parents, costs, holders = np.sort(tree.parent_cost), np.sort(tree.cost), np.sort(tree.cost[held])

    def above(ordered: Values) -> Numbers:
        return len(ordered) - np.searchsorted(ordered, candidates, side="right")

    # What is left: cells that are not split while their parent is, and cells that are split but hold something.
    rows = above(parents) - above(costs) + above(holders)
    return float(candidates[np.argmax(rows <= most)])


def _harvest(sources: _Sources, tree: _Tree, threshold: float) -> tuple[Counts, Counts]:
    opened = tree.cost > threshold
    leaves = tree.take(~opened & (tree.parent_cost > threshold))
    split = tree.take(opened & (tree.own[1] > tree.own[0]))
    whole = Counts(leaves.at, *sources.count(leaves.ranges))
    kept = Counts(split.at, *sources.count(_only_cells(split.own)))
    points = whole.take(leaves.is_point)
    cells = Counts(*(np.concatenate(parts) for parts in zip(whole.take(~leaves.is_point), kept, strict=True)))
    return points.take(np.argsort(points.at)), cells.take(np.argsort(cells.at))


def _only_cells(own: _Ranges) -> _Ranges:
    ranges = np.zeros((8, own.shape[1]), np.int64)
    ranges[6:] = own
    return ranges


def _running(counts: Numbers) -> Numbers:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
