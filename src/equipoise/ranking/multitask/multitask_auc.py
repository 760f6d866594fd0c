"""A ranking for every user, from few labels each: shared taste, groups of users, and personal exceptions.

    score of item x for user u: x · w_u        W = θ 1ᵀ + G + P   (d × users)

    min  Σ_u L_u(w_u)  +  λ₁ ‖θ‖²  +  λ₂ Σ_{i > κ} σ_i(G)²  +  λ₃ Σ_u ‖P_u‖
    L_u(w) = 1/(n₊ n₋) Σ_p Σ_q ½ (1 − w·(x_p − x_q))²

θ is what all agree on, G is nearly of rank κ (κ groups), and P is zero for users without a taste of their own. The
pairs are never listed: with class means m, class covariances S (divided by n) and c = m₊ − m₋,

    L_u(w) = ½ wᵀ A w − cᵀ w + ½        A = S₊ + S₋ + c cᵀ        gradient A w − c

so that a step costs O(users · d²) whatever the number of labels. Plain proximal steps never raise the objective,
although the spectral penalty is not convex.

Yang et al., "Learning Personalized Attribute Preference via Multi-task AUC Optimization", AAAI 2019, arXiv 1906.07341.
λ₂ and λ₃ are named as in the paper; the authors' code exchanges them, and G and P.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from equipoise.core.distributed import gather_batch
from equipoise.core.pairs.autograd import FirstOrder
from equipoise.core.pairs.quadratic import auc_quadratic_form
from equipoise.core.reduction import attached_zero
from equipoise.core.signature import checked
from equipoise.core.solvers.proximal import Point
from equipoise.core.types import BinaryTarget, NonNegative, Scalar, Scores, Values, Whole
from equipoise.core.validate import warn_once

Users: TypeAlias = Integer[Tensor, " n"]
# Each user has a number of samples of their own.
OwnTarget: TypeAlias = Annotated[Integer[Tensor, " _"] | Bool[Tensor, " _"], Values(((0, "negative"), (1, "positive")))]
Reduction: TypeAlias = Literal["mean", "sum"]


class MultiTaskObjective(NamedTuple):
    """The parts of the multi-task objective, scalars.

    Attributes:
        loss: Σ_u L_u, differentiable in θ, G and P.
        penalty: the three penalties.
        objective: their sum.
    """

    loss: Tensor
    penalty: Tensor
    objective: Tensor


@checked
def multitask_auc_objective(
    features: Sequence[Float[Tensor, "_ d"]],
    targets: Sequence[OwnTarget],
    theta: Float[Tensor, " d"],
    G: Float[Tensor, "d users"],
    P: Float[Tensor, "d users"],
    *,
    lambda_theta: NonNegative,
    lambda_group: NonNegative,
    lambda_personal: NonNegative,
    kappa: Whole,
) -> MultiTaskObjective:
    """The objective at given variables.

    Args:
        features: (n_u, d) of each user.
        targets: (n_u,) of each user, in {0, 1}; a user with one class adds no loss.
        theta: (d,) the shared part.
        G: (d, users) the group part.
        P: (d, users) the personal part.
        lambda_theta: λ₁.
        lambda_group: λ₂.
        lambda_personal: λ₃.
        kappa: singular values of G that are free.

    Raises:
        ValueError: if features and targets are not one per user.

    >>> x, y = torch.eye(2), torch.tensor([1, 0])
    >>> zero = torch.zeros(2, 1)
    >>> values = dict(lambda_theta=1.0, lambda_group=1.0, lambda_personal=1.0, kappa=1)
    >>> multitask_auc_objective([x], [y], zero[:, 0], zero, zero, **values).objective
    tensor(0.5000)
    """
    weights = theta[:, None] + G + P
    dimension, users = weights.shape
    if {len(features), len(targets)} != {users} or {x.shape[1] for x in features} != {dimension}:
        raise ValueError(f"features and targets must be those of {users} users, features with {dimension} columns")
    terms = []
    for x, y, w in zip(features, targets, weights.T, strict=True):
        if not 0 < int((y == 1).sum()) < len(y):
            # No pairs, no loss; the penalties still see this user.
            continue
        form = auc_quadratic_form(x, y)
        wide = w.double()
        terms.append(wide @ form.A @ wide / 2 - form.c @ wide + 0.5)
    loss = (torch.stack(terms).sum() if terms else attached_zero(weights)).to(weights.dtype)
    penalty = multitask_penalty((theta, G, P), lambda_theta, lambda_group, lambda_personal, kappa)
    return MultiTaskObjective(loss, penalty, loss + penalty)


@checked
def multitask_auc_loss(scores: Scores, target: BinaryTarget, user: Users, *, reduction: Reduction = "mean") -> Scalar:
    """The square AUC loss of every user, each over their own pairs, in O(n): for scores of any model.

        L_u = ½ [ (1 − m₊ + m₋)² + var₊ + var₋ ]       of the scores of user u

    Args:
        scores: (n,) scores.
        target: (n,) in {0, 1}.
        user: (n,) whose label it is, any integers.
        reduction: "mean" or "sum" over the users who have both classes.

    Returns:
        The loss, which can be differentiated once; users with one class have no pairs and are left out. Zero, still
        attached to the graph, where nobody has both (warned once).

    >>> user = torch.tensor([7, 7, 3, 3, 5])
    >>> multitask_auc_loss(torch.tensor([1.0, 0.0, 0.0, 1.0, 9.0]), torch.tensor([1, 0, 1, 0, 1]), user)
    tensor(1.)
    """
    place, users = _places(user)
    # Segment 2u holds the negatives of user u and 2u + 1 the positives.
    value, ranked = _UserMoments.apply(scores, torch.add(target.long(), place, alpha=2), users)
    if not int(ranked):
        warn_once("the multi-task AUC loss is zero: no user of the batch has both classes")
        return attached_zero(scores)
    return (value / ranked if reduction == "mean" else value).to(scores.dtype)


class _UserMoments(torch.autograd.Function):
    """The sum of the users' losses and how many they are; the gradient is found with the value.

    With m the mean of its segment, a positive of user u has the gradient (s_i − m₊)/n₊ − (1 − m₊ + m₋)/n₊ and a
    negative (s_i − m₋)/n₋ + (1 − m₊ + m₋)/n₋. The variances of all users are one sum over samples, Σ (s_i − m)²/n.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, segment: Tensor, users: int) -> tuple[Tensor, Tensor]:
        # What all scores have in common cancels in every pair.
        wide = scores.detach().double() - scores.detach()[0]
        count = torch.bincount(segment, minlength=2 * users).view(users, 2)
        both = (count > 0).all(1)
        share = 1 / count.clamp_min(1).double()
        mean = wide.new_zeros(2 * users).index_add_(0, segment, wide).view(users, 2) * share
        lack = (1 - mean[:, 1] + mean[:, 0]) * both
        rest = wide - mean.flatten().index_select(0, segment)
        gradient = rest * (share * both[:, None]).flatten().index_select(0, segment)
        value = (lack.square().sum() + torch.dot(gradient, rest)) / 2
        gradient += (torch.stack([lack, -lack], 1) * share).flatten().index_select(0, segment)
        ctx.save_for_backward(scores, gradient)
        ranked = both.sum()
        ctx.mark_non_differentiable(ranked)
        return value, ranked

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        scores, gradient = ctx.saved_tensors
        return (*FirstOrder.apply(lambda g: ((gradient * g).to(scores.dtype),), upstream[0], scores), None, None)


