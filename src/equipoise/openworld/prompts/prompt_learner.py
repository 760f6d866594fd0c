"""A prompt whose context is learned: word vectors before every class name, in place of "a photo of a".

    prompt(tokens(names))_c = text tower of  [context_1] … [context_m] name_c,  divided by its norm

Zhou et al., "Learning to Prompt for Vision-Language Models" (CoOp), IJCV 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipoise.core.models.two_tower import PromptTokens, TwoTower, encode_prompts, prompt_tokens
from equipoise.core.signature import checked
from equipoise.core.types import Count

FirstContext: TypeAlias = str | Float[Tensor, "_ width"] | None
_INIT_STD = 0.02


class PromptLearner(nn.Module):
    """A learned context: word vectors that stand before every class name (CoOp).

    Args:
        tower: the model; it belongs to the caller, is neither saved nor moved with the prompt, and gets gradients
            unless its weights are frozen.
        n_ctx: how many words.
        init: the first context: words of the tower's vocabulary ("a photo of a"), or vectors (n_ctx, width), such as a
            context learned elsewhere; random, N(0, 0.02²), if absent.
        generator: on the CPU, for a random context.

    Attributes:
        context: (n_ctx, width) float32, what is learned.

    Raises:
        ValueError: on a bad argument, by name; if the first context has another length or width.

    >>> from equipoise.data.tiny_clip import tiny_tokenizer, untrained_tiny_clip
    >>> from equipoise.integrations.clip import CLIPTower
    >>> tower = CLIPTower(untrained_tiny_clip(), tiny_tokenizer()).requires_grad_(False)
    >>> prompt = PromptLearner(tower, init="a photo of a")
    >>> tokens = prompt.tokens(["red circle", "blue cross"])
    >>> images = prompt(tokens).detach().repeat(8, 1) + 0.05
    >>> optimizer = torch.optim.SGD(prompt.parameters(), lr=0.1)
    >>> for _ in range(5):
    ...     optimizer.zero_grad()
    ...     loss = torch.nn.functional.cross_entropy(10 * images @ prompt(tokens).T, torch.arange(16) % 2)
    ...     loss.backward()
    ...     optimizer.step()
    >>> loss.item() < 0.7
    True
    """

    @checked
    def __init__(
        self,
        tower: TwoTower,
        n_ctx: Count = 4,
        init: FirstContext = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        # In a tuple, so that the model is no part of this one.
        self._tower = (tower,)
        self.n_ctx = n_ctx
        if init is None:
            first = _INIT_STD * torch.randn(n_ctx, tower.width, generator=generator)
        elif isinstance(init, str):
            words = torch.tensor([tower.word_ids(init)], dtype=torch.long, device=tower.logit_scale.device)
            first = tower.embed_tokens(words)[0]
        else:
            first = init
        if first.shape != (n_ctx, tower.width):
            what = f"the {first.shape[0]} words of {init!r} make" if isinstance(init, str) else "init has"
            raise ValueError(f"{what} shape {tuple(first.shape)}, wanted (n_ctx, width) = ({n_ctx}, {tower.width})")
        self.context = nn.Parameter(first.detach().clone().float().to(tower.logit_scale.device))

    def tokens(self, names: Sequence[str]) -> PromptTokens:
        """Tokens of prompts with the context before each name.

        Raises:
            ValueError: if there is no name, or a name with the context is longer than the tower reads.
        """
        return prompt_tokens(self._tower[0], [("", self.n_ctx, name) for name in names])

    def forward(self, tokens: PromptTokens) -> Float[Tensor, "prompts d"]:
        """Unit text features of the prompts, at least float32, with gradients to the context."""
        return encode_contexts(self._tower[0], tokens, self.context)

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return f"n_ctx={self.n_ctx}"


def encode_contexts(tower: TwoTower, tokens: PromptTokens, values: Float[Tensor, ...]) -> Float[Tensor, "prompts d"]:
    """`encode_prompts` at least in float32, with the tokens wherever the contexts are.

    Raises:
        ValueError: as `encode_prompts`.
    """
    # The tower may have been moved since the tokens were made.
    ids, slots = (part.to(values.device) for part in tokens)
    found = encode_prompts(tower, PromptTokens(ids, slots), values)
    return found.to(torch.promote_types(found.dtype, torch.float32))
