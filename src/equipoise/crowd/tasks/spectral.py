"""How far weights are from blocks: the smallest eigenvalues of the graph of features and tasks.

The weights W (features × tasks) are a graph whose vertices are the features and the tasks and whose edges weigh
|W_ij|. As many eigenvalues of its Laplacian are zero as it has components, so that

    R_k(W) = λ_1 + ... + λ_k = min { ⟨Lap(W), U⟩ : 0 ≤ U ≤ I, tr U = k }

is zero where W has k blocks or more. With U fixed it is a weighted sum of magnitudes,

    ⟨Lap(W), U⟩ = Σ_ij D_ij |W_ij|        D_ij = U_ii + U_d+j,d+j − 2 U_i,d+j

where D is zero within a block and large across blocks.

Yang et al., "Task-Feature Collaborative Learning with Application to Personalized Attribute Prediction", TPAMI 2021.
Reconstructed: the graph and the penalty are those of the authors' related code (joshuaas/GBDSP-NeurIPS19), the term
α₃/2 ‖U‖² is from memory, and the closed form of the U step is derived here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, Real
from equipoise.data.comparisons.answers import graph_components

# Eigenvalues closer than this share of the largest are one.
_TIE = 1e-9


class BlockPenalty(NamedTuple):
    """The penalty and the graph it is of.

    Attributes:
        value: R_k(W), a scalar that can be differentiated.
        laplacian: (d + T, d + T), the features first.
        eigenvalues: (d + T,) ascending.
        n_components: components of the graph; a feature or task of weights 0 is one.
    """

    value: Tensor
    laplacian: Tensor
    eigenvalues: Tensor
    n_components: int


class Assignment(NamedTuple):
    """The best U for given weights.

    Attributes:
        U: (d + T, d + T).
        distance: (d, T) D, at least 0.
        penalty: ⟨Lap(W), U⟩, a scalar.
        weight: (d + T,) what U has of each eigenvector, in the order of `eigenvalues`.
        eigenvalues: (d + T,) of Lap(W), ascending.
        vectors: (d + T, d + T) the eigenvectors, in columns.
    """

    U: Tensor
    distance: Tensor
    penalty: Tensor
    weight: Tensor
    eigenvalues: Tensor
    vectors: Tensor


@checked
def block_diagonal_penalty(weight: Float[Tensor, "d tasks"], k: Count) -> BlockPenalty:
    """R_k(W), the sum of the k smallest eigenvalues of the Laplacian of |W|.

    Args:
        weight: (d, T) a column of weights for each task.
        k: blocks wanted, at most d + T.

    Returns:
        The value, zero where W has k blocks, with the Laplacian, its eigenvalues and its number of components.

    Raises:
        ValueError: if k is larger than d + T, or on a bad argument, by name.

    >>> found = block_diagonal_penalty(torch.eye(2), 2)
    >>> float(found.value), found.n_components
    (0.0, 2)
    """
    check_blocks(k, *weight.shape)
    with torch.autocast(weight.device.type, enabled=False):
        laplacian = _laplacian(weight)
        eigenvalues = torch.linalg.eigvalsh(laplacian)
    features, tasks = weight_components(weight)
    count = int(torch.cat([features, tasks]).max()) + 1
    # Rounding makes zeros negative.
    value = eigenvalues[:k].sum()
    return BlockPenalty(value + (-value.detach()).clamp_min(0), laplacian, eigenvalues, count)


@checked
def capped_simplex_projection(v: Float[Tensor, " n"], total: Real) -> Float[Tensor, " n"]:
    """The nearest vector with entries in [0, 1] that sum to `total`: c_i = clip(v_i − m, 0, 1).

    The sum falls in m by straight pieces between the points v_i and v_i − 1; m is found on the piece that crosses.

    Args:
        v: (n,) any numbers.
        total: in [0, n].

    Raises:
        ValueError: if no such vector exists.

    >>> capped_simplex_projection(torch.tensor([2.0, 0.5, 0.2]), 2.0)
    tensor([1.0000, 0.6500, 0.3500])
    """
    if not 0 <= total <= len(v):
        raise ValueError(f"total={total:g} must lie in [0, {len(v)}], the sums of {len(v)} entries in [0, 1]")
    if total == len(v):
        return torch.ones_like(v)
    wide = v.double()
    points = torch.cat([wide - 1, wide]).sort().values
    ordered = wide.sort().values
    running = torch.cat([wide.new_zeros(1), ordered.cumsum(0)])

    def sums(m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Entries at 1, entries between, and the sum of these v, at each m."""
        low, high = torch.searchsorted(ordered, m, right=True), torch.searchsorted(ordered, m + 1)
        high = torch.maximum(low, high)
        return len(v) - high, high - low, running[high] - running[low]

    full, between, inside = sums(points)
    total_at = full + inside - between * points
    # The last point whose sum is still large enough; the wanted m lies between it and the next.
    at = int((total_at >= total).nonzero().max()) if bool((total_at >= total).any()) else 0
    middle = (points[at] + points[min(at + 1, len(points) - 1)]) / 2
    full, between, inside = (each[0] for each in sums(middle[None]))
    m = (inside + full - total) / between if int(between) else points[at]
    return (wide - m).clamp(0, 1).to(v.dtype)


