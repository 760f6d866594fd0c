"""The options by which every workflow reads a log of who took what.

Annotations are not postponed, so that a subclass in another module keeps them readable.
"""

from dataclasses import dataclass
from pathlib import Path

from equipoise.data import InteractionLog, read_interactions
from equipoise.workflows.request import Request


@dataclass(frozen=True, kw_only=True)
class LogRequest(Request):
    """What every workflow on a log is asked for.

    Attributes:
        items: A file with a row per item: titles, and categories separated by | or by spaces.
        user: The column of users; found by its usual names if absent.
        item: The column of items; likewise.
        rating: The column of ratings; likewise.
        time_column: The column of times; likewise.
        title: The column of titles in the file of items; likewise.
        category: The column of categories in the file of items; likewise.
        min_rating: Leave out interactions with a lower rating.
    """

    items: Path | None = None
    user: str | None = None
    item: str | None = None
    rating: str | None = None
    time_column: str | None = None
    title: str | None = None
    category: str | None = None
    min_rating: float | None = None


def read_log(path: str | Path, request: LogRequest) -> InteractionLog:
    """The log of a file, read as asked for; raises as `read_interactions`."""
    return read_interactions(
        path,
        request.items,
        user=request.user,
        item=request.item,
        rating=request.rating,
        time=request.time_column,
        title=request.title,
        category=request.category,
        min_rating=request.min_rating,
    )