class MultiTaskAUCLoss(nn.Module):
    """`multitask_auc_loss` as a module, for a shared backbone with many users.

    It needs to know whose label each is, so it is no objective of `equipoise fit`, which sees one table.

    Args:
        reduction: as in `multitask_auc_loss`.
        gather: take the labels of all processes of torch.distributed; see `core.distributed`.

    >>> generator = torch.Generator().manual_seed(0)
    >>> x, user = torch.randn(400, 3, generator=generator), torch.arange(400) % 4
    >>> y = (x[torch.arange(400), user % 2] > 0.5).long()
    >>> model, loss = torch.nn.Linear(3, 4), MultiTaskAUCLoss()
    >>> optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    >>> start = loss(model(x)[torch.arange(400), user], y, user).item()
    >>> for _ in range(60):
    ...     optimizer.zero_grad()
    ...     loss(model(x)[torch.arange(400), user], y, user).backward()
    ...     optimizer.step()
    >>> loss(model(x)[torch.arange(400), user], y, user).item() < start / 2
    True
    """

    @checked
    def __init__(self, reduction: Reduction = "mean", *, gather: bool = False) -> None:
        super().__init__()
        self.reduction, self.gather = reduction, gather

    def forward(self, scores: Scores, target: BinaryTarget, user: Users) -> Scalar:
        """The loss of scores (n,) by targets (n,) and users (n,)."""
        if self.gather:
            scores, target, gathered = gather_batch(scores, target, user)
            user = user if gathered is None else gathered
        return multitask_auc_loss(scores, target, user, reduction=self.reduction)


def _places(user: Tensor) -> tuple[Tensor, int]:
    """Whole numbers from 0 for the users, and how many; small ids are taken as they are, which spares a sort."""
    if len(user):
        least, most = (int(v) for v in user.aminmax())
        if least >= 0 and most < 4 * len(user):
            return user.long(), most + 1
    known, place = torch.unique(user, return_inverse=True)
    return place, max(1, len(known))


def multitask_penalty(
    point: Point, lambda_theta: float, lambda_group: float, lambda_personal: float, kappa: int
) -> Float[Tensor, ""]:
    """λ₁ ‖θ‖² + λ₂ Σ_{i > κ} σ_i(G)² + λ₃ Σ_u ‖P_u‖ at a point (θ, G, P)."""
    theta, group, personal = point
    tail = torch.linalg.svdvals(group)[kappa:].square().sum()
    return lambda_theta * theta.square().sum() + lambda_group * tail + lambda_personal * personal.norm(dim=0).sum()
