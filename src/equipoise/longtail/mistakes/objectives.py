"""Three objectives for a rare event: weights for the errors, order for the scores, a balanced posterior.

    re-weighted CE   Σ_i w_{y_i} CE(z_i, y_i) / Σ_i w_{y_i}            w_c = N / (C n_c), or effective numbers
    AUC square       mean over pairs of (m − (s_p − s_n))²             s the probability of the class, in O(B)
    logit-adjusted   CE(z + τ log π, y)                                the offset is for training only

The square surrogate factors into means, so no pair is built: with μ± and q± the first and second moments of the scores
of the positives and negatives, L = m² − 2 m (μ⁺ − μ⁻) + q⁺ + q⁻ − 2 μ⁺ μ⁻.

"Dual-Stage Reweighted MoE for Long-Tailed Egocentric Mistake Detection", arXiv 2509.12990, and "Understanding-Enhanced
Model Collaboration", arXiv 2606.02120, name the three objectives. Neither report gives formulas: the weights, the
square surrogate on probabilities and τ = 1 are a reconstruction. That the three go together on one vector of logits
(`ComplementaryObjective`) is reconstructed too, and a compromise: one asks for balanced posteriors, one for weighted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipoise.core.arrays import as_tensor
from equipoise.core.class_stats import ClassStats
from equipoise.core.pairs.loss import columnwise_pairwise_loss, pairwise_loss, split_classes
from equipoise.core.reduction import Reduction, attached_zero
from equipoise.core.signature import checked
from equipoise.core.types import ClassScores, ClassTarget, NonNegative, Positive, ProperFraction, Scalar, Scores
from equipoise.core.validate import warn_once
from equipoise.longtail.reweighting.class_dependent import vs_loss

Scheme: TypeAlias = Literal["inverse", "effective"]
"""Of class weights: N / (C n_c), or by effective numbers."""


def mistake_counts(class_counts: Any) -> ClassStats:
    """`ClassStats.of`, with a message that fits a training set without the rare event.

    Raises:
        ValueError: if a class has no sample, or counts are not whole numbers.
    """
    if not isinstance(class_counts, ClassStats):
        values = as_tensor(class_counts)
        if values.ndim == 1 and len(values) == 2 and float(values[1]) == 0:
            raise ValueError("no mistake sample in training: class_counts[1] is 0; a detector needs at least one")
    return ClassStats.of(class_counts)


@checked
def class_weights(
    class_counts: Any, scheme: Scheme = "inverse", beta: ProperFraction | None = None
) -> Float[Tensor, " C"]:
    """Weights by class, float64.

    Args:
        class_counts: training samples per class.
        scheme: "inverse" for N / (C n_c), whose mean over the training set is 1; "effective" for effective numbers,
            scaled to sum to C.
        beta: of the effective numbers, in [0, 1); 0.9999 if absent.

    >>> class_weights([950, 50])
    tensor([ 0.5263, 10.0000], dtype=torch.float64)
    """
    stats = mistake_counts(class_counts)
    if scheme == "effective":
        return stats.effective_number_weights(0.9999 if beta is None else beta)
    return stats.counts.sum() / (stats.num_classes * stats.counts.double())


@checked
def reweighted_ce(
    logits: ClassScores,
    target: ClassTarget,
    class_counts: Any,
    *,
    scheme: Scheme = "inverse",
    beta: ProperFraction | None = None,
    reduction: Reduction = "mean",
) -> Float[Tensor, ""] | Float[Tensor, " n"]:
    """Cross-entropy weighted by class: `vs_loss` with `class_weights`; the mean divides by the weights of the batch.

    Args:
        logits: (n, C).
        target: class indices (n,).
        class_counts: training samples per class.
        scheme: as in `class_weights`.
        beta: as in `class_weights`.
        reduction: "mean" (weighted), "sum" or "none".

    >>> reweighted_ce(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]), [3, 1])
    tensor(0.5982)
    """
    return vs_loss(
        logits, target, weight=_fitting(class_weights(class_counts, scheme, beta), logits), reduction=reduction
    )


@checked
def logit_adjusted_loss(
    logits: ClassScores, target: ClassTarget, class_counts: Any, *, tau: NonNegative = 1.0
) -> Scalar:
    """Cross-entropy of logits moved by τ log π, `vs_loss` with that offset; predict with the logits as they are.

    Args:
        logits: (n, C).
        target: class indices (n,).
        class_counts: training samples per class.
        tau: strength, at least 0; 0 is plain cross-entropy.

    >>> logit_adjusted_loss(torch.zeros(1, 2), torch.tensor([1]), [3, 1])
    tensor(1.3863)
    """
    return vs_loss(logits, target, offset=_fitting(tau * mistake_counts(class_counts).log_prior, logits))


@checked
def binary_auc_square_loss(score: Scores | ClassScores, target: ClassTarget, margin: Positive = 1.0) -> Scalar:
    """Mean of (margin − (s_p − s_n))² over all pairs of a positive and a negative, in O(n).

    Args:
        score: (n,) scores of the positive class, probabilities for the margin of 1; or (n, C), one vs rest, averaged
            over the classes that the batch has.
        target: (n,) in {0, 1}, or class indices.
        margin: wanted difference, above 0.

    Returns:
        The loss; zero, still attached to the graph, when the batch has one class only (warned once).

    >>> binary_auc_square_loss(torch.tensor([0.9, 0.2, 0.6]), torch.tensor([1, 0, 0]))
    tensor(0.2900)
    """
    wide = score.ndim == 2
    if wide:
        present = torch.zeros(score.shape[1], dtype=torch.bool, device=score.device)
        present[target] = True
        lacks = int(present.sum()) < 2
    else:
        if int(target.max()) > 1:
            raise ValueError(f"target holds {int(target.max())}, wanted 0 or 1 for scores (n,)")
        lacks = bool((target == target[0]).all())
    if lacks:
        warn_once("the AUC square loss of a batch with one class is zero; use StratifiedBatchSampler")
        return attached_zero(score)
    if not wide:
        return pairwise_loss(*split_classes(score, target == 1), "square", margin)
    one = torch.nn.functional.one_hot(target, score.shape[1]).to(score)
    return columnwise_pairwise_loss(score, one, 1 - one, "square", margin)[present].mean()


class BinaryAUCSquareLoss(nn.Module):
    """`binary_auc_square_loss` of the probabilities of logits.

    Args:
        margin: wanted difference of probabilities.

    Logits of shape (n,) go through the sigmoid, (n, 2) through softmax to the probability of class 1, wider ones to
    all probabilities, one vs rest.

    >>> x, y = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)), (torch.arange(200) < 12).long()
    >>> x = x + y[:, None]
    >>> model, loss = torch.nn.Linear(2, 2), BinaryAUCSquareLoss()
    >>> optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    >>> start = loss(model(x), y).item()
    >>> for _ in range(30):
    ...     optimizer.zero_grad()
    ...     loss(model(x), y).backward()
    ...     optimizer.step()
    >>> loss(model(x), y).item() < start
    True
    """

    @checked
    def __init__(self, margin: Positive = 1.0) -> None:
        super().__init__()
        self.margin = margin

    @checked
    def forward(self, logits: Scores | ClassScores, target: ClassTarget) -> Scalar:
        """The loss of a batch."""
        if logits.ndim == 1:
            return binary_auc_square_loss(logits.sigmoid(), target, self.margin)
        prob = logits.softmax(1)
        return binary_auc_square_loss(prob[:, 1] if prob.shape[1] == 2 else prob, target, self.margin)

    def extra_repr(self) -> str:
        """The margin."""
        return f"margin={self.margin:g}"


class ComplementaryObjective(nn.Module):
    """c₁ re-weighted CE + c₂ AUC square + c₃ logit-adjusted CE, on one vector of logits or on one each.

    Reconstructed: that a branch gets all three, and the equal weights, are not from the report.

    Args:
        class_counts: training samples per class.
        weights: c₁, c₂, c₃; not negative, not all zero.
        tau: of the logit adjustment.
        scheme: of the class weights, as in `class_weights`.
        beta: likewise.
        heads: "shared", one tensor of logits for all three; "separate", a sequence of three.

    Attributes:
        parts: the three losses of the last batch, unweighted and detached.

    Raises:
        ValueError: on counts below 1, bad weights, an unknown scheme or `heads`.

    >>> objective = ComplementaryObjective([90, 10])
    >>> model = torch.nn.Linear(2, 2)
    >>> x, y = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)), (torch.arange(50) < 5).long()
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> start = objective(model(x), y).item()
    >>> for _ in range(20):
    ...     optimizer.zero_grad()
    ...     objective(model(x), y).backward()
    ...     optimizer.step()
    >>> objective(model(x), y).item() < start
    True
    """

    parts: Tensor

    @checked
    def __init__(
        self,
        class_counts: Any,
        weights: Sequence[NonNegative] = (1.0, 1.0, 1.0),
        tau: NonNegative = 1.0,
        *,
        scheme: Scheme = "inverse",
        beta: ProperFraction | None = None,
        heads: Literal["shared", "separate"] = "shared",
    ) -> None:
        super().__init__()
        self.stats = mistake_counts(class_counts)
        self.weights = checked_weights(weights, 3)
        self.tau, self.scheme, self.beta, self.heads = tau, scheme, beta, heads
        self.auc = BinaryAUCSquareLoss()
        self.register_buffer("parts", torch.zeros(3), persistent=False)

    def forward(self, logits: Tensor | Sequence[Tensor], target: ClassTarget) -> Scalar:
        """The weighted sum of the three; an objective of weight 0 is still measured in `parts`.

        Raises:
            ValueError: on logits or targets of the wrong kind, or one tensor where `heads="separate"`.
        """
        if self.heads == "separate":
            if isinstance(logits, Tensor) or len(logits) != 3:
                raise ValueError(
                    'heads="separate" needs three tensors of logits, one for each objective; pass a sequence or use '
                    'heads="shared"'
                )
            first, second, third = logits
        elif isinstance(logits, Tensor):
            first = second = third = logits
        else:
            raise ValueError('heads="shared" needs one tensor of logits; for one each use heads="separate"')
        losses = torch.stack(
            [
                reweighted_ce(first, target, self.stats, scheme=self.scheme, beta=self.beta),
                self.auc(second, target),
                logit_adjusted_loss(third, target, self.stats, tau=self.tau),
            ]
        )
        self.parts = losses.detach()
        return (losses * losses.new_tensor(self.weights)).sum()


def checked_weights(weights: Sequence[float], wanted: int) -> tuple[float, ...]:
    """Weights of objectives; `ValueError` if there is another number of them, or all are zero."""
    values = tuple(weights)
    if len(values) != wanted:
        raise ValueError(f"weights needs {wanted} numbers, one for each objective, got {len(values)}")
    if not any(values):
        raise ValueError("weights are all zero, so nothing would be learned; give one objective a weight above 0")
    return values


def _fitting(constants: Tensor, logits: Tensor) -> Tensor:
    if len(constants) != logits.shape[1]:
        raise ValueError(f"class_counts has {len(constants)} classes, logits have {logits.shape[1]} columns")
    return constants
