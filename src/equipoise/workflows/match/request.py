"""What `match` can be asked for. The command line reads options, defaults and help from here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from equipoise.workflows.request import Request


@dataclass(frozen=True, kw_only=True)
class MatchRequest(Request):
    """Options of `match_embeddings`.

    Attributes:
        identity: The column, or the array of an .npz file, of who or what a row is of, in both files.
        group: The column or array of a group of identities, such as gender: everything is judged within groups as
            well, and in each group by itself.
        most: Matching is judged with 2 to so many candidates.
        ties: What a match wins that ties for the first place: fractional, optimistic or pessimistic.
        resamples: Draws of the bootstrap of identities; 0 for figures without intervals.
        confidence: Of the intervals.
        seed: Of the bootstrap.
        output: The folder to write: matching.csv, scores.csv, metrics.json, report.html.
        overwrite: Replace the folder if an earlier run wrote it and it holds nothing else.
    """

    identity: str = "identity"
    group: str | None = None
    most: int = 10
    ties: str = "fractional"
    resamples: int = 200
    confidence: float = 0.95
    seed: int = 0
    output: Path = Path("equipoise-match")
    overwrite: bool = False
