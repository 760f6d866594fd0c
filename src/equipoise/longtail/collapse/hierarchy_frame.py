"""A frame whose vectors are the closer, the less it costs to take one class for the other (HAFrame).

    G = (1 − s) exp(−γ D / max D) + s         D costs of mistakes, s the smallest that leaves G positive semidefinite
    A = U diag(√λ) Qᵀ                         G = U diag(λ) Uᵀ, Q a random rotation into d dimensions

s is looked for among 100 values from −1 to −1/(K − 1). For the distances of a tree the last one always will do: there
the weights exp(−γ D / max D)⁻¹ 1 lie in [0, 1], and their sum, at most K, is what G allows. As γ grows, the frame
becomes the simplex.

Liang and Davis, "Inducing Neural Collapse to a Fixed Hierarchy-Aware Frame for Reducing Mistake Severity", ICCV 2023,
reconstructed; the grid and the tolerance are those of the baseline in the code of "Bidirectional Logits Tree", AAAI
2025.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Num
from torch import Tensor
from torch.nn.functional import normalize as unit_rows
from torch.nn.functional import pad

from equipoise.core.signature import checked
from equipoise.core.types import Count, Positive, Whole
from equipoise.longtail.collapse.grassmannian import FrameClassifier, random_rotation, rotate_frame
from equipoise.longtail.hierarchy.bidirectional_logits import check_cost

_GRID = 100
# Eigenvalues down to minus this are zeros that were rounded.
_ROUNDED = 1e-6


@checked
def hierarchy_cosines(cost: Num[Tensor, "k k"], gamma: Positive) -> Float[Tensor, "k k"]:
    """The wanted cosines G of the class vectors.

    Args:
        cost: (K, K) of taking one class for another, such as `LabelTree.cost`: symmetric, 0 on the diagonal only.
        gamma: γ, above 0: how fast the cosine falls with the cost.

    Returns:
        (K, K) float64, positive semidefinite up to 1e-6, with a diagonal of ones.

    Raises:
        ValueError: if the cost is no such matrix, or no s leaves G positive semidefinite.

    >>> hierarchy_cosines(torch.tensor([[0, 1, 2], [1, 0, 2], [2, 2, 0]]), gamma=1.0)
    tensor([[ 1.0000,  0.2131, -0.2642],
            [ 0.2131,  1.0000, -0.2642],
            [-0.2642, -0.2642,  1.0000]], dtype=torch.float64)
    """
    check_cost(cost)
    k, distance = len(cost), cost.detach().double()
    if k < 2:
        raise ValueError(f"cost must be of at least two classes, got shape {tuple(cost.shape)}")
    same = ((distance == 0) & ~torch.eye(k, dtype=torch.bool, device=cost.device)).nonzero()
    if len(same):
        a, b = same[0].tolist()
        raise ValueError(f"cost[{a}, {b}] is 0, so classes {a} and {b} would have one vector; it must be above 0")
    near = (-gamma * distance / distance.max()).exp()
    grid = torch.linspace(-1, -1 / (k - 1), _GRID, dtype=torch.float64).tolist()
    # G is linear in s and semidefinite at s = 0 if anywhere: what is good at one value is good at all above it.
    low, high = 0, _GRID - 1
    if not _is_semidefinite(near, grid[high]):
        raise ValueError(
            f"no frame has these cosines with gamma={gamma}: cost is no distance of a tree; a larger gamma may do"
        )
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _is_semidefinite(near, grid[middle]) else (middle + 1, high)
    return _gram(near, grid[low])


@checked
def hierarchy_frame(
    cost: Num[Tensor, "k k"], gamma: Positive, dim: Count, *, generator: torch.Generator | None = None
) -> Float[Tensor, "k d"]:
    """Unit vectors with the cosines of `hierarchy_cosines`, turned at random.

    Args:
        cost: as in `hierarchy_cosines`.
        gamma: as in `hierarchy_cosines`.
        dim: d, at least the rank of G, which is at most K.
        generator: of the rotation, on the CPU.

    Returns:
        (K, d) float64.

    Raises:
        ValueError: as `hierarchy_cosines`; if d is below the rank.

    >>> frame = hierarchy_frame(1 - torch.eye(3), 50.0, dim=2)
    >>> frame @ frame.T
    tensor([[ 1.0000, -0.5000, -0.5000],
            [-0.5000,  1.0000, -0.5000],
            [-0.5000, -0.5000,  1.0000]], dtype=torch.float64)
    """
    gram = hierarchy_cosines(cost, gamma)
    values, vectors = torch.linalg.eigh(gram)
    kept = values > _ROUNDED
    rank = int(kept.sum())
    if dim < rank:
        raise ValueError(f"dim={dim} must be at least {rank}, the rank of these {len(gram)} vectors' cosines")
    frame = unit_rows(vectors[:, kept] * values[kept].sqrt(), dim=1)
    return rotate_frame(pad(frame, (0, dim - rank)), random_rotation(dim, generator).to(frame))


@checked
def haframe_classifier(
    cost: Num[Tensor, "k k"],
    gamma: Positive,
    dim: Count,
    *,
    scale: Positive = 16.0,
    normalize: bool = True,
    seed: Whole = 0,
) -> FrameClassifier:
    """A classifier with the fixed vectors of `hierarchy_frame`, whose mistakes are to cost less.

    Train by `classifier.loss(features, target, "cosine_deviation", cross_entropy_share=0.5)`: by what share
    cross-entropy counts is the first thing to tune.

    Args:
        cost: (K, K) of taking one class for another, such as `LabelTree.cost`: symmetric, 0 on the diagonal only.
        gamma: γ, above 0: small ones leave little between classes that cost little, large ones give the simplex.
        dim: d of the features, at least the rank of the wanted cosines; K always will do.
        scale: as in `FrameClassifier`.
        normalize: as in `FrameClassifier`.
        seed: of the rotation.

    Raises:
        ValueError: on a bad argument, by name; as `hierarchy_frame`.

    >>> cost = torch.tensor([[0, 1, 2], [1, 0, 2], [2, 2, 0]])
    >>> y = torch.arange(60) % 3
    >>> x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)) + 2 * torch.eye(4)[y]
    >>> model, head = torch.nn.Linear(4, 3), haframe_classifier(cost, gamma=3.0, dim=3)
    >>> optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    >>> for _ in range(30):
    ...     optimizer.zero_grad()
    ...     loss = head.loss(model(x), y, "cosine_deviation", cross_entropy_share=0.5)
    ...     loss.backward()
    ...     optimizer.step()
    >>> (head(model(x)).argmax(1) == y).float().mean().item() > 0.8
    True
    """
    frame = hierarchy_frame(cost, gamma, dim, generator=torch.Generator().manual_seed(seed))
    return FrameClassifier(frame, scale, normalize=normalize)


def _gram(near: Tensor, s: float) -> Tensor:
    return (1 - s) * near + s


def _is_semidefinite(near: Tensor, s: float) -> bool:
    return float(torch.linalg.eigvalsh(_gram(near, s)).min()) >= -_ROUNDED