@checked
def spectral_assignment(
    weight: Float[Tensor, "d tasks"], k: Count, alpha1: NonNegative = 1.0, alpha3: NonNegative = 0.0
) -> Assignment:
    """The U step, exactly: the minimiser of α₁ ⟨Lap(W), U⟩ + α₃/2 ‖U‖² over 0 ≤ U ≤ I, tr U = k.

    U has the eigenvectors of the Laplacian, with weights that for α₃ > 0 are the projection of −α₁ λ / α₃ onto the
    capped simplex. For α₃ = 0 it is their limit: 1 below λ_k, equal shares of what is left among all eigenvectors of
    λ_k, 0 above, so that no choice is made among equals.

    Args:
        weight: (d, T).
        k: blocks, at most d + T.
        alpha1: α₁.
        alpha3: α₃; what makes U move smoothly with W.

    Raises:
        ValueError: if k is larger than d + T, or on a bad argument, by name.

    >>> spectral_assignment(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), 2).distance.round()
    tensor([[0., 1.],
            [1., 0.]])
    """
    check_blocks(k, *weight.shape)
    d = len(weight)
    with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
        eigenvalues, vectors = torch.linalg.eigh(_laplacian(weight.detach()))
        if alpha3 > 0:
            share = capped_simplex_projection(-alpha1 / alpha3 * eigenvalues, float(k))
        else:
            share = _limit(eigenvalues, k)
        U = (vectors * share) @ vectors.T
        own = U.diagonal()
        distance = (own[:d, None] + own[None, d:] - 2 * U[:d, d:]).clamp_min(0)
        penalty = (distance * weight.detach().abs()).sum()
    return Assignment(U, distance, penalty, share, eigenvalues, vectors)


def weight_components(weight: Float[Tensor, "d tasks"], threshold: float = 0.0) -> tuple[Tensor, Tensor]:
    """The block of every feature (d,) and of every task (T,): components of |W| > threshold, the largest first."""
    feature, task = (weight.detach().abs() > threshold).nonzero().cpu().unbind(1)
    found = graph_components(feature.numpy(), task.numpy() + len(weight), sum(weight.shape))
    return found[: len(weight)], found[len(weight) :]


def check_blocks(k: int, d: int, tasks: int) -> None:
    """Raise `ValueError` if there are more blocks than vertices."""
    if k > d + tasks:
        raise ValueError(f"k={k} must be at most {d + tasks}, the {d} features and {tasks} tasks together")


def _limit(eigenvalues: Tensor, k: int) -> Tensor:
    edge, slack = eigenvalues[k - 1], _TIE * float(eigenvalues[-1].clamp_min(0))
    below = eigenvalues < edge - slack
    equal = (eigenvalues - edge).abs() <= slack
    left = k - int(below.sum())
    return below.to(eigenvalues) + equal.to(eigenvalues) * (left / int(equal.sum()))


def _laplacian(weight: Tensor) -> Tensor:
    size = weight.abs()
    rows, columns = size.sum(1), size.sum(0)
    upper = torch.cat([torch.diag(rows), -size], 1)
    return torch.cat([upper, torch.cat([-size.T, torch.diag(columns)], 1)])
