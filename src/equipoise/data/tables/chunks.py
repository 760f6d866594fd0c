"""Some columns of a large table, a part of the rows at a time."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from equipoise.data.tables.reading import _PARQUET, _SEPARATORS, _first_line, _opened, _separation, table_kind


def table_columns(path: str | Path) -> list[str]:
    """The names of the columns of a CSV, TSV or Parquet file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read.
    """
    path, kind = table_kind(path)
    try:
        if kind in _PARQUET:
            from pyarrow.parquet import read_schema

            return [str(name) for name in read_schema(path).names]
        header = pd.read_csv(_opened(path), nrows=1, header=None, dtype=str, **_options(path, kind)).iloc[0].dropna()
        return [str(name).strip() for name in header]
    except _UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as a table: {_first_line(error)}") from error


def table_chunks(path: str | Path, columns: Sequence[str], rows: int = 1 << 20) -> Iterator[pd.DataFrame]:
    """Columns of a CSV, TSV or Parquet file, at most `rows` rows at a time; the cells of text files are text.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read.
    """
    path, kind = table_kind(path)
    try:
        if kind in _PARQUET:
            from pyarrow.parquet import ParquetFile

            with ParquetFile(path) as file:
                for batch in file.iter_batches(rows, columns=list(columns)):
                    yield batch.to_pandas()
            return
        options = _options(path, kind) | {"usecols": list(columns), "dtype": str, "na_values": [""]}
        with pd.read_csv(_opened(path), keep_default_na=False, chunksize=rows, **options) as parts:
            yield from parts
    except _UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as a table: {_first_line(error)}") from error


# pyarrow's errors are of these kinds, too.
_UNREADABLE = (ValueError, OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)


def _options(path: Path, kind: str) -> dict[str, Any]:
    return {"encoding": "utf-8-sig", "skipinitialspace": True} | _separation(path, _SEPARATORS[kind])
