"""Alignment of modalities at two levels: with the whole training set by a shared classifier, and inside the batch.

    L = mean_i w_i ( g (CE_face,i + CE_voice,i) + l L_npair,i )

The classifier's terms (`shared_identity_loss`) bring negatives from all identities, slowly; those of the batch
(`cross_modal_npair_loss`) compare the modalities directly. Both global terms and the local one weigh the same, g = l =
1, as in the authors' code. With more modalities the cross-entropies of all and the local losses of all pairs are
added.

Embeddings are not normalised in training, where plain inner products have no other way to become large; scores at test
time are cosines.

Wen et al., "Seeking the Shape of Sound: An Adaptive Framework for Learning Voice-Face Association", CVPR 2021, as in
the authors' code but for the weights of samples, which there do not reach the classifier's terms.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipoise.core.distributed import gather_rows, rank_of_process, world_size
from equipoise.core.reduction import reduce_losses
from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, Positive, SampleIndex, SampleWeight, Whole
from equipoise.multimodal.association.bank import BankedNegatives, NegativeBank
from equipoise.multimodal.association.identity_loss import (
    Margin,
    MarginKind,
    SharedIdentityClassifier,
    check_weight,
    identity_entropies,
)
from equipoise.multimodal.association.npair import check_modalities, cross_modal_npair_loss, multimodal_npair_loss


class _Alignment(nn.Module):
    """Settings and the classifier, and the parts of the loss of any number of modalities."""

    @checked
    def __init__(
        self,
        num_identities: Count,
        dim: Count,
        offset: NonNegative = 0.0,
        local_weight: NonNegative = 1.0,
        global_weight: NonNegative = 1.0,
        *,
        margin_kind: MarginKind = "none",
        margin: Margin = 0.2,
        scale: Positive = 30.0,
        gather: bool = False,
        seed: Whole = 0,
    ) -> None:
        super().__init__()
        if local_weight == global_weight == 0:
            raise ValueError("local_weight and global_weight are both 0, so that nothing would be trained")
        self.offset, self.local_weight, self.global_weight = offset, local_weight, global_weight
        self.margin_kind, self.margin, self.scale, self.gather = margin_kind, margin, scale, gather
        self.classifier = SharedIdentityClassifier(num_identities, dim, seed=seed)

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return f"offset={self.offset}, local_weight={self.local_weight}, global_weight={self.global_weight}"

    def _parts(
        self, embeddings: Sequence[Tensor], identity: Tensor, weight: Tensor | None, bank: BankedNegatives | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The weighted loss, and per sample the entropies (modalities, n) and the local losses (n,)."""
        check_weight(weight)
        entropies = identity_entropies(embeddings, self.classifier, identity, self.margin_kind, self.margin, self.scale)
        if bank is None:
            local = multimodal_npair_loss(embeddings, identity, self.offset, "none")
        else:
            local = cross_modal_npair_loss(embeddings[0], embeddings[1], identity, self.offset, "none", bank=bank)
        each = self.global_weight * entropies.sum(0) + self.local_weight * local
        return reduce_losses(each, weight=weight), entropies, local

    def _gathered(self, *tensors: Tensor | None) -> list[Tensor | None]:
        return [gather_rows(each) if self.gather and each is not None else each for each in tensors]

    def _own(self, count: int, device: torch.device) -> slice:
        """Where the rows of this process, so many, stand among those that were gathered."""
        if not self.gather or world_size() == 1:
            return slice(None)
        owners = gather_rows(torch.full((count,), rank_of_process(), device=device))
        first = int((owners < rank_of_process()).sum())
        return slice(first, first + count)


