"""Negatives of earlier batches: the latest embeddings of both modalities, so that a small batch meets many identities.

A ring of `size` rows, first in, first out. Candidates are normalised in the losses that use it, so that only the
direction of a stored row grows old. The rows carry their identities: one that comes back to a batch is no negative of
itself.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equipoise.core.distributed import gather_rows
from equipoise.core.signature import checked
from equipoise.core.types import Count, SampleIndex


class BankedNegatives(NamedTuple):
    """Rows of a bank, newest and oldest in no particular order.

    Attributes:
        first: (q, d) of the first modality.
        second: (q, d) of the second.
        identity: (q,) of both.
    """

    first: Float[Tensor, "q d"]
    second: Float[Tensor, "q d"]
    identity: Int[Tensor, " q"]


class NegativeBank(nn.Module):
    """The latest rows of both modalities, without gradients; part of `state_dict`.

    Args:
        size: rows that are kept.
        dim: width of the embeddings.
        gather: take the rows of all processes of torch.distributed, in the order of their ranks, so that all banks
            stay the same; see `core.distributed`.

    >>> bank = NegativeBank(size=3, dim=2)
    >>> bank.push(torch.eye(2), -torch.eye(2), torch.tensor([4, 5]))
    >>> bank.push(torch.ones(2, 2), torch.ones(2, 2), torch.tensor([6, 7]))
    >>> bank.negatives().identity
    tensor([7, 5, 6])
    """

    first: Tensor
    second: Tensor
    identity: Tensor
    pushed: Tensor

    @checked
    def __init__(self, size: Count, dim: Count, *, gather: bool = False) -> None:
        super().__init__()
        self.gather = gather
        self.register_buffer("first", torch.zeros(size, dim))
        self.register_buffer("second", torch.zeros(size, dim))
        self.register_buffer("identity", torch.full((size,), -1))
        self.register_buffer("pushed", torch.tensor(0))

    @checked
    def push(self, first: Float[Tensor, "n d"], second: Float[Tensor, "n d"], identity: SampleIndex) -> None:
        """Keep a batch (n, d) of both modalities, in place of the oldest rows.

        Raises:
            ValueError: if the rows are of another width than the bank.
        """
        if first.shape[1] != self.first.shape[1]:
            raise ValueError(f"first has {first.shape[1]} columns, those of the bank have {self.first.shape[1]}")
        if self.gather:
            first, second, identity = (gather_rows(each.detach()) for each in (first, second, identity))
        size = len(self.identity)
        taken = slice(max(0, len(first) - size), None)
        places = (int(self.pushed) + torch.arange(len(first), device=first.device))[taken] % size
        self.first[places] = first.detach()[taken].to(self.first)
        self.second[places] = second.detach()[taken].to(self.second)
        self.identity[places] = identity[taken].to(self.identity)
        self.pushed += len(first)

    def negatives(self) -> BankedNegatives | None:
        """All rows that were pushed and not replaced; None of an empty bank."""
        held = min(int(self.pushed), len(self.identity))
        if not held:
            return None
        # Copies, since the next batch is written over rows that a graph may still need.
        return BankedNegatives(*(each[:held].clone() for each in (self.first, self.second, self.identity)))

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return f"size={len(self.identity)}, dim={self.first.shape[1]}"
