"""Sequences that a model writes, and the divergence of student and teacher at every step of them.

Tokens are drawn by inverse distribution functions from uniform numbers that are given, so that two rollouts from the
same numbers write the same tokens for as long as their distributions agree: what differs between them is then due to
what was done to one of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Integer
from torch import Tensor, nn

from equipoise.core.signature import checked
from equipoise.core.token_divergence.families import TokenDivergence
from equipoise.core.token_divergence.kernel import token_terms
from equipoise.core.types import Whole
from equipoise.language.distillation.tokens import same_vocabulary

LanguageModel: TypeAlias = Callable[..., Any]
"""Token ids (rows, time) → logits (rows, time, V) of the token after each, or an object with them as `logits`.

A causal model of transformers is one; its cache is used. Anything else is called with all tokens at each step.
"""


class Rollouts(NamedTuple):
    """What was written, step by step.

    Attributes:
        tokens: (rows, steps) ids.
        counts: (rows, steps) whether the token was written: all up to and with the first end token.
        losses: (rows, steps) divergence in the context that the token was written in; 0 where it does not count.
    """

    tokens: Tensor
    counts: Tensor
    losses: Tensor


@checked
def completion_mask(
    tokens: Integer[Tensor, "rows time"], eos_token_id: int | None, *, start: Whole = 0
) -> Bool[Tensor, "rows time"]:
    """Tokens of a completion that count: from a place on, up to and with the first end token after it.

    A model whose padding is its end token would never learn to stop if all padding were left out by its id.

    Args:
        tokens: (rows, time) ids.
        eos_token_id: the end token; None where completions have none.
        start: first place of the completions, after the prompt.

    Returns:
        (rows, time), True where a token counts.

    >>> completion_mask(torch.tensor([[2, 5, 2, 2], [5, 6, 7, 8]]), eos_token_id=2, start=1).int()
    tensor([[0, 1, 1, 0],
            [0, 1, 1, 1]], dtype=torch.int32)
    """
    inside = torch.arange(tokens.shape[1], device=tokens.device) >= start
    if eos_token_id is None:
        return inside.expand(tokens.shape)
    ends = (tokens == eos_token_id) & inside
    return inside & (ends.long().cumsum(1) - ends.long() == 0)


@contextmanager
def evaluating(*models: Any) -> Iterator[None]:
    """Models in evaluation and without gradient; afterwards every part of them is in the mode it was in."""
    parts = [part for model in models if isinstance(model, nn.Module) for part in model.modules()]
    modes = [part.training for part in parts]
    for model in models:
        if isinstance(model, nn.Module):
            model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode


def logits_of(model: LanguageModel, tokens: Tensor) -> Tensor:
    """(rows, time, V) logits of a model in one call.

    Raises:
        ValueError: if it gives anything else.
    """
    return _checked_logits(model(tokens), tokens)


def _checked_logits(output: Any, tokens: Tensor) -> Tensor:
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.ndim != 3 or len(logits) != len(tokens):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"a model must give logits (rows, time, vocabulary) for tokens {tuple(tokens.shape)}, got {got}"
        )
    return logits


class _Steps:
    """The logits after all tokens so far, as more of them are appended."""

    def __init__(self, model: LanguageModel) -> None:
        base: Any = getattr(model, "get_base_model", lambda: model)()
        known = inspect.signature(base.forward).parameters if hasattr(base, "prepare_inputs_for_generation") else {}
        self._cache_name = next((name for name in ("cache", "past_key_values") if name in known), None)
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
        self._model, self._cache, self._tokens = model, None, torch.empty(0)

    def __call__(self, more: Tensor) -> Tensor:
        """(rows, V)."""
        if self._cache_name is None:
            self._tokens = torch.cat([self._tokens, more], 1) if self._tokens.numel() else more
            return logits_of(self._model, self._tokens)[:, -1]
        given: dict[str, Any] = {} if self._cache is None else {self._cache_name: self._cache}
        output = self._model(input_ids=more, use_cache=True, **given, **self._last_only)
        self._cache = getattr(output, self._cache_name)
        return _checked_logits(output, more)[:, -1]


def draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """(rows,) tokens drawn from (rows, V) probabilities, which need not sum to 1, by uniform numbers (rows,)."""
    total = probabilities.double().cumsum(1)
    place = (uniform.to(total) * total[:, -1])[:, None]
    return torch.searchsorted(total, place, right=True)[:, 0].clamp_max(probabilities.shape[1] - 1)


def roll_out(
    teacher: LanguageModel,
    student: LanguageModel,
    prompts: Tensor,
    uniform: Tensor,
    *,
    writer: Literal["teacher", "student"],
    divergence: TokenDivergence,
    eos_token_id: int | None = None,
) -> Rollouts:
    """Sequences that one of the models writes after prompts, and the divergence at every step.

    Args:
        teacher: gives logits.
        student: gives logits over the same vocabulary.
        prompts: (rows, time) token ids, without padding.
        uniform: (rows, steps) numbers in [0, 1) that tokens are drawn by.
        writer: whose distribution they are drawn from.
        divergence: D(teacher‖student).
        eos_token_id: token that ends a sequence.

    Returns:
        What was written. Both models run once over every token.
    """
    rows, steps = uniform.shape
    tokens = prompts.new_zeros(rows, steps)
    losses = torch.zeros(rows, steps, dtype=torch.float64, device=prompts.device)
    counts = torch.zeros(rows, steps, dtype=torch.bool, device=prompts.device)
    alive = torch.ones(rows, dtype=torch.bool, device=prompts.device)
    of_teacher, of_student, more = _Steps(teacher), _Steps(student), prompts
    with evaluating(teacher, student):
        for step in range(steps):
            if not bool(alive.any()):
                break
            z_t, z_s = of_teacher(more), of_student(more)
            z_s, z_t = same_vocabulary(z_s, z_t, allow_crop=False)
            place = alive.nonzero()[:, 0]
            losses[place, step] = token_terms(z_s, z_t, divergence, index=place).divergence.double()
            written = draw((z_t if writer == "teacher" else z_s).double().softmax(1), uniform[:, step])
            counts[:, step] = alive
            tokens[:, step] = written
            if eos_token_id is not None:
                alive = alive & (written != eos_token_id)
            more = written[:, None]
    return Rollouts(tokens, counts, losses)


def uniforms(rows: int, steps: int, seed: int, *, device: torch.device, antithetic: bool = False) -> Tensor:
    """(rows, steps) numbers in [0, 1), float64; of antithetic ones the second half mirrors the first."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(rows // 2 if antithetic else rows, steps, generator=generator, dtype=torch.float64)
    if antithetic:
        drawn = torch.cat([drawn, (1 - drawn).clamp_max(1 - 2**-53)])
    return drawn.to(device)
