"""What `adapt` can be asked for. The command line reads options, defaults and help from here."""

from __future__ import annotations

from collections.abc import Sequence  # noqa: F401, the command line resolves inherited annotations here
from dataclasses import dataclass
from pathlib import Path

from equipoise.workflows.distill.request import TrainingRequest


@dataclass(frozen=True, kw_only=True)
class AdaptRequest(TrainingRequest):
    """Options of `adapt_model`.

    Attributes:
        adapter: What is trained in place of all weights: lora, moe-lora or tucka.
        output: The folder to write: adapter, metrics.json, report.html.
    """

    adapter: str | None = "lora"
    output: Path = Path("equipoise-adapt")
