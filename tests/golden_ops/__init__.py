"""Adapters from the golden cases' ops to public functions, a module a room.

An adapter takes the inputs of a case (rectangular numbers are tensors: float64, int64 or bool; what the case wants a
gradient of requires grad) and its params, and returns the outputs by the names that `expected` uses. It translates
names and types; it never computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Adapter = Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]]


class Ops(dict[tuple[str, str], Adapter]):
    """(slug, op) → adapter; a module of this folder has one as `ops`."""

    def __call__(self, slug: str, op: str) -> Callable[[Adapter], Adapter]:
        """Decorate the adapter of an op."""

        def register(adapter: Adapter) -> Adapter:
            if (slug, op) in self:
                raise ValueError(f"{slug} {op} has two adapters")
            self[slug, op] = adapter
            return adapter

        return register


def renamed(
    params: Mapping[str, Any], names: Mapping[str, str], values: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The params under our names; a string value is translated by `values`.

    Raises:
        KeyError: if a param is not in `names`, so that nothing is silently left out.
    """
    values = values or {}
    return {names[key]: values.get(value, value) if isinstance(value, str) else value for key, value in params.items()}
