"""Tables from files, and what is to be predicted in them.

`read_table` turns a CSV, TSV or Parquet file into a pandas frame; `table_task` says which column is the target and
which rows belong together, and checks that a classifier can be trained on it. Both fail with a sentence that says how
to mend the table.
"""

from __future__ import annotations

import csv
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas._libs.parsers import STR_NA_VALUES
from pandas.errors import EmptyDataError

from equipoise.data.tables.cells import (
    as_dates,
    as_numbers,
    as_text,
    check_scalars,
    date_format,
    is_text,
    mostly_numbers,
)

_SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": ","}
_PARQUET = (".parquet", ".pq")
_PACKED = (".gz", ".bz2", ".xz", ".zip", ".zst")
# More distinct values than this are taken for identifiers or measurements unless each class has several members.
_FEW_CLASSES = 20
_MARKS = (",", ";", "\t", "|")
# Lines by which the separator is found.
_LINES = 20
_YES = frozenset({"yes", "y", "true", "t", "1", "positive", "pos"})
_NO = frozenset({"no", "n", "false", "f", "0", "negative", "neg"})

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class TableTask:
    """A table and what is to be predicted in it.

    Attributes:
        features: the columns to predict from, one row per sample.
        target: class code of each row, shape (n,); in a binary task 1 is the positive class.
        classes: the value that each code stands for.
        target_name: the column that was the target.
        groups: code of the group of each row, or None.
        times: time of each row as a sortable number (nanoseconds for dates), or None.
        notes: what was decided without being asked, in sentences for a report.
    """

    features: pd.DataFrame
    target: Indices
    classes: tuple[Any, ...]
    target_name: str
    groups: Indices | None = None
    times: NDArray[Any] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.target)

    @property
    def binary(self) -> bool:
        """Whether there are two classes."""
        return len(self.classes) == 2

    @property
    def positive(self) -> Any:
        """The positive class's value in a binary task, else None."""
        return self.classes[1] if self.binary else None

    @property
    def class_counts(self) -> Indices:
        """Rows of each class."""
        return np.bincount(self.target, minlength=len(self.classes))

    def take(self, rows: Indices) -> TableTask:
        """The task of these rows only, with the same classes and codes."""
        return replace(
            self,
            features=self.features.iloc[rows].reset_index(drop=True),
            target=self.target[rows],
            groups=None if self.groups is None else self.groups[rows],
            times=None if self.times is None else self.times[rows],
        )


def read_table(
    path: str | Path, literal: Sequence[str] = (), *, names: Callable[[str], bool] | None = None
) -> pd.DataFrame:
    """Read a CSV, TSV or Parquet file, packed (.gz, .bz2, .xz, .zip, .zst) or not.

    Fields may be separated by something else than the ending says, if every one of the first lines agrees (semicolons
    with decimal commas, tabs, bars; a first line `sep=;` as Excel writes it), and quotes may follow a space. A nameless
    first column that only counts the rows is left out: it is an index that was written by accident.

    Args:
        path: the file.
        literal: columns in which "NA", "None" and the like are values; only an empty cell is missing there.
        names: says of the name of a column whether its cells are names, such as identifiers: they are literal, and text
            as it is written, so that 007 does not become 7. Parquet has types of its own.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is a folder, empty, without rows, of an unknown kind, not what its ending claims, or has
            several columns of one name.
    """
    path, kind = table_kind(path)
    frame = _read_parquet(path) if kind in _PARQUET else _read_text(path, _SEPARATORS[kind], literal, names)
    if len(frame) == 0:
        raise ValueError(f"{path} has a header but no rows")
    first = str(frame.columns[0])
    if first.startswith("Unnamed: 0") and (np.diff(as_numbers(frame.iloc[:, 0])) == 1).all():
        frame = frame.iloc[:, 1:]
    return frame


def table_kind(path: str | Path) -> tuple[Path, str]:
    """The file and its kind, an ending such as ".csv" or ".parquet", of packed files the one before.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is a folder, empty, or of an unknown kind.
    """
    path = Path(path)
    if not path.exists():
        folder = path.parent
        others = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        close = get_close_matches(path.name, others, n=1)
        raise FileNotFoundError(f"there is no file {path}" + (f"; did you mean {folder / close[0]}?" if close else ""))
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a CSV, TSV or Parquet file")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = suffixes[-1] if suffixes else ""
    if kind in _PACKED and len(suffixes) > 1:
        kind = suffixes[-2]
    if kind not in _SEPARATORS and kind not in _PARQUET:
        raise ValueError(
            f"{path} has an ending that is not known; wanted .csv, .tsv, .txt or .parquet (CSV also packed as .csv.gz)"
        )
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
    return path, kind


