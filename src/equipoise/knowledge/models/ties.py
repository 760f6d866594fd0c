"""Exact ties: entities with the same rows must have the same score, or their order would be an accident of rounding.

A product of matrices does not grant that: its kernels treat the last rows, or single ones, otherwise than the rest, and
two equal rows differ in their last digit. So equal rows are found, and scored by the first of them; not where a
gradient is wanted, for nothing is ranked there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from equipoise.knowledge.models.base import KGEModel, Query, Rows

M = TypeVar("M", bound=KGEModel)
_FEW = 3


def exact_ties(compare: Callable[[M, Query, Rows], Tensor]) -> Callable[[M, Query, Rows], Tensor]:
    """A model's `compare`, whose scores of all entities, without gradient, are equal where the entities' rows are."""

    @functools.wraps(compare)
    def wrapper(self: M, query: Query, tails: Rows) -> Tensor:
        scores = compare(self, query, tails)
        # A training ranks nothing, and would look for equal rows in every step.
        if scores.requires_grad or torch.compiler.is_compiling() or any(each.ndim > 2 for each in tails.values()):
            return scores
        tables = [tails[name].detach() for name in self.tail_tables]
        # A few columns tell nearly any two rows apart, at little of the cost of all.
        if _differ(tables[0][:, :_FEW]):
            return scores
        first = first_equal(torch.cat(tables, 1))
        return scores if first is None else scores[:, first]

    return wrapper


def first_equal(rows: Tensor) -> Tensor | None:
    """Of every row the index of the first that equals it; None where all differ.

    >>> first_equal(torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]]))
    tensor([0, 1, 0])
    """
    found, group = _hashed(rows).unique(return_inverse=True)
    if len(found) == len(rows):
        return None
    own = torch.arange(len(rows), device=rows.device)
    first = own.new_full((len(found),), len(rows)).scatter_reduce_(0, group, own, "amin")[group]
    # Rows of one hash that differ after all stay their own.
    return torch.where((rows == rows[first]).all(1), first, own)


def _differ(rows: Tensor) -> bool:
    """Whether all rows differ; False also where it is not sure."""
    found = _hashed(rows).sort().values
    return bool((found[1:] != found[:-1]).all())


def _hashed(rows: Tensor) -> Tensor:
    bits: Any = {2: torch.int16, 4: torch.int32, 8: torch.int64}[rows.element_size()]
    # −0 becomes 0, which it equals. Whole numbers overflow alike whatever the order of the sum.
    keys = (rows + 0.0).view(bits).long()
    factors = torch.randint(-(2**62), 2**62, (rows.shape[1],), generator=torch.Generator().manual_seed(0))
    return (keys * (2 * factors + 1).to(rows.device)).sum(1)
