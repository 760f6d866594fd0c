"""No public name without an entry, no entry without a public name."""

import importlib

import pytest

from contracts.model import Entry
from contracts.registry import MODULES, others

# Of core, the packages that export anything.
ROOMS = sorted(room for m in MODULES for room in getattr(m, "PACKAGES", [m.__name__.rpartition(".")[2]]))
NAMES = {entry.name for module in MODULES for entry in getattr(module, "ENTRIES", ())} | set(others())


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_has_an_entry(room):
    package = importlib.import_module(f"equipoise.{room}")
    missing = {f"equipoise.{room}.{name}" for name in package.__all__} - NAMES
    place = f"tests/contracts/entries/{room.partition('.')[0]}.py"
    assert not missing, f"enter these in {place}: {', '.join(sorted(missing))}"


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_entry_is_a_public_name(name):
    assert Entry(name).object is not None


@pytest.mark.parametrize(("name", "why"), sorted(others().items()))
def test_what_no_contract_is_for_says_why(name, why):
    assert len(why.split()) >= 3
