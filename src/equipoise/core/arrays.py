"""Tensors from whatever holds numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def as_tensor(values: Any, dtype: torch.dtype | None = None) -> Tensor:
    """`torch.as_tensor`, also of reversed arrays and of Series of any index; unsigned integers in arrays become int64.

    >>> import numpy as np
    >>> as_tensor(np.arange(3)[::-1])
    tensor([2, 1, 0])
    """
    if not isinstance(values, Tensor | list | tuple):
        # Torch shares no memory that is read backwards or only.
        values = np.array(values, order="C")
        if values.dtype.kind == "u":
            values = values.astype(np.int64)
    return torch.as_tensor(values, dtype=dtype)
