"""Distillation on both the tokens and the distributions of a teacher, weighed token by token.

    l(s) = λ(s) D(p‖q) + (1 − λ(s)) (−log q(a*))

p is the teacher, q the student, a* the token of the sequence or the teacher's likeliest, D any divergence of
`core.token_divergence.families`, and λ(s) from the teacher alone (`hybrid_weights`). Soft labels carry more, yet the
mixture does better when the student writes on its own: it is less off the teacher's paths, at the price of a larger
divergence on them.

Both parts are divided by one number, the tokens that count; so the mixture does not depend on how a step is cut into
batches, as it does in the authors' code, which divides the two parts by different numbers. The soft part is not divided
by the sum of its weights, as the formula has it.

"The Bridge-Garden Dilemma in LLM Distillation: Why Mixing Hard and Soft Labels Works", ICML 2026, arXiv 2605.26246, by
its code and a second-hand note.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipoise.core.signature import checked
from equipoise.core.token_divergence.certainty import Certainty, certainty
from equipoise.core.token_divergence.chunks import InfPolicy
from equipoise.core.token_divergence.families import DivergenceName, TokenDivergence, resolve_divergence
from equipoise.core.token_divergence.fused import LinearHead, fused_certainty, fused_token_terms
from equipoise.core.token_divergence.kernel import TokenTerms, token_terms
from equipoise.core.types import OpenFraction, Probability, Whole
from equipoise.language.distillation.hybrid_weights import CurriculumSchedule, SoftWeight, check_mode, weight_of
from equipoise.language.distillation.tokens import (
    Items,
    Reduction,
    TokenLabels,
    TokenLogits,
    Tokens,
    reduce_tokens,
    same_vocabulary,
    valid_tokens,
)

HardLabel: TypeAlias = Literal["labels", "argmax"]
"""The token of the sequence, or the teacher's likeliest one."""


class _Mixing(NamedTuple):
    mode: SoftWeight
    lam: float
    power_gamma: float
    reverse: bool
    hard: HardLabel

    @property
    def needs_teacher(self) -> bool:
        return self.mode != "static" or self.hard == "argmax"


class _Mixed(NamedTuple):
    """Of the tokens that count, each (R,); `teacher` only where the weight needs it."""

    losses: Tensor
    weight: Tensor
    soft: Tensor
    hard: Tensor
    teacher: Certainty | None


def _hard_labels(tokens: Tokens, teacher: Certainty | None, hard: HardLabel) -> Tensor:
    if hard == "argmax":
        assert teacher is not None
        return teacher.token
    if tokens.labels is None:
        raise ValueError("hard='labels' needs labels; pass them, or take the teacher's tokens with hard='argmax'")
    return tokens.labels


def _mix(terms: TokenTerms, teacher: Certainty | None, tokens: Tokens, vocabulary: int, mixing: _Mixing) -> _Mixed:
    if teacher is None:
        weight = torch.full_like(terms.divergence, mixing.lam if vocabulary > 1 else 0.0, requires_grad=False)
    else:
        if mixing.hard == "argmax":
            teacher = teacher._replace(label_probability=teacher.largest)
        weight = weight_of(
            teacher,
            mixing.mode,
            vocabulary,
            lam=mixing.lam,
            power_gamma=mixing.power_gamma,
            reverse=mixing.reverse,
            student_hard=terms.hard.detach(),
        ).to(terms.divergence.dtype)
    of_hard = torch.ones_like(weight) if mixing.mode == "wsl" else 1 - weight
    hard = of_hard * terms.hard
    if bool(torch.isinf(terms.hard.detach()).any()):
        hard = _without_masked(terms.hard, of_hard, tokens)
    return _Mixed(weight * terms.divergence + hard, weight, terms.divergence, terms.hard, teacher)


def _without_masked(hard: Tensor, of_hard: Tensor, tokens: Tokens) -> Tensor:
    """The weighed hard part where some labels have a logit of −∞: such a label may only have no weight."""
    masked = torch.isinf(hard.detach())
    wrong = masked & (of_hard > 0)
    if bool(wrong.any()):
        raise ValueError(
            f"the hard label of token {int(tokens.places[wrong][0])} has a student logit of -inf, so that its "
            "cross-entropy is infinite; leave such tokens out by ignore_index, or do not mask what is a label"
        )
    return of_hard * hard.masked_fill(masked, 0.0)


def _of_logits(
    student: Tensor,
    teacher: Tensor,
    tokens: Tokens,
    family: TokenDivergence,
    mixing: _Mixing,
    policy: InfPolicy,
) -> _Mixed:
    known = None
    if mixing.needs_teacher:
        known = certainty(teacher, index=tokens.places, labels=tokens.labels, power=mixing.power_gamma)
    labels = _hard_labels(tokens, known, mixing.hard)
    terms = token_terms(student, teacher, family, index=tokens.places, labels=labels, inf_policy=policy)
    return _mix(terms, known, tokens, student.shape[1], mixing)


