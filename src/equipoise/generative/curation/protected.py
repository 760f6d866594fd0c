"""A protected set, asked about rows: the most similar of its samples, of its identities' centres, or of both."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from equipoise.core.nearest import nearest_rows
from equipoise.generative.curation.leakage import LeakageCheck, identity_centres

Against: TypeAlias = Literal["samples", "centres", "both"]


class ProtectedSet:
    """The reference of a leakage check with its settings.

    Args:
        reference: (m, d) embeddings.
        identity: (m,) whose they are; needed for centres.
        threshold: cosine from which a row is leaked.
        against: "samples", "centres" or "both".

    Raises:
        ValueError: if centres are asked for and `identity` is not given.

    >>> protected = ProtectedSet(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), None, 0.5, "samples")
    >>> protected.check(torch.tensor([[3.0, 1.0]])).leaked
    tensor([True])
    """

    def __init__(self, reference: Tensor, identity: Tensor | None, threshold: float, against: Against) -> None:
        if against != "samples" and identity is None:
            raise ValueError(f"leakage_against={against!r} needs reference_identity, whose each reference row is")
        self.threshold = threshold
        self.rows = reference
        self.number = torch.arange(len(reference), device=reference.device)
        if against != "samples" and identity is not None:
            found = identity_centres(reference, identity)
            # A centre is told by the first sample of its identity.
            first = torch.stack([(identity == who).nonzero()[0, 0] for who in found.identity])
            whole = against == "both"
            self.rows = torch.cat([reference.to(found.centres), found.centres]) if whole else found.centres
            self.number = torch.cat([self.number, first]) if whole else first

    def check(self, rows: Tensor) -> LeakageCheck:
        """The nearest of the set, by the number of its reference row, and whether it is too near."""
        found = nearest_rows(rows, self.rows.to(rows.device), names=("embeddings", "reference"))
        number = self.number.to(rows.device)[found.row]
        return LeakageCheck(found.similarity, number, found.similarity >= self.threshold)