def _read_parquet(path: Path) -> pd.DataFrame:
    from pyarrow import ArrowException

    try:
        return pd.read_parquet(path, engine="pyarrow").reset_index(drop=True)
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as Parquet: {_first_line(error)}") from error


def _read_text(path: Path, separator: str, literal: Sequence[str], named: Callable[[str], bool] | None) -> pd.DataFrame:
    options: dict[str, Any] = {"encoding": "utf-8-sig", "skipinitialspace": True}
    try:
        options |= _separation(path, separator)
        header = pd.read_csv(_opened(path), nrows=1, header=None, dtype=str, **options).iloc[0].dropna().tolist()
        names = [str(name) for name in header]
        twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        if twice:
            raise ValueError(f"{names.count(twice[0])} of its columns are named {twice[0]!r}; rename all but one")
        if options["sep"] == ";":
            options["decimal"] = ","
        texts = [name for name in names if named is not None and named(name)]
        options["dtype"] = dict.fromkeys(texts, str)
        if {*literal, *texts} & set(names):
            missing = {name: [""] if name in literal or name in texts else sorted(STR_NA_VALUES) for name in names}
            options |= {"na_values": missing, "keep_default_na": False}
        frame = pd.read_csv(_opened(path), low_memory=False, **options)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({_first_line(error)}); save it as UTF-8") from error
    except EmptyDataError as error:
        raise ValueError(f"{path} is empty") from error
    except (ValueError, OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as a table: {_first_line(error)}") from error
    # With more fields in the rows than in the header, pandas would move the columns and make an index of the first.
    if not isinstance(frame.index, pd.RangeIndex):
        raise ValueError(f"the rows of {path} have more fields than its header has names; add the missing names")
    return frame


def _separation(path: Path, usual: str) -> dict[str, Any]:
    """How fields are separated: as a first line says, or as all lines agree on, with most numbers; else as usual."""
    lines = pd.read_csv(
        _opened(path), sep="\x01", header=None, dtype=str, nrows=_LINES, quoting=csv.QUOTE_NONE, encoding="utf-8-sig"
    )
    first = [str(line) for line in lines[0]]
    said = re.fullmatch(r"sep=(.)", first[0].strip("\r\n"))
    if said:
        return {"sep": said[1], "skiprows": 1}
    agreed: dict[str, tuple[float, bool, int]] = {}
    for mark in dict.fromkeys([usual, *_MARKS]):
        rows = list(csv.reader(first, delimiter=mark, skipinitialspace=True))
        if len(rows[0]) > 1 and all(len(row) == len(rows[0]) for row in rows):
            cells = [cell for row in rows[1:] for cell in row]
            numbers = sum(re.fullmatch(r"[+-]?\d*[.,]?\d+", cell) is not None for cell in cells)
            agreed[mark] = numbers / max(len(cells), 1), mark == usual, len(rows[0])
    return {"sep": max(agreed, key=lambda mark: agreed[mark], default=usual)}


def _opened(path: Path) -> Any:
    """What pandas reads; for .zst it would need another package."""
    import pyarrow

    return pyarrow.input_stream(path, compression="zstd") if path.suffix.lower() == ".zst" else path


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def table_task(
    frame: Any,
    *,
    target: str,
    positive: Any = None,
    group: str | None = None,
    time: str | None = None,
) -> TableTask:
    """Say what is to be predicted in a table.

    Target, group and time are no features. The positive class of a binary task is `positive`, else the one that says
    so (1, true, yes, positive beside 0, false, no, negative), else the rarer value, which is noted. With more than two
    values `positive` makes the task "this value against the rest", which is noted too. Labels and groups that differ
    by upper and lower case or by spaces around them only are taken for one, which is noted.

    Args:
        frame: a pandas or polars frame.
        target: the column of classes, of any type.
        positive: the value that counts as positive; its text will do ("1" for 1).
        group: a column whose rows must stay together in splits.
        time: a column of numbers or dates to split by.

    Raises:
        ValueError: if a column is absent or serves twice, cells of target, group or time are missing, the target has
            one value only or looks like a measurement, or `positive` is not among its values.

    >>> frame = pd.DataFrame({"amount": [5, 80, 3, 9], "kind": ["fine", "fraud", "fine", "fine"]})
    >>> task = table_task(frame, target="kind")
    >>> task.classes, task.target.tolist(), task.notes
    (('fine', 'fraud'), [0, 1, 0, 0], ("'fraud' counts as positive: it is the rarer value of 'kind' (25.0 % of rows)",))
    """
    frame = frame.to_pandas() if not isinstance(frame, pd.DataFrame) and hasattr(frame, "to_pandas") else frame
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(f"a pandas or polars DataFrame is wanted, got {type(frame).__name__}; see `read_table`")
    frame = frame.set_axis([str(name) for name in frame.columns], axis=1)
    roles = {"target": target, "group": group, "time": time}
    used: dict[str, str] = {}
    for role, name in roles.items():
        if name is None:
            continue
        _check_column(frame, role, name)
        if name in used:
            raise ValueError(f"column {name!r} cannot be both {used[name]} and {role}")
        used[name] = role
    features = frame.drop(columns=list(used)).reset_index(drop=True)
    if features.shape[1] == 0:
        raise ValueError(f"the table has no columns besides {', '.join(map(repr, used))}; nothing to predict from")
    for _, column in features.items():
        check_scalars(column)
    labels, notes = _one_spelling(target, frame[target])
    codes, classes = _classes(target, labels)
    if positive is not None or len(classes) == 2:
        codes, classes, decided = _binary(target, codes, classes, positive)
        notes += decided
    groups = None
    if group is not None:
        groups, merged = group_codes(group, frame[group])
        notes += merged
    return TableTask(
        features,
        codes,
        classes,
        target,
        groups=groups,
        times=None if time is None else _times(time, frame[time]),
        notes=notes,
    )


def _one_spelling(name: str, column: pd.Series) -> tuple[pd.Series, tuple[str, ...]]:
    """Labels that differ by spaces around them or by upper and lower case only, written as most of them are."""
    codes, values = pd.factorize(column.astype(object))
    counts = np.bincount(codes[codes >= 0], minlength=len(values))
    usual: dict[str, str] = {}
    for place in np.argsort(-counts, kind="stable"):
        if isinstance(values[place], str):
            usual.setdefault(values[place].strip().casefold(), values[place].strip())
    spelt = [usual[value.strip().casefold()] if isinstance(value, str) else value for value in values]
    changed = [value for value, other in zip(values, spelt, strict=True) if value is not other and value != other]
    if not changed:
        return column, ()
    cells = np.array([*spelt, None], dtype=object)[codes]
    shown = ", ".join(map(repr, changed[:3])) + (" and others" if len(changed) > 3 else "")
    return (
        pd.Series(cells, index=column.index, name=column.name),
        (f"labels of {name!r} that differ in case or in spaces around them were taken for the same, as {shown}",),
    )


def _check_column(frame: pd.DataFrame, role: str, name: str) -> None:
    names = list(frame.columns)
    if names.count(name) > 1:
        raise ValueError(f"the table has {names.count(name)} columns named {name!r}; rename all but one")
    if name not in names:
        lower = {other.lower(): other for other in names}
        close = [lower[match] for match in get_close_matches(name.lower(), list(lower), n=3)]
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"it has {_some(names)}"
        raise ValueError(f"{role} column {name!r} is not in the table; {hint}")


def _classes(name: str, column: pd.Series) -> tuple[Indices, tuple[Any, ...]]:
    _check_present("target", name, column, "drop them (a class that is called NA or None reads as missing: rename it)")
    codes, values = pd.factorize(column.astype(object))
    # Numpy's numbers and booleans would print as np.int64(1) in reports.
    distinct = [value.item() if isinstance(value, np.generic) else value for value in values]
    if len(distinct) == 1:
        raise ValueError(
            f"target column {name!r} holds one value only, {distinct[0]!r}; at least two classes are needed"
        )
    fractional = any(isinstance(value, float) and not value.is_integer() for value in distinct)
    if len(distinct) > _FEW_CLASSES and (fractional or len(distinct) > len(column) / 3):
        raise ValueError(
            f"target column {name!r} holds {len(distinct)} different values in {len(column)} rows, as {distinct[0]!r}: "
            "a measurement or a name rather than a class; cut it into classes first"
        )
    try:
        order = sorted(range(len(distinct)), key=lambda k: distinct[k])
    except TypeError:
        order = sorted(range(len(distinct)), key=lambda k: (type(distinct[k]).__name__, str(distinct[k])))
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order))
    return places[codes], tuple(distinct[k] for k in order)


