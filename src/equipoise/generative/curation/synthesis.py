"""A synthetic identity: one expensive seed sample that is nobody's, then cheap variations that stay the same person.

    e₀ = embed(seed sample)      rejected where a protected row or another identity is too near
    sample_j = expand(e₀, j)     kept where cos(embed(sample_j), e₀) ≥ θ_id

"Hybrid Generative Fusion", ICCV workshops 2025. Models are behind two protocols; none is contained here.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from equipoise.core.models.two_tower import unit_rows
from equipoise.generative.curation.manifest import ManifestRow
from equipoise.generative.curation.protected import ProtectedSet
from equipoise.generative.curation.separation import greedy_separation


@runtime_checkable
class SeedGenerator(Protocol):
    """The first sample of a new identity."""

    def __call__(self, prompt: str, seed: int) -> Any | None:
        """A sample of a person described; None where none is detected in it. The same seed gives the same sample."""
        ...


@runtime_checkable
class Expander(Protocol):
    """More samples of an identity."""

    def __call__(self, embedding: Tensor, seed: int) -> Any:
        """A sample whose embedding has about the direction (d,), with other pose and light for another seed."""
        ...


@dataclass(frozen=True)
class SyntheticIdentity:
    """An identity that was made.

    Attributes:
        rows: of its samples, the seed sample first.
        samples: in the order of the rows.
        centre: (d,) unit embedding of the seed sample.
    """

    rows: tuple[ManifestRow, ...]
    samples: tuple[Any, ...]
    centre: Tensor


@dataclass(frozen=True)
class IdentitySynthesis:
    """How synthetic identities are made.

    Attributes:
        embed: samples → (n, d).
        generator: of seed samples.
        expander: of further samples.
        prompts: seed → description.
        protected: what they must not be near, or None.
        separation: cosine from which an identity is too near to another.
        identity: θ_id, least cosine of a sample with the seed sample.
        target: samples of an identity.
        least: fewer samples reject the identity.
        max_tries: seed samples that are drawn for one identity.
        seed: of everything.
    """

    embed: Callable[[Sequence[Any]], Tensor]
    generator: SeedGenerator
    expander: Expander
    prompts: Callable[[int], str]
    protected: ProtectedSet | None
    separation: float
    identity: float
    target: int
    least: int
    max_tries: int
    seed: int

    def make(self, name: str, others: Tensor | None, rejects: Counter[str]) -> SyntheticIdentity:
        """One identity apart from the unit rows of others (k, d), if any; what was rejected is counted.

        Raises:
            RuntimeError: if none is acceptable after `max_tries` draws.
        """
        tries: Counter[str] = Counter()
        for attempt in range(self.max_tries):
            seed = derived_seed(self.seed, name, attempt)
            found = self._tried(name, seed, others)
            if isinstance(found, SyntheticIdentity):
                return found
            tries[found] += 1
            rejects[found] += 1
        counts = ", ".join(f"{reason}: {count}" for reason, count in sorted(tries.items()))
        raise RuntimeError(f"no acceptable identity after {self.max_tries} tries for {name} ({counts})")

    def _tried(self, name: str, seed: int, others: Tensor | None) -> SyntheticIdentity | str:
        prompt = self.prompts(seed)
        first = self.generator(prompt, seed)
        if first is None:
            return "no subject"
        centre = unit_rows("embeddings", self.embed([first]))
        if self.protected is not None and bool(self.protected.check(centre).leaked[0]):
            return "leaked"
        if not len(greedy_separation(centre, self.separation, existing=others)):
            return "too near to another identity"
        seeds = [seed, *(derived_seed(seed, name, j) for j in range(1, self.target))]
        samples = [first, *(self.expander(centre[0], each) for each in seeds[1:])]
        unit = unit_rows("embeddings", self.embed(samples))
        same = (unit @ centre[0]).tolist()
        near = None if self.protected is None else self.protected.check(unit)
        kept = [
            j
            for j, cosine in enumerate(same)
            if j == 0 or (cosine >= self.identity and not (near is not None and bool(near.leaked[j])))
        ]
        if len(kept) < self.least:
            return "too few samples of the same identity"
        rows = tuple(
            ManifestRow(
                f"{name}/{j}",
                name,
                "synthetic",
                centroid_similarity=min(same[j], 1.0),
                reference_similarity=float("nan") if near is None else float(near.max_similarity[j]),
                nearest_reference=-1 if near is None else int(near.nearest[j]),
                seed=seeds[j],
                origin=prompt,
            )
            for j in kept
        )
        return SyntheticIdentity(rows, tuple(samples[j] for j in kept), centre[0])


def derived_seed(seed: int, *parts: object) -> int:
    """A seed of 31 bits for a part of a run, whatever else is run before or beside it.

    >>> derived_seed(0, "a", 1) == derived_seed(0, "a", 1), derived_seed(0, "a", 1) == derived_seed(0, "a", 2)
    (True, False)
    """
    return int.from_bytes(hashlib.sha256(repr((seed, *parts)).encode()).digest()[:4], "big") >> 1
