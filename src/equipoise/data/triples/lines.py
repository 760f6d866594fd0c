"""Lines of text files as cells, each knowing where it stood, and never read as anything but text."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple


class Row(NamedTuple):
    """A line that is not blank.

    Attributes:
        line: its number in the file, from 1.
        cells: its fields, without spaces around them.
    """

    line: int
    cells: tuple[str, ...]


def table(path: Path) -> Sequence[Row]:
    """The rows of a file, fields separated by tabs, else as a .csv file by commas, else by spaces.

    Raises:
        ValueError: if the file is empty or no UTF-8 text.
    """
    first = next((line for line in _lines(path) if line.strip()), "")
    if "\t" in first:
        return cells(path, "\t")
    if ".csv" in path.suffixes or first.count(",") == 2:
        return cells(path, ",")
    return cells(path, None)


def cells(path: Path, mark: str | None) -> Sequence[Row]:
    """The rows of a file, fields separated by `mark`, None being any white space; quotes count between commas only.

    Raises:
        ValueError: as `table`.
    """
    lines = _lines(path)
    found: list[Row] = []
    if mark == ",":
        reader = csv.reader(lines, skipinitialspace=True)
        found = [Row(reader.line_num, tuple(cell.strip() for cell in row)) for row in reader if row]
    else:
        found = [
            Row(number, tuple(cell.strip() for cell in line.split(mark)))
            for number, line in enumerate(lines, 1)
            if line.strip()
        ]
    if not found:
        raise ValueError(f"{path} is empty")
    return found


def check_width(path: Path, row: Row, width: int, what: str, *, empty: bool = False) -> None:
    """Raise `ValueError` unless a row has so many fields, none of them empty unless allowed."""
    if len(row.cells) != width:
        fields = "1 field" if len(row.cells) == 1 else f"{len(row.cells)} fields"
        raise ValueError(
            f"{path}, line {row.line}: has {fields}, wanted {width} ({what}) separated by tabs, or by commas in a .csv "
            "file"
        )
    if not empty and "" in row.cells:
        raise ValueError(f"{path}, line {row.line}: field {row.cells.index('') + 1} is empty, wanted {what}")


def missing_file(path: Path) -> str:
    """That a file is not there, and what may have been meant."""
    folder = path.parent
    others = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    close = get_close_matches(path.name, others, n=1)
    return f"there is no file {path}" + (f"; did you mean {folder / close[0]}?" if close else "")


def stem_of(path: Path) -> str:
    """The name of a file without any ending."""
    return path.name.split(".")[0]


def _lines(path: Path) -> list[str]:
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            # Names may hold other marks that `splitlines` would break lines at.
            return file.read().replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
