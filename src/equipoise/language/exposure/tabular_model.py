"""A language model with finitely many contexts, whose distributions, losses and risks are exact."""

from __future__ import annotations

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from equipoise.core.signature import checked
from equipoise.core.types import Count, Whole
from equipoise.language.exposure.rollouts import draw, uniforms
from equipoise.language.exposure.tabular import NextState, StateActionProbabilities

_LOG_OF_ZERO = -80.0


class TabularLanguageModel(nn.Module):
    """A table of distributions as a causal language model.

    The first token of a text is its start token, whatever it is; every other one moves the state. Position i of the
    logits is the distribution after input_ids[:, : i + 1], as of any causal model. The tables are what `kappa_tabular`
    takes.

    Args:
        probs: (S, A) distribution over tokens in each state.
        next_state: (S, A) state that a token leads to, −1 after the last one.
        start_state: where texts begin.
        end_token: token that is written for ever after the end.

    Attributes:
        probs: (S, A), float64.
        next_state: (S, A).

    >>> model = TabularLanguageModel(torch.tensor([[0.5, 0.5], [0.1, 0.9]]), torch.tensor([[1, -1], [-1, -1]]))
    >>> model(torch.tensor([[0, 0]])).softmax(-1)
    tensor([[[0.5000, 0.5000],
             [0.1000, 0.9000]]], dtype=torch.float64)
    """

    probs: Tensor
    next_state: Tensor

    @checked
    def __init__(
        self,
        probs: StateActionProbabilities,
        next_state: NextState,
        *,
        start_state: Whole = 0,
        end_token: Whole = 0,
    ) -> None:
        super().__init__()
        self.start_state = start_state
        self.end_token = end_token
        self.register_buffer("probs", probs.double())
        self.register_buffer("next_state", next_state.long())

    @checked
    def states(self, input_ids: Integer[Tensor, "rows time"]) -> Integer[Tensor, "rows time"]:
        """The state after each token (rows, time), −1 after the end."""
        rows, time = input_ids.shape
        state = torch.full((rows,), self.start_state, dtype=torch.long, device=input_ids.device)
        found = [state]
        for t in range(1, time):
            following = self.next_state[state.clamp_min(0), input_ids[:, t].long()]
            state = following.where(state >= 0, -1)
            found.append(state)
        return torch.stack(found, 1)

    def forward(self, input_ids: Integer[Tensor, "rows time"]) -> Float[Tensor, "rows time actions"]:
        """Logits of the next token: log-probabilities, −80 for a probability of zero."""
        state = self.states(input_ids)
        p = self.probs[state.clamp_min(0)]
        end = torch.zeros_like(p).index_fill(-1, torch.tensor(self.end_token, device=p.device), 1)
        return torch.where((state >= 0)[..., None], p, end).log().clamp_min(_LOG_OF_ZERO)

    @checked
    def sample(self, n: Count, length: Count, *, start_token: Whole = 0, seed: Whole = 0) -> Integer[Tensor, "n time"]:
        """(n, 1 + length) texts, the first token of each being `start_token`."""
        uniform = uniforms(n, length, seed, device=self.probs.device)
        tokens = torch.full((n, 1 + length), start_token, device=self.probs.device)
        state = torch.full((n,), self.start_state, device=self.probs.device)
        for t in range(length):
            written = draw(self.probs[state.clamp_min(0)], uniform[:, t]).where(state >= 0, self.end_token)
            tokens[:, t + 1] = written
            state = self.next_state[state.clamp_min(0), written].where(state >= 0, -1)
        return tokens
