"""Weights of an estimator's rows: how often each counts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_array, check_consistent_length

Array = NDArray[Any]


def counted_rows(sample_weight: Any, X: Array, y: Array) -> tuple[Array, Array, Array | None]:
    """Features, labels and weights of the rows that count; those of weight 0 are as if they were not there.

    Args:
        sample_weight: (n,) non-negative; None where all rows count once.
        X: (n, d).
        y: (n,).

    Raises:
        ValueError: if weights are not finite, negative, all zero, or not one a row.

    >>> counted_rows([1, 0], np.array([[3.0], [4.0]]), np.array(["a", "b"]))
    (array([[3.]]), array(['a'], dtype='<U1'), array([1.]))
    """
    if sample_weight is None:
        return X, y, None
    weight = check_array(sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
    if weight.ndim != 1:
        raise ValueError(f"sample_weight must have shape (n,), got {weight.shape}")
    check_consistent_length(X, weight)
    if weight.min() < 0:
        raise ValueError(f"sample_weight must be at least 0, got {weight.min():g}")
    counted = weight > 0
    if not counted.any():
        raise ValueError("sample_weight is zero for every row, so that none counts; at least one weight must not be")
    return X[counted], y[counted], weight[counted]
