"""Where the prefixes come from on which student and teacher are compared: data, the teacher, or the student itself.

On prefixes of the data a student never sees its own mistakes, on its own it does (Agarwal et al., "GKD", 2024).
What is generated is labelled up to and with the first token of the end, by position: the same token as padding does not
hide it, and prompts of different length lose no token.

What is drawn depends on the seed and the place in the training (step, batch, process) only, so that a resumed run draws
the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from equipoise.core.signature import checked
from equipoise.core.types import Count, Fraction, Positive, Probability, Whole
from equipoise.language.distillation.data import IGNORED, Batch, TokenRow, collate_tokens
from equipoise.language.distillation.modes import evaluating


class Moment(NamedTuple):
    """A place in the training.

    Attributes:
        step: of the optimizer, from 0 on.
        total: steps in all.
        batch: within the step.
        process: that it runs in.
    """

    step: int = 0
    total: int = 1
    batch: int = 0
    process: int = 0


@runtime_checkable
class PrefixSource(Protocol):
    """What a batch is replaced by before student and teacher are compared on it."""

    def replace(self, batch: Batch, student: nn.Module, moment: Moment) -> Batch:
        """The batch to train on."""
        ...


@checked
@dataclass(frozen=True)
class Sampling:
    """How texts are generated.

    Attributes:
        max_new_tokens: most tokens after the prompt.
        temperature: of the model's distribution.
        top_p: share of the mass that is drawn from; 1 for all of it.
        pad_token_id: what to pad with.
        eos_token_ids: tokens that end a text; none of them if empty.
    """

    max_new_tokens: Count = 128
    temperature: Positive = 1.0
    top_p: Fraction = 1.0
    pad_token_id: Whole = 0
    eos_token_ids: tuple[int, ...] = ()


@checked
def generate_batch(model: nn.Module, batch: Mapping[str, Tensor], sampling: Sampling, seed: Whole = 0) -> Batch:
    """A batch with the prompts of another one, and what a model says after them.

    Args:
        model: with `generate`, as transformers' models have it.
        batch: `input_ids`, `attention_mask` and `labels`; a prompt is what stands before the first label.
        sampling: how.
        seed: of the draws.

    Returns:
        `input_ids`, `attention_mask`, `labels` (B, T') and whatever is (B,), padded at the right. Labels end with the
        first token of the end.

    Raises:
        ValueError: if a row has no prompt.

    Source: ours.
    """
    prompts = prompts_of(batch)
    widest = max(map(len, prompts))
    shape = (len(prompts), widest)
    device = batch["input_ids"].device
    ids = torch.full(shape, sampling.pad_token_id, device=device)
    mask = torch.zeros(shape, dtype=torch.long, device=device)
    for place, prompt in enumerate(prompts):
        ids[place, widest - len(prompt) :] = prompt
        mask[place, widest - len(prompt) :] = 1
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad(), evaluating(model):
        torch.manual_seed(seed)
        generated = model.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            max_new_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=0,
            pad_token_id=sampling.pad_token_id,
            eos_token_id=list(sampling.eos_token_ids) or None,
        )
    said = [until_end(row[widest:], sampling.eos_token_ids) for row in generated]
    rows = [
        TokenRow(torch.cat([prompt, words]).tolist(), [IGNORED] * len(prompt) + words.tolist(), 0)
        for prompt, words in zip(prompts, said, strict=True)
    ]
    found = collate_tokens(rows, sampling.pad_token_id)
    kept = {name: value for name, value in batch.items() if name not in found or name == "row"}
    return {**{name: value.to(device) for name, value in found.items()}, **kept}


def prompts_of(batch: Mapping[str, Tensor]) -> list[Tensor]:
    """What stands before the first label of each row, without padding.

    Raises:
        ValueError: if a row has no such tokens.
    """
    found = []
    for place, (ids, labels) in enumerate(zip(batch["input_ids"], batch["labels"], strict=True)):
        mask = batch["attention_mask"][place] if "attention_mask" in batch else torch.ones_like(ids)
        learnt = (labels != IGNORED).nonzero()
        end = int(learnt[0]) if len(learnt) else len(ids)
        prompt = ids[:end][mask[:end] == 1]
        if not len(prompt):
            raise ValueError(f"row {place} of the batch has no prompt to go on from")
        found.append(prompt)
    return found


def until_end(tokens: Tensor, ends: Sequence[int]) -> Tensor:
    """Tokens up to and with the first one that ends a text.

    >>> until_end(torch.tensor([5, 2, 2, 7]), [2])
    tensor([5, 2])
    """
    hits = torch.isin(tokens, torch.tensor(list(ends), device=tokens.device, dtype=tokens.dtype)).nonzero()
    return tokens[: int(hits[0]) + 1] if len(hits) else tokens


def draw_seed(seed: int, moment: Moment, purpose: int) -> int:
    """A seed for what is drawn for one purpose at one place of the training."""
    words = np.random.SeedSequence([seed, purpose, moment.step, moment.batch, moment.process]).generate_state(2)
    return int(words[0]) << 31 | int(words[1]) >> 1


@dataclass(frozen=True)
class StudentPrefixes:
    """On-policy distillation: with some probability a batch becomes the student's own answers to its prompts.

    Args:
        sampling: how the student is asked.
        lmbda: the probability (λ of GKD); 1 for every batch.
        seed: of the draws. Processes draw alike whether to generate, and different texts.

    Source: Agarwal et al., "On-Policy Distillation of Language Models", ICLR 2024.

    >>> StudentPrefixes(Sampling(max_new_tokens=16), lmbda=0.5).lmbda
    0.5
    """

    sampling: Sampling
    lmbda: Probability = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.lmbda <= 1:
            raise ValueError(f"lmbda={self.lmbda!r} must lie in [0, 1]")

    def replace(self, batch: Batch, student: nn.Module, moment: Moment) -> Batch:
        """The batch, or the student's answers."""
        if np.random.default_rng(draw_seed(self.seed, moment._replace(process=0), 0)).random() >= self.lmbda:
            return batch
        return generate_batch(student, batch, self.sampling, draw_seed(self.seed, moment, 1))


@checked
def answer_prompts(
    model: nn.Module,
    rows: Sequence[TokenRow],
    sampling: Sampling,
    *,
    batch_size: Count = 8,
    seed: Whole = 0,
    progress: Callable[[str], None] | None = None,
) -> list[TokenRow]:
    """The prompts of some rows with a model's answers: sequence-level distillation when the model is the teacher.

    Args:
        model: that answers; it keeps its mode.
        rows: whose prompts are asked.
        sampling: how.
        batch_size: prompts at a time.
        seed: of the draws.
        progress: told what is being done.

    Returns:
        As many rows, with the same numbers.

    Raises:
        ValueError: if a row has no prompt.

    Source: Kim and Rush, "Sequence-Level Knowledge Distillation", EMNLP 2016.
    """
    device = next(model.parameters()).device
    found: list[TokenRow] = []
    for start in range(0, len(rows), batch_size):
        if progress is not None:
            progress(f"asking for text {start + 1} of {len(rows)}")
        part = rows[start : start + batch_size]
        batch = {name: value.to(device) for name, value in collate_tokens(part, sampling.pad_token_id).items()}
        answers = generate_batch(model, batch, sampling, draw_seed(seed, Moment(step=start), 2))
        for place, one in enumerate(part):
            length = int(answers["attention_mask"][place].sum())
            ids, labels = (answers[name][place, :length].tolist() for name in ("input_ids", "labels"))
            found.append(TokenRow(ids, labels, one.row))
    return found
