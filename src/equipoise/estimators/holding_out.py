"""Which rows an estimator holds out to stop early and to calibrate, and when it had better hold out none."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from equipoise.core.validate import check_fraction

Array = NDArray[Any]
HeldFraction = float | Literal["auto"] | None

# A fifth of fewer rows of a class is a handful: what they say of a stop is mostly noise, and training misses them.
LEAST_ROWS = 50
_LEAST_HELD_OUT = 3


def hold_out(codes: Array, fraction: HeldFraction, random: np.random.RandomState) -> tuple[Array, Array]:
    """Rows to train on and rows held out, in random order, each class by the same share.

    Args:
        codes: (n,) class indices.
        fraction: share of the rows of each class in [0, 1); 0 and None hold out nothing, and so does a share that is
            less than three rows of a class; "auto" is a fifth, or nothing where a class has fewer than 50 rows.
        random: what is drawn from.

    Raises:
        ValueError: if the fraction is neither of these.

    >>> codes = np.repeat([0, 1], [900, 49])
    >>> [len(hold_out(codes, share, np.random.RandomState(0))[1]) for share in ("auto", None, 0.1)]
    [0, 0, 94]
    """
    members = np.bincount(codes)
    if isinstance(fraction, str) and fraction != "auto":
        raise ValueError(f"validation_fraction={fraction!r} must be a number in [0, 1), None or 'auto'")
    share = (0.2 if members.min() >= LEAST_ROWS else 0.0) if fraction == "auto" else float(fraction or 0)
    check_fraction("validation_fraction", share, zero=True, one=False)
    order = random.permutation(len(codes))
    counts = np.floor(members * share + 1e-9).astype(int)
    if counts.min() < _LEAST_HELD_OUT:
        return order, order[:0]
    held = np.concatenate([order[codes[order] == c][:count] for c, count in enumerate(counts)])
    mask = np.ones(len(codes), dtype=bool)
    mask[held] = False
    return order[mask[order]], held
