"""What a kernel predicts of gradient descent: the loss after each step, and when one net overtakes another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, Positive, Whole
from equipoise.language.gated.spectrum import symmetric
from equipoise.language.gated.two_layer import NTK

InitCov = Literal["nngp", "ntk", "zero"]
# Losses that differ by less than this share are the same, up to the rounding of an eigendecomposition.
_SAME = 1e-12
_EVERY, _GROWTH = 64, 1.01


class LossPhases(NamedTuple):
    """The first and the last phase of gradient descent.

    Attributes:
        quadratic_form: Yᵀ K Y; the larger, the faster the start.
        early_slope: change of the mean loss at the first steps, −(η/n) Yᵀ K Y.
        late_rate: factor of the loss per step at the end, (1 − η λ_min)².
        largest_step: 2 / λ_max, which η must stay below.
    """

    quadratic_form: float
    early_slope: float
    late_rate: float
    largest_step: float


@checked
def expected_gd_loss(
    kernel: Float[Tensor, "n n"] | NTK,
    y: Float[Tensor, " n"],
    eta: Positive,
    steps: Sequence[Whole],
    *,
    init_cov: InitCov | Float[Tensor, "n n"] = "nngp",
) -> Float[Tensor, " steps"]:
    """The expected mean loss of full-batch gradient descent under a constant kernel.

        E[L_k] / n = ( Tr[ (I − η K)^{2k} S₀ ] + Yᵀ (I − η K)^{2k} Y ) / (2n),   L = ½ ‖f − Y‖²

    "The Devil is in the Condition Numbers", ICML 2026, proposition 4.1; reconstructed. η is that of the sum of squares:
    `nn.MSELoss` (a mean) with a learning rate of lr has η = 2 lr / n.

    Args:
        kernel: K, (n, n); or both kernels as `two_layer_ntk` gives them.
        y: (n,) targets.
        eta: step, below 2/λ_max.
        steps: k, of which the loss is wanted.
        init_cov: covariance S₀ of the outputs before training: "nngp", the exact one, which needs both kernels; "zero",
            a net that starts at 0 (`CenteredModel`); "ntk", K itself; or a matrix (n, n).

    Returns:
        A loss per step, float64.

    Raises:
        ValueError: on a bad argument, by name; if η is too large, with the bound.

    >>> expected_gd_loss(torch.eye(2), torch.ones(2), 0.5, [0, 1, 2], init_cov="zero")
    tensor([0.5000, 0.1250, 0.0312], dtype=torch.float64)
    """
    loss = _loss(kernel, y, eta, init_cov)
    return loss(torch.tensor(steps, dtype=torch.float64, device=y.device))


@checked
def loss_crossing_step(
    plain: Float[Tensor, "n n"] | NTK,
    gated: Float[Tensor, "n n"] | NTK,
    y: Float[Tensor, " n"],
    eta: Positive,
    *,
    init_cov: InitCov = "nngp",
    max_steps: Count = 400_000,
) -> int | None:
    """The first step after which the second net has the lower expected loss, having had the higher one before.

    "The Devil is in the Condition Numbers", ICML 2026, corollary 4.2, for one step η of both. It is looked for at each
    of the first steps and then on a grid that grows by 1 %, and found exactly by bisection: two crossings within one
    interval of the grid would be missed.

    Args:
        plain: kernel of the net that is ahead at first, as in `expected_gd_loss`.
        gated: kernel of the other one.
        y: (n,) targets.
        eta: step of both, below 2/λ_max of both.
        init_cov: as in `expected_gd_loss`, for both.
        max_steps: the last step that is looked at.

    Returns:
        The step; None if there is none.

    Raises:
        ValueError: on a bad argument, by name; if η is too large, with the bound.

    >>> y = torch.tensor([1.0, 1.0])
    >>> loss_crossing_step(torch.diag(torch.tensor([4.0, 0.1])), torch.diag(torch.tensor([2.0, 1.0])), y, 0.1,
    ...                    init_cov="zero")
    2
    """
    first, second = (_loss(kernel, y, eta, init_cov, name) for name, kernel in (("plain", plain), ("gated", gated)))
    grid = list(range(min(_EVERY, max_steps) + 1))
    while grid[-1] < max_steps:
        grid.append(min(max(grid[-1] + 1, int(grid[-1] * _GROWTH)), max_steps))
    at = torch.tensor(grid, dtype=torch.float64, device=y.device)
    ahead, behind = first(at), second(at)
    gap = (behind - ahead) / torch.maximum(ahead, behind).clamp_min(torch.finfo(torch.float64).tiny)
    above = False
    for place, (step, sign) in enumerate(zip(grid, gap.tolist(), strict=True)):
        above = above or sign > _SAME
        if above and sign < -_SAME:
            low, high = grid[place - 1], step
            while high - low > 1:
                middle = (low + high) // 2
                k = at.new_tensor([float(middle)])
                low, high = (low, middle) if bool(second(k) < first(k)) else (middle, high)
            return high
    return None


@checked
def loss_phases(kernel: Float[Tensor, "n n"] | NTK, y: Float[Tensor, " n"], eta: Positive) -> LossPhases:
    """How fast gradient descent starts, and how fast it ends.

    Of two nets with one η, the one with the larger Yᵀ K Y is ahead at first, the one with the larger λ_min at last.

    Args:
        kernel: as in `expected_gd_loss`.
        y: (n,) targets.
        eta: step, below 2/λ_max.

    Raises:
        ValueError: on a bad argument, by name; if η is too large, with the bound.

    >>> loss_phases(torch.diag(torch.tensor([2.0, 1.0])), torch.ones(2), 0.5).late_rate
    0.25
    """
    values, vectors = _decomposed("kernel", kernel, y, eta)
    form = float((values * (vectors.T @ y.detach().double()).square()).sum())
    return LossPhases(form, -eta / len(y) * form, (1 - eta * float(values[0])) ** 2, 2 / float(values[-1]))


def _decomposed(name: str, kernel: Tensor | NTK, y: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    matrix = kernel.ntk if isinstance(kernel, NTK) else kernel
    if len(matrix) != len(y):
        raise ValueError(f"y must have a value for each of the {len(matrix)} samples of {name}, got {len(y)}")
    values, vectors = torch.linalg.eigh(symmetric(name, matrix))
    values = values.clamp_min(0)
    most = float(values[-1])
    if most <= 0:
        raise ValueError(f"{name} is zero, so nothing is learned; look at the inputs and the weights")
    if eta >= 2 / most:
        raise ValueError(f"eta={eta:g} diverges: eta must be < 2/lambda_max = {2 / most:.6g} of {name}")
    return values, vectors


def _loss(
    kernel: Tensor | NTK, y: Tensor, eta: float, init_cov: InitCov | Tensor, name: str = "kernel"
) -> Callable[[Tensor], Tensor]:
    """Step → expected mean loss: Σ_i (1 − η λ_i)^{2k} s_i over eigenvalues, with weights s_i."""
    values, vectors = _decomposed(name, kernel, y, eta)
    weights = (vectors.T @ y.detach().double()).square()
    if isinstance(init_cov, Tensor):
        covariance: Tensor | None = symmetric("init_cov", init_cov)
    elif init_cov == "nngp":
        if not isinstance(kernel, NTK):
            raise ValueError(
                f"init_cov='nngp' needs both kernels of {name}, as two_layer_ntk gives them; pass these, a matrix as "
                "init_cov, or init_cov='zero'"
            )
        covariance = symmetric(name, kernel.nngp)
    else:
        covariance = symmetric(name, kernel.ntk if isinstance(kernel, NTK) else kernel) if init_cov == "ntk" else None
    if covariance is not None:
        weights = weights + ((vectors.T @ covariance) * vectors.T).sum(1)
    shrink = eta * values
    # log1p keeps the digits of small steps; beyond 1/2 nothing cancels.
    rates = torch.where(shrink < 0.5, torch.log1p(-shrink.clamp_max(0.5)), (1 - shrink).abs().log())

    def loss(steps: Tensor) -> Tensor:
        powers = torch.where(steps[:, None] == 0, torch.zeros(()).double(), 2 * steps[:, None] * rates)
        return powers.exp() @ weights / (2 * len(y))

    return loss
