"""How far a student is from its teacher on texts that neither was trained on: by text, by token, and in examples."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from equipoise.core.curves.intervals import Interval, paired_interval
from equipoise.language.distillation.data import IGNORED, TokenRow, collate_tokens
from equipoise.language.distillation.measures import token_measures
from equipoise.language.distillation.modes import evaluating, forward, next_labels
from equipoise.language.exposure.token_risks import token_risks
from equipoise.report.language_page import ExampleToken, TokenCost
from equipoise.workflows.errors import InputError

LEVEL = 0.95
_LIKELY, _LONGEST, _LEAST = 3, 400, 5


@dataclass(frozen=True)
class HeldOut:
    """A student on held-out texts.

    Attributes:
        texts: measure → its mean over the tokens of each text.
        tokens: of each token, in order: the forward KL, or the cross-entropy where there is no teacher.
        labels: their labels.
    """

    texts: Mapping[str, Sequence[float]]
    tokens: Tensor
    labels: Tensor

    def mean(self, measure: str) -> Interval:
        """Over texts."""
        return paired_interval(self.texts[measure], LEVEL)

    def change(self, before: HeldOut, measure: str) -> Interval:
        """From another one, paired over texts."""
        pairs = zip(self.texts[measure], before.texts[measure], strict=True)
        return paired_interval([after - start for after, start in pairs], LEVEL)


@torch.no_grad()
def judge_student(
    student: nn.Module,
    teacher: nn.Module | None,
    loss: Any,
    rows: Sequence[TokenRow],
    *,
    batch_size: int,
    pad_token_id: int,
) -> HeldOut:
    """Measure a student on texts: `cross_entropy`; beside a teacher `loss`, and what `token_measures` gives, too."""
    device = next(student.parameters()).device
    texts: dict[str, list[float]] = defaultdict(list)
    values, labels = [], []
    with evaluating(student):
        for start in range(0, len(rows), batch_size):
            part = collate_tokens(rows[start : start + batch_size], pad_token_id)
            batch = {name: value.to(device) for name, value in part.items()}
            own, wanted = forward(student, batch).logits, next_labels(batch["labels"])
            other = None
            if teacher is not None:
                with evaluating(teacher):
                    other = forward(teacher, batch).logits
                common = min(own.shape[-1], other.shape[-1])
                own, other = own[..., :common], other[..., :common]
            for place in range(len(own)):
                one = slice(place, place + 1)
                learnt = wanted[one] != IGNORED
                hard = functional.cross_entropy(own[one][learnt].float(), wanted[one][learnt], reduction="none")
                texts["cross_entropy"].append(float(hard.mean()))
                right = own[one][learnt].argmax(1) == wanted[one][learnt]
                texts["right"].append(float(right.float().mean()))
                labels.append(wanted[one][learnt].cpu())
                if other is None:
                    values.append(hard.cpu())
                    continue
                found = token_measures(own[one], other[one], wanted[one])
                values.append(found.forward_kl.float().cpu())
                texts["loss"].append(float(loss(own[one], other[one], wanted[one])))
                for name, each in found._asdict().items():
                    texts[name].append(float(each.mean()))
    for name in ("cross_entropy", "loss"):
        wrong = [value for value in texts.get(name, ()) if not math.isfinite(value)]
        if wrong:
            raise InputError(
                f"the {name.replace('_', '-')} of {len(wrong):,} of {len(rows):,} held-out texts is {wrong[0]}; before "
                "the training look for damaged weights, after it give a smaller --learning-rate"
            )
    return HeldOut(dict(texts), torch.cat(values), torch.cat(labels))


def dearest_tokens(before: HeldOut, after: HeldOut, tokenizer: Any, most: int = 12) -> list[TokenCost]:
    """The next tokens at which most of the divergence is left, summed over their places."""
    total = float(after.tokens.sum()) or 1.0
    found = []
    for label in after.labels.unique().tolist():
        places = after.labels == label
        left = after.tokens[places]
        share = float(left.sum()) / total
        found.append(
            TokenCost(
                shown_token(tokenizer, label), len(left), float(before.tokens[places].mean()), float(left.mean()), share
            )
        )
    return sorted(found, key=lambda one: -one.share)[:most]


@torch.no_grad()
def coloured_text(student: nn.Module, teacher: nn.Module | None, row: TokenRow, tokenizer: Any) -> list[ExampleToken]:
    """The tokens of a text with what both models expected in their place."""
    device = next(student.parameters()).device
    short = TokenRow(row.input_ids[:_LONGEST], row.labels[:_LONGEST], 0)
    batch = {name: value.to(device) for name, value in collate_tokens([short]).items()}
    with evaluating(student):
        own = forward(student, batch).logits[0].float()
    other = None
    if teacher is not None:
        with evaluating(teacher):
            other = forward(teacher, batch).logits[0].float()
        common = min(own.shape[-1], other.shape[-1])
        own, other = own[:, :common], other[:, :common]
    mine = own.log_softmax(1)
    theirs = None if other is None else other.log_softmax(1)
    first, *others = _spelled(list(short.input_ids), tokenizer)
    found = [ExampleToken(first, None)]
    for place, (label, words) in enumerate(zip(short.labels[1:], others, strict=True)):
        if label == IGNORED:
            found.append(ExampleToken(words, None))
            continue
        expected = {"student": _likely(mine[place], tokenizer)}
        value, sure = -float(mine[place, label]), None
        if theirs is not None:
            p = theirs[place].exp()
            value = float((p * (theirs[place] - mine[place]).nan_to_num(0.0, 0.0, 0.0)).sum())
            sure = float(p.max())
            expected = {"teacher": _likely(theirs[place], tokenizer), **expected}
        found.append(ExampleToken(words, value, expected, sure))
    return found


def with_risks(
    text: Sequence[ExampleToken],
    student: nn.Module,
    teacher: nn.Module,
    row: TokenRow,
    rollouts: int,
    ends: Sequence[int],
    seed: int,
) -> list[ExampleToken]:
    """The text with its bridges and gardens marked, by rollouts of the teacher; as it is where it is too short."""
    start = next(place for place, label in enumerate(row.labels) if label != IGNORED)
    if len(text) - start < _LEAST:
        return list(text)
    device = next(student.parameters()).device
    found = token_risks(
        teacher,
        student,
        torch.as_tensor(row.input_ids[: len(text)], device=device),
        start=start,
        alternatives=2,
        n_rollouts=rollouts,
        eos_token_id=next(iter(ends), None),
        seed=seed,
    )
    marks = dict(zip(found.position.tolist(), found.mark, strict=True))
    return [replace(one, mark=marks.get(place, "")) for place, one in enumerate(text)]


def _likely(log_p: Tensor, tokenizer: Any) -> str:
    best = log_p.exp().topk(min(_LIKELY, len(log_p)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return ", ".join(f"{_visible(shown_token(tokenizer, token))} {p:.2f}" for token, p in pairs)


def _visible(words: str) -> str:
    return words.strip() or words.replace("\n", "⏎").replace(" ", "␣")


def shown_token(tokenizer: Any, token: int) -> str:
    """A token alone, with the blank before it where its spelling marks one."""
    words = str(tokenizer.decode([token]))
    spelling = str(tokenizer.convert_ids_to_tokens(token) or "")
    return f" {words.lstrip()}" if spelling.startswith(("Ġ", "▁")) else words


def _spelled(tokens: Sequence[int], tokenizer: Any) -> list[str]:
    """What each token adds to the text; alone where it only changes what came before."""
    found, before = [], ""
    for place, token in enumerate(tokens):
        text = str(tokenizer.decode(tokens[: place + 1]))
        found.append(text[len(before) :] if text.startswith(before) else shown_token(tokenizer, token))
        before = text
    return found
