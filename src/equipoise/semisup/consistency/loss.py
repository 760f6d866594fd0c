"""The worst-case consistency loss: of several strong views of a sample, only the most inconsistent one counts.

    q = softmax(weak / T)   c = max_j q_j   ŷ = argmax_j q_j   m = 1[c ≥ τ]
    L = 1/B Σ_i m_i max_k D(q_i, p_ki)      p = softmax(strong)

    ce_hard   −log p_ŷ                      pseudo-labels, as in FixMatch
    ce_soft   −Σ_j q_j log p_j
    kl        Σ_j q_j (log q_j − log p_j)   as in UDA
    mse       mean_j (q_j − p_j)²           as in Mean Teacher

The mean is over all samples, confident or not. The gradient flows through the chosen view alone, the first of equal
ones, and never through q, ŷ and m. With one view it is FixMatch's loss; `aggregate="mean"` is average consistency.

Jiang et al., Semi-Supervised Learning with Worst-Case Consistency, TPAMI 2022; "ce_hard" as in the authors' code, the
other divergences reconstructed.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from equipoise.core.reduction import attached_zero
from equipoise.core.signature import checked
from equipoise.core.types import MayBeEmpty, Positive, Probability, Range, Scalar
from equipoise.core.validate import warn_once

Divergence: TypeAlias = Literal["ce_hard", "ce_soft", "kl", "mse"]
Aggregate: TypeAlias = Literal["max", "mean"]
WeakLogits: TypeAlias = Annotated[Float[Tensor, "n classes *places"], MayBeEmpty()]
StrongLogits: TypeAlias = Annotated[Float[Tensor, "..."], MayBeEmpty()]
"""(K, n, C, ...), which `consistency_terms` checks against the weak ones, since a forgotten K deserves a hint."""
SampleMask: TypeAlias = Annotated[Bool[Tensor, " n *places"], MayBeEmpty()]
Threshold: TypeAlias = Probability | Annotated[Float[Tensor, " classes"], Range(0, 1)]


class ConsistencyTerms(NamedTuple):
    """The loss and what it is made of; shapes have the places of a dense prediction at their end.

    Attributes:
        loss: scalar.
        mask: (n,) whether a sample is confident.
        pseudo_label: (n,) ŷ.
        worst_index: (n,) the view of the largest divergence, from 0, the first of equal ones.
        per_variant_loss: (K, n) divergences, confident or not.
    """

    loss: Tensor
    mask: Tensor
    pseudo_label: Tensor
    worst_index: Tensor
    per_variant_loss: Tensor

    def statistics(self) -> dict[str, float]:
        """Numbers to log: the share of confident samples, and of these how far the worst view is above the mean one
        and which view it is, by shares `worst_is_1`, `worst_is_2`, …; NaN where none is confident.
        """
        losses = self.per_variant_loss.detach()[:, self.mask]
        gap = losses.amax(0).mean() - losses.mean() if losses.numel() else losses.new_tensor(torch.nan)
        counts = torch.bincount(self.worst_index[self.mask], minlength=len(losses)).double()
        shares = counts / counts.sum()
        return {
            "mask_rate": float(self.mask.double().mean()),
            "gap": float(gap),
            **{f"worst_is_{k}": share for k, share in enumerate(shares.tolist(), 1)},
        }


@checked
def confidence_mask(weak_logits: WeakLogits, threshold: Threshold = 0.95, temperature: Positive = 1.0) -> SampleMask:
    """Samples whose largest probability reaches the threshold.

    Args:
        weak_logits: (n, C, ...).
        threshold: τ in [0, 1], or one for each class, (C,), looked up by the predicted class as FlexMatch does.
        temperature: divides the logits.

    >>> confidence_mask(torch.tensor([[0.0, 0.0], [0.0, 3.0]]), 0.6)
    tensor([False,  True])
    """
    confidence, label = _probabilities(weak_logits.detach(), temperature).max(1)
    if isinstance(threshold, Tensor):
        threshold = threshold.to(confidence)[label]
    return confidence >= threshold


@checked
def consistency_terms(
    weak_logits: WeakLogits,
    strong_logits: StrongLogits,
    *,
    threshold: Threshold = 0.95,
    aggregate: Aggregate = "max",
    divergence: Divergence = "ce_hard",
    temperature: Positive = 1.0,
    confidence_temperature: Positive | None = None,
    mask: SampleMask | None = None,
) -> ConsistencyTerms:
    """The loss of `worst_case_consistency_loss`, which has the arguments, with its parts.

    >>> weak, strong = torch.tensor([[0.0, 3.0]]), torch.tensor([[[0.0, 2.0]], [[1.0, 0.0]]])
    >>> terms = consistency_terms(weak, strong)
    >>> terms.mask.tolist(), terms.worst_index.tolist(), round(terms.loss.item(), 4)
    ([True], [1], 1.3133)
    """
    _check_shapes(weak_logits, strong_logits)
    weak = weak_logits.detach()
    if mask is None:
        mask = confidence_mask(weak, threshold, confidence_temperature or temperature)
    # The order of logits, which rounding in the softmax would turn into ties.
    label = weak.argmax(1)
    losses = _divergences(weak, label, strong_logits, divergence, temperature)
    worst = losses.detach().argmax(0)
    if not mask.numel():
        warn_once("worst_case_consistency_loss got no samples; the loss is 0")
        return ConsistencyTerms(attached_zero(strong_logits), mask, label, worst, losses)
    # A gather, because amax would split the gradient among equal views.
    chosen = losses.gather(0, worst[None])[0] if aggregate == "max" else losses.mean(0)
    loss = chosen.masked_fill(~mask, 0.0).sum() / mask.numel()
    return ConsistencyTerms(loss, mask, label, worst, losses)


@checked
def worst_case_consistency_loss(
    weak_logits: WeakLogits,
    strong_logits: StrongLogits,
    *,
    threshold: Threshold = 0.95,
    aggregate: Aggregate = "max",
    divergence: Divergence = "ce_hard",
    temperature: Positive = 1.0,
    confidence_temperature: Positive | None = None,
    mask: SampleMask | None = None,
) -> Scalar:
    """The largest divergence from the weak view's prediction over K strong views, averaged over all samples.

    Args:
        weak_logits: (n, C), or (n, C, H, W) of a dense prediction, whose pixels are samples; no gradient flows to it.
        strong_logits: (K, n, C, ...); a single view has K = 1.
        threshold: τ in [0, 1], or one for each class, (C,); a sample counts if its confidence reaches it.
        aggregate: "max" over the views, or "mean".
        divergence: "ce_hard", "ce_soft", "kl" or "mse", see the module.
        temperature: T of q, above 0.
        confidence_temperature: of the probabilities that are held against the threshold; None for T. UDA, which
            sharpens its targets, has 1.
        mask: (n, ...) which samples count, in place of the threshold.

    Returns:
        Scalar; 0 with gradient 0 where no sample is confident, and with one warning where there is none.

    Raises:
        ValueError: if the shapes disagree, there are no views or fewer than 2 classes, or a setting is out of range.

    >>> weak, strong = torch.tensor([[0.0, 3.0]]), torch.tensor([[[0.0, 2.0]], [[1.0, 0.0]]])
    >>> worst_case_consistency_loss(weak, strong), worst_case_consistency_loss(weak, strong, aggregate="mean")
    (tensor(1.3133), tensor(0.7201))
    """
    return consistency_terms(
        weak_logits,
        strong_logits,
        threshold=threshold,
        aggregate=aggregate,
        divergence=divergence,
        temperature=temperature,
        confidence_temperature=confidence_temperature,
        mask=mask,
    ).loss


class WorstCaseConsistencyLoss(nn.Module):
    """`worst_case_consistency_loss` with its settings.

    Args:
        threshold: τ in [0, 1], or one for each class, (C,).
        aggregate: "max" or "mean".
        divergence: "ce_hard", "ce_soft", "kl" or "mse".
        temperature: T of the targets.
        confidence_temperature: of the confidence; None for T.

    Raises:
        ValueError: if a setting is out of range.

    >>> WorstCaseConsistencyLoss(threshold=0.7)(torch.tensor([[0.0, 3.0]]), torch.tensor([[[0.0, 2.0]]]))
    tensor(0.1269)
    """

    @checked
    def __init__(
        self,
        threshold: Threshold = 0.95,
        aggregate: Aggregate = "max",
        divergence: Divergence = "ce_hard",
        temperature: Positive = 1.0,
        confidence_temperature: Positive | None = None,
    ) -> None:
        super().__init__()
        self.threshold, self.aggregate, self.divergence = threshold, aggregate, divergence
        self.temperature, self.confidence_temperature = temperature, confidence_temperature

    @checked
    def forward(
        self,
        weak_logits: WeakLogits,
        strong_logits: StrongLogits,
        mask: SampleMask | None = None,
    ) -> Scalar:
        """The loss of weak logits (n, C, ...) and strong logits (K, n, C, ...)."""
        return self.terms(weak_logits, strong_logits, mask).loss

    @checked
    def terms(
        self,
        weak_logits: WeakLogits,
        strong_logits: StrongLogits,
        mask: SampleMask | None = None,
    ) -> ConsistencyTerms:
        """The loss with its parts; arguments as in `forward`."""
        return consistency_terms(
            weak_logits,
            strong_logits,
            threshold=self.threshold,
            aggregate=self.aggregate,
            divergence=self.divergence,
            temperature=self.temperature,
            confidence_temperature=self.confidence_temperature,
            mask=mask,
        )

    @checked
    def confident(self, weak_logits: WeakLogits) -> SampleMask:
        """Samples that count, (n, ...)."""
        return confidence_mask(weak_logits, self.threshold, self.confidence_temperature or self.temperature)

    def extra_repr(self) -> str:
        """The settings."""
        names = ("threshold", "aggregate", "divergence", "temperature", "confidence_temperature")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)


def _check_shapes(weak: Tensor, strong: Tensor) -> None:
    if strong.shape == weak.shape:
        raise ValueError(
            f"strong_logits must have shape (variants, n, classes), got {tuple(strong.shape)}; write "
            "strong_logits.unsqueeze(0) for a single view"
        )
    if strong.shape[1:] != weak.shape:
        raise ValueError(
            f"strong_logits must have shape (variants, {', '.join(map(str, weak.shape))}) as weak_logits have, got "
            f"{tuple(strong.shape)}"
        )
    if not len(strong):
        raise ValueError(f"strong_logits has no views, its shape is {tuple(strong.shape)}; at least one is needed")
    if weak.shape[1] < 2:
        raise ValueError(f"weak_logits must have at least 2 classes, got shape {tuple(weak.shape)}")


def _probabilities(logits: Tensor, temperature: float) -> Tensor:
    # Small temperatures must not overflow.
    return ((logits - logits.amax(1, keepdim=True)) / temperature).softmax(1) if logits.numel() else logits


def _divergences(
    weak: Tensor, label: Tensor, strong: Tensor, divergence: Divergence, temperature: float
) -> Float[Tensor, "variants n *places"]:
    if divergence == "mse":
        return (_probabilities(weak, temperature) - strong.softmax(2)).square().mean(2)
    log_p = strong.log_softmax(2)
    if divergence == "ce_hard":
        return -log_p.gather(2, label[None, :, None].expand(len(strong), -1, -1, *label.shape[1:])).squeeze(2)
    q = _probabilities(weak, temperature)
    cross = -(q * log_p).sum(2)
    return cross if divergence == "ce_soft" else cross + q.xlogy(q).sum(1)
