"""Text that a spreadsheet would run as a formula."""

from __future__ import annotations

from typing import Any

# What spreadsheets take for the beginning of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def quoted(cell: Any) -> Any:
    """The cell, with a quote before text that begins like a formula.

    >>> quoted("=1+1"), quoted("Ada"), quoted(-1)
    ("'=1+1", 'Ada', -1)
    """
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
