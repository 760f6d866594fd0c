"""AUC over the pixels of every pair of classes, so that a class counts the same whether it has many pixels or few.

    L = 1/(K (K − 1))  Σ_c Σ_{c' ≠ c}  1/(n_c n_c')  Σ_{m ∈ N_c} Σ_{n ∈ N_c'}  ℓ( f_c(m) − f_c(n) )

N_c are the valid pixels of class c in the batch, n_c their number, K the number of classes that are present, and f_c(m)
the score of pixel m for class c, by default the sigmoid of its logit. Both pixels of a pair are compared in column c,
so that (c, c') and (c', c) differ. One-vs-rest compares N_c with all other valid pixels. The mean over pairs of classes
keeps the size of the loss where classes come and go; the paper prints one-vs-one without it, its code has it. With
"half_square" (1/2 (γ − d)²) this is the loss of the authors' code; their one-vs-rest is a sum over classes
(`reduction="sum"` here), and their hinge lacks its clamp and part of its pairs and is not followed.

It is the multiclass AUC loss of `equipoise.ranking` on pixels, and is computed by the same code: see
`core.pairs.class_pairs` for why no pair is ever listed.

Han et al., "AUCSeg: AUC-oriented Pixel-level Long-tail Semantic Segmentation", NeurIPS 2024; code boyuh/AUCSeg.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from equipoise.core.pairs.class_pairs import Average, ClassPairs, Reduction, class_pair_loss, class_pair_losses
from equipoise.core.pairs.surrogates import Surrogate, exponential, hinge, linear, logistic, square, squared_hinge
from equipoise.core.signature import checked
from equipoise.core.types import Count, Positive, Scalar, Whole
from equipoise.core.validate import warn_once
from equipoise.dense.segmentation.labels import LabelMaps, Maps, RowLabels, Rows, flat_labels, resized

PixelSurrogate: TypeAlias = Literal[
    "square", "half_square", "hinge", "squared_hinge", "exponential", "logistic", "linear"
]
Activation: TypeAlias = Literal["sigmoid", "softmax"]

_SURROGATES: dict[str, tuple[Surrogate, float]] = {
    "half_square": (square, 0.5),
    **{each.name: (each, 1.0) for each in (square, hinge, squared_hinge, exponential, logistic, linear)},
}


@checked
def pixel_auc_loss(
    logits: Maps | Rows,
    target: LabelMaps | RowLabels,
    *,
    surrogate: PixelSurrogate = "half_square",
    average: Average = "ovo",
    margin: Positive = 1.0,
    activation: Activation | None = "sigmoid",
    ignore_index: int = 255,
    reduction: Reduction = "mean",
    classes: Sequence[Whole] | None = None,
    max_pixels_per_class: Count | None = None,
    generator: Generator | None = None,
    upsample: bool = False,
    gather: bool = False,
) -> Scalar:
    """Surrogate risk of the AUC over pixels of all pairs of classes.

    Args:
        logits: (B, C, H, W), or (N, C) for samples. One column is a binary problem in which label 1 is positive.
        target: (B, H, W) or (N,) class indices.
        surrogate: ℓ(d): "square" (γ − d)², "half_square" half of it, "hinge" max(0, γ − d), "squared_hinge" its
            square, "exponential" exp(−γ d), "logistic" log(1 + exp(−γ d)), "linear" γ − d. The squares, the
            exponential and the linear one take linear time, hinges sort, and the logistic one looks at every pair.
        average: "ovo" for pairs of classes, "ovr" for one class against the rest.
        margin: γ.
        activation: "sigmoid" or "softmax" of the logits, or None to rank them as they are.
        ignore_index: label of pixels that do not count.
        reduction: "mean" over pairs of classes (or classes) that exist, or their "sum".
        classes: rank these classes only, each against all others; every class if absent.
        max_pixels_per_class: so many pixels of each class at most, drawn by chance: an unbiased estimate of each pair
            of classes, for the surrogates that are slow.
        generator: of that draw; needed with `max_pixels_per_class`.
        upsample: bring the logits to the size of the label maps bilinearly first.
        gather: rank the pairs of all processes of torch.distributed; see `core.distributed`.

    Returns:
        The risk. With fewer than two classes it is zero, attached to the graph, and warned of once.

    Raises:
        ValueError: if shapes do not go together or a label is no class.

    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]]).T[None, :, None]
    >>> pixel_auc_loss(logits, torch.tensor([[[0, 1]]]), surrogate="linear")
    tensor(0.6941)
    """
    kind, factor = _SURROGATES[surrogate]
    pairs = _pairs(logits, target, activation, ignore_index, classes, upsample, gather)
    if max_pixels_per_class is not None:
        if generator is None:
            raise ValueError("generator is needed with max_pixels_per_class; pass torch.Generator().manual_seed(0)")
        pairs = _sampled(pairs, max_pixels_per_class, generator)
    totals = pairs.totals()
    if not bool(pairs.exists(totals).any()):
        held = int((totals > 0).sum())
        warn_once(f"the pixel AUC loss is zero on a batch of {held} class{'es' * (held != 1)} with no pair to rank")
    return factor * class_pair_loss(pairs, totals, kind, margin, average, reduction)


@checked
def pixel_auc_pair_losses(
    logits: Maps | Rows,
    target: LabelMaps | RowLabels,
    *,
    surrogate: PixelSurrogate = "half_square",
    margin: Positive = 1.0,
    activation: Activation | None = "sigmoid",
    ignore_index: int = 255,
    upsample: bool = False,
    gather: bool = False,
) -> Float[Tensor, "columns classes"]:
    """The loss of every ordered pair of classes, of which `pixel_auc_loss` is the mean: who is confused with whom.

    Args:
        logits: as in `pixel_auc_loss`.
        target: as in `pixel_auc_loss`.
        surrogate: as in `pixel_auc_loss`; hinges and the logistic one are computed pair by pair of classes.
        margin: γ.
        activation: as in `pixel_auc_loss`.
        ignore_index: label of pixels that do not count.
        upsample: as in `pixel_auc_loss`.
        gather: as in `pixel_auc_loss`.

    Returns:
        (C, C), row c of class c as the positive one, (1, 2) of one column; NaN where there is no such pair. Gradients
        flow back from every entry.

    Raises:
        ValueError: as `pixel_auc_loss`.

    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]]).T[None, :, None]
    >>> pixel_auc_pair_losses(logits, torch.tensor([[[0, 1]]]), surrogate="linear")
    tensor([[   nan, 0.6192],
            [0.7689,    nan]])
    """
    kind, factor = _SURROGATES[surrogate]
    pairs = _pairs(logits, target, activation, ignore_index, None, upsample, gather)
    return factor * class_pair_losses(pairs, pairs.totals(), kind, margin)


class PixelAUCLoss(nn.Module):
    """`pixel_auc_loss` as a module; add it to cross-entropy, or take `SegmentationAUCLoss`.

    Args:
        surrogate: as in `pixel_auc_loss`.
        average: as in `pixel_auc_loss`.
        margin: as in `pixel_auc_loss`.
        activation: as in `pixel_auc_loss`.
        ignore_index: as in `pixel_auc_loss`.
        reduction: as in `pixel_auc_loss`.
        classes: as in `pixel_auc_loss`.
        max_pixels_per_class: as in `pixel_auc_loss`; the draw of every call is another one, and saved with the state.
        upsample: as in `pixel_auc_loss`.
        seed: of the draws.
        gather: as in `pixel_auc_loss`.

    >>> generator = torch.Generator().manual_seed(0)
    >>> logits = torch.randn(2, 3, 8, 8, generator=generator).requires_grad_()
    >>> target = torch.randint(0, 3, (2, 8, 8), generator=generator)
    >>> PixelAUCLoss("hinge")(logits, target).backward()
    """

    @checked
    def __init__(
        self,
        surrogate: PixelSurrogate = "half_square",
        average: Average = "ovo",
        margin: Positive = 1.0,
        activation: Activation | None = "sigmoid",
        ignore_index: int = 255,
        reduction: Reduction = "mean",
        classes: Sequence[Whole] | None = None,
        max_pixels_per_class: Count | None = None,
        *,
        upsample: bool = False,
        seed: int = 0,
        gather: bool = False,
    ) -> None:
        super().__init__()
        self.surrogate, self.average, self.margin, self.activation = surrogate, average, margin, activation
        self.ignore_index, self.reduction, self.upsample, self.gather = ignore_index, reduction, upsample, gather
        self.classes = None if classes is None else tuple(classes)
        self.max_pixels_per_class, self.seed = max_pixels_per_class, seed
        self.draws: Tensor
        self.register_buffer("draws", torch.zeros((), dtype=torch.long))

    @checked
    def forward(self, logits: Maps | Rows, target: LabelMaps | RowLabels) -> Scalar:
        """The risk of logits (B, C, H, W) by label maps (B, H, W), or of (N, C) by (N,)."""
        generator = None
        if self.max_pixels_per_class is not None:
            generator = Generator().manual_seed((self.seed << 32) + int(self.draws))
            self.draws += 1
        return pixel_auc_loss(
            logits,
            target,
            surrogate=self.surrogate,
            average=self.average,
            margin=self.margin,
            activation=self.activation,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            classes=self.classes,
            max_pixels_per_class=self.max_pixels_per_class,
            generator=generator,
            upsample=self.upsample,
            gather=self.gather,
        )

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return (
            f"surrogate={self.surrogate}, average={self.average}, margin={self.margin}, activation={self.activation}, "
            f"ignore_index={self.ignore_index}"
        )


def _pairs(
    logits: Tensor,
    target: Tensor,
    activation: Activation | None,
    ignore_index: int,
    classes: Sequence[int] | None,
    upsample: bool,
    gather: bool,
) -> ClassPairs:
    planes, labels, number = flat_labels(resized(logits, target, upsample), target, ignore_index)
    columns = planes.shape[1]
    if columns == 0:
        raise ValueError(f"logits have no column of scores, their shape is {tuple(logits.shape)}")
    if activation == "softmax":
        if columns == 1:
            raise ValueError("activation='softmax' of one column is always 1; pass 'sigmoid' or None for binary logits")
        planes = planes.softmax(1)
    chosen = None
    if classes is not None:
        if columns == 1:
            raise ValueError("classes is for logits of several columns; one column has one class to rank")
        wrong = [k for k in classes if k >= columns]
        if wrong or not classes or len(set(classes)) < len(classes):
            raise ValueError(f"classes={tuple(classes)} must be distinct class indices from 0 to {columns - 1}")
        chosen = torch.zeros(columns, dtype=torch.bool, device=planes.device)
        chosen[list(classes)] = True
    return ClassPairs(planes, labels, number, squash=activation == "sigmoid", chosen=chosen, gather=gather)


def _sampled(pairs: ClassPairs, most: int, generator: Generator) -> ClassPairs:
    """At most so many pixels of each class, drawn without replacement, as one image."""
    labels = pairs.labels.reshape(-1)
    mixed = torch.randperm(len(labels), generator=generator).to(labels.device)
    order = mixed[labels[mixed].argsort(stable=True)]
    counts = torch.bincount(labels, minlength=pairs.classes + 1)
    place = torch.arange(len(labels), device=labels.device) - (counts.cumsum(0) - counts)[labels[order]]
    kept = order[(place < most) & (labels[order] < pairs.classes)]
    planes = pairs.planes.transpose(0, 1).flatten(1).index_select(1, kept)
    return ClassPairs(
        planes[None],
        labels[kept][None],
        pairs.classes,
        squash=pairs.squash,
        chosen=pairs.chosen,
        gather=pairs.gather,
    )
