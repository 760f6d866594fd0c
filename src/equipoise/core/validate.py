"""Input checks whose messages say what was given, what is wanted, and how to mend it.

Checks of *values* (finite scores, labels in range) look at the data; under `torch.compile` they are skipped, since a
branch on data would break the graph. Checks of shape and dtype always run.
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
    """Raise `ValueError` if a floating tensor holds NaN or infinity; `TypeError`-like misuse is a `ValueError` too."""
    _check_floating(name, tensor, infinite=False)


def check_not_nan(name: str, tensor: Tensor) -> None:
    """Raise `ValueError` if a floating tensor holds NaN; infinities, which a metric can rank, pass."""
    _check_floating(name, tensor, infinite=True)


def _check_floating(name: str, tensor: Tensor, *, infinite: bool) -> None:
    if not tensor.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {tensor.dtype}; convert with `.float()`")
    if not torch.compiler.is_compiling():
        signature.check_finite(name, tensor, infinite=infinite)


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


def _check_integers(name: str, target: Tensor, low: int, high: int | None, meaning: str) -> None:
    if target.is_floating_point() or target.is_complex():
        raise ValueError(f"{name} must hold integers or booleans, got {target.dtype}; convert with `.long()`")
    if torch.compiler.is_compiling() or target.numel() == 0 or target.dtype == torch.bool:
        return
    least, most = (int(v) for v in target.aminmax())
    if least < low or (high is not None and most > high):
        wrong = least if least < low else most
        raise ValueError(f"{name} holds the value {wrong}, wanted {meaning}")


def check_classes(target: Tensor, num_classes: int) -> None:
    """Raise `ValueError` unless class indices that are not negative are below the number of classes."""
    if not torch.compiler.is_compiling() and (most := int(target.max())) >= num_classes:
        raise ValueError(f"target holds the value {most}, wanted class indices from 0 to {num_classes - 1}")


def check_nonempty(name: str, tensor: Tensor) -> None:
    """Raise `ValueError` if there is nothing in the first dimension."""
    if tensor.shape[0] == 0:
        raise ValueError(f"{name} is empty; at least one sample is needed")


def check_binary(scores: Tensor, target: Tensor, *, name: str = "scores") -> None:
    """Check scores (n,) against targets (n,) in {0, 1}.

    Raises:
        ValueError: wrong or different shapes, no samples, NaN or infinite scores, targets other than 0 and 1.
    """
    if scores.ndim != 1 or target.ndim != 1 or scores.shape != target.shape:
        raise ValueError(
            f"{name} and target must both have shape (n,), got {tuple(scores.shape)} and {tuple(target.shape)}"
            + ("; squeeze the last dimension of the scores" if scores.ndim == 2 and scores.shape[1] == 1 else "")
        )
    check_nonempty(name, scores)
    check_finite(name, scores)
    _check_integers("target", target, 0, 1, "0 (negative) or 1 (positive)")


def check_multilabel(scores: Tensor, target: Tensor) -> None:
    """Check scores (n, L) against targets (n, L) in {0, 1}; errors as `check_binary`."""
    if scores.ndim != 2 or scores.shape != target.shape:
        raise ValueError(
            f"scores and target must both have shape (n, labels), got {tuple(scores.shape)} and {tuple(target.shape)}"
        )
    check_nonempty("scores", scores)
    check_finite("scores", scores)
    _check_integers("target", target, 0, 1, "0 (absent) or 1 (present)")


def check_multiclass(scores: Tensor, target: Tensor) -> None:
    """Check scores (n, C), C >= 2, against class indices (n,) in 0..C-1; errors as `check_binary`."""
    if scores.ndim != 2 or scores.shape[1] < 2 or target.ndim != 1 or scores.shape[0] != target.shape[0]:
        raise ValueError(
            "scores must have shape (n, classes) with at least 2 classes and target shape (n,), "
            f"got {tuple(scores.shape)} and {tuple(target.shape)}"
        )
    check_nonempty("scores", scores)
    check_finite("scores", scores)
    classes = scores.shape[1]
    _check_integers(
        "target",
        target,
        0,
        classes - 1,
        f"a class index from 0 to {classes - 1} (scores have {classes} columns)",
    )


def check_weights(name: str, weight: Tensor, like: Tensor) -> None:
    """Raise `ValueError` unless weights have the shape of `like`, are finite and not negative."""
    if weight.shape != like.shape:
        raise ValueError(f"{name} must have the shape of its scores {tuple(like.shape)}, got {tuple(weight.shape)}")
    check_finite(name, weight)
    if not torch.compiler.is_compiling() and weight.numel() and float(weight.detach().min()) < 0:
        raise ValueError(f"{name} must not be negative, got {float(weight.detach().min()):g}")
