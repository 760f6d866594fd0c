"""α-β-divergence inside three distillation losses for classifiers: standardised, transformed and decoupled logits.

    standardised   both rows of logits to mean 0 and standard deviation 1, then τ² D at temperature τ
    transformed    the teacher's distribution raised to a power l and renormalised, the student's as it is
    decoupled      τ² ( a KL of (p_y, 1 − p_y) + b D of the distributions over the other classes )

Sources: Sun et al., "Logit Standardization in Knowledge Distillation" (LSD); Zheng and Yang, "Knowledge Distillation
Based on Transformed Teacher Matching" (TTM, WTTM); Zhao et al., "Decoupled Knowledge Distillation" (DKD); with the
α-β-divergence in the place of the KL as in the code of Wang et al., ICML 2025. The weighted transformed form has no
counterpart in that code (reconstructed).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.token_divergence.families import AlphaBeta
from equipoise.core.types import ClassScores, ClassTarget, NonNegative, Positive, Probability, Real, Scalar
from equipoise.language.distillation.divergence_loss import token_divergence_loss


@checked
def standardized_ab_loss(
    student_logits: ClassScores,
    teacher_logits: ClassScores,
    alpha: Real = 0.9,
    beta: Real = 0.3,
    *,
    temperature: Positive = 2.0,
) -> Scalar:
    """α-β-divergence of standardised logits, so that the student need not match the teacher's scale.

    Args:
        student_logits: (n, C).
        teacher_logits: (n, C); no gradient.
        alpha: α.
        beta: β.
        temperature: τ of the standardised logits.

    Returns:
        The mean, times τ².

    Source: LSD with the settings of the α-β code.

    >>> student, teacher = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[5.0, 7.0, 9.0]])
    >>> standardized_ab_loss(student, teacher)
    tensor(0.)
    """
    return token_divergence_loss(
        _standardized(student_logits),
        _standardized(teacher_logits.detach()),
        AlphaBeta(alpha, beta),
        temperature=temperature,
        scale_by_T2=True,
    )


def _standardized(logits: Tensor) -> Tensor:
    return (logits - logits.mean(1, keepdim=True)) / (1e-7 + logits.std(1, keepdim=True))


@checked
def transformed_teacher_ab_loss(
    student_logits: ClassScores,
    teacher_logits: ClassScores,
    alpha: Real = 0.8,
    beta: Real = 0.3,
    *,
    exponent: Positive = 0.1,
    weighted: bool = False,
) -> Scalar:
    """α-β-divergence from a teacher raised to a power, the student at temperature 1.

    Args:
        student_logits: (n, C).
        teacher_logits: (n, C); no gradient.
        alpha: α.
        beta: β.
        exponent: l; softmax(z)^l renormalised is softmax(l z).
        weighted: weigh every row by Σ_k p_k^l, which is large where the teacher is uncertain (WTTM).

    Returns:
        The mean.

    Source: TTM with the settings of the α-β code.

    >>> student, teacher = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[0.0, 10.0, 20.0]])
    >>> transformed_teacher_ab_loss(student, teacher, exponent=0.1)
    tensor(0.)
    """
    teacher_logits = teacher_logits.detach()
    weight = torch.exp(exponent * teacher_logits.log_softmax(1)).sum(1) if weighted else None
    return token_divergence_loss(student_logits, exponent * teacher_logits, AlphaBeta(alpha, beta), weight=weight)


class DecoupledLoss(NamedTuple):
    """The decoupled loss and its parts.

    Attributes:
        total: the loss.
        target_class: τ² KL of the probability of the true class.
        other_classes: τ² D of the distributions over the other classes.
    """

    total: Tensor
    target_class: Tensor
    other_classes: Tensor


@checked
def decoupled_ab_loss(
    student_logits: ClassScores,
    teacher_logits: ClassScores,
    target: ClassTarget,
    alpha: Real = 0.8,
    beta: Real = 0.3,
    *,
    target_weight: NonNegative = 1.0,
    other_weight: NonNegative = 8.0,
    temperature: Positive = 4.0,
    warm_up: Probability = 1.0,
) -> DecoupledLoss:
    """Decoupled distillation with the α-β-divergence over the classes that are not the true one.

    Args:
        student_logits: (n, C).
        teacher_logits: (n, C); no gradient.
        target: (n,) class indices.
        alpha: α.
        beta: β.
        target_weight: a.
        other_weight: b.
        temperature: τ.
        warm_up: factor of the whole, min(epoch / warm-up epochs, 1) in the authors' runs.

    Returns:
        The loss and its two parts, which carry neither weights nor warm-up.

    Source: DKD with the settings of the α-β code.

    >>> student, teacher = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[2.0, 1.0, 0.0]])
    >>> decoupled_ab_loss(student, teacher, torch.tensor([0])).other_classes
    tensor(0.4634)
    """
    own = torch.nn.functional.one_hot(target, student_logits.shape[1]).bool()
    both = student_logits / temperature, teacher_logits.detach() / temperature
    rest = [z.masked_fill(own, -torch.inf) for z in both]
    binary = [torch.stack([z[own], others.logsumexp(1)], 1) for z, others in zip(both, rest, strict=True)]
    of_target = temperature**2 * token_divergence_loss(binary[0], binary[1], "forward_kl")
    of_others = temperature**2 * token_divergence_loss(rest[0], rest[1], AlphaBeta(alpha, beta))
    return DecoupledLoss(warm_up * (target_weight * of_target + other_weight * of_others), of_target, of_others)