def _binary(
    name: str, codes: Indices, classes: tuple[Any, ...], positive: Any
) -> tuple[Indices, tuple[Any, ...], tuple[str, ...]]:
    """Codes with 1 for the positive class, (negative, positive), and what was decided."""
    counts = np.bincount(codes, minlength=len(classes))
    notes: tuple[str, ...] = ()
    if positive is not None:
        chosen = _find_value(name, classes, positive)
        if len(classes) > 2:
            others = len(classes) - 1
            notes = (f"{classes[chosen]!r} of {name!r} is held against the {others} other values together",)
    elif any(_plain(value) in _YES for value in classes) and any(_plain(value) in _NO for value in classes):
        chosen = int(_plain(classes[1]) in _YES)
    else:
        chosen = int(counts[1] <= counts[0])
        share = f"{100 * counts[chosen] / len(codes):.1f} %"
        why = "the rarer value" if counts[0] != counts[1] else "the second of two equally frequent values"
        notes = (f"{classes[chosen]!r} counts as positive: it is {why} of {name!r} ({share} of rows)",)
    negative = classes[1 - chosen] if len(classes) == 2 else f"not {classes[chosen]}"
    return (codes == chosen).astype(np.int64), (negative, classes[chosen]), notes


def _find_value(name: str, classes: tuple[Any, ...], wanted: Any) -> int:
    """Which class is meant: the value itself, or else what has its text or its number."""
    for same in (
        lambda value: type(value) is type(wanted) and value == wanted,
        lambda value: str(value) == str(wanted),
        lambda value: str(value).strip().casefold() == str(wanted).strip().casefold(),
        lambda value: _number(value) is not None and _number(value) == _number(wanted),
    ):
        found = [k for k, value in enumerate(classes) if same(value)]
        if len(found) == 1:
            return found[0]
    raise ValueError(f"positive={wanted!r} is not a value of target column {name!r}, which holds {_some(classes)}")


