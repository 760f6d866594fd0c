r"""Keep the vectors of a user neither in one point nor all over the space.

    δ_u = 1 / (2 C (C − 1)) Σ_{a,b} ‖g_u^a − g_u^b‖² = 1/(C − 1) Σ_c ‖g_u^c − mean‖²
    Ω   = mean_u  max(0, δ₁ − δ_u) + max(0, δ_u − δ₂)                                          "average", the paper

The authors ran something else ("pairwise"): with D_ab the squared distance of two vectors of a user,

    Ω   = mean over (u, a, b)  max(0, δ₁ − D_ab) + max(0, D_ab − δ₂)                           the diagonal counted as 0

a hinge per pair, on a scale twice as large (δ is half the mean of D), less by the factor (C − 1)/C. The published
numbers are those of the second.

Bao et al., "The Minority Matters", NeurIPS 2022, eq. 7, def. 1 and appendix C.6.2; "pairwise" was read in the code.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from equipoise.core.signature import checked
from equipoise.core.types import NonNegative, Values
from equipoise.core.validate import warn_once
from equipoise.data.interactions.matrix import check_indices
from equipoise.recsys.metric_learning.distance import UserVectors, VectorCounts, check_vector_counts, unused_vectors

Variant: TypeAlias = Literal["average", "pairwise"]


class Diversity(NamedTuple):
    """What `diversity_control` returns.

    Attributes:
        loss: Ω, a scalar.
        diversity: δ_u, (users,), without gradient.
    """

    loss: Tensor
    diversity: Tensor


@checked
def diversity_control(
    user: UserVectors,
    delta1: NonNegative = 0.05,
    delta2: NonNegative = 0.25,
    variant: Variant = "average",
    *,
    num_vectors: VectorCounts | None = None,
) -> Diversity:
    """The penalty on users whose vectors are too close together or too far apart, and how far apart they are.

    Args:
        user: (users, C, d).
        delta1: δ₁, below which a user is penalised.
        delta2: δ₂, above which a user is penalised; at least δ₁.
        variant: "average", the paper's, or "pairwise", the authors' code.
        num_vectors: (users,) how many of the C vectors a user has; all by default. A user with one adds nothing and
            stays in the mean.

    Returns:
        The penalty and δ of each user.

    Raises:
        ValueError: on a bad argument, by name; if δ₁ > δ₂.

    >>> diversity_control(torch.tensor([[[0.0, 0.0], [1.0, 0.0]]]))
    Diversity(loss=tensor(0.2500), diversity=tensor([0.5000]))
    """
    if delta1 > delta2:
        raise ValueError(f"delta1={delta1} must not exceed delta2={delta2}")
    users, most, _ = user.shape
    check_vector_counts(num_vectors, most)
    if num_vectors is None:
        num_vectors = torch.full((users,), most, device=user.device)
    unused = unused_vectors(num_vectors, most)
    several, owned = num_vectors > 1, num_vectors.to(user.dtype)
    vectors = user.masked_fill(unused[:, :, None], 0.0)
    centred = (vectors - (vectors.sum(1) / owned[:, None])[:, None]).masked_fill(unused[:, :, None], 0.0)
    spread = centred.square().sum((1, 2)) / (owned - 1).clamp_min(1)
    if variant == "average":
        outside = (delta1 - spread).relu() + (spread - delta2).relu()
    else:
        gaps = (vectors[:, :, None] - vectors[:, None]).square().sum(-1)
        away = (delta1 - gaps).relu() + (gaps - delta2).relu()
        skipped = unused[:, :, None] | unused[:, None] | torch.eye(most, dtype=torch.bool, device=user.device)
        outside = away.masked_fill(skipped, 0.0).sum((1, 2)) / owned.square()
    return Diversity(outside.masked_fill(~several, 0.0).mean(), spread.detach())


class DiversityControl(nn.Module):
    """`diversity_control` as a module.

    Args:
        delta1: as in `diversity_control`.
        delta2: as in `diversity_control`.
        variant: as in `diversity_control`.

    >>> control = DiversityControl(delta1=0.1, delta2=0.5)
    >>> vectors = torch.zeros(3, 2, 4, requires_grad=True)
    >>> control(vectors)
    tensor(0.1000, grad_fn=<MeanBackward0>)
    """

    @checked
    def __init__(self, delta1: NonNegative = 0.05, delta2: NonNegative = 0.25, variant: Variant = "average") -> None:
        super().__init__()
        if delta1 > delta2:
            raise ValueError(f"delta1={delta1} must not exceed delta2={delta2}")
        self.delta1, self.delta2, self.variant = delta1, delta2, variant

    def forward(self, user: UserVectors, num_vectors: VectorCounts | None = None) -> Float[Tensor, ""]:
        """The penalty of vectors (users, C, d)."""
        return diversity_control(user, self.delta1, self.delta2, self.variant, num_vectors=num_vectors).loss

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return f"delta1={self.delta1}, delta2={self.delta2}, variant={self.variant}"


@checked
def max_sum_dispersion(recommended: Integer[Tensor, "users n"], item: Float[Tensor, "items dim"]) -> Float[Tensor, ""]:
    """How far apart the items of a list are: the sum of squared distances over ordered pairs, averaged over users.

    Args:
        recommended: (users, N) item indices, without the −1 that pads a short list.
        item: (items, d) vectors.

    Raises:
        ValueError: on a bad argument, by name.
        IndexError: if an item has no vector.

    >>> max_sum_dispersion(torch.tensor([[0, 1]]), torch.tensor([[0.0], [3.0]]))
    tensor(18.)
    """
    check_indices("recommended", recommended, len(item))
    vectors = item[recommended.long()]
    # Twice the number times the scatter about the mean, which does not cancel where the items lie far from the origin.
    scatter = (vectors - vectors.mean(1, keepdim=True)).square().sum((1, 2))
    return 2 * recommended.shape[1] * scatter.mean()


@checked
def preference_diversity(
    item_tags: Annotated[
        Integer[Tensor, "n tags"] | Bool[Tensor, "n tags"] | Float[Tensor, "n tags"],
        Values(((0, "absent"), (1, "present"))),
    ],
) -> Float[Tensor, ""]:
    """How different the items are that a user likes: the share of pairs that have no tag in common.

    Args:
        item_tags: (n, tags) of 0 and 1, a row for each item of the user.

    Returns:
        In [0, 1], float64; NaN, with a warning, for fewer than two items.

    Raises:
        ValueError: on a bad argument, by name.

    >>> preference_diversity(torch.tensor([[1, 0], [1, 0], [0, 1]]))
    tensor(0.6667, dtype=torch.float64)
    """
    n = len(item_tags)
    if n < 2:
        warn_once("preference_diversity is NaN for fewer than two items")
        return torch.tensor(torch.nan, dtype=torch.float64, device=item_tags.device)
    disjoint = item_tags.double() @ item_tags.double().T == 0
    disjoint.fill_diagonal_(False)
    return disjoint.sum() / torch.tensor(n * (n - 1), dtype=torch.float64, device=item_tags.device)
