"""Perception of detail by pairs: two images that look alike but for a detail, and a statement that is true of each.

A model has a score for every statement and image. A pair counts only where both statements prefer their own image, so
that a model that does not see the detail, and prefers one image whatever is said, gets none: chance is one quarter.

    right_n  =  scores[n, 0, 0] > scores[n, 0, 1]  and  scores[n, 1, 1] > scores[n, 1, 0]

Strictly, a tie is wrong, as in the code of MMVP-VLM, which asks for a softmax probability over the two images above
one half.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from equipoise.core.signature import checked


class PairedAccuracy(NamedTuple):
    """What `paired_detail_accuracy` found.

    Attributes:
        accuracy: the share of pairs that are right; with categories, the mean of their shares.
        by_category: category → its share, in ascending order; empty without categories.
        right: (n,) which pairs are right.
    """

    accuracy: float
    by_category: dict[int, float]
    right: Bool[Tensor, " n"]


@checked
def paired_detail_accuracy(
    scores: Float[Tensor, "n 2 2"], category: Integer[Tensor, " n"] | Bool[Tensor, " n"] | None = None
) -> PairedAccuracy:
    """The share of pairs whose two statements both prefer their own image.

    Args:
        scores: (n, 2, 2), scores[n, t, i] of statement t for image i of pair n, for instance cosines or logits.
        category: (n,) what detail each pair is about; categories count alike, however many pairs they have.

    Raises:
        ValueError: on a wrong shape, or scores that are not finite.

    >>> scores = torch.tensor([[[2.0, 1.0], [0.0, 3.0]], [[2.0, 1.0], [3.0, 3.0]]])
    >>> paired_detail_accuracy(scores).accuracy
    0.5
    """
    right = (scores[:, 0, 0] > scores[:, 0, 1]) & (scores[:, 1, 1] > scores[:, 1, 0])
    if category is None:
        return PairedAccuracy(float(right.double().mean()), {}, right)
    shares = {int(one): float(right[category == one].double().mean()) for one in category.unique()}
    return PairedAccuracy(sum(shares.values()) / len(shares), shares, right)


@checked
def pair_scores(images: Float[Tensor, "n 2 d"], statements: Float[Tensor, "n 2 d"]) -> Float[Tensor, "n 2 2"]:
    """Cosines (n, statements, images) of embedded pairs, for `paired_detail_accuracy`.

    Args:
        images: (n, 2, d) embeddings of the two images of each pair.
        statements: (n, 2, d) of their statements, in the same order.

    Raises:
        ValueError: if shapes differ, or a value is not finite.

    >>> pair_scores(torch.eye(2)[None], torch.eye(2)[None])
    tensor([[[1., 0.],
             [0., 1.]]])
    """
    unit, dtype = torch.nn.functional.normalize, torch.promote_types(images.dtype, statements.dtype)
    with torch.autocast(images.device.type, enabled=False):
        return unit(statements.to(dtype), dim=2) @ unit(images.to(dtype), dim=2).mT
