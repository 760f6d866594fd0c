"""Tables of every score column by the class of the samples: all that closed forms over pairs of classes need.

A table has a row for each column of scores and a column for each class. Entry (c, j) is a statistic of f_c over the
samples of class j: mean and variance for the square loss, the log of the mean of exp(± γ f) for the exponential one.
Sums go through one pass of binning a few columns at a time, which stay in the cache; there is no one-hot matrix and no
copy of the scores beyond their sigmoid. Second moments are centred, since E f² − (E f)² has no digits left where
scores saturate. The gradient in a score is an expression of the score and its table entry, so that nothing else is
stored for it.

Scores are planes (images, columns, pixels); a matrix of samples is one image, turned. Labels are (images, pixels), in
which the number of classes marks pixels that do not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.core.pairs.autograd import FirstOrder
from equipoise.core.pairs.means import wide

# Scores that are looked at together on a CPU.
_BLOCK = 1 << 17
# The logarithm of the mean over no samples: its exponential is 0, and unlike −∞ it has a gradient.
_NONE = -1e30


class ClassMoments(torch.autograd.Function):
    """Means and variances, (2, columns, classes) in float64, zero where a class has no samples.

    `forward` takes the planes, labels, `totals` (classes,) that the weights of a class sum to, weights (images, pixels)
    or None, and whether to take the sigmoid of the planes first.
    """

    @staticmethod
    def forward(
        ctx: Any, planes: Tensor, labels: Tensor, totals: Tensor, weight: Tensor | None, squash: bool
    ) -> Tensor:
        """Two passes: means, then squared distances from them."""
        scores = torch.empty_like(planes, memory_format=torch.contiguous_format) if squash else planes.contiguous()
        share = torch.where(totals > 0, 1 / totals, 0)
        bins = _Bins(labels, scores, len(totals))
        mean = share.new_zeros(scores.shape[1], len(totals))
        for image, columns in bins.blocks():
            x = scores[image, columns]
            if squash:
                torch.sigmoid(planes[image, columns], out=x)
            mean[columns] += bins.sums(image, x if weight is None else x * weight[image])
        mean *= share
        centre = _with_rest(mean.to(scores.dtype))
        variance = torch.zeros_like(mean)
        for image, columns in bins.blocks():
            apart = scores[image, columns] - bins.spread(centre, image, columns)
            squares = apart.square_() if weight is None else apart.square_().mul_(weight[image])
            variance[columns] += bins.sums(image, squares)
        # The centre is the mean in the precision of the scores; what it lacks is known.
        variance = (variance * share - (mean - centre[:, :-1]).square()).clamp_min_(0) * (totals > 0)
        ctx.save_for_backward(planes, scores, labels, weight, share, mean, centre)
        ctx.squash = squash
        return torch.stack([mean, variance])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        """In a score: its share of the mean's, and its distance from the mean times that of the variance's."""
        planes, scores, labels, weight, share, mean, centre = ctx.saved_tensors

        def gradients(upstream: Tensor) -> tuple[Tensor, None]:
            slope = 2 * upstream[1] * share
            offset = upstream[0] * share + slope * (centre[:, :-1] - mean)
            slope, offset = (_with_rest(table.to(scores.dtype)) for table in (slope, offset))
            bins, found = _Bins(labels, scores, len(share)), torch.empty_like(scores)
            for image, columns in bins.blocks():
                x, out = scores[image, columns], found[image, columns]
                torch.sub(x, bins.spread(centre, image, columns), out=out)
                out.mul_(bins.spread(slope, image, columns)).add_(bins.spread(offset, image, columns))
                _finish(out, x, None if weight is None else weight[image], ctx.squash)
            return found, None

        return (FirstOrder.apply(gradients, upstream[0], planes)[0], None, None, None, None)


class ClassLogMeans(torch.autograd.Function):
    """log mean exp(r f) with the rate r of the table entry, (columns, classes) in float64.

    `forward` takes what that of `ClassMoments` does, with the rates (columns, classes) before the sigmoid flag. The
    entry of a class without samples is a large negative number.
    """

    @staticmethod
    def forward(
        ctx: Any, planes: Tensor, labels: Tensor, totals: Tensor, weight: Tensor | None, rates: Tensor, squash: bool
    ) -> Tensor:
        """The highest exponent of every entry is taken out before the sum."""
        scores = planes.sigmoid().contiguous() if squash else planes.contiguous()
        bins, rates = _Bins(labels, scores, len(totals)), _with_rest(rates)
        top = _with_rest(torch.full_like(rates[:, :-1], _NONE))
        for image, columns in bins.blocks():
            exponents = bins.spread(rates, image, columns).mul_(scores[image, columns])
            index = labels[image].expand_as(exponents)
            top[columns] = top[columns].scatter_reduce(1, index, exponents, "amax")
        sums = torch.zeros_like(rates[:, :-1])
        for image, columns in bins.blocks():
            exponents = bins.spread(rates, image, columns).mul_(scores[image, columns])
            terms = exponents.sub_(bins.spread(top, image, columns)).exp_()
            sums[columns] += bins.sums(image, terms if weight is None else terms * weight[image])
        held = (sums > 0) & (totals > 0)
        table = torch.where(held, top[:, :-1] + sums.log() - totals.log(), _NONE)
        ctx.save_for_backward(planes, scores, labels, weight, totals, rates, table)
        ctx.squash = squash
        return table

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        """In a score: r times its share of the mean."""
        planes, scores, labels, weight, totals, rates, table = ctx.saved_tensors

        def gradients(upstream: Tensor) -> tuple[Tensor, None]:
            factor = rates * _with_rest(upstream * (table > _NONE))
            # Beyond the classes stands what no exponent can lift above 0.
            down = _with_rest(torch.where(totals > 0, table + totals.log(), -_NONE), -_NONE)
            bins, found = _Bins(labels, scores, len(totals)), torch.empty_like(scores)
            for image, columns in bins.blocks():
                x = scores[image, columns]
                terms = bins.spread(rates, image, columns).mul_(x).sub_(bins.spread(down, image, columns)).exp_()
                found[image, columns] = terms.mul_(bins.spread(factor, image, columns))
                _finish(found[image, columns], x, None if weight is None else weight[image], ctx.squash)
            return found, None

        return (FirstOrder.apply(gradients, upstream[0], planes)[0], None, None, None, None, None)


class _Bins:
    """Blocks of columns of the scores, sums of them by class, and table entries laid out over them."""

    def __init__(self, labels: Tensor, scores: Tensor, classes: int) -> None:
        self.labels, self.shape, self.bins = labels, scores.shape, classes + 1
        size = _BLOCK if scores.device.type == "cpu" else scores.numel()
        self.step = max(1, min(scores.shape[1], size // max(1, scores.shape[2])))
        self._image, self._index = -1, labels

    def blocks(self) -> Iterator[tuple[int, slice]]:
        """Every image, some columns at a time."""
        images, columns, pixels = self.shape
        for image in range(images if pixels else 0):
            for start in range(0, columns, self.step):
                yield image, slice(start, min(columns, start + self.step))

    def sums(self, image: int, values: Tensor) -> Tensor:
        """(columns of the block, classes): sums of the values (columns of the block, pixels)."""
        if image != self._image:
            first = torch.arange(self.step, device=values.device) * self.bins
            self._image, self._index = image, (first[:, None] + self.labels[image]).reshape(-1)
        columns, index = values.shape[0], self._index[: values.numel()]
        if values.device.type == "cpu":
            found = np.bincount(index.numpy(), values.reshape(-1).numpy(), minlength=columns * self.bins)
            sums = torch.from_numpy(found)
        else:
            sums = values.new_zeros(columns * self.bins, dtype=wide(values))
            sums.scatter_add_(0, index, values.reshape(-1).to(sums.dtype))
        return sums.view(columns, self.bins)[:, :-1]

    def spread(self, table: Tensor, image: int, columns: slice) -> Tensor:
        """The entries that belong to the pixels, in a new tensor."""
        return table[columns].index_select(1, self.labels[image])


def _with_rest(table: Tensor, rest: float = 0.0) -> Tensor:
    """The table and a last column for pixels that do not count."""
    return torch.cat([table, table.new_full((table.shape[0], 1), rest)], 1)


def _finish(gradient: Tensor, scores: Tensor, weight: Tensor | None, squash: bool) -> None:
    if weight is not None:
        gradient.mul_(weight)
    if squash:
        gradient.mul_(scores).mul_(1 - scores)