class TwoLevelAlignmentLoss(_Alignment):
    """The two-level loss of two modalities, with its classifier.

    Args:
        num_identities: K of the training set.
        dim: width of the embeddings.
        offset: as in `cross_modal_npair_loss`.
        local_weight: of the loss inside the batch.
        global_weight: of the classifier's terms.
        bank_size: rows of earlier batches that serve as negatives of the local loss too; they are kept in training
            mode, see `NegativeBank`.
        margin_kind: as in `shared_identity_loss`.
        margin: as in `shared_identity_loss`.
        scale: as in `shared_identity_loss`.
        gather: take the rows of all processes of torch.distributed; see `core.distributed`.
        seed: of the classifier's first weights.

    >>> generator = torch.Generator().manual_seed(0)
    >>> face, voice = torch.randn(8, 4, generator=generator), torch.randn(8, 4, generator=generator)
    >>> loss = TwoLevelAlignmentLoss(num_identities=20, dim=4)
    >>> parts = loss(face, voice, torch.arange(8))
    >>> sorted(parts)
    ['face_ce', 'local', 'loss', 'voice_ce']
    >>> parts["loss"].backward()
    """

    bank: NegativeBank | None

    @checked
    def __init__(
        self,
        num_identities: Count,
        dim: Count,
        offset: NonNegative = 0.0,
        local_weight: NonNegative = 1.0,
        global_weight: NonNegative = 1.0,
        *,
        bank_size: Whole = 0,
        margin_kind: MarginKind = "none",
        margin: Margin = 0.2,
        scale: Positive = 30.0,
        gather: bool = False,
        seed: Whole = 0,
    ) -> None:
        super().__init__(
            num_identities,
            dim,
            offset,
            local_weight,
            global_weight,
            margin_kind=margin_kind,
            margin=margin,
            scale=scale,
            gather=gather,
            seed=seed,
        )
        # The union has been gathered already when rows are pushed.
        self.bank = NegativeBank(bank_size, dim) if bank_size else None

    @checked
    def forward(
        self,
        face: Float[Tensor, "n d"],
        voice: Float[Tensor, "n d"],
        identity: SampleIndex,
        weight: SampleWeight | None = None,
    ) -> dict[str, Tensor]:
        """The loss and its parts.

        Args:
            face: (n, d) embeddings of one modality, not normalised.
            voice: (n, d) of the other.
            identity: (n,) in 0..K−1.
            weight: (n,) of the samples, for example of `IdentityReweighter.weight`.

        Returns:
            "loss", the scalar to train; "face_ce", "voice_ce" and "local", the unweighted losses (n,) of its parts,
            without gradient, of which `face_ce + voice_ce` is what `IdentityReweighter.observe` takes. The loss is
            that of the rows of all processes where these are gathered, and its parts those of the own rows.
        """
        own = self._own(len(face), face.device)
        face, voice, identity, weight = self._gathered(face, voice, identity, weight)  # type: ignore[assignment]
        bank = None if self.bank is None else self.bank.negatives()
        loss, entropies, local = self._parts([face, voice], identity, weight, bank)
        if self.bank is not None and self.training:
            self.bank.push(face, voice, identity)
        face_ce, voice_ce = entropies.detach()[:, own]
        return {"loss": loss, "face_ce": face_ce, "voice_ce": voice_ce, "local": local.detach()[own]}


class MultimodalAlignmentLoss(_Alignment):
    """The two-level loss of any number of modalities: all cross-entropies, and the local losses of all pairs.

    Args:
        num_identities: as in `TwoLevelAlignmentLoss`.
        dim: as in `TwoLevelAlignmentLoss`.
        offset: as in `TwoLevelAlignmentLoss`.
        local_weight: as in `TwoLevelAlignmentLoss`.
        global_weight: as in `TwoLevelAlignmentLoss`.
        margin_kind: as in `TwoLevelAlignmentLoss`.
        margin: as in `TwoLevelAlignmentLoss`.
        scale: as in `TwoLevelAlignmentLoss`.
        gather: as in `TwoLevelAlignmentLoss`.
        seed: as in `TwoLevelAlignmentLoss`.

    >>> loss = MultimodalAlignmentLoss(num_identities=5, dim=3)
    >>> parts = loss([torch.eye(3), 2 * torch.eye(3), -torch.eye(3)], torch.arange(3))
    >>> parts["ce"].shape, parts["local"].shape
    (torch.Size([3, 3]), torch.Size([3]))
    """

    @checked
    def forward(
        self,
        embeddings: Sequence[Float[Tensor, "n d"]],
        identity: SampleIndex,
        weight: SampleWeight | None = None,
    ) -> dict[str, Tensor]:
        """The loss and its parts.

        Args:
            embeddings: two or more (n, d), row i of each of the same thing.
            identity: (n,) in 0..K−1.
            weight: (n,) of the samples.

        Returns:
            "loss", the scalar to train; "ce" (modalities, n) and "local" (n,), unweighted and without gradient, of
            the own rows.
        """
        check_modalities(embeddings)
        own = self._own(len(identity), identity.device)
        *held, identity, weight = self._gathered(*embeddings, identity, weight)  # type: ignore[assignment]
        loss, entropies, local = self._parts(held, identity, weight)  # type: ignore[arg-type]
        return {"loss": loss, "ce": entropies.detach()[:, own], "local": local.detach()[own]}
