"""From a messy table to a float32 matrix, fitted on training rows and rebuilt elsewhere from plain numbers.

What a column is, is found out once, in `fit`: numbers (also in text), dates, categories, or free text. Two encodings:

- "neural": everything filled, centred and of unit spread. Numbers pass a soft clip z / √(1 + (z/3)²) around the median,
  so one wild value does not flatten the rest; missing cells become the median and a column that says so; categories
  become indicators; dates become days and a place on the circles of year, week and day.
- "tree": missing cells stay NaN, numbers stay as they are, categories become their rank by frequency.

Text with many distinct values gets its most frequent values as a category, and for what they have in common the leading
axes of hashed, idf-weighted 2-4-grams of its characters.

An encoder that `predict` loads must not be a pickle, and general-purpose vectorizers have no other form. All that this
one learns is in `state()`, which is JSON.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from equipoise.core.validate import check_choice, warn_once
from equipoise.data.cells import as_dates, as_numbers, as_text, date_format, is_text, mostly_numbers

KINDS = ("neural", "tree")
_SOFT_CLIP = 3.0
_HASHES = 512
_AXES = 30
_ENOUGH_ROWS = 50_000
_LARGEST = float(np.finfo(np.float32).max)
# Whole numbers above this are not all float32 numbers: they are stored as differences to their median.
_EXACT = 2.0**24

Matrix = NDArray[np.float32]


def make_encoder(kind: str = "neural") -> TableEncoder:
    """The encoder for a family of models: "neural" for networks and linear models, "tree" for boosters.

    Raises:
        ValueError: if `kind` is neither.

    >>> frame = pd.DataFrame({"age": [30, None, 50], "town": ["Rome", "Bonn", None]})
    >>> make_encoder("tree").fit_transform(frame)
    array([[30.,  1.],
           [nan,  0.],
           [50., nan]], dtype=float32)
    """
    check_choice("kind", kind, KINDS)
    return TableEncoder(kind)


@dataclass(frozen=True)
class _Scale:
    """x → soft clip around the median → zero mean, unit variance; NaN counts as the median."""

    center: float
    spread: float
    mean: float
    std: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> _Scale:
        known = values[np.isfinite(values)]
        if len(known) == 0:
            return cls(0.0, 1.0, 0.0, 1.0)
        low, center, high = (float(q) for q in np.quantile(known, [0.25, 0.5, 0.75]))
        if low == high:
            # Mostly one value: unit variance would blow the few others up, so the range becomes [-2, 2] at most.
            return cls(center, float(known.max() - known.min()) / 2 or 1.0, 0.0, 1.0)
        soft = cls(center, high - low, 0.0, 1.0)._clipped(known)
        return cls(center, high - low, float(soft.mean()), float(soft.std()))

    def _clipped(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        # 1e6 spreads away, infinity included, is the clip's edge to the last bit.
        z = np.clip((values - self.center) / self.spread, -1e6, 1e6)
        return z / np.sqrt(1 + (z / _SOFT_CLIP) ** 2)

    def __call__(self, values: NDArray[np.float64]) -> Matrix:
        filled = np.where(np.isnan(values), self.center, values)
        return ((self._clipped(filled) - self.mean) / self.std).astype(np.float32)


@dataclass(frozen=True)
class _Number:
    kind: ClassVar[str] = "number"
    name: str
    scale: _Scale | None
    offset: float
    missing: bool

    @classmethod
    def of(cls, name: str, values: NDArray[np.float64], *, neural: bool) -> _Number:
        known = values[np.isfinite(values)]
        large = len(known) > 0 and float(np.abs(known).max()) > _EXACT
        return cls(
            name,
            _Scale.of(values) if neural else None,
            float(np.median(known)) if large else 0.0,
            bool(np.isnan(values).any()),
        )

    def features(self) -> list[str]:
        return [self.name, f"{self.name} is missing"] if self.scale and self.missing else [self.name]

    def encode(self, column: pd.Series) -> Matrix:
        values = as_numbers(column)
        _check_readable(self.name, "numbers", column, np.isnan(values))
        if self.scale is None:
            return np.clip(values - self.offset, -_LARGEST, _LARGEST).astype(np.float32)[:, None]
        parts = [self.scale(values), np.isnan(values).astype(np.float32)]
        return np.stack(parts if self.missing else parts[:1], axis=1)


@dataclass(frozen=True)
class _Date:
    kind: ClassVar[str] = "date"
    name: str
    form: str | None
    scale: _Scale | None
    clock: bool
    missing: bool

    @classmethod
    def of(cls, name: str, dates: pd.Series, form: str | None, *, neural: bool) -> _Date:
        known = dates.dropna()
        clock = bool((known != known.dt.normalize()).any())
        return cls(name, form, _Scale.of(_days(dates)) if neural else None, clock, bool(dates.isna().any()))

    def features(self) -> list[str]:
        circles = ["month", "weekday"] + (["hour"] if self.clock else [])
        if self.scale is None:
            return [f"{self.name} {part}" for part in ["days", *circles]]
        waves = [f"{self.name} {circle} {wave}" for circle in circles for wave in ("sin", "cos")]
        return [f"{self.name} days", *waves, *([f"{self.name} is missing"] if self.missing else [])]

    def encode(self, column: pd.Series) -> Matrix:
        dates = as_dates(column, self.form)
        absent = dates.isna().to_numpy()
        _check_readable(self.name, f"dates like {self.form}" if self.form else "dates", column, absent)
        days, clock = _days(dates), dates.dt
        circles = [(clock.month - 1, 12), (clock.weekday, 7)] + ([(clock.hour, 24)] if self.clock else [])
        turns = [(part.to_numpy(dtype=np.float64), length) for part, length in circles]
        if self.scale is None:
            return np.stack([days, *(part for part, _ in turns)], axis=1).astype(np.float32)
        waves = [wave(2 * np.pi * part / length) for part, length in turns for wave in (np.sin, np.cos)]
        parts = [self.scale(days), *(np.nan_to_num(wave) for wave in waves), *([absent] if self.missing else [])]
        return np.stack(parts, axis=1).astype(np.float32)


@dataclass(frozen=True)
class _Category:
    kind: ClassVar[str] = "category"
    name: str
    categories: tuple[str, ...]
    one_hot: bool
    missing: bool

    @classmethod
    def of(cls, name: str, text: pd.Series, most: int, *, neural: bool) -> _Category:
        counts = text.value_counts()
        # Equal counts are ordered by name, so that the order of rows does not matter.
        ranked = sorted(counts.index, key=lambda value: (-counts[value], value))[:most]
        return cls(name, tuple(ranked), neural, bool(text.isna().any()))

    def _indicators(self) -> tuple[str, ...]:
        # Of two values the rarer one's indicator says it all.
        return self.categories[1:] if len(self.categories) == 2 and not self.missing else self.categories

    def features(self) -> list[str]:
        if not self.one_hot:
            return [self.name]
        names = [f"{self.name}={value}" for value in self._indicators()]
        return [*names, f"{self.name} is missing"] if self.missing else names

    def encode(self, column: pd.Series) -> Matrix:
        text = as_text(column)
        codes = pd.Categorical(text, categories=list(self.categories)).codes
        if len(codes) and (codes < 0).all() and text.notna().any():
            warn_once(f"column {self.name!r} holds no value that was there in training, as {self.categories[0]!r}")
        if not self.one_hot:
            return np.where(codes < 0, np.nan, codes).astype(np.float32)[:, None]
        first = len(self.categories) - len(self._indicators())
        parts = [codes == code for code in range(first, len(self.categories))]
        if self.missing:
            parts.append(text.isna().to_numpy())
        return np.stack(parts, axis=1).astype(np.float32)


@dataclass(frozen=True)
class _Text:
    kind: ClassVar[str] = "text"
    name: str
    frequent: _Category
    weights: tuple[float, ...]
    axes: tuple[tuple[float, ...], ...]
    means: tuple[float, ...]
    spreads: tuple[float, ...]

    @classmethod
    def of(cls, name: str, text: pd.Series, most: int, *, neural: bool) -> _Text:
        from scipy.sparse.linalg import eigsh

        grams, codes = _hashed_grams(text.dropna())
        rows = np.bincount(codes, minlength=grams.shape[0])
        present = np.asarray((grams > 0).T @ rows).ravel()
        weights = np.round(np.log((1 + rows.sum()) / (1 + present)) + 1, 7)
        # The axes of many rows are those of a part of them.
        weighted = _weighted(grams, weights)[codes[:: 1 + len(codes) // _ENOUGH_ROWS]]
        # The Gram matrix is small; a fixed start makes its leading eigenvectors a function of the rows alone.
        gram = (weighted.T @ weighted).toarray()
        powers, vectors = eigsh(gram, _AXES, v0=np.ones(len(gram)))
        axes = vectors.T[powers > 1e-9 * powers.max()][::-1]
        # An eigenvector's sign is the machine's whim, and digits beyond float32 would only lengthen the state.
        signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])
        axes = np.round(axes * signs[:, None], 7)
        places = weighted @ axes.T
        means, spreads = places.mean(axis=0), places.std(axis=0)
        if not neural:
            means, spreads = np.zeros(len(axes)), np.ones(len(axes))
        return cls(
            name,
            _Category.of(name, text, most, neural=neural),
            tuple(weights.tolist()),
            tuple(tuple(axis) for axis in axes.tolist()),
            tuple(means.tolist()),
            tuple(spread or 1.0 for spread in spreads.tolist()),
        )

    def features(self) -> list[str]:
        return [*self.frequent.features(), *(f"{self.name} text {k}" for k in range(len(self.axes)))]

    def encode(self, column: pd.Series) -> Matrix:
        text = as_text(column)
        held = text.notna().to_numpy()
        places = np.zeros((len(text), len(self.axes)), dtype=np.float32)
        if held.any():
            grams, codes = _hashed_grams(text[held])
            found = _weighted(grams, np.asarray(self.weights)) @ np.asarray(self.axes).T
            places[held] = ((found - np.asarray(self.means)) / np.asarray(self.spreads))[codes]
        return np.hstack([self.frequent.encode(column), places])


_Column = _Number | _Date | _Category | _Text
_COLUMNS = {column.kind: column for column in (_Number, _Date, _Category, _Text)}


class TableEncoder(TransformerMixin, BaseEstimator):
    """A scikit-learn transformer from a data frame to a float32 array; see the module for what becomes of a column.

    Columns that are constant or empty in training are left out. At predict time columns may come in any order, and
    others may be there; categories that training had not count as none of those known.

    Args:
        kind: "neural" or "tree".
        max_categories: text with at most this many distinct values is a category; of other text, this many of the most
            frequent values are.

    Attributes:
        feature_names_in_: the columns of the training frame.
        dropped_: those left out, and why.

    >>> frame = pd.DataFrame({"age": [30, 40, 50, 45], "paid": ["yes", "no", "no", "no"], "unit": 4 * ["kg"]})
    >>> encoder = TableEncoder().fit(frame)
    >>> encoder.get_feature_names_out().tolist(), encoder.dropped_
    (['age', 'paid=yes'], {'unit': 'constant'})
    >>> again = TableEncoder.from_state(encoder.state())
    >>> bool((again.transform(frame) == encoder.transform(frame)).all())
    True
    """

    def __init__(self, kind: str = "neural", *, max_categories: int = 30) -> None:
        self.kind = kind
        self.max_categories = max_categories

    def fit(self, X: pd.DataFrame, y: Any = None) -> TableEncoder:
        """Find out what every column is.

        Raises:
            ValueError: if `X` is no data frame, has no rows, names a column twice, or no column says anything.
        """
        check_choice("kind", self.kind, KINDS)
        if self.max_categories < 1:
            raise ValueError(f"max_categories={self.max_categories} must be at least 1")
        frame = _checked(X)
        if len(frame) == 0:
            raise ValueError("the table has no rows to fit an encoder on")
        self.feature_names_in_ = np.array(list(frame.columns), dtype=object)
        self.n_features_in_ = len(self.feature_names_in_)
        self.dropped_: dict[str, str] = {}
        self.columns_: list[_Column] = []
        for name in frame.columns:
            column = self._understood(name, frame[name])
            if isinstance(column, str):
                self.dropped_[name] = column
            else:
                self.columns_.append(column)
        if not self.columns_:
            raise ValueError(
                f"none of the {len(frame.columns)} feature columns holds two different values; nothing can be learnt "
                "from them"
            )
        return self

    def _understood(self, name: str, column: pd.Series) -> _Column | str:
        """What the column is, or why it is left out."""
        neural = self.kind == "neural"
        text = as_text(column) if is_text(column) else None
        held = column if text is None else text
        if held.isna().all():
            return "empty"
        if held.nunique(dropna=False) == 1:
            return "constant"
        if text is None:
            if pd.api.types.is_datetime64_any_dtype(column.dtype):
                return _Date.of(name, as_dates(column), None, neural=neural)
            return _Number.of(name, as_numbers(column), neural=neural)
        if mostly_numbers(text):
            return _Number.of(name, as_numbers(text), neural=neural)
        form = date_format(text)
        if form is not None:
            return _Date.of(name, as_dates(text, form), form, neural=neural)
        if text.nunique() <= self.max_categories:
            return _Category.of(name, text, self.max_categories, neural=neural)
        return _Text.of(name, text, self.max_categories, neural=neural)

    def transform(self, X: pd.DataFrame) -> Matrix:
        """The features of each row, shape (rows, features), float32.

        Raises:
            ValueError: if a column of the training is absent, or was numbers (dates) and now holds none.
        """
        check_is_fitted(self, "columns_")
        frame = _checked(X)
        absent = [column.name for column in self.columns_ if column.name not in frame.columns]
        if absent:
            close = get_close_matches(absent[0], list(frame.columns), n=1)
            raise ValueError(
                f"{_listed('column', absent)} of the training table {'is' if len(absent) == 1 else 'are'} absent"
                + (f"; did {close[0]!r} use to be {absent[0]!r}?" if close else "")
            )
        return np.hstack([column.encode(frame[column.name]) for column in self.columns_])

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[Any]:
        """Names of the features, such as `town=Rome` or `born days`."""
        check_is_fitted(self, "columns_")
        return np.array([feature for column in self.columns_ for feature in column.features()], dtype=object)

    def state(self) -> dict[str, Any]:
        """All that was learnt, as JSON values."""
        check_is_fitted(self, "columns_")
        return {
            "kind": self.kind,
            "max_categories": self.max_categories,
            "names": list(self.feature_names_in_),
            "dropped": dict(self.dropped_),
            "columns": [{"is": column.kind, **asdict(column)} for column in self.columns_],
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> TableEncoder:
        """The encoder that gave this state, be it straight or read back from JSON.

        Raises:
            ValueError: if it is not the state of an encoder.
        """
        try:
            encoder = cls(state["kind"], max_categories=state["max_categories"])
            encoder.feature_names_in_ = np.array(state["names"], dtype=object)
            encoder.n_features_in_ = len(encoder.feature_names_in_)
            encoder.dropped_ = dict(state["dropped"])
            encoder.columns_ = [_restored(column) for column in state["columns"]]
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is not the state of a table encoder: {error}") from error
        return encoder


def _restored(state: dict[str, Any]) -> _Column:
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in state.items() if name != "is"}
    if values.get("scale"):
        values["scale"] = _Scale(**values["scale"])
    if "frequent" in values:
        values["frequent"] = _restored({"is": "category", **values["frequent"]})
    return _COLUMNS[state["is"]](**values)


def _checked(frame: Any) -> pd.DataFrame:
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(f"a pandas DataFrame is wanted, got {type(frame).__name__}; read files with `read_table`")
    named = frame.set_axis([str(name) for name in frame.columns], axis=1)
    twice = named.columns[named.columns.duplicated()]
    if len(twice):
        raise ValueError(f"the table has two columns named {twice[0]!r}; rename one of them")
    return named


def _check_readable(name: str, wanted: str, column: pd.Series, unread: NDArray[np.bool_]) -> None:
    held = as_text(column).dropna() if is_text(column) else column.dropna()
    if len(held) and unread.all():
        raise ValueError(
            f"column {name!r} held {wanted} in training, but none of its {len(held)} values is one now, as "
            f"{held.iloc[0]!r}"
        )


def _listed(noun: str, names: Iterable[str]) -> str:
    quoted = [repr(name) for name in names]
    shown = ", ".join(quoted[:5]) + (f" and {len(quoted) - 5} more" if len(quoted) > 5 else "")
    return f"{noun}{'s' if len(quoted) > 1 else ''} {shown}"


def _days(dates: pd.Series) -> NDArray[np.float64]:
    """Days since 1970, NaN where a date is missing."""
    return ((dates - pd.Timestamp(0)) / pd.Timedelta(days=1)).to_numpy(dtype=np.float64)


def _hashed_grams(text: pd.Series) -> tuple[Any, NDArray[np.int64]]:
    """Counts of hashed character n-grams of the distinct values (sparse), and which of them each row holds."""
    from sklearn.feature_extraction.text import HashingVectorizer

    codes, distinct = pd.factorize(text)
    hashing = HashingVectorizer(
        n_features=_HASHES, analyzer="char_wb", ngram_range=(2, 4), norm=None, alternate_sign=False
    )
    return hashing.transform(list(distinct)), codes


def _weighted(grams: Any, weights: NDArray[np.float64]) -> Any:
    from sklearn.preprocessing import normalize

    return normalize(grams.multiply(weights).tocsr())
