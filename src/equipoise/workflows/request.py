"""What the requests of all workflows share."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Request:
    """Options of one workflow; numbers of NumPy become Python's, which JSON and every library take."""

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _python(getattr(self, field.name)))


def _python(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    return type(value)(map(_python, value)) if type(value) in (list, tuple) else value
