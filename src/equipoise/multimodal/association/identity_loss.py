"""One classifier of identities for all modalities: its weight vectors are centres that the modalities share.

Naming the identity from either modality with the same weights pulls both embeddings of an identity to one vector and
away from those of all other identities of the training set, not of the batch alone:

    L_i = w_i (CE(W z_face,i ; y_i) + CE(W z_voice,i ; y_i))        mean over the batch

w_i is a weight of each sample. The authors' code averages the cross-entropy before it multiplies with the weights,
which weighs all samples alike by the mean weight; here, as the paper says, each sample has its own.

The paper's logits are plain inner products, without scale or margin (their classifier has a margin that is never
passed). The variants take cosines, scale s and a margin m on the own identity:

    "cosine"    s (cos θ_iy − m)            CosFace
    "angle"     s cos(θ_iy + m)             ArcFace

Beyond θ = π − m, where cos(θ + m) would rise again, it is s (cos θ − m sin m).

Wen et al., "Seeking the Shape of Sound: An Adaptive Framework for Learning Voice-Face Association", CVPR 2021, as in
the authors' code but for the weights. Margins: Wang et al., CVPR 2018, and Deng et al., CVPR 2019.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, one_hot

from equipoise.core.contrastive import inverse_norms
from equipoise.core.reduction import Reduction, reduce_losses
from equipoise.core.signature import checked
from equipoise.core.types import Count, Positive, Range, SampleIndex, SampleWeight, Whole

MarginKind: TypeAlias = Literal["none", "cosine", "angle"]
"""How the logit of the own identity is made smaller."""
Margin: TypeAlias = Annotated[float, Range(0, 1.5)]


class SharedIdentityClassifier(nn.Module):
    """Logits of identities, by the same weights (K, d) for every modality.

    Args:
        num_identities: K.
        dim: width of the embeddings.
        seed: of the first weights, uniform as by Xavier.

    >>> classifier = SharedIdentityClassifier(5, 3)
    >>> face_logits, voice_logits = classifier(torch.ones(2, 3), torch.zeros(2, 3))
    >>> face_logits.shape
    torch.Size([2, 5])
    """

    @checked
    def __init__(self, num_identities: Count, dim: Count, *, seed: Whole = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_identities, dim))
        nn.init.xavier_uniform_(self.weight, generator=torch.Generator().manual_seed(seed))

    def forward(self, *embeddings: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n K"], ...]:
        """Logits (n, K) of each modality's embeddings (n, d)."""
        return tuple(linear(each, self.weight) for each in embeddings)

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return f"num_identities={self.weight.shape[0]}, dim={self.weight.shape[1]}"


@checked
def shared_identity_loss(
    face: Float[Tensor, "n d"],
    voice: Float[Tensor, "n d"],
    classifier: SharedIdentityClassifier | Float[Tensor, "K d"],
    identity: SampleIndex,
    weight: SampleWeight | None = None,
    reduction: Reduction = "mean",
    *,
    margin_kind: MarginKind = "none",
    margin: Margin = 0.2,
    scale: Positive = 30.0,
) -> Tensor:
    """The cross-entropies of both modalities, added, times the weight of each sample.

    Args:
        face: (n, d) embeddings of one modality, not normalised.
        voice: (n, d) of the other.
        classifier: the shared weights (K, d), or the module that has them.
        identity: (n,) in 0..K−1.
        weight: (n,) at least 0, not all 0; 1 by default.
        reduction: "mean" (over the samples, not the weights), "sum", or "none" for the losses (n,).
        margin_kind: "none" for inner products; "cosine" or "angle" for cosines with a margin.
        margin: m, of the cosine or in radians.
        scale: s, of cosines.

    Raises:
        ValueError: if an identity has no row in the classifier, or all weights are 0.

    >>> classifier, face = torch.eye(3), torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    >>> shared_identity_loss(face, 2 * face, classifier, torch.tensor([0, 1]), torch.tensor([1.0, 0.5]))
    tensor(0.3355)
    """
    settings = margin_kind, margin, scale
    entropies = identity_entropies([face, voice], classifier, identity, *settings)
    check_weight(weight)
    return reduce_losses(entropies.sum(0), reduction, weight=weight)


def identity_entropies(
    embeddings: Sequence[Float[Tensor, "n d"]],
    classifier: SharedIdentityClassifier | Float[Tensor, "K d"],
    identity: SampleIndex,
    margin_kind: MarginKind = "none",
    margin: float = 0.2,
    scale: float = 30.0,
) -> Float[Tensor, "modalities n"]:
    """The cross-entropy of every modality and sample.

    Raises:
        ValueError: if an identity has no row in the classifier, or the widths differ.

    >>> identity_entropies([torch.eye(2)], torch.eye(2), torch.tensor([0, 1]))
    tensor([[0.3133, 0.3133]])
    """
    weights = classifier.weight if isinstance(classifier, SharedIdentityClassifier) else classifier
    identity = identity.long()
    if embeddings[0].shape[1] != weights.shape[1]:
        raise ValueError(f"face has {embeddings[0].shape[1]} columns, the classifier's weights have {weights.shape[1]}")
    if not torch.compiler.is_compiling() and (most := int(identity.max())) >= len(weights):
        raise ValueError(f"identity holds the value {most}, wanted 0 to {len(weights) - 1}, the classifier's rows")
    found = []
    for each in embeddings:
        each = each.to(torch.promote_types(each.dtype, torch.float32))
        with torch.autocast(each.device.type, enabled=False):
            logits = _logits(each, weights.to(each.dtype), identity, margin_kind, margin, scale)
        found.append(cross_entropy(logits, identity, reduction="none"))
    return torch.stack(found)


def check_weight(weight: Tensor | None) -> None:
    """Raise `ValueError` if all weights are 0."""
    if weight is not None and not torch.compiler.is_compiling() and not bool((weight > 0).any()):
        raise ValueError("weight is 0 for all samples; skip the batch, or give IdentityReweighter a fallback")


def _logits(
    embeddings: Tensor, weights: Tensor, identity: Tensor, kind: MarginKind, margin: float, scale: float
) -> Tensor:
    if kind == "none":
        return linear(embeddings, weights)
    cosine = linear(embeddings * inverse_norms(embeddings)[:, None], weights * inverse_norms(weights)[:, None])
    own = one_hot(identity, len(weights)).bool()
    if kind == "cosine":
        return scale * (cosine - margin * own)
    # The slope of the sine is infinite at cosines of ±1.
    sine = (1 - cosine.square()).clamp_min(torch.finfo(cosine.dtype).eps).sqrt()
    turned = cosine * math.cos(margin) - sine * math.sin(margin)
    beyond = cosine <= -math.cos(margin)
    return scale * torch.where(own, torch.where(beyond, cosine - margin * math.sin(margin), turned), cosine)
