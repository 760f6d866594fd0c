"""A world of identities that are seen and heard: what both modalities share, what is private, and who has no match.

Identity k has shared attributes s_k ∈ R⁸, sign(N(0, 1)) · U(.6, 1), and private ones of each modality, N(0, 1). A
sample of a modality is

    tanh([s_k, private_k] M) + noise

with a fixed random matrix M of each modality, N(0, 1) / 3. Of an *unlearnable* identity the second modality has the
attributes of somebody else, drawn anew: nothing in one modality tells of the other, whatever is trained. Identities for
testing are all learnable, and none of them is in the training part.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, NumClasses, ProperFraction, Whole


@dataclass(frozen=True)
class PairedSamples:
    """Samples of two modalities, row i of both of the same identity.

    Attributes:
        face: (n, features).
        voice: (n, features).
        identity: (n,) from 0.
        group: (n,) 0 or 1 by the sign of the first shared attribute: a trait that both modalities show, as gender is.
        learnable: (identities,) whether both modalities share attributes.
    """

    face: Float[Tensor, "n features"]
    voice: Float[Tensor, "n features"]
    identity: Int[Tensor, " n"]
    group: Int[Tensor, " n"]
    learnable: Bool[Tensor, " identities"]


@dataclass(frozen=True)
class IdentityPairs:
    """The world: a training part, and identities that were never seen.

    Attributes:
        train: samples of the training identities.
        test: samples of other identities, numbered from 0 again.
    """

    train: PairedSamples
    test: PairedSamples


@checked
def make_identity_pairs(
    num_train: NumClasses = 160,
    num_test: NumClasses = 120,
    *,
    samples: Count = 4,
    unlearnable: ProperFraction = 0.3,
    noise: NonNegative = 1.5**0.5,
    shared: Count = 8,
    private: Whole = 4,
    features: Count = 48,
    seed: Whole = 0,
) -> IdentityPairs:
    """A world of identities.

    Args:
        num_train: identities for training.
        num_test: other identities for testing.
        samples: of each identity, of both modalities.
        unlearnable: share of the training identities whose modalities share nothing, to the nearest identity.
        noise: standard deviation of the noise of a sample.
        shared: attributes that the modalities share.
        private: attributes of each modality alone.
        features: numbers of a sample.
        seed: of everything.

    >>> world = make_identity_pairs(10, 5, samples=2)
    >>> world.train.face.shape, int(world.train.learnable.sum()), len(world.test.learnable)
    (torch.Size([20, 48]), 7, 5)
    """
    generator = Generator().manual_seed(seed)
    maps = [torch.randn(shared + private, features, generator=generator) / 3 for _ in range(2)]

    def part(identities: int, share: float) -> PairedSamples:
        attributes, others = (_attributes(identities, shared, generator) for _ in range(2))
        learnable = torch.ones(identities, dtype=torch.bool)
        order = torch.randperm(identities, generator=generator)
        learnable[order[: round(share * identities)]] = False
        heard = torch.where(learnable[:, None], attributes, others)
        identity = torch.arange(identities).repeat_interleave(samples)
        sides = []
        for common, matrix in zip((attributes, heard), maps, strict=True):
            own = torch.randn(identities, private, generator=generator)
            clean = torch.tanh(torch.cat([common, own], 1) @ matrix)[identity]
            sides.append(clean + noise * torch.randn(clean.shape, generator=generator))
        return PairedSamples(sides[0], sides[1], identity, (attributes[:, 0] > 0).long()[identity], learnable)

    return IdentityPairs(part(num_train, unlearnable), part(num_test, 0.0))


def _attributes(identities: int, shared: int, generator: Generator) -> Tensor:
    signs = torch.randn(identities, shared, generator=generator).sign()
    return signs * (0.6 + 0.4 * torch.rand(identities, shared, generator=generator))
