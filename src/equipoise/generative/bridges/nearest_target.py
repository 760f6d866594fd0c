"""Which of a few target pictures is nearest to each picture."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import MayBeEmpty


@checked
def nearest_target_index(
    images: Annotated[Float[Tensor, " n *shape"], MayBeEmpty()], targets: Float[Tensor, " targets *shape"]
) -> Int64[Tensor, " n"]:
    """The target of least Euclidean distance, the first of several.

    Args:
        images: (n, ...).
        targets: (targets, ...) of the same shape.

    Raises:
        ValueError: if there are no targets or shapes differ.

    >>> nearest_target_index(torch.tensor([[0.0, 0.9], [0.1, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 1.0]]))
    tensor([1, 0])
    """
    # By products of matrices equal targets would come out a rounding apart.
    distance = torch.cdist(
        images.flatten(1).double()[None],
        targets.flatten(1).double()[None],
        compute_mode="donot_use_mm_for_euclid_dist",
    )[0]
    return distance.argmin(1)
