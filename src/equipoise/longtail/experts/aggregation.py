"""How much should each expert count on this test set? Weights found without labels, and priors found without labels.

    a = softmax(w),   S(w) = mean_i cos( softmax Σ_k a_k E_k(x'_i), softmax Σ_k a_k E_k(x''_i) )

over two augmented views of every test sample; experts that fit the mix of the test set agree more with themselves. Only
K numbers are learned, on logits that are computed once.

Aggregation: Zhang et al., "Self-Supervised Aggregation of Diverse Experts", 2022, as DirMixE (ICML 2024) uses it.
Priors: Saerens et al., 2002 (EM) and Lipton et al., "Detecting and Correcting for Label Shift with Black Box
Predictors", 2018; both are reconstructed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from equipoise.core.class_stats import ClassStats
from equipoise.core.signature import checked
from equipoise.core.types import ClassTarget, Count, NonNegative, Positive, Range
from equipoise.core.validate import warn_once

ExpertLogits: TypeAlias = Float[Tensor, "experts n classes"]

# An expert that counts less has lost.
_LEAST = 0.05


@checked
def view_consistency(
    first: ExpertLogits, second: ExpertLogits, weight_logits: Float[Tensor, " experts"]
) -> Float[Tensor, ""]:
    """S(w): the mean cosine of the predictions on two views.

    Args:
        first: (K, n, C) expert logits of the first view.
        second: (K, n, C) of the second.
        weight_logits: (K,) w.

    >>> view_consistency(torch.ones(2, 3, 4), torch.ones(2, 3, 4), torch.zeros(2))
    tensor(1.)
    """
    one, other = (_mixed(weight_logits, view).softmax(1) for view in (first, second))
    return cosine_similarity(one, other, dim=1).mean()


class TestTimeAggregator(nn.Module):
    """Weights of experts, learned on unlabelled test samples.

    Args:
        num_experts: K.
        lr: of gradient ascent with Nesterov momentum .9, above 0.
        weight_decay: on w.
        epochs: passes over the views; it stops early once an expert's weight is below .05.

    >>> views = torch.randn(3, 20, 5)
    >>> aggregator = TestTimeAggregator(3, epochs=1).fit([(views, views)])
    >>> aggregator.weights.sum()
    tensor(1.)
    """

    __test__ = False

    weight_logits: Tensor
    fitted: Tensor

    @checked
    def __init__(
        self, num_experts: Count = 3, *, lr: Positive = 0.1, weight_decay: NonNegative = 5e-4, epochs: Count = 5
    ) -> None:
        super().__init__()
        self.lr, self.weight_decay, self.epochs = lr, weight_decay, epochs
        self.register_buffer("weight_logits", torch.full((num_experts,), 1 / num_experts))
        self.register_buffer("fitted", torch.tensor(False))

    @property
    def weights(self) -> Float[Tensor, " k"]:
        """a: the weight of every expert; alike before `fit`."""
        return self.weight_logits.softmax(0)

    def fit(self, views: Iterable[tuple[Tensor, Tensor]]) -> TestTimeAggregator:
        """Learn the weights from pairs of views' expert logits (K, n, C), batch by batch; called again, it goes on.

        Args:
            views: pairs of logits; a list, so that it can be gone over several times, or any iterable of them.

        Raises:
            ValueError: without a batch, or as `view_consistency`.
        """
        batches = [(one.detach(), other.detach()) for one, other in views]
        if not batches:
            raise ValueError("there is no batch to learn the weights from")
        w = self.weight_logits.clone().requires_grad_()
        optimizer = torch.optim.SGD([w], lr=self.lr, momentum=0.9, nesterov=True, weight_decay=self.weight_decay)
        if all(bool((view == view[:1]).all()) for pair in batches for view in pair):
            warn_once("all experts say the same; they are weighed alike")
        else:
            with torch.enable_grad():
                for _ in range(self.epochs):
                    for first, second in batches:
                        optimizer.zero_grad()
                        (-view_consistency(first, second, w)).backward()
                        optimizer.step()
                    if float(w.detach().softmax(0).min()) < _LEAST:
                        break
        self.weight_logits.copy_(w.detach())
        self.fitted.fill_(True)
        return self

    @checked
    def forward(self, expert_logits: ExpertLogits) -> Float[Tensor, "n classes"]:
        """Σ_k a_k E_k; before `fit` the mean (warned once)."""
        if len(expert_logits) != len(self.weight_logits):
            raise ValueError(f"expert_logits has {len(expert_logits)} experts, wanted {len(self.weight_logits)}")
        if not bool(self.fitted):
            warn_once("the aggregator has not been fitted: experts are weighed alike")
        return _mixed(self.weight_logits, expert_logits)


def _mixed(weight_logits: Tensor, expert_logits: Tensor) -> Tensor:
    with torch.autocast(expert_logits.device.type, enabled=False):
        return torch.einsum("k,knc->nc", weight_logits.to(expert_logits).softmax(0), expert_logits)


@checked
def estimate_prior_em(
    probabilities: Annotated[Float[Tensor, "n classes"], Range(0)],
    class_counts: Any,
    *,
    steps: Count = 200,
    tolerance: NonNegative = 1e-8,
) -> Float[Tensor, " classes"]:
    """The class mix of a test set by expectation-maximisation, from posteriors of the training mix, float64.

    Args:
        probabilities: (n, C) posteriors of unlabelled test samples by a calibrated model.
        class_counts: training samples per class.
        steps: at most so many.
        tolerance: largest change of a share at which it stops.

    >>> estimate_prior_em(torch.tensor([[0.9, 0.1]] * 3 + [[0.1, 0.9]]), [1, 1]).shape
    torch.Size([2])
    """
    prior = ClassStats.of(class_counts).prior.to(probabilities.device)
    if probabilities.shape[1] != len(prior):
        raise ValueError(f"probabilities must have shape (n, {len(prior)}), got {tuple(probabilities.shape)}")
    p, q = probabilities.detach().double(), prior.clone()
    for _ in range(steps):
        weighed = p * (q / prior)
        new = (weighed / weighed.sum(1, keepdim=True).clamp_min(1e-300)).mean(0)
        moved = float((new - q).abs().max())
        q = new
        if moved < tolerance:
            break
    return q


@checked
def estimate_prior_bbse(
    confusion: Annotated[Float[Tensor, "classes classes"], Range(0)], test_pred: ClassTarget
) -> Float[Tensor, " classes"]:
    """The class mix of a test set by inverting a confusion matrix (black-box shift estimation), float64.

    Args:
        confusion: (C, C) joint shares of true class (rows) and predicted class (columns) on held-out training data,
            summing to 1, each class present.
        test_pred: (n,) predicted classes of the test set.

    Returns:
        Shares, cut at 0 and scaled to sum 1.

    Raises:
        ValueError: if a class is missing.

    >>> estimate_prior_bbse(torch.tensor([[0.5, 0.0], [0.0, 0.5]]), torch.tensor([0, 0, 0, 1]))
    tensor([0.7500, 0.2500], dtype=torch.float64)
    """
    joint = confusion.double() / confusion.double().sum()
    share = joint.sum(1)
    missing = ~(share > 0)
    if bool(missing.any()):
        raise ValueError(f"class {int(missing.nonzero()[0, 0])} is missing from the confusion matrix")
    seen = torch.bincount(test_pred, minlength=len(joint)).double() / len(test_pred)
    ratio = torch.linalg.lstsq(joint.T, seen[:, None]).solution.squeeze(1).clamp_min(0)
    found = ratio * share
    return found / found.sum()
