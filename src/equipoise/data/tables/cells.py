"""What a cell of a messy column says: nothing, a number, or a date.

Files mix types: a laboratory value is a number except for one "<0.5", a date is text, and nobody agrees on how to write
that a value is missing. A column is read as what nearly all of its cells are; the rest count as missing.
"""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.tseries.api import guess_datetime_format

from equipoise.core.validate import warn_once

# "-" and "." are what statistics packages export; the rest is what pandas and skrub take for missing as well.
MISSING_MARKS = frozenset(
    {"", "?", "-", "--", ".", "...", "na", "n/a", "#n/a", "nan", "<na>", "null", "<null>", "none"}
)
NEARLY_ALL = 0.9
_SWAPPED = str.maketrans("dm", "md")
_DATE_SAMPLE = 300


def check_scalars(column: pd.Series) -> None:
    """Raise `ValueError` if a cell holds a list, an array or a dictionary."""
    if column.dtype == object:
        nested = column.map(lambda cell: isinstance(cell, list | tuple | set | dict | np.ndarray))
        if nested.any():
            kind = "dictionary" if isinstance(column[nested].iloc[0], dict) else "list"
            raise ValueError(f"column {column.name!r} holds a {kind} in a cell; give each of its parts a column")


def as_text(column: pd.Series) -> pd.Series:
    """The cells as stripped strings, with None where a value is missing or a mark stands for it.

    >>> as_text(pd.Series([" a", "N/A", None, 3])).tolist()
    ['a', None, None, '3']
    """
    # Distinct values are few next to rows, so the Python work is done once for each.
    codes, values = pd.factorize(column.astype(object), use_na_sentinel=True)
    # A whole number is written 1.0 where other cells of its file are missing; it is the same value.
    cleaned = [str(int(v) if isinstance(v, float) and v.is_integer() else v).strip() for v in values]
    texts = np.array([None if text.lower() in MISSING_MARKS else text for text in cleaned] + [None], dtype=object)
    return pd.Series(texts[codes], index=column.index, name=column.name, dtype=object)


def is_text(column: pd.Series) -> bool:
    """Whether the cells have to be read, being neither numbers nor dates by their type."""
    kinds = pd.api.types
    return not (
        kinds.is_bool_dtype(column.dtype)
        or kinds.is_numeric_dtype(column.dtype)
        or kinds.is_datetime64_any_dtype(column.dtype)
        or kinds.is_timedelta64_dtype(column.dtype)
    ) or isinstance(column.dtype, pd.CategoricalDtype)


def as_numbers(column: pd.Series) -> NDArray[np.float64]:
    """The cells as float64, NaN where one is missing or not a number; time spans in seconds.

    >>> as_numbers(pd.Series(["1.5", "?", True, "abc"]))
    array([1.5, nan, 1. , nan])
    """
    if pd.api.types.is_timedelta64_dtype(column.dtype):
        return column.dt.total_seconds().to_numpy(dtype=np.float64)
    if is_text(column):
        text = as_text(column).replace({"True": "1", "False": "0", "true": "1", "false": "0"})
        column = pd.to_numeric(text, errors="coerce")
    elif pd.api.types.is_datetime64_any_dtype(column.dtype):
        return np.full(len(column), np.nan)
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


def mostly_numbers(text: pd.Series) -> bool:
    """Whether nearly all cells that hold something are numbers."""
    held = text.dropna()
    return len(held) > 0 and float(np.isfinite(as_numbers(held)).mean()) >= NEARLY_ALL


def as_dates(column: pd.Series, form: str | None = None) -> pd.Series:
    """The cells as dates without time zone (UTC), NaT where one is missing or not of the format `form`."""
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        dates = pd.to_datetime(column, utc=True)
    else:
        dates = pd.to_datetime(as_text(column), format=form, errors="coerce", utc=True)
    return dates.dt.tz_localize(None).astype("datetime64[ns]")


def date_format(text: pd.Series) -> str | None:
    """The one date format that nearly all cells share, or None.

    Where day and month could change places everywhere, the month is taken to come first, with a warning.

    >>> date_format(pd.Series(["02/03/2024", "23/03/2024", "to be announced"] + 40 * ["01/03/2024"]))
    '%d/%m/%Y'
    """
    held = text.dropna()
    # A column of names is not worth guessing at.
    if held.empty or float(held.str.contains(r"\d", regex=True).mean()) < NEARLY_ALL:
        return None
    distinct = held.drop_duplicates()
    sample = distinct.sample(min(len(distinct), _DATE_SAMPLE), random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        guesses = [[guess_datetime_format(cell, dayfirst=late) for cell in sample] for late in (False, True)]
    # The first of equals wins, so month-first formats come first.
    formats = [form for forms in guesses for form in dict.fromkeys(forms) if form]
    shares = {form: float(as_dates(held, form).notna().mean()) for form in formats}
    form = max(shares, key=lambda name: shares[name], default=None)
    if form is None or shares[form] < NEARLY_ALL:
        return None
    swapped = form.translate(_SWAPPED)
    unsure = not form.startswith("%Y") and shares.get(swapped) == shares[form]
    if unsure and not as_dates(held, swapped).equals(as_dates(held, form)):
        warn_once(f"dates like {sample.iloc[0]!r} are read with the month first; write them as 2024-12-31 to be sure")
    return form
