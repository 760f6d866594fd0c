"""Identities that are not too near to one another: first come, first kept.

    keep i  ⇔  cos(e_i, e_j) < θ for every j kept before it

Exact, in blocks: a block is compared with all that is kept by products, and resolved inside in order. "Hybrid
Generative Fusion", ICCV workshops 2025; reconstructed, for no script was released.
"""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equipoise.core.nearest import unit_block, working_dtype
from equipoise.core.signature import checked
from equipoise.core.types import InParts, MayBeEmpty, OpenFraction

_ROWS = 1024


@checked
def greedy_separation(
    identity_embeddings: Annotated[Float[Tensor, "n d"], InParts(), MayBeEmpty()],
    threshold: OpenFraction,
    *,
    existing: Annotated[Float[Tensor, "m d"], InParts(), MayBeEmpty()] | None = None,
) -> Int[Tensor, " k"]:
    """The identities that stay, in order.

    Args:
        identity_embeddings: (n, d) one row for each identity, of any length; n may be 0.
        threshold: cosine from which two are too near, in (0, 1).
        existing: (m, d) identities that are kept already.

    Raises:
        ValueError: on a bad argument, by name; if a row is zero.

    >>> greedy_separation(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), 0.8)
    tensor([0, 2])
    """
    rows = identity_embeddings
    dtype, device = working_dtype(rows), rows.device
    held = torch.empty(_ROWS, rows.shape[1], dtype=dtype, device=device)
    kept: list[Tensor] = []
    count = 0
    if existing is not None:
        held = torch.cat([unit_block("existing", existing, slice(0, len(existing)), dtype), held])
        count = len(existing)
    with torch.autocast(device.type, enabled=False):
        for start in range(0, len(rows), _ROWS):
            block = unit_block("identity_embeddings", rows, slice(start, min(start + _ROWS, len(rows))), dtype)
            free = torch.ones(len(block), dtype=torch.bool, device=device)
            for first in range(0, count, _ROWS):
                free &= (block @ held[first : min(first + _ROWS, count)].T).amax(1) < threshold
            alone = free.nonzero()[:, 0]
            alone = alone[_in_order(block[alone] @ block[alone].T >= threshold)]
            if count + len(alone) > len(held):
                held = torch.cat(
                    [held, torch.empty(max(len(held), len(alone)), held.shape[1], dtype=dtype, device=device)]
                )
            held[count : count + len(alone)] = block[alone]
            count += len(alone)
            kept.append(start + alone)
    return torch.cat(kept) if kept else torch.zeros(0, dtype=torch.long, device=device)


def _in_order(near: Tensor) -> Tensor:
    """Which rows stay when each that stays rules out the later ones near to it."""
    stays = torch.ones(len(near), dtype=torch.bool, device=near.device)
    for row in range(len(near)):
        if stays[row]:
            stays[row + 1 :] &= ~near[row, row + 1 :]
    return stays
