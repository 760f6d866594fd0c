"""Labels on several levels of a tree, without the coarse ones drawing the encoder away from the fine ones.

    z_0 = Linear(x)          z_h = g_h(z_{h−1})                    only the finest level sees the features
    z'_h = (β W̄_h − C_h) softmax(z_h)                              scores: less, by expectation, is a worse mistake
    L_h = CE(z_h, y_h) + (1 − ε) CE(z'_h, y_h) + ε CE(z'_h, q),    q = softmax(−γ (C_h − β W̄_h)[y_h])
    L = Σ_h λ_h L_h,  λ_h = exp(−α h) by default

C_h are the distances of the tree, W̄_h learned corrections: W with a zero diagonal and rows of norm 1. No gradient goes
through q.

"Bidirectional Logits Tree: Pursuing Granularity Reconcilement in Fine-Grained Classification", AAAI 2025. Formulas are
those of the authors' code; adding the identity to W̄ is what its CIFAR variant does (`add_identity`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from equipoise.core.signature import checked
from equipoise.core.types import ClassScores, ClassTarget, Count, NonNegative, Probability
from equipoise.longtail.hierarchy.label_tree import LabelTree

Weighting: TypeAlias = Literal["exp", "linear", "equal", "finest"]
_ACTIVATIONS = {"elu": lambda: nn.ELU(), "leaky_relu": lambda: nn.LeakyReLU(0.1)}


class LogitChain(nn.Module):
    """Features to logits of every level: the finest from the features, each coarser one from the logits before it.

    Args:
        in_features: of the encoder.
        num_classes: of every level, the finest first.
        activation: "elu" or "leaky_relu" (slope 0.1).

    >>> [z.shape[1] for z in LogitChain(8, (6, 3, 2))(torch.randn(4, 8))]
    [6, 3, 2]
    """

    @checked
    def __init__(
        self, in_features: Count, num_classes: Sequence[Count], activation: Literal["elu", "leaky_relu"] = "elu"
    ) -> None:
        super().__init__()
        if not num_classes:
            raise ValueError("num_classes names no level")
        self.finest = nn.Linear(in_features, num_classes[0])
        self.steps = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm1d(below),
                nn.Linear(below, above),
                nn.BatchNorm1d(above),
                _ACTIVATIONS[activation](),
                nn.Linear(above, above),
            )
            for below, above in pairwise(num_classes)
        )

    def forward(self, features: Float[Tensor, "n d"]) -> list[Float[Tensor, "n _"]]:
        """Logits of every level, the finest first.

        Raises:
            ValueError: on a batch of one sample while training, of which batch norm has no statistics.
        """
        if self.training and len(self.steps) and len(features) < 2:
            raise ValueError("batch norm needs 2 samples while training; use larger batches or model.eval()")
        logits = [self.finest(features)]
        for step in self.steps:
            logits.append(step(logits[-1]))
        return logits


class AIGDL(nn.Module):
    """Adaptive distances inside a level: logits to scores that expect the cost of a mistake.

    Args:
        cost: (K, K) distances, not negative, with a zero diagonal.
        beta: β, how much the learned correction counts.
        add_identity: add the identity to the correction.

    Raises:
        ValueError: if the cost is not square, negative, or has a diagonal.

    >>> AIGDL(1 - torch.eye(2), beta=0.0)(torch.tensor([[0.0, 0.0]]))
    tensor([[-0.5000, -0.5000]], grad_fn=<MmBackward0>)
    """

    cost: Tensor

    @checked
    def __init__(self, cost: Num[Tensor, "k k"], beta: NonNegative = 0.5, add_identity: bool = False) -> None:
        super().__init__()
        check_cost(cost)
        size = len(cost)
        self.register_buffer("cost", cost.to(torch.get_default_dtype()) if not cost.is_floating_point() else cost)
        self.weight = nn.Parameter(torch.full_like(self.cost, 1 / size))
        self.beta, self.add_identity = beta, add_identity

    @property
    def correction(self) -> Float[Tensor, "k k"]:
        """W̄."""
        return normalize(self.weight - self.weight.diag().diag(), dim=1)

    @property
    def distance(self) -> Float[Tensor, "k k"]:
        """C − β W̄, without graph and without the identity."""
        return self.cost - self.beta * self.correction.detach()

    @checked
    def forward(self, logits: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """The scores z' of logits."""
        matrix = self.beta * self.correction - self.cost
        if self.add_identity:
            matrix = matrix + self.beta * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
        with torch.autocast(logits.device.type, enabled=False):
            return logits.softmax(1) @ matrix.to(logits.dtype).T

    @checked
    def loss(
        self, logits: ClassScores, target: ClassTarget, epsilon: Probability = 0.5, gamma: NonNegative = 1.0
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """(CE(z, y), (1 − ε) CE(z', y) + ε CE(z', q)) of one level, means over samples."""
        adjusted = self(logits)
        q = (-gamma * self.distance.to(logits.dtype)).softmax(1)[target]
        smooth = -(q * adjusted.log_softmax(1)).sum(1).mean()
        return cross_entropy(logits, target), (1 - epsilon) * cross_entropy(adjusted, target) + epsilon * smooth


class BiLTLoss(nn.Module):
    """The losses of all levels, weighed; holds the learned distances, whose parameters must be optimized too.

    Args:
        tree: the labels' tree.
        alpha: α, at least 0; 0 weighs all levels alike.
        beta: β of `AIGDL`.
        epsilon: ε, share of the smoothed target, in [0, 1].
        gamma: γ, at least 0; 0 smooths evenly.
        weighting: "exp" (exp(−α h)), "linear" (H − h; "uniform" in the authors' code), "equal" or "finest".
        add_identity: as in `AIGDL`.

    >>> tree = LabelTree.from_nested({"a": ["x", "y"], "b": ["z"]})
    >>> x, y = torch.randn(30, 4), torch.arange(30) % 3
    >>> head, loss = LogitChain(4, tree.num_classes), BiLTLoss(tree)
    >>> optimizer = torch.optim.SGD([*head.parameters(), *loss.parameters()], lr=0.1)
    >>> for _ in range(5):
    ...     optimizer.zero_grad()
    ...     loss(head(x + 3 * torch.eye(4)[y]), y).backward()
    ...     optimizer.step()
    >>> loss.adjusted(head(x))[0].shape
    torch.Size([30, 3])
    """

    @checked
    def __init__(
        self,
        tree: LabelTree,
        alpha: NonNegative = 1.0,
        beta: NonNegative = 0.5,
        epsilon: Probability = 0.5,
        gamma: NonNegative = 1.0,
        weighting: Weighting = "exp",
        *,
        add_identity: bool = False,
    ) -> None:
        super().__init__()
        self.tree, self.epsilon, self.gamma = tree, epsilon, gamma
        self.level_weights = level_weights(tree.num_levels, weighting, alpha)
        self.levels = nn.ModuleList(AIGDL(tree.cost(h), beta, add_identity) for h in range(tree.num_levels))

    def forward(self, logits: Sequence[Float[Tensor, "n _"]], target: ClassTarget) -> Float[Tensor, ""]:
        """The loss of one (n, classes) of logits per level, the finest first, by the finest classes (n,).

        Raises:
            ValueError: if there are not as many logits as levels, sizes do not fit, or a class is out of range.
        """
        values = self.level_losses(logits, target)
        return torch.stack([w * value for w, value in zip(self.level_weights, values, strict=True)]).sum()

    @checked
    def level_losses(self, logits: Sequence[Float[Tensor, "n _"]], target: ClassTarget) -> list[Float[Tensor, ""]]:
        """L_h of every level, unweighed; errors as `forward`."""
        found = []
        for (level, z), ancestors in zip(self._by_level(logits), self.tree.targets(target).T, strict=True):
            plain, adjusted = level.loss(z, ancestors, self.epsilon, self.gamma)
            found.append(plain + adjusted)
        return found

    @checked
    def adjusted(self, logits: Sequence[Float[Tensor, "n _"]]) -> list[Float[Tensor, "n _"]]:
        """The scores z' of every level; their argmax is the prediction."""
        return [level(z) for level, z in self._by_level(logits)]

    def _by_level(self, logits: Sequence[Tensor]) -> list[tuple[Any, Tensor]]:
        sizes = tuple(z.shape[1] for z in logits)
        if sizes != self.tree.num_classes:
            raise ValueError(f"logits must have {self.tree.num_classes} columns level by level, got {sizes}")
        return list(zip(self.levels, logits, strict=True))


class BiLT(nn.Module):
    """An encoder with the logit chain and the learned distances.

    Args:
        encoder: inputs to features (n, in_features).
        in_features: of the encoder.
        loss: a `BiLTLoss`, whose tree says how many classes there are.
        activation: of `LogitChain`.
    """

    @checked
    def __init__(
        self, encoder: nn.Module, in_features: Count, loss: BiLTLoss, activation: Literal["elu", "leaky_relu"] = "elu"
    ) -> None:
        super().__init__()
        self.encoder, self.objective = encoder, loss
        self.chain = LogitChain(in_features, loss.tree.num_classes, activation)

    def forward(self, inputs: Tensor) -> list[Float[Tensor, "n _"]]:
        """Logits of every level, the finest first."""
        return self.chain(self.encoder(inputs))

    def loss(self, inputs: Tensor, target: ClassTarget) -> Float[Tensor, ""]:
        """The loss of a batch by its finest classes."""
        return self.objective(self(inputs), target)

    @torch.no_grad()
    def predict(self, inputs: Tensor, level: int = 0, *, consistent: bool = False) -> Int[Tensor, " n"]:
        """Classes of a level: the argmax of its own scores, or (`consistent`) the ancestor of the finest prediction."""
        scores = self.objective.adjusted(self(inputs))
        if not consistent:
            return scores[level].argmax(1)
        finest = scores[0].argmax(1)
        return self.objective.tree.ancestors(level).to(finest.device)[finest]


@checked
def level_weights(num_levels: Count, weighting: Weighting = "exp", alpha: NonNegative = 1.0) -> list[float]:
    """λ per level, the finest first, the largest being 1.

    >>> level_weights(3, "linear")
    [1.0, 0.6666666666666666, 0.3333333333333333]
    """
    levels = range(num_levels)
    if weighting == "exp":
        return [math.exp(-alpha * h) for h in levels]
    if weighting == "linear":
        return [(num_levels - h) / num_levels for h in levels]
    return [1.0 if weighting == "equal" or h == 0 else 0.0 for h in levels]


@checked
def crm_decision(probabilities: Float[Tensor, "n k"], cost: Num[Tensor, "k k"]) -> Int[Tensor, " n"]:
    """The class of least expected cost, argmin_a Σ_b C[a, b] p_b; of several the first.

    >>> crm_decision(torch.tensor([[0.4, 0.35, 0.25]]), torch.tensor([[0, 3, 3], [3, 0, 1], [3, 1, 0]]))
    tensor([1])
    """
    check_cost(cost)
    return (probabilities.double() @ cost.double().T).argmin(1)


def check_cost(cost: Tensor) -> None:
    """Raise `ValueError` unless a cost is not negative, symmetric, and zero on its diagonal."""
    if bool((cost < 0).any()) or bool((cost.diagonal() != 0).any()) or not torch.equal(cost, cost.T):
        raise ValueError("cost must be symmetric, not negative, and zero on its diagonal")
