"""What is kept of one identity of the source, step by step, each sample with its reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from equipoise.core.models.two_tower import unit_rows
from equipoise.generative.curation.cleaners import Cleaner
from equipoise.generative.curation.combining import combine_cleaners
from equipoise.generative.curation.leakage import LeakageCheck
from equipoise.generative.curation.manifest import ManifestRow, similarities
from equipoise.generative.curation.near_copies import near_copies


@dataclass
class CleanedIdentity:
    """An identity between two steps.

    Attributes:
        name: of it.
        samples: in the order of the source.
        unit: (n, d) unit embeddings.
        rows: what is known of each sample.
        centre: (d,) mean direction of what is kept; None where nothing is, or it cancels.
    """

    name: str
    samples: Sequence[Any]
    unit: Tensor
    rows: list[ManifestRow]
    centre: Tensor | None = None

    @property
    def kept(self) -> list[int]:
        """Numbers of samples that are kept so far."""
        return [k for k, row in enumerate(self.rows) if row.kept]

    def reject(self, number: int, verdict: Any, reason: str) -> None:
        """Leave a sample out."""
        self.rows[number] = replace(self.rows[number], verdict=verdict, reason=reason)

    def note_leaks(self, near: LeakageCheck, threshold: float, *, reject: bool) -> None:
        """Take up the nearest protected rows of all samples, and leave out kept ones that are too near if asked to."""
        for k, row in enumerate(self.rows):
            most = float(near.max_similarity[k])
            self.rows[k] = replace(row, reference_similarity=most, nearest_reference=int(near.nearest[k]))
            if reject and row.kept and bool(near.leaked[k]):
                self.reject(k, "leaked", f"cosine {most:.3f} with reference {int(near.nearest[k])}, from {threshold:g}")

    def reject_all(self, verdict: Any, reason: str) -> None:
        """Leave out what is kept so far."""
        for number in self.kept:
            self.reject(number, verdict, reason)

    def keep_most_central(self, target: int) -> None:
        """Leave out all but the kept samples nearest to the centre; of equal ones the first stay."""
        kept = self.kept
        if len(kept) <= target or self.centre is None:
            return
        near = (self.unit[kept] @ self.centre).tolist()
        for place in sorted(range(len(kept)), key=lambda k: (-near[k], k))[target:]:
            self.reject(kept[place], "surplus", f"not among the {target} nearest to the centre")

    def find_centre(self) -> None:
        """The mean direction of what is kept, and the cosine of every sample with it."""
        kept = self.kept
        mean = self.unit[kept].sum(0) if kept else None
        norm = 0.0 if mean is None else float(mean.norm())
        self.centre = None if mean is None or norm < 1e-9 else mean / norm
        near = similarities(self.unit, self.centre)
        self.rows = [replace(row, centroid_similarity=each) for row, each in zip(self.rows, near, strict=True)]


def clean_identity(
    name: str,
    samples: Sequence[tuple[str, Any]],
    embed: Callable[[Sequence[Any]], Tensor],
    cleaners: Sequence[Cleaner],
    combine: Callable[..., list[Any]] = combine_cleaners,
    copies: float | None = None,
) -> CleanedIdentity:
    """One identity after near copies and outliers were found.

    Args:
        name: of it.
        samples: (name, sample) of each.
        embed: samples → (n, d).
        cleaners: asked about what is left without near copies; none keep everything.
        combine: (members, *decisions) → members kept.
        copies: cosine from which a sample is a near copy; None to leave them.

    Raises:
        ValueError: if the embeddings cannot be used.
    """
    values = [sample for _, sample in samples]
    unit = unit_rows("embeddings", checked_embeddings(embed(values), len(values)).double())
    found = CleanedIdentity(name, values, unit, [ManifestRow(each, name) for each, _ in samples])
    if copies is not None:
        for number, of in enumerate(near_copies(unit, copies).tolist()):
            if of >= 0:
                found.reject(number, "near copy", f"near copy of {samples[of][0]}")
    left = found.kept
    decisions = [(each.name, each([values[k] for k in left], unit[left])) for each in cleaners]
    if decisions:
        kept = set(combine(range(len(left)), *(decision.kept for _, decision in decisions)))
        verified = all(decision.verified for _, decision in decisions)
        asked = [(cleaner, frozenset(decision.kept)) for cleaner, decision in decisions]
        for place, number in enumerate(left):
            votes = {cleaner: place in each for cleaner, each in asked}
            found.rows[number] = replace(found.rows[number], votes=votes, verified=verified)
            if place not in kept:
                against = ", ".join(cleaner for cleaner, keeps in votes.items() if not keeps)
                found.reject(number, "outlier", f"left out by {against}")
    found.find_centre()
    return found


def checked_embeddings(found: Tensor, size: int) -> Tensor:
    """The embeddings, on the processor, without gradient.

    Raises:
        ValueError: if they are no (n, d) tensor of finite numbers.
    """
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != size or not found.is_floating_point():
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"embedder must give floating embeddings (n, d) of {size} samples, got {shape}")
    found = found.detach().cpu()
    return found.float() if found.dtype in (torch.float16, torch.bfloat16) else found
