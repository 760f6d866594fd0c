"""Equipoise: train and judge models where averages mislead.

`import equipoise` is light: a room is loaded when it is first touched, e.g. `equipoise.ranking.auroc`.
"""

from __future__ import annotations

import importlib
from types import ModuleType

__version__ = "0.1.0"

_ROOMS = (
    "catalog",
    "claims",
    "core",
    "data",
    "integrations",
    "openworld",
    "ranking",
    "report",
    "training",
    "workflows",
)

__all__ = ["__version__", *_ROOMS]


def __getattr__(name: str) -> ModuleType:
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; its rooms are {', '.join(_ROOMS)}")


def __dir__() -> list[str]:
    return sorted(__all__)
