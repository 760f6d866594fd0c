"""What `curate` can be asked for. The command line reads options, defaults and help from here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from equipoise.workflows.request import Request


@dataclass(frozen=True, kw_only=True)
class CurateRequest(Request):
    """Options of `curate_folder`.

    Attributes:
        embeddings: An npz or Parquet file with an embedding of every picture; without it, pictures are compared by
            small grey copies, which tell near copies and gross outliers only.
        threshold: Cosine from which two pictures are neighbours; moved for each identity until enough are kept, if
            absent.
        min_fraction: Least share of an identity to keep.
        max_fraction: Largest share to keep; below 1 where some of every identity are known to be wrong.
        second: A file of other embeddings; what is unlike the most central picture by them is left out as well.
        second_threshold: Cosine with the most central picture from which a picture stays.
        copies: Cosine from which a picture is a near copy of another of its identity and left out; none if absent.
        min_count: An identity of fewer pictures is left out.
        max_count: Pictures of an identity to keep, those nearest to its centre; all if absent.
        reference: A folder of pictures, or a file of embeddings, of people who must not be in the set.
        against: What pictures are held against: samples of the reference, centres of its identities, or both; both
            where the reference has identities, if absent.
        leakage_threshold: Cosine with the reference from which a picture or an identity is left out; .5 with embeddings
            and .98 with grey copies, if absent.
        false_match_rate: Find that threshold as the cosine that this share of pairs of different reference identities
            reaches.
        link: A folder to make, with links to the pictures that are kept.
        copy: A folder to make, with copies of the pictures that are kept.
        escape_formulas: Put a quote before names that a spreadsheet would run as a formula.
        output: The folder to write: pictures.csv, pictures.json, identities.csv, nearest.csv, metrics.json,
            report.html.
        overwrite: Replace the folder if an earlier run wrote it and it holds nothing else.
    """

    embeddings: Path | None = None
    threshold: float | None = None
    min_fraction: float = 0.5
    max_fraction: float = 1.0
    second: Path | None = None
    second_threshold: float = 0.5
    copies: float | None = None
    min_count: int = 10
    max_count: int | None = None
    reference: Path | None = None
    against: str | None = None
    leakage_threshold: float | None = None
    false_match_rate: float | None = None
    link: Path | None = None
    copy: Path | None = None
    escape_formulas: bool = False
    output: Path = Path("equipoise-curate")
    overwrite: bool = False
