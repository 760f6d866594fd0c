"""A bound on how far a modality drifts from the one that was trained before it.

    L = α mean_{i,c} (softmax(logits)_{ic} − softmax(previous_logits)_{ic})²

with previous_logits held constant: those of the learner that was updated in the turn before.

Hua et al., ReconBoost, ICML 2024. The value is that of the authors' code; there both sides are held constant, so that
the term has no gradient and does nothing. Here the side in training has its gradient, as intended.
"""

from __future__ import annotations

from equipoise.core.signature import checked
from equipoise.core.types import ClassScores, NonNegative, Scalar


@checked
def memory_consolidation_loss(logits: ClassScores, previous_logits: ClassScores, alpha: NonNegative = 0.5) -> Scalar:
    """Mean square distance between the probabilities of two modalities, times α.

    Args:
        logits: (n, C) of the modality in training.
        previous_logits: (n, C) of the one trained before; no gradient flows to it.
        alpha: α.

    Raises:
        ValueError: if shapes differ, there are fewer than 2 classes, a logit is not finite, or α is negative.

    >>> memory_consolidation_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 50.0]]))
    tensor(0.1250)
    """
    if logits.shape[1] < 2:
        raise ValueError(f"logits must have at least 2 classes, got shape {tuple(logits.shape)}")
    return alpha * (logits.softmax(1) - previous_logits.detach().softmax(1)).square().mean()
