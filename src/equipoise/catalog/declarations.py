"""What the rooms declare, read by name: the catalogue says which rooms there are, each room's `registry` the rest."""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import TypeVar

from equipoise.catalog.papers import ROOMS, load_catalog
from equipoise.core.registry import Declaration, by_name

D = TypeVar("D", bound=Declaration)


def rooms() -> tuple[str, ...]:
    """The rooms that hold a working paper or a draft, in the order of the house.

    >>> rooms()[:2]
    ('ranking', 'openworld')
    """
    held = {paper.room for paper in load_catalog() if paper.provides}
    return tuple(room for room in ROOMS if room in held)


@lru_cache(maxsize=1)
def declarations() -> tuple[Declaration, ...]:
    """All that the rooms declare."""
    modules = [importlib.import_module(f"equipoise.{room}.registry") for room in rooms()]
    return tuple(declaration for module in modules for declaration in module.DECLARED)


def declared(kind: type[D]) -> dict[str, D]:
    """What the rooms declare of a kind, such as `Objective`, by name.

    Raises:
        ValueError: if a name stands twice.

    >>> from equipoise.core.registry import CriterionKind
    >>> declared(CriterionKind)["auroc"].summary
    'AUROC'
    """
    return by_name([d for d in declarations() if isinstance(d, kind)])


def declared_by(slug: str) -> tuple[Declaration, ...]:
    """What a paper declares.

    >>> [d.name for d in declared_by("soprc")]
    ['average_precision']
    """
    return tuple(d for d in declarations() if d.paper == slug)
