"""Several networks as one: a router looks at the degraded picture and weighs what they say.

    w = softmax(r(x_1))        e(x_n, n | x_1) = Σ_m w_m e_m(x_n, n)

Weights depend on x_1 alone, so that they are found once and held along the whole way. An expert of weight 0 is not
called, which changes nothing; one of weight below `skip_below` is not called either, which changes a value by at most
that weight times the size of the expert's output.

"Heterogeneous Image-to-Image Backdoor Attack through Mixture of Schroedinger Bridges", ICML 2025; as in the authors'
code, whose router is a softmax over a classifier of x_1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from equipoise.core.signature import checked
from equipoise.core.types import ProperFraction
from equipoise.generative.bridges.reallocation import check_weights


class RoutedOutput(NamedTuple):
    """What a mixture gives.

    Attributes:
        output: (n, ...).
        weights: (n, K), rows sum to 1.
    """

    output: Tensor
    weights: Tensor


class RoutedMixture(nn.Module):
    """Experts e_m(x, time) and a router of x_1.

    Args:
        experts: networks of the same input and output.
        router: a network from x_1 (n, ...) to K logits (n, K).
        skip_below: weights that count as 0 while nothing is learned; 0 leaves out what changes nothing.

    Attributes:
        kept: (K,) which experts take part, see `without`.

    Raises:
        ValueError: if there are no experts.

    >>> experts = [nn.Bilinear(2, 1, 2) for _ in range(3)]
    >>> mixture = RoutedMixture(experts, nn.Linear(2, 3))
    >>> output, weights = mixture(torch.randn(4, 2), torch.ones(4, 1), torch.randn(4, 2))
    >>> output.shape, weights.shape
    (torch.Size([4, 2]), torch.Size([4, 3]))
    """

    kept: Bool[Tensor, " k"]

    @checked
    def __init__(self, experts: Sequence[nn.Module], router: nn.Module, *, skip_below: ProperFraction = 0.0) -> None:
        super().__init__()
        if not experts:
            raise ValueError("experts is empty; a mixture needs at least one")
        self.experts, self.router, self.skip_below = nn.ModuleList(experts), router, skip_below
        self.register_buffer("kept", torch.ones(len(experts), dtype=torch.bool))

    def forward(
        self, x: Tensor, time: Tensor, x1: Tensor | None = None, *, weights: Float[Tensor, "n k"] | None = None
    ) -> RoutedOutput:
        """The mixture at x (n, ...) and times (n,), of the experts' weights for x_1, or of given ones.

        Raises:
            ValueError: unless either `x1` or `weights` is given; if given weights are negative, do not sum to 1 or are
                not one for each expert; if experts differ in the shape of their outputs, or as `route`.
        """
        if weights is None and x1 is not None:
            weights = self.route(x1)
        elif weights is None or x1 is not None:
            raise ValueError("give either x1, to be routed, or weights")
        else:
            if weights.ndim != 2 or weights.shape != (len(x), len(self.experts)):
                raise ValueError(
                    f"weights must have shape {(len(x), len(self.experts))}, one for each expert, "
                    f"got {tuple(weights.shape)}"
                )
            check_weights(weights)
        return RoutedOutput(self.mix(x, time, weights), weights)

    def logits(self, x1: Tensor) -> Float[Tensor, "n k"]:
        """The router's logits, −∞ for experts that were taken out.

        Raises:
            ValueError: if the router has not one output for each expert.
        """
        found = self.router(x1)
        if found.shape != (len(x1), len(self.experts)):
            raise ValueError(
                f"the router must return {len(self.experts)} logits, one for each expert, for each of {len(x1)} "
                f"inputs, got shape {tuple(found.shape)}"
            )
        return found if bool(self.kept.all()) else found.masked_fill(~self.kept, -torch.inf)

    def route(self, x1: Tensor) -> Float[Tensor, "n k"]:
        """The weights for x_1; errors as `logits`."""
        return self.logits(x1).softmax(1)

    def mix(self, x: Tensor, time: Tensor, weights: Float[Tensor, "n k"]) -> Tensor:
        """Σ_m w_m e_m(x, time), calling an expert for the rows where its weight counts.

        Raises:
            ValueError: if experts differ in the shape of their outputs.
        """
        least = 0.0 if torch.is_grad_enabled() else self.skip_below
        total: Tensor | None = None
        for m, expert in enumerate(self.experts):
            called = weights[:, m] > least
            rows = None if bool(called.all()) else called.nonzero().squeeze(1)
            if rows is not None and not len(rows):
                continue
            output = expert(x, time) if rows is None else expert(x[rows], time[rows])
            share = weights[:, m] if rows is None else weights[rows, m]
            part = share.view(-1, *[1] * (output.ndim - 1)).to(output) * output
            if total is None:
                total = part.new_zeros(len(x), *part.shape[1:])
            if total.shape[1:] != part.shape[1:]:
                raise ValueError(
                    f"experts must return one shape, got {tuple(total.shape[1:])} and, of expert {m}, "
                    f"{tuple(part.shape[1:])}"
                )
            total = total + part if rows is None else total.index_add(0, rows, part)
        if total is None:
            raise ValueError(f"every weight is at most skip_below={self.skip_below}; lower it")
        return total

    def outputs(self, x: Tensor, time: Tensor) -> Tensor:
        """What every expert says, (K, n, ...).

        Raises:
            ValueError: if experts differ in the shape of their outputs.
        """
        found = [expert(x, time) for expert in self.experts]
        if len({each.shape for each in found}) > 1:
            raise ValueError(f"experts must return one shape, got {[tuple(each.shape) for each in found]}")
        return torch.stack(found)

    def without(self, experts: Iterable[int]) -> RoutedMixture:
        """The same networks, with some experts taken out: the weights of the others are scaled to sum to 1.

        Raises:
            ValueError: if an expert is not there, or none would be left.
        """
        kept = self.kept.clone()
        for m in experts:
            if not 0 <= m < len(kept):
                raise ValueError(f"expert {m} is not there; there are experts 0 to {len(kept) - 1}")
            kept[m] = False
        if not bool(kept.any()):
            raise ValueError("no expert would be left")
        other = RoutedMixture(list(self.experts), self.router, skip_below=self.skip_below)
        other.kept.copy_(kept)
        return other.train(self.training)
