"""What the columns of a table are read as, found out on training rows and kept for new ones.

A column of text is read as numbers where nearly all of its cells are: with decimal points or commas, thousands marks,
a currency in front, a percent sign or one unit behind. Where only a few different numbers stand beside words, they are
codes, and the column stays text. Dates keep the format of the training rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from equipoise.data.tables.cells import NEARLY_ALL, as_dates, as_numbers, as_text, date_format, is_text

_CURRENCY = r"(?:[$€£¥₹]|USD|EUR|GBP|CHF|JPY)?"
_CELL = re.compile(
    rf"([+\-−]?)\s*{_CURRENCY}\s*([+\-−]?[\d.,'’\s]*\d[.,]?(?:[eE][+\-]?\d+)?)\s*([^\d\s.,+\-−][^\d.,+\-−]{{0,7}})?"
)
# (decimal mark, thousands mark); of formats that read equally many cells the first is meant.
_MARKS = ((".", ""), (".", ","), (",", ""), (",", "."), (".", " "), (",", " "), (".", "'"))
# With fewer different numbers than this, a word among them makes all of them codes.
_FEW_NUMBERS = 20
# Whole numbers from here on are not told apart in float32.
_COARSE = 2**24


@dataclass(frozen=True)
class NumberFormat:
    """How the numbers of a column are written.

    Attributes:
        decimal: the decimal mark.
        thousands: the mark between groups of three digits; "" for none.
        unit: what may stand behind a number, such as "%" or "kg"; "" for nothing.
    """

    decimal: str = "."
    thousands: str = ""
    unit: str = ""

    def numbers(self, text: pd.Series) -> NDArray[np.float64]:
        """The cells as float64, NaN where one is empty or not a number of this format.

        >>> NumberFormat(",", ".", "kg").numbers(pd.Series(["1.234,5 kg", "80", "80 lb", None]))
        array([1234.5,   80. ,    nan,    nan])
        """
        codes, distinct = pd.factorize(text)
        values = np.array([self._number(str(cell)) for cell in distinct] + [np.nan])
        return values[codes]

    def _number(self, cell: str) -> float:
        found = _CELL.fullmatch(cell)
        if found is None or (found[3] or "").strip() not in ("", self.unit):
            return np.nan
        whole = rf"\d{{1,3}}(?:{re.escape(self.thousands)}\d{{3}})+|\d*" if self.thousands else r"\d*"
        digits = re.sub(r"\s", " ", found[2]).replace("’", "'").replace("−", "-")
        if not re.fullmatch(rf"[+-]?(?:{whole})(?:{re.escape(self.decimal)}\d*)?(?:[eE][+-]?\d+)?", digits):
            return np.nan
        if self.thousands and digits.startswith("0" + self.thousands):
            return np.nan
        number = float(
            digits.replace(self.thousands, "").replace(self.decimal, ".")
            if self.thousands
            else digits.replace(self.decimal, ".")
        )
        return -number if found[1] in ("-", "−") else number

    def __str__(self) -> str:
        marks = f"decimal mark {self.decimal!r}" if self.decimal != "." else ""
        marks += (", " if marks and self.thousands else "") + (
            f"thousands mark {self.thousands!r}" if self.thousands else ""
        )
        return "; ".join(part for part in (marks, f"unit {self.unit!r}" if self.unit else "") if part)


def number_format(text: pd.Series) -> NumberFormat | None:
    """The format that nearly all cells share, or None where they are no numbers, or codes.

    Args:
        text: stripped strings, None where nothing is held; see `as_text`.

    >>> number_format(pd.Series(["1,234.50", "99.10"] + [f"{k}.25" for k in range(30)]))
    NumberFormat(decimal='.', thousands=',', unit='')
    """
    held = text.dropna()
    matches = [_CELL.fullmatch(str(cell)) for cell in held.drop_duplicates()]
    units = pd.Series([(found[3] or "").strip() for found in matches if found], dtype=object)
    if len(held) == 0 or len(units) < len(matches) / 2:
        return None
    unit = str(units[units != ""].mode().get(0, ""))
    formats = [NumberFormat(decimal, thousands, unit) for decimal, thousands in _MARKS]
    read = [np.isfinite(form.numbers(held)) for form in formats]
    best = max(range(len(formats)), key=lambda k: read[k].mean())
    share = float(read[best].mean())
    few = held[read[best]].nunique() < _FEW_NUMBERS
    return formats[best] if share >= (1.0 if few else NEARLY_ALL) else None


@dataclass(frozen=True)
class ColumnReading:
    """What a column is read as.

    Attributes:
        kind: "number", "date" or "text".
        numbers: how numbers are written, where they stand in text.
        dates: how dates are written, where they stand in text.
        center: taken off large numbers, which float32 would not tell apart.
        lost: cells of the training rows that hold something else, and count as missing.
        empty: cells of the training rows that hold nothing.
        rows: training rows.
    """

    kind: Literal["number", "date", "text"]
    numbers: NumberFormat = NumberFormat()
    dates: str | None = None
    center: float = 0.0
    lost: int = 0
    empty: int = 0
    rows: int = 0

    def read(self, column: pd.Series) -> pd.Series:
        """The column in that reading.

        Raises:
            ValueError: if no cell that holds something can be read.
        """
        if self.kind == "text":
            return as_text(column)
        if self.kind == "date":
            dated = pd.api.types.is_datetime64_any_dtype(column.dtype)
            found = column if dated else as_dates(column, self.dates)
        else:
            found = pd.Series(self._numbers(column) - self.center, index=column.index, name=column.name)
        held = _held(column)
        if held.any() and not found[held].notna().any():
            form = f" of the format {self.dates}" if self.kind == "date" and self.dates else ""
            raise ValueError(
                f"column {column.name!r} holds no {self.kind}s{form}, as {column[held].iloc[0]!r}; it held them in the "
                "table that the model was fitted on"
            )
        return found

    def unread(self, column: pd.Series) -> pd.Series:
        """Whether each cell holds something that cannot be read."""
        return _held(column) & self.read(column).isna()

    def _numbers(self, column: pd.Series) -> NDArray[np.float64]:
        if not is_text(column):
            return as_numbers(column)
        text = as_text(column).replace({"True": "1", "False": "0", "true": "1", "false": "0"})
        return self.numbers.numbers(text)

    def __str__(self) -> str:
        form = self.dates or str(self.numbers)
        lost = f"{self.lost} of {self.rows} cells hold something else and count as missing" if self.lost else ""
        told = "; ".join(part for part in (form, lost) if part)
        return self.kind + (f" ({told})" if told else "")


def column_reading(column: pd.Series) -> ColumnReading:
    """What a column of training rows is.

    >>> column_reading(pd.Series([f"$ {k},500" for k in range(1, 40)] + ["on request"])).kind
    'number'
    """
    reading = partial(ColumnReading, empty=int((~_held(column)).sum()), rows=len(column))
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return reading("date")
    if not is_text(column):
        return reading("number", center=_center(as_numbers(column)))
    text = as_text(column)
    form = None if isinstance(column.dtype, pd.CategoricalDtype) else number_format(text)
    if form is not None:
        found = form.numbers(text)
        lost = int((text.notna() & np.isnan(found)).sum())
        return reading("number", form, center=_center(found), lost=lost)
    dates = None if isinstance(column.dtype, pd.CategoricalDtype) else date_format(text)
    if dates is not None:
        lost = int((text.notna() & as_dates(text, dates).isna()).sum())
        return reading("date", dates=dates, lost=lost)
    return reading("text")


def _held(column: pd.Series) -> pd.Series:
    return as_text(column).notna() if is_text(column) else column.notna()


def _center(numbers: NDArray[np.float64]) -> float:
    finite = numbers[np.isfinite(numbers)]
    if not len(finite) or np.abs(finite).max() < _COARSE:
        return 0.0
    return float(np.median(finite))
