"""The risk of tokens of a real language model, by rollouts of its teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Integer
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.token_divergence.families import DivergenceName, TokenDivergence, resolve_divergence
from equipoise.core.types import Count, Whole
from equipoise.language.exposure.rollouts import LanguageModel, draw, evaluating, logits_of, roll_out, uniforms


class KappaEstimate(NamedTuple):
    """Risks of tokens in one context, as means over rollouts, with standard errors.

    Attributes:
        actions: (K,) tokens asked for.
        kappa: (K,) loss to come that is due to the token.
        standard_error: (K,) of it.
        q: (K,) loss to come after the token.
        qbar: loss to come after a token of the teacher.
        state_kappa: Σ κ over these tokens.
        state_kappa_error: its standard error.
        teacher_probs: (K,) of the tokens.
        student_probs: (K,) of the tokens.
        drift: Σ (q − p) κ over these tokens: what a visit of this context adds to the exposure bias by them.
        drift_error: its standard error.
    """

    actions: Tensor
    kappa: Tensor
    standard_error: Tensor
    q: Tensor
    qbar: float
    state_kappa: float
    state_kappa_error: float
    teacher_probs: Tensor
    student_probs: Tensor
    drift: float
    drift_error: float


@checked
def estimate_kappa(
    teacher: LanguageModel,
    student: LanguageModel,
    input_ids: Integer[Tensor, " time"],
    position: Count,
    actions: Sequence[int] | None = None,
    *,
    n_rollouts: Count = 16,
    horizon: Count = 32,
    antithetic: bool = False,
    divergence: DivergenceName | TokenDivergence = "forward_kl",
    eos_token_id: int | None = None,
    seed: Whole = 0,
    batch_size: Count = 64,
) -> KappaEstimate:
    """Risk of tokens in one context: each is forced, and the teacher goes on.

    κ(a|s) = Q(s, a) − Σ_b p(b|s) Q(s, b), where Q(s, a) is the expected divergence of student and teacher, summed over
    the next `horizon` contexts, when a is written in s and the teacher goes on. All tokens are followed by the same
    random numbers, so that their differences vary less than their losses. The tokens asked for enter the mean under the
    teacher by their probabilities, all others by a rollout that begins with one of them.

    Args:
        teacher: a causal model of transformers, or any callable from token ids (rows, time) to logits (rows, time, V).
        student: over the same vocabulary.
        input_ids: (time,) a text.
        position: the context is the text before it, input_ids[:position].
        actions: distinct tokens to force; the whole vocabulary if None.
        n_rollouts: rollouts after each of them.
        horizon: contexts of a rollout whose losses count.
        antithetic: mirror the random numbers of the first half of rollouts in the second half.
        divergence: as in `token_divergence_loss`.
        eos_token_id: token that ends a sequence.
        seed: of the rollouts.
        batch_size: rollouts at a time.

    Returns:
        The estimates; standard errors are NaN for one rollout, or one antithetic pair.

    Raises:
        ValueError: if the position lies outside of the text, tokens are twice there or not in the vocabulary, or
            antithetic rollouts are odd in number.

    Source: the definition of the Bridge-Garden paper; the estimator is ours.

    >>> logits = lambda ids: torch.tensor([1.0, 0.0]).expand(*ids.shape, 2)
    >>> worse = lambda ids: torch.where(ids[..., None] == 1, torch.tensor([-1.0, 1.0]), torch.tensor([1.0, 0.0]))
    >>> found = estimate_kappa(logits, worse, torch.tensor([0, 0]), 1, horizon=1, n_rollouts=2)  # lost after token 1
    >>> found.kappa
    tensor([-0.2708,  0.7361], dtype=torch.float64)
    """
    if position > len(input_ids):
        raise ValueError(f"position={position} is beyond the text, which has {len(input_ids)} tokens")
    if antithetic and n_rollouts % 2:
        raise ValueError(f"antithetic rollouts come in pairs, got n_rollouts={n_rollouts}; take an even number")
    context, device = input_ids[None, :position].long(), input_ids.device
    with evaluating(teacher, student):
        own = [logits_of(each, context)[0, -1].double().softmax(0) for each in (teacher, student)]
    chosen = _chosen(actions, len(own[0])).to(device)
    of_teacher, of_student = (each[chosen] for each in own)

    uniform = uniforms(n_rollouts, horizon + 1, seed, device=device, antithetic=antithetic)
    others = own[0].index_fill(0, chosen, 0)
    rest = float(others.sum())
    first = chosen[:, None].expand(-1, n_rollouts)
    if rest > 0:
        first = torch.cat([first, draw(others.expand(n_rollouts, -1), uniform[:, 0])[None]])
    starts = torch.cat([context.expand(first.numel(), -1), first.reshape(-1, 1)], 1)
    steps = uniform[:, 1:].repeat(len(first), 1)
    loss = torch.zeros(len(starts), dtype=torch.float64, device=device)
    going = torch.arange(len(starts), device=device)
    if eos_token_id is not None:
        going = going[starts[:, -1] != eos_token_id]
    for at in going.split(batch_size):
        loss[at] = roll_out(
            teacher,
            student,
            starts[at],
            steps[at],
            writer="teacher",
            divergence=resolve_divergence(divergence),
            eos_token_id=eos_token_id,
        ).losses.sum(1)
    q = loss.view(len(first), n_rollouts)
    qbar = (of_teacher[:, None] * q[: len(chosen)]).sum(0)
    if rest > 0:
        qbar = qbar + rest * q[-1]
    q = q[: len(chosen)]
    kappa = q - qbar
    means, errors = _mean_and_error(
        torch.cat([kappa, kappa.sum(0)[None], ((of_student - of_teacher)[:, None] * kappa).sum(0)[None]]), antithetic
    )
    return KappaEstimate(
        chosen,
        means[:-2],
        errors[:-2],
        q.mean(1),
        float(qbar.mean()),
        float(means[-2]),
        float(errors[-2]),
        of_teacher,
        of_student,
        float(means[-1]),
        float(errors[-1]),
    )


def _chosen(actions: Sequence[int] | None, vocabulary: int) -> Tensor:
    if actions is None:
        return torch.arange(vocabulary)
    chosen = torch.tensor(list(actions), dtype=torch.long)
    if not len(chosen) or len(chosen.unique()) < len(chosen):
        raise ValueError(f"actions={tuple(actions)} must be distinct tokens, at least one")
    if not 0 <= int(chosen.min()) <= int(chosen.max()) < vocabulary:
        raise ValueError(f"actions={tuple(actions)} must be tokens from 0 to {vocabulary - 1}")
    return chosen


def _mean_and_error(values: Tensor, antithetic: bool) -> tuple[Tensor, Tensor]:
    """Over rollouts (K, n); the two of an antithetic pair are one draw."""
    if antithetic:
        values = values.unflatten(1, (2, -1)).mean(1)
    draws = values.shape[1]
    error = values.std(1) / draws**0.5 if draws > 1 else values.new_full((len(values),), torch.nan)
    return values.mean(1), error
