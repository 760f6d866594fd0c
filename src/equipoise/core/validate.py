"""Input checks for what no signature says: messages name what was given, what is wanted, and how to mend it.

`core.signature.checked` does the rest. Checks of values look at the data; under `torch.compile` they are skipped, for a
branch on data would break the graph.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable

import torch
from torch import Tensor

from equipoise.core import signature

_warned: set[str] = set()


def warn_once(message: str) -> None:
    """Warn with `UserWarning` the first time this message is given in the process."""
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, UserWarning, stacklevel=3)


def reset_warnings() -> None:
    """Forget which messages `warn_once` has given, so that a test sees them again."""
    _warned.clear()


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise `ValueError` unless `value` is one of `choices`."""
    known = list(choices)
    if value not in known:
        raise ValueError(f"{name}={value!r} is not known; choose one of {', '.join(map(repr, known))}")


def check_fraction(name: str, value: float, *, zero: bool = False, one: bool = True) -> None:
    """Raise `ValueError` unless `value` lies in the unit interval, whose ends `zero` and `one` include or leave out."""
    inside = (value >= 0 if zero else value > 0) and (value <= 1 if one else value < 1)
    if not inside:
        interval = f"{'[' if zero else '('}0, 1{']' if one else ')'}"
        hint = f"; did you mean {value / 100:g}?" if 1 < value <= 100 else ""
        raise ValueError(f"{name}={value!r} must lie in {interval}{hint}")


def check_positive(name: str, value: float) -> None:
    """Raise `ValueError` unless `value` is finite and greater than zero."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name}={value!r} must be a finite number greater than 0")


def check_nonnegative(name: str, value: float) -> None:
    """Raise `ValueError` unless `value` is finite and at least zero."""
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name}={value!r} must be a finite number of at least 0")


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise `ValueError` if a tensor is not floating, or holds NaN or infinity."""
    if not tensor.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {tensor.dtype}; convert with `.float()`")
    if not torch.compiler.is_compiling():
        signature.check_finite(name, tensor)


def check_probabilities(name: str, tensor: Tensor) -> None:
    """Raise `ValueError` unless every value is finite and in [0, 1]."""
    check_finite(name, tensor)
    if torch.compiler.is_compiling() or tensor.numel() == 0:
        return
    low, high = (float(v) for v in tensor.detach().aminmax())
    if low < 0 or high > 1:
        raise ValueError(
            f"{name} must lie in [0, 1], got values from {low:g} to {high:g}; pass probabilities, not logits"
        )


def check_classes(target: Tensor, num_classes: int) -> None:
    """Raise `ValueError` unless class indices that are not negative are below the number of classes."""
    if not torch.compiler.is_compiling() and (most := int(target.max())) >= num_classes:
        raise ValueError(f"target holds the value {most}, wanted class indices from 0 to {num_classes - 1}")


def check_sample_index(index: Tensor, num_samples: int) -> None:
    """Raise `ValueError` if an index is beyond the samples of the training set."""
    if not torch.compiler.is_compiling() and index.numel() and (most := int(index.max())) >= num_samples:
        raise ValueError(f"index holds the value {most}, but the last of {num_samples} samples is {num_samples - 1}")
