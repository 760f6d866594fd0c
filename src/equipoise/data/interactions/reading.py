"""Logs of who took what from files: tables with a header, and RecBole's atomic files."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Real
from equipoise.core.validate import warn_once
from equipoise.data.interactions.matrix import Interactions

if TYPE_CHECKING:
    import pandas as pd

# Names that files give to the columns, in the order of preference.
_KNOWN = {
    "user": ("user", "user_id", "userid", "uid", "customer", "customer_id"),
    "item": ("item", "item_id", "itemid", "iid", "movie_id", "movieid", "product", "product_id"),
    "rating": ("rating", "score", "stars"),
    "time": ("timestamp", "time", "date", "datetime"),
    "title": ("title", "name", "movie_title", "item_name", "item_title"),
    "category": ("category", "categories", "genre", "genres", "class", "classes"),
}
_NAMED = frozenset(name for role in ("user", "item", "title", "category") for name in _KNOWN[role])
_ATOMIC = (".inter", ".item")


@dataclass(frozen=True, eq=False)
class InteractionLog:
    """A log with the names that its file uses. Built by `read_interactions`.

    Attributes:
        interactions: who took what; users and items by their place in the names.
        user_names: (users,) as text, in the order in which they appear.
        item_names: (items,) likewise; items that only the file of items knows come last.
        ratings: of each pair, in the order of `interactions.items`; None if the file has none.
        times: when each pair happened, likewise, in seconds or in the file's own numbers.
        titles: (items,) of the file of items; None if it has none.
        categories: (items, categories) of 0 and 1; None if no file of items has them.
        category_names: (categories,).
    """

    interactions: Interactions
    user_names: tuple[str, ...]
    item_names: tuple[str, ...]
    ratings: Float[Tensor, " n"] | None = None
    times: Float[Tensor, " n"] | None = None
    titles: tuple[str, ...] | None = None
    categories: Int[Tensor, "items categories"] | None = None
    category_names: tuple[str, ...] = ()


@checked
def read_interactions(
    path: str | Path,
    items: str | Path | None = None,
    *,
    user: str | None = None,
    item: str | None = None,
    rating: str | None = None,
    time: str | None = None,
    category: str | None = None,
    title: str | None = None,
    min_rating: Real | None = None,
) -> InteractionLog:
    """Read a log of interactions, and what its items are.

    CSV, TSV and Parquet as in `read_table`, or RecBole's atomic `.inter` and `.item` files, whose header says
    `name:type`. Columns have the usual names (user_id, item_id, rating, timestamp, title, genres, ...) or are named.

    Args:
        path: one row per interaction. A pair that is there twice counts once, with its latest row.
        items: one row per item, with categories in one cell, separated by | or, where no cell has one, by spaces.
        user: column of users.
        item: column of items, in both files unless the second has only one of the usual name.
        rating: column of ratings.
        time: column of times, numbers or dates.
        category: column of categories in the file of items, if it has one.
        title: column of titles in the file of items.
        min_rating: rows with a lower rating are left out.

    Raises:
        FileNotFoundError: if a file is not there.
        ValueError: if it cannot be read, a column is not there or has empty cells, an item has two rows in the file of
            items, `min_rating` is given without ratings or leaves nothing, or no item of the log has a category.
    """
    path = Path(path)
    frame = _read(path, user, item)
    user, item = _column(path, frame, "user", user), _column(path, frame, "item", item)
    rating, time = _column(path, frame, "rating", rating, False), _column(path, frame, "time", time, False)
    frame = _present(path, frame, [name for name in (user, item, rating, time) if name is not None])
    ratings = None if rating is None else _numbers(path, frame, rating)
    if min_rating is not None:
        if ratings is None:
            raise ValueError(f"min_rating={min_rating:g} needs a column of ratings in {path}; name it with rating")
        frame, ratings = frame[ratings >= min_rating], ratings[ratings >= min_rating]
        if not len(frame):
            raise ValueError(f"min_rating={min_rating:g} leaves no row of {path}")
    times = None if time is None else _times(path, frame, time)
    users, user_names = _codes(frame[user])
    taken, item_names = _codes(frame[item])
    titles = categories = None
    category_names: tuple[str, ...] = ()
    if items is not None:
        item_names, titles, categories, category_names = _items(Path(items), item, title, category, item_names)
    order = np.arange(len(users)) if times is None else np.argsort(times, kind="stable")
    keys = users[order] * len(item_names) + taken[order]
    # The last row of each pair, in the order of the matrix.
    _, last = np.unique(keys[::-1], return_index=True)
    rows = order[::-1][last]
    found = Interactions.from_pairs(users[rows], taken[rows], num_users=len(user_names), num_items=len(item_names))
    if categories is not None and not categories[found.items].any():
        raise ValueError(f"no item of {path} has a category in {items}; do both name items alike?")
    return InteractionLog(
        found,
        user_names,
        item_names,
        None if ratings is None else torch.from_numpy(ratings[rows]),
        None if times is None else torch.from_numpy(times[rows]),
        titles,
        categories,
        category_names,
    )


def _read(path: Path, *asked: str | None) -> pd.DataFrame:
    """The table of a file, with names as they are written, its columns without the types of atomic files."""
    import pandas as pd

    from equipoise.data.tables.reading import read_table

    if path.suffix.lower() not in _ATOMIC:
        return read_table(path, names=lambda name: name in asked or _usual(name) in _NAMED)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        frame = pd.read_csv(
            path,
            sep="\t",
            quoting=csv.QUOTE_NONE,
            encoding="utf-8-sig",
            dtype=str,
            na_values=[""],
            keep_default_na=False,
        )
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read as an atomic file: {str(error).strip().splitlines()[0]}") from error
    if not len(frame):
        raise ValueError(f"{path} has a header but no rows")
    return frame.set_axis([re.sub(r":[a-z_]+$", "", str(name)) for name in frame.columns], axis=1)


def _usual(name: str) -> str:
    """The name of a column as in `_KNOWN`: "User ID" is user_id."""
    return re.sub(r"[\s_-]+", "_", name.strip().lower())


def _column(path: Path, frame: pd.DataFrame, role: str, name: str | None, needed: bool = True) -> Any:
    names = [str(each) for each in frame.columns]
    if name is not None:
        if name not in names:
            close = get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(map(repr, names))}"
            raise ValueError(f"{role} column {name!r} is not in {path}; {hint}")
        return name
    plain = {_usual(each): each for each in reversed(names)}
    found = next((plain[known] for known in _KNOWN[role] if known in plain), None)
    if found is None and needed:
        raise ValueError(f"no column of {path} is plainly the {role}; name one of {', '.join(map(repr, names))}")
    return found


def _present(path: Path, frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    for name in names:
        missing = frame[name].isna()
        if missing.any():
            first = int(np.argmax(missing.to_numpy()))
            raise ValueError(
                f"column {name!r} of {path} has no value in {int(missing.sum())} of {len(frame)} rows, the first being "
                f"row {first} (from 0)"
            )
    return frame


def _numbers(path: Path, frame: pd.DataFrame, name: str) -> Any:
    import pandas as pd

    found = pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=np.float64)
    if not np.isfinite(found).all():
        wrong = str(frame[name].iloc[int(np.argmin(np.isfinite(found)))])
        raise ValueError(f"column {name!r} of {path} holds {wrong!r}, which is no finite number")
    return found


def _times(path: Path, frame: pd.DataFrame, name: str) -> Any:
    import pandas as pd

    from equipoise.data.tables.cells import as_dates, as_text, date_format, is_text, mostly_numbers

    column = frame[name]
    if pd.api.types.is_numeric_dtype(column) or (is_text(column) and mostly_numbers(as_text(column))):
        return _numbers(path, frame, name)
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        dates = as_dates(column)
    else:
        text = as_text(column)
        form = date_format(text)
        if form is None:
            raise ValueError(f"column {name!r} of {path} holds neither numbers nor dates, as {column.iloc[0]!r}")
        dates = as_dates(text, form)
    if dates.isna().any():
        wrong = column[dates.isna()].iloc[0]
        raise ValueError(f"column {name!r} of {path} holds {wrong!r}, which is no date like the others")
    return dates.to_numpy().astype("datetime64[ns]").astype(np.int64) / 1e9


def _codes(column: pd.Series) -> tuple[Any, tuple[str, ...]]:
    """The place of each cell among the names, and these; where all are like 7.0, as other programs write 7, it is 7."""
    import pandas as pd

    # Distinct values are few next to rows, so the work on text is done once for each.
    codes, values = pd.factorize(column.astype(object))
    texts = [str(int(v) if isinstance(v, float) and v.is_integer() else v).strip() for v in values]
    if all(re.fullmatch(r"-?\d+\.0+", text) for text in texts):
        texts = [text.split(".")[0] for text in texts]
    same, names = pd.factorize(np.array(texts, dtype=object))
    return same[codes].astype(np.int64), tuple(names)


def _items(
    path: Path, item: str, title: str | None, category: str | None, known: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...] | None, Tensor | None, tuple[str, ...]]:
    frame = _read(path, item, title, category)
    item = _column(path, frame, "item", item if item in frame.columns else None)
    title, category = _column(path, frame, "title", title, False), _column(path, frame, "category", category, False)
    frame = _present(path, frame, [item])
    rows, names = _codes(frame[item])
    counts = np.bincount(rows)
    if counts.max() > 1:
        raise ValueError(f"item {names[int(counts.argmax())]!r} has several rows in {path}; leave one")
    place = {name: number for number, name in enumerate(known)}
    lacking = len(set(known) - set(names))
    if lacking == len(known):
        raise ValueError(f"no item of the log is in {path}, such as {known[0]!r} beside {names[0]!r}; name items alike")
    if lacking:
        warn_once(f"{lacking} of {len(known)} items of the log have no row in {path}")
    for name in names:
        place.setdefault(name, len(place))
    words = {} if title is None else dict(zip(names, frame[title].fillna("").astype(str), strict=True))
    titles = None if title is None else tuple(words.get(name, "") for name in place)
    if category is None:
        return tuple(place), titles, None, ()
    cells = frame[category].fillna("").astype(str)
    mark = "|" if cells.str.contains("|", regex=False).any() else None
    parts = [sorted({part.strip() for part in cell.split(mark)} - {""}) for cell in cells]
    category_names = tuple(sorted({part for cell in parts for part in cell}))
    if not category_names:
        raise ValueError(f"column {category!r} of {path} holds no category")
    number = {name: column for column, name in enumerate(category_names)}
    categories = torch.zeros((len(place), len(category_names)), dtype=torch.int64)
    for name, cell in zip(names, parts, strict=True):
        categories[place[name], [number[part] for part in cell]] = 1
    return tuple(place), titles, categories, category_names
