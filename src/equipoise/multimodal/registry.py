"""What this room declares: nothing that `fit` trains on a table."""

from __future__ import annotations

from equipoise.core.registry import Declaration

DECLARED: tuple[Declaration, ...] = ()
