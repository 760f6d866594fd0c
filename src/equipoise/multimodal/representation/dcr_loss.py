"""A contrast among a denoiser's predictions: an image encoder sees detail without losing its classes.

A frozen denoiser is conditioned on the embedding of an image. Reconstruction alone adds detail to the embedding and
lets go of classes; a contrast of embeddings pulls the other way. Here one loss does both, in the space of predictions:
the prediction for a noisy image under its own condition agrees with the true target and with the prediction under an
augmented view's condition, and not with those of the same noisy image under other images' conditions.

    a_i = hat(pred_ii),  s+_i = a_i · hat(plus_i) / τ,   sg_i = a_i · hat(target_i) / τ,   s_ik = a_i · hat(pred_ik) / τ
    L_i = log(e^{s+_i} + e^{sg_i} + Σ_{k≠i} e^{s_ik}) − w s+_i − (1 − w) sg_i          hat: divided by the norm,  w = ½

which is the mean of two InfoNCE terms with one denominator that holds both positives; it is at least log 2. Where both
positives agree and the denominators are separate, each positive meets the negatives only and the bound is 0.

"Guiding Diffusion-based Reconstruction with Contrastive Signals for Balanced Visual Representation", CVPR 2026. The
loss and τ = .1 as in the authors' code, whose target is v beside a denoiser that predicts noise; here it is whatever
the denoiser predicts. Reconstructed: separate denominators and the correction of sampled negatives.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from equipoise.core.contrastive import inverse_norms, table_info_nce
from equipoise.core.reduction import Reduction, reduce_losses
from equipoise.core.signature import checked
from equipoise.core.types import Positive, Probability
from equipoise.core.validate import warn_once


@checked
def dcr_loss(
    pred: Float[Tensor, "b b *n"],
    pred_augmented: Float[Tensor, " b *n"],
    target: Float[Tensor, " b *n"],
    temperature: Positive = 0.1,
    ids: Integer[Tensor, " b"] | Bool[Tensor, " b"] | None = None,
    reduction: Reduction = "mean",
    *,
    detach_negatives: bool = False,
    separate_denominators: bool = False,
    augmented_weight: Probability = 0.5,
) -> Float[Tensor, "*r"]:
    """The loss of a batch whose predictions are all there; `dcr_grid_loss` makes them a few rows at a time.

    Args:
        pred: (B, B, ...), pred[i, k] is the denoiser's prediction for noisy image i under the condition of image k.
        pred_augmented: (B, ...) for noisy image i under the condition of its augmented view.
        target: (B, ...) what the denoiser is trained to predict: noise, v or the clean image; no gradient flows to it.
        temperature: τ.
        ids: (B,) the same for images that are the same, which are no negatives of each other.
        reduction: "mean", "sum" or "none".
        detach_negatives: let no gradient into the predictions under other images' conditions.
        separate_denominators: each positive against the negatives alone.
        augmented_weight: w of the augmented view, 1 − w of the target.

    Returns:
        A scalar, or (B,); float32 for half precision. A prediction of norm zero has cosine 0 and no gradient.

    Raises:
        ValueError: on shapes that disagree, predictions that are not finite, or a setting out of range.

    Without a negative (one image, or all the same) the positives are all there is, with a warning.

    >>> pred = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]])
    >>> same = torch.eye(2)
    >>> dcr_loss(pred, same, same, temperature=1.0, reduction="none")
    tensor([0.8620, 0.8620])
    """
    size = len(pred)
    flat = pred.reshape(size, size, -1)
    place = torch.arange(size, device=pred.device)
    # Row i without its own column: 0..i − 1, i + 1..B − 1.
    others = place[: size - 1].expand(size, -1)
    others = others + (others >= place[:, None]).long()
    negatives = flat[place[:, None], others]
    losses = row_losses(
        flat[place, place],
        negatives.detach() if detach_negatives else negatives,
        pred_augmented.reshape(size, -1),
        target.reshape(size, -1),
        excluded=None if ids is None else ids[:, None] == ids[others],
        temperature=temperature,
        separate_denominators=separate_denominators,
        augmented_weight=augmented_weight,
    )
    return reduce_losses(losses, reduction)


def row_losses(
    anchor: Float[Tensor, "r n"],
    negatives: Float[Tensor, "r m n"],
    augmented: Float[Tensor, "r n"],
    target: Float[Tensor, "r n"],
    *,
    excluded: Bool[Tensor, "r m"] | None,
    temperature: float,
    separate_denominators: bool,
    augmented_weight: float,
    correction: Float[Tensor, " r"] | None = None,
) -> Float[Tensor, " r"]:
    """The losses of some anchors, each beside its own negatives.

    Args:
        anchor: (r, n) under the images' own conditions.
        negatives: (r, m, n) under others'; m may be 0.
        augmented: (r, n) under the augmented views'.
        target: (r, n).
        excluded: (r, m) which are no negatives.
        temperature: τ.
        separate_denominators: as in `dcr_loss`.
        augmented_weight: as in `dcr_loss`.
        correction: (r,) added to the scores of the negatives: the logarithm of how many each stands for.
    """
    if excluded is None:
        excluded = torch.zeros(negatives.shape[:2], dtype=torch.bool, device=anchor.device)
    if not torch.compiler.is_compiling() and bool(excluded.all()):
        warn_once(
            "no image has a negative, so that the loss only pulls at the positives; use a batch of more images, or ids "
            "that differ"
        )
    rows, count = excluded.shape
    both = torch.promote_types(anchor.dtype, torch.float32)
    anchor, augmented = (_unit(each.to(both)) for each in (anchor, augmented))
    target, negatives = _unit(target.detach().to(both)), negatives.to(both)
    with torch.autocast(anchor.device.type, enabled=False):
        against = torch.einsum("rn,rmn->rm", anchor, negatives)
    # One product, then the norms: divided copies of all predictions would take twice the memory.
    if count:
        against = against * inverse_norms(negatives.reshape(rows * count, -1)).reshape(rows, count)
    against = against / temperature
    if correction is not None:
        against = against + correction.to(both)[:, None]
    positives = torch.stack([(anchor * augmented).sum(1), (anchor * target).sum(1)], 1) / temperature
    scores = torch.cat([positives, against], 1)
    left_out = torch.cat([torch.zeros_like(excluded[:, :1]).expand(-1, 2), excluded], 1) if count else None
    if left_out is None:
        left_out = torch.zeros(rows, 2, dtype=torch.bool, device=anchor.device)
    weights = scores.new_tensor([augmented_weight, 1 - augmented_weight])
    columns = torch.arange(2, device=anchor.device).expand(rows, 2)
    if not separate_denominators:
        return table_info_nce(scores, columns, excluded=left_out, positive_weight=weights)
    total = scores.new_zeros(rows)
    for mine in (0, 1):
        without = left_out.clone()
        without[:, 1 - mine] = True
        total = total + weights[mine] * table_info_nce(scores, columns[:, mine], excluded=without)
    return total


def _unit(rows: Tensor) -> Tensor:
    return rows * inverse_norms(rows)[:, None]


class DCRLoss(nn.Module):
    """`dcr_loss` with its settings.

    Args:
        temperature: τ.
        reduction: "mean", "sum" or "none".
        detach_negatives: as in `dcr_loss`.
        separate_denominators: as in `dcr_loss`.
        augmented_weight: as in `dcr_loss`.

    Raises:
        ValueError: if a setting is out of range.

    >>> pred = torch.randn(4, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> DCRLoss()(pred, pred[:, 0], pred[:, 1]).shape
    torch.Size([])
    """

    @checked
    def __init__(
        self,
        temperature: Positive = 0.1,
        reduction: Reduction = "mean",
        *,
        detach_negatives: bool = False,
        separate_denominators: bool = False,
        augmented_weight: Probability = 0.5,
    ) -> None:
        super().__init__()
        self.temperature, self.reduction = temperature, reduction
        self.detach_negatives, self.separate_denominators = detach_negatives, separate_denominators
        self.augmented_weight = augmented_weight

    @checked
    def forward(
        self,
        pred: Float[Tensor, "b b *n"],
        pred_augmented: Float[Tensor, " b *n"],
        target: Float[Tensor, " b *n"],
        ids: Integer[Tensor, " b"] | Bool[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "*r"]:
        """The loss of predictions (B, B, ...), those of augmented views (B, ...) and targets (B, ...)."""
        return dcr_loss(
            pred,
            pred_augmented,
            target,
            self.temperature,
            ids,
            self.reduction,
            detach_negatives=self.detach_negatives,
            separate_denominators=self.separate_denominators,
            augmented_weight=self.augmented_weight,
        )

    def extra_repr(self) -> str:
        """The settings."""
        return (
            f"temperature={self.temperature}, reduction={self.reduction!r}, detach_negatives={self.detach_negatives}, "
            f"separate_denominators={self.separate_denominators}, augmented_weight={self.augmented_weight}"
        )
