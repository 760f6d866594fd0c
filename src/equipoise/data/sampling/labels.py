"""Classes of samples, as tensors or as arrays of any stride."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Integer
from numpy.typing import NDArray
from torch import Tensor

from equipoise.core.types import ClassIndex

Labels: TypeAlias = Annotated[Integer[Tensor, " n"] | Bool[Tensor, " n"], ClassIndex(None)] | NDArray[Any]


def class_codes(target: Labels) -> NDArray[np.int64]:
    """The class of each sample on the CPU, (n,).

    Raises:
        ValueError: if an array holds anything but classes from 0, in shape (n,).
    """
    codes = target.cpu().numpy() if isinstance(target, Tensor) else target
    if codes.ndim != 1 or codes.dtype.kind not in "biu":
        raise ValueError(f"target must hold integers or booleans in shape (n,), got {codes.dtype} {codes.shape}")
    if not codes.size or codes.min() < 0:
        wrong = f"holds the value {codes.min()}" if codes.size else "is empty"
        raise ValueError(f"target {wrong}, wanted class indices from 0")
    return codes.astype(np.int64)