@checked
def hybrid_kd_loss(
    student_logits: TokenLogits,
    teacher_logits: TokenLogits,
    labels: TokenLabels | None = None,
    *,
    mode: SoftWeight = "confidence",
    lam: Probability = 1.0,
    divergence: DivergenceName | TokenDivergence = "forward_kl",
    hard: HardLabel = "labels",
    power_gamma: OpenFraction = 0.1,
    reverse: bool = False,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    num_items_in_batch: Items = None,
    inf_policy: InfPolicy = "error",
    allow_vocab_crop: bool = False,
) -> Tensor:
    """Distillation on hard and soft labels, λ(s) D(p‖q) + (1 − λ(s)) (−log q(a*)).

    Args:
        student_logits: (..., V), raw and shifted: position i is that of the token labels[i].
        teacher_logits: (..., V); they get no gradient.
        labels: (...) token ids: the hard labels, and which tokens count.
        mode: how λ(s) is set, see `hybrid_soft_weight`. "wsl" adds its soft part to the whole hard one.
        lam: λ_max; of "static" the weight itself, for which the authors take 0.2.
        divergence: D, a name or an object as in `token_divergence_loss`.
        hard: "labels", tokens that the teacher wrote, or "argmax", its likeliest token in each place: for sequences
            that somebody else wrote, such as the student. Labels then only say which tokens count.
        power_gamma: γ of "power_entropy".
        reverse: a control, see `hybrid_soft_weight`.
        ignore_index: label of tokens that do not count.
        reduction: "mean" over the tokens that count, "sum", or "none" for shape (...) with 0 at tokens that do not.
        num_items_in_batch: number of tokens in all batches of a step, which then divides both parts.
        inf_policy: what a logit of −∞ in one of the models only is, see `token_divergence_loss`.
        allow_vocab_crop: compare the common first entries of vocabularies that differ in size by padding.

    Returns:
        The loss in nats, float32 (float64 for such logits); zero, attached to the graph, where no token counts.

    Raises:
        ValueError: if shapes or vocabularies differ, labels are missing or no entries of the vocabulary, a row of
            logits that counts holds NaN, +∞, or −∞ on one side only, or the student's logit of a hard label that has
            a weight is −∞.

    Source: the Bridge-Garden paper and its code, see the module.

    >>> student, teacher = torch.zeros(1, 2, 3), torch.tensor([[[9.0, 0.0, 0.0], [1.0, 1.0, 0.0]]])
    >>> hybrid_kd_loss(student, teacher, torch.tensor([[0, 1]]), reduction="none")
    tensor([[1.0986, 0.5109]])
    """
    check_mode(mode, reverse)
    family = resolve_divergence(divergence)
    student, teacher = same_vocabulary(student_logits, teacher_logits, allow_crop=allow_vocab_crop)
    tokens = valid_tokens(student_logits.shape[:-1], labels, ignore_index, student.shape[1], student.device)
    mixed = _of_logits(student, teacher, tokens, family, _Mixing(mode, lam, power_gamma, reverse, hard), inf_policy)
    return reduce_tokens(mixed.losses, tokens, reduction, num_items=num_items_in_batch, attach=student_logits)


