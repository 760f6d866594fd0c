"""Comparisons from files: a row per answer, its label as a number, as the winner's name, or in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from equipoise.core.signature import checked
from equipoise.data.comparisons.answers import Comparisons

if TYPE_CHECKING:
    import pandas as pd

# Names that files give to the columns, in the order of preference.
_KNOWN = {
    "annotator": ("annotator", "user", "worker", "rater", "judge", "performer", "user_id", "worker_id"),
    "left": ("left", "item_i", "item_a", "first", "i", "a", "option_a", "model_a"),
    "right": ("right", "item_j", "item_b", "second", "j", "b", "option_b", "model_b"),
    "label": ("label", "winner", "choice", "answer", "result", "preference", "y"),
    "weight": ("weight", "strength", "count", "votes"),
}
_WORDS = {
    1: frozenset({"left", "l", "first", "1st", "a", "i", "model_a", "item_a", "item_i", "win", "won", "better"}),
    -1: frozenset({"right", "r", "second", "2nd", "b", "j", "model_b", "item_b", "item_j", "loss", "lost", "worse"}),
    0: frozenset({"tie", "tied", "draw", "equal", "same", "both", "neither", "none", "undecided", "=", "can't decide"}),
}
_NUMBERS = {"1": 1, "-1": -1, "0": 0, "+1": 1, "1.0": 1, "-1.0": -1, "0.0": 0}


class ComparisonTable(NamedTuple):
    """What a file of comparisons holds.

    Attributes:
        comparisons: with the names of annotators and items.
        notes: how columns and labels were read.
    """

    comparisons: Comparisons
    notes: tuple[str, ...]


@checked
def read_comparisons(
    path: str | Path,
    *,
    annotator: str | None = None,
    left: str | None = None,
    right: str | None = None,
    label: str | None = None,
    weight: str | None = None,
    zero: Literal["tie", "right"] | None = None,
) -> ComparisonTable:
    """Read a table with a row per answer.

    CSV, TSV or Parquet as in `read_table`. The label is 1, −1 and 0 (left, right, tie), the name of the winner, or a
    word such as left, b or tie; whichever of these all rows agree with.

    Args:
        path: the file.
        annotator: the column of annotators; without one of a usual name, all answers are of one.
        left: the column of one item; by default one of a usual name, as for all columns.
        right: the column of the other.
        label: the column of answers.
        weight: the column of how often an answer was given; each once where there is none.
        zero: what 0 stands for where the labels are only 0 and 1, which could be a tie or the right item.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a column is not there, a cell is empty, an item stands beside itself, or labels cannot be read,
            naming the line.
    """
    from equipoise.data.tables.reading import read_table

    path = Path(path)
    given = {"annotator": annotator, "left": left, "right": right, "label": label, "weight": weight}
    frame = read_table(path, names=lambda name: name != weight and _usual(name) not in _KNOWN["weight"])
    chosen = chosen_columns(path, [str(name) for name in frame.columns], given)
    lines = Lines(path)
    texts = {role: lines.texts(frame, name) for role, name in chosen.items() if name is not None and role != "weight"}
    items = np.concatenate([texts["left"], texts["right"]])
    item_names, codes = numbered(items)
    one, other = np.split(codes, 2)
    same = one == other
    if same.any():
        raise ValueError(f"{lines.at(same)} compares {texts['left'][int(np.argmax(same))]!r} with itself; leave it out")
    labels, how = answers_of(texts, lines, chosen["label"], zero)
    notes = reading_notes(chosen, how, int((labels == 0).sum()))
    annotator_names, who = numbered(texts["annotator"]) if "annotator" in texts else (("everybody",), None)
    strengths = None if chosen["weight"] is None else lines.weights(frame, chosen["weight"])
    found = Comparisons.from_columns(
        who, one, other, labels, strengths, annotator_names=annotator_names, item_names=item_names
    )
    return ComparisonTable(found, notes)


class Lines:
    """Names the line of a bad row.

    Args:
        path: the file.
        begin: the row of the file that row 0 of the columns is.
    """

    def __init__(self, path: Path, begin: int = 0) -> None:
        self.path, self.begin = path, begin
        self.text = ".parquet" not in path.name and ".pq" not in path.suffixes

    def at(self, bad: Any) -> str:
        """The first bad row, by its line where the file has lines."""
        row = self.begin + int(np.argmax(np.asarray(bad)))
        return f"line {row + 2} of {self.path}" if self.text else f"row {row} (from 0) of {self.path}"

    def texts(self, frame: pd.DataFrame, name: str) -> Any:
        """The cells of a column as they are written, without spaces around them."""
        import pandas as pd

        column = frame[name]
        # Distinct values are few next to rows, so the work on text is done once for each.
        codes, values = pd.factorize(column.astype(object))
        written = np.array([_written(value) for value in values] + [""], dtype=object)
        empty = written[codes] == ""
        if empty.any():
            raise ValueError(f"{self.at(empty)} has no value in column {name!r}")
        return written[codes]

    def weights(self, frame: pd.DataFrame, name: str) -> Any:
        """The numbers of a column."""
        import pandas as pd

        found = pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=np.float64)
        bad = ~(np.isfinite(found) & (found > 0))
        if bad.any():
            cell = frame[name].iloc[int(np.argmax(bad))]
            raise ValueError(f"{self.at(bad)} has the weight {cell}, wanted a number greater than 0")
        return found


def _written(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _usual(name: str) -> str:
    return "_".join(name.strip().lower().replace("-", " ").split())


def chosen_columns(path: Path, names: Sequence[str], given: Mapping[str, str | None]) -> dict[str, str | None]:
    """The column of each role: the one that is given, or one of a usual name.

    Raises:
        ValueError: if a column is not there, none is plainly the one of a role, or one is taken twice.
    """
    chosen = {role: _column(path, names, role, name) for role, name in given.items()}
    taken = [name for name in chosen.values() if name is not None]
    if len(set(taken)) < len(taken):
        raise ValueError(f"a column of {path} cannot be two of {', '.join(given)}; got {', '.join(map(repr, taken))}")
    return chosen


def reading_notes(chosen: Mapping[str, str | None], how: str, ties: int) -> tuple[str, ...]:
    """How columns and labels were read, a note each."""
    return (*(f"{role}: column {name!r}" for role, name in chosen.items() if name is not None), f"{how}; {ties} ties")


def _column(path: Path, names: Sequence[str], role: str, name: str | None) -> str | None:
    if name is not None:
        if name not in names:
            close = get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(map(repr, names))}"
            raise ValueError(f"{role} column {name!r} is not in {path}; {hint}")
        return name
    plain = {_usual(each): each for each in reversed(names)}
    found = next((plain[known] for known in _KNOWN[role] if known in plain), None)
    if found is None and role not in ("annotator", "weight"):
        raise ValueError(f"no column of {path} is plainly the {role}; name one of {', '.join(map(repr, names))}")
    return found


def numbered(texts: Any) -> tuple[tuple[str, ...], Any]:
    """Names in the order of numbers if all are, else in that of their first rows, and the place of each cell."""
    import pandas as pd

    codes, names = pd.factorize(texts)
    if all(name.isdecimal() for name in names):
        order = np.array(sorted(range(len(names)), key=lambda place: (int(names[place]), names[place])))
        place = np.empty(len(names), dtype=np.int64)
        place[order] = np.arange(len(names))
        return tuple(names[order]), place[codes]
    return tuple(names), codes.astype(np.int64)


def answers_of(texts: Mapping[str, Any], lines: Lines, name: str | None, zero: str | None) -> tuple[Any, str]:
    """1, −1 or 0 for every row, and how they were read."""
    column, left, right = texts["label"], texts["left"], texts["right"]
    lower = np.array([cell.lower() for cell in column], dtype=object)
    tie = np.isin(lower, sorted(_WORDS[0]))
    numbers = np.isin(column, sorted(_NUMBERS))
    winners = (column == left) | (column == right)
    words = np.isin(lower, sorted(_WORDS[1] | _WORDS[-1] | _WORDS[0]))
    if zero is not None and not numbers.all():
        raise ValueError(
            f"zero={zero!r} is for labels of 0 and 1, and {lines.at(~numbers)} has {column[~numbers][0]!r}"
        )
    if numbers.all() and winners.all():
        raise ValueError(
            f"the labels of {lines.path} could be the names of the winners or 1, -1 and 0; name items otherwise"
        )
    if numbers.all():
        found = np.array([_NUMBERS[cell] for cell in column])
        if (found >= 0).all() and (found == 0).any():
            if zero is None:
                raise ValueError(
                    f"the labels of {lines.path} are only 0 and 1; say by zero='tie' or zero='right' what 0 stands for"
                )
            found[found == 0] = 0 if zero == "tie" else -1
        return found, "labels are numbers: 1 for left, -1 for right"
    if (winners | tie).all() and winners.any():
        found = np.where(tie & ~winners, 0, np.where(column == left, 1, -1))
        return found, "labels name the winner"
    if words.all():
        found = np.select([np.isin(lower, sorted(_WORDS[side])) for side in (1, -1)], [1, -1], 0)
        return found, f"labels are words ({', '.join(sorted(set(lower)))})"
    readings = {"a number 1, -1 or 0": numbers, "the winner's name or a tie": winners | tie, "a word": words}
    best = max(readings, key=lambda reading: int(readings[reading].sum()))
    bad = ~readings[best]
    cell = column[int(np.argmax(bad))]
    raise ValueError(f"{lines.at(bad)} has the label {cell!r} in column {name!r}, wanted {best} as in most rows")
