"""From a messy table to a float32 matrix, by skrub: what a column is, is found out on training rows only.

- "neural": numbers are squashed around their median, so that one wild value does not flatten the rest, and missing
  cells filled and marked; few categories become indicators, many become axes of their character n-grams; dates become
  days and places on the circles of the calendar.
- "tree": missing cells stay NaN, numbers stay as they are, few categories become codes. Where no cell of a column was
  missing in training, trees have learned nothing about it: one is then the column's usual value.

A category that was not there in training is none of the known: no indicator, or a missing code.
"""

from __future__ import annotations

import warnings
from difflib import get_close_matches
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder
from sklearn.utils.validation import check_is_fitted
from skrub import DatetimeEncoder, SquashingScaler, StringEncoder, TableVectorizer

from equipoise.core.validate import check_choice
from equipoise.data.tables.cells import check_scalars
from equipoise.data.tables.columns import ColumnReading, column_reading

KINDS = ("neural", "tree")
_TEXT_AXES = 30


class TableEncoder(TransformerMixin, BaseEstimator):
    """Encodes the columns of a frame, in whatever order they come.

    Args:
        kind: "neural" for networks and linear models, "tree" for boosters.
        seed: of the axes of text columns.

    Attributes:
        columns_: names of the columns, in the order of training.
        readings_: what each column is read as.
        usual_: of trees, what stands for a missing cell per column of the matrix, NaN where training had some.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"age": [30, None, 50], "town": ["Rome", "Bonn", None]})
    >>> TableEncoder("tree").fit_transform(frame)
    array([[30.,  1.],
           [nan,  0.],
           [50., nan]], dtype=float32)
    """

    def __init__(self, kind: str = "neural", seed: int = 0) -> None:
        self.kind = kind
        self.seed = seed

    def fit(self, frame: pd.DataFrame, y: Any = None) -> TableEncoder:
        """Learn what the columns are from training rows.

        Raises:
            ValueError: if `kind` is unknown, a column holds lists, or no column is left to predict from.
        """
        self.fit_transform(frame)
        return self

    def fit_transform(self, frame: pd.DataFrame, y: Any = None) -> NDArray[np.float32]:
        """`fit`, and the matrix of the same rows."""
        check_choice("kind", self.kind, KINDS)
        self.columns_ = [str(name) for name in frame.columns]
        self.readings_: dict[str, ColumnReading] = {}
        for name, column in frame.set_axis(self.columns_, axis=1).items():
            check_scalars(column)
            self.readings_[str(name)] = column_reading(column)
        self.vectorizer_ = self._vectorizer()
        encoded = self.vectorizer_.fit_transform(self._aligned(frame))
        if encoded.shape[1] == 0:
            raise ValueError("no column is left to predict from: all are constant or empty")
        matrix = self._filled(encoded)
        self.usual_ = self._usual(matrix) if self.kind == "tree" else None
        return matrix

    def transform(self, frame: pd.DataFrame) -> NDArray[np.float32]:
        """The matrix of rows, (n, features).

        Raises:
            ValueError: if a column of the training table is missing, or holds nothing that can be read as there.
        """
        check_is_fitted(self)
        aligned = self._aligned(frame)
        with warnings.catch_warnings():
            # A category that was not there in training has no indicator, which is what is wanted of it.
            warnings.filterwarnings("ignore", "Found unknown categories")
            matrix = self._filled(self.vectorizer_.transform(aligned))
        return matrix if self.usual_ is None else np.where(np.isnan(matrix), self.usual_, matrix)

    def read_as(self) -> dict[str, str]:
        """What each column was read as, in words: number, date, category, text, or left out."""
        kinds = self.vectorizer_.column_to_kind_
        told = {}
        for name, reading in self.readings_.items():
            words = str(reading)
            if name not in kinds:
                words = "left out (it holds nothing)"
            elif kinds[name] == "low_cardinality":
                words = f"category ({len(self._categories(name))} values)"
            told[name] = words
        return told

    def unfamiliar(self, frame: pd.DataFrame) -> list[str]:
        """What new rows hold that training rows did not, a sentence per column and kind.

        Raises:
            ValueError: if a column is missing, or nothing that it holds is known.
        """
        check_is_fitted(self)
        aligned, told = self._aligned(frame), []

        def some(rows: pd.Series) -> str:
            return f"in {int(rows.sum())} of {len(frame)} rows"

        given = {str(name): column for name, column in frame.items()}
        for name, reading in self.readings_.items():
            unread, column = reading.unread(given[name]), aligned[name]
            if unread.any():
                example = given[name][unread].iloc[0]
                told.append(f"{name!r} holds no {reading.kind} {some(unread)}, as {example!r}: counted as missing")
            empty = column.isna() & ~unread
            if empty.any() and not reading.empty + reading.lost:
                told.append(f"{name!r} is empty {some(empty)}, and was in none of training")
            if self.vectorizer_.column_to_kind_.get(name) != "low_cardinality":
                continue
            held = column.dropna()
            unseen = ~held.isin(self._categories(name))
            if len(held) > 1 and unseen.all():
                known = ", ".join(map(repr, self._categories(name)[:5]))
                raise ValueError(
                    f"column {name!r} holds no value that the model was fitted on, as {held.iloc[0]!r}; it knows "
                    f"{known}: leave the column empty if that is right"
                )
            if unseen.any():
                told.append(f"{name!r} holds a value that training did not {some(unseen)}, as {held[unseen].iloc[0]!r}")
        return told

    def _categories(self, name: str) -> list[str]:
        return [value for value in self.vectorizer_.transformers_[name].categories_[0] if isinstance(value, str)]

    def _usual(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """Per column the commonest code or the median, NaN where training rows have gaps."""
        usual = np.quantile(matrix, 0.5, axis=0, method="lower").astype(np.float32)
        places = {name: place for place, name in enumerate(self.vectorizer_.all_outputs_)}
        for name, kind in self.vectorizer_.column_to_kind_.items():
            if kind == "low_cardinality":
                codes, counts = np.unique(matrix[:, places[name]], return_counts=True)
                usual[places[name]] = codes[counts.argmax()]
        usual[np.isnan(matrix).any(axis=0)] = np.nan
        return usual

    def _aligned(self, frame: pd.DataFrame) -> pd.DataFrame:
        names = {str(name): name for name in frame.columns}
        missing = [name for name in self.columns_ if name not in names]
        if missing:
            close = get_close_matches(missing[0], names, n=1)
            raise ValueError(
                f"the table lacks column{'s' * (len(missing) > 1)} {', '.join(map(repr, missing))} that the model was "
                "fitted on" + (f"; did you mean {close[0]!r}?" if close else "")
            )
        return pd.DataFrame(
            {name: reading.read(frame[names[name]].rename(name)) for name, reading in self.readings_.items()}
        )

    def _filled(self, encoded: Any) -> NDArray[np.float32]:
        matrix = np.array(encoded, dtype=np.float32)
        if self.kind == "neural":
            # What no step could fill, such as an empty cell of a date, is the value of an average row.
            matrix[~np.isfinite(matrix)] = 0.0
        else:
            matrix[np.isinf(matrix)] = np.nan
        return matrix

    def _vectorizer(self) -> TableVectorizer:
        text = StringEncoder(n_components=_TEXT_AXES, random_state=self.seed)
        if self.kind == "tree":
            codes = OrdinalEncoder(
                handle_unknown="use_encoded_value", unknown_value=np.nan, encoded_missing_value=np.nan
            )
            return TableVectorizer(low_cardinality=codes, high_cardinality=text, datetime=DatetimeEncoder())
        numbers = make_pipeline(SquashingScaler(), SimpleImputer(add_indicator=True))
        dates = make_pipeline(DatetimeEncoder(periodic_encoding="circular"), SquashingScaler())
        indicators = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
        return TableVectorizer(numeric=numbers, low_cardinality=indicators, high_cardinality=text, datetime=dates)


def make_encoder(kind: str = "neural") -> TableEncoder:
    """The encoder for a family of models: "neural" for networks and linear models, "tree" for boosters.

    Raises:
        ValueError: if `kind` is neither.
    """
    check_choice("kind", kind, KINDS)
    return TableEncoder(kind)
