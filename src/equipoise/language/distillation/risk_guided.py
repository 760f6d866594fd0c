"""Hard labels that also keep implied rewards small, so that a student learns to stay where it can go on.

A student's logits f(a|s) and V(s) = log Σ exp f(·|s) imply a reward of f(a|s) − γ V(s'). For the valid tokens
t = 0 … n − 1 of a sequence

    Δ_t       = γ V(s_{t+1}) − f(a_t|s_t)                          V(s_{t+1}) = 0 where the next position does not count
    token_t   = γ^t ( V(s_t) − f(a_t|s_t) + (α/4) Δ_t² )
    terminal  = γ^(n−1) α (1 − γ)/4 V(s_{n−1})²                    0 where 1 − γ < 10⁻⁶

It is the occupancy objective of SequenceMatch with φ(x) = x − x²/4: cross-entropy and a square. Unlike a divergence it
changes when a constant is added to the logits, on purpose, so they go in as they are. All it needs of a row of logits
are V and f(a), with gradients.

"The Bridge-Garden Dilemma in LLM Distillation: Why Mixing Hard and Soft Labels Works", ICML 2026, arXiv 2605.26246, by
its code, which the formulas were held against.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from equipoise.core.signature import checked
from equipoise.core.token_divergence.chunks import InfPolicy
from equipoise.core.token_divergence.families import DivergenceName, TokenDivergence, resolve_divergence
from equipoise.core.token_divergence.fused import LinearHead, fused_token_terms
from equipoise.core.token_divergence.kernel import TokenTerms, token_terms
from equipoise.core.token_divergence.label_terms import label_terms
from equipoise.core.types import Fraction, InParts, MayBeEmpty, NonNegative, Probability
from equipoise.language.distillation.hybrid import token_means
from equipoise.language.distillation.tokens import Items, Tokens, reduce_tokens, same_vocabulary, valid_tokens

SequenceLogits: TypeAlias = Annotated[Float[Tensor, "batch time _vocabulary"], InParts(), MayBeEmpty()]
SequenceLabels: TypeAlias = Annotated[Integer[Tensor, "batch time"], MayBeEmpty()]

_NO_TERMINAL = 1e-6


class RiskGuidedTerms(NamedTuple):
    """The parts of a risk-guided loss.

    Attributes:
        loss: `data` + `terminal`.
        data: sum of the tokens' losses by their number.
        terminal: mean over the sequences that have a token that counts.
        per_token: (batch, time), 0 at tokens that do not count.
    """

    loss: Tensor
    data: Tensor
    terminal: Tensor
    per_token: Tensor


@checked
def risk_guided_hard_loss(
    logits: SequenceLogits,
    labels: SequenceLabels,
    *,
    alpha: NonNegative = 0.1,
    gamma: Fraction = 1.0,
    ignore_index: int = -100,
    segment_ids: SequenceLabels | None = None,
    num_items_in_batch: Items = None,
    return_parts: bool = False,
) -> Tensor | RiskGuidedTerms:
    """Cross-entropy with a square that keeps implied rewards small, see the module.

    Args:
        logits: (batch, time, V), raw and shifted: position t is that of the token labels[:, t].
        labels: (batch, time) token ids.
        alpha: α, strength of the square; 0 is cross-entropy, discounted by `gamma`.
        gamma: γ, discount.
        ignore_index: label of tokens that do not count. Steps are counted on across such a hole, as between the turns
            of a dialogue; the value after the last token before it is 0.
        segment_ids: (batch, time) which document of a packed sequence a token belongs to; each run of equal ids is a
            sequence of its own.
        num_items_in_batch: number of tokens in all batches of a step, which then divides the tokens' losses; the
            terminal part weighs as the share of tokens that this batch has.
        return_parts: return both parts and the tokens' losses as well. The terminal part is a mean over sequences, the
            other one over tokens, so their sizes depend on the lengths of the sequences.

    Returns:
        The loss, float32 (float64 for such logits), or its parts; zero, attached to the graph, where no token counts.

    Raises:
        ValueError: if shapes differ, a label is no entry of the vocabulary, or a row of logits that counts holds NaN
            or +∞.

    Source: the Bridge-Garden paper and its code, see the module.

    >>> logits, labels = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]]), torch.tensor([[0, 1]])
    >>> risk_guided_hard_loss(logits, labels, alpha=0), risk_guided_hard_loss(logits, labels, alpha=0.1)
    (tensor(0.2201), tensor(0.2385))
    """
    tokens = valid_tokens(labels.shape, labels, ignore_index, logits.shape[-1], logits.device)
    assert tokens.labels is not None
    norm, logit = label_terms(logits.flatten(0, 1), tokens.labels, index=tokens.places)
    parts = _occupancy(norm, logit, tokens, segment_ids, alpha, gamma, num_items_in_batch, logits)
    return parts if return_parts else parts.loss


def _occupancy(
    norm: Tensor,
    logit: Tensor,
    tokens: Tokens,
    segment_ids: Tensor | None,
    alpha: float,
    gamma: float,
    num_items: Items,
    attach: Tensor,
) -> RiskGuidedTerms:
    """The parts from V and f(a) of the tokens that count."""
    size, place = tokens.shape.numel(), (tokens.places,)
    value = norm.new_zeros(size).index_put(place, norm).view(tokens.shape)
    chosen = norm.new_zeros(size).index_put(place, logit).view(tokens.shape)
    valid = torch.zeros(size, dtype=torch.bool, device=norm.device)
    valid[tokens.places] = True
    valid = valid.view(tokens.shape)
    starts = torch.zeros_like(valid)
    starts[:, :1] = True
    if segment_ids is not None:
        starts[:, 1:] = segment_ids[:, 1:] != segment_ids[:, :-1]

    goes_on = torch.zeros_like(valid)
    goes_on[:, :-1] = valid[:, 1:] & ~starts[:, 1:]
    following = torch.zeros_like(value)
    following[:, :-1] = value[:, 1:]
    delta = gamma * following.where(goes_on, 0) - chosen

    seen = valid.long().cumsum(1)
    before = (seen - valid.long()).where(starts, 0).cummax(1).values if size else seen
    step = (seen - before - 1).clamp_min(0)
    discount = torch.pow(torch.full((), gamma, dtype=torch.float64, device=norm.device), step).to(norm.dtype)
    per_token = (discount * (value - chosen + alpha / 4 * delta.square())).where(valid, 0)
    data = reduce_tokens(per_token.flatten()[tokens.places], tokens, "mean", num_items=num_items, attach=attach)

    terminal = torch.zeros_like(data)
    if 1 - gamma >= _NO_TERMINAL and len(norm):
        sequence = starts.flatten().long().cumsum(0).view(tokens.shape) - 1
        length = torch.zeros(int(starts.sum()), dtype=torch.long, device=norm.device)
        length.index_add_(0, sequence.flatten(), valid.flatten().long())
        last = valid & (step + 1 == length[sequence])
        terminal = (discount * value.square())[last].mean() * (alpha * (1 - gamma) / 4)
        if num_items is not None:
            terminal = terminal * (len(norm) / num_items)
    return RiskGuidedTerms(data + terminal, data, terminal, per_token)


class RiskGuidedHybridLoss(nn.Module):
    """(1 − w) `risk_guided_hard_loss` + w D(p‖q), both divided by the tokens that count.

    Args:
        distill_weight: w, weight of the soft labels.
        alpha: as in `risk_guided_hard_loss`; 0.1 in the paper by a second-hand note, 0.05 in its code.
        gamma: as in `risk_guided_hard_loss`; 0.9999 in the code.
        divergence: D, as in `token_divergence_loss`.
        ignore_index: as in `risk_guided_hard_loss`.
        inf_policy: as in `token_divergence_loss`.
        allow_vocab_crop: as in `token_divergence_loss`.

    Attributes:
        logs: of the last batch, scalars without gradient: "tokens" that count, their means of "soft" and "hard"
            (cross-entropy), "soft_weight", and of the loss the "data" and "terminal" parts before they are weighed.

    >>> student = torch.zeros(1, 2, 3, requires_grad=True)
    >>> loss = RiskGuidedHybridLoss()
    >>> loss(student, torch.eye(3)[None, :2], torch.tensor([[0, 1]])).backward()
    >>> sorted(loss.logs)
    ['data', 'hard', 'soft', 'soft_weight', 'terminal', 'tokens']
    """

    @checked
    def __init__(
        self,
        distill_weight: Probability = 0.2,
        *,
        alpha: NonNegative = 0.1,
        gamma: Fraction = 1.0,
        divergence: DivergenceName | TokenDivergence = "forward_kl",
        ignore_index: int = -100,
        inf_policy: InfPolicy = "error",
        allow_vocab_crop: bool = False,
    ) -> None:
        super().__init__()
        self.distill_weight = distill_weight
        self.alpha = alpha
        self.gamma = gamma
        self.divergence = resolve_divergence(divergence)
        self.ignore_index = ignore_index
        self.inf_policy: InfPolicy = inf_policy
        self.allow_vocab_crop = allow_vocab_crop
        self.logs: dict[str, Tensor] = {}

    @checked
    def forward(
        self,
        student_logits: SequenceLogits,
        teacher_logits: SequenceLogits,
        labels: SequenceLabels,
        *,
        segment_ids: SequenceLabels | None = None,
        num_items_in_batch: Items = None,
    ) -> Tensor:
        """The loss of a batch.

        Args:
            student_logits: (batch, time, V), raw and shifted.
            teacher_logits: (batch, time, V); they get no gradient.
            labels: (batch, time) token ids.
            segment_ids: (batch, time) of packed sequences, see `risk_guided_hard_loss`.
            num_items_in_batch: number of tokens in all batches of a step.
        """
        student, teacher = same_vocabulary(student_logits, teacher_logits, allow_crop=self.allow_vocab_crop)
        tokens = valid_tokens(labels.shape, labels, self.ignore_index, student.shape[1], student.device)
        terms = token_terms(
            student,
            teacher,
            self.divergence,
            index=tokens.places,
            labels=tokens.labels,
            inf_policy=self.inf_policy,
        )
        return self._total(terms, tokens, segment_ids, num_items_in_batch, student_logits)

    @checked
    def from_hidden(
        self,
        student_hidden: Float[Tensor, "batch time _width"],
        student_head: LinearHead,
        teacher_hidden: Float[Tensor, "batch time _teacher_width"],
        teacher_head: LinearHead,
        labels: SequenceLabels,
        *,
        segment_ids: SequenceLabels | None = None,
        num_items_in_batch: Items = None,
    ) -> Tensor:
        """The loss of the logits of two output layers, which are never formed as a whole.

        Args:
            student_hidden: (batch, time, H) last hidden states.
            student_head: the student's output layer; gradients flow to its weight and bias.
            teacher_hidden: (batch, time, H').
            teacher_head: the teacher's output layer over the same vocabulary.
            labels: (batch, time) token ids.
            segment_ids: as in `forward`.
            num_items_in_batch: as in `forward`.
        """
        own, other = len(student_head.weight), len(teacher_head.weight)
        if own != other:
            raise ValueError(
                f"the student's output layer has {own} entries, the teacher's {other}; crop one of them first"
            )
        tokens = valid_tokens(labels.shape, labels, self.ignore_index, own, student_hidden.device)
        terms = fused_token_terms(
            student_hidden.flatten(0, 1),
            student_head,
            teacher_hidden.flatten(0, 1),
            teacher_head,
            self.divergence,
            index=tokens.places,
            labels=tokens.labels,
            inf_policy=self.inf_policy,
        )
        return self._total(terms, tokens, segment_ids, num_items_in_batch, student_hidden)

    def _total(
        self, terms: TokenTerms, tokens: Tokens, segment_ids: Tensor | None, num_items: Items, attach: Tensor
    ) -> Tensor:
        parts = _occupancy(
            terms.log_normalizer, terms.label_logit, tokens, segment_ids, self.alpha, self.gamma, num_items, attach
        )
        soft = reduce_tokens(terms.divergence, tokens, "mean", num_items=num_items, attach=attach)
        self.logs = {
            **token_means({"soft": terms.divergence, "hard": terms.hard}),
            "soft_weight": soft.new_tensor(self.distill_weight).detach(),
            "data": parts.data.detach(),
            "terminal": parts.terminal.detach(),
        }
        return (1 - self.distill_weight) * parts.loss + self.distill_weight * soft

    def extra_repr(self) -> str:
        """The settings."""
        return (
            f"distill_weight={self.distill_weight:g}, alpha={self.alpha:g}, gamma={self.gamma:g}, "
            f"divergence={self.divergence}"
        )
