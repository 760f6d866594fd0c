"""A loss that pays a learner for what the other modalities do not know yet, in place of the label alone.

Of a sample with label y, p = softmax(logits) of the modality in training and q = softmax(other_logits) of the sum of
all others, which is held constant; w₁ weighs the label, w₂ the others:

    target    −(w₁ − w₂ q_y) log p_y            gradient (w₁ − w₂ q_y) (p − t)
    kl        −w₁ log p_y − w₂ KL(q ‖ p)        gradient (w₁ − w₂) p − (w₁ t − w₂ q)

where t is one at y and 0 elsewhere; with the class average both are divided by C. In the mode "target" what the others
already get right counts less, and what they miss counts w₁. For the first modality, when there are no others, q = 0 and
both are w₁ times the cross-entropy.

The mode "kl" is what the paper's figure shows: with w₁ = w₂ it is the cross-entropy to the residual t − q, which is the
negative gradient of the others' cross-entropy and the view of gradient boosting. It has no lower bound for any
w₂ > 0: a logit of a wrong class that goes to −∞ while q gives the class any probability lowers it for ever. So take it
with a small w₂, weight decay or bounded logits.

Hua et al., ReconBoost: Boosting Can Achieve Modality Reconcilement, ICML 2024; "target" as in the authors' code, "kl"
as in the overview figure of the paper, its lack of a bound and the first turn reconstructed.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import one_hot

from equipoise.core.reduction import Reduction, reduce_losses
from equipoise.core.signature import checked
from equipoise.core.types import ClassScores, ClassTarget, NonNegative

Mode: TypeAlias = Literal["target", "kl"]


@checked
def reconcilement_loss(
    logits: ClassScores,
    target: ClassTarget,
    other_logits: ClassScores | None = None,
    *,
    label_weight: NonNegative = 5.0,
    reconcile_weight: NonNegative = 1.0,
    mode: Mode = "target",
    class_average: bool = True,
    reduction: Reduction = "mean",
    allow_negative: bool = False,
) -> Float[Tensor, "*reduced"]:
    """The loss of one modality's logits beside what the other modalities predict.

    Args:
        logits: (n, C) of the modality in training.
        target: (n,) class indices.
        other_logits: (n, C), the sum over the other modalities times the boost rate; no gradient flows to it. None
            where there are no others yet.
        label_weight: w₁.
        reconcile_weight: w₂.
        mode: "target" or "kl", see the module.
        class_average: whether to divide by C, as the authors' code does. The usual weights and learning rates go
            with it.
        reduction: "mean" or "sum" over samples, or "none".
        allow_negative: whether w₂ may be above w₁ in the mode "target", so that the loss rewards wrong answers where
            the others are right.

    Returns:
        Scalar, or (n,) for "none".

    Raises:
        ValueError: if shapes differ, there are fewer than 2 classes or a label is none of them, a logit is not finite,
            a weight is negative, or w₁ < w₂ in the mode "target".

    >>> logits, others = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    >>> reconcilement_loss(logits, torch.tensor([1]), others), reconcilement_loss(logits, torch.tensor([0]), others)
    (tensor(1.4027), tensor(1.7164))
    """
    check_weights(label_weight, reconcile_weight, mode, allow_negative)
    log_p = logits.log_softmax(1)
    of_label = log_p.gather(1, target[:, None]).squeeze(1)
    if other_logits is None:
        losses = -label_weight * of_label
    else:
        log_q = other_logits.detach().log_softmax(1)
        if mode == "target":
            known = log_q.gather(1, target[:, None]).squeeze(1).exp()
            losses = (reconcile_weight * known - label_weight) * of_label
        else:
            divergence = (log_q.exp() * (log_q - log_p)).sum(1)
            losses = -label_weight * of_label - reconcile_weight * divergence
    return reduce_losses(losses / logits.shape[1] if class_average else losses, reduction)


class ReconcilementLoss(nn.Module):
    """`reconcilement_loss` with its settings.

    Args:
        label_weight: w₁; 5 for CREMA-D, 4 for AVE and ModelNet40, and 1 with a w₂ of .25 for the sets of sentiments.
        reconcile_weight: w₂.
        mode: "target" or "kl".
        class_average: whether to divide by C.
        reduction: "mean", "sum" or "none".
        allow_negative: whether w₂ may be above w₁ in the mode "target".

    Raises:
        ValueError: if a setting is out of range, or w₁ < w₂ in the mode "target".

    >>> ReconcilementLoss(1.0, 0.25, class_average=False)(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    tensor(0.6931)
    """

    @checked
    def __init__(
        self,
        label_weight: NonNegative = 5.0,
        reconcile_weight: NonNegative = 1.0,
        mode: Mode = "target",
        class_average: bool = True,
        reduction: Reduction = "mean",
        allow_negative: bool = False,
    ) -> None:
        super().__init__()
        check_weights(label_weight, reconcile_weight, mode, allow_negative)
        self.label_weight, self.reconcile_weight = label_weight, reconcile_weight
        self.mode, self.class_average, self.reduction = mode, class_average, reduction
        self.allow_negative = allow_negative

    @checked
    def forward(
        self, logits: ClassScores, target: ClassTarget, other_logits: ClassScores | None = None
    ) -> Float[Tensor, "*reduced"]:
        """The loss of logits (n, C), class indices (n,) and, if there are others, their logits (n, C)."""
        return reconcilement_loss(
            logits,
            target,
            other_logits,
            label_weight=self.label_weight,
            reconcile_weight=self.reconcile_weight,
            mode=self.mode,
            class_average=self.class_average,
            reduction=self.reduction,
            allow_negative=self.allow_negative,
        )

    def extra_repr(self) -> str:
        """The settings."""
        names = ("label_weight", "reconcile_weight", "mode", "class_average", "reduction", "allow_negative")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)


@checked
def residual_target(
    other_logits: ClassScores, target: ClassTarget, reconcile_weight: NonNegative = 1.0
) -> Float[Tensor, "n classes"]:
    """What the other modalities leave to be learned, t − λ softmax(other_logits).

    With λ = 1 it is the negative gradient of the others' cross-entropy with respect to their logits.

    Args:
        other_logits: (n, C), the sum over the other modalities times the boost rate; no gradient flows to it.
        target: (n,) class indices.
        reconcile_weight: λ.

    Returns:
        (n, C); its rows sum to 1 − λ.

    Raises:
        ValueError: if sizes differ, there are fewer than 2 classes or a label is none of them, a logit is not finite,
            or λ is negative.

    >>> residual_target(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    tensor([[-0.5000,  0.5000]])
    """
    probabilities = other_logits.detach().softmax(1)
    return one_hot(target, other_logits.shape[1]).to(probabilities) - reconcile_weight * probabilities


def check_weights(label_weight: float, reconcile_weight: float, mode: str, allow_negative: bool) -> None:
    """Raise `ValueError` where the loss would reward wrong answers."""
    if mode == "target" and label_weight < reconcile_weight and not allow_negative:
        raise ValueError(
            f"label_weight={label_weight:g} is below reconcile_weight={reconcile_weight:g}, which rewards wrong "
            "answers where the others are right; raise it, or pass allow_negative=True"
        )
