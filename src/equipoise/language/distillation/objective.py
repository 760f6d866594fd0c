"""The loss of one batch of a student and its teacher, however the batch is cut and whoever runs the loop.

    L = (1 − r) CE + r D + c Σ_i (n_i / N) CE_i(corpus)

r is `kd_ratio`, D any loss of this room, N the number of tokens to learn in the whole step and n_i that of row i. Every
term is a sum over tokens divided by N, so that neither the cut of a step into batches nor the number of processes moves
the loss. The corpus term goes with the rows: the block beside row i weighs as much as that row.

Labels are moved to the token before them, and the logits stay as they are: no copy of them is made.

Source: Wang et al., "ABKD", ICML 2025, by its code; the normalisation, and logits made from hidden states a few rows at
a time, are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn import functional

from equipoise.core.reduction import attached_zero
from equipoise.core.signature import checked
from equipoise.core.token_divergence.fused import LinearHead, fused_token_terms
from equipoise.core.types import NonNegative, Probability
from equipoise.language.distillation.data import IGNORED
from equipoise.language.distillation.divergence_loss import TokenDivergenceLoss
from equipoise.language.distillation.measures import TokenSums, token_sums
from equipoise.language.distillation.modes import evaluating, forward, next_labels
from equipoise.language.distillation.offline import TeacherCache
from equipoise.language.distillation.tokens import Items, same_vocabulary, valid_tokens

CORPUS = "corpus_"
"""What the names of the corpus begin with in a batch: `corpus_input_ids`, `corpus_labels`, a row beside each row."""


@runtime_checkable
class TokenLoss(Protocol):
    """A loss between two models' logits (B, T, V), of the tokens that `labels` (B, T) do not leave out."""

    def __call__(
        self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, num_items_in_batch: Items = None
    ) -> Tensor:
        """The sum over tokens divided by `num_items_in_batch`, or their mean."""
        ...


@dataclass(frozen=True)
class DistillationStep:
    """The loss of a batch.

    Attributes:
        loss: to go down.
        outputs: what the student's forward pass gave.
        sums: over tokens, if they were asked for.
    """

    loss: Tensor
    outputs: Any
    sums: TokenSums | None


