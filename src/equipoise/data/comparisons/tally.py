"""Comparisons counted while they are read, a part of the rows at a time: what a consensus needs, and no more memory.

What is kept is how often each label was given to each two items, as both are written. How labels are meant is decided
when everything has been seen, so that parts, files and processes may be counted apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from equipoise.core.signature import checked
from equipoise.core.types import Count
from equipoise.data.comparisons.answers import Comparisons
from equipoise.data.comparisons.pair_counts import PairCounts
from equipoise.data.comparisons.reading import Lines, answers_of, chosen_columns, numbered, reading_notes

if TYPE_CHECKING:
    import pandas as pd

_KEYS = ("left", "right", "label")


class CountedComparisons(NamedTuple):
    """What files of comparisons come to.

    Attributes:
        counts: answers by pair.
        item_names: names of the items.
        rows: answers that were read.
        notes: how columns and labels were read.
    """

    counts: PairCounts
    item_names: tuple[str, ...]
    rows: int
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ComparisonTally:
    """How often each label was given to each two items, in the words of the files.

    Attributes:
        table: left, right, label, weight, rows, and the first row of all (from 0) that said so.
        files: each file with its number of rows, in order.
        columns: the columns that were read, by role.
    """

    table: pd.DataFrame
    files: tuple[tuple[Path, int], ...]
    columns: dict[str, str | None]

    @classmethod
    @checked
    def of(
        cls,
        path: str | Path,
        *,
        left: str | None = None,
        right: str | None = None,
        label: str | None = None,
        weight: str | None = None,
        chunk_rows: Count = 1 << 19,
    ) -> ComparisonTally:
        """Count a CSV, TSV or Parquet file.

        Args:
            path: the file.
            left: the column of one item; by default one of a usual name, as in `read_comparisons`.
            right: the column of the other.
            label: the column of answers.
            weight: the column of how often an answer was given; each once where there is none.
            chunk_rows: rows in memory at a time.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if a column is not there, a cell is empty, an item stands beside itself, or a weight is none,
                naming the line.
        """
        from equipoise.data.tables.chunks import table_chunks, table_columns

        path = Path(path)
        given = {"left": left, "right": right, "label": label, "weight": weight}
        columns = chosen_columns(path, table_columns(path), given)
        wanted = [name for name in columns.values() if name is not None]
        table, begin = None, 0
        for chunk in table_chunks(path, wanted, chunk_rows):
            found = _counted(chunk, Lines(path, begin), columns)
            begin += len(chunk)
            table = found if table is None else _added([table, found])
        if table is None or not begin:
            raise ValueError(f"{path} has a header but no rows")
        return cls(table, ((path, begin),), columns)

    def merged(self, *others: ComparisonTally) -> ComparisonTally:
        """All of them, as if their files were one below the other.

        Sums of whole weights are the same in any order; others agree up to rounding.
        """
        tables, files = [self.table], list(self.files)
        for other in others:
            tables.append(other.table.assign(first=other.table["first"] + sum(rows for _, rows in files)))
            files += other.files
        return ComparisonTally(_added(tables), tuple(files), self.columns)

    @checked
    def counts(
        self, *, zero: Literal["tie", "right"] | None = None, item_names: Sequence[str] | None = None
    ) -> CountedComparisons:
        """The answers by pair, items numbered as `read_comparisons` does.

        Args:
            zero: as in `read_comparisons`.
            item_names: names to number items by; counts of one list of names can be merged and gathered.

        Raises:
            ValueError: if labels cannot be read, naming the line; if an item is none of `item_names`.
        """
        said = self.table.sort_values("first", kind="stable")
        texts = {name: said[name].to_numpy(dtype=object) for name in _KEYS}
        lines = _FirstLines(self.files, said["first"].to_numpy())
        labels, how = answers_of(texts, lines, self.columns["label"], zero)
        names, codes = _items(texts["left"], texts["right"], item_names)
        one, other = np.split(codes, 2)
        weight = said["weight"].to_numpy(dtype=np.float64)
        found = Comparisons.from_columns(None, one, other, labels, weight, item_names=names)
        rows = said["rows"].to_numpy()
        notes = reading_notes(self.columns, how, int(rows[labels == 0].sum()))
        return CountedComparisons(PairCounts.of(found), names, int(rows.sum()), notes)


class _FirstLines(Lines):
    """The file and line at which something was first said."""

    def __init__(self, files: Sequence[tuple[Path, int]], first: Any) -> None:
        super().__init__(files[0][0])
        self.files, self.first = files, first

    def at(self, bad: Any) -> str:
        row = int(self.first[int(np.argmax(np.asarray(bad)))])
        ends = np.cumsum([rows for _, rows in self.files])
        place = int(np.searchsorted(ends, row, side="right"))
        path, rows = self.files[place]
        return Lines(path, row - int(ends[place]) + rows).at([True])


def _counted(chunk: pd.DataFrame, lines: Lines, columns: dict[str, str | None]) -> pd.DataFrame:
    import pandas as pd

    texts = {role: lines.texts(chunk, str(columns[role])) for role in _KEYS}
    same = texts["left"] == texts["right"]
    if same.any():
        raise ValueError(f"{lines.at(same)} compares {texts['left'][int(np.argmax(same))]!r} with itself; leave it out")
    weight = 1.0 if columns["weight"] is None else lines.weights(chunk, columns["weight"])
    first = lines.begin + np.arange(len(chunk))
    return _added([pd.DataFrame({**texts, "weight": weight, "rows": 1, "first": first})])


def _added(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    whole = pd.concat(tables, ignore_index=True)
    sums = {"weight": "sum", "rows": "sum", "first": "min"}
    return whole.groupby(list(_KEYS), sort=False, as_index=False).agg(sums)


def _items(left: Any, right: Any, names: Sequence[str] | None) -> tuple[tuple[str, ...], Any]:
    items = np.concatenate([left, right])
    if names is None:
        return numbered(items)
    place = {name: number for number, name in enumerate(names)}
    unknown = [item for item in dict.fromkeys(items.tolist()) if item not in place]
    if unknown:
        raise ValueError(f"item {unknown[0]!r} is none of the {len(place)} item_names")
    return tuple(names), np.array([place[item] for item in items.tolist()], dtype=np.int64)
