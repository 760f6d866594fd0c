"""What became of every sample of an identity data set, and why: a row for each, and a report of the whole."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from equipoise.generative.curation.leakage import SimilarityHistogram, similarity_histogram

Source: TypeAlias = Literal["real", "augmented", "synthetic"]
Verdict: TypeAlias = Literal[
    "kept", "near copy", "outlier", "leaked", "surplus", "identity too small", "identity leaked", "not embedded"
]


@dataclass(frozen=True)
class ManifestRow:
    """A sample.

    Attributes:
        sample: its name; a file, where samples are files.
        identity: whose sample it is said to be.
        source: "real", "augmented" or "synthetic".
        verdict: "kept", or the kind of reason why not.
        reason: the reason in words.
        votes: cleaner → whether it would keep the sample; of those that were asked.
        verified: False where a cleaner could not decide.
        centroid_similarity: cosine with the mean of what is kept of the identity; NaN where nothing is.
        reference_similarity: cosine with the nearest protected row; NaN where it was not looked for.
        nearest_reference: its number; −1 where it was not looked for.
        seed: that it was made with; None for a real sample.
        origin: what it was made from: a sample, or the description of a synthetic identity.
    """

    sample: str
    identity: str
    source: Source = "real"
    verdict: Verdict = "kept"
    reason: str = ""
    votes: Mapping[str, bool] = field(default_factory=dict)
    verified: bool = True
    centroid_similarity: float = math.nan
    reference_similarity: float = math.nan
    nearest_reference: int = -1
    seed: int | None = None
    origin: str = ""

    @property
    def kept(self) -> bool:
        """Whether the sample is part of the data set."""
        return self.verdict == "kept"


@dataclass(frozen=True)
class Manifest:
    """An identity data set as a list.

    Attributes:
        rows: of all samples, the rows of an identity together.
        order: identities of the data set, in the order to store or train them.
        rejects: why synthetic identities were drawn again → how often.
        samples: name → sample, of what was made where no sink took it.
        needed: how many samples and identities are still to be made, after a dry run.

    >>> manifest = Manifest((ManifestRow("a1", "a"), ManifestRow("a2", "a", verdict="outlier")), ("a",))
    >>> manifest.report["samples kept"], manifest.image_list()
    (1, [('a1', 0)])
    """

    rows: tuple[ManifestRow, ...]
    order: tuple[str, ...]
    rejects: Mapping[str, int] = field(default_factory=dict)
    samples: Mapping[str, Any] = field(default_factory=dict)
    needed: Mapping[str, int] = field(default_factory=dict)

    def kept_rows(self) -> Iterator[ManifestRow]:
        """The rows of the data set, identity by identity in its order."""
        of: dict[str, list[ManifestRow]] = {}
        for row in self.rows:
            if row.kept:
                of.setdefault(row.identity, []).append(row)
        for identity in self.order:
            yield from of.get(identity, [])

    def image_list(self) -> list[tuple[str, int]]:
        """(sample, number of its identity) in order, as lists of images of other libraries have it."""
        number = {identity: k for k, identity in enumerate(self.order)}
        return [(row.sample, number[row.identity]) for row in self.kept_rows()]

    @property
    def report(self) -> dict[str, Any]:
        """Identities and samples in and out, reasons, and the purity that cleaners leave room for.

        `source purity` is the share of real samples that the cleaners keep, of those that they were asked about: an
        estimate of how many of the source are right. `unverified` names identities for which a cleaner had no answer.
        """
        real = [row for row in self.rows if row.source == "real"]
        judged = [row for row in real if row.votes]
        inliers = sum(row.verdict != "outlier" for row in judged)
        kept = [row for row in self.rows if row.kept]
        return {
            "identities in": len({row.identity for row in real}),
            "identities out": len(self.order),
            "identities synthetic": len({row.identity for row in self.rows if row.source == "synthetic"}),
            "samples in": len(real),
            "samples kept": len(kept),
            "samples by source": dict(Counter(row.source for row in kept)),
            "samples left out": dict(Counter(row.verdict for row in self.rows if not row.kept)),
            "source purity": inliers / len(judged) if judged else math.nan,
            "unverified": sorted({row.identity for row in real if not row.verified}),
            "synthetic identities drawn again": dict(self.rejects),
            "needed": dict(self.needed),
        }

    def privacy(self, bins: int = 40) -> SimilarityHistogram:
        """How near the nearest protected row is to the samples of the data set, where it was looked for.

        Raises:
            ValueError: if there was no reference.
        """
        values = [row.reference_similarity for row in self.rows if row.kept and row.nearest_reference >= 0]
        if not values:
            raise ValueError("the manifest has no reference similarities; build it with a reference")
        return similarity_histogram(torch.tensor(values, dtype=torch.float64), bins)

    def write_csv(self, path: str | Path) -> None:
        """Write a row per sample; votes as "cluster+ judge-", what is not known as an empty cell."""
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([each.name for each in fields(ManifestRow)])
            for row in self.rows:
                cells = {each.name: getattr(row, each.name) for each in fields(row)}
                cells["votes"] = " ".join(f"{name}{'+' if kept else '-'}" for name, kept in row.votes.items())
                writer.writerow([_cell(value) for value in cells.values()])

    def write_json(self, path: str | Path) -> None:
        """Write rows, order and report; what was made is not written."""
        whole = {
            "order": self.order,
            "report": json_ready(self.report),
            "rejects": dict(self.rejects),
            "needed": dict(self.needed),
            "rows": [json_ready(asdict(row)) for row in self.rows],
        }
        Path(path).write_text(json.dumps(whole, ensure_ascii=False, indent=1), encoding="utf-8")

    @classmethod
    def read_json(cls, path: str | Path) -> Manifest:
        """The manifest that `write_json` wrote.

        Raises:
            ValueError: if the file holds none.
        """
        try:
            held = json.loads(Path(path).read_text(encoding="utf-8"))
            rows = tuple(row_from_json(row) for row in held["rows"])
            return cls(rows, tuple(held["order"]), held["rejects"], {}, held["needed"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"path={str(path)!r} holds no manifest: {error}") from error


def json_ready(value: Any) -> Any:
    """The value with null in place of NaN.

    >>> json_ready({"a": [math.nan, 1.0]})
    {'a': [None, 1.0]}
    """
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, Mapping):
        return {key: json_ready(each) for key, each in value.items()}
    return [json_ready(each) for each in value] if isinstance(value, list | tuple) else value


def row_from_json(held: Mapping[str, Any]) -> ManifestRow:
    """A row from its JSON form."""
    values: dict[str, Any] = dict(held)
    for key in ("centroid_similarity", "reference_similarity"):
        values[key] = math.nan if values[key] is None else values[key]
    return ManifestRow(**values)


def similarities(rows: Tensor, centre: Tensor | None) -> Sequence[float]:
    """Cosines of unit rows with a unit centre; NaN without one."""
    return [math.nan] * len(rows) if centre is None else (rows @ centre).clamp(-1, 1).tolist()


def _cell(value: object) -> object:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return "" if value is None else value
