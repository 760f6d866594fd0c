"""Older losses for the top of a list, to compare with: five top-k hinges and the truncated top-k entropy.

With s⁻ the wrong scores in descending order, a the scores with 1 added to the wrong ones in descending order, and the
true label y:

    1   max(0, 1 + s⁻_k − s_y)                       2   max(0, mean(a_1..a_k) − s_y)
    3   mean_{i ≤ k} max(0, a_i − s_y)               4   max(0, 1 + mean(s⁻_1..s⁻_k) − s_y)
    5   max(0, 1 + s_(k+1) − s_y)                    s_(k+1): over all labels; the top-k consistent one
    entropy   log(1 + Σ exp(s_j − s_y)) over the wrong labels but the k − 1 highest

Lapin et al., "Analysis and Optimization of Loss Functions for Multiclass, Top-k, and Multilabel Classification", 2018;
Yang and Koyejo, "On the Consistency of Top-k Surrogate Losses", 2020, both reconstructed. The differences are taken
sample by sample; a public implementation subtracts every label's score from every sample's.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import nn
from torch.nn.functional import softplus

from equipoise.core.signature import checked
from equipoise.core.types import ClassScores, ClassTarget, Count, Range, Scalar
from equipoise.openworld.topk.autkc_loss import highest_wrong
from equipoise.openworld.topk.metrics import check_list_length


class TopKHingeLoss(nn.Module):
    """One of five hinges that ask the true label to be among the first k by a margin of 1, averaged over samples.

    Args:
        k: length of the list, below the number of classes.
        variant: 1 to 5, as in the head of this module.

    Raises:
        ValueError: if a setting is out of range.

    >>> TopKHingeLoss(k=1)(torch.tensor([[2.0, 0.5, 0.0]]), torch.tensor([1]))
    tensor(1.)
    """

    @checked
    def __init__(self, k: Count = 5, variant: Annotated[int, Range(1, 5)] = 5) -> None:
        super().__init__()
        self.k, self.variant = k, variant

    @checked
    def forward(self, logits: ClassScores, target: ClassTarget) -> Scalar:
        """The mean over samples of logits (n, C) by class indices (n,).

        Raises:
            ValueError: on a bad argument, by name; k must be below C.
        """
        check_list_length(self.k, logits.shape[1] - 1)
        own = logits.gather(1, target[:, None])
        if self.variant in (2, 3):
            raised = (logits + 1).scatter(1, target[:, None], own).topk(self.k, dim=1).values
            gaps = raised - own if self.variant == 3 else raised.mean(1, keepdim=True) - own
        elif self.variant == 5:
            gaps = 1 + logits.topk(self.k + 1, dim=1).values[:, -1:] - own
        else:
            wrong = logits.gather(1, highest_wrong(logits.detach(), target, self.k))
            gaps = 1 + (wrong[:, -1:] if self.variant == 1 else wrong.mean(1, keepdim=True)) - own
        return gaps.clamp_min(0).mean()

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return f"k={self.k}, variant={self.variant}"


class TopKEntropyLoss(nn.Module):
    """Cross-entropy that forgives the k − 1 highest wrong labels, averaged over samples; k = 1 is cross-entropy.

    Args:
        k: length of the list, below the number of classes.

    >>> logits, target = torch.tensor([[2.0, 0.5, 0.0]]), torch.tensor([1])
    >>> TopKEntropyLoss(k=1)(logits, target), torch.nn.functional.cross_entropy(logits, target)
    (tensor(1.8064), tensor(1.8064))
    """

    @checked
    def __init__(self, k: Count = 5) -> None:
        super().__init__()
        self.k = k

    @checked
    def forward(self, logits: ClassScores, target: ClassTarget) -> Scalar:
        """The mean over samples of logits (n, C) by class indices (n,); errors as `TopKHingeLoss`."""
        check_list_length(self.k, logits.shape[1] - 1)
        forgiven = highest_wrong(logits.detach(), target, self.k - 1) if self.k > 1 else target[:, None]
        left_out = torch.cat([forgiven, target[:, None]], 1)
        rest = logits.scatter(1, left_out, -torch.inf).logsumexp(1)
        return softplus(rest - logits.gather(1, target[:, None]).squeeze(1)).mean()

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return f"k={self.k}"
