"""All entries, from every module of `contracts.entries`."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any, TypeVar

import pytest

from contracts import entries
from contracts.model import Entry

E = TypeVar("E", bound=Entry)
MODULES = [importlib.import_module(f"{entries.__name__}.{m.name}") for m in pkgutil.iter_modules(entries.__path__)]


def entered(kind: type[E]) -> list[E]:
    """All entries of a kind."""
    found = [entry for module in MODULES for entry in getattr(module, "ENTRIES", ()) if type(entry) is kind]
    return sorted(found, key=lambda entry: entry.name)


def others() -> dict[str, str]:
    """Names that no contract is for, and why."""
    return {name: why for module in MODULES for name, why in getattr(module, "OTHERS", {}).items()}


def parametrized(*kinds: type[Entry]) -> Any:
    """Run a test for every entry of some kinds, but for those that are exempt from it."""
    return pytest.mark.parametrize("entry", [entry for kind in kinds for entry in entered(kind)], ids=str)


@pytest.fixture
def contract(request: pytest.FixtureRequest) -> None:
    """Skip what an entry is exempt from, with its reason."""
    entry = request.node.callspec.params["entry"]
    test = request.node.originalname.removeprefix("test_")
    if test in entry.exempt:
        pytest.skip(entry.exempt[test])