class HybridKDLoss(nn.Module):
    """`hybrid_kd_loss` as a module, which also says what it mixed.

    Args:
        mode: as in `hybrid_kd_loss`.
        lam: as in `hybrid_kd_loss`.
        curriculum: for a weight that rises with the steps, of every token alike, in place of `lam`: call `set_step`,
            as `StudentTrainer` does. It goes with "static" alone.
        divergence: as in `hybrid_kd_loss`.
        hard: as in `hybrid_kd_loss`.
        power_gamma: as in `hybrid_kd_loss`.
        reverse: as in `hybrid_kd_loss`.
        ignore_index: as in `hybrid_kd_loss`.
        reduction: as in `hybrid_kd_loss`.
        inf_policy: as in `hybrid_kd_loss`.
        allow_vocab_crop: as in `hybrid_kd_loss`.

    Attributes:
        logs: of the last batch, scalars without gradient: "tokens" that count, and their means of "soft_weight",
            "soft", "hard" and, where the weight looks at the teacher, "teacher_entropy". Means of no tokens are 0.

    >>> student = torch.zeros(1, 2, 5, requires_grad=True)
    >>> teacher = 3 * torch.randn(1, 2, 5, generator=torch.Generator().manual_seed(0))
    >>> loss = HybridKDLoss("entropy")
    >>> loss(student, teacher, torch.tensor([[1, 4]])).backward()
    >>> {name: round(value.item(), 2) for name, value in loss.logs.items()}
    {'tokens': 2.0, 'soft_weight': 0.27, 'soft': 1.17, 'hard': 1.61, 'teacher_entropy': 0.44}
    """

    @checked
    def __init__(
        self,
        mode: SoftWeight = "confidence",
        *,
        lam: Probability = 1.0,
        curriculum: CurriculumSchedule | None = None,
        divergence: DivergenceName | TokenDivergence = "forward_kl",
        hard: HardLabel = "labels",
        power_gamma: OpenFraction = 0.1,
        reverse: bool = False,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        inf_policy: InfPolicy = "error",
        allow_vocab_crop: bool = False,
    ) -> None:
        super().__init__()
        check_mode(mode, reverse)
        if curriculum is not None and mode != "static":
            raise ValueError(f"a curriculum weighs every token alike, so it takes mode='static', got mode={mode!r}")
        self.mode: SoftWeight = mode
        self.lam = lam
        self.curriculum = curriculum
        self.divergence = resolve_divergence(divergence)
        self.hard: HardLabel = hard
        self.power_gamma = power_gamma
        self.reverse = reverse
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction
        self.inf_policy: InfPolicy = inf_policy
        self.allow_vocab_crop = allow_vocab_crop
        self.logs: dict[str, Tensor] = {}
        self.step: Tensor
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    @checked
    def set_step(self, step: Whole) -> None:
        """Say how many optimizer steps were taken, for the curriculum; saved with the state."""
        self.step.fill_(step)

    @property
    def _mixing(self) -> _Mixing:
        lam = self.lam if self.curriculum is None else self.curriculum(int(self.step))
        return _Mixing(self.mode, lam, self.power_gamma, self.reverse, self.hard)

    @checked
    def forward(
        self,
        student_logits: TokenLogits,
        teacher_logits: TokenLogits,
        labels: TokenLabels | None = None,
        *,
        num_items_in_batch: Items = None,
    ) -> Tensor:
        """The loss of a batch, see `hybrid_kd_loss`."""
        student, teacher = same_vocabulary(student_logits, teacher_logits, allow_crop=self.allow_vocab_crop)
        tokens = valid_tokens(student_logits.shape[:-1], labels, self.ignore_index, student.shape[1], student.device)
        mixed = _of_logits(student, teacher, tokens, self.divergence, self._mixing, self.inf_policy)
        return self._reduced(mixed, tokens, num_items_in_batch, student_logits)

    @checked
    def from_hidden(
        self,
        student_hidden: Float[Tensor, "*batch _width"],
        student_head: LinearHead,
        teacher_hidden: Float[Tensor, "*batch _teacher_width"],
        teacher_head: LinearHead,
        labels: TokenLabels | None = None,
        *,
        num_items_in_batch: Items = None,
    ) -> Tensor:
        """The loss of the logits of two output layers, which are never formed as a whole.

        Args:
            student_hidden: (..., H) last hidden states.
            student_head: the student's output layer; gradients flow to its weight and bias.
            teacher_hidden: (..., H').
            teacher_head: the teacher's output layer over the same vocabulary.
            labels: (...) as in `forward`.
            num_items_in_batch: as in `forward`.
        """
        own, other = len(student_head.weight), len(teacher_head.weight)
        if own != other:
            raise ValueError(
                f"the student's output layer has {own} entries, the teacher's {other}; crop one of them first"
            )
        tokens = valid_tokens(student_hidden.shape[:-1], labels, self.ignore_index, own, student_hidden.device)
        student = student_hidden.reshape(-1, student_hidden.shape[-1])
        teacher = teacher_hidden.reshape(-1, teacher_hidden.shape[-1])
        mixing, known = self._mixing, None
        if mixing.needs_teacher:
            known = fused_certainty(
                teacher, teacher_head, index=tokens.places, labels=tokens.labels, power=mixing.power_gamma
            )
        terms = fused_token_terms(
            student,
            student_head,
            teacher,
            teacher_head,
            self.divergence,
            index=tokens.places,
            labels=_hard_labels(tokens, known, mixing.hard),
            inf_policy=self.inf_policy,
        )
        return self._reduced(_mix(terms, known, tokens, own, mixing), tokens, num_items_in_batch, student_hidden)

    def _reduced(self, mixed: _Mixed, tokens: Tokens, num_items: Items, attach: Tensor) -> Tensor:
        parts = {"soft_weight": mixed.weight, "soft": mixed.soft, "hard": mixed.hard}
        if mixed.teacher is not None:
            parts["teacher_entropy"] = mixed.teacher.entropy
        self.logs = token_means(parts)
        return reduce_tokens(mixed.losses, tokens, self.reduction, num_items=num_items, attach=attach)

    def extra_repr(self) -> str:
        """The settings."""
        weight = f"lam={self.lam:g}" if self.curriculum is None else str(self.curriculum)
        return f"{self.mode!r}, {weight}, divergence={self.divergence}, hard={self.hard!r}"


@torch.no_grad()
def token_means(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """The number of tokens, as "tokens", and the mean of each part (R,) over them, 0 over none."""
    first = next(iter(parts.values()))
    count = first.new_tensor(float(len(first)))
    return {"tokens": count, **{name: part.detach().sum() / count.clamp_min(1) for name, part in parts.items()}}
