"""How unequal the quality of pictures is between attribute values.

    gap = 2 / (A (A − 1)) Σ_{k<l} |q_k − q_l|          q_k: mean quality of the pictures of a prompt that show value k

The quality of a picture is whatever judges it: the similarity of picture and prompt, or whether a judge sees what was
asked for. A method that makes all values as frequent by making bad pictures of one of them shows here.

Source: LightFair, NeurIPS 2025, which reports a bias of quality beside that of frequency. Reconstructed: the formula is
inferred.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.metrics import WholeMetric
from equipoise.core.signature import checked
from equipoise.core.types import Count, NumClasses
from equipoise.core.validate import warn_once
from equipoise.generative.fairness.bias import PromptIndex, ShownAttribute, check_places


class QualityGap(WholeMetric):
    """Mean absolute difference in quality between attribute values, over pairs of values that were seen.

    Args:
        num_prompts: P.
        num_attributes: A, at least 2.
        kwargs: of `torchmetrics.Metric`.

    >>> metric = QualityGap(num_prompts=1, num_attributes=2)
    >>> metric.update(torch.tensor([0.9, 0.7, 0.5]), torch.tensor([0, 0, 1]), torch.zeros(3, dtype=torch.long))
    >>> metric.compute()["mean"]
    tensor(0.3000, dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = False
    sums: Tensor
    counts: Tensor

    @checked
    def __init__(self, num_prompts: Count, num_attributes: NumClasses, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_prompts, self.num_attributes = num_prompts, num_attributes
        for name, dtype in (("sums", torch.float64), ("counts", torch.long)):
            self.add_state(name, torch.zeros(num_prompts, num_attributes, dtype=dtype), dist_reduce_fx="sum")

    @checked
    def update(self, quality: Float[Tensor, " n"], attribute: ShownAttribute, prompt: PromptIndex) -> None:
        """Add pictures.

        Args:
            quality: (n,) of each picture, higher is better.
            attribute: (n,) which value it shows, from 0; −1 where the classifier does not say.
            prompt: (n,) which prompt it was made for, from 0.

        Raises:
            ValueError: if an index is out of range.
        """
        known = check_places(attribute, prompt, self.num_prompts, self.num_attributes)
        place = prompt[known] * self.num_attributes + attribute[known]
        size = self.counts.numel()
        self.counts += torch.bincount(place, minlength=size).view_as(self.counts)
        self.sums += torch.bincount(place, quality[known].double(), minlength=size).view_as(self.sums)

    def compute(self) -> dict[str, Tensor]:
        """The gap "per_prompt", (P,) float64, its "mean", and the "quality", (P, A).

        The gap of a prompt with pictures of fewer than two values is NaN, and the mean leaves it out.
        """
        quality = self.sums / self.counts
        seen = self.counts > 0
        pairs = (seen[:, :, None] & seen[:, None]).triu(1)
        gaps = (quality[:, :, None] - quality[:, None]).abs().masked_fill(~pairs, 0.0)
        number = pairs.sum((1, 2))
        if bool((number == 0).any()):
            undefined = int((number == 0).sum())
            warn_once(f"{undefined} of {self.num_prompts} prompts have pictures of fewer than two values; no gap there")
        per_prompt = gaps.sum((1, 2)) / number
        return {"per_prompt": per_prompt, "mean": per_prompt.nanmean(), "quality": quality}

    def nothing(self) -> dict[str, Tensor]:
        """NaN everywhere."""
        nan = torch.full((self.num_prompts, self.num_attributes), torch.nan, dtype=torch.float64, device=self.device)
        return {"per_prompt": nan[:, 0], "mean": nan[0, 0], "quality": nan}
