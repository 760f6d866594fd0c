"""Exposure bias of a student: how much further it is from the teacher on its own sequences than on the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Integer
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.token_divergence.families import DivergenceName, TokenDivergence, resolve_divergence
from equipoise.core.types import Count, Whole
from equipoise.language.exposure.rollouts import LanguageModel, roll_out, uniforms


class ExposureBias(NamedTuple):
    """Mean divergence per token, in nats, with standard errors.

    Attributes:
        teacher_forced: on sequences of the teacher.
        student_rollout: on sequences of the student.
        exposure_bias: the second minus the first.
        teacher_forced_error: standard error of the first.
        student_rollout_error: of the second.
        exposure_bias_error: of the difference, whose parts are drawn from the same random numbers.
        teacher_tokens: tokens that the teacher wrote.
        student_tokens: tokens that the student wrote.
    """

    teacher_forced: float
    student_rollout: float
    exposure_bias: float
    teacher_forced_error: float
    student_rollout_error: float
    exposure_bias_error: float
    teacher_tokens: int
    student_tokens: int


@checked
def exposure_bias(
    teacher: LanguageModel,
    student: LanguageModel,
    prompts: Sequence[Integer[Tensor, " _time"]],
    *,
    max_new_tokens: Count,
    n_rollouts: Count = 1,
    divergence: DivergenceName | TokenDivergence = "forward_kl",
    eos_token_id: int | None = None,
    seed: Whole = 0,
    batch_size: Count = 32,
) -> ExposureBias:
    """Mean divergence on the student's own sequences minus that on the teacher's.

    Args:
        teacher: a causal model of transformers, or any callable from token ids (rows, time) to logits (rows, time, V).
        student: over the same vocabulary.
        prompts: token ids of each, without padding, on the models' device.
        max_new_tokens: longest sequence written after a prompt.
        n_rollouts: sequences of each model for every prompt, drawn from its distribution at temperature 1.
        divergence: as in `token_divergence_loss`.
        eos_token_id: token that ends a sequence; it counts.
        seed: of the sequences; they do not depend on `batch_size`.
        batch_size: sequences written at a time.

    Returns:
        The means per token and their standard errors, by the sums of prompts as clusters, or of rollouts where there is
        one prompt. NaN for one cluster. Models that were in training are so afterwards.

    Raises:
        ValueError: if there is no prompt or an empty one, or the models do not give logits over one vocabulary.

    Source: the Bridge-Garden paper; standard errors by linearisation, ours.

    >>> teacher = lambda ids: torch.tensor([1.0, 0.0]).expand(*ids.shape, 2)
    >>> student = lambda ids: torch.stack([ids.float(), torch.zeros(ids.shape)], -1)  # sure after token 1, not after 0
    >>> found = exposure_bias(teacher, student, [torch.tensor([0])], max_new_tokens=8, n_rollouts=200)
    >>> found.exposure_bias < 0, found.exposure_bias_error < 0.01
    (True, True)
    """
    if not prompts:
        raise ValueError("prompts is empty; at least one is needed")
    family = resolve_divergence(divergence)
    device = prompts[0].device
    uniform = uniforms(len(prompts) * n_rollouts, max_new_tokens, seed, device=device)
    sums = torch.zeros(2, 2, len(uniform), dtype=torch.float64)
    by_length: dict[int, list[int]] = {}
    for number, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).extend(range(number * n_rollouts, (number + 1) * n_rollouts))
    for rows in by_length.values():
        for start in range(0, len(rows), batch_size):
            at = torch.tensor(rows[start : start + batch_size])
            batch = torch.stack([prompts[row // n_rollouts].long() for row in at.tolist()])
            for side, writer in enumerate(("teacher", "student")):
                written = roll_out(
                    teacher,
                    student,
                    batch,
                    uniform[at.to(device)],
                    writer=writer,  # type: ignore[arg-type]
                    divergence=family,
                    eos_token_id=eos_token_id,
                )
                sums[side, 0, at] = written.losses.sum(1).cpu()
                sums[side, 1, at] = written.counts.sum(1).double().cpu()
    clustered = sums.unflatten(2, (len(prompts), n_rollouts)).sum(3) if len(prompts) > 1 else sums
    losses, tokens = clustered[:, 0], clustered[:, 1]
    means = losses.sum(1) / tokens.sum(1)
    influence = (losses - means[:, None] * tokens) / tokens.sum(1, keepdim=True)
    forced, own = means.tolist()
    return ExposureBias(
        forced,
        own,
        own - forced,
        _standard_error(influence[0]),
        _standard_error(influence[1]),
        _standard_error(influence[1] - influence[0]),
        int(tokens[0].sum()),
        int(tokens[1].sum()),
    )


def _standard_error(influence: Tensor) -> float:
    """Of a ratio of sums, from what each cluster adds to it."""
    clusters = len(influence)
    if clusters < 2:
        return float("nan")
    return float((influence.square().sum() * clusters / (clusters - 1)).sqrt())
