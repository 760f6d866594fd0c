"""What this room declares: nothing that `fit` trains on a table; its models are fitted by `distill` and `adapt`."""

from __future__ import annotations

from equipoise.core.registry import Declaration

DECLARED: tuple[Declaration, ...] = ()
