"""How much of a token's loss is the teacher's distribution and how much its token, by how sure the teacher is.

λ(s) is the weight of the soft label in context s, 1 − λ(s) that of the hard one. Where the teacher is sure, a wrong
token may ruin what follows, and hard labels sharpen the student there; where many tokens will do, soft labels keep
them alive. All weights lie in [0, 1] and carry no gradient; with λ_max = `lam`, p = softmax(teacher), V tokens:

    static             λ_max
    confidence         λ_max (1 − max p)
    confidence_label   λ_max (1 − p(label))                                as in the authors' trainer
    entropy            λ_max H(p) / log V
    power_entropy      λ_max (Σ p^γ − 1) / (V^(1−γ) − 1), γ = 0.1          as in the authors' trainer
    ambiguity          λ_max (1 − max p) / (1 − 1/|supp p|)                as in the authors' synthetic study
    curriculum         λ_max min(t / ⌊total·ratio⌋, 1), of every token alike
    wsl                λ_max (1 − exp(−log q(label) / log p(label)))       a control that looks at the student q as well

The trainer's two differ much from the formulas of the paper: with 150 000 tokens the power sum of usual teachers is so
small that training is nearly on hard labels alone.

"The Bridge-Garden Dilemma in LLM Distillation: Why Mixing Hard and Soft Labels Works", ICML 2026, arXiv 2605.26246. The
formulas of confidence and entropy are reconstructed from a second-hand note, the others are read from the code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.token_divergence.certainty import Certainty, certainty
from equipoise.core.token_divergence.label_terms import label_terms
from equipoise.core.types import Count, OpenFraction, Probability, Whole
from equipoise.language.distillation.tokens import TokenLabels, TokenLogits, same_vocabulary, valid_tokens

SoftWeight: TypeAlias = Literal[
    "static", "confidence", "confidence_label", "entropy", "power_entropy", "ambiguity", "wsl"
]
"""How the weight of the soft label is set, see the module."""


@checked
def curriculum_soft_weight(
    step: Whole, total: Count, warmup_ratio: Probability = 0.2, lam_max: Probability = 1.0
) -> float:
    """Weight of the soft label in a curriculum from hard labels to soft ones.

    Args:
        step: optimizer steps taken, from 0.
        total: optimizer steps in all.
        warmup_ratio: share of them over which the weight rises from 0 to `lam_max`.
        lam_max: weight from then on; without a warm-up, from the first step.

    Returns:
        min(step / ⌊total · warmup_ratio⌋, 1) · lam_max.

    Raises:
        ValueError: if a number is out of its range.

    Source: the code of the Bridge-Garden paper.

    >>> [curriculum_soft_weight(step, 100, lam_max=0.5) for step in (0, 10, 20, 99)]
    [0.0, 0.25, 0.5, 0.5]
    """
    rising = int(total * warmup_ratio)
    return lam_max * min(step / rising, 1.0) if rising else float(lam_max)


@checked
@dataclass(frozen=True)
class CurriculumSchedule:
    """`curriculum_soft_weight` of a run: step → weight.

    Attributes:
        total: optimizer steps in all.
        warmup_ratio: share of them over which the weight rises.
        lam_max: weight from then on.

    >>> CurriculumSchedule(total=100, warmup_ratio=0.5)(25)
    0.5
    """

    total: Count
    warmup_ratio: Probability = 0.2
    lam_max: Probability = 1.0

    def __call__(self, step: Whole) -> float:
        """The weight after some optimizer steps."""
        return curriculum_soft_weight(step, self.total, self.warmup_ratio, self.lam_max)


@checked
def hybrid_soft_weight(
    teacher_logits: TokenLogits,
    mode: SoftWeight = "confidence",
    *,
    labels: TokenLabels | None = None,
    student_logits: TokenLogits | None = None,
    lam: Probability = 1.0,
    power_gamma: OpenFraction = 0.1,
    reverse: bool = False,
    ignore_index: int = -100,
) -> Tensor:
    """Weight of the soft label of every token, see the module for the modes.

    Args:
        teacher_logits: (..., V).
        mode: how it is set; "curriculum" is "static" with `lam=curriculum_soft_weight(step, total)`.
        labels: (...) token ids. They say which tokens count, and "confidence_label" and "wsl" need them.
        student_logits: (..., V), for "wsl" only.
        lam: λ_max; of "static" the weight itself.
        power_gamma: γ of "power_entropy".
        reverse: weigh λ_max − λ instead: soft labels where the teacher is sure. A control.
        ignore_index: label of tokens that do not count.

    Returns:
        (...) in [0, lam], 0 at tokens that do not count, float32 (float64 for such logits), without gradient.

    Raises:
        ValueError: if what a mode needs is missing, a label is no entry of the vocabulary, or a row of logits that
            counts holds NaN or +∞.

    Source: the Bridge-Garden paper and its code, see the module.

    >>> teacher = torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> hybrid_soft_weight(teacher, "entropy")
    tensor([0.0022, 1.0000])
    """
    check_mode(mode, reverse)
    if labels is None and mode in ("confidence_label", "wsl"):
        raise ValueError(f"mode={mode!r} looks at the teacher's probability of the labels; pass labels")
    if (student_logits is None) == (mode == "wsl"):
        raise ValueError(
            "mode='wsl' compares student and teacher; pass student_logits"
            if mode == "wsl"
            else f"mode={mode!r} does not look at student_logits; leave it out"
        )
    vocabulary = teacher_logits.shape[-1]
    tokens = valid_tokens(teacher_logits.shape[:-1], labels, ignore_index, vocabulary, teacher_logits.device)
    known = certainty(
        teacher_logits.reshape(-1, vocabulary), index=tokens.places, labels=tokens.labels, power=power_gamma
    )
    hard = None
    if student_logits is not None and tokens.labels is not None:
        student, _ = same_vocabulary(student_logits.detach(), teacher_logits, allow_crop=False)
        norm, logit = label_terms(student, tokens.labels, name="student_logits", index=tokens.places)
        hard = norm - logit
    weight = weight_of(known, mode, vocabulary, lam=lam, power_gamma=power_gamma, reverse=reverse, student_hard=hard)
    return weight.new_zeros(tokens.shape.numel()).index_put((tokens.places,), weight).view(tokens.shape)


def check_mode(mode: SoftWeight, reverse: bool) -> None:
    """Raise `ValueError` for the reverse of a mode that has none."""
    if reverse and mode in ("static", "wsl"):
        raise ValueError(f"reverse=True has no meaning with mode={mode!r}; choose another lam instead")


@torch.no_grad()
def weight_of(
    teacher: Certainty,
    mode: SoftWeight,
    vocabulary: int,
    *,
    lam: float,
    power_gamma: float,
    reverse: bool,
    student_hard: Tensor | None = None,
) -> Tensor:
    """(R,) soft weights from what is known of the teacher's rows; "wsl" also takes the student's −log q(label)."""
    certain = teacher.largest
    if vocabulary == 1:
        return torch.zeros_like(certain)
    if mode == "static":
        share = torch.ones_like(certain)
    elif mode == "confidence":
        share = 1 - certain
    elif mode == "confidence_label":
        share = 1 - teacher.label_probability
    elif mode == "entropy":
        share = teacher.entropy / math.log(vocabulary)
    elif mode == "power_entropy":
        share = (teacher.power_sum - 1) / (vocabulary ** (1 - power_gamma) - 1)
    elif mode == "ambiguity":
        several = teacher.support > 1
        share = (1 - certain) / (1 - 1 / teacher.support.to(certain)).where(several, 1)
    else:
        assert student_hard is not None
        # A teacher that is sure of the label weighs 1, unless the student is, too, and there is nothing left to learn.
        share = 1 - torch.exp(-student_hard.detach() / teacher.label_probability.log().abs())
        share = share.where(student_hard > 0, 0)
    share = share.clamp(0, 1)
    return lam * (1 - share if reverse else share)
