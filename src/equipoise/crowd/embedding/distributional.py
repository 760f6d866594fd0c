"""The distributional margin: every margin near one value, so that margins are large on average and do not vary.

    min over G ⪰ 0 of  Σ_q max(γ₀ − m_q, 0)^p + max(m_q − γ₀, 0)^p  +  λ ‖G‖_*        p = 1 or 2

On positive semidefinite matrices the nuclear norm is the trace.

Ma, Xu and Cao, "Less but Better: Generalization Enhancement of Ordinal Embedding via Distributional Margin", AAAI 2019.
The steps are those of the authors' code (alphaprime/DMOE) with the sign of the margin corrected: there the violated
side is driven to γ₀. The objective is derived from these steps (reconstructed).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.solvers.proximal import prox_nuclear
from equipoise.core.types import NonNegative, Positive, Scalar
from equipoise.crowd.embedding.losses import Power, losses_of_distances
from equipoise.crowd.embedding.margins import AnswerMap, Gram, Triplets, as_answers, check_gram, margins

_MOST_STEPS = 2000


class AdmmState(NamedTuple):
    """What one step of the authors' scheme leaves.

    Attributes:
        E1: (t,) copy of γ₀ − m, whose positive side is penalised.
        E2: (t,) copy of m − γ₀.
        G1: (n, n) copy of G under the nuclear norm.
        G2: (n, n) positive semidefinite copy of G.
        G: (n, n) what ties them.
        z1: (t,) multiplier of E1.
        z2: (t,) of E2.
        Z3: (n, n) of G1.
        Z4: (n, n) of G2.
    """

    E1: Tensor
    E2: Tensor
    G1: Tensor
    G2: Tensor
    G: Tensor
    z1: Tensor
    z2: Tensor
    Z3: Tensor
    Z4: Tensor


@checked
def dmoe_objective(
    gram: Gram,
    triplets: Triplets,
    p: Power = 2,
    gamma0: Positive = 1.0,
    lam: NonNegative = 0.0,
    *,
    lower_weight: NonNegative = 1.0,
    upper_weight: NonNegative = 1.0,
) -> Scalar:
    """The objective at a Gram matrix, summed over triplets.

    Args:
        gram: (n, n) symmetric.
        triplets: (t, 3): anchor, near, far.
        p: 1 or 2.
        gamma0: γ₀, where every margin should be. For p = 1 it only sets the unit; for p = 2 only λ/γ₀ matters.
        lam: λ of the trace.
        lower_weight: of margins below γ₀.
        upper_weight: of margins above γ₀; 0 for the hinge or squared hinge.

    Raises:
        ValueError: naming the first bad triplet; if the matrix is not symmetric, or on a bad argument, by name.

    >>> dmoe_objective(torch.eye(3), torch.tensor([[0, 1, 2]]), lam=0.5)
    tensor(2.5000)
    """
    check_gram(gram)
    quads, _ = as_answers(triplets, len(gram))
    margin = margins(gram, quads.to(gram.device), gram=True)
    settings = {"p": p, "gamma0": gamma0, "lower_weight": lower_weight, "upper_weight": upper_weight}
    values = losses_of_distances(torch.zeros_like(margin), margin, "distributional", **settings)
    return values.sum() + lam * gram.diagonal().sum()


@checked
def hinge_prox(s: Float[Tensor, " t"], p: Power, mu: Positive) -> Float[Tensor, " t"]:
    """argmin_E  max(E, 0)^p + μ/2 (E − s)², entry by entry.

    Args:
        s: (t,).
        p: 1 or 2.
        mu: μ.

    >>> hinge_prox(torch.tensor([-1.0, 0.5, 3.0]), 1, 1.0), hinge_prox(torch.tensor([-1.0, 3.0]), 2, 1.0)
    (tensor([-1.,  0.,  2.]), tensor([-1.,  1.]))
    """
    moved = (s - 1 / mu).clamp_min(0) if p == 1 else s / (1 + 2 / mu)
    return torch.where(s <= 0, s, moved)


@checked
def psd_projection(matrix: Gram) -> Gram:
    """The nearest positive semidefinite matrix to the symmetric part of a square one.

    >>> psd_projection(torch.tensor([[1.0, 2.0], [0.0, -3.0]])).diagonal() >= 0
    tensor([True, True])
    """
    return shrunk_spectrum((matrix + matrix.T) / 2, 0.0)


@checked
def nuclear_prox(matrix: Float[Tensor, "rows columns"], threshold: NonNegative) -> Float[Tensor, "rows columns"]:
    """The proximal map of the nuclear norm: every singular value less by `threshold`, at least 0.

    >>> nuclear_prox(torch.diag(torch.tensor([3.0, -0.5])), 1.0)
    tensor([[2., 0.],
            [0., 0.]])
    """
    return prox_nuclear(matrix, threshold)


@checked
def dmoe_admm_step(
    gram: Gram,
    triplets: Triplets,
    p: Power = 1,
    gamma0: Positive = 10.0,
    lam: NonNegative = 0.0,
    mu: Positive = 0.1,
    *,
    z1: Float[Tensor, " t"] | None = None,
    z2: Float[Tensor, " t"] | None = None,
    Z3: Gram | None = None,
    Z4: Gram | None = None,
) -> AdmmState:
    """One step of the augmented Lagrangian scheme of the authors' code; `dmoe_fit` solves the same problem faster.

    Args:
        gram: (n, n) G.
        triplets: (t, 3): anchor, near, far.
        p: 1 or 2.
        gamma0: γ₀.
        lam: λ.
        mu: μ, the penalty of the scheme. The authors multiply it by 1.05 after each step, up to 1e5, which freezes the
            iterate after some two hundred steps wherever it is.
        z1: (t,) multiplier; zeros by default, as are the others.
        z2: (t,).
        Z3: (n, n).
        Z4: (n, n).

    Returns:
        All variables and multipliers after the step, in float64. The feasible matrix is G2.

    Raises:
        ValueError: as `dmoe_objective`.

    >>> dmoe_admm_step(torch.eye(3), torch.tensor([[0, 1, 2]])).G2.diagonal()
    tensor([1., 1., 1.], dtype=torch.float64)
    """
    check_gram(gram)
    quads, n = as_answers(triplets, len(gram))
    answers, wide = AnswerMap(quads, n), gram.detach().double()
    none = wide.new_zeros(len(answers)), torch.zeros_like(wide)
    first, second = (none[0] if z is None else z.double() for z in (z1, z2))
    third, fourth = (none[1] if Z is None else Z.double() for Z in (Z3, Z4))
    lack = gamma0 - answers.of_gram(wide)
    E1, E2 = hinge_prox(lack - first / mu, p, mu), hinge_prox(-lack - second / mu, p, mu)
    G1, G2 = nuclear_prox(wide + third / mu, lam / mu), psd_projection(wide + fourth / mu)
    pull = E2 - E1 + (second - first) / mu + 2 * gamma0
    tied = answers.transposed(pull) + G1 - third / mu + G2 - fourth / mu
    G = solve_normal(answers, tied / 2, wide)
    lack = gamma0 - answers.of_gram(G)
    multipliers = first + mu * (E1 - lack), second + mu * (E2 + lack), third + mu * (G - G1), fourth + mu * (G - G2)
    return AdmmState(E1, E2, G1, G2, G, *multipliers)


def shrunk_spectrum(matrix: Tensor, threshold: float) -> Tensor:
    """A symmetric matrix with every eigenvalue less by `threshold`, at least 0."""
    with torch.autocast(matrix.device.type, enabled=False):
        eigenvalues, vectors = torch.linalg.eigh(matrix)
        kept = eigenvalues > threshold
        own = vectors[:, kept]
        return (own * (eigenvalues[kept] - threshold)) @ own.T


def solve_normal(answers: AnswerMap, wanted: Tensor, start: Tensor, tol: float = 1e-12) -> Tensor:
    """(I + AᵀA)⁻¹ of a matrix, by conjugate gradients from a start."""

    def applied(matrix: Tensor) -> Tensor:
        return matrix + answers.transposed(answers.of_gram(matrix))

    found = start.clone()
    residual = wanted - applied(found)
    direction, size = residual.clone(), float(residual.square().sum())
    goal = tol**2 * max(float(wanted.square().sum()), 1e-300)
    for _ in range(_MOST_STEPS):
        if size <= goal:
            break
        bent = applied(direction)
        step = size / float((direction * bent).sum())
        found += step * direction
        residual -= step * bent
        before, size = size, float(residual.square().sum())
        direction = residual + size / before * direction
    return found
