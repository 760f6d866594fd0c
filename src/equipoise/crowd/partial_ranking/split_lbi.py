r"""Split linearized Bregman iterations: a path along which people leave the consensus one by one.

The scores of user u are c + P_u, the threshold c_λ + p_u. A sparse twin Γ stays near the dense deviations; its dual Z
gathers what the data say until the group of a user, all scores and the threshold together, is longer than 1 and Γ_u
leaves 0:

    (c, c_λ)  ←  (c, c_λ) − α_c ∇L
    (P, p)    ←  (P, p) − κα (∇L + ((P, p) − Γ) / ν)
    Z         ←  Z − α (Γ − (P, p)) / ν
    Γ_u       ←  κ max(0, 1 − 1 / |Z_u|₂) Z_u

and every threshold is brought back to at least `threshold_min` on the way. Time is the sum of the steps α and plays the
part of one over the penalty of a lasso; Γ is 0 at first. The paper writes the loss L as a mean over all answers
(`scale="mean"`, α_c = κα), under which a user's gradient, and so time, depends on how many users there are.
`scale="per_user"` multiplies L by the number of users and gives the consensus a step of its own: the same order of
users in far fewer steps.

Xu et al., "iSplit LBI", NeurIPS 2019, equations (9a) to (9d), in the order of the authors' code; the thresholds are
projected as the constraints say, which the code does not; "per_user" is derived here.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.signature import check_finite, checked
from equipoise.core.types import Positive, Range
from equipoise.crowd.partial_ranking.tie_model import Link
from equipoise.crowd.partial_ranking.tie_slopes import CURVATURE
from equipoise.crowd.partial_ranking.tie_table import TieTable
from equipoise.data.comparisons.answers import Comparisons

Scale: TypeAlias = Literal["mean", "per_user"]
ThresholdMin: TypeAlias = Annotated[float, Range(0, low_open=True)]


class SplitState(NamedTuple):
    """Where a path stands. Scores come first, the threshold is the last column.

    Attributes:
        common: (items + 1,) consensus.
        personal: (users, items + 1) dense deviations.
        dual: (users, items + 1) Z.
        gamma: (users, items + 1) Γ.
    """

    common: Float[Tensor, " width"]
    personal: Float[Tensor, "users width"]
    dual: Float[Tensor, "users width"]
    gamma: Float[Tensor, "users width"]

    @classmethod
    def start(cls, common: Float[Tensor, " width"], num_users: int) -> SplitState:
        """Everybody at the consensus.

        >>> SplitState.start(torch.tensor([0.5, -0.5, 1.0]), 2).personal.shape
        torch.Size([2, 3])
        """
        zeros = torch.zeros(3, num_users, len(common), dtype=common.dtype)
        return cls(common.clone(), *zeros.unbind())

    def clone(self) -> SplitState:
        """A copy that shares nothing."""
        return SplitState(*(part.clone() for part in self))


class Steps(NamedTuple):
    """Lengths of a step.

    Attributes:
        time: α.
        common: α_c.
        scale: what the mean loss is multiplied by.
    """

    time: float
    common: float
    scale: float

    def shorter(self, share: float) -> Steps:
        """Steps of a share of the length."""
        return self._replace(time=self.time * share, common=self.common * share)


@checked
def group_shrink(z: Float[Tensor, "users width"], kappa: Positive) -> Float[Tensor, "users width"]:
    """κ max(0, 1 − 1/|z_u|₂) z_u for every row; 0 for a row no longer than 1.

    Args:
        z: (users, width) dual, a group per row.
        kappa: κ, the damping.

    Raises:
        ValueError: on another shape, NaN, or a κ that is not above 0.

    Equation (9d) of the paper.

    >>> group_shrink(torch.tensor([[0.6, 0.8], [3.0, 4.0], [0.0, 0.0]]), 10.0)
    tensor([[ 0.,  0.],
            [24., 32.],
            [ 0.,  0.]])
    """
    return shrunk(z, kappa)


@checked
def split_lbi_step(
    state: SplitState,
    comparisons: Comparisons,
    *,
    nu: Positive = 1.0,
    kappa: Positive = 10.0,
    step: Positive | None = None,
    threshold_min: ThresholdMin = 1e-3,
    link: Link = "logistic",
    scale: Scale = "mean",
    common_step: Positive | None = None,
) -> SplitState:
    """One step along the path; the state that is given stays as it is.

    Args:
        state: where the path stands.
        comparisons: who said what, of the users and items of the state.
        nu: ν, how far the dense deviations may be from Γ.
        kappa: κ, the damping.
        step: α; by default as `default_steps` finds it.
        threshold_min: least threshold of anybody.
        link: noise of the answers.
        scale: "mean", the loss of the paper; "per_user", times the number of users, see the module.
        common_step: α_c; by default κα for "mean", and for "per_user" 0.2 / (users · (|XᵀX|₂ / n + 1)) of n answers.

    Raises:
        ValueError: on a setting out of range; if the state is not of the users and items of the comparisons, or holds
            NaN.

    Equations (9a) to (9d) of the paper, in the order of the authors' code.

    >>> said = Comparisons.from_columns([0, 0, 1], [0, 1, 0], [1, 2, 1], [1, 0, -1])
    >>> state = SplitState.start(torch.tensor([0.0, 0.0, 0.0, 1.0]), 2)
    >>> split_lbi_step(state, said, step=0.1).common
    tensor([0.0000, 0.0000, 0.0000, 0.7963])
    """
    shapes = [(comparisons.num_items + 1,), *[(comparisons.num_annotators, comparisons.num_items + 1)] * 3]
    for (name, part), shape in zip(state._asdict().items(), shapes, strict=True):
        if part.shape != shape:
            raise ValueError(f"state.{name} must have shape {shape}, as the comparisons say, got {tuple(part.shape)}")
        check_finite(f"state.{name}", part)
    table = TieTable(comparisons, link, state.common.dtype)
    steps = default_steps(table, nu, kappa, scale, step)
    if common_step is not None:
        steps = steps._replace(common=common_step)
    found = state.clone()
    advance(found, table, steps, nu, kappa, threshold_min)
    return found


def default_steps(table: TieTable, nu: float, kappa: float, scale: Scale, step: float | None = None) -> Steps:
    """Steps below twice the inverse of the curvature.

    Of "mean", α = 1 / (κ (1 + max_u |D_uᵀD_u|₂ / n + |XᵀX|₂ / n + 1/ν)), as the authors' code. Of "per_user", with U
    users, α = 1 / (κ (U max_u |D_uᵀD_u|₂ / n + 1/ν)) and α_c = 0.2 / (U (|XᵀX|₂ / n + 1)). Links that curve more divide
    the parts of the data.
    """
    curved = max(1.0, CURVATURE[table.link])
    users = table.num_users if scale == "per_user" else 1
    if scale == "mean":
        if step is None:
            norms = table.personal_norm() + table.common_norm()
            step = 1 / (kappa * (1 + curved * norms / table.total + 1 / nu))
        return Steps(step, kappa * step, 1.0)
    if step is None:
        step = 1 / (kappa * (curved * users * table.personal_norm() / table.total + 1 / nu))
    return Steps(step, 0.2 / (curved * users * (table.common_norm() / table.total + 1)), float(users))


def advance(
    state: SplitState,
    table: TieTable,
    steps: Steps,
    nu: float,
    kappa: float,
    threshold_min: float,
    *,
    most_change: float | None = None,
) -> None:
    """One step, in place; `most_change` is the factor by which a threshold may grow or shrink in it.

    The curvature in a threshold λ is that of −log λ wherever there are ties, without a bound; no fixed step is stable
    in it.
    """
    common, personal, dual, gamma = state
    width = common[-1].clone(), personal[:, -1] + common[-1]
    gradient = table.gradient(personal + common).mul_(steps.scale)
    common.sub_(gradient.sum(0), alpha=steps.common)
    if most_change is not None:
        common[-1].clamp_(width[0] / most_change, width[0] * most_change)
    common[-1].clamp_(min=threshold_min)
    gradient.add_(personal - gamma, alpha=1 / nu)
    personal.sub_(gradient, alpha=kappa * steps.time)
    if most_change is not None:
        personal[:, -1].clamp_(width[1] / most_change - common[-1], width[1] * most_change - common[-1])
    personal[:, -1].clamp_(min=threshold_min - float(common[-1]))
    dual.sub_(gamma - personal, alpha=steps.time / nu)
    gamma.copy_(shrunk(dual, kappa))


def shrunk(z: Tensor, kappa: float) -> Tensor:
    """`group_shrink` without its checks."""
    length = z.norm(dim=1, keepdim=True)
    return z * (kappa * (1 - 1 / length.clamp_min(1)))
