"""What a linear layer can read from embeddings: colour, size, place, number.

A multinomial logistic regression on standardised embeddings, with the objective of scikit-learn's,

    ½ ‖W‖² + C Σ_i −log softmax(W z_i + b)_{y_i}

minimised by L-BFGS in float64, deterministic. Accuracy on images that the probe was not fitted on says what is
linearly there, and no more.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor
from torch.nn.functional import cross_entropy

from equipoise.core.settings import HasSettings
from equipoise.core.signature import checked
from equipoise.core.types import Count, Positive

FactorTarget: TypeAlias = Integer[Tensor, " n"] | Bool[Tensor, " n"]


class FactorProbe(HasSettings):
    """A linear probe of one factor.

    Args:
        strength: C, the weight of the data beside ½ ‖W‖².
        standardize: subtract the mean of each dimension and divide by its standard deviation, both of the embeddings
            that are fitted on.
        max_steps: most steps of L-BFGS.

    Attributes:
        classes_: (k,) values of the factor.
        weight_: (k, d) W, float64, for standardised embeddings.
        bias_: (k,) b.

    Raises:
        ValueError: if a setting is out of range.

    >>> z = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    >>> colour = (z[:, 0] + z[:, 1] > 0).long()
    >>> FactorProbe().fit(z[:100], colour[:100]).score(z[100:], colour[100:]) > 0.9
    True
    """

    @checked
    def __init__(self, strength: Positive = 1.0, standardize: bool = True, max_steps: Count = 500) -> None:
        self.strength, self.standardize, self.max_steps = strength, standardize, max_steps

    @checked
    def fit(self, embeddings: Float[Tensor, "n d"], factor: FactorTarget) -> FactorProbe:
        """Fit on embeddings (n, d) and the factor's value (n,) in each image.

        Raises:
            ValueError: if the factor has one value only, or the lengths differ.
        """
        z = embeddings.detach().double()
        self.classes_, index = factor.to(z.device).unique(return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"factor has the one value {self.classes_.tolist()}; a probe tells two or more apart")
        self._mean, self._scale = torch.zeros_like(z[0]), torch.ones_like(z[0])
        if self.standardize:
            self._mean, spread = z.mean(0), z.std(0, correction=0)
            self._scale = torch.where(spread > 1e-12, spread, 1.0)
        z = self._standard(embeddings)
        weight = z.new_zeros(len(self.classes_), z.shape[1] + 1, requires_grad=True)
        solver = torch.optim.LBFGS(
            [weight],
            max_iter=self.max_steps,
            tolerance_grad=1e-8,
            tolerance_change=1e-12,
            history_size=20,
            line_search_fn="strong_wolfe",
        )
        n = len(z)

        def closure() -> Tensor:
            solver.zero_grad()
            # Divided by C n, so that tolerances do not depend on how much data there is.
            penalty = weight[:, :-1].square().sum() / (2 * self.strength * n)
            loss = cross_entropy(z @ weight[:, :-1].T + weight[:, -1], index) + penalty
            loss.backward()
            return loss

        with torch.enable_grad():
            solver.step(closure)
        self.weight_, self.bias_ = weight.detach()[:, :-1], weight.detach()[:, -1]
        return self

    @checked
    def predict(self, embeddings: Float[Tensor, "n d"]) -> Int[Tensor, " n"] | Bool[Tensor, " n"]:
        """The likeliest value (n,) of the factor.

        Raises:
            RuntimeError: if the probe is not fitted.
            ValueError: if the embeddings have another width than those that it was fitted on.
        """
        if not hasattr(self, "weight_"):
            raise RuntimeError("the probe is not fitted; call fit first")
        if embeddings.shape[1] != self.weight_.shape[1]:
            raise ValueError(
                f"embeddings have {embeddings.shape[1]} dimensions, the probe was fitted on {self.weight_.shape[1]}"
            )
        return self.classes_[(self._standard(embeddings) @ self.weight_.T + self.bias_).argmax(1)]

    @checked
    def score(self, embeddings: Float[Tensor, "n d"], factor: FactorTarget) -> float:
        """The share of images whose factor is read right."""
        return float((self.predict(embeddings) == factor.to(self.weight_.device)).double().mean())

    def _standard(self, embeddings: Tensor) -> Tensor:
        return (embeddings.detach().double() - self._mean) / self._scale
