"""Which classes are rare in pixels, and how large a batch must be to hold them all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from equipoise.core.signature import checked
from equipoise.core.types import Count, Fraction, OpenFraction, Whole


class ClassGroups(NamedTuple):
    """Classes by how many pixels they have, each in ascending order of the class.

    Attributes:
        head: the fewest of the largest classes that hold half of all pixels, none of the tail.
        middle: neither.
        tail: the rare ones.
    """

    head: tuple[int, ...]
    middle: tuple[int, ...]
    tail: tuple[int, ...]


@checked
def tail_classes_by_pixels(
    counts: Sequence[Whole],
    *,
    k: Count | None = None,
    fraction: Fraction | None = None,
    max_share: Fraction | None = None,
) -> ClassGroups:
    """Head, middle and tail classes by their pixels in the training labels.

    Which classes the authors call tail is a list in their code, 7 of 19 on Cityscapes and 124 of 150 on ADE20K, and the
    rule behind it is not said: no single share of pixels gives both. Here one of three rules is chosen, and what head
    and middle are is our own.

    Args:
        counts: pixels of each class; a class without any is rare.
        k: the k smallest classes are the tail.
        fraction: this fraction of the classes is, rounded to a whole number.
        max_share: classes that hold at most this share of all pixels are.

    Returns:
        The three groups. Of equal classes the one with the larger index counts as smaller.

    Raises:
        ValueError: unless exactly one rule is given and it leaves a class out of the tail.

    >>> tail_classes_by_pixels([500, 30, 200, 10], k=2)
    ClassGroups(head=(0,), middle=(2,), tail=(1, 3))
    """
    given = [name for name, rule in (("k", k), ("fraction", fraction), ("max_share", max_share)) if rule is not None]
    if len(given) != 1:
        raise ValueError(f"give one of k, fraction and max_share, got {', '.join(given) or 'none of them'}")
    total = sum(counts)
    if total == 0:
        raise ValueError("counts are all 0; count the pixels of the training labels")
    ranked = sorted(range(len(counts)), key=lambda c: (-counts[c], c))
    if max_share is not None:
        size = sum(count <= max_share * total for count in counts)
    else:
        size = k if k is not None else round((fraction or 0) * len(counts))
    if size >= len(counts):
        raise ValueError(f"{given[0]} puts all {len(counts)} classes of counts into the tail; lower it")
    rest, tail = ranked[: len(counts) - size], ranked[len(counts) - size :]
    head, held = 0, 0
    while head < len(rest) and 2 * held < total:
        held += counts[rest[head]]
        head += 1
    return ClassGroups(*(tuple(sorted(part)) for part in (rest[:head], rest[head:], tail)))


@checked
def coverage_batch_size(p_min: OpenFraction, num_classes: Count, delta: OpenFraction) -> int:
    """The least batch size for which a bound says that all classes are in a batch of random images.

        B = ⌈ log(δ / C) / log(1 − p) ⌉

    A class that is in an image with probability p is missed by B images with probability (1 − p)^B, and the sum over C
    classes bounds the probability that any is missed (reconstructed from the paper's proposition).

    Args:
        p_min: probability that the rarest class is in an image.
        num_classes: C.
        delta: probability of a batch that misses a class.

    >>> coverage_batch_size(0.05, 19, 0.05)
    116
    """
    # A whole number must not become the next one by its last digit.
    return max(1, math.ceil(math.log(delta / num_classes) / math.log1p(-p_min) * (1 - 1e-12)))
