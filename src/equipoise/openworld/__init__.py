"""Labels that overlap, labels that go together, and classes that were never seen: losses, metrics and detectors.

Names are loaded when first touched.
"""

from __future__ import annotations

import importlib
from typing import Any

# Public name → module of this room.
_MODULES: dict[str, str] = {}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
