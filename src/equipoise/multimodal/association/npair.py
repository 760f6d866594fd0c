"""A batch in which every row of one modality must be nearer to its own row of the other than to all the rest.

With â = a / ‖a‖ the candidates are normalised and the anchors are not, so that an anchor's norm is its own inverse
temperature, which it learns:

    s_ij = ĉ_j · a_i        l(a, c)_i = log( 1 + offset + Σ_{j: y_j ≠ y_i} exp(s_ij − s_ii) )
    L_i = ½ l(voice, face)_i + ½ l(face, voice)_i

Rows of the same identity are no negatives of each other. With offset 0 it is the N-pair loss of the paper. The
released code leaves the diagonal term in the sum and adds 3.4, which is offset 4.4: it flattens the gradient of
anchors that are matched already, and reproduces released numbers. For more than two modalities the losses of all
pairs of them are added.

Wen et al., "Seeking the Shape of Sound: An Adaptive Framework for Learning Voice-Face Association", CVPR 2021: the
formula with offset 0 from memory of the paper, the offset as in the authors' code. One matrix product serves both
directions (`core.contrastive`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.contrastive import info_nce, two_way_info_nce
from equipoise.core.reduction import Reduction, reduce_losses
from equipoise.core.signature import checked
from equipoise.core.types import NonNegative, SampleIndex
from equipoise.core.validate import warn_once
from equipoise.multimodal.association.bank import BankedNegatives


@checked
def cross_modal_npair_loss(
    face: Float[Tensor, "n d"],
    voice: Float[Tensor, "n d"],
    identity: SampleIndex | None = None,
    offset: NonNegative = 0.0,
    reduction: Reduction = "mean",
    *,
    bank: BankedNegatives | None = None,
) -> Tensor:
    """The N-pair loss of both directions, half of each.

    Args:
        face: (n, d) embeddings of one modality, not normalised.
        voice: (n, d) of the other, row i of the same identity as row i of `face`.
        identity: (n,) of the rows; every row its own by default. Rows of one identity are no negatives of each other.
        offset: added to the sum over negatives; 4.4 reproduces the released code.
        reduction: "mean", "sum", or "none" for the losses (n,).
        bank: negatives of earlier batches, of both modalities; see `NegativeBank`.

    Returns:
        A scalar, or (n,). Without any negative every loss is log(1 + offset), which is warned of once.

    Raises:
        ValueError: if shapes differ, or there is a bank and no identity.

    >>> face, voice = torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.1], [0.2, 1.0]])
    >>> cross_modal_npair_loss(face, voice)
    tensor(0.2637)
    """
    rows = torch.arange(len(face), device=face.device) if identity is None else identity
    if bank is None:
        _warn_without_negatives(rows, rows, offset)
        first, second = two_way_info_nce(face, voice, groups=rows, normalize="candidates", offset=offset)
        return reduce_losses((first + second) / 2, reduction)
    if identity is None:
        raise ValueError("identity is missing; the bank's rows need it to be told from positives")
    candidates = torch.cat([rows, bank.identity])
    _warn_without_negatives(rows, candidates, offset)
    own = torch.arange(len(face), device=face.device)
    losses = [
        info_nce(
            anchors,
            torch.cat([others, banked.to(others)]),
            own,
            groups=rows,
            candidate_groups=candidates,
            normalize="candidates",
            offset=offset,
        )
        for anchors, others, banked in ((face, voice, bank.second), (voice, face, bank.first))
    ]
    return reduce_losses((losses[0] + losses[1]) / 2, reduction)


@checked
def multimodal_npair_loss(
    embeddings: Sequence[Float[Tensor, "n d"]],
    identity: SampleIndex | None = None,
    offset: NonNegative = 0.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """The sum of `cross_modal_npair_loss` over all pairs of modalities.

    Args:
        embeddings: two or more (n, d), row i of each of the same thing.
        identity: as in `cross_modal_npair_loss`.
        offset: as in `cross_modal_npair_loss`.
        reduction: as in `cross_modal_npair_loss`.

    Raises:
        ValueError: if there are fewer than two modalities, or their shapes differ.

    >>> picture, sound, text = torch.eye(3), 2 * torch.eye(3), torch.eye(3)
    >>> multimodal_npair_loss([picture, sound, text])
    tensor(1.3424)
    """
    check_modalities(embeddings)
    pairs = itertools.combinations(embeddings, 2)
    return torch.stack([cross_modal_npair_loss(a, b, identity, offset, reduction) for a, b in pairs]).sum(0)


def check_modalities(embeddings: Sequence[Tensor]) -> None:
    """Raise `ValueError` unless there are two or more modalities of one shape."""
    if len(embeddings) < 2:
        raise ValueError(f"embeddings holds {len(embeddings)} modality, wanted two or more")
    shapes = {tuple(each.shape) for each in embeddings}
    if len(shapes) > 1:
        raise ValueError(f"embeddings must have the same shape in all modalities, got {sorted(shapes)}")


def _warn_without_negatives(rows: Tensor, candidates: Tensor, offset: float) -> None:
    if not torch.compiler.is_compiling() and bool((candidates == rows[0]).all()):
        warn_once(
            f"a batch of one identity has no negatives, its loss is log(1 + offset) = {math.log1p(offset):.4g}; draw "
            "several identities a batch, for example with PairedIdentityBatchSampler"
        )