def _plain(value: Any) -> str:
    return str(value).strip().lower().removesuffix(".0")


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def group_codes(name: str, column: pd.Series) -> tuple[Indices, tuple[str, ...]]:
    """Which rows belong together.

    Args:
        name: of the column, for messages.
        column: a value per row.

    Returns:
        (n,) a code per row, the same for values that differ by case or by spaces around them only, and what there is to
        say of those.

    Raises:
        ValueError: if a cell is empty or all values are one.
    """
    column, notes = _one_spelling(name, column)
    _check_present("group", name, column, "drop them or give each a group of its own")
    codes, values = pd.factorize(column.astype(object))
    if len(values) == 1:
        raise ValueError(f"group column {name!r} holds one value only; at least two groups are needed")
    return codes.astype(np.int64), notes


def _times(name: str, column: pd.Series) -> NDArray[Any]:
    _check_present("time", name, column, "drop them or fill them in")
    text = as_text(column) if is_text(column) else None
    if text is None and pd.api.types.is_datetime64_any_dtype(column.dtype):
        return as_dates(column).to_numpy().astype(np.int64)
    if text is None or mostly_numbers(text):
        times = as_numbers(column)
        unread = ~np.isfinite(times)
    else:
        form = date_format(text)
        if form is None:
            raise ValueError(
                f"time column {name!r} holds neither numbers nor dates of one format, as {column.iloc[0]!r}; write "
                "them as 2024-12-31 or 2024-12-31T23:59:59"
            )
        dates = as_dates(text, form)
        unread = dates.isna().to_numpy()
        times = dates.to_numpy().astype(np.int64)
    if unread.any():
        first = column.iloc[int(np.argmax(unread))]
        raise ValueError(
            f"time column {name!r} has {unread.sum()} values that cannot be read like the others, as {first!r}"
        )
    return times


def _check_present(role: str, name: str, column: pd.Series, mend: str) -> None:
    missing = column.isna() | (column.astype(str).str.strip() == "")
    if missing.any():
        count = int(missing.sum())
        raise ValueError(
            f"{role} column {name!r} has no value in {count} of {len(column)} rows, the first being row "
            f"{int(np.argmax(missing.to_numpy()))} (from 0); {mend}"
        )


def _some(values: Sequence[Any]) -> str:
    shown = ", ".join(repr(value) for value in values[:8])
    return shown + (f" and {len(values) - 8} more" if len(values) > 8 else "")