@checked
@dataclass(frozen=True)
class DistillationObjective:
    """The loss of a batch, as a function of student, teacher and batch; see the module.

    Attributes:
        loss: between the two models, such as `ABDivergenceLoss()`.
        kd_ratio: r, its share; the rest is the cross-entropy of the labels. 0 needs no teacher.
        lm_coef: c, weight of the cross-entropy of a corpus of plain texts in the batch (names with `CORPUS`).
        fused: make no logits, for losses with a form for hidden states (`TokenDivergenceLoss`, and those with
            `from_hidden`) of models whose last hidden states are at hand.
        allow_vocab_crop: compare the common first entries of vocabularies that differ in size by padding.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> sizes = dict(vocab_size=7, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    >>> student, teacher = LlamaForCausalLM(LlamaConfig(**sizes)), LlamaForCausalLM(LlamaConfig(**sizes))
    >>> ids = torch.tensor([[1, 2, 3, 4]])
    >>> step = DistillationObjective()(student.train(), teacher, {"input_ids": ids, "labels": ids})
    >>> step.loss.backward()
    """

    loss: TokenLoss = field(default_factory=TokenDivergenceLoss)
    kd_ratio: Probability = 1.0
    lm_coef: NonNegative = 0.0
    fused: bool = False
    allow_vocab_crop: bool = False

    def __post_init__(self) -> None:
        if not self.fused or self._plain:
            return
        if not hasattr(self.loss, "from_hidden"):
            raise ValueError(f"{type(self.loss).__name__} has no form for hidden states; pass fused=False")
        if self.kd_ratio < 1:
            raise ValueError(
                f"kd_ratio={self.kd_ratio:g} with fused=True goes with a TokenDivergenceLoss alone; "
                f"{type(self.loss).__name__} has its own way with labels"
            )

    @property
    def _plain(self) -> bool:
        """Whether the loss is a divergence alone, whose hidden-state form can bring the cross-entropy along."""
        return isinstance(self.loss, TokenDivergenceLoss)

    def __call__(
        self,
        student: nn.Module,
        teacher: nn.Module | TeacherCache | None,
        batch: Mapping[str, Tensor],
        *,
        num_items_in_batch: int | Tensor | None = None,
        measure: bool = False,
    ) -> DistillationStep:
        """The loss of a batch; the student's mode is left as it is, the teacher is in evaluation mode meanwhile.

        Args:
            student: gives `logits` (B, T, V).
            teacher: likewise, or what a teacher once said; None only with `kd_ratio=0`.
            batch: `input_ids` and `labels` (B, T), −100 where a token is not learnt; perhaps `attention_mask`.
            num_items_in_batch: tokens to learn in all batches of a step, of all processes.
            measure: sum divergence and entropies over the tokens, too.

        Raises:
            ValueError: if there is no teacher, the vocabularies differ, or the corpus is missing.
        """
        if self.kd_ratio > 0 and teacher is None:
            raise ValueError(f"kd_ratio={self.kd_ratio:g} needs a teacher; pass one, or kd_ratio=0 for labels alone")
        if self.lm_coef > 0 and f"{CORPUS}input_ids" not in batch:
            raise ValueError(f"lm_coef={self.lm_coef:g} needs a corpus: rows {CORPUS}input_ids and {CORPUS}labels")
        labels = next_labels(batch["labels"])
        # Trainers hand their count on as a tensor of floating point.
        items = max(1, int((labels != IGNORED).sum())) if num_items_in_batch is None else int(num_items_in_batch)
        if self.fused and torch.is_grad_enabled() and isinstance(teacher, nn.Module):
            loss, outputs, sums = self._from_hidden(student, teacher, batch, labels, items, measure)
        else:
            loss, outputs, sums = self._from_logits(student, teacher, batch, labels, items, measure)
        if self.lm_coef > 0:
            loss = loss + self.lm_coef * self._corpus(student, batch, labels, items)
        return DistillationStep(loss, outputs, sums)

    def _from_logits(
        self,
        student: nn.Module,
        teacher: nn.Module | TeacherCache | None,
        batch: Mapping[str, Tensor],
        labels: Tensor,
        items: int,
        measure: bool,
    ) -> tuple[Tensor, Any, TokenSums | None]:
        outputs = forward(student, batch)
        logits = outputs.logits
        hard: Any = (1 - self.kd_ratio) * _cross_entropy(logits, labels).sum() / items if self.kd_ratio < 1 else 0.0
        if self.kd_ratio == 0:
            return hard, outputs, None
        if isinstance(teacher, TeacherCache):
            own, other, compared = teacher.compare(logits, batch["row"], labels)
        else:
            assert teacher is not None
            with torch.no_grad(), evaluating(teacher):
                theirs = forward(teacher, batch).logits
            own, other, compared = *self._common(logits, theirs), labels
        soft = self.loss(own, other, compared, num_items_in_batch=items)
        sums = token_sums(own, other, compared) if measure else None
        return hard + self.kd_ratio * soft, outputs, sums

    def _common(self, own: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        if own.shape == other.shape:
            return own, other
        flat = same_vocabulary(own, other, allow_crop=self.allow_vocab_crop)
        return flat[0].view(*own.shape[:2], -1), flat[1].view(*own.shape[:2], -1)

    def _from_hidden(
        self,
        student: nn.Module,
        teacher: nn.Module,
        batch: Mapping[str, Tensor],
        labels: Tensor,
        items: int,
        measure: bool,
    ) -> tuple[Tensor, Any, TokenSums | None]:
        hidden, head, outputs = _hidden_forward(student, batch)
        with torch.no_grad(), evaluating(teacher):
            theirs, their_head, _ = _hidden_forward(teacher, batch)
        if len(head.weight) != len(their_head.weight):
            if not self.allow_vocab_crop:
                same_vocabulary(head.weight[None, :, 0], their_head.weight[None, :, 0], allow_crop=False)
            common = min(len(head.weight), len(their_head.weight))
            head, their_head = _cropped(head, common), _cropped(their_head, common)
        tokens = valid_tokens(labels.shape, labels, IGNORED, len(head.weight), labels.device)
        if not len(tokens.places):
            # Other processes wait for the gradient of every parameter.
            return attached_zero(hidden) + attached_zero(head.weight), outputs, None
        loss: Any = self.loss
        sums = None
        if measure:
            sums = token_sums(hidden.detach(), theirs, labels, student_head=head, teacher_head=their_head)
        if not self._plain:
            given = loss.from_hidden(hidden, head, theirs, their_head, labels, num_items_in_batch=items)
            return given, outputs, sums
        terms = fused_token_terms(
            hidden.reshape(-1, hidden.shape[-1]),
            head,
            theirs.reshape(-1, theirs.shape[-1]),
            their_head,
            loss.divergence,
            index=tokens.places,
            labels=tokens.labels,
            temperature=loss.temperature,
            inf_policy=loss.inf_policy,
        )
        soft = terms.divergence.sum() * (loss.temperature**2 if loss.scale_by_T2 else 1.0)
        total = self.kd_ratio * soft + (1 - self.kd_ratio) * terms.hard.sum() if self.kd_ratio < 1 else soft
        return total / items, outputs, sums

    def _corpus(self, student: nn.Module, batch: Mapping[str, Tensor], labels: Tensor, items: int) -> Tensor:
        corpus = {name.removeprefix(CORPUS): value for name, value in batch.items() if name.startswith(CORPUS)}
        hard = next_labels(corpus["labels"])
        losses = _cross_entropy(forward(student, corpus).logits, hard)
        count = (hard != IGNORED).sum(1).clamp_min(1)
        return ((labels != IGNORED).sum(1) / items * losses / count).sum()


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """(B,) sums over the tokens of each row."""
    places = labels != IGNORED
    losses = functional.cross_entropy(logits[places].float(), labels[places], reduction="none")
    rows = torch.arange(len(labels), device=labels.device)[:, None].expand_as(labels)[places]
    return losses.new_zeros(len(labels)).index_add(0, rows, losses)


_seen_through: WeakSet[nn.Module] = WeakSet()


def _hidden_forward(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, LinearHead, Any]:
    """Last hidden states (B, T, H) and the output layer, which are held against the model's own logits once."""
    plain = getattr(model, "module", model)
    try:
        outputs = forward(model, batch, output_hidden_states=True, logits_to_keep=1)
        hidden, head = outputs.hidden_states[-1], linear_head(plain)
    except (TypeError, AttributeError) as error:
        raise ValueError(
            f"{type(plain).__name__} does not give hidden states and an output layer ({error}); pass fused=False"
        ) from error
    if plain not in _seen_through:
        with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
            mine, given = head.logits(hidden[:, -1], slice(None), torch.float32), outputs.logits[:, -1].detach().float()
        # Wide enough for bfloat16, too narrow for a factor or a cap that was missed.
        if mine.shape != given.shape or float((mine - given).abs().max()) > 0.02 * float(given.abs().max()):
            raise ValueError(
                f"the logits of {type(plain).__name__} are not its output layer times its last hidden states; pass "
                "fused=False"
            )
        _seen_through.add(plain)
    return hidden, head, outputs


def linear_head(model: Any) -> LinearHead:
    """The output layer of a model of transformers, with the factor and the soft cap that its configuration names."""
    layer, config = model.get_output_embeddings(), model.config
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    return LinearHead(
        layer.weight, getattr(layer, "bias", None), scale, getattr(config, "final_logit_softcapping", None)
    )


def _cropped(head: LinearHead, entries: int) -> LinearHead:
    bias = None if head.bias is None else head.bias[:entries]
    return LinearHead(head.weight[:entries], bias, head.scale, head.soft_cap)
