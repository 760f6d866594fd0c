r"""Metric learning against all unobserved items at once, without drawing a sample of them.

With items of constant norm the distance ranks as the score s_ij = 2 u_i·v_j does, and the squared surrogate

    L = mean_i  1/(n⁺_i n⁻_i) Σ_{j observed} Σ_{k not} (λ − (s_ij − s_ik))²

needs moments only. With S₁, S₂ the sums of s and s² over the observed items of a user, T₁ = 2 u·w and T₂ = 4 uᵀG u over
all items (w = Σ v_j, G = VᵀV), and a = S₁/n⁺ − λ,

    L_i = S₂/n⁺ − 2λ S₁/n⁺ + λ² + (T₂ − S₂)/n⁻ − 2a (T₁ − S₁)/n⁻ .

The "gram" kernel never forms users × items: O(I d² + U d² + observed · d). The "dense" kernel does, and is cheaper for
a few users. Both are exact. For one user the minimiser is that of a quadratic, the Fisher discriminant of liked against
other items: new users are folded in without training.

Bao et al., "Rethinking Collaborative Metric Learning: Toward an Efficient Alternative without Negative Sampling", TPAMI
2022/23: the loss was read in the authors' code; the gram kernel, its gradient and the closed form are derived here, the
bound by the total variation is reconstructed from the abstract.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor
from torch.autograd.function import once_differentiable

from equipoise.core.reduction import Reduction, reduce_losses
from equipoise.core.signature import checked
from equipoise.core.types import NonNegative, Positive, Range, Values
from equipoise.core.validate import warn_once
from equipoise.data.interactions.matrix import Interactions

Observed: TypeAlias = (
    Annotated[
        Integer[Tensor, "users items"] | Bool[Tensor, "users items"] | Float[Tensor, "users items"],
        Values(((0, "not observed"), (1, "observed"))),
    ]
    | Interactions
)
Kernel: TypeAlias = Literal["auto", "dense", "gram"]
# Pairs of which the vectors are gathered at once.
_PIECE = 1 << 15


@checked
def sfcml_loss(
    user: Float[Tensor, "users dim"],
    item: Float[Tensor, "items dim"],
    positive: Observed,
    margin: NonNegative = 1.0,
    *,
    kernel: Kernel = "auto",
    reduction: Reduction = "mean",
) -> Float[Tensor, ""] | Float[Tensor, " users"]:
    """The square loss over all pairs of an observed and an unobserved item, by scores 2 u·v.

    Args:
        user: (users, d).
        item: (items, d). It ranks as the distance does if all items have the same norm.
        positive: (users, items) of 0 and 1, or `Interactions` with a row for each of the users.
        margin: λ; 0 has its minimum where all scores are equal, and warns.
        kernel: "dense", "gram", or "auto" for the one that costs less here.
        reduction: "mean" over the users that have both kinds of items, "sum", or "none" for (users,) with zeros for the
            others.

    Raises:
        ValueError: on a bad argument, by name, or if no user has both observed and unobserved items.

    >>> item = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> sfcml_loss(torch.tensor([[1.0, 0.0]]), item, torch.tensor([[1, 0]]))
    tensor(1.)
    """
    observed = as_interactions(positive).to(user.device)
    if (observed.num_users, observed.num_items) != (len(user), len(item)):
        raise ValueError(
            f"positive has {observed.num_users} × {observed.num_items} cells, there are {len(user)} users and "
            f"{len(item)} items"
        )
    if margin == 0:
        warn_once("with margin=0 the sampling-free loss is least where all scores are equal")
    taken = observed.per_user
    counted = (taken > 0) & (taken < len(item))
    if not bool(counted.any()):
        raise ValueError("no user has both observed and unobserved items")
    if kernel == "auto":
        width = user.shape[1]
        gram = len(item) * width + len(user) * width + len(observed)
        kernel = "gram" if gram < len(user) * len(item) else "dense"
    if kernel == "dense":
        losses = _dense_losses(user, item, observed, margin)
    else:
        losses = _GramLosses.apply(user, item, observed, margin)
    return reduce_losses(losses, reduction, mask=counted)


class UserSolution(NamedTuple):
    """What `sfcml_user_solution` returns.

    Attributes:
        user: (d,) the vector of the user.
        loss: its loss, without the ridge.
    """

    user: Tensor
    loss: Tensor


@checked
def sfcml_user_solution(
    item: Float[Tensor, "items dim"],
    positive: Annotated[
        Integer[Tensor, " items"] | Bool[Tensor, " items"], Values(((0, "not observed"), (1, "observed")))
    ],
    margin: Positive = 1.0,
    *,
    ridge: NonNegative = 0.0,
    norm: Positive | None = None,
) -> UserSolution:
    """The vector that is best for one user while the items stay where they are, in closed form.

        A u = b,  A = 4 (Σ⁺ + Σ⁻ + ΔΔᵀ + ridge I),  b = 2λΔ          Δ = mean observed − mean other, Σ± covariances

    Args:
        item: (items, d).
        positive: (items,) of 0 and 1.
        margin: λ.
        ridge: minimises the loss + 4 · ridge · ‖u‖².
        norm: if given, the minimiser among vectors of this norm.

    Returns:
        The vector and its loss. Where A is singular, the shortest minimiser.

    Raises:
        ValueError: on a bad argument, by name, or if one kind of items is missing.

    >>> item = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> sfcml_user_solution(item, torch.tensor([1, 0, 0])).user
    tensor([0.5000, 0.0000])
    """
    observed = positive == 1
    if not bool(observed.any()) or bool(observed.all()):
        raise ValueError("positive must have both observed and unobserved items")
    wide = item.double()
    liked, other = wide[observed], wide[~observed]
    gap = liked.mean(0) - other.mean(0)
    scatter = torch.outer(gap, gap)
    for group in (liked, other):
        centred = group - group.mean(0)
        scatter = scatter + centred.T @ centred / len(group)
    quadratic = 4 * (scatter + ridge * torch.eye(len(gap), dtype=wide.dtype, device=wide.device))
    linear = 2 * margin * gap
    if norm is None:
        vector = torch.linalg.pinv(quadratic, rtol=1e-12, hermitian=True) @ linear
    else:
        vector = _on_the_sphere(quadratic, linear, norm)
    loss = vector @ (4 * scatter) @ vector - 2 * linear @ vector + margin**2
    return UserSolution(vector.to(item.dtype), loss.to(item.dtype))


@checked
def sampling_total_variation(
    prob: Annotated[Float[Tensor, " items"], Range(0, 1)],
    reference: Annotated[Float[Tensor, " items"], Range(0, 1)] | None = None,
) -> Float[Tensor, ""]:
    """How far a sampler of negatives is from the distribution it stands for: ½ Σ |p − p₀|.

    An expectation of losses in [0, b] under the sampler differs from that under the reference by at most b times this.

    Args:
        prob: (items,) chances of the items that the user has not observed, with sum 1.
        reference: (items,) what they should be; uniform by default.

    Raises:
        ValueError: on a bad argument, by name; if a sum is not 1.

    >>> sampling_total_variation(torch.tensor([0.75, 0.25]))
    tensor(0.2500)
    """
    for name, given in (("prob", prob), ("reference", reference)):
        if given is not None and abs(float(given.double().sum()) - 1) > 1e-4:
            raise ValueError(f"{name} must have the sum 1, got {float(given.double().sum()):g}")
    target = torch.full_like(prob, 1 / len(prob)) if reference is None else reference
    return (prob.double() - target.double()).abs().sum().to(prob.dtype) / 2


def as_interactions(positive: Tensor | Interactions) -> Interactions:
    """A dense matrix of 0 and 1 as `Interactions`."""
    if isinstance(positive, Interactions):
        return positive
    rows, columns = positive.nonzero(as_tuple=True)
    counts = torch.bincount(rows, minlength=len(positive))
    return Interactions(torch.cat([counts.new_zeros(1), counts.cumsum(0)]), columns, positive.shape[1])


def _dense_losses(user: Tensor, item: Tensor, observed: Interactions, margin: float) -> Tensor:
    """With e = s − λ[observed]: mean⁺(e²) + mean⁻(e²) − 2 mean⁺(e) mean⁻(e)."""
    mask = observed.dense(torch.arange(len(user), device=user.device))
    with torch.autocast(user.device.type, enabled=False):
        gaps = 2 * user @ item.T - margin * mask
    sums = []
    away, taken = ~mask, observed.per_user
    for left_out, count in ((away, taken), (mask, observed.num_items - taken)):
        kept = gaps.masked_fill(left_out, 0.0)
        share = count.clamp_min(1).to(gaps.dtype)
        sums.append((kept.square().sum(1) / share, kept.sum(1) / share))
    (square_in, mean_in), (square_out, mean_out) = sums
    losses: Tensor = square_in + square_out - 2 * mean_in * mean_out
    return losses


class _GramLosses(torch.autograd.Function):
    """The loss of each user by moments; its gradient by hand, since autograd would keep a vector per observed pair."""

    @staticmethod
    def forward(ctx: Any, user: Tensor, item: Tensor, observed: Interactions, margin: float) -> Tensor:
        wide = torch.float64 if user.device.type != "mps" else torch.float32
        rows, columns = observed.users, observed.items
        # Totals less the observed part: in float32 nothing would be left of a user who has nearly everything.
        users, items = user.to(wide), item.to(wide)
        pieces = zip(rows.split(_PIECE), columns.split(_PIECE), strict=True)
        scores = torch.cat([2 * (users[r] * items[c]).sum(1) for r, c in pieces])
        liked = observed.per_user.to(wide).clamp_min(1)
        others = (observed.num_items - observed.per_user).to(wide).clamp_min(1)
        first, second = (
            torch.zeros(len(user), dtype=wide, device=user.device).index_add_(0, rows, each)
            for each in (scores, scores.square())
        )
        total, turned = items.sum(0), users @ (items.T @ items)
        all_first, all_second = 2 * users @ total, 4 * (turned * users).sum(1)
        offset = first / liked - margin
        other_second = (all_second - second).clamp_min(0)
        losses = second / liked - 2 * margin * first / liked + margin**2
        losses += other_second / others - 2 * offset * (all_first - first) / others
        ctx.save_for_backward(user, item, turned, total, scores)
        ctx.observed = observed
        ctx.slopes = (
            -2 * margin / liked - 2 * (all_first - first) / (liked * others) + 2 * offset / others,
            1 / liked - 1 / others,
            -2 * offset / others,
            1 / others,
        )
        return losses.to(user.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        user, item, turned, total, scores = ctx.saved_tensors
        rows, columns = ctx.observed.users, ctx.observed.items
        first, second, all_first, all_second = (slope * gradient for slope in ctx.slopes)
        each = 2 * (first[rows] + 2 * scores * second[rows])
        size = len(user), len(item)
        pairs = torch.sparse_coo_tensor(
            torch.stack([rows, columns]), each, size, check_invariants=False, is_coalesced=True
        )
        users, items, curve = user.to(each.dtype), item.to(each.dtype), all_second[:, None]
        to_user = pairs @ items + 2 * all_first[:, None] * total + 8 * curve * turned
        to_item = pairs.t() @ users + 2 * (all_first @ users) + 8 * items @ (users.T @ (curve * users))
        return to_user.to(user.dtype), to_item.to(item.dtype), None, None


def _on_the_sphere(quadratic: Tensor, linear: Tensor, norm: float) -> Tensor:
    """The minimiser of uᵀAu − 2bᵀu with ‖u‖ = r: (A + μI) u = b, with μ above −λ₁ from the secular equation."""
    values, basis = torch.linalg.eigh(quadratic)
    turned = basis.T @ linear
    least, scale = float(values[0]), float(values[-1]) or 1.0
    # The norm falls from (possibly) infinity at −λ₁ to below r at this end.
    low, high = -least, float(linear.norm()) / norm - least

    def length(shift: float) -> float:
        return float((turned / (values + shift)).norm())

    edge = low + 1e-12 * scale
    if length(edge) <= norm:
        # The hard case: b has no part along the first direction, which may be added freely.
        free = values > values[0] + 1e-9 * scale
        parts = torch.where(free, turned / (values - least).clamp_min(1e-300), torch.zeros_like(turned))
        rest = max(norm**2 - float(parts.square().sum()), 0.0) ** 0.5
        parts[0] += rest
        return basis @ parts
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if length(middle) > norm else (low, middle)
    vector = basis @ (turned / (values + high))
    return vector * (norm / vector.norm())
