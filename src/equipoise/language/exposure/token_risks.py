"""The tokens of a text one by one: how student and teacher differ there, and how much a wrong token would cost."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Integer
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.token_divergence.certainty import certainty
from equipoise.core.token_divergence.families import DivergenceName, TokenDivergence, resolve_divergence
from equipoise.core.token_divergence.kernel import token_terms
from equipoise.core.types import Count, Whole
from equipoise.language.distillation.tokens import same_vocabulary
from equipoise.language.exposure.monte_carlo import estimate_kappa
from equipoise.language.exposure.rollouts import LanguageModel, evaluating, logits_of
from equipoise.language.exposure.tabular import split_bridge_garden


@dataclass(frozen=True)
class TokenRisks:
    """A text token by token; columns of one length n.

    Attributes:
        position: place of the token in the text.
        token: its id.
        divergence: of student and teacher in the context before it, in nats.
        teacher_probability: of the token.
        student_probability: of the token.
        teacher_entropy: in that context, in nats.
        teacher_certainty: largest probability of the teacher in that context.
        risk: what the marks are by: the sum of estimated risks of the student's likeliest tokens, or where none are
            estimated the teacher's certainty, a cheap stand-in that no rollout was taken for.
        risk_error: standard error of an estimated risk, else NaN.
        drift: what a visit of the context adds to the exposure bias by these tokens, NaN where none are estimated.
        mark: "bridge", "garden", "middle" or "tie".
    """

    position: Tensor
    token: Tensor
    divergence: Tensor
    teacher_probability: Tensor
    student_probability: Tensor
    teacher_entropy: Tensor
    teacher_certainty: Tensor
    risk: Tensor
    risk_error: Tensor
    drift: Tensor
    mark: list[str]


@checked
def token_risks(
    teacher: LanguageModel,
    student: LanguageModel,
    input_ids: Integer[Tensor, " time"],
    *,
    start: Count = 1,
    alternatives: Whole = 0,
    n_rollouts: Count = 8,
    horizon: Count = 16,
    fraction: float = 0.2,
    divergence: DivergenceName | TokenDivergence = "forward_kl",
    eos_token_id: int | None = None,
    seed: Whole = 0,
) -> TokenRisks:
    """Divergence, certainty and risk of every token of a text, and which contexts are bridges or gardens.

    Args:
        teacher: a causal model of transformers, or any callable from token ids (rows, time) to logits (rows, time, V).
        student: over the same vocabulary.
        input_ids: (time,) the text.
        start: first token looked at, after the prompt.
        alternatives: number of the student's likeliest tokens whose risk is estimated in each context by rollouts of
            the teacher; 0 for none, when contexts are marked by the teacher's certainty.
        n_rollouts: rollouts after each of them, see `estimate_kappa`.
        horizon: contexts of a rollout whose losses count.
        fraction: share of contexts that are bridges, and of those that are gardens, see `split_bridge_garden`.
        divergence: as in `token_divergence_loss`.
        eos_token_id: token that ends a sequence.
        seed: of the rollouts.

    Returns:
        The columns.

    Raises:
        ValueError: if less than two tokens are to be looked at, or the models do not give logits over one vocabulary.

    Source: the Bridge-Garden paper; its risk is a sum over all tokens, which rollouts of a large model cannot afford.

    >>> from equipoise.language import ScriptedOracle
    >>> oracle = ScriptedOracle("math")
    >>> found = token_risks(oracle, lambda ids: torch.zeros(*ids.shape, 64), oracle.sample(1, 20)[0], fraction=0.25)
    >>> found.mark.count("garden"), [round(found.divergence[k].item(), 2) for k in (0, 1, 3)]
    (5, [4.16, 4.04, 2.36])
    """
    time = len(input_ids)
    if time - start < 2:
        raise ValueError(f"input_ids has {time} tokens, so that less than 2 are left after start={start}")
    text = input_ids.long()
    with evaluating(teacher, student):
        z_t, z_s = (logits_of(each, text[None])[0, start - 1 : -1] for each in (teacher, student))
        z_s, z_t = same_vocabulary(z_s, z_t, allow_crop=False)
        labels = text[start:]
        terms = token_terms(z_s, z_t, resolve_divergence(divergence), labels=labels)
        sure = certainty(z_t, labels=labels)
        likeliest = z_s.float().topk(min(alternatives, z_s.shape[1]), dim=1).indices
    risk = sure.largest.to(torch.float64, copy=True)
    error, drift = torch.full_like(risk, torch.nan), torch.full_like(risk, torch.nan)
    if alternatives:
        for row in range(len(labels)):
            found = estimate_kappa(
                teacher,
                student,
                text,
                start + row,
                likeliest[row].tolist(),
                n_rollouts=n_rollouts,
                horizon=horizon,
                divergence=divergence,
                eos_token_id=eos_token_id,
                seed=seed,
            )
            risk[row], error[row], drift[row] = found.state_kappa, found.state_kappa_error, found.drift
    split = split_bridge_garden(risk, fraction)
    names = ("bridge", "garden", "middle", "tie")
    mark = [names[k] for k in torch.stack(tuple(split)).int().argmax(0).tolist()]
    return TokenRisks(
        torch.arange(start, time, device=text.device),
        labels,
        terms.divergence,
        sure.label_probability,
        torch.exp(-terms.hard),
        sure.entropy,
        sure.largest,
        risk,
        error,
        drift,
        mark,
    )
