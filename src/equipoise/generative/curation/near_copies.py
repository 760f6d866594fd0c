"""Near copies inside an identity: of samples that are almost the same, the first is kept.

sample i is a copy of j < i, kept before it, where cos(e_i, e_j) ≥ θ
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from equipoise.core.models.two_tower import cosines, unit_rows
from equipoise.core.signature import checked
from equipoise.core.types import OpenFraction
from equipoise.generative.curation.clusters import IdentityRows


@checked
def near_copies(embeddings: IdentityRows, threshold: OpenFraction = 0.98) -> Int[Tensor, " n"]:
    """Which kept sample each sample is a near copy of.

    Args:
        embeddings: (n, d) of one identity; n may be 0.
        threshold: cosine from which a sample is a copy, in (0, 1).

    Returns:
        (n,) the number of the kept sample that is most similar, of equal ones the first; −1 for what is kept.

    Raises:
        ValueError: on a bad argument, by name; if a row is zero.

    >>> near_copies(torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.01]])).tolist()
    [-1, -1, 0]
    """
    found = torch.full((len(embeddings),), -1, dtype=torch.long, device=embeddings.device)
    if not len(embeddings):
        return found
    unit = unit_rows("embeddings", embeddings.detach().double())
    near = cosines(unit, unit)
    kept: list[int] = []
    for number in range(len(unit)):
        most, place = near[number, kept].max(0) if kept else (near.new_tensor(-1.0), near.new_tensor(0))
        if float(most) >= threshold:
            found[number] = kept[int(place)]
        else:
            kept.append(number)
    return found
