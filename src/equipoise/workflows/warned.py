"""Warnings of the lower floors as notices of a run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def heard(notice: Callable[[str], None], left_out: Sequence[str] = ()) -> Iterator[None]:
    """Tell of warnings for users when the block ends well, but for those that hold certain words."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in found:
        words = str(warning.message)
        if not any(part in words for part in left_out):
            notice(words)
