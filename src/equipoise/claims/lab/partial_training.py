"""The training that the claims on partial AUC share: data, network, batches, and what is measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from sklearn.datasets import make_classification
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim import Optimizer

from equipoise.core.solvers.saddle_solvers import AcceleratedDescentAscent
from equipoise.ranking import auroc, opauc, pairwise_auc_loss, partial_auroc

EPOCHS, WARM_UP, BATCHES, BATCH_POS, BATCH_NEG = 45, 12, 8, 48, 192
PROTOCOL = (
    "make_classification with 12,000 samples, 8 % positives and 2 % label noise, the first 2,500 for training; an MLP "
    "20-16-1, 45 epochs of 8 batches of 48 positives and 192 negatives, L2 penalty 1e-4, the same initial weights and "
    "batches for every arm of a seed. Cross-entropy and the square AUC loss on probabilities: Adam 5e-3. The others "
    "begin with 12 epochs of cross-entropy under Adam 5e-3. The instance-wise losses then go on under the accelerated "
    "descent-ascent, k = 1, m = 500, c1 = c2 = 3, network step 1, scalars 0.1, θ_b 0.01, from a = 1, b = γ = 0, "
    "s⁻ = 1, which takes two gradients a step"
)

MakeOptimizer = Callable[[nn.Module, nn.Module], Optimizer]


class CrossEntropy(nn.Module):
    """Log loss of logits; takes, and leaves, the index of the samples as the others do."""

    def forward(self, logits: Tensor, target: Tensor, index: Tensor | None = None) -> Tensor:
        """Mean over the batch."""
        return binary_cross_entropy_with_logits(logits, target.to(logits.dtype))


class SquareAUC(nn.Module):
    """Square loss of all pairs of probabilities."""

    def forward(self, logits: Tensor, target: Tensor, index: Tensor | None = None) -> Tensor:
        """Mean over the pairs of the batch."""
        return pairwise_auc_loss(logits.sigmoid(), target, surrogate="square", margin=1.0)


def adam(model: nn.Module, loss: nn.Module) -> Optimizer:
    """Of the network alone: for losses without variables of their own."""
    return torch.optim.Adam(model.parameters(), lr=5e-3, weight_decay=1e-4)


def accelerated(lr: float = 1.0) -> MakeOptimizer:
    """The papers' solver; scalars step a tenth of the network's, multipliers a hundredth."""

    def make(model: nn.Module, loss: nn.Module) -> Optimizer:
        rates = {name: 0.1 * lr for name, _ in loss.named_parameters(recurse=False)}
        rates |= {name: 0.01 * lr for name in rates if name.startswith("theta")}
        return AcceleratedDescentAscent(model, loss, lr=lr, dual_lr=rates, m=500, weight_decay=1e-4)

    return make


def problem(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and test features and targets."""
    features, labels = make_classification(
        12_000,
        20,
        n_informative=8,
        n_redundant=2,
        n_clusters_per_class=4,
        weights=[0.92],
        class_sep=0.9,
        flip_y=0.02,
        random_state=seed,
    )
    x, y = torch.as_tensor(features, dtype=torch.float32), torch.as_tensor(labels).long()
    return x[:2500], y[:2500], x[2500:], y[2500:]


def train(
    x: Tensor,
    y: Tensor,
    loss: nn.Module,
    make_optimizer: MakeOptimizer,
    seed: int,
    *,
    warm_up: int = WARM_UP,
    warm_start: bool = False,
    with_index: bool = False,
) -> nn.Module:
    """Train from the seed's initial weights on the seed's batches.

    Args:
        x: training features.
        y: training targets.
        loss: of the epochs after the warm-up.
        make_optimizer: of (model, loss), for these epochs.
        seed: of weights and batches.
        warm_up: epochs of cross-entropy before.
        warm_start: start the loss's variables at the saddle point of the first batch after the warm-up.
        with_index: tell the loss which samples a batch has.
    """
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 1))
    for parameter in model.parameters():
        bound = 1 / math.sqrt(20 if parameter.shape[0] == 16 else 16)
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    positives, negatives = (y == 1).nonzero().squeeze(1), (y == 0).nonzero().squeeze(1)
    active: nn.Module = CrossEntropy()
    optimizer = adam(model, active)
    for epoch in range(EPOCHS):
        if epoch == warm_up:
            active, optimizer = loss, make_optimizer(model, loss)
        for number in range(BATCHES):
            batch = torch.cat(
                [
                    positives[torch.randperm(len(positives), generator=generator)[:BATCH_POS]],
                    negatives[torch.randperm(len(negatives), generator=generator)[:BATCH_NEG]],
                ]
            )
            if warm_start and epoch == warm_up and number == 0:
                loss.initialize(model(x[batch]).squeeze(1).detach(), y[batch])  # type: ignore[operator]
            value = partial(active, **({"index": batch} if with_index else {}))
            step: Callable[..., object] = optimizer.step  # PyTorch's signature wants a closure that returns a float
            step(partial(_evaluate, optimizer, model, value, x[batch], y[batch]))
    return model


def _evaluate(optimizer: Optimizer, model: nn.Module, loss: Callable[..., Tensor], x: Tensor, y: Tensor) -> Tensor:
    optimizer.zero_grad()
    value = loss(model(x).squeeze(1), y)
    value.backward()
    return value


def judged(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """The test measures."""
    with torch.no_grad():
        scores = model(x).squeeze(1)
    return {
        "OPAUC(0.3)": float(opauc(scores, y, max_fpr=0.3)),
        "TPAUC(0.5, 0.5)": float(partial_auroc(scores, y, pos_frac=0.5, neg_frac=0.5)),
        "AUC": float(auroc(scores, y)),
    }


def pairwise_risk(scores: Tensor, target: Tensor, pos_frac: float, neg_frac: float) -> float:
    """The square risk of the kept pairs, from its definition: sort, weigh, and write every pair out."""
    sides = []
    for side, share in ((scores[target == 1].sort().values, pos_frac), (scores[target == 0].sort().values, neg_frac)):
        total = share * len(side)
        # 0.3 · 10 means 3, which it is not in floating point.
        rank = torch.arange(len(side), dtype=scores.dtype)
        sides.append((side, (total - rank).clamp(0, 1) if abs(total - round(total)) > 1e-9 else (rank < round(total))))
    (pos, w), (neg, v) = sides
    neg, v = neg.flip(0), v.to(scores.dtype)
    weight = w.to(scores.dtype)[:, None] * v[None, :]
    return float(((1 - pos[:, None] + neg[None, :]).square() * weight).sum() / weight.sum())
